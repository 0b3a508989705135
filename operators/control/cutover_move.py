"""One server of a cutover, on the control plane: from the slot that permits to stop its source to the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from wavelift.airflow.links import InstanceLink, instance_url
from wavelift.base.errors import TamperedError
from wavelift.operators.control._plane import ControlServerOperator
from wavelift.operators.control._telling import TellingOperator
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.image import AmiOperator
from wavelift.operators.control.record import RecordOperator
from wavelift.operators.control.slots import ReservingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.errors import WaveliftError
    from wavelift.base.run import RunContext
    from wavelift.ledger import Ledger
    from wavelift.services.common.wanted import Terms
    from wavelift.services.dataplane.messages import ServerTask
    from wavelift.services.replication.image import MadeImage, Replicated


class CutoverServerOperator(ControlServerOperator):
    """Base of the control plane's tasks for one server of a cutover: whoever stands behind it may cut over.

    When one fails for good, the ledger says so at once: servers of later tiers are not stopped any more.
    """

    action = "cut_over"

    def leave_words(self, context: Context, error: WaveliftError) -> None:
        super().leave_words(context, error)
        came = getattr(self, "came", None)
        if came is None or isinstance(error, TamperedError) or self._next_try(context, error)["next_try_at"]:
            return  # which server it is for, an edited XCom does not say; another try may yet succeed
        from wavelift.ledger import cutovers
        from wavelift.services.cutover.moving import fail

        ctx = self.server_context(context, came.name)
        with self.ledger() as ledger:
            fail(ledger, ctx.run, cutovers.cutover_id(ctx.run_key), f"{self.task_id}: {error}", ctx)

    def go_on(self, task: ServerTask, context: Context) -> None:
        """:raises PermanentError: the cutover is over, goes back, or was cancelled."""
        from wavelift.services.cutover.moving import moving

        with self.ledger() as ledger:
            moving(ledger, task, self.server_context(context, task.name))

    def noted(
        self, task: ServerTask, context: Context, moment: str, at: datetime | None = None, **columns: Any
    ) -> None:
        """Write when something happened, now if ``at`` is None; once."""
        from wavelift.services.cutover.moving import note

        ctx = self.server_context(context, task.name)
        with self.ledger() as ledger:
            note(ledger, ctx, {moment: at or ctx.clock.now()}, **columns)


class ReserveCutoverOperator(CutoverServerOperator, ReservingOperator):
    """Admit the run of a server's last changes, wait, deferred, for its tier and its slots, and write that its source
    will be stopped.

    Control plane. Continuing a failed server means clearing from this task. Returns a
    :class:`~wavelift.services.dataplane.replication_messages.ReservedRun` with its ``stop``.

    :param server: one of the dicts that the pre-flight returned.
    """

    grant_action = "cutover"
    grant_scope = "stop"

    def before_snapshot(self, task: ServerTask) -> timedelta:
        minutes = task.plan.cutover.shutdown.timeout_minutes if task.plan.cutover else 0.0
        return timedelta(minutes=minutes)

    def terms(self, context: Context) -> Terms:
        """A source that is to be stopped in a window goes before what can wait."""
        from wavelift.rules.queue import Priority

        return replace(super().terms(context), priority=Priority.NEXT)

    def reserve(self, ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms) -> Any:
        from wavelift.services.cutover.reserve import reserve
        from wavelift.services.dataplane.replication_messages import ReservedRun

        found = reserve(ledger, task, ctx, limit=limit, terms=terms)
        return found.dump() if isinstance(found, ReservedRun) else found

    def wait_more(self, found: Any) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.tiers import TierTrigger
        from wavelift.services.cutover.reserve import InTier

        if not isinstance(found, InTier):
            self.wait_for_slot(found, soon=True)
        self.log.info("waits for earlier tiers: %s", found.words)
        self.wait_for(TierTrigger(cutover=found.cutover, poll_seconds=config.poll_seconds()))


class RecordFinalOperator(CutoverServerOperator, RecordOperator):
    """Record the EBS snapshots of a server's last changes, and when its source went down.

    Returns the server's name and its EBS snapshots.

    :param server: one of the dicts that the pre-flight returned.
    :param transferred: what :class:`FinalRunOperator` returned.
    :param stopped: what :class:`StopSourceOperator` returned.
    """

    template_inputs = ("stopped",)
    stopped: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.replication_messages import StoppedSource

        stopped = StoppedSource.load(self.stopped)
        if (stopped.server, stopped.vm) != (task.name, task.facts.moref):
            raise TamperedError(
                "Another server's source was stopped",
                field="stopped",
                expected=f"{task.name} ({task.facts.moref})",
                found=f"{stopped.server} ({stopped.vm})",
                server=task.name,
            )
        self.go_on(task, context)
        self.noted(task, context, "down", stopped.down_at, phase=f"Its source is off: {stopped.how}")
        made = super().work_on(task, context)
        self.noted(task, context, "recorded", phase="Its last changes are recorded")
        return made


class CutoverAmiOperator(CutoverServerOperator, AmiOperator):
    """Make the AMI of a server's last changes, by the method of its cutover.

    Every block that was sent is attested by its digest. It is read back later, before the cutover is finalized: nobody
    waits for that while the server is down. Returns a :class:`~wavelift.services.replication.image.MadeImage`.

    :param server: one of the dicts that the pre-flight returned.
    :param transferred: what :class:`FinalRunOperator` returned.
    """

    template_inputs = ("transferred", "verified")
    transferred: Any
    verified: Any = None

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        self.go_on(task, context)
        return super().work_on(task, context)

    def replicated(self, task: ServerTask) -> Replicated:
        method = task.plan.cutover.ami if task.plan.cutover else None
        return replace(super().replicated(task), attested=True, method=method)

    def finish(self, task: ServerTask, context: Context, made: MadeImage) -> dict[str, Any]:
        self.noted(task, context, "image", image_id=made.image_id, phase="Its image is made")
        return super().finish(task, context, made)


class StepsWaitingOperator(CutoverServerOperator, WaitingOperator):
    """What waits for AWS, or for a person, at one of a server's steps."""

    def wait_for_steps(self, task: ServerTask, waits: Sequence[str]) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.steps import StepsTrigger

        target = task.plan.target
        place = {"aws_conn_id": target.aws_conn_id, "region_name": target.region, "waits": list(waits)}
        self.wait_for(StepsTrigger(waits=[place], poll_seconds=config.poll_seconds()))


class LaunchTargetOperator(StepsWaitingOperator):
    """Launch the instance that takes the source's place, once the source is off and fenced, and wait, deferred, until
    it runs. At most one exists, whatever is retried or cleared.

    Returns a :class:`~wavelift.base.domain.LaunchResult`.

    :param server: one of the dicts that the pre-flight returned.
    :param image: what :class:`CutoverAmiOperator` returned.
    """

    template_inputs = ("image",)
    image: Any
    operator_extra_links = (InstanceLink(),)

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover.launch import Starting, launch
        from wavelift.services.replication.image import MadeImage

        target, image = task.plan.target, MadeImage.load(self.image)
        access = self.aws_of(target)
        with self.ledger() as ledger:
            found = launch(ledger, access, task, image, self.server_context(context, task.name))
        context["ti"].xcom_push(key=InstanceLink.key, value=instance_url(target.region, found.instance_id))
        if isinstance(found, Starting):
            self.log.info("instance %s starts", found.instance_id)
            self.wait_for_steps(task, (found.wait,))
        return found.dump()


class SwitchOperator(StepsWaitingOperator, TellingOperator):
    """Make the server's network steps, one after the other, and wait, deferred, until each has taken effect.

    Returns the server's name, its cutover and when it was switched.

    :param server: one of the dicts that the pre-flight returned.
    :param checked: what :class:`CheckInstanceOperator` returned.
    """

    template_inputs = ("checked",)
    checked: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover.persons import asked
        from wavelift.services.cutover.steps import Waits
        from wavelift.services.cutover.switch import switch
        from wavelift.services.dataplane.checks import CheckReport

        report = CheckReport.load(self.checked)
        access = self.aws_of(task.plan.target)
        with self.ledger() as ledger:
            found = switch(ledger, access, task, report, self.server_context(context, task.name))
            if isinstance(found, Waits):
                self.tell(ledger, asked(ledger, found.waits), "person", context)
        if isinstance(found, Waits):
            self.log.info("waits: %s", found.words)
            self.wait_for_steps(task, found.waits)
        return found.dump()
