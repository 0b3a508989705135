"""Giving the way back up: TTLs are restored, and the replication of the server ends.

The source VM is never deleted, images stay, and the rows of the network steps stay as a record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from wavelift.base.domain import Message
from wavelift.base.errors import BusyError, PermanentError, WaveliftError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, WaveRunState, cutovers, jobs, replication_runs, waves
from wavelift.ledger.cutover_records import Cutover, TargetPlace
from wavelift.rules.cutover import CutoverState
from wavelift.rules.flows import REPLICATE
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import JobState
from wavelift.services.cutover.back import Access, Waiting, place_of
from wavelift.services.cutover.plans import plan_of_cutover
from wavelift.services.cutover.prepare import TTL
from wavelift.services.cutover.steps import Waits, go_back, prepared_subject
from wavelift.services.replication.deletion import delete_job
from wavelift.services.replication.jobs import pause_job
from wavelift.services.replication.upkeep import delete_outside

FINALIZABLE: Final = frozenset({CutoverState.SWITCHED, CutoverState.FINALIZING})
_FAILED: Final = "failed"

Backup = Callable[[Cutover, ServerPlan], Waits | None]
"""Makes the backup of an instance whose plan says so. None: it is there."""


class FinalizedServer(Message):
    """How the finalizing of one server ended."""

    server: str
    cutover: str
    state: str
    words: str = ""
    error: str = ""


def no_backup(known: Cutover, plan: ServerPlan) -> Waits | None:
    return None


def finalize(
    ledger: Ledger, access: Access, ids: Collection[str], ctx: RunContext, *, backup: Backup = no_backup
) -> tuple[FinalizedServer, ...] | Waiting:
    """Finalize cutovers; one that fails does not stop the others. Call it again when a wait is over.

    What the last run recorded must have been read back: until then the source is the only proven copy.
    """
    failed: dict[str, str] = dict(ctx.checkpoints.get(_FAILED) or {})
    waits: dict[tuple[str, str], list[str]] = {}
    words: list[str] = []
    for id in (each for each in ids if each not in failed):
        ctx.cancel.check()
        with ledger.read() as tx:
            known = cutovers.get(tx, id)
        place = place_of(ledger, known)
        try:
            found = _finalize(ledger, access, known, ctx, backup)
        except WaveliftError as error:
            if error.retryable and not isinstance(error, BusyError):
                raise
            failed[id] = str(error)
            ctx.checkpoints.set(_FAILED, failed)
            continue
        if found is not None:
            waits.setdefault((place.aws_conn_id, place.region), []).extend(found.waits)
            words.append(f"{known.server}: {found.words}")
    if waits:
        return Waiting({where: tuple(each) for where, each in waits.items()}, tuple(words))
    ctx.checkpoints.delete(_FAILED)
    return tuple(_told(ledger, id, failed.get(id, "")) for id in ids)


def _finalize(ledger: Ledger, access: Access, known: Cutover, ctx: RunContext, backup: Backup) -> Waits | None:
    mine = known.finalize_run == ctx.run.dag_run_id
    if known.state is CutoverState.FINALIZED and mine:
        return None
    if known.state not in FINALIZABLE:
        raise PermanentError(
            f"The cutover is {known.state}: only one that is switched can be finalized",
            next_step="See `wavelift cutover list`",
            cutover=known.id,
        )
    require_verified(ledger, known)
    _refuse_rival(known, ctx)
    plan = plan_of_cutover(ledger, known)
    # Before anything is given up: if it fails, the cutover is still switched, and can be reverted.
    made = backup(known, plan)
    if made is not None:
        return made
    known = _begin(ledger, known, ctx)
    subject = prepared_subject(known.wave, known.server)
    try:
        restored = go_back(ledger, access(place_of(ledger, known)), subject, ctx, kinds=(TTL,))
    except PermanentError as error:
        _stay(ledger, known, error, ctx)
        raise
    if isinstance(restored, Waits):
        return restored
    ended = _end_job(ledger, access, known, plan, ctx)
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        now = cutovers.get(tx, known.id, lock=True)
        words = f"The way back is given up. {ended} The source stays, off and disconnected"
        state = CutoverState.FINALIZED
        cutovers.note_time(
            tx, now, "finalized", at=ctx.clock.now(), by=ctx.requester, state=state, phase=words, error=""
        )
    return None


def require_verified(ledger: Ledger, known: Cutover) -> None:
    """:raises PermanentError: nobody has read back what the last run recorded, or it differs."""
    run = DagRun(REPLICATE.dag_id(known.wave), known.verify_run)
    with ledger.read() as tx:
        found = waves.find(tx, run) if known.verify_run else None
        last = replication_runs.find(tx, known.run_id)
    wrong = last.quarantine if last is not None else ""
    if found is not None and found.state is WaveRunState.COMPLETED and not wrong:
        return
    if wrong:
        why, step = f"what its last run recorded is not what the source held: {wrong}", "Revert the cutover"
    elif not known.verify_run:
        why = "nobody has read back what its last run recorded"
        step = "Clear the report of the run that switched it: it starts that"
    elif found is None or found.state is WaveRunState.RUNNING:
        why = f"what its last run recorded is not read back yet, by run {known.verify_run} of {run.dag_id}"
        step = f"Wait until it has succeeded (is {run.dag_id} paused?), then clear this task"
    else:
        why = f"reading back what its last run recorded failed, in run {known.verify_run} of {run.dag_id}"
        step = "Look at that run. If the content differs, revert; else clear it, and then this task"
    raise PermanentError(f"The way back of {known.server} stays: {why}", next_step=step, cutover=known.id)


def _refuse_rival(known: Cutover, ctx: RunContext) -> None:
    """:raises BusyError: another run finalizes it."""
    mine = known.finalize_run == ctx.run.dag_run_id
    if known.state is not CutoverState.FINALIZING or mine:
        return
    if ctx.liveness.run(DagRun(ctx.run.dag_id, known.finalize_run)):
        raise BusyError("Another run finalizes this cutover", run=known.finalize_run, cutover=known.id)


def _begin(ledger: Ledger, known: Cutover, ctx: RunContext) -> Cutover:
    """From here on there is no way back. :raises PermanentError: a revert began meanwhile."""
    if known.state is CutoverState.FINALIZING and known.finalize_run == ctx.run.dag_run_id:
        return known
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        now = cutovers.get(tx, known.id, lock=True)
        columns = {"state": CutoverState.FINALIZING, "finalize_run": ctx.run.dag_run_id, "error": ""}
        phase = "the way back is given up"
        return cutovers.note_time(tx, now, "finalizing", at=ctx.clock.now(), by=ctx.requester, phase=phase, **columns)


def _stay(ledger: Ledger, known: Cutover, error: PermanentError, ctx: RunContext) -> None:
    """Its TTL could not be restored: nothing is given up yet, and it may be reverted as before."""
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        now = cutovers.get(tx, known.id, lock=True)
        at, state, phase = ctx.clock.now(), CutoverState.SWITCHED, "the way back stays"
        cutovers.apply(tx, now, "finalize_failed", at=at, by=ctx.requester, state=state, phase=phase, error=str(error))


def _end_job(ledger: Ledger, access: Access, known: Cutover, plan: ServerPlan, ctx: RunContext) -> str:
    """End the server's replication as its file says; what was done, in words. Images stay."""
    if not known.job_id:
        return ""
    with ledger.read() as tx:
        job = jobs.get(tx, known.job_id)
    if plan.cutover is not None and plan.cutover.after_finalize == "pause_job":
        if job.state is JobState.ACTIVE:
            pause_job(ledger, job.id, by=ctx.requester, reason=f"{known.id} is finalized", clock=ctx.clock)
        return "Its replication is paused."
    if job.state is not JobState.DELETED:
        delete_job(ledger, job.id, by=ctx.requester, clock=ctx.clock)
        delete_outside(ledger, lambda conn, region: access(TargetPlace(aws_conn_id=conn, region=region)), job.id, ctx)
    return "Its replication is deleted; its images stay."


def _told(ledger: Ledger, id: str, error: str) -> FinalizedServer:
    with ledger.read() as tx:
        known = cutovers.get(tx, id)
    words = "" if error else known.phase
    return FinalizedServer(server=known.server, cutover=id, state=str(known.state), words=words, error=error)


def raise_when_failed(ended: Collection[FinalizedServer]) -> None:
    """:raises PermanentError: naming each server whose way back stays."""
    wrong = [each for each in ended if each.error]
    if wrong:
        raise PermanentError(
            "Not finalized: " + "; ".join(f"{each.server}: {each.error}" for each in wrong),
            next_step="Do what each says, then clear this task",
        )
