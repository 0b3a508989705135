"""How HCX ended for every server of a run, and what was found of it in both vCenters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.errors import PermanentError, TamperedError
from wavelift.base.printable import printable
from wavelift.base.run import RunContext
from wavelift.ledger import live_migrations, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.live import LiveState
from wavelift.services.dataplane.live_messages import Followed, FollowedOne, FoundThere, LiveTask, VerifyOrder
from wavelift.services.live_migration.runs import frozen_live, lock_of, of_run, of_server

ENDS: Final = {
    "complete": LiveState.VERIFYING,
    "failed": LiveState.FAILED,
    "cancelled": LiveState.CANCELLED,
    "ended, outcome unknown": LiveState.FAILED,
}
"""Phase as HCX's adapter names it (:class:`wavelift.adapters.hcx.phases.Phase`) → state. Another one is no end."""
UNKNOWN_END: Final = "HCX says that it ended, and not how: look in both vCenters where the VM is"
NO_CANCEL: Final = "HCX ended it before its switchover"
NOT_OVER: Final = "The time of 'max_hours' is over, and HCX has not ended: {words}"
_FOLLOWED: Final = frozenset({LiveState.MOVING, LiveState.FAILED, LiveState.CANCELLED})
_HERE: Final = frozenset({LiveState.VERIFYING, LiveState.MOVED, LiveState.UNVERIFIED})
SIDES: Final = ("destination", "source")


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found of one server.

    :param wrong: what is not as it should be; empty: it is verified.
    """

    server: str
    wrong: tuple[str, ...]


def moved(ledger: Ledger, came: Followed, ctx: RunContext) -> list[VerifyOrder]:
    """Record how HCX ended for every server. Those that it says are complete are verified; the orders for them.

    One that HCX has not ended with stays where it is: nobody may start it again.

    :param came: what the follow task left.
    :raises TamperedError: what came by XCom names a migration that is not this run's.
    """
    wave, _ = of_run(ledger, ctx)
    ends = {each.server: each for each in came.servers}
    with ledger.write(lock_of(wave)) as tx:
        known = {each.server: each for each in live_migrations.of_dag_run(tx, ctx.run)}
        for server, end in ends.items():
            _require_own(known.get(server), end)
        for server, end in ends.items():
            known[server] = _end(tx, known[server], end, ctx)
        for each in known.values():
            if each.state in _HERE and each.state is not LiveState.VERIFYING:  # the verification was cleared
                columns: dict[str, Any] = {"state": LiveState.VERIFYING, "found": None, "error": ""}
                live_migrations.apply(tx, each, "verifying", at=ctx.clock.now(), by=ctx.run, **columns)
    return [
        VerifyOrder(name=each.server, task=LiveTask.load(each.before), accept_no_tools=wave.accept_no_tools)
        for each in sorted(known.values(), key=lambda each: each.server)
        if each.state in _HERE
    ]


def _require_own(known: LiveMigration | None, end: FollowedOne) -> None:
    expected = known.migration_id if known is not None else ""
    if not expected or end.migration_id != expected:
        raise TamperedError(
            "What came by XCom is not a migration of this run",
            field="migration_id",
            expected=expected or "none",
            found=end.migration_id,
            server=end.server,
        )


def _end(tx: Tx, known: LiveMigration, end: FollowedOne, ctx: RunContext) -> LiveMigration:
    if known.state not in _FOLLOWED:
        return known
    state = ENDS.get(end.phase)
    if state is None:
        words = NOT_OVER.format(words=printable(end.words))
        columns: dict[str, Any] = {"error": words, "phase": printable(end.words)}
        if known.state is not LiveState.MOVING:
            columns["state"] = LiveState.MOVING
        return live_migrations.apply(tx, known, "not_over", at=ctx.clock.now(), by=ctx.run, **columns)
    if state is known.state:
        return known
    error = {LiveState.VERIFYING: "", LiveState.CANCELLED: NO_CANCEL}.get(state) or ""
    if state is LiveState.FAILED:
        error = UNKNOWN_END if end.phase != "failed" else end.error or end.words or "HCX failed, and did not say why"
    columns = {"state": state, "error": printable(error), "phase": printable(end.words)}
    if state is LiveState.VERIFYING:
        columns["percent"] = 100
    return live_migrations.apply(tx, known, str(state), at=ctx.clock.now(), by=ctx.run, **columns)


def verified(ledger: Ledger, came: Iterable[FoundThere], ctx: RunContext) -> Judged:
    """Record what both vCenters say of the server, and whether that is as it should be.

    :raises TamperedError: what came by XCom is of another server, or not of both sides.
    """
    found = {each.side: each for each in came}
    if sorted(found) != sorted(SIDES):
        raise TamperedError(
            "Both vCenters must be asked", field="side", expected=", ".join(SIDES), found=", ".join(found)
        )
    for each in found.values():
        if each.server != ctx.server:
            raise TamperedError(
                "What came by XCom is of another server", field="server", expected=ctx.server, found=each.server
            )
    with ledger.read() as tx:
        wave = frozen_live(waves.get(tx, ctx.run))
    wrong = [printable(words) for each in found.values() for words in each.wrong]
    if not wave.accept_no_tools:
        wrong += [printable(f"not verified: {words}") for each in found.values() for words in each.unverified]
    if not wrong:
        wrong = [
            f"what was found in the {each.side}'s vCenter did not pass" for each in found.values() if not each.passed
        ]
    with ledger.write(lock_of(wave)) as tx:
        known, now = of_server(tx, ctx, lock=True), ctx.clock.now()
        state = LiveState.UNVERIFIED if wrong else LiveState.MOVED
        if known.state not in (LiveState.VERIFYING, state):  # its verification alone was cleared
            known = live_migrations.apply(tx, known, "verifying", at=now, by=ctx.run, state=LiveState.VERIFYING)
        columns: dict[str, Any] = {"state": state, "error": "; ".join(wrong), "phase": ""}
        columns["found"] = {side: each.dump() for side, each in found.items()}
        live_migrations.apply(tx, known, str(state), at=now, by=ctx.run, **columns)
    return Judged(ctx.server, tuple(wrong))


def raise_when_wrong(judged: Judged) -> None:
    """:raises PermanentError: the server is not as it should be."""
    if judged.wrong:
        raise PermanentError(
            f"HCX says that it has moved, and it is not as it should be: {'; '.join(judged.wrong)}",
            server=judged.server,
            next_step="Look at it in both vCenters. Correct it, then clear the server's first verification task, with "
            "downstream",
        )
