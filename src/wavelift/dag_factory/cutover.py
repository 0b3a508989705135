"""``<wave>.cutover``: switches the servers of a wave to their EC2 instances, and back.

:data:`wavelift.rules.flows.CUTOVER` defines the steps.
"""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import DAG, BaseOperator

from wavelift.airflow.notifications import window_deadline
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.wave import TEARDOWN_RETRIES, WaveTasks, wave_dag
from wavelift.operators._keys import LISTED_KEY
from wavelift.operators.connector.checks import CheckInstanceOperator
from wavelift.operators.connector.cutover import CutoverSnapshotOperator, FinalRunOperator, StopSourceOperator
from wavelift.operators.connector.cutover_back import StartSourcesOperator
from wavelift.operators.connector.cutover_preflight import CutoverPreflightOperator
from wavelift.operators.connector.snapshot import RemoveSnapshotOperator
from wavelift.operators.control.cutover_back import (
    CutoverReportOperator,
    FinalizeOperator,
    PrepareOperator,
    RevertedOperator,
    RevertFailedOperator,
    UndoOperator,
)
from wavelift.operators.control.cutover_move import (
    CutoverAmiOperator,
    LaunchTargetOperator,
    RecordFinalOperator,
    ReserveCutoverOperator,
    SwitchOperator,
)
from wavelift.operators.control.cutover_plan import (
    PAGE_KEY,
    AdmitCutoverOperator,
    ApproveCutoverOperator,
    ApproveFinalizeOperator,
    GoOperator,
    PlanCutoverOperator,
    PresyncOperator,
    WindowOperator,
)
from wavelift.operators.control.slots import ReleaseRunOperator
from wavelift.rules.conf import CutoverConf
from wavelift.rules.flows import CUTOVER
from wavelift.rules.plans import WaveShape

MAX_ACTIVE_RUNS: Final = 64
"""Admission refuses a run that is not allowed immediately. A run that waits for a person must not hold others back."""
WAY_BACK_RETRIES: Final = TEARDOWN_RETRIES
"""On the way back a server serves nowhere: it is tried for as long as a removal."""

DOC: Final = """
Switches servers of the wave **{wave}** to their EC2 instances, and back. What a run does is its *mode*:

| mode | what it does |
|---|---|
| `plan` | tells every step with its undo, the downtime to expect, and what is in the way; changes nothing |
| `prepare` | lowers the TTLs of records and makes the network interfaces of fixed addresses; do it days before |
| `cutover` | plans, asks for approval, waits for the window, sends what changed, then stops the sources and switches |
| `revert` | goes back: undoes the network steps, stops the instances, starts the sources |
| `finalize` | gives the way back up; source VMs and images stay |

* **Approval** ({approval}): open *Required Actions*. Only the answer of somebody who may cut over in the environment
  counts. To mark the task a success approves nothing.
* **The way back** stays open after a run in mode `cutover` until a run in mode `revert` or `finalize`. Servers that
  fail once their source was touched are reverted by a run of their own, unless their file says `on_failure: stop`.
* **Stop a run**: mark it failed. Its report still runs, and says what was touched.
* **Continue a failed server**: open its mapped `{{reserve}}` task instance and *Clear* it, with *downstream*. Do not
  use the group's *Clear*: it clears all servers.
"""
PLAN: Final = "{{ ti.xcom_pull(task_ids='plan', key='" + PAGE_KEY + "') }}"
"""What a person approves, as the page shows it."""
GIVE_UP: Final = (
    "After this, no run brings these servers back to their sources. TTLs are restored, and replication ends as the "
    "wave's file says. Source VMs and images stay."
)


def cutover_dag(shape: WaveShape) -> DAG:
    """The cutover DAG of one wave."""
    asks = {"required": "somebody", "four_eyes": "somebody else than who asked", "none": "nobody is asked"}
    hours = f", within {shape.approval_hours:g} hours" if shape.approval != "none" else ""
    return wave_dag(
        CutoverTasks(CUTOVER, shape),
        doc=DOC.format(wave="{wave}", approval=f"{asks[shape.approval]}{hours}"),
        form=form(CutoverConf, servers=shape.server_names),
        schedule=None,
        max_active_runs=MAX_ACTIVE_RUNS,
        deadline=window_deadline(shape, start=shape.window_start, end=shape.window_end),
    )


class CutoverTasks(WaveTasks):
    """The tasks of :data:`wavelift.rules.flows.CUTOVER`."""

    def of_run(self) -> Any:
        wave = self.shape.wave
        admitted = self.task(AdmitCutoverOperator, "admit", wave=wave).output
        preflight = self.task(CutoverPreflightOperator, "preflight", admitted=admitted)
        self.task(PlanCutoverOperator, "plan", admitted=admitted)
        self.task(PrepareOperator, "prepare", wave=wave, servers=preflight.output[LISTED_KEY])
        self.task(ApproveCutoverOperator, "approve", subject=f"Cut servers of {wave} over", body=PLAN)
        self.task(WindowOperator, "window")
        self.task(GoOperator, "go")
        for number in (1, 2):
            self.task(PresyncOperator, f"presync_{number}", number=number)
        self._of_ends(wave)
        return preflight.output

    def _of_ends(self, wave: str) -> None:
        undone = self.task(UndoOperator, "undo", wave=wave, retries=WAY_BACK_RETRIES).output
        started = self.task(StartSourcesOperator, "start_sources", undone=undone, retries=WAY_BACK_RETRIES).output
        self.task(RevertedOperator, "reverted", wave=wave, undone=undone, started=started)
        subject = f"Give the way back of servers of {wave} up"
        self.task(ApproveFinalizeOperator, "approve_finalize", subject=subject, body=GIVE_UP)
        self.task(FinalizeOperator, "finalize", wave=wave)

    def of_server(self) -> None:
        reserved = self.task(ReserveCutoverOperator, "reserve").output
        stopped = self.task(StopSourceOperator, "stop_source", reserved=reserved).output
        snapshot = self.task(CutoverSnapshotOperator, "snapshot").output
        transferred = self.task(FinalRunOperator, "transfer", reserved=reserved, snapshot=snapshot).output
        self.task(RecordFinalOperator, "record", transferred=transferred, stopped=stopped)
        image = self.task(CutoverAmiOperator, "ami", transferred=transferred).output
        launched = self.task(LaunchTargetOperator, "launch", image=image).output
        checked = self.task(CheckInstanceOperator, "check", launched=launched).output
        self.task(SwitchOperator, "switch", checked=checked)
        self.task(RemoveSnapshotOperator, "remove_snapshot")
        self.task(ReleaseRunOperator, "release")

    def report(self) -> BaseOperator:
        made: BaseOperator = self.task(CutoverReportOperator, "report", wave=self.shape.wave)
        self.task(RevertFailedOperator, "revert_failed", wave=self.shape.wave)
        return made
