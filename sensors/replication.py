"""Wait for a replication run that somebody else started. Runs on the control plane: it reads the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from wavelift.operators._inputs import Declared
from wavelift.operators.control._plane import OpensLedger

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReplicationRunSensor(OpensLedger, Declared, BaseOperator):
    """Wait, deferred, until a replication run has ended; return what it made, or fail with its error.

    It watches only: killing it leaves the run alone. Never on a connector's queue: the ledger can't be reached there.

    :param run_id: ``run-…``, as the list of runs and the REST API give it.
    """

    template_inputs = ("run_id",)
    run_id: str

    def execute(self, context: Context) -> Any:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.replication_runs import ReplicationRunTrigger

        self.defer(
            trigger=ReplicationRunTrigger(run_id=self.run_id, poll_seconds=config.poll_seconds()),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """:raises AirflowFailException: when the run ended otherwise than completed."""
        from wavelift.base.errors import NotFoundError
        from wavelift.ledger import replication_runs

        if "error" in event:
            raise RuntimeError(f"watching {self.run_id} failed: {event['error']}")
        try:
            with self.ledger() as ledger, ledger.read() as tx:
                run = replication_runs.get(tx, self.run_id)
        except NotFoundError as error:
            raise AirflowFailException(str(error)) from error
        if run.state != "completed":
            raise AirflowFailException(f"{run.id} of {run.server} ended as {run.state}: {run.error or run.status}")
        return {
            "run": run.id,
            "server": run.server,
            "ami_id": run.ami_id,
            "bytes_sent": run.bytes_sent,
            "blocks_sent": run.blocks_sent,
        }
