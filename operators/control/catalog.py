"""The control plane's tasks of the catalogue and of connectors' health: they alone write the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowSkipException

from wavelift.operators._base import conf_of, requester_of
from wavelift.operators._keys import PAGE_KEY
from wavelift.operators.control._plane import ControlOperator
from wavelift.operators.control.report import words_left

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.catalog import CatalogRow

STEPS: Final = ("begin", "inventory", "merge")


class BeginCatalogImportOperator(ControlOperator):
    """Begin one import of a catalogue. Returns an :class:`~wavelift.services.housekeeping.catalog.ImportTicket`.

    :param connector: the queue that reads; its registered connection is used when the form gives none.
    """

    plain_inputs = ("connector",)
    connector: str

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.housekeeping.catalog import begin_import

        ctx = self.server_context(context)
        with self.ledger() as ledger:
            return begin_import(ledger, conf_of(context), ctx, connector=self.connector).dump()


class MergeCatalogOperator(ControlOperator):
    """Merge the pages one by one; mark what is gone only after the last (SMS-02).

    Returns an :class:`~wavelift.services.housekeeping.catalog.ImportSummary`.

    :param ticket: what :class:`BeginCatalogImportOperator` returned.
    :param index: what :class:`~wavelift.operators.connector.inventory.CatalogInventoryOperator` returned.
    """

    template_inputs = ("ticket", "index")
    ticket: Any
    index: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.base.catalog import CatalogIndex, CatalogRow
        from wavelift.base.errors import WaveliftError
        from wavelift.base.run import DagRun, SystemClock
        from wavelift.services.housekeeping.catalog import ImportTicket, merge_import

        ti = context["ti"]

        def page(number: int) -> list[CatalogRow]:
            self._cancel.check()
            rows = ti.xcom_pull(task_ids="inventory", key=PAGE_KEY.format(number), map_indexes=-1)
            if rows is None:
                raise WaveliftError(
                    "A page of the catalogue is not there", next_step="Clear the run's inventory task", page=number
                )
            return [CatalogRow.load(row) for row in rows]

        with self.ledger() as ledger:
            summary = merge_import(
                ledger,
                ImportTicket.load(self.ticket),
                CatalogIndex.load(self.index),
                page,
                run=DagRun(ti.dag_id, ti.run_id),
                clock=SystemClock(),
            )
        self.log.info("%s", summary)
        return summary.dump()


class CloseCatalogImportOperator(ControlOperator):
    """Give the catalogue back its state when an earlier task did not succeed, and fail then; use it as a teardown.

    :param ticket: what :class:`BeginCatalogImportOperator` returned; None when it failed.
    """

    template_inputs = ("ticket",)
    ticket: Any

    def work(self, context: Context) -> None:
        from wavelift.base.errors import PermanentError
        from wavelift.base.run import DagRun, SystemClock
        from wavelift.services.housekeeping.catalog import ImportTicket, abort_import

        ti = context["ti"]
        states: dict[str, str] = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        bad = next((step for step in STEPS if states.get(step) != "success"), None)
        if bad is None:
            return
        what, next_step = words_left(ti, bad)
        words = what or f"{bad} was stopped"
        if self.ticket is not None:
            with self.ledger() as ledger:
                run = DagRun(ti.dag_id, ti.run_id)
                abort_import(ledger, ImportTicket.load(self.ticket), words, run=run, clock=SystemClock())
        raise PermanentError(words, next_step=next_step)


class BeginHealthCheckOperator(ControlOperator):
    """What a connector is to try: the form's words, else what is registered (SMS-01).

    A scheduled run of a connector that is not registered is skipped. It runs every few minutes, so it also closes the
    migrations on the connector that wait for a DAG run which is over, or was deleted. Returns a
    :class:`~wavelift.services.housekeeping.catalog.HealthRequest`.

    :param connector: the queue that is asked.
    """

    plain_inputs = ("connector",)
    connector: str

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.housekeeping.catalog import health_request
        from wavelift.services.migration.waiting import close_abandoned

        scheduled = context["dag_run"].run_type == "scheduled"
        with self.ledger() as ledger:
            for row in close_abandoned(ledger, self.server_context(context), connector=self.connector):
                self.log.info("%s (%s) is %s: %s", row.id, row.server, row.state, row.error)
            found = health_request(ledger, conf_of(context), connector=self.connector, scheduled=scheduled)
        if found is None:
            raise AirflowSkipException(f"connector {self.connector} is not registered")
        return found.dump()


class RecordHealthOperator(ControlOperator):
    """Keep what a connector found, with its time; returns whether all was well.

    :param health: what :class:`~wavelift.operators.connector.inventory.ConnectorCheckOperator` returned.
    """

    template_inputs = ("health",)
    health: Any

    def work(self, context: Context) -> bool:
        from wavelift.base.catalog import ConnectorHealth
        from wavelift.base.run import SystemClock
        from wavelift.services.housekeeping.catalog import record_health

        health = ConnectorHealth.load(self.health)
        with self.ledger() as ledger:
            kept = record_health(ledger, health, by=requester_of(context), clock=SystemClock())
        if not kept:
            self.log.info("connector %s is not registered: its health is kept in this run only", health.connector)
        return health.ok
