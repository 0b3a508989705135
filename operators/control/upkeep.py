"""The tasks of a replicate run that deletes or verifies replicas; every other run skips both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wavelift.operators._base import Heartbeat, StateStore, WaveliftOperator
from wavelift.operators.connector.replication import PROOF_KEY

if TYPE_CHECKING:
    from airflow.sdk import Context


class DeleteReplicasOperator(WaveliftOperator):
    """Remove what the runs of deleted jobs made outside, never their AMIs, and complete the deletions (SMS-09).

    Control plane. A retry, a clear or another run goes on with what is left. Returns one
    :class:`~wavelift.services.replication.upkeep.DeletedJob` per job.

    :param admitted: what :class:`AdmitReplicationOperator` returned.
    """

    template_fields: Sequence[str] = ("admitted",)

    def __init__(self, *, admitted: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.admitted = admitted

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.dataplane.replication_messages import AdmittedRuns
        from wavelift.services.replication.upkeep import delete_outside

        admitted = AdmittedRuns.load(self.admitted)
        fence = StateStore(context["task_state_store"])
        deleted = []
        with Ledger.open(config.ledger_url()) as ledger:
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


class VerifyRecordedOperator(WaveliftOperator):
    """Read the EBS snapshots of recorded runs back, whole, and compare them with their manifests (invariant 1).

    Runs on the environment's queue near AWS. Every run is read before the task fails without retry; the control plane
    then quarantines those that differ. Returns one
    :class:`~wavelift.services.dataplane.replication_messages.VerifiedRun` per run.

    :param admitted: what :class:`AdmitReplicationOperator` returned; it carries what is to be read.
    """

    template_fields: Sequence[str] = ("admitted",)

    def __init__(self, *, admitted: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.admitted = admitted

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.base.errors import ProofError
        from wavelift.services.dataplane.replication_messages import AdmittedRuns
        from wavelift.services.dataplane.verify_replicated import verify_recorded

        verified = []
        wrong: dict[str, str] = {}
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel):
            for recorded in AdmittedRuns.load(self.admitted).recorded:
                access = self.aws(recorded.aws_conn_id, recorded.region)
                try:
                    verified.append(verify_recorded(access, recorded, self._cancel).dump())
                except ProofError as error:
                    wrong[recorded.run] = str(error)
                    self.log.error("%s: %s", recorded.run, error)
        if wrong:
            context["ti"].xcom_push(key=PROOF_KEY, value=wrong)
            raise ProofError(
                "\n".join(wrong.values()),
                next_step="The next run sends every disk whole; the snapshots stay until the job is deleted",
            )
        return verified
