"""``<wave>.replicate``: replicates the servers of a wave into AMIs, repeatedly.

:data:`wavelift.rules.flows.REPLICATE` defines the steps.
"""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import DAG, BaseOperator

from wavelift.airflow.notifications import wave_deadline
from wavelift.airflow.timetables import ReplicationTimetable
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.wave import TEARDOWN_RETRIES, WaveTasks, wave_dag
from wavelift.operators.connector.replication import (
    ReplicationPreflightOperator,
    ReplicationRunOperator,
    VerifyRecordedOperator,
    VerifyReplicatedOperator,
)
from wavelift.operators.connector.snapshot import RemoveSnapshotOperator, VmSnapshotOperator
from wavelift.operators.control.admit import AdmitReplicationOperator
from wavelift.operators.control.image import AmiOperator
from wavelift.operators.control.record import RecordOperator
from wavelift.operators.control.report import ReplicationReportOperator
from wavelift.operators.control.slots import ReleaseRunOperator, ReserveRunOperator
from wavelift.operators.control.upkeep import DeleteReplicasOperator
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.flows import REPLICATE
from wavelift.rules.plans import WaveShape

MAX_ACTIVE_RUNS: Final = 128
"""Admission refuses a run that is not allowed immediately. Airflow must not queue it."""

DOC: Final = """
Replicates the servers of the wave **{wave}** into AMIs: first the whole disks, then only changes. It runs automatically
at the times of the servers' replication jobs. Trigger it for an on-demand run (at most 2 per server in 24 hours; if no
server is chosen, all are replicated). If a server may not run now, the report shows the rule and the time.

* **Continue a failed server**: open its mapped `{reserve}` task instance and *Clear* it, with *downstream*. Do not use
  the group's *Clear*: it clears all servers.
* **A server that the pre-flight refused** has no tasks to clear. Remove the cause. Its next scheduled run takes it, or
  trigger this DAG again with the servers that the report names.
"""


def replicate_dag(shape: WaveShape) -> DAG:
    """The replicate DAG of one wave."""
    return wave_dag(
        ReplicateTasks(REPLICATE, shape),
        doc=DOC,
        form=form(ReplicateConf, servers=shape.server_names),
        schedule=ReplicationTimetable(wave=shape.wave),
        max_active_runs=MAX_ACTIVE_RUNS,
        deadline=wave_deadline(shape),
    )


class ReplicateTasks(WaveTasks):
    """The tasks of :data:`wavelift.rules.flows.REPLICATE`."""

    def of_run(self) -> Any:
        admitted = self.task(AdmitReplicationOperator, "admit", wave=self.shape.wave).output
        preflight = self.task(ReplicationPreflightOperator, "preflight", admitted=admitted)
        self.task(DeleteReplicasOperator, "delete_replicas", admitted=admitted, retries=TEARDOWN_RETRIES)
        self.task(VerifyRecordedOperator, "verify_recorded", admitted=admitted)
        return preflight.output

    def of_server(self) -> None:
        reserved = self.task(ReserveRunOperator, "reserve").output
        snapshot = self.task(VmSnapshotOperator, "snapshot", replicates=True).output
        transferred = self.task(ReplicationRunOperator, "transfer", reserved=reserved, snapshot=snapshot).output
        self.task(RecordOperator, "record", transferred=transferred)
        verified = self.task(VerifyReplicatedOperator, "verify", reserved=reserved, transferred=transferred).output
        self.task(AmiOperator, "ami", transferred=transferred, verified=verified)
        self.task(RemoveSnapshotOperator, "remove_snapshot")
        self.task(ReleaseRunOperator, "release")

    def report(self) -> BaseOperator:
        made: BaseOperator = self.task(ReplicationReportOperator, "report")
        return made
