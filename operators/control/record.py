"""The record of a replication run: its EBS snapshots become the base of the next run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators.control._plane import ControlServerOperator
from wavelift.operators.control._waiting import WaitingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import ServerTask


class RecordOperator(ControlServerOperator, WaitingOperator):
    """Wait, deferred, until AWS calls the run's EBS snapshots completed, then record them all at once (invariant 4).

    Returns the server's name and its EBS snapshots.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param transferred: what :class:`ReplicationRunOperator` returned.
    """

    template_inputs = ("transferred",)
    transferred: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.snapshots import EbsSnapshotsTrigger
        from wavelift.base.domain import ReplicationResult
        from wavelift.services.replication.record import record

        result = ReplicationResult.load(self.transferred)
        aws: dict[str, Any] = {"aws_conn_id": task.plan.target.aws_conn_id, "region_name": task.plan.target.region}
        with self.ledger() as ledger:
            pending = record(ledger, self.aws(**aws), task, result, self.server_context(context, task.name))
        if pending:
            self.log.info("AWS still works on %s", ", ".join(pending))
            self.wait_for(EbsSnapshotsTrigger(snapshot_ids=pending, poll_seconds=config.poll_seconds(), **aws))
        return {"server": task.name, "snapshots": [disk.lineage.snapshot_id for disk in result.disks]}
