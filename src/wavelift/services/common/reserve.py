"""What the reserve and release tasks of all flows share: the slots of a transfer, and what keeps a server from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, connectors
from wavelift.ledger.database import Tx
from wavelift.rules.flows import CONTINUE_FROM, SlotKind
from wavelift.services.common.slots import Granted, InQueue, SlotRequest, win_slot

CANCELLED: Final = "cancelled on request"
PLACES: Final = {
    SlotKind.NFC_HOST: "ESXi host",
    SlotKind.NFC_VCENTER: "the NFC sessions of vCenter",
    SlotKind.TRANSFER: "connector",
}
"""Where a transfer needs slots, in words."""


def win_transfer(ledger: Ledger, requests: Iterable[SlotRequest], ctx: RunContext) -> InQueue | None:
    """Win every slot that a transfer needs, in this order; the first that must be waited for, or None."""
    for request in requests:
        found = win_slot(ledger, request, ctx)
        if not isinstance(found, Granted):
            return InQueue(request, f"place {found.position} in the queue of {PLACES[request.kind]} {request.scope}")
    return None


def refuse_in_maintenance(tx: Tx, connector: str, server: str) -> None:
    """:raises PermanentError: the connector is in maintenance: nothing new begins there (AMP-05)."""
    reason = connectors.in_maintenance(tx, connector)
    if reason is not None:
        raise PermanentError(
            f"The connector is in maintenance: {reason}",
            next_step="Clear the server's task when `wavelift connectors maintenance CONNECTOR --off` was said.",
            connector=connector,
            server=server,
        )


def cancelled_error(what: str, until: str, **where: str) -> PermanentError:
    """What a step raises when a person has asked to cancel the server's work (AMP-07).

    :param what: the work, at the beginning of the sentence. :param until: what must end before it may continue.
    """
    return PermanentError(
        f"{what} was cancelled on request",
        next_step=f"To go on with it after all, wait for its {until} to end and clear its {CONTINUE_FROM} task",
        **where,
    )
