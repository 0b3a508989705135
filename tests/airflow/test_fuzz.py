"""Schemathesis over the console in a real api-server: its logins, rights and answers. Nothing runs: no scheduler."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from tests import api_fuzz
from tests.airflow.waves import ROOT
from tests.postgres import Postgres
from tests.unit.console.cutting import CUTTABLE, ISOLATION, one_of_each
from tests.unit.console.exporting import one_export
from tests.unit.console.test_answers import migrate
from tests.unit.console.test_replication_routes import ENVIRONMENT, Specs, import_catalog

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.cli.local_airflow import START_SECONDS, LocalAirflow, wait_for
from wavelift.ledger import Ledger
from wavelift.ledger.tables import metadata

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1800)]

DAG: Final = "erp.replicate"


class Served:
    """An api-server over a ledger with one of each."""

    def __init__(self, airflow: LocalAirflow, ledger: Ledger) -> None:
        self.airflow, self.ledger = airflow, ledger
        self.tokens: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.specs = Specs()

    def job(self, server: str) -> None:
        self.airflow.client("op").call("POST", "/wavelift/jobs", {"wave": "erp", "servers": [server]})

    def fill(self) -> None:
        for user in ("viewer", "op"):
            client = self.airflow.client(user)
            client.call("GET", "/wavelift/jobs")
            self.tokens[user] = client._token
        op: ApiClient = self.airflow.client("op")
        op.unpause(DAG)
        import_catalog(self.ledger, web01="debian12_64Guest", db01="windows2022srv_64Guest")
        op.call("POST", "/wavelift/connectors", {"name": "hall-a", "connection": "vc"})
        job = op.call("POST", "/wavelift/jobs", {"wave": "erp", "servers": ["web01"]})["jobs"][0]["id"]
        run = op.call("POST", "/wavelift/waves/erp/replications", {"servers": ["web01"]})["runs"][0]["id"]
        self.ids = {"job_id": job, "run_id": run, "object_id": run, "migration_id": migrate(self.ledger).id}
        self.ids |= {"wave": "erp", "name": "hall-a"}
        made = one_of_each(self)
        self.ids |= {"cutover_id": made.cutover, "test_id": made.test, "dag_run_id": made.run}
        self.ids["export_id"] = one_export(self.ledger).id

    def state(self) -> tuple[Any, int]:
        """All rows of the ledger, and how many DAG runs Airflow has."""
        with self.ledger.read() as tx:
            tables = [table for table in metadata.sorted_tables if table.name != "mutex"]  # names of locks
            rows = {table.name: sorted(map(repr, tx.execute(sa.select(table)))) for table in tables}
        return rows, self.airflow.api.call("GET", "/api/v2/dags/~/dagRuns?limit=1")["total_entries"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    dags = folder / "dags"
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    granted = ENVIRONMENT.replace("'user:ana'", "'user:op'")
    assert granted != ENVIRONMENT
    for name, text in (("waves/erp", CUTTABLE), ("environments/lab", granted + ISOLATION)):
        path: Path = dags / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    url = postgres.create()
    Ledger.open(url, upgrade=True).close()
    settings = {
        "AIRFLOW__WAVELIFT__LEDGER_URL": url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.create().replace("://", "+psycopg2://", 1),
    }
    with LocalAirflow(folder / "home", dags, settings) as airflow, Ledger.open(url) as ledger:
        airflow.migrate()
        airflow.airflow("dags", "reserialize")
        airflow.start_component("api-server")

        def answers() -> bool:
            airflow.raise_if_dead()
            try:
                return airflow.api.request("GET", f"/api/v2/dags/{DAG}")[0] == 200
            except (ApiError, OSError):
                return False

        wait_for(answers, timeout=START_SECONDS, what="the api-server", log=airflow.log_tail)
        made = Served(airflow, ledger)
        made.fill()
        yield made
    assert not airflow.processes(), "processes of this Airflow outlived it"


@pytest.mark.sampled
@pytest.mark.parametrize("who", ["nobody", "viewer", "op"])
def test_every_answer_is_as_the_document_says(served: Served, who: str) -> None:
    before = served.state()
    headers = {} if who == "nobody" else {"Authorization": f"Bearer {served.tokens[who]}"}
    seen: set[int] = set()
    strange: list[str] = []

    def look(answer: Any) -> None:
        if answer.status_code == 404 and "%0A" in answer.request.url.upper():
            return  # Airflow's router: no path with a line break reaches what is mounted
        seen.add(answer.status_code)
        if who == "nobody" and answer.status_code != 401:
            strange.append(
                f"{answer.status_code} {answer.request.method} {answer.request.url} {answer.content[:200]!r}"
            )

    for label in api_fuzz.LABELS:
        api_fuzz.ask(
            label,
            f"{served.airflow.url}/wavelift",
            headers,
            ids=served.ids,
            sample=3,
            proof=15,
            look=look,
        )
    if who == "nobody":
        assert seen == {401}, strange
    elif who == "viewer":
        assert {200, 403, 404, 422} <= seen
    else:
        assert {200, 404, 409, 422} <= seen
    assert who == "op" or served.state() == before
