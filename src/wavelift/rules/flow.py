"""What a flow is made of: planes, slots, steps and modes. :mod:`wavelift.rules.flows` describes each flow with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SERVER_GROUP: Final = "server"
"""The task group that is mapped over the servers of a run."""
SERVER_PREFIX: Final = f"{SERVER_GROUP}."
"""Of the ids of its tasks."""
EXPORT_DAG: Final = "instance_export"
"""The first part of the ids of the DAGs that export instances. No wave and no network has this name."""
LEADS: Final = (f"{EXPORT_DAG}.",)
"""Every lead of a flow. What begins with one belongs to that flow, whatever it ends with: the DAG of an environment
that is called ``migrate``, too."""


class Plane(StrEnum):
    """Where a step runs, and so what it may reach."""

    CONTROL = "control"
    """Airflow's default queue: the ledger and AWS, no vCenter."""
    CONNECTOR = "connector"
    """The queue near the vCenter: vCenter and AWS, never the ledger."""
    ENVIRONMENT = "environment"
    """The queue near AWS: AWS alone."""
    SOURCE = "source"
    """The queue near the vCenter that VMs leave."""
    DESTINATION = "destination"
    """The queue near the vCenter at which VMs arrive."""
    PROBE = "probe"
    """The queue from which a network must be reached."""


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
    HCX_MANAGER = "hcx_manager"
    """One VM that an HCX manager replicates (bulk, RAV). The scope is the manager's connection; 300 at most."""
    HCX_MESH = "hcx_mesh"
    """One VM that is replicated over a service mesh. The scope is connection and mesh; 200 at most."""
    HCX_SERIAL = "hcx_serial"
    """The vMotions, or cold migrations, of one run: HCX makes them one after the other between two sites. The scope is
    the connection and both sites; 1 at most."""
    EXPORT = "export"
    """One instance that is exported to S3. The scope is account and region; VIE-04 allows 5."""


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
        return f"{SERVER_PREFIX}{self.name}" if self.per_server else self.name

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
    :param lead: what its DAGs' ids begin with, with the dot, where the subject's name comes last.
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
    lead: str = ""

    def dag_id(self, wave: str) -> str:
        return f"{self.lead}{wave}{self.suffix}"

    def wave_of(self, dag_id: str) -> str:
        """The wave of a DAG of this flow, or its other subject; empty for any other DAG."""
        if not dag_id.startswith(self.lead) or not dag_id.endswith(self.suffix):
            return ""
        if not self.lead and dag_id.startswith(LEADS):
            return ""
        return dag_id.removeprefix(self.lead).removesuffix(self.suffix)

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


_COLOURS: Final = {
    Plane.CONNECTOR: "#fde68a",
    Plane.ENVIRONMENT: "#bfdbfe",
    Plane.SOURCE: "#fed7aa",
    Plane.DESTINATION: "#bbf7d0",
    Plane.PROBE: "#ddd6fe",
}
"""Of the planes that are not the control plane, in the chart."""


def described(flow: Flow) -> str:
    """The flow in Markdown, for the documents: a Mermaid chart, its steps and its modes."""
    edges = [(before, step.name) for step in flow.steps for before in step.after]
    grouped = {step.name for step in flow.steps if step.per_server}
    planes = {plane: [step.name for step in flow.steps if step.plane is plane] for plane in Plane}
    group = [
        f"  subgraph {SERVER_GROUP} [once per server]",
        *(f"    {chain}" for chain in _chains(edge for edge in edges if grouped.issuperset(edge))),
        "  end",
    ]
    coloured = {plane: ",".join(names) for plane, names in planes.items() if plane in _COLOURS and names}
    lines = [
        "```mermaid",
        "flowchart LR",
        *(f"  {chain}" for chain in _chains(edge for edge in edges if not grouped.issuperset(edge))),
        *(group if grouped else ()),
        *(f"  class {names} {plane}" for plane, names in coloured.items()),
        *(f"  classDef {plane} fill:{_COLOURS[plane]},color:#000" for plane in coloured),
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
