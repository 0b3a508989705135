"""The pre-flight of a cutover, in the modes that look at servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._keys import LISTED_KEY
from wavelift.operators.connector.preflight import ServersPreflight

if TYPE_CHECKING:
    from airflow.sdk import Context


class CutoverPreflightOperator(ServersPreflight):
    """Find the servers that are to be cut over, and check them, AWS, and what a replication run needs.

    Runs on the connector's queue. Its whole report is XCom ``report``, of which the plan is made in every mode. Returns
    one dict per server that passed, for the mapped group; in other modes none, and they are XCom ``listed``.

    :param admitted: what :class:`AdmitCutoverOperator` returned.
    """

    grant_action = "cutover"

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.cutover_messages import AdmittedCutover
        from wavelift.services.dataplane.messages import Admitted
        from wavelift.services.dataplane.preflight import PreflightOptions

        admitted = AdmittedCutover.load(self.admitted)
        request = Admitted(
            wave=admitted.wave,
            mode="preflight",
            dag_id=admitted.dag_id,
            run_id=admitted.run_id,
            requested_by=admitted.requested_by,
            token=admitted.token,
            account_use=admitted.account_use,
        )
        options = PreflightOptions(
            config.integer("parallel_disks"),
            replicates=True,
            line=config.line_facts(),
            awaited=admitted.mode != "cutover",
        )
        report = self.look(context, request, options)
        listed = self.hand_out(context, [task for task in report.passed if task.name in admitted.servers])
        context["ti"].xcom_push(key=LISTED_KEY, value=listed)
        return listed if admitted.mode == "cutover" else []
