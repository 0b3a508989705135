"""One replicate run as the control plane sees it: admitted, reserved, recorded, told.

Every function is one step of the replicate DAG: it may be called again after a crash, a retry or a clear, and then
finds what it made before (invariant 5). The making of AMIs is in :mod:`wavelift.services.replication_image`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from wavelift.base.errors import PermanentError, SpecError
from wavelift.base.names import snapshot_name
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import DagRun, Ledger, SlotKind, SnapshotState, SourceServer, connectors, lineage, waves
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.ledger.slots import list_slots
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.replication import RunState
from wavelift.services import admission, replication
from wavelift.services.admission import Granted, IsRunAlive
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import (
    AdmittedRuns,
    ReplicationMode,
    ReservedRun,
    TurnedDown,
)
from wavelift.services.replication import RefusedServer, TermNotice
from wavelift.services.replication_requests import DELETE, VERIFY, jobs_to_delete, runs_to_verify

MODE: Final = "replicate"
KEYS: Final = {
    MODE: ("mode", "servers", "note"),
    DELETE: ("mode", "jobs", "note"),
    VERIFY: ("mode", "runs", "jobs", "note"),
}
"""What the conf of a run may say, by its mode."""
CANCELLED: Final = "cancelled on request"
PLACES: Final = {
    SlotKind.NFC_HOST: "ESXi host",
    SlotKind.NFC_VCENTER: "the NFC sessions of vCenter",
    SlotKind.TRANSFER: "connector",
}
"""Where a transfer needs slots, in words."""


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
    mode = _mode(request)
    servers = _servers(request)
    known = waves.find_wave_run(ledger, request.run)
    wave = ResolvedWave.load(known.spec) if known else load(request.wave)
    if mode != MODE:
        admitted = AdmittedRuns(
            wave=wave.model_copy(update={"servers": ()}),
            dag_id=request.run.dag_id,
            run_id=request.run.dag_run_id,
            requested_by=request.requested_by,
            scheduled=False,
            mode=mode,
            jobs=jobs_to_delete(ledger, request.wave, _given(request)) if mode == DELETE else (),
            recorded=runs_to_verify(ledger, request.wave, _given(request)) if mode == VERIFY else (),
        )
        _freeze(ledger, request, wave, mode, clock)
        return admitted
    found = replication.admit_runs(
        ledger,
        request.wave,
        request.run,
        scheduled_for=request.scheduled_for,
        servers=servers,
        by=request.requested_by,
        is_run_alive=is_run_alive,
        backfill=request.backfill,
        clock=clock,
    )
    _freeze(ledger, request, wave, mode, clock)
    granted = tuple(each.server for each in found.granted)
    return AdmittedRuns(
        wave=_narrowed(wave, granted),
        dag_id=request.run.dag_id,
        run_id=request.run.dag_run_id,
        requested_by=request.requested_by,
        scheduled=request.scheduled_for is not None,
        granted=granted,
        refused=_told(found.refused),
        skipped=_told(found.skipped),
        finished=tuple(each.server for each in found.finished),
        warnings=tuple(_warning(each) for each in replication.warn_terms(ledger, request.wave, clock=clock)),
    )


def _warning(notice: TermNotice) -> str:
    soon = "a day" if notice.days == 1 else f"{notice.days} days"
    ends = f" ({notice.job.term_ends_at:%Y-%m-%d %H:%M} UTC)" if notice.job.term_ends_at else ""
    return (
        f"{notice.job.server}: the term of its replication ends in less than {soon}{ends}: cut over, or extend it by "
        f"`wavelift jobs extend {notice.job.id}`"
    )


def _freeze(ledger: Ledger, request: ReplicateRequest, wave: ResolvedWave, mode: str, clock: Clock) -> None:
    waves.freeze_wave_run(
        ledger,
        run=request.run,
        wave=request.wave,
        mode=mode,
        requested_by=request.requested_by,
        source="schedule" if request.scheduled_for else "api",
        spec=wave.dump(),
        note=str(request.conf.get("note") or ""),
        clock=clock,
    )


def _given(request: ReplicateRequest) -> dict[str, Any]:
    """The conf without what the form left empty."""
    return {key: value for key, value in request.conf.items() if value is not None}


def _mode(request: ReplicateRequest) -> ReplicationMode:
    """:raises SpecError: for an unknown mode, or a key that the mode does not know."""
    conf = _given(request)
    mode = conf.get("mode", MODE)
    if mode not in KEYS:
        raise SpecError(f"mode is {mode!r}", next_step=f"Allowed are {', '.join(KEYS)}", wave=request.wave)
    unknown = sorted(set(conf) - set(KEYS[mode]))
    if unknown:
        raise SpecError(
            f"The run's conf has unknown keys: {', '.join(unknown)}",
            next_step=f"Allowed in mode {mode} are {', '.join(KEYS[mode])}",
            wave=request.wave,
        )
    return mode  # type: ignore[no-any-return]  # a key of KEYS


def _servers(request: ReplicateRequest) -> list[str] | None:
    value = request.conf.get("servers")
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise SpecError(f"servers is {value!r}", next_step="Give a list of names in quotes, or leave it out for all")
    return value


def _narrowed(wave: ResolvedWave, granted: Collection[str]) -> ResolvedWave:
    """The entries that may hold a granted server. A replica is taken of a running server, and launches nothing."""
    changes = {"launch": "none", "source_power": "leave_running", "allow_twin": False}
    kept = [plan for plan in wave.servers if plan.server in granted]
    if len(kept) < len(granted):  # the others come by folder or tag, whose names are known only to the vCenter
        kept += [plan for plan in wave.servers if plan.selector.many]
    return wave.model_copy(update={"servers": tuple(plan.model_copy(update=changes) for plan in kept)})


def _told(found: Iterable[RefusedServer]) -> tuple[TurnedDown, ...]:
    return tuple(TurnedDown(**each.dump()) for each in found)


# --- the slot -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InQueue:
    """The slots are taken of one of the places that the transfer needs."""

    holder: str
    position: int
    kind: SlotKind
    scope: str
    limit: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has completed: clearing it does nothing."""

    run: str


def reserve(
    ledger: Ledger, task: ServerTask, ctx: RunContext, *, run: DagRun, limit: int, is_run_alive: IsRunAlive
) -> ReservedRun | InQueue | Finished:
    """Ask for a transfer slot, and write the snapshot's intent once it is won (AMP-04, invariant 4).

    A run that failed goes on here when its tasks were cleared.

    :raises RefusedError: when a rule forbids that by now.
    :raises PermanentError: cancelled on request, the connector is in maintenance, or the name stands for another server
        than the one that was replicated.
    """
    id = runs.run_id(ctx.run_key)
    known = runs.get_run(ledger, id)
    if known.state is RunState.COMPLETED:
        return Finished(id)
    known = replication.continue_run(ledger, id, by=str(run), is_run_alive=is_run_alive, clock=ctx.clock)
    check_wanted(known)
    seen = SourceServer.of(task.plan.connection, task.facts)
    replication.remember_server(ledger, known.job_id, seen, by=str(run), clock=ctx.clock)
    if known.snapshot_state is None:
        _check_maintenance(ledger, task.plan.connector, task.name)
    wanted = _wanted_slots(task, limit)
    _give_back(ledger, ctx, keep={(kind, scope) for kind, scope, _ in wanted})
    for kind, scope, count in wanted:
        admission.reclaim(ledger, is_run_alive, kind=kind, scope=scope, clock=ctx.clock)
        found = admission.request_slot(
            ledger,
            kind=kind,
            scope=scope,
            holder=ctx.run_key,
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            limit=count,
            clock=ctx.clock,
        )
        if not isinstance(found, Granted):
            tell(ledger, ctx, f"place {found.position} in the queue of {PLACES[kind]} {scope}")
            return InQueue(ctx.run_key, found.position, kind, scope, count)
    runs.record_intent(ledger, id, name=snapshot_name(ctx.run_key), vm=task.facts.moref, clock=ctx.clock)
    tell(ledger, ctx, "Uploading")
    return ReservedRun(
        server=task.name,
        run=id,
        lineages=lineage.read_lineage(ledger, known.job_id),
        unfinished=tuple(each.run_key for each in runs.unfinished_before(ledger, known)),
    )


def release(
    ledger: Ledger,
    task: ServerTask,
    ctx: RunContext,
    *,
    removed: bool,
    distrusted: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Give the transfer slot back; a run that a person cancelled before it was recorded ends here.

    :param removed: the snapshot's removal succeeded.
    :param distrusted: key of a disk → why its change tracking is not believed any more, whatever became of the run.
    """
    known = runs.find_run(ledger, runs.run_id(ctx.run_key))
    if known is not None:
        for key, why in distrusted.items():
            replication.quarantine_tracking(ledger, known.id, key, why, clock=ctx.clock)
        if removed and known.snapshot_state is SnapshotState.INTENDED:
            runs.record_snapshot_removed(ledger, known.id, clock=ctx.clock)
        if known.cancel_requested and known.recorded_at is None:
            replication.mark_cancelled(ledger, known.id, CANCELLED, clock=ctx.clock)
    _give_back(ledger, ctx)


def _wanted_slots(task: ServerTask, limit: int) -> list[tuple[SlotKind, str, int]]:
    """Everywhere that the transfer needs a slot, with the count there. All take them in this order, so that no two
    wait for each other; the connector's comes last, since it is the one that others wait for wherever they read.
    """
    wanted = [(SlotKind.TRANSFER, task.plan.connector, limit)]
    if (nfc := task.nfc) is not None:
        wanted = [
            (SlotKind.NFC_HOST, f"{nfc.vcenter}/{nfc.host}", nfc.per_host),
            (SlotKind.NFC_VCENTER, nfc.vcenter, nfc.per_vcenter),
            *wanted,
        ]
    return wanted


def _give_back(ledger: Ledger, ctx: RunContext, *, keep: Collection[tuple[SlotKind, str]] = ()) -> None:
    """The slots of this run's transfer; those of a host that the VM has left, too."""
    for kind in PLACES:
        for slot in list_slots(ledger, kind):
            if slot.holder == ctx.run_key and (slot.kind, slot.scope) not in keep:
                admission.release_slot(ledger, kind=slot.kind, scope=slot.scope, holder=slot.holder, clock=ctx.clock)


def tell(ledger: Ledger, ctx: RunContext, status: str, progress_pct: int = 0) -> None:
    """What the list shows of the run."""
    id = runs.run_id(ctx.run_key)
    runs.record_progress(ledger, id, status=status, progress_pct=progress_pct, clock=ctx.clock)


def check_wanted(known: ReplicationRun) -> None:
    """:raises PermanentError: a person cancelled the run."""
    if known.cancel_requested:
        raise PermanentError(
            "The replication run was cancelled on request",
            server=known.server,
            run=known.id,
            next_step="To go on with it after all, wait for its DAG run to end and clear its server.reserve task",
        )


def _check_maintenance(ledger: Ledger, connector: str, server: str) -> None:
    with ledger.read() as tx:
        reason = connectors.in_maintenance(tx, connector)
    if reason is not None:
        raise PermanentError(
            f"The connector is in maintenance: {reason}",
            next_step="Clear the server's task when `wavelift connectors maintenance CONNECTOR --off` was said.",
            connector=connector,
            server=server,
        )
