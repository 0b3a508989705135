"""The instance of a migrated server."""

from __future__ import annotations

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, Instance
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.base.domain import ImportResult, LaunchResult
from wavelift.base.errors import PermanentError, ProofError, SpecError, located
from wavelift.base.names import TAG_RUN, client_token, instant_of, run_hash
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, migrations
from wavelift.rules.flows import SlotKind
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.services.common.slots import give_back
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.migration.image import record_image
from wavelift.services.migration.reserve import cancelled


def launch(ledger: Ledger, access: AwsAccess, task: ServerTask, image: ImportResult, ctx: RunContext) -> LaunchResult:
    """Launch the image when the plan says so, and complete the migration (AMP-01, AMP-08).

    :raises ProofError: when the image was never compared with its source although the plan asks for it.
    :raises PermanentError: when a person cancelled the migration.
    """
    id = migrations.migration_id(ctx.run_key)
    plan = task.plan
    with ledger.read() as tx:
        known = migrations.get(tx, id)
    if known.cancel_requested:
        raise cancelled(known)
    if plan.verify != "off" and not image.report:
        raise ProofError("The image has no conversion report", server=task.name, image=image.image_id)
    # `compare` may not write the ledger, so its result is recorded here. When only the launch was cleared, it is
    # recorded again: the migration may have ended, or an older image of it may have been in use.
    record_image(ledger, access, task, image, ctx)
    result = LaunchResult(server=task.name, skipped="the plan says launch: none")
    if plan.launch == "running":
        ctx.cancel.check()
        with ledger.write() as tx:
            migrations.advance(tx, id, MigrationState.LAUNCHING, phase="launching", clock=ctx.clock)
        with located(server=task.name):
            instance = launch_once(access, _launch_request(plan, image.image_id, ctx.run_key), ctx.run_key)
        result = LaunchResult(server=task.name, instance_id=instance.instance_id, private_ip=instance.private_ip)
    with ledger.write() as tx:
        migrations.record_launch(tx, id, result, clock=ctx.clock)
    with ledger.write() as tx:
        migrations.complete(tx, id, clock=ctx.clock)
    give_back(ledger, ctx.run_key, kinds=[SlotKind.ACCOUNT], clock=ctx.clock)
    return result


def launch_later(ledger: Ledger, access: AwsAccess, wave: ResolvedWave, id: str, ctx: RunContext) -> LaunchResult:
    """Launch the image of a finished migration with the present plan of its server in the wave.

    :raises SpecError: when the plan lacks something, or would start a twin beside its source (invariant 12).
    :raises NotFoundError: when there is no such migration; :raises PermanentError: when it has no image.
    """
    with ledger.read() as tx:
        known = migrations.get(tx, id)
    if not known.image_id or not known.state.terminal:
        raise PermanentError(
            f"The migration is {known.state} and has {known.image_id or 'no image'}",
            migration=id,
            server=known.server,
            next_step="Launch only finished imports; see wavelift migrations list",
        )
    plan = next((plan for plan in wave.servers if plan.server == known.server), None)
    if plan is None:
        raise SpecError(
            "The wave no longer lists this server", server=known.server, next_step="Add it to the wave's file again"
        )
    plan = plan.with_launch("running")
    with located(server=known.server):
        instance = launch_once(access, _launch_request(plan, known.image_id, known.run_key), known.run_key)
    result = LaunchResult(server=known.server, instance_id=instance.instance_id, private_ip=instance.private_ip)
    with ledger.write() as tx:
        migrations.record_launch(tx, id, result, clock=ctx.clock)
    return result


def launch_once(access: AwsAccess, request: LaunchRequest, run_key: str) -> Instance:
    """The run's instance of this image; launched unless it is there.

    :raises PermanentError: an instance of an older image of this server is there: two twins with one name, and
        perhaps one address, are no accident to make (invariant 12); nor is the older one ours to terminate."""
    ec2 = Ec2(access)
    older = [one for one in ec2.find_ours({TAG_RUN: run_hash(run_key)}).instances if one.image_id != request.image_id]
    if older:
        raise PermanentError(
            f"An instance of an older image of this server is {older[0].state}",
            instance=older[0].instance_id,
            image=older[0].image_id,
            next_step="Terminate it if nobody needs it; then clear this server's launch task, or launch it again",
        )
    return ec2.launch(request)


def _launch_request(plan: ServerPlan, image_id: str, run_key: str) -> LaunchRequest:
    return LaunchRequest(
        image_id=image_id,
        instance_type=plan.instance_type or "",
        subnet_id=plan.subnet or "",
        client_token=client_token(run_key, "launch", instant=instant_of(image_id)),
        security_groups=plan.security_groups,
        private_ip=plan.private_ip or "",
        tags=plan.made_with(run_key),
    )
