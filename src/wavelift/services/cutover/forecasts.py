"""Forecasts of downtimes, from what the ledger has of a server's runs and of its wave's cutovers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from wavelift.base.domain import ServerFacts
from wavelift.ledger import cutovers, jobs, replication_runs
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.database import Tx
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.rules.forecast import MOST_SAMPLES, P90, Forecast, PastCutover, PastRun, Subject, forecast, quantile
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import RunState

REMEMBERED: Final = timedelta(days=180)
"""Older cutovers say little of the present."""
LOOKED_AT: Final = 50
"""Runs of the server, for how fast it sends: the last whole read should be among them."""
FIRST_CYCLE_S: Final = 3600.0
"""How long a run before the cutover takes if none was recorded. Assumption."""


def forecast_of(
    tx: Tx, plan: ServerPlan, disks: Sequence[int], *, now: datetime, synced: bool = True
) -> tuple[Forecast, bool]:
    """The forecast of a server, and whether runs before the cutover are needed for it.

    :param disks: bytes of each disk.
    :param synced: runs before the cutover are still to come, if the forecast does not fit without them.
    """
    cutover = plan.cutover
    assert cutover is not None
    job = jobs.find_standing(tx, plan.wave, plan.server)
    done = _recorded(tx, job.id) if job is not None else []
    finished = cutovers.finished_since(tx, now - REMEMBERED, wave=plan.wave)
    past = finished[:MOST_SAMPLES]
    method = cutover.ami or (job.ami if job is not None else "import")
    runs = _past_runs(done, {each.run_id: each for each in finished}, others=job is not None and job.ami == method)
    subject = Subject(
        disks=disks,
        since_s=(now - _began(done[0])).total_seconds() if done else None,
        registers=method == "register",
        stop_limit_s=cutover.shutdown.timeout_minutes * 60,
        steps=len(cutover.steps),
        rate=_rate(done),
        initialization_mib_s=cutover.volume_initialization_mib_s,
    )
    times = [_past_cutover(each) for each in past]
    present = forecast(subject, runs, times)
    limit = cutover.downtime_minutes
    if limit is not None and present.reachable_p90_s <= limit * 60:
        return present, False
    if not synced:
        return present, True
    cycle = quantile([one.sync_s + (one.image_s or 0) for one in runs], P90) if runs else FIRST_CYCLE_S
    since = cycle if subject.since_s is None else min(subject.since_s, cycle)
    found = forecast(replace(subject, since_s=since), runs, times)
    fits = limit is not None and found.reachable_p90_s <= limit * 60
    return found.model_copy(update={"before_s": cycle if fits else 2 * cycle}), True  # the second one is made if not


def disks_of(facts: ServerFacts) -> list[int]:
    return [disk.capacity for disk in facts.disks]


def _recorded(tx: Tx, job_id: str) -> list[ReplicationRun]:
    """Runs of the job that have their image, newest first."""
    which = replication_runs.RunFilter(job_id=job_id, states=(RunState.COMPLETED,))
    found = replication_runs.list_runs(tx, which, limit=LOOKED_AT).items
    return sorted((each for each in found if each.recorded_at is not None), key=_began, reverse=True)


def _began(run: ReplicationRun) -> datetime:
    """What changes from here on is of the next run."""
    return run.started_at or run.requested_at


def _past_runs(newest_first: Sequence[ReplicationRun], final: Mapping[str, Cutover], *, others: bool) -> list[PastRun]:
    """Those that sent changes only.

    :param final: id of a run of a cutover's last changes → that cutover. Such a run begins before its source is
        stopped: what counts is the time from then on. And nobody waits for its verification, as others' images do.
    :param others: the images of other runs are made in the same way. They count only if no such run is known.
    """
    found = [_past_run(run, before, final.get(run.id)) for run, before in itertools.pairwise(newest_first)]
    known = {run.id for run in newest_first if run.id in final}
    rate = max((_sends(run) for run in newest_first), default=0.0)
    found = [_with_sent(past, run, rate) for run, past in zip(newest_first, found, strict=False)]
    deltas = [(run.id, past) for run, past in zip(newest_first, found, strict=False) if _is_delta(run)]
    counts = {id for id, _ in deltas} & known or ({id for id, _ in deltas} if others else set())
    return [past if id in counts else replace(past, image_s=None) for id, past in deltas]


def _past_run(run: ReplicationRun, before: ReplicationRun, cutover: Cutover | None) -> PastRun:
    recorded = run.recorded_at or _began(run)
    sends = (cutover.moment("down") if cutover is not None else None) or _began(run)
    return PastRun(
        gap_s=max((_began(run) - _began(before)).total_seconds(), 1.0),
        sync_s=max((recorded - sends).total_seconds(), 0.0),
        image_s=max((run.finished_at - recorded).total_seconds(), 0.0) if run.finished_at else None,
    )


def _sends(run: ReplicationRun) -> float:
    """Bytes per second that a run sent, from its begin to its record: never more than it can send."""
    if not run.bytes_sent or run.recorded_at is None:
        return 0.0
    return run.bytes_sent / max((run.recorded_at - _began(run)).total_seconds(), 1.0)


def _with_sent(past: PastRun, run: ReplicationRun, rate: float) -> PastRun:
    """:param rate: the best of any run: what a run took beyond it does not come from the bytes that it sent."""
    if run.bytes_sent is None or rate <= 0:
        return past
    return replace(past, sent_s=run.bytes_sent / rate)


def _is_delta(run: ReplicationRun) -> bool:
    return all(disk["kind"] == "delta" for disk in (run.result or {}).get("disks", ()))


def _rate(runs: Sequence[ReplicationRun]) -> float | None:
    """Bytes of disk per second that the newest whole read passed."""
    whole = next((run for run in runs if not _is_delta(run)), None)
    if whole is None or whole.recorded_at is None:
        return None
    passed = sum(disk["lineage"]["capacity"] for disk in (whole.result or {}).get("disks", ()))
    return passed / max((whole.recorded_at - _began(whole)).total_seconds(), 1.0) or None


def _past_cutover(known: Cutover) -> PastCutover:
    return PastCutover(
        stop_s=_between(known, "stopping", "down"),
        launch_s=_between(known, "image", "launched"),
        check_s=_between(known, "launched", "checked"),
        switch_s=_between(known, "checked", "switched"),
    )


def _between(known: Cutover, first: str, last: str) -> float | None:
    begins, ends = known.moment(first), known.moment(last)
    return (ends - begins).total_seconds() if begins and ends and ends >= begins else None
