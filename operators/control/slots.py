"""The right to run one transfer on a connector: won before the snapshot, given back after its removal (invariant 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wavelift.operators._base import WaveliftOperator
from wavelift.operators.control._waiting import WaitingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReserveOperator(WaitingOperator):
    """Write the migration's intent row and wait, deferred, until the connector has a free slot (AMP-04).

    Control plane. Continuing a failed server means clearing from this task. Returns the server's name and migration id.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    """

    template_fields: Sequence[str] = ("server",)

    def __init__(self, *, server: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.common.slots import InQueue
        from wavelift.services.migration.reserve import reserve

        task = self.server_task(context, self.server)
        ctx = self.server_context(context, task.name)
        with Ledger.open(config.ledger_url()) as ledger:
            found = reserve(ledger, task, ctx, limit=config.integer("transfers_per_connector"))
        if isinstance(found, InQueue):
            self.wait_for_slot(found, soon=True)
        return {"server": task.name, "migration": found.migration_id}


class ReleaseOperator(WaveliftOperator):
    """Give the transfer slot back; a teardown that comes after the snapshot's removal.

    :param server: as for :class:`ReserveOperator`.
    """

    template_fields: Sequence[str] = ("server",)

    def __init__(self, *, server: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.migration.reserve import release

        task = self.server_task(context, self.server)
        removed = self._result(context, "remove_snapshot") is not None
        exported = self._result(context, "export") is not None
        with Ledger.open(config.ledger_url()) as ledger:
            release(ledger, self.server_context(context, task.name), removed=removed, exported=exported)
        return {"server": task.name, "snapshot_removed": removed}

    def _result(self, context: Context, sibling: str) -> Any:
        """What another task of this server's group returned; None when it did not succeed."""
        ti = context["ti"]
        group = self.task_id.rpartition(".")[0]
        return ti.xcom_pull(task_ids=f"{group}.{sibling}" if group else sibling, map_indexes=ti.map_index)
