"""Every flow, described once: the name of its DAG, its steps with plane and words, its modes.

The DAG factories, the command line's progress, the console, the reports and the picture in the documents read it.
Nobody else spells a DAG's suffix, the prefix of a server's tasks or a list of steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wavelift.rules.export_flows import EXPORT
from wavelift.rules.flow import SERVER_GROUP, SERVER_PREFIX, Flow, Mode, Plane, SlotKind, Step, described
from wavelift.rules.hcx_flows import LIVE, NETWORK

__all__ = ["EXPORT", "LIVE", "NETWORK", "SERVER_GROUP", "Flow", "Mode", "Plane", "SlotKind", "Step", "described"]

ADMIT: Final = "admit"
PREFLIGHT: Final = "preflight"
REPORT: Final = "report"
"""The task that ends every run of a wave, in every mode."""
CONTINUE_FROM: Final = f"{SERVER_PREFIX}reserve"
"""The task that a person clears to continue a failed server."""
RELEASE: Final = f"{SERVER_PREFIX}release"
"""The task that gives the slots of a server's transfer back."""

OF_TRANSFER: Final = (SlotKind.DATASTORE, SlotKind.NFC_HOST, SlotKind.NFC_VCENTER, SlotKind.TRANSFER)
"""What a server holds from ``reserve`` to ``release``."""
_TRANSFERRING: Final = (SlotKind.ACCOUNT, *OF_TRANSFER)
"""What it holds until its snapshot is removed."""
_LANDING: Final = (SlotKind.ACCOUNT,)
"""What it holds from then on, until it has landed."""
_IMPORTING: Final = (SlotKind.ACCOUNT, SlotKind.IMPORT)

_ADMIT: Final = Step(name=ADMIT, plane=Plane.CONTROL, words="check the run's conf and freeze the wave's spec")
_PREFLIGHT: Final = Step(
    name=PREFLIGHT, plane=Plane.CONNECTOR, after=(ADMIT,), words="find and check the servers, vCenter and AWS"
)
_RESERVE: Final = Step(
    name="reserve",
    plane=Plane.CONTROL,
    after=(PREFLIGHT,),
    per_server=True,
    holds=_TRANSFERRING,
    words="write the intent and win a transfer slot",
    waits="waits for a slot",
)
_SNAPSHOT: Final = Step(
    name="snapshot",
    plane=Plane.CONNECTOR,
    after=("reserve",),
    per_server=True,
    holds=_TRANSFERRING,
    words="take the vSphere snapshot",
)


def _removals(after: str) -> tuple[Step, Step]:
    """A snapshot lives for the transfer only: it goes right after it, and the slot with it."""
    return (
        Step(
            name="remove_snapshot",
            plane=Plane.CONNECTOR,
            after=(after,),
            per_server=True,
            teardown=True,
            holds=_TRANSFERRING,
            words="remove the vSphere snapshot",
        ),
        Step(
            name="release",
            plane=Plane.CONTROL,
            after=("remove_snapshot",),
            per_server=True,
            teardown=True,
            holds=_TRANSFERRING,
            words="give the transfer slot back",
        ),
    )


MIGRATE: Final = Flow(
    name="migrate",
    suffix=".migrate",
    prefix="mig-",
    words="Migrate the servers of {wave} to EC2",
    steps=(
        _ADMIT,
        _PREFLIGHT,
        Step(
            name="launch_imported",
            plane=Plane.CONTROL,
            after=(ADMIT,),
            words="in mode launch: launch the instances of finished imports",
        ),
        Step(
            name="verify_imported",
            plane=Plane.ENVIRONMENT,
            after=(ADMIT,),
            words="in mode verify: compare finished imports with their manifests again",
        ),
        _RESERVE,
        _SNAPSHOT,
        Step(
            name="export",
            plane=Plane.CONNECTOR,
            after=("snapshot",),
            per_server=True,
            moves=True,
            holds=_TRANSFERRING,
            words="stream the disks from vCenter to S3 in one pass",
        ),
        Step(
            name="verify",
            plane=Plane.ENVIRONMENT,
            after=("export",),
            per_server=True,
            moves=True,
            holds=_LANDING,
            words="read back what S3 holds and compare it with the manifest",
        ),
        Step(
            name="import_image",
            plane=Plane.CONTROL,
            after=("verify",),
            per_server=True,
            holds=_IMPORTING,
            words="let AWS convert the disks to an AMI",
            waits="AWS converts",
        ),
        Step(
            name="compare",
            plane=Plane.ENVIRONMENT,
            after=("import_image",),
            per_server=True,
            optional=True,
            moves=True,
            holds=_LANDING,
            words="under verify: full, read the image back and compare it with the manifest",
        ),
        Step(
            name="launch",
            plane=Plane.CONTROL,
            after=("compare",),
            per_server=True,
            holds=_LANDING,
            words="launch an instance when the plan says so",
        ),
        *_removals("export"),
        Step(
            name=REPORT,
            plane=Plane.CONTROL,
            after=("launch_imported", "verify_imported", "launch", "remove_snapshot", "release"),
            teardown=True,
            words="tell how every server ended",
        ),
    ),
    modes=(
        Mode("migrate", PREFLIGHT, "move the servers"),
        Mode("plan", PREFLIGHT, "check, and estimate time and cost; create nothing"),
        Mode("preflight", PREFLIGHT, "check; create nothing"),
        Mode("launch", "launch_imported", "launch the instances of finished imports"),
        Mode("verify", "verify_imported", "compare finished imports with their manifests again"),
        Mode("cleanup", PREFLIGHT, "remove what ended runs left outside"),
    ),
)
"""One-shot: vCenter to AMI and instance."""

REPLICATE: Final = Flow(
    name="replicate",
    suffix=".replicate",
    prefix="run-",
    words="Replicate the servers of {wave} into AMIs",
    steps=(
        _ADMIT,
        _PREFLIGHT,
        Step(
            name="delete_replicas",
            plane=Plane.CONTROL,
            after=(ADMIT,),
            words="in mode delete: remove what the runs of deleted jobs made outside",
        ),
        Step(
            name="verify_recorded",
            plane=Plane.ENVIRONMENT,
            after=(ADMIT,),
            words="in mode verify: read recorded EBS snapshots back, whole",
        ),
        _RESERVE,
        _SNAPSHOT,
        Step(
            name="transfer",
            plane=Plane.CONNECTOR,
            after=("snapshot",),
            per_server=True,
            moves=True,
            holds=_TRANSFERRING,
            words="send the disks, or what changed of them, into EBS snapshots",
        ),
        Step(
            name="record",
            plane=Plane.CONTROL,
            after=("transfer",),
            per_server=True,
            holds=_LANDING,
            words="record the EBS snapshots as the next run's base",
            waits="AWS completes the snapshots",
        ),
        Step(
            name="verify",
            plane=Plane.ENVIRONMENT,
            after=("record",),
            per_server=True,
            moves=True,
            holds=_LANDING,
            words="read back what EBS holds and compare it with the manifest",
        ),
        Step(
            name="ami",
            plane=Plane.CONTROL,
            after=("verify",),
            per_server=True,
            holds=_IMPORTING,
            words="make the AMI, and deregister those that the job keeps no longer",
            waits="AWS converts",
        ),
        *_removals("record"),
        Step(
            name=REPORT,
            plane=Plane.CONTROL,
            after=("delete_replicas", "verify_recorded", "ami", "remove_snapshot", "release"),
            teardown=True,
            words="tell how every server ended",
        ),
    ),
    modes=(
        Mode("replicate", PREFLIGHT, "replicate the servers that may run now"),
        Mode("delete", "delete_replicas", "remove what deleted jobs left outside"),
        Mode("verify", "verify_recorded", "read recorded runs back, whole"),
    ),
)
"""Again and again: vCenter to EBS snapshots and AMIs."""


def _replication_step(name: str, after: str | None = None) -> Step:
    """A step of :data:`REPLICATE` that another flow has, too."""
    step = REPLICATE.step(name)
    return step if after is None else replace(step, after=(after,))


CUTOVER: Final = Flow(
    name="cutover",
    suffix=".cutover",
    prefix="cut-",
    words="Cut the servers of {wave} over to their EC2 instances, and back",
    steps=(
        _ADMIT,
        _PREFLIGHT,
        Step(
            name="plan",
            plane=Plane.CONTROL,
            after=(PREFLIGHT,),
            words="tell every step with its undo, the downtime to expect, and what is in the way",
        ),
        Step(
            name="prepare",
            plane=Plane.CONTROL,
            after=("plan",),
            words="in mode prepare: lower TTLs and make the network interfaces of fixed addresses",
            waits="Route 53 is in sync",
        ),
        Step(
            name="approve",
            plane=Plane.CONTROL,
            after=("plan",),
            optional=True,
            words="ask a person for approval of the plan",
            waits="waits for approval",
        ),
        Step(
            name="window",
            plane=Plane.CONTROL,
            after=("approve",),
            words="wait until sources may be stopped",
            waits="waits for the window",
        ),
        Step(
            name="go",
            plane=Plane.CONTROL,
            after=("window",),
            words="compare the plan with what was approved; from here on only the cutover's own runs replicate",
        ),
        Step(
            name="presync_1",
            plane=Plane.CONTROL,
            after=("go",),
            words="send what changed while the source still runs",
            waits="a replication run is under way",
        ),
        Step(
            name="presync_2",
            plane=Plane.CONTROL,
            after=("presync_1",),
            words="send it once more, if the forecast does not fit yet",
            waits="a replication run is under way",
        ),
        Step(
            name="undo",
            plane=Plane.CONTROL,
            after=(ADMIT,),
            words="in mode revert: undo the network steps in reverse order, and stop the instances",
            waits="instances stop",
        ),
        Step(
            name="start_sources",
            plane=Plane.CONNECTOR,
            after=("undo",),
            words="in mode revert: connect the sources to their networks again, and start them",
        ),
        Step(
            name="reverted",
            plane=Plane.CONTROL,
            after=("start_sources",),
            words="in mode revert: record which sources serve again",
        ),
        Step(
            name="approve_finalize",
            plane=Plane.CONTROL,
            after=(ADMIT,),
            optional=True,
            words="in mode finalize: ask a person for approval",
            waits="waits for approval",
        ),
        Step(
            name="finalize",
            plane=Plane.CONTROL,
            after=("approve_finalize",),
            words="in mode finalize: give the way back up, restore TTLs, end replication jobs",
            waits="Route 53 is in sync",
        ),
        replace(_RESERVE, after=("presync_2",)),
        Step(
            name="stop_source",
            plane=Plane.CONNECTOR,
            after=("reserve",),
            per_server=True,
            holds=_TRANSFERRING,
            words="shut the source down, and disconnect its network cards",
            waits="the guest shuts down",
        ),
        replace(_SNAPSHOT, after=("stop_source",)),
        _replication_step("transfer"),
        _replication_step("record"),
        _replication_step("ami", after="record"),
        Step(
            name="launch",
            plane=Plane.CONTROL,
            after=("ami",),
            per_server=True,
            holds=_LANDING,
            words="launch the instance",
            waits="the instance starts",
        ),
        Step(
            name="check",
            plane=Plane.ENVIRONMENT,
            after=("launch",),
            per_server=True,
            holds=_LANDING,
            words="make the checks of the instance",
        ),
        Step(
            name="switch",
            plane=Plane.CONTROL,
            after=("check",),
            per_server=True,
            holds=_LANDING,
            words="switch the network to the instance, step by step",
            waits="a network step takes effect",
        ),
        *_removals("record"),
        Step(
            name=REPORT,
            plane=Plane.CONTROL,
            after=("prepare", "reverted", "finalize", "switch", "remove_snapshot", "release"),
            teardown=True,
            words="tell how every server ended",
        ),
        Step(
            name="revert_failed",
            plane=Plane.CONTROL,
            after=(REPORT,),
            teardown=True,
            words="start a run in mode revert for servers that failed once their source was touched",
        ),
    ),
    modes=(
        Mode("plan", PREFLIGHT, "check, and tell what a cutover would do; change nothing"),
        Mode("prepare", PREFLIGHT, "lower TTLs and make network interfaces, days before"),
        Mode("cutover", PREFLIGHT, "cut the servers over"),
        Mode("revert", "undo", "go back to the sources"),
        Mode("finalize", "approve_finalize", "give the way back up"),
    ),
)
"""From a source that runs to an instance that serves, and back."""

TEST: Final = Flow(
    name="test",
    suffix=".test",
    prefix="tst-",
    words="Launch test instances of {wave}, isolated from everything",
    steps=(
        _ADMIT,
        Step(
            name="images",
            plane=Plane.CONTROL,
            after=(ADMIT,),
            words="find the image of every server",
        ),
        Step(
            name="end_tests",
            plane=Plane.CONTROL,
            after=(ADMIT,),
            words="in mode end: terminate test instances",
            waits="instances terminate",
        ),
        Step(
            name="launch",
            plane=Plane.CONTROL,
            after=("images",),
            per_server=True,
            words="launch the instance into the isolated subnet",
            waits="earlier tiers are checked",
        ),
        Step(
            name="check",
            plane=Plane.ENVIRONMENT,
            after=("launch",),
            per_server=True,
            words="make the checks of the instance",
        ),
        Step(
            name="result",
            plane=Plane.CONTROL,
            after=("check",),
            per_server=True,
            words="record what the checks found, also if they failed",
        ),
        Step(
            name=REPORT,
            plane=Plane.CONTROL,
            after=("end_tests", "result"),
            teardown=True,
            words="tell which instances passed",
        ),
    ),
    modes=(
        Mode("test", "images", "launch and check test instances"),
        Mode("end", "end_tests", "terminate test instances"),
    ),
)
"""An AMI is tried where it can reach nothing else."""

FLOWS: Final = (MIGRATE, REPLICATE, CUTOVER, TEST, LIVE)
"""Of waves. :data:`NETWORK` and :data:`EXPORT` are no wave's."""
EVERY_FLOW: Final = (*FLOWS, NETWORK, EXPORT)


def flow_of(dag_id: str) -> Flow:
    """The flow of a wave's DAG. :raises KeyError: it is no wave's DAG."""
    found = next((flow for flow in FLOWS if flow.wave_of(dag_id)), None)
    if found is None:
        raise KeyError(f"{dag_id} is not the DAG of a wave")
    return found


def tasks_holding(kind: SlotKind) -> frozenset[str]:
    """The ids of the tasks, of all flows, during which a server may hold a slot of this kind."""
    return frozenset(step.task_id for flow in EVERY_FLOW for step in flow.steps if kind in step.holds)


def server_step(task_id: str) -> str:
    """The name of the step behind a server's task; empty for a task of the whole run."""
    return task_id.removeprefix(SERVER_PREFIX) if task_id.startswith(SERVER_PREFIX) else ""
