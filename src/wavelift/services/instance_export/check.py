"""Bucket and instance are looked at, and the method is chosen (VIE-02, VIE-03). Nothing is made."""

from __future__ import annotations

from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.export_bucket import ExportBuckets
from wavelift.adapters.aws.export_instance import ExportInstances
from wavelift.base.domain import Finding
from wavelift.base.errors import PermanentError
from wavelift.base.names import run_key
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.conf import ExportConf
from wavelift.rules.export_causes import Wish
from wavelift.rules.export_checks import MethodChosen, choose
from wavelift.rules.export_facts import InstanceFacts
from wavelift.rules.instance_export import ExportState
from wavelift.services.dataplane.export_messages import ExportPlace, ExportPlan
from wavelift.services.dataplane.instance_export import ova_of
from wavelift.services.instance_export.admit import conf_of_run
from wavelift.services.instance_export.messages import CheckedExport, told
from wavelift.services.instance_export.opening import asked_of
from wavelift.services.instance_export.runs import known_of, of_this_run, prefix_of, require_going
from wavelift.services.instance_export.work import made_of, plan_of

_QUEUED: Final = {"state": ExportState.QUEUED, "phase": "it is checked"}


def check(ledger: Ledger, access: AwsAccess, place: ExportPlace, ctx: RunContext) -> tuple[str, CheckedExport]:
    """The mode of the run, and what was found. In mode export the plan is frozen with the export; what something was
    begun with stays as it is.

    :raises PermanentError: the export was cancelled; or no OVA can hold as many disks.
    :raises NotFoundError: there is no such instance.
    """
    with ledger.read() as tx:
        spec = of_this_run(tx, ctx)
    conf = conf_of_run(spec)
    if conf.mode == "check":
        asked = asked_of(ledger, spec.environment, conf)
        key = run_key(ctx.run.dag_id, ctx.run.dag_run_id, asked.instance_id)
        return conf.mode, _judged(access, place, conf, asked.instance_id, asked.prefix, exports.export_id(key), ctx)
    known = known_of(ledger, ctx)
    require_going(known)
    if made_of(known).method:  # this task was cleared alone: what was made follows the plan that stands
        return conf.mode, _standing(known, place, ctx)
    if known.state is not ExportState.CHECKING:
        known = _write(ledger, known, "checking", ctx, state=ExportState.CHECKING, phase="bucket and instance")
    prefix = prefix_of(spec.environment, conf)
    checked = _judged(access, place, conf, known.instance_id, prefix, known.id, ctx)
    _write(ledger, known, "checked", ctx, **columns_of(checked), **({} if checked.refused else _QUEUED))
    return conf.mode, checked


def look_again(
    ledger: Ledger, access: AwsAccess, known: InstanceExport, place: ExportPlace, ctx: RunContext
) -> tuple[CheckedExport, ExportPlan]:
    """The same right before the first write: a run may have waited hours for its slot, and the grants may be gone.

    :raises PermanentError: bucket or instance allow the export no more.
    """
    with ledger.read() as tx:
        conf = conf_of_run(of_this_run(tx, ctx))
    checked = _judged(access, place, conf, known.instance_id, known.prefix, known.id, ctx)
    if checked.refused:
        _write(ledger, known, "refused", ctx, **columns_of(checked))
    refuse_blocked(checked)
    assert checked.plan is not None
    return checked, checked.plan


def refuse_blocked(checked: CheckedExport) -> None:
    """:raises PermanentError: something forbids the export, with every reason."""
    if not checked.refused:
        return
    words = told(checked.blocking) or "no method can export it"
    raise PermanentError(
        f"{checked.instance_id} is not exported: {words}",
        next_step="Nothing was made. Remove the causes, and start a new export",
        server=checked.instance_id,
    )


def _judged(  # noqa: PLR0913  # what, where, and for which export
    access: AwsAccess,
    place: ExportPlace,
    conf: ExportConf,
    instance_id: str,
    prefix: str,
    export: str,
    ctx: RunContext,
) -> CheckedExport:
    facts = ExportInstances(access).facts(instance_id, now=ctx.clock.now())
    bucket = ExportBuckets(access, place.account).facts(place.bucket)
    wish = Wish(
        environment=place.environment,
        account=place.account,
        target=conf.target,
        format=conf.format,
        may_reboot=conf.may_reboot,
    )
    chosen = choose(conf.method, facts, bucket, wish)
    if chosen.method == "image":  # no other method needs the role, and nobody's rights on IAM
        role = AccountChecks(access).role(place.role, bucket=place.bucket, exports=place.bucket)
        chosen = choose(conf.method, facts, bucket, wish, role)
    return CheckedExport(
        environment=place.environment,
        instance_id=instance_id,
        bucket=place.bucket,
        findings=chosen.findings,
        plan=_plan(place, conf, facts, chosen, prefix, export),
        seen_at=facts.seen_at,
    )


def _plan(  # as above
    place: ExportPlace, conf: ExportConf, facts: InstanceFacts, chosen: MethodChosen, prefix: str, export: str
) -> ExportPlan | None:
    if chosen.method is None or chosen.format is None or chosen.errors:
        return None
    if chosen.method == "instance":  # by name, it leaves out what was attached after the launch: the person was told
        facts = facts.model_copy(update={"volumes": tuple(each for each in facts.volumes if each.launched)})
    plan = ExportPlan(
        export=export,
        place=place,
        instance=facts,
        method=chosen.method,
        why=chosen.why,
        target=conf.target,
        format=chosen.format,
        controller=conf.controller,
        prefix=prefix,
        may_reboot=conf.may_reboot,
        verify=conf.verify,
    )
    if plan.method == "direct":  # as many disks as a controller takes: said now, and not after the snapshots
        ova_of(plan, [each.size for each in facts.volumes]).check()
    return plan


def _standing(known: InstanceExport, place: ExportPlace, ctx: RunContext) -> CheckedExport:
    return CheckedExport(
        environment=place.environment,
        instance_id=known.instance_id,
        bucket=known.bucket,
        findings=tuple(Finding.load(each) for each in known.findings or ()),
        plan=plan_of(known),
        seen_at=ctx.clock.now(),
    )


def columns_of(checked: CheckedExport) -> dict[str, Any]:
    """Of the export's row."""
    plan = checked.plan
    return {
        "findings": [each.dump() for each in checked.findings],
        "plan": plan.dump() if plan is not None else None,
        "method": plan.method if plan is not None else "",
        "format": plan.format if plan is not None else "",
    }


def _write(ledger: Ledger, known: InstanceExport, moment: str, ctx: RunContext, **columns: Any) -> InstanceExport:
    """:raises PermanentError: somebody asked to cancel it meanwhile."""
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        require_going(now)
        return exports.note_time(tx, now, moment, at=ctx.clock.now(), by=ctx.run, **columns)
