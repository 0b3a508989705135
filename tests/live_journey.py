"""A live migration on two simulated sites: what a run does near HCX and both vCenters, called as its operators do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from tests.contexts import HandClock, context_of

from wavelift.adapters.hcx.transport import SYSTEM, HcxAccess
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.domain import Finding, Severity
from wavelift.base.rest import RestClient, RestPlace
from wavelift.base.run import CancelFlag, RunContext
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import HcxWave
from wavelift.rules.live_plans import ResolvedLive, resolve_live
from wavelift.services.dataplane.hcx_migrate import follow, start, validate
from wavelift.services.dataplane.hcx_preflight import preflight
from wavelift.services.dataplane.hcx_verify import at_destination, at_source
from wavelift.services.dataplane.live_messages import (
    CancelOne,
    CancelOrder,
    Followed,
    FollowOrder,
    FoundThere,
    LiveOrder,
    LiveReport,
    Started,
    VerifyOrder,
)
from wavelift.simulators.hcx import HcxSimulator
from wavelift.simulators.nsx import NsxSimulator
from wavelift.simulators.vcenter import VCenterSimulator

__test__ = False

HERE = "VLAN-100"
THERE = "L2E_VLAN-100"
"""The segment that HCX made when the network was extended."""


class World(Protocol):
    source: VCenterSimulator
    destination: VCenterSimulator
    there: NsxSimulator
    hcx: HcxSimulator


def environment(**changes: Any) -> HcxEnvironment:
    values: dict[str, Any] = {
        "environment": "dc2",
        "kind": "hcx",
        "may": {},
        "hcx": {"connection": "hcx1"},
        "source": {"connection": "vc1"},
        "destination": {"connection": "vc2"},
        "pools": ["Compute"],
        "folders": ["Workloads"],
        "datastores": ["datastore1"],
        "networks": [THERE],
    }
    return HcxEnvironment.load({**values, **changes})


def a_wave(*servers: Any, type: str = "rav", **changes: Any) -> ResolvedLive:
    """:param changes: of the wave's file; ``environment`` is a dict of changes of the environment."""
    around = environment(**changes.pop("environment", {}))
    values: dict[str, Any] = {
        "wave": "first",
        "method": "hcx",
        "environment": "dc2",
        "type": type,
        "servers": list(servers),
        "target": {"networks": {HERE: THERE}},
    }
    return resolve_live(HcxWave.load({**values, **changes}), around)


@dataclass
class Live:
    """``clock`` is that of our tasks; HCX has its own, which :meth:`until_over` moves."""

    world: World
    clock: HandClock = field(default_factory=HandClock)
    contexts: dict[str, RunContext] = field(default_factory=dict)

    def ctx(self, name: str = "*", *, cancel: CancelFlag | None = None) -> RunContext:
        """One per name: its checkpoints last."""
        if cancel is not None:
            return context_of(f"first.live/r/{name}", clock=self.clock, cancel=cancel)
        if name not in self.contexts:
            self.contexts[name] = context_of(f"first.live/r/{name}", clock=self.clock)
        return self.contexts[name]

    @contextmanager
    def hcx(self, *, cancel: CancelFlag | None = None, patience_s: float = 20.0) -> Iterator[RestClient]:
        sim = self.world.hcx
        place = RestPlace(
            system=SYSTEM, host=sim.host, port=sim.port, ca_bundle=str(sim.ca_file), patience_s=patience_s
        )
        with HcxAccess(place=place, username=sim.username, password=sim.password).client(cancel=cancel) as client:
            yield client

    @contextmanager
    def vcenter(self, side: str) -> Iterator[VsphereSession]:
        sim: VCenterSimulator = getattr(self.world, side)
        config = VsphereConfig(
            host=sim.host, port=sim.port, username=sim.username, password=sim.password, ca_bundle=str(sim.ca_file)
        )
        with connect(config) as session:
            yield session

    def preflight(self, wave: ResolvedLive, **more: Any) -> LiveReport:
        with self.hcx() as hcx, self.vcenter("source") as source, self.vcenter("destination") as destination:
            return preflight(wave, hcx=hcx, source=source, destination=destination, ctx=self.ctx(), **more)

    def order(self, wave: ResolvedLive, **changes: Any) -> LiveOrder:
        """What the control plane orders after a pre-flight without errors."""
        report = self.preflight(wave)
        assert not errors(report), errors(report)
        order = LiveOrder(
            wave=wave.wave, manager=report.manager, group_name=f"wavelift-{len(self.contexts)}", tasks=report.tasks
        )
        # As it comes by XCom.
        return LiveOrder.load(order.model_copy(update=changes).dump())

    def started(self, order: LiveOrder) -> Started:
        with self.hcx() as hcx:
            validate(order, hcx=hcx, ctx=self.ctx())
            return start(order, hcx=hcx, ctx=self.ctx())

    def to_follow(self, started: Started, *, hours: float = 1.0) -> FollowOrder:
        ids = {one.server: one.migration_id for one in started.servers if one.migration_id}
        return FollowOrder(manager="hcx1", migrations=ids, until=self.clock.now() + timedelta(hours=hours))

    def to_cancel(self, order: LiveOrder, started: Started | None, *names: str) -> CancelOrder:
        """Without what HCX answered, there are no ids."""
        ids = {one.server: one.migration_id for one in started.servers} if started is not None else {}
        return CancelOrder(
            wave=order.wave,
            manager=order.manager,
            servers=tuple(
                CancelOne(
                    server=task.name,
                    group_name=order.group_name,
                    entity_id=task.entity_id,
                    group_id=started.group_id if started is not None else "",
                    migration_id=ids.get(task.name, ""),
                )
                for task in order.tasks
                if not names or task.name in names
            ),
        )

    def until_over(self, started: Started, *, step: float = 30.0) -> Followed:
        """Follow, while HCX's time goes on."""
        order = self.to_follow(started)
        with self.hcx() as hcx:
            for _ in range(60):
                if (found := follow(order, hcx=hcx, ctx=self.ctx())) is not None:
                    return found
                self.world.hcx.advance(step)
        raise AssertionError(self.world.hcx.migrations())

    def look(self, order: LiveOrder, server: str, side: str, **changes: Any) -> FoundThere | None:
        """One look of a verification."""
        task = next(each for each in order.tasks if each.name == server)
        judge = at_destination if side == "destination" else at_source
        wanted = VerifyOrder.load(VerifyOrder(name=server, task=task, **changes).dump())
        with self.vcenter(side) as session:
            return judge(wanted, session=session, ctx=self.ctx(f"{server}-{side}"))

    def there(self, name: str, side: str = "destination") -> str:
        """The id of the only VM of this name in a vCenter."""
        sim: VCenterSimulator = getattr(self.world, side)
        (found,) = [each["moref"] for each in sim.state()["vms"] if each["name"] == name]
        return str(found)


def errors(report: LiveReport) -> list[Finding]:
    return [one for one in report.findings if one.severity is Severity.ERROR]


def codes(report: LiveReport, severity: Severity = Severity.ERROR) -> set[tuple[str, str]]:
    """Subject, without its part, and code."""
    return {(one.subject.split("/")[0], one.code) for one in report.findings if one.severity is severity}
