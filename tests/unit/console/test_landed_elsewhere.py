"""What earlier runs made lies where they landed: the environment that the file names now gives no right there."""

from __future__ import annotations

import pytest
from tests.ledgers import within
from tests.unit.console.test_answers import migrate
from tests.unit.console.test_replication_routes import CLOCK, ENVIRONMENT, Desk, Specs, desk

from wavelift.base.run import DagRun
from wavelift.ledger import jobs, migrations, servers, waves
from wavelift.ledger.replication_runs import ROWS
from wavelift.rules.lifecycle import MigrationState
from wavelift.specs import Granting

__all__ = ["desk"]

pytestmark = pytest.mark.unit
FROZEN = {"environment": {"environment": "old"}}


class Moved(Specs):
    """The wave lands in ``lab``. In ``old``, where it landed before, only bo may do anything."""

    def granting(self, environment: str) -> Granting:
        self.environment = ENVIRONMENT.replace("user:ana", "user:bo") if environment == "old" else ENVIRONMENT
        return super().granting(environment)


@pytest.fixture
def moved(desk: Desk) -> Desk:
    desk.specs = Moved()
    return desk


def landed_in_old(desk: Desk, run: DagRun, mode: str) -> None:
    spec = {"wave": FROZEN} if mode == "migrate" else FROZEN
    asked = waves.NewWaveRun(run=run, wave="erp", mode=mode, requested_by="bo", source="api", spec=spec)
    within(desk.ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=CLOCK)


@pytest.mark.parametrize("verb", ["launch", "verify"])
def test_an_image_is_not_launched_or_read_without_the_right_where_it_lies(moved: Desk, verb: str) -> None:
    here, there = migrate(moved.ledger), DagRun("erp.migrate", "manual__old")
    landed_in_old(moved, there, "migrate")
    with moved.ledger.write(servers.LOCK) as tx:
        row = migrations.insert_ended(
            tx,
            at=CLOCK.now(),
            run=there,
            run_key="k",
            wave="erp",
            server="win01",
            state=MigrationState.COMPLETED,
            error="",
        )
    refused = moved.refused("POST", f"/migrations/{row.id}/{verb}", 403)
    assert "'ana' may not migrate into environment 'old'" in refused["detail"]
    assert "has no image yet" in moved.refused("POST", f"/migrations/{here.id}/{verb}", 409)["detail"]
    assert moved.airflow.triggered == []


def test_a_job_whose_replicas_lie_elsewhere_is_neither_deleted_nor_read(moved: Desk) -> None:
    job = moved.job()
    made = moved.post("/waves/erp/replications", servers=["web01"])["runs"][0]["id"]
    landed_in_old(moved, within(moved.ledger.read(), ROWS.get, made).run, "replicate")
    before, asked = within(moved.ledger.read(), jobs.get, job), list(moved.airflow.triggered)
    for method, path in (("DELETE", f"/jobs/{job}"), ("POST", f"/jobs/{job}/verify"), ("POST", f"/runs/{made}/verify")):
        assert "into environment 'old'" in moved.refused(method, path, 403)["detail"]
    assert within(moved.ledger.read(), jobs.get, job) == before, "a refused deletion stops nothing"
    assert moved.airflow.triggered == asked
