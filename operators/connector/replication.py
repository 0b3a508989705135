"""What a replicate run does on a connector's and an environment's queue. None of it reaches the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from wavelift.operators._base import Heartbeat, StateStore, WaveliftOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

PROOF_KEY: Final = "wavelift_proof"
"""XCom in which ``verify`` says that EBS does not hold the source: the control plane then quarantines the run."""
REPORT_KEY: Final = "report"
TRACKING_KEY: Final = "wavelift_tracking"
"""XCom in which ``transfer`` says whose change tracking lied: the control plane then notes that it isn't believed."""


class ReplicationPreflightOperator(WaveliftOperator):
    """The pre-flight of a wave over the servers that may run; returns one dict per server for the mapped group.

    Runs on the connector's queue; asks nobody when no server may run. Pushes the whole report as XCom ``report``.

    :param admitted: what :class:`AdmitReplicationOperator` returned.
    """

    first_contact = True
    template_fields: Sequence[str] = ("admitted",)

    def __init__(self, *, admitted: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.admitted = admitted

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.services.dataplane.messages import Admitted
        from wavelift.services.dataplane.preflight import PreflightOptions, run_preflight
        from wavelift.services.dataplane.replication_messages import AdmittedRuns

        admitted = AdmittedRuns.load(self.admitted)
        if not admitted.granted:
            return []
        environment = admitted.wave.environment
        access = self.aws(environment.aws_conn_id, environment.region)
        request = Admitted(
            wave=admitted.wave,
            mode="preflight",
            dag_id=admitted.dag_id,
            run_id=admitted.run_id,
            requested_by=admitted.requested_by,
        )
        with VsphereHook(admitted.wave.connection).session() as session:
            report = run_preflight(
                session,
                access,
                request,
                self.server_context(context, "*"),
                PreflightOptions(config.integer("parallel_disks"), replicates=True, line=config.line_facts()),
            )
        context["ti"].xcom_push(key=REPORT_KEY, value=report.dump())
        for line in report.lines():
            self.log.info("%s", line)
        return self.hand_out(context, [task for task in report.passed if task.name in admitted.granted])


class ReplicationRunOperator(WaveliftOperator):
    """Send a server's snapshot into EBS snapshots: whole at first, then only what changed (SMS-05).

    Runs on the connector's queue; its journals lie in ``[wavelift] connector_state_folder``. A retry continues the same
    EBS snapshots. Returns a :class:`~wavelift.base.domain.ReplicationResult`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param reserved: what :class:`ReserveRunOperator` returned: it carries what the run builds on.
    :param snapshot: what :class:`VmSnapshotOperator` returned.
    """

    template_fields: Sequence[str] = ("server", "reserved", "snapshot")

    def __init__(self, *, server: Any, reserved: Any, snapshot: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.reserved = reserved
        self.snapshot = snapshot

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.services.dataplane.disk_crew import FrozenServer
        from wavelift.services.dataplane.messages import TakenSnapshot
        from wavelift.services.dataplane.replication import ReplicationOptions, RunHistory, replicate_server
        from wavelift.services.dataplane.replication_messages import ReservedRun

        task = self.server_task(context, self.server)
        access = self.aws(task.plan.target.aws_conn_id, task.plan.target.region)
        ctx = self.server_context(context, task.name)
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

        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
            reserved = ReservedRun.load(self.reserved)
            history = RunHistory(reserved.lineages, reserved.unfinished, distrust)
            with VsphereHook(task.plan.connection).session() as session:
                source = FrozenServer(session, task, TakenSnapshot.load(self.snapshot))
                result = replicate_server(source, access, ctx, options, history)
        return result.dump()


class VerifyReplicatedOperator(WaveliftOperator):
    """Read back the run's EBS snapshots as the plan's ``verify`` says; fail without retry when a block differs.

    Runs on the environment's queue near AWS (invariant 1). Returns a
    :class:`~wavelift.services.dataplane.replication_messages.VerifiedRun`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param reserved: what :class:`ReserveRunOperator` returned: what the run built on.
    :param transferred: what :class:`ReplicationRunOperator` returned.
    """

    template_fields: Sequence[str] = ("server", "reserved", "transferred")

    def __init__(self, *, server: Any, reserved: Any, transferred: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.reserved = reserved
        self.transferred = transferred

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.base.domain import ReplicationResult
        from wavelift.base.errors import ProofError
        from wavelift.services.dataplane.replication_messages import ReservedRun
        from wavelift.services.dataplane.verify_replicated import verify_replicated

        task = self.server_task(context, self.server)
        access = self.aws(task.plan.target.aws_conn_id, task.plan.target.region)
        ctx = self.server_context(context, task.name)
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
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
