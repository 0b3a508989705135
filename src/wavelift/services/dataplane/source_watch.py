"""Looking at sources that a cutover switched off: are they off, and off their networks? And fencing them again."""

from __future__ import annotations

from wavelift.adapters.vsphere import switch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import NotFoundError, located
from wavelift.base.run import CancelFlag
from wavelift.services.dataplane.cutover_messages import SeenSource, SourceToStart, WatchedSource


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
