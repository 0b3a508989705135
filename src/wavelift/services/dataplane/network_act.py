"""What the queue does for one order of a network cutover. It reads first, and is done when the place is so already.

A person's change is not made here: it is read back where something can read it, and else recorded as the person's word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from wavelift.adapters.nsx.errors import PendingDeleteError, StillAttachedError
from wavelift.adapters.nsx.segments import Segment, Segments
from wavelift.base.errors import BusyError, NotFoundError, PermanentError
from wavelift.base.placement import NetworkUse
from wavelift.base.rest import RestClient
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.rules.network_cutover import CONNECTIVITY, DESTINATION, EXTENSION, OFF, ON, SOURCE
from wavelift.services.dataplane.network_messages import (
    Acted,
    Finished,
    FinishOrder,
    NetworkOrder,
    NetworkPlace,
    StepName,
)
from wavelift.services.dataplane.source_side import NsxSide, Side, source_side, state_of
from wavelift.services.dataplane.steps.network import ASKED, Connectivity, ExtensionRemoved, quiet
from wavelift.services.dataplane.steps.step import Outcome, Settled, Step, Waiting, apply, undo

Uses = Callable[[], Sequence[NetworkUse]]
SINCE: Final = "since"
"""Key of the checkpoints: when this order's waiting began."""
WITHIN: Final[dict[StepName, timedelta]] = {
    "source": timedelta(minutes=30),
    "extension": timedelta(minutes=90),
    "destination": timedelta(minutes=15),
}
"""How long a step may take until its place shows it. HCX makes and ends extensions in minutes."""
EMPTY_WITHIN: Final = timedelta(minutes=60)
"""How long ports may linger on a source segment whose machines are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """How both sides are reached. The caller opens and closes them.

    :param hcx: the manager. :param destination: its NSX. :param source_nsx, webhook: as the network's file needs them.
    :param uses: asks every vCenter of the source site what is on the source network.
    """

    hcx: RestClient
    destination: RestClient
    uses: Uses
    source_nsx: RestClient | None = None
    webhook: RestClient | None = None

    def source(self, place: NetworkPlace, cutover: str = "") -> Side | None:
        """None: nothing can read the source."""
        return source_side(place.network, nsx=self.source_nsx, webhook=self.webhook, cutover=cutover)


def act(order: NetworkOrder, sites: Sites, ctx: RunContext, *, free: Callable[[], None]) -> Acted | Waiting:
    """Carry out an order, as far as it goes now. Call it again later when it waits; it may be repeated as often as
    needed.

    :param free: raises if something is in the way by now. Asked before the source is disconnected, and before the
        extension is ended: the plan was approved long ago.
    :raises ChangedElsewhere: somebody else changed a place. Nothing was written to it.
    :raises PermanentError: it would let both sides route the network; HCX or NSX could not do it; it takes too long.
    """
    ctx.cancel.check()
    acting = _Acting(order, sites, ctx, free)
    outcome = acting.back() if order.direction == "back" else acting.forward()
    if isinstance(outcome, Waiting):
        _refuse_late(order, outcome, ctx)
        return outcome
    ctx.checkpoints.delete(_since(order))
    return acting.acted(outcome.note)


class _Acting:
    """One call."""

    def __init__(self, order: NetworkOrder, sites: Sites, ctx: RunContext, free: Callable[[], None]) -> None:
        self.order, self.sites, self.ctx, self.free = order, sites, ctx, free
        self.side = sites.source(order.place, order.cutover)
        self.there = NsxSide(sites.destination, order.place.network.destination.segment)

    @property
    def changed(self) -> bool:
        """Whether this order wrote, in this call or an earlier one."""
        return bool(self.ctx.checkpoints.get(_changed(self.order)))

    def wrote(self) -> None:
        self.ctx.checkpoints.set(_changed(self.order), True)

    # Forward

    def forward(self) -> Outcome:
        if self.order.step == SOURCE and self.by_person:
            return self._confirmed(OFF)
        step = self.step(self.order.step)
        return self._did(step, apply(step, self.order.before))

    def _did(self, step: Step, outcome: Outcome) -> Outcome:
        """With a note where HCX should have connected the cloud network, and did not."""
        if isinstance(outcome, Settled) and step.name == DESTINATION and self.changed:
            note = "HCX left the destination disconnected; it was connected then"
            return Settled(f"{note}. {outcome.note}" if outcome.note else note)
        return outcome

    # Back

    def back(self) -> Outcome:
        """Each step of the way back sees to it that those before it hold: a late end of the extension would connect the
        destination again."""
        late = quiet(self.sites.hcx, self.order.asked_at, self.order.job, self.ctx.clock.now())
        isolated = self._undo(DESTINATION)
        if isinstance(isolated, Waiting):
            return isolated
        if self.order.step == DESTINATION:
            return isolated
        if late is not None:
            return late
        if self.order.step == EXTENSION:
            return self._undo(EXTENSION)
        if self.by_person:
            return self._confirmed(ON)
        return self._undo(SOURCE)

    def _undo(self, name: StepName) -> Outcome:
        step = self.step(name)
        before = self.order.before if name == self.order.step else self.order.befores[name]
        return undo(step, before)

    # Both

    @property
    def by_person(self) -> bool:
        return self.order.place.network.source.disconnect.by == "person"

    def _confirmed(self, to: str) -> Outcome:
        """A person did it, says the order."""
        if not self.order.answered:
            raise PermanentError(
                "Nobody has confirmed that the source network is "
                f"{'connected to' if to == ON else 'disconnected from'} its router",
                next_step="Clear the order's task: it asks",
                network=self.order.place.network.network,
            )
        if to == ON:
            self._source_may_route()
        else:
            self._free_once()
        if self.side is None:
            return Settled()
        now = self.side.read()
        if now[CONNECTIVITY] != to:
            return Waiting(f"until the source shows what {self.order.answered} said (it is {now[CONNECTIVITY]})", "")
        return self.side.settled(now)

    def step(self, name: StepName) -> Step:
        network = self.order.place.network.network
        if name == DESTINATION:
            there = _Noted(self.there, self)
            return Connectivity(
                there, name=DESTINATION, to=ON, network=network, guards={ON: self._destination_may_route}
            )
        if name == EXTENSION:
            record = dict(self.order.records.get(EXTENSION) or {})
            source = (self.order.befores.get(EXTENSION) or {}).get("source")
            return ExtensionRemoved(
                self.sites.hcx,
                self.ctx,
                source_id=str(source or (self.order.before or {}).get("source", "")),
                record=record,
                guards=(self._may_end, self._destination_must_be_off),
            )
        if self.side is None:
            raise NotFoundError("Nothing can change the source network from here", network=network)
        return Connectivity(
            _Noted(self.side, self),
            name=SOURCE,
            to=OFF,
            network=network,
            guards={ON: self._source_may_route, OFF: self._may_begin},
        )

    def _free_once(self) -> None:
        """Of what a person did: until it shows, and not once the extension is ended, when the run goes on after it."""
        key = f"free.{self.order.clear_number}"
        if self.ctx.checkpoints.get(key) or self.step(EXTENSION).read() is None:
            return
        self.free()
        self.ctx.checkpoints.set(key, True)

    # Guards: what must hold before a write, by reading it now

    def _may_begin(self) -> Outcome | None:
        self.free()
        return None

    def _may_end(self) -> Outcome | None:
        self._source_must_be_off()
        self.free()
        return None

    def _source_must_be_off(self) -> Outcome | None:
        """Before HCX connects the destination at the end of the extension, or this does."""
        if self.side is None:
            if self.order.source_word:
                return None
            raise self._never_both("nobody has confirmed that the source network is disconnected from its router")
        if not self.side.is_off():
            raise self._never_both("the source still routes the network, or nobody can tell")
        return None

    def _destination_may_route(self) -> Outcome | None:
        self._source_must_be_off()
        extension = self.step(EXTENSION).read()
        if extension is not None:
            raise self._never_both("the network is still extended: its gateway is at the source")
        return None

    def _destination_must_be_off(self) -> Outcome | None:
        if not self.there.is_off():
            raise self._never_both("the destination still routes the network, or nobody can tell")
        return None

    def _source_may_route(self) -> Outcome | None:
        return self._destination_must_be_off()

    def _never_both(self, why: str) -> PermanentError:
        return PermanentError(
            f"Both sides would route the network: {why}",
            next_step="Look at both sides. Clear the order's task to look again, or go back",
            network=self.order.place.network.network,
            step=self.order.step,
        )

    def acted(self, note: str) -> Acted:
        """What is there now."""
        order, extension_id, read_back = self.order, "", True
        if order.step == SOURCE:
            read_back = self.side is not None
            to = order.wanted if order.direction == "forward" else order.before
            state = self.side.read() if self.side is not None else to
        elif order.step == DESTINATION:
            state = self.there.read()
        else:
            step = self.step(EXTENSION)
            assert isinstance(step, ExtensionRemoved)
            found = step.found()
            extension_id, state = (found.id, step.read()) if found is not None else ("", None)
        return Acted(
            cutover=order.cutover,
            step=order.step,
            direction=order.direction,
            state=state,
            changed=self.changed,
            extension_id=extension_id,
            note=note,
            job=job_of(order, self.ctx),
            at=self.ctx.clock.now(),
            read_back=read_back,
        )


class _Noted(Side):
    """A side, with a note that it was written to."""

    def __init__(self, side: Side, acting: _Acting) -> None:
        self._side, self._acting = side, acting

    def read(self) -> object:
        return self._side.read()

    def write(self, to: object) -> None:
        self._acting.wrote()
        self._side.write(to)

    def settled(self, to: object) -> Outcome:
        return self._side.settled(to)


def job_of(order: NetworkOrder, ctx: RunContext) -> str:
    """HCX's job of this task's order, or NOTHING; empty: it is not known. For the XCom, also after an error."""
    kept = ctx.checkpoints.get(ASKED)
    return str(kept.get("job", "")) if order.step == EXTENSION and isinstance(kept, dict) else ""


def _since(order: NetworkOrder) -> str:
    return f"{SINCE}.{order.direction}.{order.step}.{order.clear_number}"


def _changed(order: NetworkOrder) -> str:
    return f"changed.{order.direction}.{order.step}.{order.clear_number}"


def _refuse_late(order: NetworkOrder, waiting: Waiting, ctx: RunContext) -> None:
    """:raises PermanentError: it takes too long. A clear of the order begins anew."""
    now, key = ctx.clock.now(), _since(order)
    kept = ctx.checkpoints.get(key)
    if kept is None:
        ctx.checkpoints.set(key, now.isoformat())
        return
    began, within = datetime.fromisoformat(str(kept)), WITHIN[order.step]
    if now - began < within:
        return
    raise PermanentError(
        f"Waited {waiting.words} since {utc_minute(began)}, longer than {within.total_seconds() / 60:g} minutes",
        next_step="Find out why. Clear the order's task to go on, or go back",
        network=order.place.network.network,
        step=order.step,
    )


# The end of the way back


def finish(order: FinishOrder, sites: Sites, ctx: RunContext, *, free: Callable[[], None]) -> Finished | Waiting:
    """Delete the source network, if something here can, and rename the destination's segment.

    Nothing is ever forced. What stays is told in words.

    :param free: raises if something is in the way by now. Asked right before the source network is deleted.
    :raises PermanentError: something is in the way; the destination does not route the network; ports stay for too
        long.
    """
    ctx.cancel.check()
    network = order.place.network
    there = Segments(sites.destination)
    look = there.look(network.destination.segment)
    if state_of(look.segment) != order.destination or not look.done(ON):
        raise PermanentError(
            f"The destination does not route the network as the cutover left it: {look}",
            next_step="Look at the segment in NSX. Correct it, or go back; nothing was deleted",
            network=network.network,
        )
    notes: list[str] = []
    deleted = False
    if network.source.deleted:
        waiting = _delete(order, sites, ctx, free)
        if waiting is not None:
            return waiting
        deleted = True
    else:
        notes.append(f"The source network {network.source.network} stays: delete it where it is, by hand")
    renamed = ""
    if network.rename_to and look.segment.name != network.rename_to:
        there.rename(network.destination.segment, network.rename_to)
        renamed = network.rename_to
    return Finished(
        cutover=order.cutover,
        deleted=deleted,
        renamed=renamed or network.rename_to or "",
        notes=tuple(notes),
        at=ctx.clock.now(),
    )


def _delete(order: FinishOrder, sites: Sites, ctx: RunContext, free: Callable[[], None]) -> Waiting | None:
    """None: the source segment is gone."""
    network = order.place.network
    if sites.source_nsx is None or network.source.segment is None:
        raise NotFoundError("The source's NSX can't be reached: its connection is not there", network=network.network)
    here = Segments(sites.source_nsx)
    found = here.find(network.source.segment)
    if found is None:
        return None
    if not found.unrouted:
        raise PermanentError(
            f"The source segment is not disconnected any more (type {found.type}, connectivity {found.connectivity})",
            next_step="Find out who connected it: both sides may route the network. Nothing was deleted",
            network=network.network,
            segment=found.path,
        )
    recorded = Segment.parse(order.records[SOURCE]) if order.records.get(SOURCE) else None
    if recorded is None or state_of(found) != {**state_of(recorded), CONNECTIVITY: OFF}:
        raise PermanentError(
            "The source segment is another one than the cutover recorded: its gateway is "
            f"{', '.join(found.gateways) or 'unknown'}",
            next_step="Find out who made it. Nothing was deleted; delete it by hand if it is not needed",
            network=network.network,
            segment=found.path,
        )
    ports = here.ports(found.path)
    if ports:
        return _empty(order, f"{len(ports)} ports, such as {ports[0].name}", ctx)
    free()
    try:
        here.delete(found.path)
    except (StillAttachedError, PendingDeleteError) as error:
        return _empty(order, error.what, ctx)
    return None if here.find(found.path) is None else _empty(order, "NSX still shows it", ctx)


def _empty(order: FinishOrder, what: str, ctx: RunContext) -> Waiting:
    now, key = ctx.clock.now(), f"{SINCE}.finish.{order.clear_number}"
    kept = ctx.checkpoints.get(key)
    if kept is None:
        ctx.checkpoints.set(key, now.isoformat())
    elif now - datetime.fromisoformat(str(kept)) >= EMPTY_WITHIN:
        raise BusyError(
            f"The source segment is not empty since {utc_minute(datetime.fromisoformat(str(kept)))}: {what}",
            next_step="Remove what is attached, then clear the order's task. Nothing was deleted",
            network=order.place.network.network,
        )
    return Waiting(f"until the source segment is empty ({what})", "")
