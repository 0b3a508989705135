"""Upkeep of instance exports on the control plane: those whose run was killed are ended, and what they made goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._base import StateStore
from wavelift.operators.control._plane import ControlOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ExportUpkeepOperator(ControlOperator):
    """End exports whose DAG run has ended without its last tasks, and remove what they made (VIE-06).

    What AWS still works on is looked at the next time. Returns one line for each.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.instance_export.upkeep import end_dead

        store = StateStore(context["task_state_store"])
        with self.ledger() as ledger:
            ctx = self.server_context(context)
            ended = end_dead(ledger, self.aws_of, ctx, fence=lambda: store.set("removing", "exports"))
        for line in ended:
            self.log.warning("%s", line)
        return {"ended": list(ended)}
