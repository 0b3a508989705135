"""The checks of an instance, near AWS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowRescheduleException

from wavelift.operators._base import ServerOperator
from wavelift.operators.connector._plane import EnvironmentOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.checks import CheckOrder
    from wavelift.services.dataplane.messages import ServerTask

LOOK_SECONDS: Final = 30
"""Each look starts a process for the task, which costs seconds of a core."""


class ChecksOperator(EnvironmentOperator):
    """What checks share: each look makes those that have not passed, and the task is rescheduled until all have.

    No worker is held in between.
    """

    def look(self, order: CheckOrder, context: Context) -> dict[str, Any]:
        """:raises ChecksFailedError: the time of a check is over."""
        from wavelift.services.dataplane.checks import make_checks

        ctx = self.server_context(context, order.server)
        report = make_checks(self.aws_of(order), order.instance, order.checks, ctx)
        if not report.passed:
            self.log.info("%s", report.waits())
            raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=LOOK_SECONDS))
        return report.dump()


class CheckInstanceOperator(ServerOperator, ChecksOperator):
    """Make the checks of a server's plan of its launched instance, until all have passed or their time is over.

    Runs on the environment's queue near AWS. Returns a :class:`~wavelift.services.dataplane.checks.CheckReport`.

    :param server: one of the dicts that the pre-flight returned.
    :param launched: what the launch returned: ``instance_id`` and ``private_ip``, with the server's name.
    """

    template_inputs = ("launched",)
    launched: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.base.domain import LaunchResult
        from wavelift.base.errors import PermanentError
        from wavelift.rules.guests import guest
        from wavelift.services.dataplane.checks import CheckedInstance, CheckOrder

        launched = LaunchResult.load(self.launched)
        if launched.server != task.name:
            raise PermanentError("What was launched is another server's", server=task.name, launched=launched.server)
        instance = CheckedInstance(
            server=task.name,
            instance_id=launched.instance_id,
            private_ip=launched.private_ip,
            region=task.plan.target.region,
            windows=guest(task.facts.guest_id).windows,
        )
        checks = task.plan.cutover.checks if task.plan.cutover else ()
        order = CheckOrder(instance=instance, aws_conn_id=task.plan.target.aws_conn_id, checks=checks)
        return self.look(order, context)


class CheckTestOperator(ChecksOperator):
    """Make the checks of a test instance. Otherwise as :class:`CheckInstanceOperator`.

    :param server: one of the dicts that ``images`` returned.
    :param launched: what :class:`LaunchTestOperator` returned: a
        :class:`~wavelift.services.dataplane.checks.CheckOrder`.
    """

    template_inputs = ("server", "launched")
    server: Any
    launched: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.checks import CheckOrder

        return self.look(CheckOrder.load(self.launched), context)
