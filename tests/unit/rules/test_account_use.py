"""The account's places: told in pre-flight when few are left (SMS-10)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wavelift.base.domain import Severity
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.preflight_target import check_account_use

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("in_use", "limit", "told"), [(39, 50, False), (40, 50, True), (50, 50, True), (51, 50, True), (0, 1, False)]
)
def test_sms_10_from_40_of_50_on_pre_flight_tells_it(
    resolved: Callable[..., ResolvedWave], in_use: int, limit: int, told: bool
) -> None:
    target = resolved("web01").servers[0].target
    found = check_account_use(target, in_use, limit)
    assert bool(found) is told
    for each in found:
        assert (each.severity, each.code) == (Severity.WARNING, "account.nearly_full")
        assert f"{in_use} servers" in each.what
        assert target.account in each.what
