"""What a network's cutover does on its queue, task by task, over HCX, two NSX and two vCenters of the source: as the
control plane orders it, with its grants."""

from __future__ import annotations

import importlib
import json
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException
from tests.contexts import HandClock
from tests.gateways import GatewayAlarm
from tests.ledgers import fresh_ledger
from tests.network_journey import place
from tests.network_world import World
from tests.webhook import serve
from tests.wire.simulators_hcx.conftest import HERE, PREFIX, Sites, running, sites, vm

import wavelift.operators as all_operators
from wavelift.airflow import config
from wavelift.airflow.hooks import rest as hooks_rest
from wavelift.base.errors import WaveliftError
from wavelift.operators.connector import network as queue
from wavelift.operators.connector.network import (
    ActNetworkOperator,
    FinishNetworkOperator,
    LookNetworkOperator,
    ProbeNetworkOperator,
)
from wavelift.operators.network import SegmentConnectivityOperator, UnextendNetworkOperator
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.network import NetworkSpec
from wavelift.services.dataplane.network_messages import Acted, Finished, Looked, NetworkOrder, Probed
from wavelift.services.dataplane.steps import step as step_module
from wavelift.services.network import finish as ending
from wavelift.services.network import plan, settle

__all__ = ["running", "sites"]
pytestmark = pytest.mark.airflow

THERE = "/infra/segments/L2E_VLAN-100"
MACHINES = ("app01", "app02", "cold")
TASKS = {
    "source": ("disconnect", "reconnect"),
    "extension": ("unextend", "extend"),
    "destination": ("connect", "isolate"),
}


class Store(dict[str, Any]):
    """Airflow's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


class Ti(SimpleNamespace):
    dag_id, map_index, try_number, max_tries, queue = "web.network_cutover", -1, 1, 2, "default"

    def xcom_pull(self, *, task_ids: str, key: str = "return_value", map_indexes: int = -1) -> Any:
        return self.left.get((task_ids, key))

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.left[self.task_id, key] = value


class Cutover(World):
    """The control plane, and the queue's tasks as Airflow calls them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.left: dict[Any, Any] = {}
        self.stores: dict[Any, Store] = {}
        self.simulators: Any = None
        self.hook: Any = None
        self.contacts: list[str] = []

    def context(self, task: str, id: str = "r1", *, clears: int | None = None, user: str = "alice") -> Any:
        number = self.clears.get(id, 0) if clears is None else clears
        now = datetime.now(UTC)
        run = SimpleNamespace(clear_number=number, triggering_user_name=user, run_type="manual", logical_date=now)
        store = self.stores.setdefault((task, id), Store())
        ti = Ti(left=self.left, task_id=task, run_id=id)
        return {"ti": ti, "dag_run": run, "task_state_store": store, "params": {}}

    def execute(self, task: Any, id: str = "r1", **of: Any) -> Any:
        """A task until it ends: time goes on in the simulators while it is rescheduled."""
        for _ in range(40):
            try:
                return task.execute(self.context(task.task_id, id, **of))
            except AirflowRescheduleException:
                for each in (self.simulators.hcx, self.simulators.here, self.simulators.there):
                    each.advance(30.0)
        raise AssertionError(f"{task.task_id} waits for ever")

    def looked(self, order: Any, id: str = "r1", **of: Any) -> Looked:
        return Looked.load(self.execute(LookNetworkOperator(task_id="look", order=order.dump()), id, **of))

    def recorded(self) -> None:
        looked = self.looked(self.admit())
        assert [each for each in looked.findings if each.severity == "error"] == []
        plan.record(self.ledger, looked, self.ctx())

    def carried_out(self, asked: NetworkOrder, id: str = "r1", kind: Any = ActNetworkOperator, **of: Any) -> Acted:
        task = acting(asked, kind)
        return Acted.load(self.execute(task, id, **of))

    def all_forward(self, kind: Any = ActNetworkOperator) -> Acted:
        acted: Acted | None = None
        for step in ("source", "extension", "destination"):
            acted = self.carried_out(self.order(step, "forward", "r1", acted), kind=kind)
        assert acted is not None
        return acted

    def routing(self) -> list[str]:
        found = GatewayAlarm([self.simulators.here, self.simulators.hcx], [self.simulators.there]).routing(PREFIX)
        return list(found)


def acting(asked: NetworkOrder, kind: Any = ActNetworkOperator) -> Any:
    """The task for an order, as the DAG has it, or as somebody's own DAG has it with the public operators."""
    name = TASKS[asked.step][asked.direction == "back"]
    base = {"task_id": name, "order": asked.dump(), "ordered_by": f"order_{name}"}
    if kind is ActNetworkOperator:
        return kind(step=asked.step, direction=asked.direction, **base)
    if asked.step == "extension":
        return UnextendNetworkOperator(**base)
    connected = (asked.direction == "forward") is (asked.step == "destination")
    return SegmentConnectivityOperator(side=asked.step, connected=connected, **base)


@pytest.fixture
def cutover(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cutover]:
    known = place(exceptions=list(MACHINES))
    environment = known.environment.dump()
    environment["may"] = {"cut_over": ["user:alice"]}
    environment["source"]["vcenters"] = ["vsphere_other"]
    nsx, vcenter = {"conn_type": "nsx"}, {"conn_type": "vsphere"}
    reached: dict[str, tuple[Any, dict[str, str]]] = {
        "hcx_dc1": (sites.hcx, {"conn_type": "hcx"}),
        "nsx_dc1": (sites.here, nsx),
        "nsx_cloud": (sites.there, nsx),
        "vsphere_dc1": (sites.source, vcenter),
        "vsphere_other": (sites.destination, vcenter),
    }
    clock = HandClock()
    clock.time = datetime.now(UTC)  # the queue's own clock judges the grants
    with serve(tmp_path) as hook, fresh_ledger(tmp_path / "ledger.db") as ledger:
        reached["router"] = (hook, {"conn_type": "http"})
        world = Cutover(
            ledger,
            tmp_path,
            clock=clock,
            spec=known.network.model_copy(update={"approve": "none", "soak_hours": 0.0}),
            environment=HcxEnvironment.model_validate(environment),
        )
        world.simulators, world.hook = sites, hook

        def connection(cls: Any, conn_id: str) -> Connection:
            world.contacts.append(conn_id)
            simulator, kind = reached[conn_id]
            extra = json.dumps({"ca_bundle": str(simulator.ca_file)})
            login = {
                "login": getattr(simulator, "username", ""),
                "password": getattr(simulator, "password", "a secret"),
            }
            return Connection(conn_id=conn_id, host=simulator.host, port=simulator.port, extra=extra, **login, **kind)

        monkeypatch.setattr(BaseHook, "get_connection", classmethod(connection))
        monkeypatch.setattr(config, "grant_keys_folder", lambda: world.keys.public)
        monkeypatch.setattr(config, "connector_names", frozenset)
        monkeypatch.setattr(hooks_rest, "patience_s", lambda: 5.0)
        monkeypatch.setattr(queue, "HERE_SECONDS", 0.0)  # the simulators' time does not pass by itself
        yield world


def test_hcx_06_the_queue_carries_out_each_order_and_is_rescheduled_while_hcx_takes_long(cutover: Cutover) -> None:
    cutover.recorded()
    acted = cutover.all_forward()
    assert cutover.routing() == [THERE]
    assert cutover.left["unextend", "job"], "the way back waits for this job, also if the task fails then"
    assert [name for name, _ in cutover.left] == ["unextend"]
    probed = Probed(cutover=acted.cutover, passed=(), at=cutover.clock.now())
    settle.settle(cutover.ledger, acted, probed, cutover.ctx())


def test_hcx_07_and_back(cutover: Cutover) -> None:
    cutover.recorded()
    cutover.all_forward()
    cutover.report(words="settle: it was stopped")
    cutover.admit("back", "revert")
    done: Acted | None = None
    for step in ("destination", "extension", "source"):
        done = cutover.carried_out(cutover.order(step, "back", "back", done), "back")
    assert cutover.routing() == [HERE]
    settle.reverted(cutover.ledger, done, cutover.ctx("back"))


def test_the_public_operators_do_the_same(cutover: Cutover) -> None:
    cutover.recorded()
    cutover.all_forward(SegmentConnectivityOperator)
    assert cutover.routing() == [THERE]
    for kind in (SegmentConnectivityOperator, UnextendNetworkOperator):
        assert getattr(all_operators, kind.__name__) is kind
    cutover.report(words="settle: it was stopped")
    cutover.admit("back", "revert")
    cutover.carried_out(cutover.order("destination", "back", "back"), "back", SegmentConnectivityOperator)
    assert cutover.routing() == []


def test_finish_deletes_the_source_and_renames_the_destination(cutover: Cutover) -> None:
    cutover.spec = cutover.spec.model_copy(update={"rename_to": "web"})
    cutover.recorded()
    acted = cutover.all_forward()
    settle.settle(
        cutover.ledger, acted, Probed(cutover=acted.cutover, passed=(), at=cutover.clock.now()), cutover.ctx()
    )
    cutover.report()
    for port in cutover.simulators.here.control("GET", f"ports?segment={HERE}"):
        cutover.simulators.here.remove_port(HERE, port["id"])
    looked = cutover.looked(cutover.admit("end", "finish"), "end")
    ending.finish_lines(cutover.ledger, looked, cutover.ctx("end"))
    asked: Any = ending.order_finish(cutover.ledger, looked, cutover.ctx("end"), cutover.desk("end"))
    late = FinishNetworkOperator(task_id="finish", order=asked.dump(), ordered_by="order_finish")
    cutover.contacts.clear()
    with pytest.raises(AirflowFailException, match="cleared after"):
        cutover.execute(late, "end", clears=1)
    assert not cutover.contacts
    done = Finished.load(cutover.execute(late, "end"))
    assert (done.deleted, done.renamed) == (True, "web")
    assert HERE not in [each["path"] for each in cutover.simulators.here.segments()]


# --- what routes the source is no NSX -------------------------------------------------------------------------------

MODULE = """
class Router:
    state, told, made = "connected", None, []

    def __init__(self, *, network, prefix, gateway, arguments):
        self.made.append((network, prefix, gateway, arguments))

    def read(self):
        return type(self).state

    def disconnect(self):
        self._change("disconnected")

    def connect(self):
        self._change("connected")

    def _change(self, state):
        type(self).state = state
        type(self).told(state == "connected")
"""


def outside(cutover: Cutover, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's router is one that the webhook, or a class of an installed package, drives."""
    world = cutover.simulators
    disconnect: dict[str, Any] = {"by": "webhook", "connection": "router"}

    def routes(on: bool) -> None:
        world.hcx.route(PREFIX, routed=on)

    if by != "webhook":
        info = tmp_path / "site_routers-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: site-routers\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[wavelift.network_steps]\nhall-router = site_routers:Router\n")
        (tmp_path / "site_routers.py").write_text(MODULE)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "site_routers", raising=False)
        importlib.import_module("site_routers").Router.told = staticmethod(routes)
        disconnect = {"by": "hall-router", "arguments": {"vlan": "100"}}
    world.here.put_segment(HERE, advanced_config={"connectivity": "OFF"})
    routes(True)
    cutover.hook.routes = routes
    source = {"network": "VLAN-100", "disconnect": disconnect}
    cutover.spec = NetworkSpec.model_validate({**cutover.spec.dump(), "source": source})


@pytest.mark.parametrize("by", ["webhook", "hall-router"])
def test_hcx_08_a_router_of_somebody_elses_is_disconnected_read_back_and_connected_again(
    cutover: Cutover, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside(cutover, by, tmp_path, monkeypatch)
    cutover.recorded()
    assert cutover.routing() == ["router"]
    acted = cutover.carried_out(cutover.order("source"))
    assert (acted.state, acted.read_back) == ({"connectivity": "OFF", "by": by}, True)
    assert cutover.routing() == []
    acted = cutover.carried_out(cutover.order("extension", acted=acted))
    cutover.carried_out(cutover.order("destination", acted=acted))
    assert cutover.routing() == [THERE]
    cutover.report(words="settle: it was stopped")
    cutover.admit("back", "revert")
    done: Acted | None = None
    for step in ("destination", "extension", "source"):
        done = cutover.carried_out(cutover.order(step, "back", "back", done), "back")
    assert cutover.routing() == ["router"]
    if by == "webhook":
        known = cutover.known().id
        posted = [body for method, _, login, body in cutover.hook.asked if method == "POST" and login]
        assert [(each["cutover"], each["state"]) for each in posted] == [(known, "disconnected"), (known, "connected")]
    else:
        made = sys.modules["site_routers"].Router.made
        assert set(map(repr, made)) == {repr(("VLAN-100", "10.1.2.0/24", "10.1.2.1/24", {"vlan": "100"}))}


def test_hcx_08_a_webhook_that_lies_ends_the_cutover_before_the_extension(
    cutover: Cutover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside(cutover, "webhook", tmp_path, monkeypatch)
    cutover.recorded()
    cutover.hook.lies = True
    monkeypatch.setattr(step_module, "SEEN_WAIT_S", 0.1)
    with pytest.raises(WaveliftError, match="still shows the old state"):
        cutover.carried_out(cutover.order("source"))
    with pytest.raises(AirflowFailException, match="Both sides would route"):
        cutover.carried_out(cutover.order("extension"))
    assert cutover.routing() == ["router"]


def test_a_webhook_that_no_grant_names_is_not_met(
    cutover: Cutover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = cutover.admit("rehearsal", "plan")
    outside(cutover, "webhook", tmp_path, monkeypatch)
    asked = len(cutover.hook.asked)
    with pytest.raises(AirflowFailException, match="another plan"):
        cutover.looked(order.model_copy(update={"place": cutover.place}), "rehearsal")
    assert len(cutover.hook.asked) == asked


# --- without its grant nothing is met -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "of", "word"),
    [
        ({"token": ""}, {}, "field=token"),
        ({"wanted": {"connectivity": "ON"}}, {}, "another plan"),
        ({"source_word": "bob"}, {}, "another plan"),
        ({"befores": {}}, {}, "another plan"),
        ({"cutover": "net-other"}, {}, "field="),
        ({"clear_number": 1}, {"clears": 1}, "field=|cleared"),
        ({"step": "destination"}, {}, "for another step"),
        ({"direction": "back"}, {}, "for another step"),
        ({}, {"clears": 1}, "cleared after the order.*order_disconnect"),
        ({}, {"user": "mallory"}, "another user"),
    ],
    ids=lambda each: str(each),
)
@pytest.mark.parametrize("public", [False, True])
def test_nothing_is_met_for_what_was_not_granted(
    cutover: Cutover, changes: dict[str, Any], of: dict[str, Any], word: str, public: bool
) -> None:
    cutover.recorded()
    asked = cutover.order("source")
    task: Any = acting(asked, SegmentConnectivityOperator if public else ActNetworkOperator)
    task.order = {**asked.dump(), **changes}
    cutover.contacts.clear()
    with pytest.raises(AirflowFailException, match=word):
        cutover.execute(task, **of)
    assert not cutover.contacts
    assert cutover.routing() == [HERE]


def test_a_look_grant_lets_nobody_act_and_no_grant_nobody_look(cutover: Cutover) -> None:
    order = cutover.admit()
    for changes, of in (({"token": ""}, {}), ({}, {"clears": 1}), ({}, {"user": "mallory"})):
        task = LookNetworkOperator(task_id="look", order={**order.dump(), **changes})
        if of != {"clears": 1}:  # a look changes nothing: it may be repeated after a clear
            with pytest.raises(AirflowFailException):
                cutover.execute(task, **of)
    other = order.place.environment.source.model_copy(update={"vcenters": ("vsphere_secret",)})
    environment = order.place.environment.model_copy(update={"source": other})
    forged = order.model_copy(update={"place": order.place.model_copy(update={"environment": environment})})
    with pytest.raises(AirflowFailException, match="another plan"):
        cutover.looked(forged)
    assert not cutover.contacts
    plan.record(cutover.ledger, cutover.looked(order), cutover.ctx())
    asked = cutover.order("source")
    cutover.contacts.clear()
    with pytest.raises(AirflowFailException):
        cutover.carried_out(asked.model_copy(update={"token": order.token}))
    assert not cutover.contacts


def test_an_acting_task_that_is_cleared_alone_after_the_revert_acts_no_more(cutover: Cutover) -> None:
    cutover.recorded()
    first = cutover.order("source")
    cutover.carried_out(first)
    cutover.report(words="unextend: HCX refused")
    assert cutover.starts is not None
    id = cutover.starts.run.dag_run_id
    cutover.admit(id, "revert", cutover=cutover.known().id)
    done: Acted | None = None
    for step in ("destination", "extension", "source"):
        done = cutover.carried_out(cutover.order(step, "back", id, done), id)
    settle.reverted(cutover.ledger, done, cutover.ctx(id))
    cutover.clear("r1")
    with pytest.raises(AirflowFailException, match="cleared after"):
        cutover.carried_out(first)
    assert cutover.routing() == [HERE]


# --- all vCenters of the source -------------------------------------------------------------------------------------


def test_a_machine_in_another_vcenter_of_the_site_is_in_the_way(cutover: Cutover) -> None:
    """Found at the look, and again right before the first write: an approval may take days."""
    cutover.recorded()
    assert {"vsphere_dc1", "vsphere_other"} <= set(cutover.contacts)
    asked = cutover.order("source")
    other = cutover.simulators.destination
    other.add_network("VLAN-100", kind="nsx")
    other.add_folder("shop")
    other.add_vm(vm("late01", 40))
    with pytest.raises(AirflowFailException, match="late01"):
        cutover.carried_out(asked)
    assert cutover.routing() == [HERE]
    looked = cutover.looked(cutover.admit("rehearsal", "plan"), "rehearsal")
    assert [each.code for each in looked.findings if each.severity == "error"] == ["network.occupied"]
    other.remove_vm("late01")
    cutover.carried_out(asked)
    assert cutover.routing() == []


# --- probes ---------------------------------------------------------------------------------------------------------


def test_the_probe_is_rescheduled_until_it_passes_and_opens_no_connection(cutover: Cutover) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    order = {
        "cutover": "net-1",
        "network": "web",
        "checks": [{"kind": "tcp", "to": "127.0.0.1", "port": port}],
        "since": datetime.now(UTC).isoformat(),
    }
    task = ProbeNetworkOperator(task_id="probe", order=order)
    with listener:
        assert Probed.load(cutover.execute(task)).passed == (f"tcp 127.0.0.1:{port}",)
    with pytest.raises(AirflowRescheduleException):
        task.execute(cutover.context("probe again"))
    order["checks"][0]["within_minutes"] = 0.000001  # type: ignore[index]
    late = ProbeNetworkOperator(task_id="probe", order=order)
    with pytest.raises(AirflowFailException, match="cannot be reached as it should"):
        for _ in range(50):
            try:
                late.execute(cutover.context("probe late"))
            except AirflowRescheduleException:
                continue
    assert not cutover.contacts
