"""What a replicate run does on a connector's and an environment's queue. None of it reaches the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._base import ServerOperator
from wavelift.operators._keys import PROOF_KEY, TRACKING_KEY
from wavelift.operators.connector._plane import EnvironmentOperator, MovingOperator
from wavelift.operators.connector.preflight import ServersPreflight

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.rules.grants import Work
    from wavelift.services.dataplane.messages import ServerTask


class ReplicationPreflightOperator(ServersPreflight):
    """The pre-flight of a wave over the servers that may run; returns one dict per server for the mapped group.

    Asks nobody when no server may run.

    :param admitted: what :class:`AdmitReplicationOperator` returned.
    """

    grant_action = "replicate"

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.messages import Admitted
        from wavelift.services.dataplane.preflight import PreflightOptions
        from wavelift.services.dataplane.replication_messages import AdmittedRuns

        admitted = AdmittedRuns.load(self.admitted)
        if not admitted.granted:
            return []
        # Nobody waits for a scheduled run. What its connections lack now may be back at the retry.
        self.first_contact = not admitted.scheduled
        request = Admitted(
            wave=admitted.wave,
            mode="preflight",
            dag_id=admitted.dag_id,
            run_id=admitted.run_id,
            requested_by=admitted.requested_by,
            token=admitted.token,
            account_use=admitted.account_use,
        )
        options = PreflightOptions(config.integer("parallel_disks"), replicates=True, line=config.line_facts())
        report = self.look(context, request, options)
        return self.hand_out(context, [task for task in report.passed if task.name in admitted.granted])


class ReplicationRunOperator(MovingOperator):
    """Send a server's snapshot into EBS snapshots: whole at first, then only what changed (SMS-05).

    Runs on the connector's queue; its journals lie in ``[wavelift] connector_state_folder``. A retry continues the same
    EBS snapshots. Returns a :class:`~wavelift.base.domain.ReplicationResult`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param reserved: what :class:`ReserveRunOperator` returned: it carries what the run builds on.
    :param snapshot: what :class:`VmSnapshotOperator` returned.
    """

    grant_action: Work = "replicate"
    template_inputs = ("reserved", "snapshot")
    reserved: Any
    snapshot: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.disk_crew import FrozenServer
        from wavelift.services.dataplane.messages import TakenSnapshot
        from wavelift.services.dataplane.replication import ReplicationOptions, RunHistory, replicate_server
        from wavelift.services.dataplane.replication_messages import ReservedRun

        access = self.aws_of(task.plan.target)
        options = ReplicationOptions(
            state_folder=config.connector_state_folder(),
            workers=config.integer("transfer_workers"),
            parallel_disks=config.integer("parallel_disks"),
            line=config.line(),
        )
        lies: dict[str, str] = {}

        def distrust(key: int, why: str) -> None:
            lies[str(key)] = why
            context["ti"].xcom_push(key=TRACKING_KEY, value=lies)

        reserved = ReservedRun.load(self.reserved)
        history = RunHistory(reserved.lineages, reserved.unfinished, distrust)
        with self.moving(context, task.name) as ctx, self.vcenter(task.plan.connection) as session:
            source = FrozenServer(session, task, TakenSnapshot.load(self.snapshot))
            result = replicate_server(source, access, ctx, options, history)
        return result.dump()


class VerifyReplicatedOperator(ServerOperator, EnvironmentOperator):
    """Read back the run's EBS snapshots as the plan's ``verify`` says; fail without retry when a block differs.

    Runs on the environment's queue near AWS (invariant 1). Returns a
    :class:`~wavelift.services.dataplane.replication_messages.VerifiedRun`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param reserved: what :class:`ReserveRunOperator` returned: what the run built on.
    :param transferred: what :class:`ReplicationRunOperator` returned.
    """

    template_inputs = ("reserved", "transferred")
    reserved: Any
    transferred: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.base.domain import ReplicationResult
        from wavelift.base.errors import ProofError
        from wavelift.services.dataplane.replication_messages import ReservedRun
        from wavelift.services.dataplane.verify_replicated import verify_replicated

        access = self.aws_of(task.plan.target)
        with self.moving(context, task.name) as ctx:
            try:
                return verify_replicated(
                    access,
                    task,
                    ReplicationResult.load(self.transferred),
                    ReservedRun.load(self.reserved).lineages,
                    ctx,
                ).dump()
            except ProofError as error:
                context["ti"].xcom_push(key=PROOF_KEY, value={"server": task.name, "what": str(error)})
                raise


class VerifyRecordedOperator(EnvironmentOperator):
    """Read the EBS snapshots of recorded runs back, whole, and compare them with their manifests (invariant 1).

    Runs on the environment's queue near AWS. Every run is read before the task fails without retry; the control plane
    then quarantines those that differ. Returns one
    :class:`~wavelift.services.dataplane.replication_messages.VerifiedRun` per run.

    :param admitted: what :class:`AdmitReplicationOperator` returned; it carries what is to be read.
    """

    template_inputs = ("admitted",)
    admitted: Any

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.base.errors import ProofError
        from wavelift.services.dataplane.replication_messages import AdmittedRuns
        from wavelift.services.dataplane.verify_replicated import verify_recorded

        verified = []
        wrong: dict[str, str] = {}
        with self.moving(context, "*"):
            for recorded in AdmittedRuns.load(self.admitted).recorded:
                access = self.aws_of(recorded)
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
