"""Stopping a source for its cutover: off, and kept off its networks, before its last changes are read.

What it was before lies in the ledger already: the control plane stored it and sends it along. So a task that is killed
anywhere here loses nothing, and a repeated one looks at the VM and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from wavelift.adapters.vsphere import switch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import Instant, Message, NicFacts, PowerFacts
from wavelift.base.errors import BusyError, PermanentError, TamperedError, located
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import ReservedRun, StopOrder, StoppedSource

STOP_KEY: Final = "stop"
"""Checkpoint: :class:`_Noted`."""
STAY_SECONDS: Final = 45.0
"""So long one call waits for the guest itself: most are off by then, and each second is downtime."""
LOOK_SECONDS: Final = 3.0
ASK_AGAIN: Final = timedelta(seconds=60)
"""A guest that was still starting when it was asked has not heard it."""
OFF_SECONDS: Final = 10.0
"""So long the source must stay off, fenced: a guest may start again, and so may vSphere HA."""
LAPSE: Final = timedelta(minutes=30)
"""Without a look for so long, the wait was broken off: the guest is asked anew, and gets its whole time."""
ORDER_COUNTS: Final = timedelta(hours=1)
"""So long may the stop of a source begin after it was ordered. Whether the cutover still moves is asked of the ledger
before each call; this is for a task that is cleared alone much later, when forecast and slots no longer hold."""
MOST_RETURNS: Final = 5
"""So often may the source be found on, or connected, right after it was fenced, before the try fails."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stopping:
    """The guest is still shutting down: look again soon."""

    words: str


class _Noted(Message):
    """What the tries of one stop know of each other."""

    asked_at: Instant
    seen_at: Instant
    """The last look."""
    heard_at: Instant | None = None
    """When the guest was last asked, and could hear it."""
    down_at: Instant | None = None
    """When the source was first seen off."""
    how: str = "its guest shut down"
    done: bool = False
    order: Instant | None = None
    """When the stop was ordered."""


def stop_source(
    session: VsphereSession, task: ServerTask, reserved: ReservedRun, ctx: RunContext
) -> StoppedSource | Stopping:
    """Bring a source one step further: asked to shut down, off, fenced.

    The guest is asked through VMware Tools. Without them, and after ``timeout_minutes``, the VM is powered off or the
    cutover of this server fails, as its plan says. Once it is off, all its network cards are disconnected, and it is
    looked at again: it must stay so.

    :raises PermanentError: the window does not allow it any more, the order is old, or was carried out and the source
        was brought back since, the VM's cards are not as pre-flight saw them, or the guest does not shut down and the
        plan says ``abort``. :raises GuardError: the VM is suspended.
    """
    order = reserved.stop
    if order is None or (order.before.vm, order.before.instance_uuid) != (task.facts.moref, task.facts.instance_uuid):
        raise TamperedError(
            "What came by XCom does not order this source to be stopped",
            field="reserved.stop",
            expected=task.facts.moref,
            found=order.before.vm if order is not None else "nothing",
            server=task.name,
            next_step=f"Clear the server's {CONTINUE_FROM} task; find out who edited the run's XComs",
        )
    with located(server=task.name, vm=task.facts.moref):
        return _Source(session, task, order, ctx).advance()


class _Source:
    """One call's look at one source."""

    def __init__(self, session: VsphereSession, task: ServerTask, order: StopOrder, ctx: RunContext) -> None:
        assert task.plan.cutover is not None  # it was admitted to one
        self._session, self._task, self._order, self._ctx = session, task, order, ctx
        self._vm = task.facts.moref
        self._shutdown = task.plan.cutover.shutdown

    def advance(self) -> StoppedSource | Stopping:
        until = self._ctx.clock.monotonic() + STAY_SECONDS
        returns = 0
        while True:
            self._ctx.cancel.check()
            now = switch.power_state(self._session, self._vm, server=self._task.name)
            if now.off:
                stopped = self._hold()
                if stopped is not None:
                    return stopped
                returns += 1
                if returns >= MOST_RETURNS:
                    raise BusyError(
                        "The source does not stay off its networks: somebody powers it on, or connects it",
                        next_step="Its events in vCenter tell who: vSphere HA, an autostart rule, a person",
                    )
                continue
            words = self._ask(now)
            if self._ctx.clock.monotonic() >= until:
                return Stopping(words)
            self._ctx.cancel.wait(LOOK_SECONDS)

    # --- on -----------------------------------------------------------------------------------------------------------

    def _ask(self, now: PowerFacts) -> str:
        """Let the guest shut down; what is waited for, in words."""
        at, noted = self._ctx.clock.now(), self._noted()
        if noted is None or noted.done:
            self._refuse_late(at)
            self._refuse_spent(at)
            self._check_cards(now)
            noted = _Noted(asked_at=at, seen_at=at, order=self._order.ordered_at)
        noted = noted.model_copy(update={"down_at": None, "seen_at": at})
        self._note(noted)  # before it is asked: its time does not begin anew with each try
        if at >= noted.asked_at + timedelta(minutes=self._shutdown.timeout_minutes):
            return self._force(noted, f"its guest did not shut down in {self._shutdown.timeout_minutes:g} minutes")
        if noted.heard_at is None or at >= noted.heard_at + ASK_AGAIN:
            try:
                switch.shut_down_guest(self._session, self._vm, server=self._task.name)
            except switch.ToolsError as error:
                if noted.heard_at is None:
                    return self._force(noted, error.what)
                log.info("%s: %s; it may be starting again", self._task.name, error.what)
            else:
                self._note(noted.model_copy(update={"heard_at": at}))
        left = noted.asked_at + timedelta(minutes=self._shutdown.timeout_minutes) - at
        return f"its guest has {left.total_seconds() / 60:.1f} minutes left to shut down"

    def _refuse_late(self, at: datetime) -> None:
        last = self._order.not_after
        if last is not None and at > last:
            raise PermanentError(
                f"The window of the cutover is over for this server: it had to be stopped by {last:%Y-%m-%d %H:%M} UTC",
                next_step="Revert the cutover, and cut this server over in another window",
            )

    def _refuse_spent(self, at: datetime) -> None:
        """A source that runs and is not fenced serves. One that was stopped already was brought back, and an old order
        may be of a cutover that is over."""
        ordered = self._order.ordered_at
        if ordered is None or all(card.fenced for card in self._cards()):
            return
        kept = self._ctx.checkpoints.get(STOP_KEY)
        last = _Noted.load(kept) if kept is not None else None
        spent = last is not None and last.done and last.order == ordered
        if not spent and at <= ordered + ORDER_COUNTS:
            return
        why = "it was stopped, and somebody brought it back" if spent else f"that was ordered at {utc_minute(ordered)}"
        raise PermanentError(
            f"The source serves, and is not stopped: {why}",
            next_step=f"Clear the server's {CONTINUE_FROM} task, which orders it anew unless the cutover is over",
        )

    def _force(self, noted: _Noted, why: str) -> str:
        if self._shutdown.then == "abort":
            self._ctx.checkpoints.delete(STOP_KEY)  # who clears the task asks the guest anew
            raise PermanentError(
                f"The source was not stopped: {why}",
                next_step="It may still shut down later. Find out why it does not, or set shutdown.then: power_off in "
                f"a new cutover; then clear the server's {CONTINUE_FROM} task, or revert the cutover",
            )
        self._note(noted.model_copy(update={"how": f"powered off: {why}"}))
        switch.power_off(self._session, self._vm, server=self._task.name, cancel=self._ctx.cancel)
        return "it is powered off"

    # --- off ----------------------------------------------------------------------------------------------------------

    def _hold(self) -> StoppedSource | None:
        """Fence the source, which is off, and see whether it stays so; None: it does not."""
        at = self._ctx.clock.now()
        order = self._order.ordered_at
        noted = self._noted() or _Noted(asked_at=at, seen_at=at, how="it was off already", order=order)
        noted = noted.model_copy(update={"seen_at": at, "down_at": noted.down_at or at})
        self._check_cards(PowerFacts(power="poweredOff"))
        self._note(noted)
        before = self._order.before.cards
        switch.fence(self._session, self._vm, server=self._task.name, cancel=self._ctx.cancel, before=before)
        self._ctx.cancel.wait(OFF_SECONDS)
        self._ctx.cancel.check()
        if not switch.power_state(self._session, self._vm, server=self._task.name).off:
            log.warning("%s was powered on again", self._task.name)
            return None
        if not all(card.fenced for card in self._cards()):
            log.warning("%s was connected again", self._task.name)
            return None
        self._note(noted.model_copy(update={"done": True, "order": self._order.ordered_at}))
        assert noted.down_at is not None
        return StoppedSource(server=self._task.name, vm=self._vm, down_at=noted.down_at, how=noted.how)

    def _cards(self) -> tuple[NicFacts, ...]:
        return switch.read_cards(self._session, self._vm, server=self._task.name)

    def _check_cards(self, power: PowerFacts) -> None:
        """A revert restores what the ledger has: so it must be true when the source is first touched. A fenced card is
        our own doing, of an earlier try.

        :raises PermanentError: somebody changed them since the pre-flight.
        """
        now, before = self._cards(), self._order.before.cards
        if not _differs(now, before, connected=power.on):
            return
        raise PermanentError(
            "The source's network cards are not as they were when the cutover was admitted: somebody changed them",
            before=_told(before),
            now=_told(now),
            next_step="Nothing was changed. Trigger a new cutover: it looks at the VM again",
        )

    # --- between tries ------------------------------------------------------------------------------------------------

    def _noted(self) -> _Noted | None:
        kept = self._ctx.checkpoints.get(STOP_KEY)
        noted = _Noted.load(kept) if kept is not None else None
        return noted if noted is not None and self._ctx.clock.now() - noted.seen_at <= LAPSE else None

    def _note(self, noted: _Noted) -> None:
        self._ctx.checkpoints.set(STOP_KEY, noted.dump())


def _differs(now: Sequence[NicFacts], before: Sequence[NicFacts], *, connected: bool) -> bool:
    """:param connected: whether the VM runs: while it is off, no card is connected."""
    found: Mapping[int, NicFacts] = {card.key: card for card in now}
    if {card.key: card.mac for card in now} != {card.key: card.mac for card in before}:
        return True
    return any(
        not found[card.key].fenced
        and (
            (found[card.key].start_connected, found[card.key].allow_guest_control)
            != (card.start_connected, card.allow_guest_control)
            or (connected and found[card.key].connected != card.connected)
        )
        for card in before
    )


def _told(cards: Sequence[NicFacts]) -> str:
    return (
        ", ".join(
            f"{card.key} {card.mac}: connected {card.connected}, at power-on {card.start_connected}, "
            f"by the guest {card.allow_guest_control}"
            for card in cards
        )
        or "none"
    )
