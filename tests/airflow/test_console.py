"""The REST API under ``/wavelift``: Airflow's own rights, and nothing without a login."""

from __future__ import annotations

import re
from typing import Any

import pytest
import urllib3

pytestmark = pytest.mark.airflow

ROUTES = {
    ("GET", "/migrations"),
    ("GET", "/migrations/{migration_id}"),
    ("POST", "/migrations/{migration_id}/cancel"),
    ("POST", "/migrations/{migration_id}/launch"),
    ("POST", "/migrations/{migration_id}/verify"),
    ("POST", "/cleanup"),
    ("GET", "/live"),
    ("GET", "/live/{live_id}"),
    ("POST", "/waves/{wave}/live"),
    ("POST", "/waves/{wave}/live/{dag_run_id}/approval"),
    ("POST", "/live/{live_id}/cancel"),
    ("GET", "/exports"),
    ("GET", "/exports/{export_id}"),
    ("POST", "/exports"),
    ("POST", "/exports/setup"),
    ("POST", "/exports/{export_id}/cancel"),
    ("GET", "/networks"),
    ("GET", "/network_cutovers"),
    ("GET", "/network_cutovers/{network_cutover_id}"),
    ("POST", "/networks/{network}/cutovers"),
    ("POST", "/networks/{network}/cutovers/{dag_run_id}/approval"),
    ("POST", "/network_cutovers/{network_cutover_id}/revert"),
    ("POST", "/network_cutovers/{network_cutover_id}/finish"),
    ("POST", "/network_cutovers/{network_cutover_id}/cancel"),
    ("POST", "/network_cutovers/{network_cutover_id}/confirm"),
    ("GET", "/cutovers"),
    ("GET", "/cutovers/{cutover_id}"),
    ("POST", "/waves/{wave}/cutovers"),
    ("POST", "/waves/{wave}/cutovers/{dag_run_id}/approval"),
    ("POST", "/cutovers/{cutover_id}/revert"),
    ("POST", "/cutovers/{cutover_id}/finalize"),
    ("POST", "/cutovers/{cutover_id}/cancel"),
    ("POST", "/cutovers/{cutover_id}/confirm"),
    ("POST", "/waves/{wave}/tests"),
    ("GET", "/tests"),
    ("POST", "/tests/{test_id}/end"),
    ("POST", "/backups"),
    ("GET", "/backups"),
    ("GET", "/events"),
    ("GET", "/queue"),
    ("POST", "/queue/{server_run_id}/priority"),
    ("GET", "/events/{object_id}"),
    ("POST", "/audit/seal"),
    ("GET", "/audit/sealed"),
    ("GET", "/audit/verify"),
    ("GET", "/catalogs"),
    ("GET", "/catalog"),
    ("POST", "/catalog/import"),
    ("POST", "/catalog/clear"),
    ("GET", "/connectors"),
    ("POST", "/connectors"),
    ("POST", "/connectors/{name}/maintenance"),
    ("POST", "/connectors/{name}/check"),
    ("POST", "/connectors/{name}/disassociate"),
    ("GET", "/jobs"),
    ("POST", "/jobs"),
    ("GET", "/jobs/{job_id}"),
    ("PATCH", "/jobs/{job_id}"),
    ("DELETE", "/jobs/{job_id}"),
    ("POST", "/jobs/{job_id}/pause"),
    ("POST", "/jobs/{job_id}/resume"),
    ("POST", "/jobs/{job_id}/extend"),
    ("POST", "/jobs/{job_id}/verify"),
    ("GET", "/jobs/{job_id}/runs"),
    ("GET", "/runs"),
    ("GET", "/runs/{run_id}"),
    ("POST", "/runs/{run_id}/cancel"),
    ("POST", "/runs/{run_id}/verify"),
    ("POST", "/waves/{wave}/apply"),
    ("POST", "/waves/{wave}/migrations"),
    ("POST", "/waves/{wave}/replications"),
    ("GET", "/waves/{wave}"),
    ("GET", "/me"),
    ("GET", "/environments"),
    ("GET", "/environments/{environment}"),
    ("POST", "/environments/{environment}/check"),
}


def _routes() -> set[tuple[str, str]]:
    """Every route of the application, FastAPI's own pages included."""
    from wavelift.console.api import create_app

    found: set[tuple[str, str]] = set()
    for route in create_app().routes:
        methods: set[str] = getattr(route, "methods", None) or {"GET"}
        found |= {(method, str(getattr(route, "path", route))) for method in methods}
    return found


def test_nothing_else_is_exposed() -> None:
    assert _routes() == ROUTES


def test_every_route_needs_a_login(world: Any) -> None:
    client = world.airflow.client("viewer")
    for method, path in sorted(ROUTES):
        place = "/wavelift" + re.sub(r"\{\w+\}", "mig-000000000000", path)
        body = {"wave": "full"} if method == "POST" else None
        for token, refused in (("", 401), ("forged", 403)):  # Airflow's own words for no token and a bad one
            assert client.raw(method, place, body, token=token)[0] == refused, (method, path)
    for page in ("/docs", "/redoc", "/openapi.json"):
        assert client.request("GET", f"/wavelift{page}")[0] == 404


def test_reading_needs_the_right_to_read_writing_the_right_to_trigger(world: Any) -> None:
    migration = world.early["full"].ends("success").migration("full-win")
    viewer, op = world.airflow.client("viewer"), world.airflow.client("op")
    for client in (viewer, op):
        assert client.call("GET", f"/wavelift/migrations/{migration.id}")["server"] == "full-win"
        assert client.call("GET", "/wavelift/migrations?wave=full")["total"] == 2
    runs = _runs(world)
    for path in ("cancel", "launch", "verify"):
        status, answer = viewer.request("POST", f"/wavelift/migrations/{migration.id}/{path}")
        assert (status, "trigger full.migrate" in answer["detail"]) == (403, True), answer
    status, _ = viewer.request("POST", "/wavelift/cleanup", {"wave": "full"})
    assert status == 403
    assert _runs(world) == runs, "nothing was started"
    status, answer = op.request("POST", f"/wavelift/migrations/{migration.id}/cancel")
    assert (status, "already ended" in answer["detail"]) == (409, True), "an operator may, but it is over"


def _runs(world: Any) -> int:
    return int(world.api.call("GET", "/api/v2/dags/full.migrate/dagRuns")["total_entries"])


def test_what_is_not_there_or_not_allowed_is_said(world: Any) -> None:
    op = world.airflow.client("op")
    status, answer = op.request("GET", "/wavelift/migrations/mig-nowhere")
    assert (status, "no such migration" in answer["detail"]) == (404, True)
    status, answer = op.request("POST", "/wavelift/cleanup", {"wave": "full", "force": True})
    assert status == 422, answer
    status, answer = op.request("POST", "/wavelift/cleanup", {"wave": "nowhere"})
    assert status == 404, answer
    status, _ = op.request("GET", "/wavelift/migrations?limit=0")
    assert status == 422


def test_the_login_cookie_writes_only_from_airflow_s_own_pages(world: Any) -> None:
    op = world.airflow.client("op")
    place = "/wavelift/migrations/mig-nowhere/cancel"
    assert op.request("POST", place)[0] == 404, "the bearer token needs no origin"
    cookie = {"Cookie": f"_token={op._token}"}
    for headers, status in (
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Origin": op.url}, 404),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://wiki.localhost"}, 403),
        ({}, 403),
    ):
        answer = urllib3.request("POST", op.url + place, headers=cookie | headers, retries=False, timeout=60)
        assert answer.status == status, (headers, answer.data)
