"""The admit task of a replicate run: which servers may run, frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wavelift.base.run import Clock
from wavelift.ledger import DagRun, Ledger, waves
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.slots import IsRunAlive
from wavelift.services.dataplane.replication_messages import (
    AdmittedRuns,
)
from wavelift.services.replication.admission import admit_runs
from wavelift.services.replication.jobs import TermNotice, warn_terms
from wavelift.services.replication.requests import jobs_to_delete, runs_to_verify


@dataclass(frozen=True, slots=True)
class ReplicateRequest:
    """What triggered a DAG run.

    :param scheduled_for: the instant of a run that the timetable made; None: on demand.
    """

    run: DagRun
    wave: str
    conf: Mapping[str, Any]
    requested_by: str
    scheduled_for: datetime | None = None
    backfill: bool = False


def admit(
    ledger: Ledger,
    request: ReplicateRequest,
    load: Callable[[str], ResolvedWave],
    *,
    is_run_alive: IsRunAlive,
    clock: Clock,
) -> AdmittedRuns:
    """Check the conf, freeze the spec for the run, and decide which servers may run.

    A repeated call keeps the spec that was frozen first and goes on with the same runs. A run that deletes or verifies
    replicas admits no server. A warning about a term is given once, to the run that comes first (SMS-10).

    :raises SpecError: for an unknown key or value, or a broken spec. :raises PermanentError: for a backfill.
    """
    conf = ReplicateConf.read(request.conf, wave=request.wave)
    with ledger.read() as tx:
        known = waves.find(tx, request.run)
    wave = ResolvedWave.load(known.spec) if known else load(request.wave)
    if conf.mode != "replicate":
        admitted = AdmittedRuns(
            wave=wave.model_copy(update={"servers": ()}),
            dag_id=request.run.dag_id,
            run_id=request.run.dag_run_id,
            requested_by=request.requested_by,
            scheduled=False,
            mode=conf.mode,
            jobs=jobs_to_delete(ledger, request.wave, conf) if conf.mode == "delete" else (),
            recorded=runs_to_verify(ledger, request.wave, conf) if conf.mode == "verify" else (),
        )
        _freeze(ledger, request, wave, conf, clock)
        return admitted
    found = admit_runs(
        ledger,
        request.wave,
        request.run,
        scheduled_for=request.scheduled_for,
        servers=conf.servers,
        by=request.requested_by,
        is_run_alive=is_run_alive,
        backfill=request.backfill,
        clock=clock,
    )
    _freeze(ledger, request, wave, conf, clock)
    granted = tuple(each.server for each in found.granted)
    return AdmittedRuns(
        wave=_narrowed(wave, granted),
        dag_id=request.run.dag_id,
        run_id=request.run.dag_run_id,
        requested_by=request.requested_by,
        scheduled=request.scheduled_for is not None,
        granted=granted,
        refused=found.refused,
        skipped=found.skipped,
        finished=tuple(each.server for each in found.finished),
        warnings=tuple(_warning(each) for each in warn_terms(ledger, request.wave, clock=clock)),
    )


def _warning(notice: TermNotice) -> str:
    soon = "a day" if notice.days == 1 else f"{notice.days} days"
    ends = f" ({notice.job.term_ends_at:%Y-%m-%d %H:%M} UTC)" if notice.job.term_ends_at else ""
    return (
        f"{notice.job.server}: the term of its replication ends in less than {soon}{ends}: cut over, or extend it by "
        f"`wavelift jobs extend {notice.job.id}`"
    )


def _freeze(ledger: Ledger, request: ReplicateRequest, wave: ResolvedWave, conf: ReplicateConf, clock: Clock) -> None:
    with ledger.write(waves.LOCK) as tx:
        waves.freeze_wave_run(
            tx,
            run=request.run,
            wave=request.wave,
            mode=conf.mode,
            requested_by=request.requested_by,
            source="schedule" if request.scheduled_for else "api",
            spec=wave.dump(),
            note=conf.note or "",
            clock=clock,
        )


def _narrowed(wave: ResolvedWave, granted: Collection[str]) -> ResolvedWave:
    """The entries that may hold a granted server. A replica is taken of a running server, and launches nothing."""
    changes = {"launch": "none", "source_power": "leave_running", "allow_twin": False}
    kept = [plan for plan in wave.servers if plan.server in granted]
    if len(kept) < len(granted):  # the others come by folder or tag, whose names are known only to the vCenter
        kept += [plan for plan in wave.servers if plan.selector.many]
    return wave.model_copy(update={"servers": tuple(plan.model_copy(update=changes) for plan in kept)})
