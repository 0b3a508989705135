"""A network's cutover at the level of the ledger: the tasks of its DAG, called one by one, over two sides in memory.

The sides do what an order says, as harshly as the queue: an order that was given before a clear is refused, and no side
is connected while the other routes. What both sides route is written down at every change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import within

from wavelift.base.domain import Finding, Severity
from wavelift.base.errors import GrantError, PermanentError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, cutovers, network_cutovers
from wavelift.ledger.cutover_records import StepRow
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.network_cutovers import NETWORK_KIND
from wavelift.rules.environment import May
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.network import NetworkSpec
from wavelift.rules.network_cutover import CONNECTIVITY, DESTINATION, EXTENSION, OFF, ON, SOURCE
from wavelift.rules.principals import Principals
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.authority import Rights
from wavelift.services.common.grant_keys import KeyFiles, keygen
from wavelift.services.dataplane.network_messages import (
    Acted,
    Finished,
    FinishOrder,
    Looked,
    NetworkOrder,
    NetworkPlace,
    Probed,
)
from wavelift.services.network import admit as admits
from wavelift.services.network import finish as ending
from wavelift.services.network import plan, report, requests, settle
from wavelift.services.network.messages import NetworkReport, PlannedNetwork
from wavelift.services.network.orders import AsksPerson, Desk, order, remember_job
from wavelift.specs import Granting

NETWORK: Final = "web"
DAG: Final = "web.network_cutover"
SEGMENT: Final = "/infra/tier-1s/cgw/segments/web"


def environment(**may: tuple[str, ...]) -> HcxEnvironment:
    return HcxEnvironment.model_validate(
        {
            "environment": "cloud",
            "kind": "hcx",
            "may": May.model_validate(may or {"cut_over": ("user:alice", "user:bob")}),
            "hcx": {"connection": "hcx1", "queue": "dc1"},
            "source": {"connection": "vc1", "queue": "dc1", "nsx": "nsx1"},
            "destination": {
                "connection": "vc2",
                "queue": "cloud",
                "nsx": {"connection": "nsx2", "tier": "/infra/tier-1s/cgw"},
            },
            "pools": ("p",),
            "folders": ("f",),
            "datastores": ("d",),
            "networks": ("web",),
        }
    )


def spec(**fields: Any) -> NetworkSpec:
    return NetworkSpec.model_validate(
        {
            "network": NETWORK,
            "environment": "cloud",
            "source": {"network": "VLAN-12", "segment": "/infra/segments/vlan12", "disconnect": {"by": "nsx"}},
            "destination": {"network": "web", "segment": SEGMENT, "gateway": "10.1.2.1/24"},
            "approve": "none",
            **fields,
        }
    )


@dataclass
class Sides:
    """Both sides, and what of them was ever true."""

    source: str = ON
    extension: str | None = "ext-1"
    destination: str = OFF
    made: int = 1
    both: bool = False
    """Whether both sides ever routed the network at once."""
    guarded: bool = True
    """Whether the queue reads the other side before it writes. Without, the ledger alone keeps the order."""
    fails: Callable[[NetworkOrder, str], None] = lambda order, moment: None
    """Raises at ``before`` or ``after`` the write of an order: trouble, or the death of the task."""

    def see(self) -> None:
        self.both = self.both or (self.source == ON and self.destination == ON)

    @property
    def routed_by(self) -> tuple[str, ...]:
        found = ((self.source, SOURCE), (self.destination, DESTINATION))
        return tuple(name for state, name in found if state == ON)

    def looked(self, at: Any, *findings: Finding) -> Looked:
        return Looked(
            network=NETWORK,
            source={CONNECTIVITY: self.source, "segment": "/infra/segments/vlan12"},
            extension={"source": "dvportgroup-30"} if self.extension else None,
            extension_id=self.extension or "",
            destination={CONNECTIVITY: self.destination, "segment": SEGMENT},
            records={EXTENSION: {"stretchId": self.extension}},
            findings=findings,
            at=at,
        )

    def act(self, asked: NetworkOrder, clears: int, at: Any) -> Acted:
        if asked.clear_number != clears:
            raise GrantError("This run was cleared after the order was given", field="clear_number", next_step="")
        self.fails(asked, "before")
        back = asked.direction == "back"
        if asked.step == SOURCE:
            self._source(ON if back else OFF, asked)
        elif asked.step == DESTINATION:
            self._destination(OFF if back else ON, asked)
        elif back:
            self._never(self.destination == ON, "the destination routes")
            if self.extension is None:
                self.made += 1
                self.extension = f"ext-{self.made}"
        else:
            self._never(self.source == ON, "the source routes")
            if self.extension is not None:
                self.extension, self.destination = None, ON
        self.see()
        self.fails(asked, "after")
        return Acted(
            cutover=asked.cutover,
            step=asked.step,
            direction=asked.direction,
            state=self._state(asked),
            changed=True,
            extension_id=self.extension or "",
            at=at,
            read_back=asked.step != SOURCE or not asked.answered,
        )

    def _source(self, to: str, asked: NetworkOrder) -> None:
        if asked.place.network.source.disconnect.by == "person":
            if not asked.answered:
                raise PermanentError("Nobody has confirmed it")
            return
        if to == ON:
            self._never(self.destination == ON, "the destination routes")
        self.source = to

    def _destination(self, to: str, asked: NetworkOrder) -> None:
        if to == ON:
            self._never(self.source == ON and not asked.source_word, "the source routes")
            self._never(self.extension is not None, "the network is extended")
        self.destination = to

    def _never(self, both: bool, why: str) -> None:
        if both and self.guarded:
            raise PermanentError(f"Both sides would route: {why}")

    def _state(self, asked: NetworkOrder) -> Any:
        if asked.step == EXTENSION:
            return {"source": "dvportgroup-30"} if self.extension else None
        return {CONNECTIVITY: self.source if asked.step == SOURCE else self.destination}


def blocked() -> Finding:
    return Finding(
        severity=Severity.ERROR,
        code="network.occupied",
        subject=NETWORK,
        what="1 network card is on the source network: app01 (on)",
        why="It loses its gateway",
        next_action="Migrate it",
    )


@dataclass
class World:
    ledger: Ledger
    folder: Path
    clock: HandClock = field(default_factory=HandClock)
    sides: Sides = field(default_factory=Sides)
    spec: NetworkSpec = field(default_factory=spec)
    environment: HcxEnvironment = field(default_factory=environment)
    alive: set[str] = field(default_factory=set)
    clears: dict[str, int] = field(default_factory=dict)
    asker: str = "alice"

    def __post_init__(self) -> None:
        self.keys = KeyFiles(self.folder / "grant.pem", self.folder / "public")
        keygen(self.keys)

    @property
    def place(self) -> NetworkPlace:
        return NetworkPlace(network=self.spec, environment=self.environment)

    @property
    def rights(self) -> Rights:
        return Rights(lambda name: Granting(self.environment, Principals()))

    def ctx(self, id: str = "r1", *, by: str = "") -> RunContext:
        alive = Alive(run=lambda run: run.dag_run_id in self.alive)
        return run_context(DagRun(DAG, id), requester=by or self.asker, liveness=alive, clock=self.clock)

    def desk(self, id: str) -> Desk:
        return Desk(
            rights=self.rights,
            key_file=self.keys.private,
            load=lambda name: self.place,
            clear_number=self.clears.get(id, 0),
        )

    def clear(self, id: str) -> None:
        """Any task of a run: Airflow counts it, and the run lives again."""
        self.clears[id] = self.clears.get(id, 0) + 1
        self.alive.add(id)

    # The tasks

    def admit(self, id: str = "r1", mode: str = "cutover", **conf: Any) -> Any:
        self.alive.add(id)
        request = RunRequest(wave=NETWORK, conf={"mode": mode, **conf})
        return admits.admit(
            self.ledger, request, lambda name: self.place, self.ctx(id), rights=self.rights, key_file=self.keys.private
        )

    def record(self, id: str = "r1", *findings: Finding) -> PlannedNetwork:
        return plan.record(self.ledger, self.sides.looked(self.clock.now(), *findings), self.ctx(id))

    def order(self, step: Any, direction: Any = "forward", id: str = "r1", acted: Acted | None = None) -> Any:
        return order(self.ledger, step, direction, self.ctx(id), self.desk(id), acted=acted)

    def act(self, asked: Any, id: str = "r1") -> Acted:
        assert isinstance(asked, NetworkOrder), asked
        return self.sides.act(asked, self.clears.get(id, 0), self.clock.now())

    def confirm(self, step: str = SOURCE, by: str = "bob", *, said: str = "done") -> StepRow:
        return requests.confirm(self.ledger, self.known().id, step, by, said=said, clock=self.clock)

    def forward(self, id: str = "r1") -> NetworkCutover:
        """From the first order to the end."""
        acted: Acted | None = None
        for step in (SOURCE, EXTENSION, DESTINATION):
            asked = self.order(step, "forward", id, acted)
            if isinstance(asked, AsksPerson):
                self.sides.source = OFF
                self.confirm()
                asked = self.order(step, "forward", id, acted)
            acted = self.act(asked, id)
            self.clock.sleep(10)
        assert acted is not None
        probed = Probed(cutover=acted.cutover, passed=(), at=self.clock.now())
        return settle.settle(self.ledger, acted, probed, self.ctx(id))

    def back(self, id: str) -> NetworkCutover:
        acted: Acted | None = None
        for step in (DESTINATION, EXTENSION, SOURCE):
            asked = self.order(step, "back", id, acted)
            if isinstance(asked, AsksPerson):
                assert self.sides.destination == OFF
                self.sides.source = ON
                self.sides.see()
                self.confirm(said="undone")
                asked = self.order(step, "back", id, acted)
            acted = self.act(asked, id)
            self.clock.sleep(10)
        return settle.reverted(self.ledger, acted, self.ctx(id))

    def finish(self, id: str, *findings: Finding) -> NetworkCutover:
        looked = self.sides.looked(self.clock.now(), *findings)
        ending.finish_lines(self.ledger, looked, self.ctx(id))
        asked = ending.order_finish(self.ledger, looked, self.ctx(id), self.desk(id))
        assert isinstance(asked, FinishOrder)
        done = Finished(cutover=asked.cutover, deleted=True, at=self.clock.now())
        return ending.finished(self.ledger, done, self.ctx(id))

    def report(self, id: str = "r1", words: str = "", **more: Any) -> NetworkReport:
        """And the run is over."""
        made = report.report(self.ledger, report.EndedRun(words=words, **more), self.ctx(id))
        self.starts = report.reverts(self.ledger, self.ctx(id))
        self.alive.discard(id)
        return made

    def remember(self, job: str, id: str = "r1") -> None:
        remember_job(self.ledger, job, self.ctx(id))

    def cancel(self, *, over: bool = False) -> NetworkCutover:
        return requests.cancel(self.ledger, self.known().id, by="bob", clock=self.clock, over=over)

    # What the ledger says

    def known(self) -> NetworkCutover:
        return within(self.ledger.read(), network_cutovers.list_cutovers).items[0]

    def rows(self) -> dict[str, str]:
        found = within(self.ledger.read(), cutovers.steps_of, NETWORK_KIND, self.known().id)
        return {row.name: str(row.state) for row in found}

    def switched(self, id: str = "r1") -> NetworkCutover:
        """A whole run in mode cutover."""
        self.admit(id)
        self.record(id)
        self.forward(id)
        self.report(id)
        return self.known()

    def soaked(self) -> None:
        self.clock.sleep(timedelta(hours=self.spec.soak_hours).total_seconds() + 1)
