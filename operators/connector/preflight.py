"""Pre-flight: one pass over the inventory and AWS before anything is created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._keys import REPORT_KEY
from wavelift.operators._liveness import AirflowLiveness
from wavelift.operators.connector._plane import ConnectorOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import Admitted, PreflightReport
    from wavelift.services.dataplane.preflight import PreflightOptions


class ServersPreflight(ConnectorOperator):
    """What the pre-flights of all flows share.

    Runs on the connector's queue. Pushes the whole report as XCom ``report``, and prints it as a table.
    """

    first_contact = True
    template_inputs = ("admitted",)
    admitted: Any

    def look(self, context: Context, request: Admitted, options: PreflightOptions) -> PreflightReport:
        """Find the servers, check them and AWS, and tell it."""
        from wavelift.services.dataplane.preflight import run_preflight

        access = self.aws_of(request.wave.environment)
        ctx = self.server_context(context, "*")
        with self.vcenter(request.wave.connection) as session:
            report = run_preflight(session, access, request, ctx, options)
        context["ti"].xcom_push(key=REPORT_KEY, value=report.dump())
        for line in report.lines():
            self.log.info("%s", line)
        return report


class PreflightOperator(ServersPreflight):
    """Find the wave's servers in vCenter, check them and AWS, and return those that may go.

    Returns one dict per server for the mapped group (none in the modes that create nothing). Rows AMP-06, SMS-11,
    SMS-12.

    :param admitted: what :class:`AdmitOperator` returned.
    """

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.messages import Admitted
        from wavelift.services.dataplane.preflight import PreflightOptions

        admitted = Admitted.load(self.admitted)
        if admitted.mode in ("launch", "verify"):
            return []
        if admitted.mode == "cleanup":
            self._clean_up(context, admitted)
            return []
        report = self.look(context, admitted, PreflightOptions(line=config.line_facts()))
        return self.hand_out(context, report.passed) if admitted.mode == "migrate" else []

    def _clean_up(self, context: Context, admitted: Admitted) -> None:
        """Remove what ended runs left outside."""
        from wavelift.services.dataplane.cleanup import sweep

        access = self.aws_of(admitted.wave.environment)
        with self.vcenter(admitted.wave.connection) as session:
            swept = sweep(session, access, admitted, AirflowLiveness(context), dag_id=context["ti"].dag_id)
        context["ti"].xcom_push(key=REPORT_KEY, value=swept.dump())
