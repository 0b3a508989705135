"""The wave ``erp`` of method hcx, with the servers a and b, as the tests of its steps drive it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import within

from wavelift.base.domain import Finding, Severity
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, cutovers, live_migrations
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.environment import May
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import HcxWave
from wavelift.rules.live_plans import ResolvedLive, resolve_live
from wavelift.rules.principals import Principals
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.authority import Rights
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.live_messages import (
    AdmittedLive,
    CardMove,
    Followed,
    FollowedOne,
    FoundThere,
    LiveOrder,
    LiveReport,
    LiveTask,
    PlaceRef,
    SiteRef,
    Started,
    StartedOne,
    VmBefore,
)
from wavelift.services.live_migration import report as reports
from wavelift.services.live_migration.admit import admit
from wavelift.services.live_migration.moved import moved, verified
from wavelift.services.live_migration.plan import LiveTerms, PlannedLive, make_plan
from wavelift.services.live_migration.record import Recorded, record
from wavelift.services.live_migration.reserve import reserve
from wavelift.services.live_migration.runs import RUN_KIND, run_subject
from wavelift.specs import Granting

HOUR: Final = timedelta(hours=1)
MAY: Final = May.load({"migrate": ["user:ana", "user:ben"], "cut_over": ["user:carl"], "administer": ["user:root"]})


def environment(**changes: Any) -> HcxEnvironment:
    given: dict[str, Any] = {
        "environment": "sddc",
        "kind": "hcx",
        "may": MAY,
        "hcx": {"connection": "hcx_dc1", "queue": "near-hcx"},
        "source": {"connection": "vsphere_dc1", "queue": "dc1"},
        "destination": {"connection": "vsphere_sddc", "queue": "sddc"},
        "pools": ["Compute"],
        "folders": ["Workloads"],
        "datastores": ["WorkloadDatastore"],
        "networks": ["L2E_web"],
    }
    return HcxEnvironment.load({**given, **changes})


class Live:
    """A wave, its rights, and a run of it step by step."""

    def __init__(self, ledger: Ledger, clock: HandClock, **spec: Any) -> None:
        self.ledger, self.clock, self.spec = ledger, clock, spec
        self.name = "erp"
        self.servers: tuple[str, ...] = ("a", "b")
        self.environment = environment()
        self.terms = LiveTerms()
        self.dead: set[str] = set()
        self.rights = Rights(lambda _: Granting(self.environment, Principals()))

    def wave(self, name: str = "") -> ResolvedLive:
        given: dict[str, Any] = {
            "wave": name or self.name,
            "method": "hcx",
            "environment": "sddc",
            "servers": list(self.servers),
            "target": {"networks": {"web": "L2E_web"}},
        }
        return resolve_live(HcxWave.load({**given, **self.spec}), self.environment)

    def run(self, id: str = "r1") -> DagRun:
        return DagRun(f"{self.name}.live", id)

    def ctx(self, id: str = "r1", server: str = "", requester: str = "ana") -> RunContext:
        alive = Alive(lambda run: run.dag_run_id not in self.dead, lambda holder: not self._dead(holder))
        return run_context(self.run(id), server, requester=requester, clock=self.clock, liveness=alive)

    def _dead(self, holder: str) -> bool:
        return any(f"/{id}/" in holder for id in self.dead)

    def admit(self, id: str = "r1", *, by: str = "ana", **conf: Any) -> AdmittedLive:
        request = RunRequest(self.name, {"mode": "migrate", **conf})
        return admit(self.ledger, request, self.wave, self.ctx(id, requester=by), rights=self.rights)

    def task(self, server: str, **changes: Any) -> LiveTask:
        site = {"endpoint_id": "e", "endpoint_name": "E", "resource_id": "r"}
        wave = self.wave()
        given: dict[str, Any] = {
            "name": server,
            "type": wave.type,
            "entity_id": f"vm-{server}",
            "entity_name": server,
            "before": VmBefore(
                instance_uuid=f"uuid-{server}",
                moref=f"vm-{server}",
                path=f"/DC0/vm/{server}",
                powered_on=True,
                macs=("00:50:56:00:00:01",),
            ),
            "source": SiteRef.load(site),
            "destination": SiteRef.load({**site, "endpoint_id": "d"}),
            "mesh_id": "mesh-1",
            "placement": (
                PlaceRef(id="resgroup-1", name="Compute", type="resourcePool"),
                PlaceRef(id="group-v1", name="Workloads", type="folder"),
            ),
            "storage": PlaceRef(id="datastore-1", name="WorkloadDatastore", type="datastore"),
            "cards": (
                CardMove(
                    mac="00:50:56:00:00:01",
                    source=PlaceRef(id="pg-1", name="web", type="DistributedVirtualPortgroup"),
                    destination=PlaceRef(id="/infra/segments/web", name="L2E_web", type="NsxtSegment"),
                ),
            ),
            "options": wave.options.model_dump(),
        }
        return LiveTask.load({**given, **changes})

    def found(self, *tasks: LiveTask, findings: Sequence[Finding] = ()) -> LiveReport:
        return LiveReport(
            wave=self.name,
            manager="hcx_dc1",
            tasks=tasks or tuple(self.task(name) for name in self.servers),
            findings=tuple(findings),
            at=self.clock.now(),
        )

    def plan(self, report: LiveReport | None = None, id: str = "r1") -> PlannedLive:
        report = report or self.found(*(self.task(name) for name in self.rows(id) or self.servers))
        return make_plan(self.ledger, report, self.ctx(id), terms=self.terms)

    def approve(self, planned: PlannedLive, id: str = "r1", by: str = "ben", valid: timedelta = 24 * HOUR) -> None:
        about = (RUN_KIND, run_subject(self.run(id)), planned.digest)
        said: dict[str, Any] = {"answer": "approve", "by": by, "requested_by": "ana", "valid": valid}
        within(self.ledger.write(), cutovers.approve, *about, **said, clock=self.clock)

    def reserve(self, id: str = "r1", clears: int = 0) -> LiveOrder | InQueue:
        return reserve(
            self.ledger, self.ctx(id), load=self.wave, rights=self.rights, terms=self.terms, clear_number=clears
        )

    def ordered(self, id: str = "r1", **conf: Any) -> LiveOrder:
        """From admission to the order."""
        self.admit(id, **conf)
        self.approve(self.plan(id=id), id)
        found = self.reserve(id)
        assert isinstance(found, LiveOrder), found
        return found

    def started(self, order: LiveOrder, *, without: Sequence[str] = (), **changes: Any) -> Started:
        given = [
            StartedOne(server=task.name, errors=("no",))
            if task.name in without
            else StartedOne(server=task.name, migration_id=f"m-{task.name}")
            for task in order.tasks
        ]
        values: dict[str, Any] = {
            "group_name": order.group_name,
            "group_id": "g-1",
            "servers": tuple(given),
            "at": self.clock.now(),
        }
        return Started(**{**values, **changes})

    def moving(self, id: str = "r1", **conf: Any) -> Recorded:
        return record(self.ledger, self.started(self.ordered(id, **conf)), self.ctx(id))

    def ended(self, id: str = "r1", **phases: str) -> list[str]:
        """The servers that are verified next."""
        servers = tuple(
            FollowedOne(server=server, migration_id=f"m-{server}", phase=phase, words=phase)
            for server, phase in phases.items()
        )
        orders = moved(self.ledger, Followed(servers=servers, at=self.clock.now()), self.ctx(id))
        return [order.name for order in orders]

    def verify(self, server: str, id: str = "r1", **changes: Any) -> tuple[str, ...]:
        """What is wrong."""
        given: dict[str, Any] = {"server": server, "passed": True, "at": self.clock.now(), **changes}
        found = [FoundThere.load({**given, "side": side}) for side in ("destination", "source")]
        return verified(self.ledger, found, self.ctx(id, server)).wrong

    def report(self, id: str = "r1", **changes: Any) -> reports.LiveRunReport:
        return reports.finish(self.ledger, self.name, reports.EndedLive(**changes), self.ctx(id))

    def rows(self, id: str = "r1") -> dict[str, LiveMigration]:
        found = within(self.ledger.read(), live_migrations.of_dag_run, self.run(id))
        return {each.server: each for each in found}

    def states(self, id: str = "r1") -> dict[str, str]:
        return {server: str(row.state) for server, row in self.rows(id).items()}


def error(server: str, what: str = "it has a snapshot") -> Finding:
    return Finding(
        severity=Severity.ERROR, code="live.snapshot", subject=server, what=what, why="w", next_action="remove it"
    )
