"""The named step of other people's DAGs, the sensor, and the triggers of exports, without a running Airflow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from tests.airflow.starting import Airflow
from tests.export_world import DAG, INSTANCE, OTHER, ExportWorld
from tests.ledgers import fresh_ledger

from wavelift.airflow import config
from wavelift.airflow.triggers import instance_exports as triggers
from wavelift.airflow.triggers import owned_exports
from wavelift.airflow.triggers.exports import ExportSlotTrigger
from wavelift.airflow.triggers.instance_exports import InstanceExportTrigger
from wavelift.airflow.triggers.instant import DagRunTrigger
from wavelift.airflow.triggers.owned_exports import OwnedExportTrigger
from wavelift.airflow.triggers.snapshots import EbsSnapshotsTrigger
from wavelift.airflow.triggers.steps import StepsTrigger
from wavelift.base.errors import UnreachableError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger
from wavelift.operators.control import _starting
from wavelift.operators.control import export as flow
from wavelift.operators.control import instance_export as named
from wavelift.operators.control.export import BeginExportOperator, RemoveExportOperator
from wavelift.operators.control.instance_export import InstanceExportOperator
from wavelift.rules.conf import ExportConf
from wavelift.rules.instance_export import ExportState
from wavelift.sensors.exports import InstanceExportSensor
from wavelift.services.instance_export import requests
from wavelift.services.instance_export.messages import Removed
from wavelift.services.instance_export.waits import ForAWhile, ForImage, ForPlace, ForSnapshots, ForTask, Waits

pytestmark = pytest.mark.airflow


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExportWorld]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        made = ExportWorld(ledger)
        for kind in (InstanceExportOperator, InstanceExportSensor):
            monkeypatch.setattr(kind, "ledger", lambda self: nullcontext(ledger))
        monkeypatch.setattr(InstanceExportOperator, "rights", lambda self: made.rights)
        monkeypatch.setattr(named, "present_environment", made.load)
        monkeypatch.setattr(_starting, "is_asleep", lambda context, dag_id: False)
        monkeypatch.setattr(config, "ledger_url", lambda: "the ledger")
        monkeypatch.setattr(config, "poll_seconds", lambda: 0.01)
        monkeypatch.setattr(Ledger, "open", lambda url: nullcontext(ledger))
        yield made


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    return Airflow(monkeypatch)


def operator(**given: Any) -> InstanceExportOperator:
    return InstanceExportOperator(task_id="export", **{"environment": "lab", "instance": INSTANCE, **given})


def asked(airflow: Airflow, **given: Any) -> str:
    """The id of the run that the operator then waits for."""
    with pytest.raises(TaskDeferred) as deferred:
        operator(**given).execute(airflow.context())
    assert isinstance(deferred.value.trigger, DagRunTrigger)
    return str(deferred.value.trigger.serialize()[1]["run_id"])


def completed(plane: ExportWorld, run: str) -> None:
    plane.admit(run)
    for state in (ExportState.ACTIVE, ExportState.VERIFYING):
        plane.put(run, state=state, method="direct")
    plane.put(run, state=ExportState.COMPLETED, object_key="out/exp-1.ova", object_bytes=7)


def test_the_same_request_is_the_same_export_however_often_it_is_asked(plane: ExportWorld, airflow: Airflow) -> None:
    run = asked(airflow, method="direct", prefix="vms/", may_reboot=True, controller="sata", note="for Ben")
    conf = {
        "mode": "export",
        "instance": INSTANCE,
        "method": "direct",
        "target": "vmware",
        "prefix": "vms/",
        "may_reboot": True,
        "controller": "sata",
        "note": "for Ben",
    }
    assert airflow.started == [(DagRun(DAG, run), conf)]
    known = plane.known(run)
    assert (str(known.state), known.requested_by, known.choice) == ("queued", "alice", "direct")
    assert asked(airflow, method="direct", prefix="vms/", may_reboot=True, note="for Ben") == run
    assert plane.known(run).version == known.version
    completed(plane, run)
    airflow.states[run] = "success"
    told = operator(method="direct").execute(airflow.context())
    assert told == {
        "export": known.id,
        "state": "completed",
        "bucket": "export-to-s3-acme-eu-central-1",
        "key": "out/exp-1.ova",
        "bytes": 7,
        "method": "direct",
        "dag_run_id": run,
    }


def test_a_name_that_was_given_for_another_instance_is_refused(plane: ExportWorld, airflow: Airflow) -> None:
    """Else the step would tell the object of the first one as that of the second."""
    run = asked(airflow, request_id="nightly")
    completed(plane, run)
    airflow.states[run] = "success"
    with pytest.raises(AirflowFailException, match=f"An earlier request of this name is about {INSTANCE}"):
        operator(request_id="nightly", instance=OTHER).execute(airflow.context())


def test_an_export_that_fails_fails_the_step_in_words(plane: ExportWorld, airflow: Airflow) -> None:
    run = asked(airflow, request_id="k1")
    plane.admit(run)
    plane.report(run, words="check: export.licence")
    airflow.states[run] = "failed"
    with pytest.raises(AirflowFailException, match=r"failed, check: export\.licence"):
        operator(request_id="k1").execute(airflow.context())


def test_what_is_refused_starts_nothing(plane: ExportWorld, airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, user, word in (
        ({"instance": "web01"}, "alice", "web01"),
        ({"method": "rsync"}, "alice", "rsync"),
        ({}, "mallory", "mallory"),
        ({"instance": "mig-0123456789ab"}, "alice", "knows no such migration"),
    ):
        with pytest.raises(AirflowFailException, match=word):
            operator(**given).execute(airflow.context(user))
    monkeypatch.setattr(_starting, "is_asleep", lambda context, dag_id: True)
    with pytest.raises(AirflowFailException, match="paused"):
        operator().execute(airflow.context())
    assert not airflow.started


def test_a_run_that_could_not_be_made_keeps_its_instance_from_nobody(plane: ExportWorld, airflow: Airflow) -> None:
    airflow.error = UnreachableError("Airflow did not answer")
    with pytest.raises(UnreachableError):
        operator(request_id="k1").execute(airflow.context())
    airflow.error = None
    asked(airflow, request_id="k2")


# --- the sensor -----------------------------------------------------------------------------------------------------


def sensor() -> InstanceExportSensor:
    return InstanceExportSensor(task_id="wait", export="exp-1")


def test_the_sensor_waits_for_the_object_or_fails_in_words(plane: ExportWorld) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        sensor().execute({})
    assert isinstance(deferred.value.trigger, InstanceExportTrigger)
    with pytest.raises(AirflowFailException, match="no such instance export"):
        sensor().execute_complete({}, {"state": "unknown"})
    with pytest.raises(RuntimeError, match="the ledger is away"):
        sensor().execute_complete({}, {"error": "the ledger is away"})
    completed(plane, "r1")
    task = InstanceExportSensor(task_id="wait", export=plane.known().id)
    assert task.execute_complete({}, {"state": "completed"})["key"] == "out/exp-1.ova"
    plane.admit("r2", "i-0123456789abcdef9")
    plane.report("r2", words="check: no bucket")
    task = InstanceExportSensor(task_id="wait", export=plane.known("r2").id)
    with pytest.raises(AirflowFailException, match="is failed: check: no bucket"):
        task.execute_complete({}, {"state": "failed"})


def test_one_read_of_the_ledger_tells_all_sensors_whose_export_has_ended(plane: ExportWorld) -> None:
    plane.admit()
    id = plane.known().id
    assert triggers.ended([id, "exp-none"]) == {"exp-none": "unknown"}
    plane.report(words="check: no bucket")
    assert triggers.ended([id]) == {id: "failed"}
    trigger = InstanceExportTrigger(export=id, poll_seconds=0.01)
    kind, fields = trigger.serialize()
    assert kind == "wavelift.airflow.triggers.instance_exports.InstanceExportTrigger"
    assert asyncio.run(InstanceExportTrigger(**fields).wait()) == {"state": "failed", "export": id}


def test_the_end_of_a_run_that_was_never_admitted_needs_neither_its_environment_nor_aws(
    plane: ExportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The REST API reserved it, and `admit` refused it: the removal must not fail, and be tried again for days."""
    requests.reserve(plane.ledger, plane.environment, ExportConf(instance=INSTANCE), plane.ctx())
    monkeypatch.setattr(RemoveExportOperator, "ledger", lambda self: nullcontext(plane.ledger))
    monkeypatch.setattr(RemoveExportOperator, "server_context", lambda self, context: plane.ctx())
    monkeypatch.setattr(flow, "task_states", lambda context: {"admit": "failed"})
    monkeypatch.setattr(flow, "first_failure", lambda *told: "admit: mallory may not")
    task: Any = RemoveExportOperator(task_id="remove")
    assert task.work({}) == Removed().dump()
    known = plane.known()
    assert (known.state, known.error) == (ExportState.FAILED, "admit: mallory may not")


# --- what the flow's own tasks wait for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waits", "kind", "fields"),
    [
        (ForTask("export-i-1", ""), OwnedExportTrigger, {"export_task_id": "export-i-1"}),
        (ForPlace(5, ""), ExportSlotTrigger, {"below": 5}),
        (ForSnapshots(("snap-1",), ""), EbsSnapshotsTrigger, {"snapshot_ids": ["snap-1"]}),
        (ForImage("ami-1", ""), StepsTrigger, {}),
        (ForAWhile(""), StepsTrigger, {}),
    ],
)
def test_each_wait_has_its_trigger_on_the_run_s_own_connection(
    plane: ExportWorld, waits: Waits, kind: type, fields: dict[str, Any]
) -> None:
    task: Any = BeginExportOperator(task_id="begin")
    with pytest.raises(TaskDeferred) as deferred:
        task.wait_for_aws(waits, plane.place)
    trigger: Any = deferred.value.trigger
    told = trigger.fields()
    assert isinstance(trigger, kind)
    assert {name: told[name] for name in fields} == fields
    place = told["waits"][0] if "waits" in told else told
    assert (place["aws_conn_id"], place["region_name"]) == ("aws_lab", "eu-central-1")


def test_vie_05_the_triggerer_writes_how_far_aws_is_into_the_ledger_and_nothing_else(plane: ExportWorld) -> None:
    plane.admit()
    plane.put(state=ExportState.ACTIVE, task_id="export-ami-1")
    version = plane.known().version
    running = {
        "export-ami-1": SimpleNamespace(phase="converting", progress=40),
        "export-ami-2": SimpleNamespace(phase="theirs", progress=None),
    }
    owned_exports.tell_list(running)
    known = plane.known()
    assert (known.phase, known.percent, known.version) == ("AWS: converting", 40, version)
    plane.put(state=ExportState.FAILED, phase="")
    owned_exports.tell_list(running)
    assert plane.known().phase == "", "it has ended"


def test_a_ledger_that_does_not_answer_stops_no_trigger(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(url: str) -> Any:
        raise UnreachableError("the database does not answer")

    monkeypatch.setattr(config, "ledger_url", lambda: "the ledger")
    monkeypatch.setattr(Ledger, "open", away)
    owned_exports.tell_list({"export-i-1": SimpleNamespace(phase="converting", progress=1)})
    assert "could not be recorded" in caplog.text
