"""``<wave>.migrate``: from vCenter to AMI and instance. :data:`wavelift.rules.flows.MIGRATE` defines the steps."""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import DAG, BaseOperator

from wavelift.airflow.notifications import wave_deadline
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.wave import WaveTasks, wave_dag
from wavelift.operators.connector.export import VmExportOperator
from wavelift.operators.connector.preflight import PreflightOperator
from wavelift.operators.connector.snapshot import RemoveSnapshotOperator, VmSnapshotOperator
from wavelift.operators.connector.verify import CompareOperator, VerifyImportedOperator, VerifyOperator
from wavelift.operators.control.admit import AdmitOperator
from wavelift.operators.control.image import ImportServerOperator
from wavelift.operators.control.launch import LaunchImportedOperator, LaunchInstanceOperator
from wavelift.operators.control.report import ReportOperator
from wavelift.operators.control.slots import ReleaseOperator, ReserveOperator
from wavelift.rules.conf import MigrateConf
from wavelift.rules.flows import MIGRATE
from wavelift.rules.plans import WaveShape

MAX_ACTIVE_RUNS: Final = 16
"""Admission decides for each server, in the ledger. Airflow must not queue one run behind another."""

DOC: Final = """
Migrates the servers of the wave **{wave}** from vCenter to Amazon EC2: snapshot, export with upload, proof, image
import, launch. Trigger it with the form: choose servers (none means all) and *image only* or *launch*, and add a note.

* **Continue a failed server**: open its mapped `{reserve}` task instance and *Clear* it, with *downstream*. Do not use
  the group's *Clear*: it clears all servers.
* **A server that the pre-flight refused** has no tasks to clear. Remove the cause, then trigger this DAG again with the
  servers that the report names.
* **Stop a server**: `wavelift migrations cancel ID`, or mark its running task failed. Its snapshot is removed.
"""


def migrate_dag(shape: WaveShape) -> DAG:
    """The migrate DAG of one wave."""
    return wave_dag(
        MigrateTasks(MIGRATE, shape),
        doc=DOC,
        form=form(MigrateConf, servers=shape.server_names),
        schedule=None,
        max_active_runs=MAX_ACTIVE_RUNS,
        deadline=wave_deadline(shape),
    )


class MigrateTasks(WaveTasks):
    """The tasks of :data:`wavelift.rules.flows.MIGRATE`."""

    def of_run(self) -> Any:
        admitted = self.task(AdmitOperator, "admit", wave=self.shape.wave).output
        preflight = self.task(PreflightOperator, "preflight", admitted=admitted)
        self.task(LaunchImportedOperator, "launch_imported", admitted=admitted)
        self.task(VerifyImportedOperator, "verify_imported", admitted=admitted)
        return preflight.output

    def of_server(self) -> None:
        self.task(ReserveOperator, "reserve")
        snapshot = self.task(VmSnapshotOperator, "snapshot").output
        export = self.task(VmExportOperator, "export", snapshot=snapshot).output
        verified = self.task(VerifyOperator, "verify", export=export).output
        image = self.task(ImportServerOperator, "import_image", export=export, verified=verified).output
        compared = self.task(CompareOperator, "compare", export=export, image=image).output
        # `compare` may be skipped. Not none_failed_min_one_success: before a mapped group is expanded, Airflow makes
        # that rule wait for the tasks of *every* server, and one failed server would prevent the launch of the others.
        self.task(LaunchInstanceOperator, "launch", image=image, compared=compared, trigger_rule="none_failed")
        self.task(RemoveSnapshotOperator, "remove_snapshot")
        self.task(ReleaseOperator, "release")

    def report(self) -> BaseOperator:
        made: BaseOperator = self.task(ReportOperator, "report", wave=self.shape.wave)
        return made
