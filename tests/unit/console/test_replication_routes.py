"""The routes of replication over a real ledger; Airflow's API and its rights are the test's own (SMS-03 to SMS-10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from airflow.configuration import conf
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from tests import network_world
from tests.contexts import run_context
from tests.ledgers import fresh_ledger, within
from tests.specs import load_texts
from tests.unit.console.living import live_wave

from wavelift.airflow import config
from wavelift.airflow.rest import ApiError
from wavelift.base.catalog import CatalogIndex, CatalogManager, CatalogRow
from wavelift.base.errors import SpecError
from wavelift.base.rates import TransferProgress
from wavelift.base.run import DagRun, SystemClock
from wavelift.base.times import utc_minute
from wavelift.base.tries import FailedTry
from wavelift.console import deps
from wavelift.console.gate import Login
from wavelift.console.progress import _Tasks
from wavelift.ledger import Ledger, catalog, connectors, events, jobs, replication_runs
from wavelift.rules.flows import REPLICATE
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.network_plans import NetworkShape
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.principals import Principals
from wavelift.rules.replication import JobState, RunState
from wavelift.services.dataplane.network_messages import NetworkPlace
from wavelift.services.replication import reserve
from wavelift.services.replication.admission import Asked, admit_runs
from wavelift.services.replication.deletion import complete_deletion
from wavelift.services.replication.outcome import fail_run, mark_cancelled
from wavelift.specs import Granting, UsableNetwork

pytestmark = pytest.mark.unit

CLOCK = SystemClock()
DAG = "erp.replicate"
ENVIRONMENT = """\
environment: lab
aws_conn_id: aws
account: '123456789012'
may: {migrate: ['user:ana'], cut_over: ['user:ana'], administer: ['user:ana']}
region: eu-central-1
staging: {bucket: staging}
role: vmimport
vpc: vpc-0aaaaaaaaaaaaaaaa
subnets: [subnet-0aaaaaaaaaaaaaaaa]
security_groups: [sg-0aaaaaaaaaaaaaaaa]
instance_types: [t3.small]
sources: [{connection: vc, connectors: [hall-a]}]
exports: {name: acme}
"""
WAVE = """\
wave: erp
source: {connection: vc, connector: hall-a}
environment: lab
replication: {frequency_hours: 12, keep_amis: 3}
servers:
  - web01
  - name: db01
    replication: {frequency_hours: 24}
  - folder: /DC0/vm/shop
  - tag: wave:erp
"""


class Airflow:
    """Airflow's REST API as a caller meets it."""

    def __init__(self) -> None:
        self.paused: bool | None = False
        self.triggered: list[tuple[str, str, Any]] = []
        self.refuses: ApiError | None = None
        self.states: dict[str, str] = {}
        self.tasks: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.moved: TransferProgress | None = None
        self.left: FailedTry = FailedTry()
        self.asking: set[str] = set()
        """Tasks that wait for a person's answer."""
        self.answered: list[tuple[str, str, str]] = []

    def is_paused(self, dag_id: str) -> bool | None:
        return self.paused

    def trigger(self, dag_id: str, conf: Any = None, *, run_id: str = "", note: str = "") -> str:
        if self.refuses:
            raise self.refuses
        self.triggered.append((dag_id, run_id, conf))
        return run_id or "manual__1"

    def find_run_state(self, dag_id: str, run_id: str) -> str:
        """Of a run that it refused to make: none."""
        return self.states.get(run_id, "" if self.refuses else "running")

    def task_instances(
        self, dag_id: str, run_id: str, *, task_id: str = "", states: Sequence[str] = (), timeout: float = 60
    ) -> list[dict[str, Any]]:
        found = [task for task in self.tasks if task_id in ("", task["task_id"])]
        return [task for task in found if not states or task["state"] in states]

    def failed_try(self, dag_id: str, run_id: str, task_id: str, *, map_index: int, timeout: float = 60) -> FailedTry:
        return self.left

    def fail_task(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
        self.failed.append(f"{task_id} {map_index}")
        for task in self.tasks:
            if (task["task_id"], task["map_index"]) == (task_id, map_index):
                task["state"] = "failed"

    def asks(self, dag_id: str, run_id: str, task_id: str) -> bool:
        return task_id in self.asking

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        self.answered.append((run_id, task_id, option))

    def progress(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int, timeout: float = 60
    ) -> TransferProgress | None:
        return self.moved


class Specs:
    """One wave, as its file says now."""

    def __init__(self) -> None:
        self.text = WAVE
        self.broken = ""
        self.environment, self.environment_broken = ENVIRONMENT, ""

    def wave(self, name: str) -> ResolvedWave:
        if self.broken:
            raise SpecError(self.broken)
        if name != "erp":
            raise SpecError(f"There is no spec of wave '{name}'")
        loaded = load_texts(self.text, self.environment, where="lab")
        assert loaded is not None
        return loaded.resolve()

    def live(self, name: str) -> ResolvedLive:
        if self.broken:
            raise SpecError(self.broken)
        return live_wave(name)

    def environment_of(self, wave: str) -> str | None:
        return {"erp": "lab"}.get(wave)

    def network(self, name: str) -> NetworkPlace:
        where = network_world.environment().model_copy(update={"environment": "lab"})
        return NetworkPlace(network=network_world.spec(), environment=where)

    def networks(self) -> dict[str, UsableNetwork]:
        return {"web": UsableNetwork(NetworkShape(network="web", environment="lab"))}

    def environment_of_network(self, network: str) -> str | None:
        return {"web": "lab"}.get(network)

    def granting(self, environment: str) -> Granting:
        if self.environment_broken:
            raise SpecError(self.environment_broken)
        loaded = load_texts(WAVE, self.environment, where="lab")
        assert loaded is not None
        return Granting(loaded.environment, Principals())

    def principals(self) -> tuple[Principals, str]:
        return Principals(), ""

    def environments(self) -> list[str]:
        return ["lab"]

    def group_memory(self) -> timedelta:
        return timedelta(hours=24)

    def connectors(self) -> dict[str, str]:
        return {"erp": "hall-a"}

    def problem_of(self, name: str) -> str:
        return self.broken


class Rights:
    """Airflow's auth manager with three switches."""

    read = trigger = True
    audit = False

    def is_authorized_dag(self, *, method: str, user: Any, details: Any = None, access_entity: Any = None) -> bool:
        if details is None:
            return self.audit
        return self.read if method == "GET" else self.trigger

    def is_authorized_connection(self, *, method: str, user: Any) -> bool:
        return self.audit

    def get_authorized_dag_ids(self, *, user: Any, method: str) -> set[str]:
        others = {"erp.migrate", "erp.cutover", "erp.test", "erp.live", "web.network_cutover", "instance_export.lab"}
        return {DAG, *others} if self.read else set()


class User:
    def get_name(self) -> str:
        return "ana"


async def ana(request: Request) -> str:
    """The gate's login."""
    return "ana"


@cache
def application(login: Login) -> FastAPI:
    """Made once per process: it costs 0.2 s of CPU and keeps nothing but the doubles of a test."""
    from wavelift.console.api import create_app

    return create_app(login)


class Desk:
    """The console as one user's program sees it."""

    def __init__(self, ledger: Ledger, client: TestClient) -> None:
        self.ledger, self.client = ledger, client
        self.airflow, self.specs, self.rights = Airflow(), Specs(), Rights()
        self.doubles: dict[Any, Any] = {}

    def get(self, path: str, **query: Any) -> Any:
        return self.told(self.client.get(path, params=query))

    def post(self, path: str, **body: Any) -> Any:
        return self.told(self.client.post(path, json=body))

    def refused(self, method: str, path: str, status: int, body: Any = None) -> Any:
        answer = self.client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    @staticmethod
    def told(answer: Any) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()

    def job(self, server: str = "web01", **fields: Any) -> str:
        return str(self.post("/jobs", wave="erp", servers=[server], **fields)["jobs"][0]["id"])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    from airflow.api_fastapi.core_api.security import get_user

    from wavelift.console import access, audit_right, deps

    app = application(ana)
    with fresh_ledger(tmp_path / "wavelift.db") as ledger:
        made = Desk(ledger, TestClient(app))
        made.doubles = app.dependency_overrides = {
            get_user: User,
            deps._ledger: lambda: ledger,
            deps._airflow: lambda: made.airflow,
            deps.Specs: lambda: made.specs,
        }
        for module in (access, audit_right):
            monkeypatch.setattr(module, "get_auth_manager", lambda: made.rights)
        monkeypatch.setattr(access, "_team", lambda dag_id: None)
        yield made
    app.dependency_overrides = {}


def import_catalog(ledger: Ledger, **guests: str) -> None:
    """A catalogue of ``vc``: name → guest id; web03 lies in the wave's folder, web04 has its tag."""
    words: dict[str, Any] = dict.fromkeys(("power", "connection_state", "guest_full_name"), "")
    rows = [
        CatalogRow(
            vm_id=f"vm-{at}",
            instance_uuid=f"uuid-{name}",
            name=name,
            path=f"/DC0/vm/{'shop/' if name == 'web03' else ''}{name}",
            guest_id=guest,
            template=False,
            cpus=1,
            memory_mib=1,
            disk_bytes=1,
            tags=("wave:erp",) if name == "web04" else (),
            **words,
        )
        for at, (name, guest) in enumerate(guests.items())
    ]
    run = DagRun("server_catalog.hall-a", "manual__1")
    generation = within(
        ledger.write(catalog.lock_name("vc")),
        catalog.begin_import,
        "vc",
        connector="hall-a",
        run=run,
        by="ana",
        clock=CLOCK,
    ).generation
    within(
        ledger.write(catalog.lock_name("vc")), catalog.merge_page, "vc", generation, number=0, rows=rows, clock=CLOCK
    )
    manager = CatalogManager(id="uuid-vc", name="vc", type="VirtualCenter")
    within(
        ledger.write(catalog.lock_name("vc")),
        catalog.finish_import,
        "vc",
        generation,
        index=CatalogIndex(manager=manager, pages=1, rows=len(rows)),
        clock=CLOCK,
    )


def test_sms_03_jobs_of_several_servers_are_made_all_or_none(desk: Desk) -> None:
    made = desk.post("/jobs", wave="erp", servers=["web01", "db01"], description="shop", seed_time="now")["jobs"]
    assert [(row["server"], row["frequency_hours"], row["keep_amis"]) for row in made] == [
        ("web01", 12, 3),
        ("db01", 24, 3),
    ]
    first = made[0]
    assert first["next_at"] == first["seed_at"], "its first run is still to come"
    assert (first["state"], first["latest_ami_id"], first["current_run"], first["term_days_left"]) == (
        "active",
        "",
        None,
        None,
    )
    assert desk.get(f"/jobs/{first['id']}") == first
    unknown = desk.refused("POST", "/jobs", 409, {"wave": "erp", "servers": ["web02"]})
    assert "has no server 'web02'" in unknown["detail"]


def test_sms_03_one_job_that_stands_refuses_all(desk: Desk) -> None:
    desk.job("db01")
    refused = desk.refused("POST", "/jobs", 409, {"wave": "erp", "servers": ["web01", "db01"]})
    assert "has a replication job" in refused["detail"]
    assert desk.get("/jobs")["total"] == 1


def test_words_that_would_become_other_values_are_refused_and_shown(desk: Desk) -> None:
    """Programs make the same slips as people: JSON's true is 1 to a lenient reader, 2200 an hour of 1970."""
    body = {"wave": "erp", "servers": ["web01"]}
    job = desk.job("db01")
    for wrong, words in (
        ({"seed_time": 2200}, "The seed time '2200' is read as seconds since 1970, which is 1970-01-01T00:36:40"),
        ({"seed_time": "20261201"}, "which is 1970-08-23"),
        ({"seed_time": 1795341600000}, "not between 2020 and 2099"),
        ({"keep_amis": True}, "must be a whole number, not true"),
        ({"frequency_hours": "0x10"}, "not '0x10': other YAML readers read it as 16"),
        ({"force_register": 1}, "must be true or false, not 1"),
    ):
        for method, path, start in (("POST", "/jobs", body), ("PATCH", f"/jobs/{job}", {})):
            assert words in str(desk.refused(method, path, 422, {**start, **wrong})), (method, wrong)
    for path, name in (
        ("/waves/erp/apply", "dry_run"),
        ("/cleanup", "dry_run"),
        ("/connectors/hall-a/maintenance", "on"),
    ):
        told = desk.refused("POST", path, 422, {"wave": "erp", name: 0} if path == "/cleanup" else {name: 0})
        assert "must be true or false, not 0" in str(told), path
    assert "a whole number" in str(desk.refused("POST", f"/jobs/{job}/extend", 422, {"days": True}))
    assert "string" in str(desk.refused("POST", "/jobs", 422, {"wave": "erp", "servers": [2012]}))


def test_sms_03_what_a_job_can_t_be_is_refused(desk: Desk) -> None:
    far = (datetime.now(UTC) + timedelta(days=31)).isoformat()
    body = {"wave": "erp", "servers": ["web01"]}
    assert "more than 30 days" in desk.refused("POST", "/jobs", 409, {**body, "seed_time": far})["detail"]
    for wrong in ({"seed_time": "2026-12-01T10:00:00"}, {"frequency_hours": 11}, {"keep_amis": 0}, {"ami": None}):
        desk.refused("POST", "/jobs", 422, {**body, **wrong})
    import_catalog(desk.ledger, web01="debian12_64Guest")
    refused = desk.refused("POST", "/jobs", 409, {**body, "license_type": "aws"})
    assert (refused["rule"], desk.get("/jobs")["total"]) == ("license", 0)


def test_files_that_allow_no_run_let_nothing_start_and_nothing_be_lost(desk: Desk) -> None:
    """Also when somebody broke them on purpose: the last valid version does not count."""
    job = desk.job("web01")
    desk.specs.broken = "waves/erp.yaml:3: source.connection: environment 'lab' takes no servers of connection 'vc'"
    before = [dict(row) for row in desk.client.get("/jobs").json()["jobs"]]
    for path, body in (
        ("/jobs", {"wave": "erp", "servers": ["db01"]}),
        ("/waves/erp/apply", {"dry_run": False}),
        ("/waves/erp/apply", {"dry_run": True}),
        ("/waves/erp/replications", {"servers": ["web01"]}),
        (f"/jobs/{job}/resume", {}),
    ):
        answer = desk.client.post(path, json=body)
        assert answer.status_code in range(400, 500), path
        assert desk.specs.broken in answer.text, path
    assert desk.client.get("/jobs").json()["jobs"] == before
    assert desk.post(f"/jobs/{job}/pause")["state"] == "paused"
    desk.specs.broken = ""
    assert desk.post(f"/jobs/{job}/resume")["state"] == "active"


def test_sms_03_a_job_is_changed_paused_resumed_extended(desk: Desk) -> None:
    id = desk.job()
    changed = desk.told(desk.client.patch(f"/jobs/{id}", json={"frequency_hours": 24, "keep_amis": None}))
    assert (changed["frequency_hours"], changed["keep_amis"]) == (24, None)
    desk.told(desk.client.patch(f"/jobs/{id}", json={"license_type": "byol"}))
    paused = desk.post(f"/jobs/{id}/pause", reason="change freeze")
    assert (paused["state"], paused["state_reason"], paused["next_at"]) == ("paused", "change freeze", None)
    assert [row["id"] for row in desk.get("/jobs", state="paused", search="WEB")["jobs"]] == [id]
    assert desk.post(f"/jobs/{id}/resume")["state"] == "active"
    assert "begins with the first" in desk.refused("POST", f"/jobs/{id}/extend", 409, {})["detail"]


def test_sms_08_lists_are_paged_by_fifty(desk: Desk) -> None:
    desk.post("/jobs", wave="erp", servers=["web01", "db01"])
    assert desk.get("/jobs")["limit"] == 50
    page = desk.get("/jobs", limit=1, offset=1)
    assert ([row["server"] for row in page["jobs"]], page["total"]) == (["web01"], 2)
    desk.refused("GET", "/jobs?limit=0", 422)


def test_apply_shows_drift_and_then_takes_it_away(desk: Desk) -> None:
    dry = desk.post("/waves/erp/apply", dry_run=True)
    assert [(row["kind"], row["server"]) for row in dry["changes"]] == [("create", "web01"), ("create", "db01")]
    assert (dry["unbound"], dry["dag_paused"], desk.get("/jobs")["total"]) == (["/DC0/vm/shop", "wave:erp"], False, 0)
    import_catalog(desk.ledger, **dict.fromkeys(("web01", "web03", "web04"), "debian12_64Guest"))
    done = desk.post("/waves/erp/apply")
    assert [row["kind"] for row in done["changes"]] == ["create"] * 4
    assert done["unbound"] == []
    [web01] = desk.get("/jobs", search="web01")["jobs"]
    assert (web01["source"], web01["identity"]) == ("vc", "uuid-web01")

    desk.specs.text = WAVE.replace("frequency_hours: 12", "frequency_hours: 18").replace("  - web01\n", "")
    drift = {row["server"]: row for row in desk.post("/waves/erp/apply", dry_run=True)["changes"]}
    kinds = {"web01": "missing", "db01": "keep", "web03": "update", "web04": "update"}
    assert {name: row["kind"] for name, row in drift.items()} == kinds
    assert drift["web03"]["fields"] == {"frequency_hours": {"ledger": 12, "spec": 18}}
    desk.post("/waves/erp/apply")
    again = desk.post("/waves/erp/apply")
    assert {row["kind"] for row in again["changes"]} == {"keep", "missing"}
    assert "no DAG crm.replicate" in desk.refused("POST", "/waves/crm/apply", 404, {})["detail"]


def test_sms_06_two_on_demand_runs_then_a_refusal_with_rule_and_time(desk: Desk) -> None:
    desk.job()
    for _ in range(2):
        answer = desk.post("/waves/erp/replications", servers=["web01"])
        [run] = answer["runs"]
        assert (run["type"], run["state"], run["dag_run_id"]) == ("OnDemand", "Reserved", answer["dag_run_id"])
        busy = desk.refused("POST", "/waves/erp/replications", 409, {"servers": ["web01"]})
        assert busy["rule"] == "in_progress"
        admitted = admit_runs(
            desk.ledger, "erp", Asked(), run_context(DagRun(DAG, answer["dag_run_id"]), requester="ana", clock=CLOCK)
        )
        assert [each.id for each in admitted.granted] == [run["id"]]
        fail_run(desk.ledger, run["id"], "no route", clock=CLOCK)
    refused = desk.refused("POST", "/waves/erp/replications", 409, {})
    assert refused["rule"] == "quota"
    assert datetime.fromisoformat(refused["until"]) > datetime.now(UTC) + timedelta(hours=23)
    assert utc_minute(datetime.fromisoformat(refused["until"])) in refused["detail"], "rounded up, and once"
    assert "until=" not in refused["detail"]
    assert [each["server"] for each in refused["refusals"]] == ["web01"]
    assert [dag for dag, *_ in desk.airflow.triggered] == [DAG, DAG], "no DAG run of a refused request"


def test_a_reservation_is_given_back_when_its_dag_run_can_t_be_made(desk: Desk) -> None:
    desk.job()
    desk.airflow.refuses = ApiError("forbidden", status=403)
    for _ in range(3):  # not one of them counts
        assert desk.refused("POST", "/waves/erp/replications", 403, {"servers": ["web01"]}) == {"detail": "forbidden"}
    desk.airflow.refuses = None
    desk.post("/waves/erp/replications", servers=["web01"])
    states = [row["state"] for row in desk.get("/runs", wave="erp")["runs"]]
    assert sorted(states) == ["Expired"] * 3 + ["Reserved"]


def test_a_paused_or_missing_dag_reserves_nothing(desk: Desk) -> None:
    desk.job()
    desk.airflow.paused = True
    assert "unpause" in desk.refused("POST", "/waves/erp/replications", 409, {})["detail"]
    desk.airflow.paused = None
    unknown = desk.refused("POST", "/waves/erp/replications", 404, {})["detail"]
    assert all(words in unknown for words in (DAG, "read within", "wave validate", "import errors"))
    assert desk.get("/runs")["total"] == 0


def test_a_wave_that_airflow_has_not_loaded_is_told_with_what_its_file_says(desk: Desk) -> None:
    desk.airflow.paused = None
    told = desk.get("/waves/erp")
    assert (told["dag_id"], told["loaded"], told["problem"]) == ("erp.migrate", False, "")
    assert told["within_s"] == conf.getint("dag_processor", "min_file_process_interval")
    desk.specs.broken = "waves/erp.yaml:3: servers: must be a list"
    assert desk.get("/waves/erp")["problem"] == desk.specs.broken
    desk.airflow.paused = True
    assert desk.get("/waves/erp")["loaded"]
    desk.rights.read = False
    desk.refused("GET", "/waves/erp", 403)


def at_step(desk: Desk, step: str, state: str, number: int = 1) -> None:
    """Airflow's tasks of web01, which stands at index 4: all before ``step`` have ended."""
    chain = [one.name for one in REPLICATE.chain]
    before = [(name, "success") for name in chain[: chain.index(step)]]
    desk.airflow.tasks = [
        {"task_id": f"server.{name}", "map_index": 4, "state": its, "rendered_map_index": "web01", "try_number": number}
        for name, its in [*before, (step, state)]
    ]


def test_a_retry_never_looks_like_work(desk: Desk) -> None:
    """The ledger says Uploading from the slot to the record, whatever the snapshot and the transfer do."""
    id = desk.job()
    run = start(desk)
    reserve.tell(desk.ledger, run_context(DagRun(DAG, run["dag_run_id"]), "web01", clock=CLOCK), "Uploading")
    again = CLOCK.now() + timedelta(seconds=40)
    desk.airflow.left = FailedTry(what="vCenter refused the snapshot", number=1, of=4, next_at=again)
    at_step(desk, "snapshot", "up_for_retry")
    for row in (
        desk.get("/runs", wave="erp")["runs"][0],
        desk.get(f"/runs/{run['id']}"),
        desk.get(f"/jobs/{id}/runs")["runs"][0],
        desk.get(f"/jobs/{id}")["current_run"],
        desk.get("/jobs")["jobs"][0]["current_run"],
    ):
        assert (row["status"], row["step"], row["step_state"]) == ("Snapshot", "snapshot", "up_for_retry")
        assert (row["step_try"], row["step_tries"], row["retry_reason"]) == (1, 4, "vCenter refused the snapshot")
        assert datetime.fromisoformat(row["retry_at"]) == again
    at_step(desk, "snapshot", "running", 2)
    [row] = desk.get("/runs", wave="erp")["runs"]
    assert (row["step_state"], row["step_try"], row["retry_reason"], row["retry_at"]) == ("running", 2, "", None)
    at_step(desk, "transfer", "running")
    [row] = desk.get("/runs", wave="erp")["runs"]
    assert (row["status"], row["step"]) == ("Uploading", "transfer")
    at_step(desk, "snapshot", "success")
    [row] = desk.get("/runs", wave="erp")["runs"]
    assert (row["status"], row["step"]) == ("", ""), "between two steps nothing is uploaded"
    at_step(desk, "record", "deferred")
    [row] = desk.get("/runs", wave="erp")["runs"]
    assert (row["status"], row["step"], row["step_state"]) == ("Record", "record", "deferred")


def test_who_waits_for_a_worker_is_found_by_what_has_ended(desk: Desk) -> None:
    """A mapped task tells its server when it begins; a queued one is named by its index."""
    desk.job()
    start(desk)
    at_step(desk, "snapshot", "queued")
    desk.airflow.tasks[-1]["rendered_map_index"] = "4"
    [row] = desk.get("/runs", wave="erp")["runs"]
    assert (row["step"], row["step_state"]) == ("snapshot", "queued")


def test_a_server_that_is_called_like_an_index_is_not_taken_for_it() -> None:
    tasks = _Tasks()
    waits = [{"rendered_map_index": str(index), "map_index": index} for index in range(3)]
    begun = {"rendered_map_index": "1", "map_index": 2}
    tasks.note([begun, *waits])
    assert tasks.indexes == {"0": 0, "1": 2, "2": 2}
    tasks.note([begun])
    assert tasks.indexes["1"] == 2


def start(desk: Desk) -> dict[str, Any]:
    answer = desk.post("/waves/erp/replications", servers=["web01"])
    run = DagRun(DAG, answer["dag_run_id"])
    admit_runs(desk.ledger, "erp", Asked(), run_context(run, requester="ana", clock=CLOCK))
    desk.airflow.tasks = [
        {"task_id": f"server.{step}", "map_index": 4, "state": state, "rendered_map_index": "web01"}
        for step, state in (("reserve", "success"), ("snapshot", "success"), ("transfer", "running"))
    ]
    return dict(answer["runs"][0])


def test_sms_08_a_running_transfer_shows_in_the_history(desk: Desk) -> None:
    id = desk.job()
    run = start(desk)
    stored = {"disks": {"SCSI 0:0": {"done": 30, "total": 100, "sent": 7}}, "rate": 5}
    desk.airflow.moved = TransferProgress.load(stored, age=2)
    [row] = desk.get(f"/jobs/{id}/runs", state="Active")["runs"]
    assert (row["id"], row["state"], row["status"], row["scheduled_start"]) == (run["id"], "Active", "Uploading", None)
    assert (row["bytes_done"], row["bytes_total"], row["bytes_sent"], row["progress_pct"]) == (30, 100, 7, 30)
    assert row["rate"] == 5
    desk.airflow.moved = TransferProgress.load(stored, age=11)  # the connector is silent
    [row] = desk.get(f"/jobs/{id}/runs", state="Active")["runs"]
    assert (row["bytes_done"], row["rate"]) == (30, 0)
    assert desk.get(f"/jobs/{id}")["current_run"]["id"] == run["id"]
    shown = desk.get(f"/runs/{run['id']}")
    assert (shown["result"], shown["verified"]) == (None, None)
    proof = {"level": "full", "blocks_checked": 3, "bytes_read_back": 9}
    with desk.ledger.write() as tx:
        subject = events.Subject("replication_run", run["id"])
        for details in ({"ami_id": "ami-1"}, {"ami_id": "ami-1", "verified": proof}):
            events.append(tx, subject, "replication_run.completed", at=CLOCK.now(), actor="x", details=details)
    assert desk.get(f"/runs/{run['id']}")["verified"] == proof
    assert desk.get("/runs", wave="erp", dag_run_id=run["dag_run_id"])["total"] == 1
    desk.refused("GET", "/runs?dag_run_id=x", 422)


def test_the_audit_trail_of_a_job_and_of_a_run(desk: Desk) -> None:
    job = desk.job()
    run = start(desk)
    told = desk.get(f"/events/{job}")["events"]
    assert [each["action"] for each in told][:1] == ["replication_job.created"]
    assert told[0]["details"]["server"] == "web01"
    assert [each["action"] for each in desk.get(f"/events/{run['id']}", limit=1)["events"]] == [
        "replication_run.reserved"
    ]
    assert desk.get(f"/events/{job}", after=told[-1]["id"])["events"] == []
    desk.refused("GET", "/events/web01", 422)
    desk.refused("GET", "/events/run-nobody", 404)
    desk.rights.read = False
    for id in (job, run["id"]):
        desk.refused("GET", f"/events/{id}", 403)


def test_a_run_is_cancelled_once_and_its_task_stopped(desk: Desk) -> None:
    desk.job()
    run = start(desk)
    done = desk.post(f"/runs/{run['id']}/cancel")
    assert (done["cancel_requested"], done["stopped_tasks"]) == (True, ["server.transfer"])
    assert desk.airflow.failed == ["server.transfer 4"]
    mark_cancelled(desk.ledger, run["id"], "cancelled on request", clock=CLOCK)
    assert desk.get(f"/runs/{run['id']}")["state"] == "Cancelled"
    assert "already ended" in desk.refused("POST", f"/runs/{run['id']}/cancel", 409)["detail"]


def test_a_reserved_run_that_is_cancelled_is_not_counted(desk: Desk) -> None:
    desk.job()
    for _ in range(3):
        [run] = desk.post("/waves/erp/replications", servers=["web01"])["runs"]
        assert desk.post(f"/runs/{run['id']}/cancel")["state"] == "Expired"


def test_sms_09_deleting_a_job_stops_its_run_and_starts_the_removal(desk: Desk) -> None:
    id = desk.job()
    run = start(desk)
    done = desk.told(desk.client.delete(f"/jobs/{id}"))
    assert (done["job"]["state"], done["cut_short"], done["stopped_tasks"]) == (
        "deleting",
        [run["id"]],
        ["server.transfer"],
    )
    assert desk.airflow.triggered[-1] == (DAG, "", {"mode": "delete", "jobs": [id]})
    assert desk.get(f"/runs/{run['id']}")["state"] == "Deleted"
    desk.told(desk.client.delete(f"/jobs/{id}"))
    assert len(desk.airflow.triggered) == 3, "asked again, the removal starts again"
    complete_deletion(desk.ledger, id, by="ana", clock=CLOCK)
    desk.told(desk.client.delete(f"/jobs/{id}"))
    assert len(desk.airflow.triggered) == 3
    assert desk.get("/jobs", state="deleted")["total"] == 1


def test_inv_1_what_has_no_recorded_disks_is_not_verified(desk: Desk) -> None:
    id = desk.job()
    run = start(desk)
    before = len(desk.airflow.triggered)
    for path in (f"/jobs/{id}/verify", f"/runs/{run['id']}/verify"):
        answer = desk.client.post(path)
        assert answer.status_code in (400, 409, 422), answer.text
        assert "recorded" in answer.text
    assert len(desk.airflow.triggered) == before


def test_sms_09_a_job_that_never_ran_is_deleted_at_once(desk: Desk) -> None:
    id = desk.job()
    done = desk.told(desk.client.delete(f"/jobs/{id}"))
    assert (done["job"]["state"], done["dag_run_id"], desk.airflow.triggered) == ("deleted", None, [])
    assert within(desk.ledger.read(), jobs.get, id).state is JobState.DELETED


def test_reading_needs_the_right_to_read_writing_the_right_to_trigger(desk: Desk) -> None:
    id = desk.job()
    run = start(desk)
    reading = ["/jobs/" + id, f"/jobs/{id}/runs", "/runs/" + run["id"]]
    writing: list[tuple[str, str, Any]] = [
        ("POST", "/jobs", {"wave": "erp", "servers": ["db01"]}),
        ("PATCH", f"/jobs/{id}", {"frequency_hours": 24}),
        *(("POST", f"/jobs/{id}/{verb}", {}) for verb in ("pause", "resume", "extend")),
        ("DELETE", f"/jobs/{id}", None),
        ("POST", "/waves/erp/apply", {}),
        ("POST", "/waves/erp/replications", {}),
        ("POST", f"/runs/{run['id']}/cancel", None),
    ]
    desk.rights.trigger = False
    for method, path, body in writing:
        assert f"may not trigger {DAG}" in desk.refused(method, path, 403, body)["detail"], path
    for path in reading:
        desk.get(path)
    desk.post("/waves/erp/apply", dry_run=True)
    desk.rights.read = False
    for path in reading:
        desk.refused("GET", path, 403)
    desk.refused("POST", "/waves/erp/apply", 403, {"dry_run": True})
    assert (desk.get("/jobs")["total"], desk.get("/runs")["total"]) == (0, 0)
    assert within(desk.ledger.read(), replication_runs.get, run["id"]).state is RunState.ACTIVE
    assert not within(desk.ledger.read(), replication_runs.get, run["id"]).cancel_requested


def test_what_is_not_there_is_404(desk: Desk) -> None:
    for method, path in (("GET", "/jobs/job-0"), ("DELETE", "/jobs/job-0"), ("GET", "/runs/run-0")):
        desk.refused(method, path, 404)


def test_sms_02_the_catalogue_shows_each_server_s_job(desk: Desk) -> None:
    import_catalog(desk.ledger, web01="debian12_64Guest", db01="debian12_64Guest")
    id = desk.job()
    rows = {row["name"]: row["job"] for row in desk.get("/catalog")["servers"]}
    assert rows == {"web01": {"id": id, "state": "active", "terminated": False}, "db01": None}
    desk.told(desk.client.delete(f"/jobs/{id}"))
    rows = {row["name"]: row["job"] for row in desk.get("/catalog")["servers"]}
    assert rows["web01"] == {"id": id, "state": "deleted", "terminated": True}
    new = desk.job()
    assert {row["name"]: row["job"] for row in desk.get("/catalog")["servers"]}["web01"]["id"] == new != id


def test_sms_01_a_connector_with_replication_jobs_is_not_disassociated(desk: Desk) -> None:
    within(
        desk.ledger.write(connectors.lock_name("hall-a")),
        connectors.register,
        "hall-a",
        connectors.Registration(connection="vc", aws_conn_id="aws", region="r"),
        by="ana",
        clock=CLOCK,
    )
    id = desk.job()
    refused = desk.refused("POST", "/connectors/hall-a/disassociate", 409)
    assert "1 replication job of wave 'erp'" in refused["detail"]
    desk.told(desk.client.delete(f"/jobs/{id}"))
    desk.post("/connectors/hall-a/disassociate")


@pytest.mark.parametrize("name", ["gone", "a" * 300, "..", "a\0b"], ids=["gone", "long", "dots", "nul"])
def test_a_wave_of_any_name_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name that is too long for a file was an error of the server."""
    for folder in ("waves_folder", "environments_folder"):
        monkeypatch.setattr(config, folder, lambda: tmp_path)
    assert deps.Specs().problem_of(name) == f"There is no file {name}.yaml in the folder of the waves"
