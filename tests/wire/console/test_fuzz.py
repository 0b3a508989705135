"""Schemathesis over every route, with a ledger on PostgreSQL: no 5xx, no answer over its schema, no change by a viewer.

Airflow is the test's own here, so it is quick; ``tests/airflow/test_fuzz.py`` does the same with a running one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
import requests
import sqlalchemy as sa
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from jwt import InvalidTokenError
from tests import api_fuzz
from tests.console_server import Server
from tests.postgres import Postgres
from tests.unit.console.cutting import one_of_each
from tests.unit.console.exporting import EXPORT_DAG, one_export
from tests.unit.console.test_answers import migrate
from tests.unit.console.test_replication_routes import ENVIRONMENT, Airflow, Specs, import_catalog

from wavelift.console import access, audit_right, deps
from wavelift.console.api import create_app
from wavelift.ledger import Ledger
from wavelift.ledger.tables import metadata

pytestmark = pytest.mark.wire

CALLERS: Final = ("nobody", "viewer", "op")
UNWATCHED: Final = ("mutex", "principal_group")
"""Names of locks, and the roles in which a user was seen."""


class Manager:
    """Two users: one may read, the other trigger as well."""

    async def get_user_from_token(self, token: str) -> SimpleAuthManagerUser:
        if token not in CALLERS[1:]:
            raise InvalidTokenError
        return SimpleAuthManagerUser(username=token, role=token)

    def is_authorized_dag(self, *, method: str, user: SimpleAuthManagerUser, **_: Any) -> bool:
        return method == "GET" or user.role == "op"

    def is_authorized_connection(self, *, user: SimpleAuthManagerUser, **_: Any) -> bool:
        return bool(user.role == "op")

    def get_authorized_dag_ids(self, **_: Any) -> set[str]:
        return {"erp.replicate", "erp.migrate", "erp.cutover", "erp.test", EXPORT_DAG}


class AnyAirflow(Airflow):
    """Knows the DAGs of the wave and of its connector."""

    def is_paused(self, dag_id: str) -> bool | None:
        known = dag_id.startswith(
            ("erp.", "server_catalog", "connector_health", "environment_check", "instance_backup", EXPORT_DAG)
        )
        return super().is_paused(dag_id) if known else None


class Console:
    """A running console over a ledger with one of each."""

    def __init__(self, server: Server, ledger: Ledger, airflow: AnyAirflow, specs: Specs) -> None:
        self.url = f"http://127.0.0.1:{server.port}"
        self.ledger, self.airflow, self.specs = ledger, airflow, specs
        self.ids: dict[str, str] = {}

    def fill(self) -> None:
        import_catalog(self.ledger, web01="debian12_64Guest", db01="windows2022srv_64Guest")
        job = self._post("/jobs", {"wave": "erp", "servers": ["web01"]})["jobs"][0]["id"]
        run = self._post("/waves/erp/replications", {"servers": ["web01"]})["runs"][0]["id"]
        self._post("/connectors", {"name": "hall-a", "connection": "vc"})
        migration = migrate(self.ledger).id
        self.ids = {
            "job_id": job,
            "run_id": run,
            "migration_id": migration,
            "object_id": run,
            "wave": "erp",
            "name": "hall-a",
            "environment": "lab",
            "server_run_id": migration,
        }
        made = one_of_each(self)
        self.ids |= {"cutover_id": made.cutover, "test_id": made.test, "dag_run_id": made.run}
        self.ids["export_id"] = one_export(self.ledger).id

    def job(self, server: str) -> None:
        self._post("/jobs", {"wave": "erp", "servers": [server]})

    def _post(self, path: str, body: Any) -> Any:
        answer = requests.post(self.url + path, json=body, headers={"Authorization": "Bearer op"}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def dump(self) -> dict[str, list[Any]]:
        with self.ledger.read() as tx:
            return {
                table.name: sorted(map(repr, tx.execute(sa.select(table))))
                for table in metadata.sorted_tables
                if table.name not in UNWATCHED
            }


@pytest.fixture(scope="module")
def console(postgres: Postgres) -> Iterator[Console]:
    url = postgres.create()
    Ledger.open(url, upgrade=True).close()
    with pytest.MonkeyPatch.context() as patch, Ledger.open(url) as ledger:
        patch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", Manager)
        patch.setattr(access, "get_auth_manager", Manager)
        patch.setattr(audit_right, "get_auth_manager", Manager)
        patch.setattr(access, "_team", lambda dag_id: None)
        app, airflow, specs = create_app(), AnyAirflow(), Specs()
        specs.environment = ENVIRONMENT.replace("user:ana", "user:op")
        app.dependency_overrides = {
            deps._ledger: lambda: ledger,
            deps._airflow: lambda: airflow,
            deps.Specs: lambda: specs,
        }
        server = Server(app)
        try:
            made = Console(server, ledger, airflow, specs)
            made.fill()
            yield made
        finally:
            server.close()


@pytest.mark.sampled
@pytest.mark.parametrize("label", api_fuzz.LABELS)
@pytest.mark.parametrize("who", CALLERS)
def test_every_answer_is_as_the_document_says(console: Console, who: str, label: str) -> None:
    before, started = console.dump(), list(console.airflow.triggered)
    headers = {} if who == "nobody" else {"Authorization": f"Bearer {who}"}

    def look(answer: Any) -> None:
        if who == "nobody":
            assert answer.status_code == 401

    sample = 3 if who == "nobody" else 8  # nobody is turned away at the door, whatever the request
    api_fuzz.ask(label, console.url, headers, ids=console.ids, sample=sample, proof=100, look=look)
    if who != "op":
        assert (console.dump(), console.airflow.triggered) == (before, started)
