"""The network of a server is switched to its instance: the end of a cutover's way forward."""

from __future__ import annotations

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.domain import Instant, Message
from wavelift.base.errors import PermanentError, TamperedError, located
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState
from wavelift.rules.flows import CUTOVER
from wavelift.services.cutover import moving as rows
from wavelift.services.cutover.step_kinds import Facts, plan_of
from wavelift.services.cutover.steps import Waits, advance, cutover_subject, write_plan
from wavelift.services.dataplane.checks import CheckReport, name_of, with_status
from wavelift.services.dataplane.messages import ServerTask


class Switched(Message):
    """What ``switch`` returns."""

    server: str
    cutover: str
    instance_id: str
    switched_at: Instant | None


def switch(
    ledger: Ledger, access: AwsAccess, task: ServerTask, report: CheckReport, ctx: RunContext
) -> Switched | Waits:
    """Record that the instance passed its checks, and make the network steps, as far as possible. Never one twice.

    :raises ChangedElsewhere: somebody else changed a place. :raises PermanentError: a step is impossible or took too
        long, the cutover goes back or is over, or its window is over and the plan says to go back then.
    """
    with located(server=task.name):
        known = rows.moving(ledger, task, ctx)
        if known.state is CutoverState.SWITCHED:
            return _told(known)
        known = _checked(ledger, known, task, report, ctx)
        subject = cutover_subject(known)
        write_plan(ledger, subject, plan_of(task.plan), clock=ctx.clock)
        found = advance(ledger, access, subject, ctx, facts=_facts(access, known))
        if isinstance(found, Waits):
            rows.tell(ledger, ctx, f"Switches: {found.words}")
            return found
        return _told(_switched(ledger, ctx))


def _checked(ledger: Ledger, known: Cutover, task: ServerTask, report: CheckReport, ctx: RunContext) -> Cutover:
    """From here on, later tiers may begin. Every check of the frozen plan must have passed, not only those that came.

    :raises TamperedError: one has not.
    """
    assert task.plan.cutover is not None  # it was admitted to one
    asked = [(each.kind, name_of(each)) for each in with_status(task.plan.cutover.checks)]
    passed = report.passed and [(each.kind, each.name) for each in report.outcomes] == asked
    if (report.server, report.instance_id, passed) != (known.server, known.instance_id, True):
        raise TamperedError(
            "What came by XCom does not say that the server's instance passed its checks",
            field="checked",
            expected=known.instance_id,
            found=f"{report.instance_id}: {report.waits() or [each.name for each in report.outcomes]}",
            next_step=f"Clear the server's {CUTOVER.task_id('check')} task; find out who edited its XComs",
        )
    checks = [each.dump() for each in report.outcomes]
    return rows.note(ledger, ctx, {"checked": ctx.clock.now()}, checks=checks, phase="Switches its network")


def _facts(access: AwsAccess, known: Cutover) -> Facts:
    """:raises PermanentError: the instance does not run: nothing is switched to it."""
    found = Ec2(access).describe_instances([known.instance_id]).get(known.instance_id)
    if found is None or found.state != "running":
        raise PermanentError(
            f"The instance is {found.state if found is not None else 'gone'}: nothing is switched to it",
            instance=known.instance_id,
            next_step="Start it, then clear this task; or revert the cutover",
        )
    return Facts(
        instance_id=found.instance_id,
        private_ip=found.private_ip,
        public_ip=found.public_ip,
        interface=Addresses(access).primary_of(found.instance_id).interface_id,
    )


def _switched(ledger: Ledger, ctx: RunContext) -> Cutover:
    with ledger.read() as tx:
        wave = rows.of_server(tx, ctx).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = rows.of_server(tx, ctx, lock=True)
        at = ctx.clock.now()
        phase = "Its instance serves"
        state = CutoverState.SWITCHED
        return cutovers.note_time(tx, known, "switched", at=at, by=ctx.run, state=state, phase=phase, error="")


def _told(known: Cutover) -> Switched:
    return Switched(
        server=known.server,
        cutover=known.id,
        instance_id=known.instance_id,
        switched_at=known.moment("switched"),
    )
