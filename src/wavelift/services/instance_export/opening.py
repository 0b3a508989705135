"""An export begins: at most one open export of an instance, whoever asks for it and however often.

The REST API and :class:`InstanceExportOperator` reserve it for a DAG run that is made next; the run's admit task takes
the reservation, or opens what nobody reserved. Both decide by :func:`open_export`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.domain import Refusal
from wavelift.base.errors import BusyError, PermanentError, RefusedError
from wavelift.base.names import run_key
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, Tx, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.conf import ExportConf
from wavelift.rules.environment import Environment
from wavelift.rules.instance_export import ExportState
from wavelift.rules.replication import DEFAULT_POLICY, Policy, Rule
from wavelift.services.common.instances import instance_of
from wavelift.services.common.report import NOT_FINISHED
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.export_messages import ExportPlace
from wavelift.services.instance_export.runs import place_of, prefix_of

TOO_LATE: Final = "Its DAG run did not start in time"
RUN_ENDED: Final = "Its DAG run ended before anything was made"
_UNMADE: Final = frozenset({ExportState.QUEUED, ExportState.CHECKING, ExportState.CANCELLING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody asks for.

    :param instance_id: ``i-…``. :param subject: as it was asked for.
    """

    place: ExportPlace
    instance_id: str
    subject: str
    prefix: str
    """Of the key, with the environment's."""
    conf: ExportConf


def asked_of(ledger: Ledger, environment: Environment, conf: ExportConf) -> Asked:
    """Find the instance that a conf means.

    :raises SpecError: the environment has no ``exports``.
    :raises NotFoundError: there is no such migration or cutover.
    :raises PermanentError: it has no instance, or the instance is not in this environment.
    """
    place, subject, prefix = place_of(environment), conf.instance or "", prefix_of(environment, conf)
    if subject.startswith("i-"):
        return Asked(place=place, instance_id=subject, subject=subject, prefix=prefix, conf=conf)
    with ledger.read() as tx:
        found = instance_of(tx, subject)
    if found.environment != place.environment or (found.place.region, found.place.account) != (
        place.region,
        found.place.account and place.account,
    ):
        raise PermanentError(
            f"{subject} is of environment {found.environment}: its instance {found.instance_id} is in "
            f"{found.place.region}",
            next_step=f"Export it by the DAG of environment {found.environment}",
            environment=place.environment,
        )
    return Asked(place=place, instance_id=found.instance_id, subject=subject, prefix=prefix, conf=conf)


def open_export(
    ledger: Ledger, asked: Asked, ctx: RunContext, *, request_id: str = "", policy: Policy = DEFAULT_POLICY
) -> InstanceExport:
    """The export of ``ctx.run``, queued. Repeated (a retry, a clear), it returns what it opened. One that failed or was
    cancelled begins anew.

    :raises RefusedError: another export of the instance is open.
    :raises PermanentError: somebody cancelled it before it made anything.
    :raises BusyError: what this run made before is being removed at this moment.
    """
    place, instance = asked.place, asked.instance_id
    dead = _dead(ledger, asked, ctx)
    with ledger.write(exports.lock_name(place.region, instance)) as tx:
        other = exports.open_of(tx, account=place.account, region=place.region, instance_id=instance)
        if other is not None and other.run != ctx.run and _ended(tx, other, dead, policy, ctx):
            other = None
        if other is not None and other.run != ctx.run:
            raise _refused(other)
        mine = exports.of_dag_run(tx, ctx.run)
        return _insert(tx, asked, ctx, request_id) if mine is None else _again(tx, mine, asked, ctx)


def _refused(other: InstanceExport) -> RefusedError:
    reason = f"export {other.id} of {other.run} is {other.state}"
    return RefusedError(
        f"The export is refused: {reason}",
        refusals=(Refusal(server=other.instance_id, rule=Rule.EXPORT, reason=reason),),
        next_step=f"See `wavelift export show {other.id}`; wait for it, or cancel it",
        instance=other.instance_id,
        export=other.id,
    )


def _dead(ledger: Ledger, asked: Asked, ctx: RunContext) -> InstanceExport | None:
    """The instance's open export of a run that is not there or has ended, and that made nothing: as it was before
    Airflow was asked. What made something is ended by the upkeep, which removes that first."""
    place = asked.place
    with ledger.read() as tx:
        known = exports.open_of(tx, account=place.account, region=place.region, instance_id=asked.instance_id)
    if known is None or known.run == ctx.run or not is_unmade(known):
        return None
    return None if ctx.liveness.run(known.run) else known


def is_unmade(known: InstanceExport) -> bool:
    """Whether nothing can be outside: no intent was written."""
    return known.state in _UNMADE and not (known.made or {}).get("method")


def is_reserved(known: InstanceExport) -> bool:
    """Whether no task of its run has been there yet."""
    return known.state is ExportState.QUEUED and not (known.times or {}).get("admitted")


def _ended(tx: Tx, other: InstanceExport, dead: InstanceExport | None, policy: Policy, ctx: RunContext) -> bool:
    """Nobody will go on with it: then it ends here."""
    if dead is None or (dead.id, dead.version) != (other.id, other.version):
        return False
    reserved = is_reserved(other)
    if reserved and ctx.clock.now() - other.requested_at < policy.reservation:
        return False  # its DAG run is being made
    end_unmade(tx, other, TOO_LATE if reserved else RUN_ENDED, by=ctx.run, ctx=ctx)
    return True


def end_unmade(tx: Tx, known: InstanceExport, words: str, *, by: str | DagRun, ctx: RunContext) -> InstanceExport:
    """End an export that made nothing, as cancelled if a person asked for that."""
    state = ExportState.CANCELLED if known.cancel_requested else ExportState.FAILED
    return exports.apply(tx, known, str(state), at=ctx.clock.now(), by=by, state=state, error=words, phase="")


def ended_unmade(ledger: Ledger, known: InstanceExport, ctx: RunContext, *, words: str) -> bool:
    """End an export that made nothing; whether it is one. That needs no AWS, so a run that was never admitted may ask.

    :param words: what its run's first failed task said.
    """
    if known.state.terminal or not is_unmade(known):
        return False
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        if not now.state.terminal and is_unmade(now):
            said = CANCELLED if now.cancel_requested else words or NOT_FINISHED
            end_unmade(tx, now, said, by=ctx.run, ctx=ctx)
    return True


def _insert(tx: Tx, asked: Asked, ctx: RunContext, request_id: str) -> InstanceExport:
    place, run = asked.place, ctx.run
    return exports.insert(
        tx,
        at=ctx.clock.now(),
        by=ctx.requester,
        run=run,
        run_key=run_key(run.dag_id, run.dag_run_id, asked.instance_id),
        environment=place.environment,
        account=place.account,
        region=place.region,
        instance_id=asked.instance_id,
        subject=asked.subject,
        bucket=place.bucket,
        request_id=request_id,
        requested_by=ctx.requester,
        note=asked.conf.note or "",
        **_wishes(asked),
    )


def _wishes(asked: Asked) -> dict[str, Any]:
    conf = asked.conf
    return {
        "choice": conf.method,
        "target": conf.target,
        "format": conf.format or "",
        "prefix": asked.prefix,
        "may_reboot": conf.may_reboot,
    }


def _again(tx: Tx, mine: InstanceExport, asked: Asked, ctx: RunContext) -> InstanceExport:
    if mine.instance_id != asked.instance_id:
        raise PermanentError(
            f"This run exports {mine.instance_id}, and {asked.subject} is {asked.instance_id} now",
            next_step="Start a new export",
            export=mine.id,
        )
    if mine.state is ExportState.CANCELLING and is_unmade(mine):
        raise PermanentError(  # its removal, which comes next, ends it
            "The export was cancelled on request",
            next_step="To export the instance after all, start a new export",
            export=mine.id,
        )
    if mine.state is ExportState.CANCELLING:
        raise BusyError(
            "What this export made before is being removed",
            next_step="The retry begins anew when it is gone",
            export=mine.id,
        )
    if mine.state not in (ExportState.FAILED, ExportState.CANCELLED):
        return mine
    # Nothing that was found or made before counts any more: tokens, names and tags carry the attempt.
    columns: dict[str, Any] = {
        "state": ExportState.QUEUED,
        "made": {"attempt": attempt_of(mine) + 1},
        "plan": None,
        "findings": None,
        "result": None,
        "times": None,
        "object_bytes": None,
        "percent": 0,
        "cancel_requested": False,
        "requested_at": ctx.clock.now(),
    }
    columns |= dict.fromkeys(("phase", "error", "method", "task_id", "object_key"), "")
    return exports.apply(tx, mine, "begins_anew", at=ctx.clock.now(), by=ctx.requester, **columns, **_wishes(asked))


def attempt_of(known: InstanceExport) -> int:
    """1 for the first; a clear of the run's ``admit`` after its end begins the next."""
    return int((known.made or {}).get("attempt", 1))
