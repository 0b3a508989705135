"""Exports whose DAG run has ended without its last tasks: somebody killed it, or Airflow lost it. Every 15 minutes they
are ended, and what they made is removed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.errors import FencedError, WaveliftError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.flows import SlotKind
from wavelift.rules.instance_export import ExportState
from wavelift.rules.replication import DEFAULT_POLICY
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.common.slots import give_back
from wavelift.services.dataplane.export_messages import ExportPlace
from wavelift.services.instance_export.ending import remove
from wavelift.services.instance_export.messages import Removed
from wavelift.services.instance_export.opening import RUN_ENDED, TOO_LATE, end_unmade, is_reserved, is_unmade
from wavelift.services.instance_export.work import made_of, plan_of

log = logging.getLogger(__name__)

WITHOUT_END: Final = "Its DAG run ended without its last tasks"
LOOKS_BACK: Final = timedelta(days=7)
"""How long after the end of a completed export its snapshots and image are removed, if its own run did not do that."""


def end_dead(
    ledger: Ledger, access_of: Callable[[ExportPlace], AwsAccess], ctx: RunContext, *, fence: Callable[[], None]
) -> tuple[str, ...]:
    """End the exports that nobody goes on with; one line for each. What must be waited for is looked at the next time.

    :param fence: called before anything is removed: an outlived try of the upkeep must not.
    :raises WaveliftError: Airflow does not tell which runs have ended: nothing is touched then.
    """
    with ledger.read() as tx:
        found = (*exports.everything_open(tx), *exports.completed_since(tx, ctx.clock.now() - LOOKS_BACK))
    return tuple(_ended(ledger, access_of, found, ctx, fence))


def _ended(
    ledger: Ledger,
    access_of: Callable[[ExportPlace], AwsAccess],
    found: tuple[InstanceExport, ...],
    ctx: RunContext,
    fence: Callable[[], None],
) -> Iterator[str]:
    for known in found:
        if not _needs_end(known, ctx) or ctx.liveness.run(known.run):
            continue
        claimed = _claimed(ledger, known, ctx)
        if claimed is None:
            continue
        try:
            yield _removed(ledger, access_of, claimed, ctx, fence)
        except FencedError:
            raise
        except WaveliftError as error:  # the others' leftovers must not stay for that
            log.error("%s: what it made could not be removed: %s", known.id, error)
            yield f"{known.id}: {error}"


def _needs_end(known: InstanceExport, ctx: RunContext) -> bool:
    if known.state is ExportState.COMPLETED:
        made = made_of(known)
        return made.method in ("image", "direct") and not made.tidy
    young = ctx.clock.now() - known.requested_at < DEFAULT_POLICY.reservation
    return not (is_reserved(known) and young)  # its DAG run is being made


def _claimed(ledger: Ledger, known: InstanceExport, ctx: RunContext) -> InstanceExport | None:
    """The export as the upkeep ends it; None: it was changed since Airflow was asked, so somebody goes on with it.

    From here on a run that is cleared waits until all is gone."""
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        if now.version != known.version:
            return None
        at, by = ctx.clock.now(), ctx.run
        if now.state is ExportState.COMPLETED:
            return now
        words = CANCELLED if now.cancel_requested else WITHOUT_END
        if is_unmade(now):
            if not now.cancel_requested:
                words = TOO_LATE if is_reserved(now) else RUN_ENDED
            return end_unmade(tx, now, words, by=by, ctx=ctx)
        if now.state is ExportState.VERIFYING:  # nobody recorded its object
            now = exports.apply(tx, now, "unrecorded", at=at, by=by, state=ExportState.ACTIVE)
        if now.state is not ExportState.CANCELLING:
            phase = "its run is dead: what it made is being removed"
            now = exports.apply(tx, now, "ending", at=at, by=by, state=ExportState.CANCELLING, error=words, phase=phase)
        return now


def _removed(
    ledger: Ledger,
    access_of: Callable[[ExportPlace], AwsAccess],
    known: InstanceExport,
    ctx: RunContext,
    fence: Callable[[], None],
) -> str:
    gone = Removed()
    if made_of(known).method:
        words = known.error or WITHOUT_END
        found = remove(ledger, access_of(plan_of(known).place), known, ctx, words=words, fence=fence)
        if not isinstance(found, Removed):
            return f"{known.id}: {found.words}"
        gone = found
    give_back(ledger, known.run_key, kinds=[SlotKind.EXPORT], reason="its DAG run has ended", clock=ctx.clock)
    told = ", ".join(gone.removed) or "it had made nothing"
    return f"{known.id} of {known.run}: {known.error or 'removed what it left'}: {told}"
