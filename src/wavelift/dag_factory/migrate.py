"""``<wave>.migrate``: vCenter to AMI and instance.

admit → pre-flight → per server ``reserve`` → ``snapshot`` → ``export`` → {``remove_snapshot`` → ``release``} and
{``verify`` → ``import_image`` → ``compare`` → ``launch``} → report. The shape is the one that was run in
``facts/airflow-shapes.md`` section 2; the obvious ones lose data.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import DAG, task_group
from airflow.sdk.definitions.param import ParamsDict

from wavelift.airflow.notifications import wave_deadline
from wavelift.dag_factory.forms import form
from wavelift.operators.connector.export import VmExportOperator
from wavelift.operators.connector.preflight import PreflightOperator
from wavelift.operators.connector.snapshot import RemoveSnapshotOperator, VmSnapshotOperator
from wavelift.operators.connector.verify import CompareOperator, VerifyImportedOperator, VerifyOperator
from wavelift.operators.control.admit import AdmitOperator, LaunchImportedOperator, ReportOperator
from wavelift.operators.control.image import COMPARE, ImportServerOperator
from wavelift.operators.control.launch import LaunchInstanceOperator
from wavelift.operators.control.slots import ReleaseOperator, ReserveOperator
from wavelift.rules.conf import MigrateConf
from wavelift.rules.plans import WaveShape

MAX_RETRY_DELAY: Final = timedelta(minutes=10)
TEARDOWN_RETRIES: Final = 10
"""A snapshot that stays hurts the customer: its removal is tried for about an hour (back-off up to 10 minutes)."""
MAX_ACTIVE_RUNS: Final = 16
"""Admission decides per server, in the ledger; Airflow must not queue a run behind another (facts 4)."""

DOC: Final = """
Moves the servers of the wave **{wave}** from vCenter to Amazon EC2: snapshot, export with upload, proof, import-image,
launch. Trigger it with the form: choose servers (none chosen means all), *image only* or *launch*, and leave a note.

* **Continue a failed server**: open its mapped `server.reserve` task instance and *Clear* it. Do not use the group's
  *Clear*: it clears all servers.
* **Stop a server**: `wavelift migrations cancel ID`, or mark its running task failed. Its snapshot is removed.
"""


def migrate_dag(shape: WaveShape) -> DAG:
    """The migrate DAG of one wave; its structure does not depend on the server list."""
    dag = DAG(
        f"{shape.wave}.migrate",
        description=shape.description or f"Migrate the servers of {shape.wave} to EC2",
        doc_md=DOC.format(wave=shape.wave),
        schedule=None,
        catchup=False,
        max_active_runs=MAX_ACTIVE_RUNS,
        tags=["wavelift", f"wave:{shape.wave}", *([f"environment:{shape.environment}"] if shape.environment else [])],
        deadline=wave_deadline(shape),
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
    dag.params = ParamsDict(form(MigrateConf, servers=shape.server_names))
    return dag


def _tasks(shape: WaveShape) -> None:
    admit = AdmitOperator(task_id="admit", wave=shape.wave)
    preflight = PreflightOperator(task_id="preflight", admitted=admit.output, queue=shape.connector)
    launched = LaunchImportedOperator(task_id="launch_imported", admitted=admit.output)
    verified = VerifyImportedOperator(task_id="verify_imported", admitted=admit.output, queue=shape.environment_queue)

    @task_group(group_id="server")
    def per_server(server: Any) -> None:
        common: dict[str, Any] = {"server": server, "map_index_template": "{{ task.server['name'] }}"}
        near_vcenter = {**common, "queue": shape.connector}
        reserve = ReserveOperator(task_id="reserve", **common)
        snapshot = VmSnapshotOperator(task_id="snapshot", **near_vcenter)
        export = VmExportOperator(task_id="export", snapshot=snapshot.output, **near_vcenter)
        verify = VerifyOperator(task_id="verify", export=export.output, queue=shape.environment_queue, **common)
        image = ImportServerOperator(task_id="import_image", export=export.output, verified=verify.output, **common)
        compare = CompareOperator(
            task_id=COMPARE, export=export.output, image=image.output, queue=shape.environment_queue, **common
        )
        launch = LaunchInstanceOperator(
            task_id="launch",
            image=image.output,
            compared=compare.output,
            # `compare` may have been skipped. Not none_failed_min_one_success: before a mapped group is expanded
            # Airflow lets it wait for *every* server's tasks, and one that failed takes the others' launches along.
            trigger_rule="none_failed",
            **common,
        )
        # Teardowns without setups: with them, clearing one server would clear the snapshot of all (facts 2).
        remove = RemoveSnapshotOperator(task_id="remove_snapshot", retries=TEARDOWN_RETRIES, **near_vcenter)
        release = ReleaseOperator(task_id="release", retries=TEARDOWN_RETRIES, **common)
        for teardown in (remove, release):
            teardown.as_teardown(on_failure_fail_dagrun=True)
        reserve >> snapshot >> export >> [remove, verify]
        remove >> release
        verify >> image >> compare >> launch

    group = per_server.expand(server=preflight.output)
    report = ReportOperator(task_id="report", wave=shape.wave)
    report.as_teardown(on_failure_fail_dagrun=True)
    admit >> [preflight, launched, verified]
    [group, launched, verified] >> report
    dag = report.get_dag()
    assert dag is not None
    # `group >> x` leaves teardowns out: without these edges the report would run beside the removals.
    for name in ("server.remove_snapshot", "server.release"):
        dag.get_task(name) >> report
