"""Every route of the application: without a login, a right or the right origin it tells and changes nothing.

A new route needs a line in :data:`RIGHTS`, and fails here until it asks for what the line says. A line that says
nothing is none: who may call it without any right is told in words (``own``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import sqlalchemy as sa
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import get_user
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute
from tests.contexts import run_context
from tests.ledgers import copy_content, ledger_file
from tests.unit.console.cutting import CUT, PERSON, cuttable, one_of_each
from tests.unit.console.exporting import EXPORT_DAG, INSTANCE, one_export
from tests.unit.console.living import one_live
from tests.unit.console.test_answers import migrate
from tests.unit.console.test_replication_routes import ENVIRONMENT, Desk, application, desk, import_catalog

from wavelift.console import requests
from wavelift.console.api import create_app
from wavelift.console.origin import READING
from wavelift.console.values import storable_values
from wavelift.ledger import events
from wavelift.ledger.tables import metadata
from wavelift.ledger.tables_authority import principal_group
from wavelift.rules import conf
from wavelift.rules.environment import BACKUP_DAG, CHECK_DAG
from wavelift.rules.flows import SlotKind
from wavelift.services.common.slots import SlotRequest, request_slots

__all__ = ["desk"]

pytestmark = pytest.mark.unit

READ, TRIGGER = "GET", "POST"
MIGRATE, REPLICATE, CUTOVER, TEST, LIVE = "erp.migrate", "erp.replicate", "erp.cutover", "erp.test", "erp.live"
NETWORK: Final = "web.network_cutover"
OF_WAVE: Final = frozenset({MIGRATE, REPLICATE, CUTOVER, TEST, LIVE, NETWORK, EXPORT_DAG})
"""What asks an environment, too."""
CATALOG: Final = "server_catalog.hall-a"
AUDITOR: Final = frozenset({(READ, "audit log"), ("PUT", "connections")})
"""Rights that name no DAG: an administrator's."""


@dataclass(frozen=True)
class Needs:
    """What a route asks Airflow's auth manager. A list, named by ``rows``, leaves out what one may not read.

    :param own: why it needs no right beside the login: it tells the caller nothing but what is the caller's own.
    """

    rights: frozenset[tuple[str, str]] = frozenset()
    body: Any = None
    rows: str = ""
    own: str = ""


def read(dag_id: str, body: Any = None) -> Needs:
    return Needs(frozenset({(READ, dag_id)}), body)


def write(dag_id: str, body: Any = None) -> Needs:
    return Needs(frozenset({(TRIGGER, dag_id)}), body)


def change(dag_id: str, body: Any = None) -> Needs:
    """Of a thing that is named by its id: to say that it is there, one must be allowed to read it."""
    return Needs(frozenset({(READ, dag_id), (TRIGGER, dag_id)}), body)


RIGHTS: Final = {
    "GET /migrations": Needs(rows="migrations"),
    "GET /migrations/{migration_id}": read(MIGRATE),
    "POST /migrations/{migration_id}/cancel": change(MIGRATE),
    "POST /migrations/{migration_id}/launch": change(MIGRATE),
    "POST /migrations/{migration_id}/verify": change(MIGRATE),
    "POST /waves/{wave}/migrations": write(MIGRATE, {"servers": ["web01"]}),
    "POST /cleanup": write(MIGRATE, {"wave": "erp", "dry_run": False}),
    "GET /cutovers": Needs(rows="cutovers"),
    "GET /cutovers/{cutover_id}": read(CUTOVER),
    "POST /waves/{wave}/cutovers": write(CUTOVER, {"servers": ["db01"], "mode": "cutover"}),
    "POST /waves/{wave}/cutovers/{dag_run_id}/approval": write(CUTOVER, {"answer": "approve"}),
    "POST /cutovers/{cutover_id}/revert": change(CUTOVER),
    "POST /cutovers/{cutover_id}/finalize": change(CUTOVER),
    "POST /cutovers/{cutover_id}/cancel": change(CUTOVER),
    "POST /cutovers/{cutover_id}/confirm": change(CUTOVER, {"step": PERSON}),
    "GET /networks": Needs(rows="networks"),
    "GET /network_cutovers": Needs(rows="cutovers"),
    "GET /network_cutovers/{network_cutover_id}": read(NETWORK),
    "POST /networks/{network}/cutovers": write(NETWORK, {"mode": "cutover"}),
    "POST /networks/{network}/cutovers/{dag_run_id}/approval": write(NETWORK, {"answer": "approve"}),
    "POST /network_cutovers/{network_cutover_id}/revert": change(NETWORK),
    "POST /network_cutovers/{network_cutover_id}/finish": change(NETWORK),
    "POST /network_cutovers/{network_cutover_id}/cancel": change(NETWORK),
    "POST /network_cutovers/{network_cutover_id}/confirm": change(NETWORK, {"step": "source"}),
    "GET /live": Needs(rows="migrations"),
    "GET /live/{live_id}": read(LIVE),
    "POST /waves/{wave}/live": write(LIVE, {"servers": ["db01"], "mode": "migrate"}),
    "POST /waves/{wave}/live/{dag_run_id}/approval": write(LIVE, {"answer": "approve"}),
    "POST /live/{live_id}/cancel": change(LIVE),
    "GET /exports": Needs(rows="exports"),
    "GET /exports/{export_id}": read(EXPORT_DAG),
    "POST /exports": write(EXPORT_DAG, {"environment": "lab", "instance": INSTANCE[:-1] + "f"}),
    "POST /exports/setup": write(EXPORT_DAG, {"environment": "lab"}),
    "POST /exports/{export_id}/cancel": change(EXPORT_DAG),
    "POST /waves/{wave}/tests": write(TEST, {"servers": ["web01"]}),
    "GET /tests": Needs(rows="tests"),
    "POST /tests/{test_id}/end": change(TEST),
    "GET /backups": Needs(rows="backups"),
    "POST /backups": Needs(frozenset({(READ, CUTOVER), (TRIGGER, BACKUP_DAG)}), {"subject": CUT}),
    "GET /queue": Needs(rows="queue"),
    "POST /queue/{server_run_id}/priority": change(MIGRATE, {"priority": "next"}),
    "GET /events/{object_id}": read(REPLICATE),
    "GET /events": Needs(rows="events"),
    "POST /audit/seal": Needs(AUDITOR),
    "GET /audit/sealed": Needs(AUDITOR),
    "GET /audit/verify": Needs(AUDITOR),
    "GET /catalogs": Needs(rows="catalogs"),
    "GET /catalog": Needs(rows="servers"),
    "POST /catalog/import": write(CATALOG, {"connector": "hall-a", "connection": "vc"}),
    "POST /catalog/clear": write(CATALOG, {"connection": "vc"}),
    "GET /connectors": Needs(rows="connectors"),
    "POST /connectors": write(CATALOG, {"name": "hall-a", "connection": "vc", "description": "new"}),
    "POST /connectors/{name}/maintenance": write(CATALOG, {"on": True}),
    "POST /connectors/{name}/check": write(CATALOG),
    "POST /connectors/{name}/disassociate": write(CATALOG),
    "GET /jobs": Needs(rows="jobs"),
    "POST /jobs": write(REPLICATE, {"wave": "erp", "servers": ["db01"]}),
    "GET /jobs/{job_id}": read(REPLICATE),
    "PATCH /jobs/{job_id}": change(REPLICATE, {"keep_amis": 2}),
    "DELETE /jobs/{job_id}": change(REPLICATE),
    "POST /jobs/{job_id}/pause": change(REPLICATE, {}),
    "POST /jobs/{job_id}/resume": change(REPLICATE),
    "POST /jobs/{job_id}/extend": change(REPLICATE, {"days": 1}),
    "POST /jobs/{job_id}/verify": change(REPLICATE),
    "GET /jobs/{job_id}/runs": read(REPLICATE),
    "GET /runs": Needs(rows="runs"),
    "GET /runs/{run_id}": read(REPLICATE),
    "POST /runs/{run_id}/cancel": change(REPLICATE),
    "POST /runs/{run_id}/verify": change(REPLICATE),
    "GET /me": Needs(rows="environments"),
    "GET /environments": Needs(rows="environments"),
    "GET /environments/{environment}": Needs(own="what is not granted to the caller is not there"),
    "POST /environments/{environment}/check": write(CHECK_DAG),
    "GET /waves/{wave}": read(MIGRATE),
    "POST /waves/{wave}/apply": write(REPLICATE, {}),
    "POST /waves/{wave}/replications": write(REPLICATE, {"servers": ["web01"]}),
}


def route_of(route: BaseRoute) -> list[str]:
    """``GET /path`` of a route; of a mounted application or anything else, what no line of the table can be."""
    methods = getattr(route, "methods", None)
    return [f"{method} {route.path}" for method in methods] if methods else [repr(route)]  # type: ignore[attr-defined]


ROUTES: Final = sorted(name for route in create_app().routes for name in route_of(route))
WRITES: Final = [name for name in ROUTES if name.split()[0] not in READING]
OF_WAVES: Final = [name for name in WRITES if {dag for _, dag in RIGHTS[name].rights} & OF_WAVE]
STOPPING: Final = (
    *("POST /migrations/{migration_id}/cancel", "POST /jobs/{job_id}/pause", "POST /runs/{run_id}/cancel"),
    *("POST /cutovers/{cutover_id}/cancel", "POST /network_cutovers/{network_cutover_id}/cancel"),
    *("POST /live/{live_id}/cancel", "POST /exports/{export_id}/cancel"),
)
OF_THE_CALLER: Final = [name for name in ROUTES if name.startswith(("GET /me", "GET /environments"))]
TABLES: Final = [table for table in metadata.sorted_tables if table is not principal_group]


class Rights:
    """Airflow's auth manager: notes what it is asked, and grants what the test says."""

    def __init__(self) -> None:
        self.granted: frozenset[tuple[str, str]] = frozenset()
        self.all_but: tuple[str, str] | None = None
        self.asked: set[tuple[str, str]] = set()

    def is_authorized_dag(self, *, method: str, details: Any = None, access_entity: Any = None, **_: Any) -> bool:
        every = {DagAccessEntity.AUDIT_LOG: "audit log"}
        return self._is_authorized(method, details.id if details else every[access_entity])

    def is_authorized_connection(self, *, method: str, details: Any = None, **_: Any) -> bool:
        return self._is_authorized(method, details.conn_id if details else "connections")

    def _is_authorized(self, method: str, what: str) -> bool:
        self.asked.add((method, what))
        if self.all_but:
            return (method, what) != self.all_but
        return (method, what) in self.granted

    def get_authorized_dag_ids(self, *, method: str, **_: Any) -> set[str]:
        return {dag_id for right, dag_id in self.granted if right == method}


@dataclass
class Furnished:
    """The ledger of the first :class:`Stage`, and the ids of what is in it."""

    path: Path
    ids: dict[str, str] = field(default_factory=dict)


class Stage:
    """A console with one of each, and what it holds. It is furnished once per process, and its ledger copied."""

    def __init__(self, desk: Desk, furnished: Furnished) -> None:
        self.desk = desk
        if furnished.ids:
            copy_content(furnished.path, ledger_file(desk.ledger))
        else:
            furnished.ids = self._furnish(desk)
            copy_content(ledger_file(desk.ledger), furnished.path)
        self.ids = dict(furnished.ids)
        cuttable(desk)
        desk.airflow.asking.add("approve")

    @staticmethod
    def _furnish(desk: Desk) -> dict[str, str]:
        import_catalog(desk.ledger, web01="debian12_64Guest", db01="windows2022srv_64Guest")
        desk.post("/connectors", name="hall-a", connection="vc")
        job = desk.job()
        run = desk.post("/waves/erp/replications", servers=["web01"])["runs"][0]["id"]
        migration = migrate(desk.ledger)
        for holder in ("another", migration.run_key):
            ctx = run_context(migration.run)
            request_slots(desk.ledger, [SlotRequest(SlotKind.TRANSFER, "hall-a", holder, 1)], ctx)
        made = one_of_each(desk)
        desk.airflow.triggered.clear()
        ids = {"job_id": job, "run_id": run, "object_id": run, "migration_id": migration.id}
        ids["server_run_id"] = migration.id
        ids |= {"wave": "erp", "name": "hall-a", "environment": "lab", "live_id": one_live(desk.ledger).id}
        ids |= {"export_id": one_export(desk.ledger).id}
        ids |= {"network": "web", "network_cutover_id": made.network_cutover}
        return ids | {"cutover_id": made.cutover, "test_id": made.test, "dag_run_id": made.run}

    def ask(self, name: str, client: TestClient | None = None, **more: Any) -> Any:
        method, path = name.split()
        place = re.sub(r"\{(\w+)\}", lambda found: self.ids[found[1]], path)
        return (client or self.desk.client).request(method, place, json=RIGHTS[name].body, **more)

    def state(self) -> Any:
        airflow = self.desk.airflow
        with self.desk.ledger.read() as tx:
            rows = [sorted(map(repr, tx.execute(sa.select(table)))) for table in TABLES]
        return rows, list(airflow.triggered), list(airflow.failed)


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Furnished:
    return Furnished(tmp_path_factory.mktemp("furnished") / "wavelift.db")


@pytest.fixture
def stage(desk: Desk, furnished: Furnished) -> Stage:
    return Stage(desk, furnished)


@pytest.fixture
def rights(stage: Stage) -> Rights:
    made = Rights()
    stage.desk.rights = made  # type: ignore[assignment]  # another double
    return made


def test_the_table_names_every_route() -> None:
    assert sorted(RIGHTS) == ROUTES


@pytest.mark.parametrize("name", sorted(RIGHTS))
def test_a_line_of_the_table_says_what_keeps_others_out(name: str) -> None:
    """One thing, and nothing but reading is open to everybody who is logged in."""
    needs = RIGHTS[name]
    assert [bool(needs.rights), bool(needs.rows), bool(needs.own)].count(True) == 1
    assert needs.rights or name.startswith("GET ")


def test_a_route_that_nobody_listed_fails_this_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the check: a route, and an application that is mounted, make the two lists unequal."""
    app = create_app()
    app.get("/secrets")(lambda: "told")
    app.mount("/other", create_app())
    found = sorted(name for route in app.routes for name in route_of(route))
    assert "GET /secrets" in found
    assert len(found) == len(RIGHTS) + 2


def test_every_route_asks_for_the_login_by_itself() -> None:
    """The gate asks first. A route keeps its own question, should the gate ever be left out."""
    for route in create_app().routes:
        asked = [each.call for each in route.dependant.dependencies]  # type: ignore[attr-defined]
        assert {get_user, storable_values} <= set(asked), route
        assert asked[0] is get_user, route


@pytest.mark.parametrize("name", ROUTES)
def test_without_a_login_nothing_is_told(stage: Stage, rights: Rights, name: str) -> None:
    before = stage.state()
    for app in (application(_nobody), application(_anybody)):
        app.dependency_overrides = {key: value for key, value in stage.desk.doubles.items() if key is not get_user}
        assert stage.ask(name, TestClient(app)).status_code == 401
    assert (stage.state(), rights.asked) == (before, set())


async def _nobody(request: Request) -> str:
    raise HTTPException(401, "Not authenticated")


async def _anybody(request: Request) -> str:
    """A gate that lets everybody in."""
    return ""


@pytest.mark.parametrize("name", [name for name in ROUTES if RIGHTS[name].rights])
def test_without_one_of_its_rights_a_route_refuses(stage: Stage, rights: Rights, name: str) -> None:
    before = stage.state()
    for right in RIGHTS[name].rights:
        rights.all_but = right
        answer = stage.ask(name)
        assert answer.status_code == 403, (right, answer.text)
        assert right[1] in answer.json()["detail"]
        assert stage.state() == before
    rights.all_but, rights.granted = None, RIGHTS[name].rights
    rights.asked.clear()
    answer = stage.ask(name)
    assert answer.status_code in (200, 409), answer.text
    assert rights.asked == RIGHTS[name].rights, "it asks for nothing else, and about no other DAG"


@pytest.mark.parametrize("name", [name for name in ROUTES if RIGHTS[name].rows and name not in OF_THE_CALLER])
def test_a_list_leaves_out_what_one_may_not_read(stage: Stage, rights: Rights, name: str) -> None:
    rows = RIGHTS[name].rows
    others = ("other.migrate", "other.replicate", "other.cutover", "other.test", "other.live", "server_catalog")
    rights.granted = frozenset((READ, dag) for dag in others)
    seen = stage.ask(name).json()
    assert (seen[rows], seen.get("total", 0)) == ([], 0)
    rights.granted = frozenset((READ, dag) for dag in (*OF_WAVE, CATALOG))
    assert stage.ask(name).json()[rows]


ADMINISTERING: Final = {"POST /cleanup", "POST /queue/{server_run_id}/priority"}
"""With the bodies of the table: removing, and going before all others."""


@pytest.mark.parametrize("name", OF_WAVES)
def test_without_the_right_in_the_environment_a_route_of_a_wave_changes_nothing(stage: Stage, name: str) -> None:
    stage.desk.specs.environment = ENVIRONMENT.replace("user:ana", "user:Ana")  # names are compared exactly
    before = stage.state()
    answer = stage.ask(name)
    assert answer.status_code == 403, answer.text
    assert "'ana' may not " in answer.json()["detail"]
    (rows, *airflow), (rows_before, *airflow_before) = stage.state(), before
    changed = [table.name for table, now, then in zip(TABLES, rows, rows_before, strict=True) if now != then]
    assert (changed, airflow) == (["event"], airflow_before)
    with stage.desk.ledger.read() as tx:
        told = events.list_events(tx, object_kind="environment")[-1]
    assert (told.action, told.object_id, told.actor) == ("authority.refused", "lab", "ana")
    cuts_over = any(dag in (CUTOVER, NETWORK) for _, dag in RIGHTS[name].rights)
    exports = any(dag == EXPORT_DAG for _, dag in RIGHTS[name].rights)
    wanted = "administer" if name in ADMINISTERING or exports else "cut_over" if cuts_over else "migrate"
    of = "web" if any(dag == NETWORK for _, dag in RIGHTS[name].rights) else None if exports else "erp"
    assert (told.details["link"], told.details["action"], told.details["wave"]) == ("environment", wanted, of)


@pytest.mark.parametrize("name", OF_WAVES)
def test_while_nobody_can_read_the_environment_a_route_only_stops(stage: Stage, name: str) -> None:
    stage.desk.specs.environment_broken = "environments/principals.yaml:1: a second ': '"
    answer = stage.ask(name)
    if name in STOPPING:
        assert answer.status_code == 200, answer.text
    else:
        assert answer.status_code == 403, answer.text
        assert "environments/principals.yaml:1" in answer.json()["detail"]


@pytest.mark.parametrize("name", OF_THE_CALLER)
def test_what_is_granted_to_others_is_not_shown(stage: Stage, name: str) -> None:
    path = name.split()[1].format(environment="lab")
    assert "lab" in stage.desk.client.get(path).text
    stage.desk.specs.environment = ENVIRONMENT.replace("user:ana", "user:bo")
    answer = stage.desk.client.get(path)
    if "{" in name:
        assert (answer.status_code, "granted to you" in answer.json()["detail"]) == (404, True)
    else:
        assert answer.json()["environments"] == []


@pytest.mark.parametrize("name", WRITES)
def test_a_route_that_writes_asks_for_more_than_the_right_to_read(name: str) -> None:
    assert {method for method, _ in RIGHTS[name].rights} & {TRIGGER, "PUT"}


def test_the_drift_of_a_wave_is_only_read(stage: Stage, rights: Rights) -> None:
    before = stage.state()
    dry = {"dry_run": True}
    assert stage.desk.client.post("/waves/erp/apply", json=dry).status_code == 403
    rights.granted = frozenset({(READ, REPLICATE)})
    assert stage.desk.client.post("/waves/erp/apply", json=dry).status_code == 200
    assert stage.state() == before


@pytest.mark.parametrize("name", WRITES)
def test_a_page_of_another_origin_can_not_write_with_the_cookie(stage: Stage, rights: Rights, name: str) -> None:
    before = stage.state()
    rights.all_but = ("", "")
    for origin in ({"sec-fetch-site": "same-site"}, {"origin": "https://wiki.example.com"}, {}):
        answer = stage.ask(name, headers={"cookie": f"{COOKIE_NAME_JWT_TOKEN}=ana", **origin})
        assert (answer.status_code, "another origin" in answer.json()["detail"]) == (403, True)
    assert (stage.state(), rights.asked) == (before, set())


@pytest.mark.parametrize("name", [name for name in ROUTES if name not in WRITES])
def test_a_route_that_reads_changes_nothing(stage: Stage, rights: Rights, name: str) -> None:
    rights.granted = frozenset((right, dag) for right in (READ, TRIGGER) for dag in (*OF_WAVE, CATALOG))
    rights.granted |= RIGHTS[name].rights
    before = stage.state()
    assert stage.ask(name).status_code == 200
    assert stage.state() == before


TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")


@pytest.mark.parametrize("name", [name for name in ROUTES if name not in WRITES])
def test_each_time_of_an_answer_names_its_offset(stage: Stage, rights: Rights, name: str) -> None:
    """The server knows no zone of its readers; what a reader shows in another one is its own affair."""
    rights.granted = frozenset((READ, dag) for dag in (*OF_WAVE, CATALOG)) | RIGHTS[name].rights | AUDITOR
    answer = stage.ask(name)
    assert answer.status_code == 200
    times = [text for text in _strings(answer.json()) if TIME.match(text)]
    assert [text for text in times if datetime.fromisoformat(text).utcoffset() != timedelta(0)] == []
    assert times or name in TIMELESS, "a route that tells no time says so here"


TIMELESS: Final = {
    "GET /waves/{wave}",
    "GET /audit/sealed",
    "GET /audit/verify",
    "GET /me",
    "GET /environments",
    "GET /environments/{environment}",
}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value


def test_no_time_that_is_asked_for_may_lack_its_offset() -> None:
    """Of every parameter and body: a model with a time refuses one without offset, instead of guessing a zone."""
    for model in (*_models(requests), *_models(conf)):
        for name, schema in model.model_json_schema().get("properties", {}).items():
            if "date-time" not in str(schema):
                continue
            with pytest.raises(ValidationError, match=r"timezone|offset from UTC"):
                model.model_validate({name: "2026-12-01T10:00:00"})
    assert "date-time" in str(requests.EventQuery.model_json_schema())


def _models(module: ModuleType) -> list[type[BaseModel]]:
    found = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, BaseModel)]
    return [each for each in found if each is not BaseModel]
