"""The time of a whole read compared with the allowed age of its snapshot, and the source of the rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavelift.base.domain import DiskFacts, Finding, ServerFacts, Severity
from wavelift.base.rates import FILE, KEPT, measured_rate, note_rate
from wavelift.base.units import GIB, MIB, TIB
from wavelift.rules.plans import Guards, ServerPlan, Target
from wavelift.rules.preflight_time import LineFacts, check_time
from wavelift.rules.wave import Selector

pytestmark = pytest.mark.unit


def _check(capacity: int, line: LineFacts, *, hours: float = 24, mbit: float | None = None) -> list[Finding]:
    disk = DiskFacts(
        key=2000, label="d", capacity=capacity, controller="SCSI", controller_class="x", bus=0, unit=0, backing="x"
    )
    facts = ServerFacts(
        name="db01", moref="vm-1", instance_uuid="", path="/db01", power="poweredOn", guest_id="x", disks=(disk,)
    )
    plan = ServerPlan(
        server="db01", selector=Selector(kind="name", value="db01"), wave="w", connection="c", connector="q",
        target=Target(environment="e", aws_conn_id="a", queue="q", region="r", bucket="b", prefix="", role="vmimport",
                      kms_key=None, encrypt=False, vpc="v"),
        guards=Guards(min_free_pct=10, max_snapshot_hours=hours, max_mbit_s=mbit),
        instance_type="m6i.large", subnet=None,
    )  # fmt: skip
    return check_time(facts, plan, line)


def test_sms_11_a_seed_that_cannot_end_before_its_snapshot_is_too_old_is_a_warning() -> None:
    (found,) = _check(12 * TIB, LineFacts(measured=100 * MIB))
    assert (found.severity, found.code, found.subject) == (Severity.WARNING, "transfer.too_long", "db01")
    assert found.what == (
        "a whole read of its 12.0 TiB takes about 35 h at the 100.0 MiB/s measured on this connector; "
        "max_snapshot_hours is 24"
    )
    assert "max_snapshot_hours: 44" in found.next_action
    (fits,) = _check(12 * TIB, LineFacts(measured=100 * MIB), hours=48)
    assert (fits.severity, fits.code) == (Severity.INFO, "transfer.time")
    assert "35 h" in fits.what
    (never,) = _check(60 * TIB, LineFacts(measured=60 * MIB))
    assert "max_snapshot_hours:" not in never.next_action, "no wave may say so many"


@pytest.mark.parametrize(
    ("line", "mbit"),
    [(LineFacts(limit=10e6), None), (LineFacts(measured=1e9), 80.0), (LineFacts(measured=1e9, limit=10e6), 800.0)],
)
def test_sms_11_a_limit_holds_as_well(line: LineFacts, mbit: float | None) -> None:
    (found,) = _check(2 * TIB, line, mbit=mbit)
    assert found.severity is Severity.WARNING
    assert "9.5 MiB/s that max_mbit_s allows, if the disks are full of data" in found.what


def test_what_is_short_or_not_known_is_not_told() -> None:
    assert _check(12 * TIB, LineFacts()) == []
    assert _check(GIB, LineFacts(measured=100 * MIB)) == []


def test_the_rate_is_the_median_of_the_newest_whole_reads(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert measured_rate(folder) is None
    note_rate(folder, GIB - 1, 1.0)
    assert measured_rate(folder) is None, "too little to measure a line"
    for seconds in (10.0, 1.0, 2.0):
        note_rate(folder, 10 * GIB, seconds)
    assert measured_rate(folder) == 5 * GIB
    for _ in range(KEPT):
        note_rate(folder, 10 * GIB, 100.0)
    assert measured_rate(folder) == GIB / 10, "the line was changed"
    for damaged in ("", "{", "{}", '["x", null]', "[-1, 0]"):
        (folder / FILE).write_text(damaged)
        assert measured_rate(folder) is None
    note_rate(folder, 2 * GIB, 1.0)
    assert measured_rate(folder) == 2 * GIB
    (tmp_path / "file").touch()
    note_rate(tmp_path / "file", GIB, 1.0)  # must not fail the transfer
