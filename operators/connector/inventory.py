"""What a connector tells of its vCenter and of itself. Runs on its queue and never meets the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._keys import PAGE_KEY
from wavelift.operators.connector._plane import ConnectorOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.catalog import CatalogRow


class CatalogInventoryOperator(ConnectorOperator):
    """Read the whole inventory of a vCenter; each page of 500 servers becomes an XCom of its own (SMS-02).

    Returns a :class:`~wavelift.base.catalog.CatalogIndex`.

    :param ticket: what :class:`BeginCatalogImportOperator` returned.
    """

    first_contact = True
    needs_grant = "nothing"
    template_inputs = ("ticket",)
    ticket: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.catalog import read_catalog

        ti = context["ti"]

        def hand_over(number: int, rows: list[CatalogRow]) -> None:
            ti.xcom_push(key=PAGE_KEY.format(number), value=[row.dump() for row in rows])

        with self.vcenter(self.ticket["connection"]) as session:
            index = read_catalog(session, hand_over, cancel=self._cancel)
        self.log.info("%d servers in %d pages from %s", index.rows, index.pages, index.manager.name)
        return index.dump()


class ConnectorCheckOperator(ConnectorOperator):
    """Try vCenter, each ESXi host, AWS and the clocks from the connector's queue (SMS-01).

    Returns a :class:`~wavelift.base.catalog.ConnectorHealth`: what fails is told there and fails no task.

    :param request: what :class:`BeginHealthCheckOperator` returned.
    """

    first_contact = True
    needs_grant = "nothing"
    template_inputs = ("request",)
    request: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.base.run import SystemClock
        from wavelift.services.dataplane.health import check_connector

        wanted = self.request

        def access() -> Any:
            return self.aws(wanted["aws_conn_id"], wanted["region"] or None)

        health = check_connector(
            wanted["connector"],
            lambda: self.vcenter(wanted["connection"]),
            access if wanted["aws_conn_id"] else None,
            clock=SystemClock(),
        )
        for check in health.checks:
            self.log.info("%-24s %s %s %s", check.name, "ok    " if check.ok else "FAILED", check.what, check.next_step)
        return health.dump()
