"""Pre-flight: one pass over the inventory and AWS before anything is created."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wavelift.operators._keys import REPORT_KEY
from wavelift.operators._liveness import AirflowLiveness
from wavelift.operators.connector._plane import ConnectorOperator, OpensVcenter

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import Admitted, PreflightReport
    from wavelift.services.dataplane.preflight import PreflightOptions


class ServersPreflight(ConnectorOperator):
    """What the pre-flights of all flows share.

    Runs on the connector's queue. Pushes the whole report as XCom ``report``, and prints it as a table.
    """

    first_contact = True
    needs_grant = "look"
    template_inputs = ("admitted",)
    admitted: Any

    def look(self, context: Context, request: Admitted, options: PreflightOptions) -> PreflightReport:
        """Find the servers, check them and AWS, and tell it: also what could not be opened.

        :raises PermanentError: a connection is wrong. The report that was pushed says what, and what else is wrong.
        """
        from wavelift.rules.grants import ALL_SERVERS, digest_of_wave
        from wavelift.services.dataplane.preflight import Sides, look

        wave = request.wave
        grant = self.verify_grant(
            context,
            request.token,
            scope="look",
            environment=wave.environment.environment,
            server=ALL_SERVERS,
            vm="",
            vcenter=wave.connection,
            plan=digest_of_wave(wave),
        )
        sides = Sides(lambda: self.vcenter(wave.connection), lambda: self.aws_of(wave.environment))
        options = replace(options, grant=grant)
        looked = look(sides, request, self.server_context(context, "*"), options)
        context["ti"].xcom_push(key=REPORT_KEY, value=looked.report.dump())
        for line in looked.report.lines():
            self.log.info("%s", line)
        return looked.believed(last=options.awaited)


class PreflightOperator(ServersPreflight):
    """Find the wave's servers in vCenter, check them and AWS, and return those that may go.

    Returns one dict per server for the mapped group (none in the modes that create nothing).

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
        options = PreflightOptions(line=config.line_facts(), awaited=admitted.mode != "migrate")
        report = self.look(context, admitted, options)
        return self.hand_out(context, report.passed) if admitted.mode == "migrate" else []

    def _clean_up(self, context: Context, admitted: Admitted) -> None:
        """Remove what ended runs left outside."""
        from wavelift.services.dataplane.cleanup import sweep

        access = self.aws_of(admitted.wave.environment)
        with OpensVcenter.vcenter(self, admitted.wave.connection) as session:  # cleaning up needs no grant
            swept = sweep(session, access, admitted, AirflowLiveness(context), dag_id=context["ti"].dag_id)
        context["ti"].xcom_push(key=REPORT_KEY, value=swept.dump())
