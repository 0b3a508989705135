"""What people and other DAGs ask of exports from outside their DAG runs: reserve one for a run that is made next, and
cancel it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.base.names import ON_DEMAND
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.conf import ExportConf
from wavelift.rules.environment import Environment
from wavelift.rules.flows import EXPORT
from wavelift.rules.instance_export import CANCELLABLE, ExportState
from wavelift.services.common.reserve import CANCELLED, NOT_MADE
from wavelift.services.instance_export.opening import asked_of, end_unmade, is_reserved, is_unmade, open_export
from wavelift.services.instance_export.runs import place_of

RECENT: Final = timedelta(days=7)
"""What lists show by default."""


class TooLateError(PermanentError):
    """The export can't be cancelled any more: its object stands in S3, or AWS writes it."""


def named_run(environment: str, conf: ExportConf, request_id: str) -> DagRun:
    """The DAG run of a request that the caller named: asked with this name again, it is the same."""
    return DagRun(EXPORT.dag_id(environment), f"{ON_DEMAND}{conf.mode}.{request_id}")


def reserve(
    ledger: Ledger, environment: Environment, conf: ExportConf, ctx: RunContext, *, request_id: str = ""
) -> InstanceExport | None:
    """Reserve an export under the id of the DAG run that is made next. Modes check and setup have none.

    Asked again for the same run, it is the same export. What a run with this conf would be refused for at once is
    refused here.

    :raises SpecError: the environment has no ``exports``. :raises RefusedError: another export of the instance is open.
    :raises NotFoundError: there is no such migration or cutover.
    """
    if conf.mode == "setup":
        place_of(environment)
        return None
    asked = asked_of(ledger, environment, conf)
    return open_export(ledger, asked, ctx, request_id=request_id) if conf.mode == "export" else None


def made_before(ledger: Ledger, run: DagRun, *, subject: str | None = None) -> InstanceExport | None:
    """The export that an earlier request of the same name has, if its DAG run was made.

    :param subject: what this request is about; None: whatever the earlier one was.
    :raises PermanentError: the earlier request is about another instance.
    """
    with ledger.read() as tx:
        known = exports.of_dag_run(tx, run)
    if known is not None and subject not in (None, known.subject, known.instance_id):
        raise PermanentError(
            f"An earlier request of this name is about {known.subject}", next_step="Give another request_id", run=run
        )
    if known is None or is_reserved(known) or (known.state is ExportState.FAILED and not known.times):
        return None  # the run may not be there
    return known


def give_back(ledger: Ledger, run: DagRun, ctx: RunContext) -> None:
    """The DAG run could not be made: its reservation keeps the instance from no other export."""
    with ledger.read() as tx:
        known = exports.of_dag_run(tx, run)
    if known is None:
        return
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        if is_reserved(now):
            end_unmade(tx, now, NOT_MADE, by=now.requested_by, ctx=ctx)


def cancel(ledger: Ledger, id: str, *, by: str, clock: Clock, over: bool, committed: bool = False) -> InstanceExport:
    """A person asks for its end. May be repeated. What it made is removed by its run's teardown; its running task is
    stopped by the caller. One that made nothing and whose run comes no more ends here.

    :param over: its DAG run has ended or is not there.
    :param committed: its object stands in S3, although the ledger does not know that yet: `read` has ended.
    :raises TooLateError: its object stands in S3. :raises PermanentError: it is over.
    """
    with ledger.read() as tx:
        seen = exports.get(tx, id)
    with ledger.write(exports.lock_name(seen.region, seen.instance_id)) as tx:
        known = exports.get(tx, id, lock=True)
        if known.state in (ExportState.VERIFYING, ExportState.COMPLETED) or (committed and not known.cancel_requested):
            raise TooLateError(
                "It is too late: the final image is being written"
                if known.state is ExportState.VERIFYING
                else "It is too late: the final image is being written, or is there",
                next_step="When it has ended, delete its object if nobody needs it",
                export=known.id,
                state=str(known.state),
            )
        if known.state not in CANCELLABLE:
            raise PermanentError(
                f"The export is {known.state}: there is nothing to cancel",
                next_step="Nothing: it is over",
                export=known.id,
            )
        now = clock.now()
        if over and is_unmade(known):
            columns: dict[str, Any] = {"state": ExportState.CANCELLED, "error": CANCELLED, "cancel_requested": True}
            return exports.apply(tx, known, "cancelled", at=now, by=by, **columns)
        if known.cancel_requested:
            return known
        columns = {
            "state": ExportState.CANCELLING,
            "cancel_requested": True,
            "phase": "stops, and removes what it made",
        }
        return exports.note_time(tx, known, "cancel_requested", at=now, by=by, **columns)


def since(now: datetime, *, everything: bool) -> datetime | None:
    """From when on a list shows exports; None: all of them."""
    return None if everything else now - RECENT
