"""``<wave>.replicate``: the servers of a wave, again and again, into AMIs.

admit → pre-flight → per server ``reserve`` → ``snapshot`` → ``transfer`` → ``record`` → {``remove_snapshot`` →
``release``} and {``verify`` → ``ami``} → report. A run in mode ``delete`` or ``verify`` has one task of its own
instead: ``delete_replicas`` or ``verify_recorded``. The shape is that of :mod:`wavelift.dag_factory.migrate`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import DAG, task_group
from airflow.sdk.definitions.param import ParamsDict

from wavelift.airflow.timetables import ReplicationTimetable
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.migrate import MAX_RETRY_DELAY, TEARDOWN_RETRIES
from wavelift.operators.connector.replication import (
    ReplicationPreflightOperator,
    ReplicationRunOperator,
    VerifyReplicatedOperator,
)
from wavelift.operators.connector.snapshot import RemoveSnapshotOperator, VmSnapshotOperator
from wavelift.operators.control.replication import (
    UPKEEP,
    AdmitReplicationOperator,
    AmiOperator,
    RecordOperator,
    ReleaseRunOperator,
    ReplicationReportOperator,
    ReserveRunOperator,
)
from wavelift.operators.control.upkeep import DeleteReplicasOperator, VerifyRecordedOperator
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.plans import WaveShape

MAX_ACTIVE_RUNS: Final = 128
"""A request that may not run is refused by admission, at once; Airflow must not queue it."""

DOC: Final = """
Replicates the servers of the wave **{wave}** into AMIs: the whole disks at first, then what has changed. It runs by
itself at the instants of the servers' replication jobs. Trigger it for a run on demand (at most 2 per server in 24
hours; none chosen means all): a server that may not run now is told in the report, with the rule and the time.

* **Continue a failed server**: open its mapped `server.reserve` task instance and *Clear* it. Do not use the group's
  *Clear*: it clears all servers.
"""


def replicate_dag(shape: WaveShape) -> DAG:
    """The replicate DAG of one wave; its structure does not depend on the server list."""
    dag = DAG(
        f"{shape.wave}.replicate",
        description=shape.description or f"Replicate the servers of {shape.wave} into AMIs",
        doc_md=DOC.format(wave=shape.wave),
        schedule=ReplicationTimetable(wave=shape.wave),
        catchup=False,
        max_active_runs=MAX_ACTIVE_RUNS,
        tags=["wavelift", f"wave:{shape.wave}", *([f"environment:{shape.environment}"] if shape.environment else [])],
        # Registered by whoever puts it into a DAG file's globals: being built alone must not move a DAG to that file.
        auto_register=False,
        default_args={
            "retries": max(2, shape.retries),
            "retry_delay": timedelta(seconds=shape.retry_delay_s),
            "retry_exponential_backoff": True,
            "max_retry_delay": MAX_RETRY_DELAY,
        },
    )
    with dag:
        _tasks(shape)
    # Only now: Airflow copies the form that it finds, all the servers' names, into each task made after it.
    dag.params = ParamsDict(form(ReplicateConf, servers=shape.server_names))
    return dag


def _tasks(shape: WaveShape) -> None:
    admit = AdmitReplicationOperator(task_id="admit", wave=shape.wave)
    preflight = ReplicationPreflightOperator(task_id="preflight", admitted=admit.output, queue=shape.connector)

    @task_group(group_id="server")
    def per_server(server: Any) -> None:
        common: dict[str, Any] = {"server": server, "map_index_template": "{{ task.server['name'] }}"}
        near_vcenter = {**common, "queue": shape.connector}
        reserve = ReserveRunOperator(task_id="reserve", **common)
        snapshot = VmSnapshotOperator(task_id="snapshot", replicates=True, **near_vcenter)
        transfer = ReplicationRunOperator(
            task_id="transfer", reserved=reserve.output, snapshot=snapshot.output, **near_vcenter
        )
        record = RecordOperator(task_id="record", transferred=transfer.output, **common)
        verify = VerifyReplicatedOperator(
            task_id="verify",
            reserved=reserve.output,
            transferred=transfer.output,
            queue=shape.environment_queue,
            **common,
        )
        ami = AmiOperator(task_id="ami", transferred=transfer.output, verified=verify.output, **common)
        # Teardowns without setups: with them, clearing one server would clear the snapshot of all (facts 2).
        remove = RemoveSnapshotOperator(task_id="remove_snapshot", retries=TEARDOWN_RETRIES, **near_vcenter)
        release = ReleaseRunOperator(task_id="release", retries=TEARDOWN_RETRIES, **common)
        for teardown in (remove, release):
            teardown.as_teardown(on_failure_fail_dagrun=True)
        reserve >> snapshot >> transfer >> record >> [remove, verify]
        remove >> release
        verify >> ami

    group = per_server.expand(server=preflight.output)
    report = ReplicationReportOperator(task_id="report")
    report.as_teardown(on_failure_fail_dagrun=True)
    admit >> preflight
    group >> report
    delete = DeleteReplicasOperator(task_id=UPKEEP["delete"], admitted=admit.output, retries=TEARDOWN_RETRIES)
    verify_again = VerifyRecordedOperator(
        task_id=UPKEEP["verify"], admitted=admit.output, queue=shape.environment_queue
    )
    [delete, verify_again] >> report
    dag = report.get_dag()
    assert dag is not None
    # `group >> x` leaves teardowns out: without these edges the report would run beside the removals.
    for name in ("server.remove_snapshot", "server.release"):
        dag.get_task(name) >> report
