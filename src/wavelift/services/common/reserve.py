"""What the reserve and release tasks of all flows share: the slots of a transfer, and what keeps a server from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, connectors
from wavelift.ledger.database import Tx
from wavelift.rules.flows import CONTINUE_FROM, OF_TRANSFER
from wavelift.rules.queue import Priority
from wavelift.services.common.line import words_of
from wavelift.services.common.slots import Granted, InQueue, SlotRequest, win_slots

CANCELLED: Final = "cancelled on request"
NOT_MADE: Final = "Its DAG run could not be made: nothing was begun"
"""The error of what was reserved for a run."""


def win_transfer(
    ledger: Ledger, requests: Sequence[SlotRequest], ctx: RunContext, *, priority: Priority = Priority.NORMAL
) -> InQueue | None:
    """Win every slot that a transfer needs; the first that must be waited for, or None.

    What the server has at other places (its VM stands on another host now) is given back.
    """
    found = win_slots(ledger, requests, ctx, priority=priority, only=OF_TRANSFER)
    return None if isinstance(found, Granted) else InQueue(found.request, words_of(found))


def refuse_in_maintenance(tx: Tx, connector: str, **where: str) -> None:
    """For what nobody has begun yet: what waits already goes on waiting, until the maintenance is over (AMP-05).

    :raises PermanentError: the connector is in maintenance.
    """
    reason = connectors.in_maintenance(tx, connector)
    if reason is not None:
        raise PermanentError(
            f"The connector is in maintenance: {reason}",
            next_step=f"Try again when `wavelift connectors maintenance {connector} --off` was said.",
            connector=connector,
            **where,
        )


def require_same_servers(before: Collection[str], servers: Collection[str] | None, run: DagRun) -> None:
    """A request that comes again under its name is about the same servers.

    :param before: those of the earlier request; none: there was none. :param servers: None: whichever they are.
    :raises PermanentError: it is about others.
    """
    if before and servers is not None and set(servers) != set(before):
        raise PermanentError(
            f"An earlier request of this name is about {', '.join(sorted(before))}",
            next_step="Give another request_id",
            run=run,
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
