"""The named step of other people's DAGs, the sensor, and the upkeep's alert, without a running Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from tests.airflow.starting import Airflow
from tests.ledgers import fresh_ledger
from tests.network_world import DAG, World, spec

from wavelift.airflow import config, notifiers
from wavelift.airflow.notifiers import Notice
from wavelift.airflow.triggers import network_cutovers as triggers
from wavelift.airflow.triggers.instant import DagRunTrigger
from wavelift.airflow.triggers.network_cutovers import NetworkCutoverTrigger
from wavelift.base.errors import UnreachableError
from wavelift.base.run import DagRun
from wavelift.operators.control import _starting
from wavelift.operators.control import network_cutover as named
from wavelift.operators.control.cutover_watch import CutoverUpkeepOperator
from wavelift.operators.control.network_cutover import NetworkCutoverOperator
from wavelift.rules.network_cutover import SOURCE
from wavelift.sensors.network import NetworkCutoverSensor
from wavelift.services.cutover import trial, watch

pytestmark = pytest.mark.airflow


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        made = World(ledger, tmp_path)
        for kind in (NetworkCutoverOperator, NetworkCutoverSensor, CutoverUpkeepOperator):
            monkeypatch.setattr(kind, "ledger", lambda self: nullcontext(ledger))
        monkeypatch.setattr(NetworkCutoverOperator, "rights", lambda self: made.rights)
        monkeypatch.setattr(named, "present_place", lambda network: made.place)
        monkeypatch.setattr(_starting, "is_asleep", lambda context, dag_id: False)
        monkeypatch.setattr(config, "ledger_url", lambda: "the ledger")
        yield made


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    return Airflow(monkeypatch)


def operator(**given: Any) -> NetworkCutoverOperator:
    return NetworkCutoverOperator(task_id="cut", network="web", **given)


def asked(plane: World, airflow: Airflow, **given: Any) -> str:
    """The id of the run that the operator then waits for."""
    with pytest.raises(TaskDeferred) as deferred:
        operator(**given).execute(airflow.context())
    assert isinstance(deferred.value.trigger, DagRunTrigger)
    run_id = deferred.value.trigger.serialize()[1]["run_id"]
    assert run_id == airflow.started[-1][0].dag_run_id
    return str(run_id)


def test_the_same_request_is_the_same_cutover_however_often_it_is_asked(plane: World, airflow: Airflow) -> None:
    run_id = asked(plane, airflow)
    assert airflow.started == [(DagRun(DAG, run_id), {"mode": "cutover"})]
    first = plane.known()
    assert str(first.state) == "reserved"
    assert asked(plane, airflow) == run_id  # a retry, before its run began
    assert plane.known().id == first.id
    plane.switched(run_id)
    airflow.states[run_id] = "success"
    done = {"cutover": first.id, "state": "switched", "dag_run_id": run_id}
    started = len(airflow.started)
    assert operator().execute(airflow.context()) == done
    assert operator().execute(airflow.context()) == done
    assert len(airflow.started) == started, "nothing is begun twice"


def test_a_cutover_that_fails_fails_the_step_in_words(plane: World, airflow: Airflow) -> None:
    run_id = asked(plane, airflow, request_id="k1")
    plane.admit(run_id)
    plane.record(run_id)
    plane.act(plane.order(SOURCE, id=run_id), run_id)
    plane.report(run_id, words="unextend: HCX refused")
    airflow.states[run_id] = "failed"
    with pytest.raises(AirflowFailException, match=r"is failed: unextend: HCX refused.*nobody routes 10\.1\.2\.0/24"):
        operator(request_id="k1").execute(airflow.context())


def test_a_way_back_names_its_cutover_whatever_is_open_when_it_begins(plane: World, airflow: Airflow) -> None:
    known = plane.switched()
    run_id = asked(plane, airflow, mode="revert")
    assert airflow.started[-1][1] == {"mode": "revert", "cutover": known.id}
    plane.admit(run_id, "revert", cutover=known.id)
    plane.back(run_id)
    plane.report(run_id)
    airflow.states[run_id] = "success"
    assert operator(mode="revert").execute(airflow.context())["state"] == "reverted"


def test_what_is_refused_starts_nothing(plane: World, airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, user, word in (
        ({"mode": "plan"}, "alice", "can be waited for"),
        ({}, "mallory", "may not|mallory"),
        ({"mode": "revert"}, "alice", "No cutover of this network is open"),
        ({"mode": "cutvoer"}, "alice", "cutvoer"),
    ):
        with pytest.raises(AirflowFailException, match=word):
            operator(**given).execute(airflow.context(user))
    monkeypatch.setattr(_starting, "is_asleep", lambda context, dag_id: True)
    with pytest.raises(AirflowFailException, match="paused"):
        operator().execute(airflow.context())
    assert not airflow.started


def test_a_run_that_cannot_be_made_gives_its_reservation_back(plane: World, airflow: Airflow) -> None:
    airflow.error = UnreachableError("Airflow does not answer")
    with pytest.raises(UnreachableError):
        operator().execute(airflow.context())
    assert str(plane.known().state) == "expired"
    airflow.error = None
    asked(plane, airflow)
    assert str(plane.known().state) == "reserved"


# --- the sensor -----------------------------------------------------------------------------------------------------


def sensor(plane: World, *states: str) -> NetworkCutoverSensor:
    given: dict[str, Any] = {"states": states} if states else {}
    return NetworkCutoverSensor(task_id="wait", cutover=plane.known().id, **given)


def seen(plane: World, monkeypatch: pytest.MonkeyPatch, *states: str) -> Any:
    """The event of the trigger now; None: it waits."""
    from wavelift.ledger import Ledger

    @contextmanager
    def opened(url: str) -> Iterator[Any]:
        yield plane.ledger

    monkeypatch.setattr(Ledger, "open", opened)
    with pytest.raises(TaskDeferred) as deferred:
        sensor(plane, *states).execute({})
    trigger = deferred.value.trigger
    assert isinstance(trigger, NetworkCutoverTrigger)
    wait = "|".join((trigger.cutover, *sorted(trigger.states)))
    found = triggers.arrived([wait]).get(wait)
    return None if found is None else {"state": found, "cutover": trigger.cutover}


def test_the_sensor_waits_until_it_is_switched(plane: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.admit()
    plane.record()
    assert seen(plane, monkeypatch) is None
    plane.forward()
    event = seen(plane, monkeypatch)
    found = sensor(plane).execute_complete({}, event)
    assert found == {"cutover": plane.known().id, "network": "web", "state": "switched", "prefix": "10.1.2.0/24"}
    assert seen(plane, monkeypatch, "reverted", "finished") is None


def test_the_sensor_fails_in_words_when_the_cutover_fails(plane: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.admit()
    plane.record()
    plane.order(SOURCE)
    plane.report(words="disconnect: NSX refused")
    event = seen(plane, monkeypatch)
    with pytest.raises(AirflowFailException, match="of web is failed: disconnect: NSX refused"):
        sensor(plane).execute_complete({}, event)
    with pytest.raises(AirflowFailException, match="no state"):
        sensor(plane, "swiched").execute({})
    unknown = NetworkCutoverSensor(task_id="wait", cutover="net-unknown")
    with pytest.raises(AirflowFailException, match="net-unknown"):
        unknown.execute_complete({}, {"state": "unknown"})


# --- upkeep ---------------------------------------------------------------------------------------------------------


def test_the_upkeep_tells_people_of_a_network_that_nobody_routes(
    plane: World, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Notice] = []
    monkeypatch.setattr(notifiers, "notify", lambda ledger, notice, context: heard.append(notice))
    monkeypatch.setattr(watch, "alarm", lambda ledger, ctx: ())
    monkeypatch.setattr(trial, "end_due", lambda *_, **__: ())
    upkeep = CutoverUpkeepOperator(task_id="upkeep")
    ctx = replace(plane.ctx(), run=DagRun("cutover_upkeep", "u1"))
    monkeypatch.setattr(upkeep, "server_context", lambda context: ctx)
    plane.spec = spec(on_failure="stop")
    plane.admit()
    plane.record()
    plane.act(plane.order(SOURCE))
    assert upkeep.work(airflow.context())["alarms"] == []
    plane.alive.clear()
    [told] = upkeep.work(airflow.context())["alarms"]
    upkeep.work(airflow.context())
    assert "nobody routes 10.1.2.0/24" in told
    assert {(each.kind.value, each.subject) for each in heard} == {("nobody_routes", heard[0].subject)}
    assert f"wavelift network revert {plane.known().id}" in heard[0].text
    assert "only then connect VLAN-12" in heard[0].text
