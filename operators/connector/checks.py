"""The checks of an instance, near AWS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowRescheduleException

from wavelift.operators._base import ServerOperator
from wavelift.operators.connector._plane import EnvironmentOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import ServerTask

LOOK_SECONDS: Final = 30
"""Each look starts a process for the task, which costs seconds of a core."""


class CheckInstanceOperator(ServerOperator, EnvironmentOperator):
    """Make the checks of a server's plan of its launched instance, until all have passed or their time is over.

    Runs on the environment's queue near AWS, and holds no worker while it waits: it is rescheduled. Returns a
    :class:`~wavelift.services.dataplane.checks.CheckReport`.

    :param server: one of the dicts that the pre-flight returned.
    :param launched: what the launch returned: ``instance_id`` and ``private_ip``, with the server's name.
    """

    template_inputs = ("launched",)
    launched: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.base.domain import LaunchResult
        from wavelift.base.errors import PermanentError
        from wavelift.rules.guests import guest
        from wavelift.services.dataplane.checks import CheckedInstance, make_checks

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
        access = self.aws_of(task.plan.target)
        checks = task.plan.cutover.checks if task.plan.cutover else ()
        report = make_checks(access, instance, checks, self.server_context(context, task.name))
        if not report.passed:
            self.log.info("%s", report.waits())
            raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=LOOK_SECONDS))
        return report.dump()
