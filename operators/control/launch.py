"""Launch: an instance from the AMI, when the plan says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from wavelift.airflow.links import InstanceLink, instance_url
from wavelift.operators.control._plane import ControlServerOperator, WaveRunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import ServerTask


class LaunchInstanceOperator(ControlServerOperator):
    """Launch an instance from the server's AMI when the plan says ``launch: running``; otherwise say why not.

    The client token derives from run and image: a retry finds the instance, it never makes a second (invariant 5).
    Returns a :class:`~wavelift.base.domain.LaunchResult`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param image: what :class:`ImportServerOperator` returned.
    :param compared: what :class:`CompareOperator` returned; None where it was skipped. The ledger learns it here.
    """

    template_inputs = ("image", "compared")
    image: Any
    compared: Any = None
    operator_extra_links = (InstanceLink(),)

    def work(self, context: Context) -> Any:
        if self.image is None:  # a person skipped what comes before; skips do not stop at this task's trigger rule
            raise AirflowSkipException("nothing was imported")
        return super().work(context)

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.base.domain import ImportResult
        from wavelift.services.migration.launch import launch

        target = task.plan.target
        access = self.aws_of(target)
        with self.ledger() as ledger:
            image = ImportResult.load(self.compared or self.image)
            result = launch(ledger, access, task, image, self.server_context(context, task.name))
        if result.instance_id:
            context["ti"].xcom_push(key=InstanceLink.key, value=instance_url(target.region, result.instance_id))
        return result.dump()


class LaunchImportedOperator(WaveRunOperator):
    """In mode ``launch``: launch the instances of finished imports; in every other mode there is nothing to do.

    :param admitted: what :class:`AdmitOperator` returned.
    """

    template_inputs = ("admitted",)
    admitted: Any

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.rules.authority import Action
        from wavelift.services.common import frozen
        from wavelift.services.common.authority import require_rights
        from wavelift.services.dataplane.messages import Admitted
        from wavelift.services.migration.launch import launch_later

        with self.ledger() as ledger:
            admitted = frozen.admitted(ledger, Admitted.load(self.admitted), self.server_context(context))
            if admitted.mode != "launch":
                return []
            require_rights(
                ledger, self.lost_rights(), Action.MIGRATE, self.server_context(context), rights=self.rights()
            )
            access = self.aws_of(admitted.wave.environment)
            results = [
                launch_later(ledger, access, admitted.wave, id, self.server_context(context, id))
                for id in admitted.migrations
            ]
        return [result.dump() for result in results]
