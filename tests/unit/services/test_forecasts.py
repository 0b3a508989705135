"""Of which times of recorded runs a forecast is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from wavelift.rules.forecast import Subject, forecast
from wavelift.services.cutover.forecasts import _past_runs

NOON = datetime(2026, 12, 5, 12, tzinfo=UTC)


def run(id: str, began: float, recorded: float, finished: float, kind: str = "delta", sent: int = 0) -> Any:
    begin = NOON + timedelta(minutes=began)
    return SimpleNamespace(
        id=id,
        started_at=begin,
        requested_at=begin,
        recorded_at=begin + timedelta(seconds=recorded),
        finished_at=begin + timedelta(seconds=finished),
        bytes_sent=sent,
        result={"disks": [{"kind": kind}]},
    )


def cutover(down: datetime) -> Any:
    return SimpleNamespace(moment=lambda name: {"down": down}.get(name))


RUNS = [run("final", 120, 100, 130), run("plain", 60, 50, 650), run("seed", 0, 900, 1500, "full")]
FINAL = {"final": cutover(NOON + timedelta(minutes=120, seconds=40))}


def test_a_final_run_counts_from_when_its_source_is_down() -> None:
    final, plain = _past_runs(RUNS, FINAL, others=True)
    assert (final.sync_s, final.image_s) == (60, 30), "the time until the source was down is a phase of its own"
    assert (plain.sync_s, plain.image_s) == (50, None), "its image waited for the verification"


def test_images_of_other_runs_count_only_if_they_are_made_in_the_same_way() -> None:
    (same,) = _past_runs(RUNS[1:], {}, others=True)
    (differs,) = _past_runs(RUNS[1:], {}, others=False)
    assert (same.image_s, differs.image_s) == (600, None)
    assert same.sync_s == differs.sync_s == 50


def test_only_what_the_bytes_explain_grows_with_the_time() -> None:
    seed = run("seed", 0, 100, 110, "full", sent=100_000_000)
    (past,) = _past_runs([run("delta", 60, 50, 60, sent=10_000_000), seed], {}, others=True)
    assert (past.sync_s, past.sent_s) == (50, 10)
    later = forecast(Subject(disks=[1], since_s=3 * past.gap_s), [past], [])
    soon = forecast(Subject(disks=[1], since_s=past.gap_s), [past], [])
    grown = later.reachable_p50_s - soon.reachable_p50_s
    assert round(grown) == 25, "30 s instead of 10 for three times as much; raised, since it is one sample"
