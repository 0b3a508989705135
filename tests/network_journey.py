"""A network cutover as the control plane orders it, without Airflow or ledger: one look, then order after order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, get_args

from tests.contexts import HandClock, run_context

from wavelift.adapters.hcx.transport import SYSTEM, HcxAccess
from wavelift.adapters.nsx.access import NsxAccess, connect
from wavelift.base.rest import RestClient, RestPlace
from wavelift.base.run import DagRun, MemoryCheckpoints, RunContext
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.network import NetworkSpec
from wavelift.services.dataplane.network_act import Sites, act, finish, job_of
from wavelift.services.dataplane.network_look import look, refuse_in_the_way, refuse_to_delete
from wavelift.services.dataplane.network_messages import (
    Acted,
    Direction,
    Finished,
    FinishOrder,
    Looked,
    LookOrder,
    NetworkOrder,
    NetworkPlace,
    StepName,
)
from wavelift.services.dataplane.steps.step import Waiting

__test__ = False

RUN = DagRun("web.network_cutover", "r1")
STEP_SECONDS = 30.0
"""By which all clocks go on while an order waits."""
MOST_CALLS = 400


def place(by: str = "nsx", *, segment: str | None = "/infra/segments/VLAN-100", **network: Any) -> NetworkPlace:
    environment = HcxEnvironment.model_validate(
        {
            "environment": "cloud",
            "kind": "hcx",
            "may": {"cut_over": ["user:ana"]},
            "hcx": {"connection": "hcx_dc1"},
            "source": {"connection": "vsphere_dc1", **({"nsx": "nsx_dc1"} if segment else {})},
            "destination": {
                "connection": "vsphere_cloud",
                "nsx": {"connection": "nsx_cloud", "tier": "/infra/tier-1s/cgw"},
            },
            "pools": ["Compute"],
            "folders": ["Workloads"],
            "datastores": ["ds1"],
            "networks": ["L2E_VLAN-100"],
        }
    )
    spec = NetworkSpec.model_validate(
        {
            "network": "web",
            "environment": "cloud",
            "source": {"network": "VLAN-100", "segment": segment, "disconnect": {"by": by}},
            "destination": {
                "network": "L2E_VLAN-100",
                "segment": "/infra/segments/L2E_VLAN-100",
                "gateway": "10.1.2.1/24",
            },
            **network,
        }
    )
    return NetworkPlace(network=spec, environment=environment)


def client_of_hcx(simulator: Any) -> RestClient:
    where = RestPlace(
        system=SYSTEM, host=simulator.host, port=simulator.port, ca_bundle=str(simulator.ca_file), patience_s=5.0
    )
    return HcxAccess(place=where, username=simulator.username, password=simulator.password).client()


def client_of_nsx(simulator: Any) -> RestClient:
    where = RestPlace(
        system="NSX", host=simulator.host, port=simulator.port, ca_bundle=str(simulator.ca_file), patience_s=5.0
    )
    return connect(NsxAccess(place=where, username=simulator.username, password=simulator.password))


@dataclass
class Journey:
    """:param tick: lets the simulators' time go on. :param word: who says that the source is disconnected, if nothing
    reads it. :ivar tasks: checkpoints of each task, which a kill does not take."""

    sites: Sites
    place: NetworkPlace
    tick: Callable[[float], None]
    word: str = ""
    clock: HandClock = field(default_factory=HandClock)
    tasks: dict[str, MemoryCheckpoints] = field(default_factory=dict)
    looked: Looked | None = None
    ended_ordered: Any = None
    job: str = ""
    clear_number: int = 0

    def ctx(self, task: str) -> RunContext:
        return run_context(RUN, clock=self.clock, checkpoints=self.tasks.setdefault(task, MemoryCheckpoints()))

    def look(self, mode: str = "cutover") -> Looked:
        recorded = self.looked.extension if self.looked is not None and mode == "finish" else None
        order = LookOrder(place=self.place, mode=mode, extension=recorded)
        found = look(order, self.sites, self.ctx("look"))
        if mode != "finish":
            self.looked = found
        return found

    def order(self, step: StepName, direction: Direction) -> NetworkOrder:
        assert self.looked is not None
        befores: dict[StepName, Any] = {name: getattr(self.looked, name) for name in get_args(StepName)}
        if befores["source"] is None:
            befores["source"] = {"connectivity": "ON", "by": "person"}
        wanted = {
            "source": {**befores["source"], "connectivity": "OFF"},
            "extension": None,
            "destination": {**befores["destination"], "connectivity": "ON"},
        }
        by_person = self.place.network.source.disconnect.by == "person"
        return NetworkOrder(
            cutover="net-1",
            place=self.place,
            step=step,
            direction=direction,
            before=befores[step],
            wanted=wanted[step],
            befores=befores,
            records=self.looked.records,
            extension_id=self.looked.extension_id,
            source_word=self.word,
            answered="ana" if by_person and step == "source" else "",
            asked_at=self.ended_ordered if direction == "back" else None,
            job=self.job if direction == "back" else "",
            digest="d",
            clear_number=self.clear_number,
        )

    def act(self, step: StepName, direction: Direction) -> Acted:
        """Until it is done."""
        if (step, direction) == ("extension", "forward") and self.ended_ordered is None:
            self.ended_ordered = self.clock.now()
        order, task = self.order(step, direction), f"{direction}.{step}.{self.clear_number}"
        for _ in range(MOST_CALLS):
            try:
                ctx = self.ctx(task)
                found = act(order, self.sites, ctx, free=lambda: refuse_in_the_way(order, self.sites, ctx))  # noqa: B023
            finally:
                if direction == "forward":
                    self.job = job_of(order, self.ctx(task)) or self.job
                if self.ended_ordered is not None and (step, direction) == ("extension", "forward"):
                    self.ended_ordered = self.clock.now()  # as long as it runs, it may ask HCX
            if isinstance(found, Acted):
                if (step, direction) == ("extension", "forward"):
                    self.ended_ordered = None  # its row is settled: HCX has ended
                return found
            self.wait(found)
        raise AssertionError(f"{step} {direction} waits for ever: {found}")

    def wait(self, waiting: Waiting) -> None:
        self.clock.time += timedelta(seconds=STEP_SECONDS)
        self.tick(STEP_SECONDS)

    def forward(self) -> list[Acted]:
        return [self.act(step, "forward") for step in ("source", "extension", "destination")]

    def back(self) -> list[Acted]:
        return [self.act(step, "back") for step in ("destination", "extension", "source")]

    def finish(self) -> Finished:
        assert self.looked is not None
        destination = {**self.looked.destination, "connectivity": "ON"}
        order = FinishOrder(
            cutover="net-1", place=self.place, records=self.looked.records, destination=destination, digest="d"
        )
        for _ in range(MOST_CALLS):
            ctx = self.ctx("finish")
            found = finish(order, self.sites, ctx, free=partial(refuse_to_delete, order, self.sites, ctx))
            if isinstance(found, Finished):
                return found
            self.wait(found)
        raise AssertionError(f"finish waits for ever: {found}")


@contextmanager
def opened(hcx: Any, destination: Any, source: Any = None, uses: Callable[[], Any] = tuple) -> Iterator[Sites]:
    """:param hcx, destination, source: simulators; source: an NSX, or None. :param uses: what is on the network."""
    with client_of_hcx(hcx) as manager, client_of_nsx(destination) as there:
        if source is None:
            yield Sites(hcx=manager, destination=there, uses=uses)
            return
        with client_of_nsx(source) as here:
            yield Sites(hcx=manager, destination=there, uses=uses, source_nsx=here)
