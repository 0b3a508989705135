"""The slot of an export: one of account and region, won before anything is made, given back when all is removed."""

from __future__ import annotations

from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports
from wavelift.rules.authority import Action
from wavelift.rules.flows import SlotKind
from wavelift.services.common.authority import Rights, require_again
from wavelift.services.common.line import words_of
from wavelift.services.common.slots import Granted, InQueue, SlotRequest, give_back, win_slots
from wavelift.services.dataplane.export_messages import ExportPlace
from wavelift.services.instance_export.progress import note
from wavelift.services.instance_export.runs import known_of, require_going


def reserve(ledger: Ledger, place: ExportPlace, ctx: RunContext, *, rights: Rights) -> InQueue | None:
    """Win the slot; what must be waited for, or None. The right is asked again at each look.

    :raises DeniedError: whoever asked may not administer the environment any more.
    :raises PermanentError: the export was cancelled, or is over.
    """
    known = known_of(ledger, ctx)
    require_going(known)
    require_again(ledger, ctx, Action.ADMINISTER, rights=rights)
    request = SlotRequest(SlotKind.EXPORT, f"{place.account}/{place.region}", known.run_key, place.limit)
    found = win_slots(ledger, [request], ctx)
    if isinstance(found, Granted):
        return None
    words = words_of(found)
    note(ledger, known, f"waits: {words}", 0, ctx.clock)
    return InQueue(found.request, words)


def release(ledger: Ledger, ctx: RunContext) -> None:
    """Give the slot back. Of a run without an export there is none."""
    with ledger.read() as tx:
        known = exports.of_dag_run(tx, ctx.run)
    if known is not None:
        give_back(ledger, known.run_key, kinds=[SlotKind.EXPORT], clock=ctx.clock)
