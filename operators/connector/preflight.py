"""Pre-flight: one pass over the inventory and AWS before anything is created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from wavelift.operators._base import WaveliftOperator
from wavelift.operators._liveness import AirflowLiveness

if TYPE_CHECKING:
    from airflow.sdk import Context

REPORT_KEY: Final = "report"


class PreflightOperator(WaveliftOperator):
    """Find the wave's servers in vCenter, check them and AWS, and return those that may go.

    Runs on the connector's queue. Returns one dict per server for the mapped group (none in the modes that create
    nothing), pushes the whole report as XCom ``report``, and prints it as a table. Rows AMP-06, SMS-11, SMS-12.

    :param admitted: what :class:`AdmitOperator` returned.
    """

    first_contact = True
    template_fields: Sequence[str] = ("admitted",)

    def __init__(self, *, admitted: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.admitted = admitted

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.services.dataplane.cleanup import sweep
        from wavelift.services.dataplane.messages import Admitted
        from wavelift.services.dataplane.preflight import PreflightOptions, run_preflight

        admitted = Admitted.load(self.admitted)
        if admitted.mode in ("launch", "verify"):
            return []
        environment = admitted.wave.environment
        access = self.aws(environment.aws_conn_id, environment.region)
        with VsphereHook(admitted.wave.connection).session() as session:
            if admitted.mode == "cleanup":
                swept = sweep(session, access, admitted, AirflowLiveness(context))
                context["ti"].xcom_push(key=REPORT_KEY, value=swept.dump())
                return []
            options = PreflightOptions(line=config.line_facts())
            report = run_preflight(session, access, admitted, self.server_context(context, "*"), options)
        context["ti"].xcom_push(key=REPORT_KEY, value=report.dump())
        for line in report.lines():
            self.log.info("%s", line)
        return self.hand_out(context, report.passed) if admitted.mode == "migrate" else []
