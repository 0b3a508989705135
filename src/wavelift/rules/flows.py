"""Every flow, described once: the name of its DAG, its steps with plane and words, its modes.

The DAG factories, the command line's progress, the console, the reports and the picture in the documents read it.
Nobody else spells a DAG's suffix, the prefix of a server's tasks or a list of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

SERVER_GROUP: Final = "server"
"""The task group that is mapped over the servers of a run."""
_PREFIX: Final = f"{SERVER_GROUP}."
ADMIT: Final = "admit"
PREFLIGHT: Final = "preflight"
REPORT: Final = "report"
"""The task that ends every run of a wave, in every mode."""
CONTINUE_FROM: Final = f"{_PREFIX}reserve"
"""The task that a person clears to continue a failed server."""
RELEASE: Final = f"{_PREFIX}release"
"""The task that gives the slots of a server's transfer back."""


class Plane(StrEnum):
    """Where a step runs, and so what it may reach."""

    CONTROL = "control"
    """Airflow's default queue: the ledger and AWS, no vCenter."""
    CONNECTOR = "connector"
    """The queue near the vCenter: vCenter and AWS, never the ledger."""
    ENVIRONMENT = "environment"
    """The queue near AWS: AWS alone."""


class SlotKind(StrEnum):
    """What a slot permits. The order is that in which a server's wants are listed: the account first."""

    ACCOUNT = "account"
    """One server that is on its way into an AWS account, until its migration or run ends. The scope is the account's
    number; SMS-10 allows 50."""
    DATASTORE = "datastore"
    """One server with our snapshot on a datastore. The scope is vCenter and datastore."""
    NFC_HOST = "nfc_host"
    """One server that is read from an ESXi host, which has few NFC buffers. The scope is vCenter and host."""
    NFC_VCENTER = "nfc_vcenter"
    """One server that is read through VDDK. The scope is the vCenter, which allows 52 NFC sessions."""
    TRANSFER = "transfer"
    """One data transfer. The scope is the connector; AMP-04 allows 4."""
    IMPORT = "import"
    """One active image import. The scope is account and region; AMP-04 allows 5."""


OF_TRANSFER: Final = (SlotKind.DATASTORE, SlotKind.NFC_HOST, SlotKind.NFC_VCENTER, SlotKind.TRANSFER)
"""What a server holds from ``reserve`` to ``release``."""
_TRANSFERRING: Final = (SlotKind.ACCOUNT, *OF_TRANSFER)
"""What it holds until its snapshot is removed."""
_LANDING: Final = (SlotKind.ACCOUNT,)
"""What it holds from then on, until it has landed."""
_IMPORTING: Final = (SlotKind.ACCOUNT, SlotKind.IMPORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One task of a flow's DAG.

    :param words: what it does, for people.
    :param waits: what its deferred task waits for.
    :param after: the steps that it follows.
    :param per_server: one task instance for each server; else one for the run.
    :param teardown: it runs whatever happened before.
    :param optional: ``skipped`` means that there was nothing to do: the chain goes on after it.
    :param moves: it moves a server's disks and tells how many bytes are done.
    :param holds: slots that are free once this step, and every other that holds the same kind, has ended.
    """

    name: str
    plane: Plane
    words: str
    waits: str = ""
    after: tuple[str, ...] = ()
    per_server: bool = False
    teardown: bool = False
    optional: bool = False
    moves: bool = False
    holds: tuple[SlotKind, ...] = ()

    @property
    def task_id(self) -> str:
        return f"{_PREFIX}{self.name}" if self.per_server else self.name

    def is_passed(self, state: str | None) -> bool:
        """Whether a server goes on after this step when its task is in this state."""
        return state == "success" or (state == "skipped" and self.optional)


@dataclass(frozen=True, slots=True)
class Mode:
    """What a run is asked to do.

    :param first: the step that follows ``admit`` in this mode.
    """

    name: str
    first: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One way in which the servers of a wave move.

    :param suffix: of its DAGs' ids, with the dot.
    :param prefix: of the ids of its rows in the ledger, with the hyphen.
    :param words: the description of its DAG; ``{wave}`` stands for the wave.
    :param steps: in the order in which the DAG has them.
    :param modes: the first is the one of a run whose conf names none.
    """

    name: str
    suffix: str
    prefix: str
    words: str
    steps: tuple[Step, ...]
    modes: tuple[Mode, ...]

    def dag_id(self, wave: str) -> str:
        return f"{wave}{self.suffix}"

    def wave_of(self, dag_id: str) -> str:
        """The wave of a DAG of this flow; empty for any other DAG."""
        return dag_id.removesuffix(self.suffix) if dag_id.endswith(self.suffix) else ""

    def step(self, name: str) -> Step:
        """:raises KeyError: the flow has no such step."""
        found = next((step for step in self.steps if step.name == name), None)
        if found is None:
            raise KeyError(f"{self.name} has no step {name}")
        return found

    def task_id(self, name: str) -> str:
        """The id of a step's task in the DAG. :raises KeyError: the flow has no such step."""
        return self.step(name).task_id

    @property
    def chain(self) -> tuple[Step, ...]:
        """A server's steps in their order, without the teardowns, which clean up after whatever was stopped."""
        return tuple(step for step in self.steps if step.per_server and not step.teardown)

    def before(self, name: str) -> tuple[str, ...]:
        """The names of a server's steps that come before this one. :raises ValueError: the chain has no such step."""
        names = tuple(step.name for step in self.chain)
        return names[: names.index(name)]

    def path_to(self, name: str) -> tuple[str, ...]:
        """The names of the steps that lead to a step, in their order, and its own. :raises KeyError: there is none."""
        found = {name}
        for step in reversed(self.steps):
            if step.name in found:
                found |= set(step.after)
        self.step(name)
        return tuple(step.name for step in self.steps if step.name in found)

    @property
    def before_servers(self) -> tuple[str, ...]:
        """The ids of the run's tasks that the servers' tasks follow."""
        return tuple(name for step in self.chain for name in step.after if not self.step(name).per_server)

    @property
    def removals(self) -> tuple[Step, ...]:
        """A server's teardowns."""
        return tuple(step for step in self.steps if step.per_server and step.teardown)

    def first_step(self, mode: str) -> str:
        """The step that follows ``admit``; for a mode that is not known, that of the flow's first mode."""
        return next((each.first for each in self.modes if each.name == mode), self.modes[0].first)


def described(flow: Flow) -> str:
    """The flow in Markdown, for the documents: a Mermaid chart, its steps and its modes."""
    edges = [(before, step.name) for step in flow.steps for before in step.after]
    grouped = {step.name for step in flow.steps if step.per_server}
    planes = {plane: [step.name for step in flow.steps if step.plane is plane] for plane in Plane}
    lines = [
        "```mermaid",
        "flowchart LR",
        *(f"  {chain}" for chain in _chains(edge for edge in edges if not grouped.issuperset(edge))),
        f"  subgraph {SERVER_GROUP} [once per server]",
        *(f"    {chain}" for chain in _chains(edge for edge in edges if grouped.issuperset(edge))),
        "  end",
        *(f"  class {','.join(names)} {plane}" for plane, names in planes.items() if plane is not Plane.CONTROL),
        "  classDef connector fill:#fde68a,color:#000",
        "  classDef environment fill:#bfdbfe,color:#000",
        "```",
        "",
        "| step | runs on | what it does |",
        "|---|---|---|",
        *(f"| `{step.task_id}` | {step.plane} | {step.words} |" for step in flow.steps),
        "",
        "| mode | first step after `admit` | what the run does |",
        "|---|---|---|",
        *(f"| `{mode.name}` | `{mode.first}` | {mode.words} |" for mode in flow.modes),
    ]
    return "\n".join(lines)


def _chains(edges: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The edges as few lines, each as long as the flow goes on."""
    left = list(edges)
    while left:
        chain = list(left.pop(0))
        while follows := next((edge for edge in left if edge[0] == chain[-1]), None):
            left.remove(follows)
            chain.append(follows[1])
        yield " --> ".join(chain)


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

FLOWS: Final = (MIGRATE, REPLICATE, CUTOVER, TEST)


def flow_of(dag_id: str) -> Flow:
    """The flow of a wave's DAG. :raises KeyError: it is no wave's DAG."""
    found = next((flow for flow in FLOWS if flow.wave_of(dag_id)), None)
    if found is None:
        raise KeyError(f"{dag_id} is not the DAG of a wave")
    return found


def tasks_holding(kind: SlotKind) -> frozenset[str]:
    """The ids of the tasks, of all flows, during which a server may hold a slot of this kind."""
    return frozenset(step.task_id for flow in FLOWS for step in flow.steps if kind in step.holds)


def server_step(task_id: str) -> str:
    """The name of the step behind a server's task; empty for a task of the whole run."""
    return task_id.removeprefix(_PREFIX) if task_id.startswith(_PREFIX) else ""
