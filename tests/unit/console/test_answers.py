"""What the routes of migrations, catalogue and connectors answer, over a real ledger."""

from __future__ import annotations

from typing import Any, Final

import pytest
from tests.contexts import run_context
from tests.ledgers import within
from tests.unit.console.test_replication_routes import CLOCK, Desk, desk, import_catalog

from wavelift.base.catalog import ConnectorHealth, HealthCheck
from wavelift.base.run import DagRun
from wavelift.console.answers import CatalogList, ConnectorList, MigrationDetails, MigrationPage, ServerPage
from wavelift.ledger import Ledger, Migration, SourceServer, connectors, migrations, servers, waves
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.migration.begin import NewMigration, begin_migration

pytestmark = pytest.mark.unit
__all__ = ["desk"]

STEP = {"step", "step_state", "step_try", "step_tries", "retry_reason", "retry_at", "waiting"}
MIGRATION = STEP | {
    *("id", "wave", "server", "state", "phase", "progress_pct", "bytes_done", "bytes_total", "import_task_id"),
    *("image_id", "instance_id", "error", "cancel_requested", "dag_id", "dag_run_id", "created_at", "finished_at"),
}
DETAILS = {
    *("run_key", "server_id", "map_index", "connector", "region", "snapshot_name", "snapshot_vm", "snapshot_state"),
    *("export_result", "verify_result", "snapshot_ids", "conversion_report", "launch_result", "updated_at", "version"),
}
CONNECTOR = {
    *("name", "connection", "aws_conn_id", "region", "description", "maintenance", "maintenance_reason", "health"),
    *("checked_at", "registered_at", "registered_by", "healthy", "health_age_s"),
}
SERVER = {
    *("id", "connection", "type", "name", "path", "manager_name", "manager_type", "manager_id", "vm_id", "gone"),
    *("instance_uuid", "guest_id", "guest_full_name", "power", "connection_state", "template", "cpus", "tags"),
    *("memory_mib", "disk_bytes", "first_seen", "last_seen", "job"),
}
CATALOG = {
    *("connection", "connector", "state", "last_modified", "imported_at", "manager", "product", "tags_unknown"),
    *("error", "dag_id", "dag_run_id"),
}


SPEC: Final[dict[str, Any]] = {"wave": {"environment": {"environment": "lab"}}}
"""As far as anything here reads it."""


def migrate(ledger: Ledger) -> Migration:
    run = DagRun("erp.migrate", "manual__1")
    asked = waves.NewWaveRun(run=run, wave="erp", mode="migrate", requested_by="ana", source="ui", spec=SPEC)
    within(ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=CLOCK)
    server = SourceServer(source="vc", name="web01", moref="vm-1")
    wanted = NewMigration("erp", server, "hall-a", "eu-central-1")
    return begin_migration(ledger, wanted, run_context(run, "web01", clock=CLOCK))


def test_amp_07_a_migration_is_told_whole(desk: Desk) -> None:
    known = migrate(desk.ledger)
    page = desk.get("/migrations", wave="erp", state="queued")
    [row] = page["migrations"]
    assert (page["total"], page["limit"], page["offset"]) == (1, 50, 0)
    assert set(row) - {"bytes_sent"} == MIGRATION
    assert (row["state"], row["created_at"]) == ("queued", known.created_at.isoformat())
    assert MigrationPage.model_validate(page).migrations[0].created_at == known.created_at
    told = desk.get(f"/migrations/{known.id}")
    assert set(told) - {"bytes_sent"} == MIGRATION | DETAILS
    assert MigrationDetails.model_validate(told).connector == "hall-a"
    desk.rights.trigger = False
    assert "may not trigger erp.migrate" in desk.refused("POST", f"/migrations/{known.id}/cancel", 403)["detail"]
    desk.rights.trigger = True
    cancelled = desk.post(f"/migrations/{known.id}/cancel")
    assert set(cancelled) - {"bytes_sent"} == MIGRATION | {"stopped_tasks", "begun"}
    for verb in ("launch", "verify"):
        assert "has no image yet" in desk.refused("POST", f"/migrations/{known.id}/{verb}", 409)["detail"]


def test_amp_07_a_refused_server_is_listed_and_can_neither_be_cancelled_nor_launched(desk: Desk) -> None:
    run = migrate(desk.ledger).run
    end: dict[str, Any] = {"state": MigrationState.REFUSED, "error": "Hard disk 2 is a raw device mapping"}
    with desk.ledger.write(servers.LOCK) as tx:
        known = migrations.insert_ended(tx, at=CLOCK.now(), run=run, run_key="k", wave="erp", server="win01", **end)
    [row] = desk.get("/migrations", wave="erp", state="refused")["migrations"]
    assert (row["id"], row["server"], row["state"], row["error"]) == (known.id, "win01", "refused", known.error)
    assert desk.get("/migrations", wave="erp")["total"] == 2
    told = desk.get(f"/migrations/{known.id}")
    assert MigrationDetails.model_validate(told).server_id is None
    (event,) = desk.get(f"/events/{known.id}")["events"]
    assert (event["action"], event["details"]["error"]) == ("migration.refused", known.error)
    said = desk.refused("POST", f"/migrations/{known.id}/cancel", 409)["detail"]
    assert said.startswith("The migration has already ended: it is refused")
    for verb in ("launch", "verify"):
        said = desk.refused("POST", f"/migrations/{known.id}/{verb}", 409)["detail"]
        assert said == f"{known.id} has no image yet: it is refused"


def test_sms_01_sms_02_connectors_and_catalogues_are_told_whole(desk: Desk) -> None:
    made = desk.post("/connectors", name="hall-a", connection="vc")
    assert set(made) == CONNECTOR
    health = ConnectorHealth(
        connector="hall-a", checked_at=CLOCK.now(), checks=(HealthCheck(name="vcenter", ok=True, what="it answers"),)
    )
    with desk.ledger.write(connectors.lock_name("hall-a")) as tx:
        connectors.record_health(tx, health, by="ana", clock=CLOCK)
    listed = desk.get("/connectors")
    [row] = listed["connectors"]
    assert (row["healthy"], row["health"], row["health_age_s"]) == (True, health.dump(), 0)
    assert ConnectorList.model_validate(listed).connectors[0].health == health
    import_catalog(desk.ledger, web01="debian12_64Guest")
    catalogs = desk.get("/catalogs")
    assert [set(one) for one in catalogs["catalogs"]] == [CATALOG]
    assert CatalogList.model_validate(catalogs).catalogs[0].manager.name == "vc"
    servers = desk.get("/catalog", search="web")
    assert [set(one) for one in servers["servers"]] == [SERVER]
    assert ServerPage.model_validate(servers).servers[0].job is None
    assert desk.post("/catalog/clear", connection="vc") == {"connection": "vc", "removed": 1}
    desk.airflow.paused = True
    begun = {"dag_id": "connector_health.hall-a", "dag_run_id": "manual__1", "dag_paused": True}
    assert desk.post("/connectors/hall-a/check") == begun
    assert desk.post("/connectors/hall-a/disassociate") == {"name": "hall-a", "disassociated": True}


def test_a_catalogue_of_another_connector_is_not_taken_over(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.post("/connectors", name="hall-a", connection="vc")

    def only_hall_b(*, method: str, details: Any, **_: Any) -> bool:
        return bool(details.id == "server_catalog.hall-b")

    monkeypatch.setattr(desk.rights, "is_authorized_dag", only_hall_b)
    told = desk.refused("POST", "/catalog/import", 409, {"connection": "vc", "connector": "hall-b"})
    assert "belongs to connector hall-a" in told["detail"]
    told = desk.refused("POST", "/connectors", 403, {"name": "hall-b", "connection": "vc"})
    assert "may not trigger server_catalog.hall-a" in told["detail"]
    assert desk.airflow.triggered == []
    desk.post("/connectors", name="hall-b", connection="vc-b")
    desk.post("/catalog/import", connection="vc-b", connector="hall-b")


def test_a_run_that_we_start_gets_a_conf_that_its_admission_takes(desk: Desk) -> None:
    begun = {"dag_id": "erp.migrate", "dag_run_id": "manual__1", "dag_paused": False}
    assert desk.post("/cleanup", wave="erp", dry_run=False) == begun
    desk.post("/catalog/import", connector="hall-a")
    assert [(dag_id, conf) for dag_id, _, conf in desk.airflow.triggered] == [
        ("erp.migrate", {"mode": "cleanup", "dry_run": False}),
        ("server_catalog.hall-a", {"connection": None}),
    ]


def test_a_wrong_request_is_refused_in_the_words_of_the_specs(desk: Desk) -> None:
    for method, path, body, words in (
        ("POST", "/cleanup", {"wave": "erp", "force": True}, "unknown key 'force'; allowed: dry_run, wave"),
        ("POST", "/cleanup", {"wave": "erp", "dry_run": 0}, "must be true or false, not 0"),
        ("POST", "/catalog/clear", {"connection": 7}, "must be text, not 7; put it in quotes"),
        ("POST", "/waves/erp/replications", {"servers": []}, "must not be empty"),
        ("GET", "/migrations?limit=0", None, "must be greater than or equal to 1, not '0'"),
    ):
        [told] = desk.refused(method, path, 422, body)["detail"]
        assert told["msg"] == words, path
        assert told["loc"][0] in ("body", "query")
