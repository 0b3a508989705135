"""Ending in HCX what has not begun to switch over: without a yes before the window, or when somebody wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from wavelift.base.errors import PermanentError, SpecError, TamperedError
from wavelift.base.printable import printable
from wavelift.base.run import RunContext
from wavelift.ledger import live_migrations, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.rules.live_plans import ResolvedLive
from wavelift.services.dataplane.live_messages import Cancelled, CancelledOne, CancelOne, CancelOrder
from wavelift.services.live_migration.runs import frozen_live, of_run

LIST: Final = "List them with `wavelift live list`"
WORDS: Final = {
    "cancelled": "HCX has ended it",
    "asked": "HCX was told to end it, and has not yet",
    "absent": "HCX has no such migration",
    "too_late": "HCX switches it over already: it was not cancelled",
    "over": "HCX had ended with it before it was cancelled",
}
"""Outcome → what the migration says."""
NOT_ENDED: Final = (WORDS["asked"], WORDS["too_late"])
"""How the words begin of what may switch over all the same."""


def chosen(ledger: Ledger, wave: str, ids: Sequence[str]) -> tuple[tuple[LiveMigration, ...], ResolvedLive]:
    """The migrations of these ids, and the wave as the newest of their runs froze it.

    :raises SpecError: one is of another wave, or of another HCX manager than the others.
    :raises PermanentError: HCX moves one of them no more. :raises NotFoundError: there is no such migration.
    """
    with ledger.read() as tx:
        found = tuple(sorted((live_migrations.get(tx, id) for id in dict.fromkeys(ids)), key=lambda each: each.server))
        for each in found:
            if each.wave != wave:
                raise SpecError(
                    f"{each.id} belongs to wave {each.wave}", wave=wave, next_step="Trigger that wave's DAG"
                )
            _require_in_hcx(each)
        newest = max(found, key=lambda each: each.requested_at)
        frozen = frozen_live(waves.get(tx, newest.run))
    managers = {each.manager for each in found}
    if len(managers) > 1:
        words = ", ".join(sorted(managers))
        raise SpecError(f"They are of several HCX managers: {words}", wave=wave, next_step="Trigger one run for each")
    servers = {each.server for each in found}
    plans = tuple(plan for plan in frozen.servers if plan.server in servers)
    return found, frozen.model_copy(update={"servers": plans})


def _require_in_hcx(known: LiveMigration) -> None:
    if known.state not in IN_HCX:
        raise PermanentError(
            f"HCX does not move it: migration {known.id} is {known.state}", server=known.server, next_step=LIST
        )


def ask(ledger: Ledger, found: Sequence[LiveMigration], ctx: RunContext) -> None:
    """Note that somebody wants them to end. May be repeated."""
    with ledger.write(*sorted({live_migrations.lock_name(each.manager) for each in found})) as tx:
        for each in (live_migrations.get(tx, one.id, lock=True) for one in found):
            if not each.cancel_requested:
                live_migrations.apply(
                    tx, each, "cancel_requested", at=ctx.clock.now(), by=ctx.requester, cancel_requested=True
                )


def order_of_run(ledger: Ledger, ctx: RunContext, *, clear_number: int) -> CancelOrder:
    """To end what this run moves."""
    wave, found = of_run(ledger, ctx)
    return _order(wave, [each for each in found if each.state in IN_HCX], clear_number)


def order_of(ledger: Ledger, ids: Sequence[str], ctx: RunContext, *, clear_number: int) -> CancelOrder:
    """To end these migrations, of other runs."""
    with ledger.read() as tx:
        wave = frozen_live(waves.get(tx, ctx.run))
        found = [each for each in (live_migrations.get(tx, id) for id in ids) if each.state in IN_HCX]
    return _order(wave, found, clear_number)


def _order(wave: ResolvedLive, found: Sequence[LiveMigration], clear_number: int) -> CancelOrder:
    return CancelOrder(
        wave=wave.wave,
        manager=wave.environment.hcx.connection,
        servers=tuple(
            CancelOne(
                server=each.server,
                group_name=each.group_name,
                entity_id=each.entity_id,
                group_id=each.group_id,
                migration_id=each.migration_id,
            )
            for each in sorted(found, key=lambda each: each.server)
        ),
        clear_number=clear_number,
    )


def record(ledger: Ledger, came: Cancelled, ids: Sequence[str], ctx: RunContext) -> dict[str, str]:
    """Note what became of migrations of other runs that were to end; server → in words.

    How HCX ended is recorded by the run that follows a migration. Where that run is over, it is recorded here.

    :raises TamperedError: what came by XCom names another server.
    """
    with ledger.read() as tx:
        found = {each.server: each for each in (live_migrations.get(tx, id) for id in ids)}
    for one in came.servers:
        if one.server not in found:
            expected = ", ".join(sorted(found))
            raise TamperedError("This run cancels no such server", field="server", expected=expected, found=one.server)
    alive = {run: ctx.liveness.run(run) for run in {each.run for each in found.values()}}
    told = {}
    with ledger.write(*sorted({live_migrations.lock_name(each.manager) for each in found.values()})) as tx:
        for one in came.servers:
            known = live_migrations.get(tx, found[one.server].id, lock=True)
            words = told[one.server] = printable(": ".join(filter(None, (WORDS[one.outcome], one.words))))
            _note(tx, known, one, words, ctx, followed=alive[known.run])
    return told


def _note(tx: Tx, known: LiveMigration, one: CancelledOne, words: str, ctx: RunContext, *, followed: bool) -> None:
    columns: dict[str, Any] = {"phase": words}
    if not followed and known.state in IN_HCX:
        if one.outcome == "cancelled":
            columns |= {"state": LiveState.CANCELLED, "error": words}
        elif one.outcome == "over":  # it failed, or HCX does not say how it ended
            columns |= {"state": LiveState.FAILED, "error": words}
        elif one.outcome == "absent":
            # A name that HCX does not have started nothing. One that it had, and lists no more, may have done anything.
            ended = LiveState.ENDED if known.state is LiveState.STARTING else LiveState.FAILED
            columns |= {"state": ended, "error": words}
    live_migrations.apply(tx, known, f"cancel_{one.outcome}", at=ctx.clock.now(), by=ctx.run, **columns)
