"""Launch: an instance from the AMI, when the plan says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from wavelift.airflow.links import InstanceLink, instance_url
from wavelift.operators._base import WaveliftOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class LaunchInstanceOperator(WaveliftOperator):
    """Launch an instance from the server's AMI when the plan says ``launch: running``; otherwise say why not.

    The client token derives from run and image: a retry finds the instance, it never makes a second (invariant 5).
    Returns a :class:`~wavelift.base.domain.LaunchResult`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param image: what :class:`ImportServerOperator` returned.
    :param compared: what :class:`CompareOperator` returned; None where it was skipped. The ledger learns it here.
    """

    template_fields: Sequence[str] = ("server", "image", "compared")
    operator_extra_links = (InstanceLink(),)

    def __init__(self, *, server: Any, image: Any, compared: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.image = image
        self.compared = compared

    def work(self, context: Context) -> dict[str, Any]:
        if self.image is None:  # a person skipped what comes before; skips do not stop at this task's trigger rule
            raise AirflowSkipException("nothing was imported")
        from wavelift.airflow import config
        from wavelift.base.domain import ImportResult
        from wavelift.ledger import Ledger
        from wavelift.services.migration.launch import launch

        task = self.server_task(context, self.server)
        target = task.plan.target
        access = self.aws(target.aws_conn_id, target.region)
        with Ledger.open(config.ledger_url()) as ledger:
            image = ImportResult.load(self.compared or self.image)
            result = launch(ledger, access, task, image, self.server_context(context, task.name))
        if result.instance_id:
            context["ti"].xcom_push(key=InstanceLink.key, value=instance_url(target.region, result.instance_id))
        return result.dump()
