"""What a connector tells of its vCenter and of itself. Runs on its queue and never meets the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from wavelift.operators._base import WaveliftOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.catalog import CatalogRow

PAGE_KEY: Final = "page_{:05d}"
"""XCom of one page of the catalogue; the pages of 5,000 VMs are ten."""


class CatalogInventoryOperator(WaveliftOperator):
    """Read the whole inventory of a vCenter; each page of 500 servers becomes an XCom of its own (SMS-02).

    Returns a :class:`~wavelift.base.catalog.CatalogIndex`.

    :param ticket: what :class:`BeginCatalogImportOperator` returned.
    """

    template_fields: Sequence[str] = ("ticket",)

    def __init__(self, *, ticket: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ticket = ticket

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.services.dataplane.catalog import read_catalog

        ti = context["ti"]

        def hand_over(number: int, rows: list[CatalogRow]) -> None:
            ti.xcom_push(key=PAGE_KEY.format(number), value=[row.dump() for row in rows])

        with VsphereHook(self.ticket["connection"]).session() as session:
            index = read_catalog(session, hand_over, cancel=self._cancel)
        self.log.info("%d servers in %d pages from %s", index.rows, index.pages, index.manager.name)
        return index.dump()


class ConnectorCheckOperator(WaveliftOperator):
    """Try vCenter, each ESXi host, AWS and the clocks from the connector's queue (SMS-01).

    Returns a :class:`~wavelift.base.catalog.ConnectorHealth`: what fails is told there and fails no task.

    :param request: what :class:`BeginHealthCheckOperator` returned.
    """

    first_contact = True
    template_fields: Sequence[str] = ("request",)

    def __init__(self, *, request: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.request = request

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.base.run import SystemClock
        from wavelift.services.dataplane.health import check_connector

        wanted = self.request

        def access() -> Any:
            return self.aws(wanted["aws_conn_id"], wanted["region"] or None)

        health = check_connector(
            wanted["connector"],
            VsphereHook(wanted["connection"]).session,
            access if wanted["aws_conn_id"] else None,
            clock=SystemClock(),
        )
        for check in health.checks:
            self.log.info("%-24s %s %s %s", check.name, "ok    " if check.ok else "FAILED", check.what, check.next_step)
        return health.dump()
