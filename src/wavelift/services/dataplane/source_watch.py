"""Looking at sources that a cutover switched off: are they off, and off their networks? And fencing them again."""

from __future__ import annotations

from wavelift.adapters.vsphere import switch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import Message
from wavelift.base.errors import NotFoundError, located
from wavelift.base.run import CancelFlag
from wavelift.services.dataplane.source_return import SourceToStart


class WatchedSource(Message):
    """A source that is to stay off."""

    server: str
    cutover: str
    connection: str
    vm: str
    """Managed object id."""


class SeenSource(Message):
    """What a look at a source showed. With an ``error`` it showed nothing."""

    server: str
    cutover: str
    on: bool = False
    connected: tuple[int, ...] = ()
    """Keys of network cards that a power-on or the guest connects, or that are connected."""
    error: str = ""

    @classmethod
    def unseen(cls, source: WatchedSource, error: Exception) -> SeenSource:
        """It could not be looked at."""
        return cls(server=source.server, cutover=source.cutover, error=str(error))

    @property
    def wrong(self) -> str:
        """What is wrong with it, in words; empty: nothing."""
        cards = f"its network cards {', '.join(map(str, self.connected))} are not fenced" if self.connected else ""
        return " and ".join(part for part in ("it is on" if self.on else "", cards) if part)


def look_at(session: VsphereSession, source: WatchedSource) -> SeenSource:
    """One look. Only reads. A VM that is gone can't come back by itself: nothing is wrong with it."""
    try:
        now = switch.power_state(session, source.vm, server=source.server)
        cards = switch.read_cards(session, source.vm, server=source.server)
    except NotFoundError:
        return SeenSource(server=source.server, cutover=source.cutover)
    return SeenSource(
        server=source.server,
        cutover=source.cutover,
        on=not now.off,
        connected=tuple(card.key for card in cards if not card.fenced),
    )


def fence_again(session: VsphereSession, source: SourceToStart, cancel: CancelFlag) -> None:
    """Disconnect a source's cards once more. It may stay on: what its guest does then reaches nobody.

    :raises CardsChangedError: it has other cards than those that are stored.
    """
    with located(server=source.server, vm=source.before.vm):
        switch.fence(session, source.before.vm, server=source.server, cancel=cancel, before=source.before.cards or None)
