"""Bringing a source back after its cutover: connected as it was, and on if it was on. The way back's last part.

The control plane has undone the network steps and seen the instance stopped before it issues the grant for this.
"""

from __future__ import annotations

import logging
from typing import Any

from wavelift.adapters.vsphere import switch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import NicFacts
from wavelift.base.errors import BusyError, PermanentError, located
from wavelift.base.run import CancelFlag
from wavelift.services.dataplane.cutover_messages import SourceToStart, StartedSource

log = logging.getLogger(__name__)


def start_source(session: VsphereSession, source: SourceToStart, cancel: CancelFlag) -> StartedSource:
    """Take the fence away, and power the source on if it was on. Repeated: only what is left.

    Its cards are restored before it is on, so that none is connected that was not. What vSphere connects only while
    the VM runs is set afterwards.

    :raises CardsChangedError: it has other cards than those that are stored. Nothing was changed.
    :raises BusyError: it does not stay as it was restored.
    """
    before, server = source.before, source.server
    with located(server=server, vm=before.vm):
        cards = _cards(session, source)
        switch.unfence(session, before.vm, cards, server=server, cancel=cancel)
        if before.powered_on:
            switch.power_on(session, before.vm, server=server, cancel=cancel)
            switch.unfence(session, before.vm, cards, server=server, cancel=cancel)
        now = switch.power_state(session, before.vm, server=server)
        if before.powered_on and not now.on:
            raise BusyError(
                "The source was powered on, and is off again",
                power=now.power,
                next_step="Its events in vCenter tell who: look at them, and clear the task",
            )
        _check(cards, switch.read_cards(session, before.vm, server=server), running=now.on)
        return StartedSource(server=server, cutover=source.cutover, powered_on=now.on)


def _cards(session: VsphereSession, source: SourceToStart) -> tuple[NicFacts, ...]:
    """The cards to restore. None were stored: those of a VM that has none, or that nobody fenced.

    :raises PermanentError: none were stored, and the VM is fenced.
    """
    if source.before.cards:
        return source.before.cards
    now = switch.read_cards(session, source.before.vm, server=source.server)
    if any(card.fenced for card in now):
        raise PermanentError(
            "The source's network cards are disconnected, and how they were before is not stored",
            next_step="Connect them in vCenter and power the source on yourself",
        )
    return now


def _check(before: tuple[NicFacts, ...], now: tuple[NicFacts, ...], *, running: bool) -> None:
    found: dict[int, Any] = {card.key: card.connection for card in now}
    wrong = [
        card.key
        for card in before
        if found.get(card.key) != (card.start_connected, card.connected and running, card.allow_guest_control)
    ]
    if wrong:
        raise BusyError(
            f"The source's network cards {', '.join(map(str, wrong))} are not as they were before the cutover",
            next_step="Somebody else changes them: look at the VM's events in vCenter, then clear the task",
        )
