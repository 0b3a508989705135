"""``<wave>.live``: VMware HCX migrates running VMs to another vCenter. :data:`wavelift.rules.flows.LIVE` defines the
steps."""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import DAG, BaseOperator, TriggerRule

from wavelift.airflow.notifications import wave_deadline
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.wave import WaveTasks, wave_dag
from wavelift.operators.connector.live import (
    LiveCancelOperator,
    LiveFollowNearOperator,
    LivePreflightOperator,
    LiveVerifyDestinationOperator,
    LiveVerifySourceOperator,
)
from wavelift.operators.control.cutover_plan import PAGE_KEY
from wavelift.operators.control.live_move import (
    ApproveSwitchoverOperator,
    FollowLiveOperator,
    LiveReportOperator,
    MovedOperator,
    RecordStartedOperator,
    VerifiedOperator,
)
from wavelift.operators.control.live_plan import (
    AdmitLiveOperator,
    ApproveLiveOperator,
    PlanLiveOperator,
    ReserveLiveOperator,
    WindowLiveOperator,
)
from wavelift.operators.hcx import HcxMigrateOperator, HcxValidateOperator
from wavelift.rules.conf import LiveConf
from wavelift.rules.flows import LIVE, Plane
from wavelift.rules.plans import WaveShape

MAX_ACTIVE_RUNS: Final = 64
"""A run that waits for HCX or for a person must not hold the next one back, such as one that cancels."""

DOC: Final = """
VMware HCX migrates servers of the wave **{wave}** to another vCenter. What a run does is its *mode*:

| mode | what it does |
|---|---|
| `plan` | checks every server, and tells where it goes and what is in the way; starts nothing |
| `migrate` | plans, asks for approval, then HCX migrates the servers as one group; each is verified at the end |
| `cancel` | ends migrations of other runs in HCX, if they have not begun to switch over |

* **Approval** ({approval}): open *Required Actions*. Only the answer of somebody who may migrate in the environment
  counts. To mark the task a success approves nothing.
* **The switchover**{switchover}.
* **Cancel a server**: `wavelift live cancel ID`. To mark a task failed does not end what HCX does.
* **A server that failed**: remove the cause, then trigger this DAG again and choose it: HCX gets a new group for it.
* **A run that stopped while HCX went on**: *Clear* its `{{follow}}` task, with *downstream*: it goes on following. If
  nobody knows whether HCX started, clear `{{reserve}}` with *downstream*: HCX is asked for the group by its name.
"""
PLAN: Final = "{{ ti.xcom_pull(task_ids='plan', key='" + PAGE_KEY + "') }}"
"""What a person approves, as the page shows it."""
SWITCH: Final = (
    "HCX replicates these servers, and switches them over in their window. Without a yes 15 minutes before it begins, "
    "what has not begun to switch over is cancelled."
)
ASKS: Final = {"required": "somebody", "four_eyes": "somebody else than who asked", "none": "nobody is asked"}


def live_dag(shape: WaveShape) -> DAG:
    """The live migration DAG of one wave."""
    hours = f", within {shape.approval_hours:g} hours" if shape.approval != "none" else ""
    asked = " is asked for once more, before its window begins" if shape.approve_switchover else " needs no further yes"
    doc = DOC.format(wave="{wave}", approval=f"{ASKS[shape.approval]}{hours}", switchover=asked)
    return wave_dag(
        LiveTasks(LIVE, shape),
        doc=doc,
        form=form(LiveConf, servers=shape.server_names),
        schedule=None,
        max_active_runs=MAX_ACTIVE_RUNS,
        deadline=wave_deadline(shape),
    )


class LiveTasks(WaveTasks):
    """The tasks of :data:`wavelift.rules.flows.LIVE`."""

    def queues(self) -> dict[Plane, str]:
        return {
            Plane.CONNECTOR: self.shape.hcx_queue,
            Plane.SOURCE: self.shape.connector,
            Plane.DESTINATION: self.shape.environment_queue,
        }

    def of_run(self) -> Any:
        wave = self.shape.wave
        self.task(AdmitLiveOperator, "admit", wave=wave)
        self.task(LivePreflightOperator, "preflight")
        self.task(PlanLiveOperator, "plan")
        self.task(ApproveLiveOperator, "approve", subject=f"Migrate servers of {wave} with HCX", body=PLAN)
        self.task(WindowLiveOperator, "window")
        order = self.task(ReserveLiveOperator, "reserve").output
        self.task(HcxValidateOperator, "validate", order=order)
        started = self.task(HcxMigrateOperator, "start", order=order).output
        self.task(RecordStartedOperator, "record", started=started)
        subject = f"Let HCX switch servers of {wave} over"
        self.task(ApproveSwitchoverOperator, "approve_switchover", subject=subject, body=SWITCH)
        # Whatever became of the question: only a yes skips it.
        self.task(LiveCancelOperator, "cancel", trigger_rule=TriggerRule.ALL_DONE)
        self.task(FollowLiveOperator, "follow")
        self.task(LiveFollowNearOperator, "follow_near")
        # Two of those before it are skipped in most runs: "all done, min. one success" would skip this one as well.
        return self.task(MovedOperator, "moved", trigger_rule=TriggerRule.ALL_DONE).output

    def of_server(self) -> None:
        self.task(LiveVerifyDestinationOperator, "verify_destination")
        self.task(LiveVerifySourceOperator, "verify_source")
        self.task(VerifiedOperator, "verified")

    def report(self) -> BaseOperator:
        made: BaseOperator = self.task(LiveReportOperator, "report", wave=self.shape.wave)
        return made
