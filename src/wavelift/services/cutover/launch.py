"""The instance that takes a source's place. There is one, and only once the source is off and fenced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses, Interface
from wavelift.adapters.aws.ec2 import GONE_STATES, Ec2
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.base.domain import LaunchResult
from wavelift.base.errors import PermanentError, TamperedError, located
from wavelift.base.names import client_token, instant_of
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, cutovers, replication_runs
from wavelift.ledger.cutover_records import Cutover, StepRow, TargetPlace
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.rules.cutover import CutoverState, SourceBefore, StepState, kept_address
from wavelift.rules.flows import CONTINUE_FROM, CUTOVER
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import RunState
from wavelift.services.cutover import moving as rows
from wavelift.services.cutover.step_kinds import build, is_for
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.steps.addresses import PrepareAddress
from wavelift.services.dataplane.steps.poll import instance_is
from wavelift.services.migration.launch import launch_once
from wavelift.services.replication.image import MadeImage

ADDRESS: Final = "address"
"""Kind of the prepared step that made the target's network interface."""
_STANDS = (StepState.APPLIED, StepState.SETTLED)


@dataclass(frozen=True, slots=True)
class Starting:
    """The instance is there and does not run yet. ``wait`` is one of :mod:`wavelift.services.dataplane.steps.poll`."""

    instance_id: str
    wait: str


def launch(
    ledger: Ledger, access: AwsAccess, task: ServerTask, image: MadeImage, ctx: RunContext
) -> LaunchResult | Starting:
    """Launch the instance, or find the one that an earlier try launched, and look whether it runs.

    :raises PermanentError: the source is not off and fenced by the ledger, the image is not that of its last changes,
        the cutover goes back or is over, or the instance was stopped or terminated.
    """
    with located(server=task.name):
        known = rows.moving(ledger, task, ctx)
        if known.state is CutoverState.SWITCHED:
            return rows.launched(known)
        _require_off(known)
        _require_image(_run_of(ledger, known, image), image, known)
        ctx.cancel.check()
        # Also: the cutover does not go back at this moment. Once it does, this says that there may be an instance.
        rows.note(ledger, ctx, {rows.LAUNCHING: ctx.clock.now()}, phase="Launches its instance")
        instance = launch_once(access, _request(ledger, access, task.plan, known, image.image_id), ctx.run_key)
        target = task.plan.target
        place = TargetPlace(aws_conn_id=target.aws_conn_id, region=target.region, account=target.account)
        known = rows.note(
            ledger,
            ctx,
            {},
            instance_id=instance.instance_id,
            private_ip=instance.private_ip,
            target=place.dump(),
        )
        return _looked_at(ledger, access, known, ctx)


def _looked_at(ledger: Ledger, access: AwsAccess, known: Cutover, ctx: RunContext) -> LaunchResult | Starting:
    found = Ec2(access).describe_instances([known.instance_id]).get(known.instance_id)
    state = found.state if found is not None else "pending"  # EC2 shows a new one a moment later
    if state == "running":
        return rows.launched(rows.note(ledger, ctx, {"launched": ctx.clock.now()}, phase="Its instance runs"))
    if state == "pending":
        return Starting(known.instance_id, instance_is(known.instance_id, "running"))
    raise PermanentError(
        f"The instance is {state}",
        instance=known.instance_id,
        next_step="EC2 tells a reason (a volume's key, a limit). Then clear this task: it is launched again"
        if state in GONE_STATES
        else "Start it, then clear this task; or revert the cutover",
    )


def _require_off(known: Cutover) -> None:
    if known.source is not None and known.moment("stopping") and known.moment("down"):
        return
    raise PermanentError(
        "By the ledger, the source was not stopped and fenced: no instance may take its place beside it",
        cutover=known.id,
        next_step=f"Clear the server's {CONTINUE_FROM} task",
    )


def _run_of(ledger: Ledger, known: Cutover, image: MadeImage) -> ReplicationRun:
    with ledger.read() as tx:
        run = replication_runs.get(tx, replication_runs.run_id(known.run_key))
    if (run.id, run.ami_id) != (image.run, image.image_id) or not image.image_id:
        raise TamperedError(
            "What came by XCom is not the image of the server's last changes",
            field="image",
            expected=f"{run.ami_id} of {run.id}",
            found=f"{image.image_id} of {image.run}",
            next_step=f"Clear the server's {CUTOVER.task_id('ami')} task; find out who edited its XComs",
        )
    return run


def _require_image(run: ReplicationRun, image: MadeImage, known: Cutover) -> None:
    """An image of what the source held before it was stopped lacks what it wrote since."""
    began = known.moment("stopping")
    done = run.state is RunState.COMPLETED and not run.quarantine and run.recorded_at is not None
    if done and began is not None and run.recorded_at is not None and run.recorded_at >= began:
        return
    raise PermanentError(
        "The image does not hold what the source wrote last",
        run=run.id,
        state=str(run.state),
        image=image.image_id,
        next_step=f"Clear the server's {CONTINUE_FROM} task",
    )


def _request(ledger: Ledger, access: AwsAccess, plan: ServerPlan, known: Cutover, image_id: str) -> LaunchRequest:
    assert plan.cutover is not None  # it was admitted to one
    address = _address(plan, known)
    interface = _prepared_interface(ledger, access, known, plan, address)
    return LaunchRequest(
        image_id=image_id,
        instance_type=plan.instance_type or "",
        subnet_id=plan.subnet or "",
        client_token=client_token(known.run_key, "launch", instant=instant_of(image_id)),
        security_groups=plan.security_groups,
        private_ip="" if interface else address,
        tags=plan.made_with(known.run_key),
        key_name=plan.key_name or "",
        instance_profile=plan.instance_profile or "",
        network_interface=interface,
        volume_initialization_mib_s=plan.cutover.volume_initialization_mib_s or 0,
    )


def _address(plan: ServerPlan, known: Cutover) -> str:
    if plan.cutover is not None and plan.cutover.address == "keep":
        return kept_address(plan.private_ip, SourceBefore.load(known.source).addresses, server=known.server)
    return plan.private_ip or ""


def _prepared_interface(ledger: Ledger, access: AwsAccess, known: Cutover, plan: ServerPlan, address: str) -> str:
    """The network interface that ``prepare`` made for this address of the server; empty: none. One of another address
    or subnet, for which an older file asked, is not what was approved. It gets the security groups that were.

    :raises PermanentError: it was made, and is gone.
    """
    with ledger.read() as tx:
        steps = cutovers.steps_of(tx, cutovers.PREPARED_KIND, cutovers.prepared_id(known.wave, known.server))
    place = (plan.subnet or "", address)
    made = [row for row in steps if row.kind == ADDRESS and row.state in _STANDS and is_for(row.spec, *place)]
    if not made:
        return ""
    found = _interface_of(access, made[0])
    if plan.security_groups and not found.instance_id and set(found.security_groups) != set(plan.security_groups):
        Addresses(access).set_groups(found.interface_id, sorted(plan.security_groups))  # the file was changed since
    return found.interface_id


def _interface_of(access: AwsAccess, row: StepRow) -> Interface:
    step = build(access, row.kind, row.name, row.spec or {})
    found = step.interface() if isinstance(step, PrepareAddress) else None
    if found is None:
        raise PermanentError(
            "The network interface that was prepared is gone",
            step=row.name,
            next_step="Somebody deleted it. Run mode 'prepare' again, then clear this task",
        )
    return found
