"""The task of a replicate run that deletes replicas; every other run skips it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._base import StateStore
from wavelift.operators.control._plane import WaveRunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class DeleteReplicasOperator(WaveRunOperator):
    """Remove what the runs of deleted jobs made outside, never their AMIs, and complete the deletions (SMS-09).

    Control plane. A retry, a clear or another run goes on with what is left. Returns one
    :class:`~wavelift.services.replication.upkeep.DeletedJob` per job.

    :param admitted: what :class:`AdmitReplicationOperator` returned.
    """

    template_inputs = ("admitted",)
    admitted: Any

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.services.dataplane.replication_messages import AdmittedRuns
        from wavelift.services.replication.upkeep import check_ordered, delete_outside

        admitted = AdmittedRuns.load(self.admitted)
        fence = StateStore(context["task_state_store"])
        deleted = []
        with self.ledger() as ledger:
            check_ordered(ledger, admitted.jobs, self.server_context(context))
            for job_id in admitted.jobs:
                fence.set("deleting", job_id)
                found = delete_outside(ledger, self.aws, job_id, self.server_context(context))
                self.log.info(
                    "%s (%s): %d EBS snapshots and %d objects are gone",
                    found.job,
                    found.server,
                    len(found.snapshots),
                    found.objects,
                )
                for words in found.kept:
                    self.log.info("%s: stays: %s", found.job, words)
                deleted.append(found.dump())
        return deleted
