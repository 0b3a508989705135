"""What the service account reaches outside the wave's data centres (SMS-12)."""

from __future__ import annotations

from dataclasses import dataclass

from wavelift.base.domain import Severity
from wavelift.rules.preflight_rights import check_elsewhere


@dataclass(frozen=True)
class Seen:
    path: str
    exports: bool


def test_sms_12_export_elsewhere_is_a_warning_and_sight_a_note() -> None:
    assert check_elsewhere("LAB\\mover", "vc", []) == []
    found = check_elsewhere("LAB\\mover", "vc", [Seen("/dc2", True), Seen("/dc3", False), Seen("/dc4", True)])
    assert [(one.code, one.severity) for one in found] == [
        ("privilege.elsewhere", Severity.WARNING),
        ("privilege.sees_elsewhere", Severity.INFO),
    ]
    assert "/dc2, /dc4" in found[0].what
    assert "/dc3" in found[1].what
    assert all("No access" in one.next_action and one.subject == "*/connection vc" for one in found)
