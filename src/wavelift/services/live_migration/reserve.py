"""The point after which HCX may move a run's servers: it is approved, in its window, and all slots are won.

All servers of a run win their slots in one transaction: two runs never hold a half each and wait for each other. The
name of the mobility group is written down before HCX is asked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.base.names import run_hash
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import live_migrations, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.authority import Action
from wavelift.rules.flow import SlotKind
from wavelift.rules.hcx_wave import over
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.rules.live_plans import ResolvedLive
from wavelift.services.common.admit import reopen
from wavelift.services.common.authority import Rights, require_again
from wavelift.services.common.line import words_of
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.common.slots import InQueue, Queued, SlotRequest, win_together
from wavelift.services.dataplane.live_messages import LiveOrder, LiveTask
from wavelift.services.live_migration.approvals import last_yes, require_approved
from wavelift.services.live_migration.plan import LiveTerms
from wavelift.services.live_migration.runs import Load, frozen_live, hcx_has_window, lock_of, lost_of_live, of_run

GROUP_PREFIX: Final = "wavelift-"
NEW_RUN: Final = "Trigger a new run"
_GOES: Final = frozenset({LiveState.WAITING, *IN_HCX})
_LEFT_BEHIND: Final = "HCX has the run's mobility group already, and this server is not in it"


def group_name(ctx: RunContext) -> str:
    """Of the run's mobility group. HCX refuses a second one of the same name: so nothing starts twice."""
    run = ctx.run
    return f"{GROUP_PREFIX}{run_hash(f'{run.dag_id}/{run.dag_run_id}/')}"


def wait_for_window(ledger: Ledger, ctx: RunContext) -> datetime | None:
    """When the run may start, if HCX can't hold its switchover back and its window has not begun; None: now.

    :raises PermanentError: the window is over or too short by now, or no server is left.
    """
    wave, found = of_run(ledger, ctx)
    if any(each.state in IN_HCX for each in found):
        return None
    if not any(each.state is LiveState.WAITING for each in found):
        raise PermanentError("No server of this run is left to migrate", next_step=NEW_RUN, wave=wave.wave)
    now = ctx.clock.now()
    _require_open(wave, now)
    window = wave.window
    return window.start if window is not None and not hcx_has_window(wave) and now < window.start else None


def reserve(
    ledger: Ledger, ctx: RunContext, *, load: Load, rights: Rights, terms: LiveTerms, clear_number: int
) -> LiveOrder | InQueue:
    """Win the slots of all servers, write the intent, and give the order, which still needs its grant.

    Repeated once HCX may have the group, it gives the order for the same servers under the same name again: whoever
    carries it out finds the group.

    :param clear_number: Airflow's, of the run.
    :raises NotApprovedError: nobody has approved this very plan, or not any more.
    :raises PermanentError: the window is over, or no server is left. :raises DeniedError: the requester may not (more).
    """
    require_again(ledger, ctx, Action.MIGRATE, rights=rights)
    reopen(ledger, lost_of_live(load), ctx)
    wave, _ = of_run(ledger, ctx)
    _drop(ledger, wave, ctx)
    going = _going(ledger, ctx)
    queued = win_together(ledger, wanted(wave, going, ctx, terms), ctx, priority=terms.priority)
    if isinstance(queued, Queued) and going[0].state is LiveState.WAITING:
        _tell(ledger, going, words_of(queued), ctx)
        return InQueue(queued.request, words_of(queued))
    begun = _begin(ledger, wave, ctx)
    scheduled = wave.window if hcx_has_window(wave) else None
    return LiveOrder(
        wave=wave.wave,
        manager=wave.environment.hcx.connection,
        group_name=begun[0].group_name,
        tasks=tuple(LiveTask.load(each.before) for each in begun),
        dropped=_dropped(ledger, begun, ctx),
        window_start=scheduled.start if scheduled is not None else None,
        window_end=scheduled.end if scheduled is not None else None,
        accept_warnings=wave.accept_warnings,
        clear_number=clear_number,
    )


def _dropped(ledger: Ledger, begun: Sequence[LiveMigration], ctx: RunContext) -> tuple[str, ...]:
    """Servers that HCX's group of this run may have been made for, and that are not ordered any more."""
    goes = {each.id for each in begun}
    with ledger.read() as tx:
        found = live_migrations.of_dag_run(tx, ctx.run)
    return tuple(
        sorted(each.server for each in found if each.group_name == begun[0].group_name and each.id not in goes)
    )


def wanted(wave: ResolvedLive, going: Sequence[LiveMigration], ctx: RunContext, terms: LiveTerms) -> list[SlotRequest]:
    """The slots of these migrations: of manager and mesh for each that replicates; else one for the run."""
    manager, environment = wave.environment.hcx.connection, wave.environment
    if not hcx_has_window(wave):
        between = f"{environment.source.connection}>{environment.destination.connection}"
        return [SlotRequest(SlotKind.HCX_SERIAL, f"{manager}/{between}", ctx.run_key, 1)]
    return [
        request
        for each in going
        for request in (
            SlotRequest(SlotKind.HCX_MANAGER, manager, each.run_key, terms.of_manager(wave)),
            SlotRequest(SlotKind.HCX_MESH, f"{manager}/{each.mesh}", each.run_key, terms.of_mesh(wave)),
        )
    ]


def _require_open(wave: ResolvedLive, now: datetime) -> None:
    if wave.window is None:
        return
    problem = over(wave.window, now) if hcx_has_window(wave) else None
    if problem is not None:
        raise PermanentError(problem.message, next_step="Trigger a new run with another window", wave=wave.wave)
    asks = last_yes(wave)
    if asks is not None and now >= asks:
        # Started now, a small VM may switch over before HCX is told to end it, and nobody had said yes.
        raise PermanentError(
            f"The switchover had to be approved by {utc_minute(asks)}, and nothing has started yet",
            next_step="Trigger a new run with a later window",
            wave=wave.wave,
        )
    if now >= wave.window.end:
        raise PermanentError(
            f"The window was over at {utc_minute(wave.window.end)}",
            next_step="Trigger a new run with another window",
            wave=wave.wave,
        )


def _drop(ledger: Ledger, wave: ResolvedLive, ctx: RunContext) -> None:
    """Who was cancelled meanwhile goes no further; nor does one that was admitted again after the others went."""
    with ledger.write(lock_of(wave)) as tx:
        found = live_migrations.of_dag_run(tx, ctx.run)
        went = any(each.state in IN_HCX for each in found)
        for each in found:
            if each.state is not LiveState.WAITING:
                continue
            why = CANCELLED if each.cancel_requested else _LEFT_BEHIND if went else ""
            if why:
                columns: dict[str, Any] = {"state": LiveState.ENDED, "error": why}
                live_migrations.apply(tx, each, "left", at=ctx.clock.now(), by=ctx.run, **columns)


def _going(ledger: Ledger, ctx: RunContext) -> list[LiveMigration]:
    """Those that wait, or those that went already."""
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        found = [each for each in live_migrations.of_dag_run(tx, ctx.run) if each.state in _GOES and each.before]
        _require(tx, found, frozen_live(run), ctx)
    return found


def _require(tx: Tx, found: Sequence[LiveMigration], wave: ResolvedLive, ctx: RunContext) -> None:
    if not found:
        raise PermanentError("No server of this run is left to migrate", next_step=NEW_RUN, wave=wave.wave)
    waiting = [each for each in found if each.state is LiveState.WAITING]
    if not waiting:
        return
    now = ctx.clock.now()
    _require_open(wave, now)
    require_approved(tx, waves.get(tx, ctx.run), waiting, now, ctx)
    for each in waiting:
        rivals = [one for one in live_migrations.of_vm(tx, each.instance_uuid) if one.run != ctx.run]
        if any(one.state in IN_HCX for one in rivals):
            raise PermanentError(
                f"HCX may already move this VM: migration {rivals[0].id} of wave {rivals[0].wave}",
                server=each.server,
                next_step="Wait for its end, or cancel it; then trigger a new run",
            )


def _tell(ledger: Ledger, going: Sequence[LiveMigration], words: str, ctx: RunContext) -> None:
    with ledger.write() as tx:
        for each in going:
            if each.phase != words:
                live_migrations.progress(tx, each, percent=each.percent, phase=words, at=ctx.clock.now())


def _begin(ledger: Ledger, wave: ResolvedLive, ctx: RunContext) -> list[LiveMigration]:
    """From here on HCX may have them. All in one transaction, and looked at once more."""
    with ledger.write(lock_of(wave)) as tx:
        now = ctx.clock.now()
        found = [
            each
            for each in live_migrations.of_dag_run(tx, ctx.run)
            if each.state in _GOES and each.before and not (each.cancel_requested and each.state is LiveState.WAITING)
        ]
        _require(tx, found, wave, ctx)
        columns: dict[str, Any] = {"state": LiveState.STARTING, "group_name": group_name(ctx)}
        columns |= {"phase": "HCX is told to start", "error": ""}
        return [
            live_migrations.apply(tx, each, "starting", at=now, by=ctx.run, **columns)
            if each.state is LiveState.WAITING
            else each
            for each in found
        ]
