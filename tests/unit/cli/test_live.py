"""What ``wavelift live …`` asks of the REST API, what it prints, and when it ends with status 1."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.cli.test_cutover import Api, call

from wavelift.airflow.rest import ApiError
from wavelift.cli import live

pytestmark = pytest.mark.unit

RUN = {"dag_id": "erp.live", "dag_run_id": "on_demand__1", "dag_paused": False}
AT = "2026-12-01T10:00:00+00:00"
ONE: dict[str, Any] = {
    "id": "liv-1",
    "wave": "erp",
    "server": "web01",
    "environment": "sddc",
    "kind": "rav",
    "state": "moving",
    "phase": "replicating, 40 %",
    "percent": 40,
    "bytes_done": None,
    "bytes_total": None,
    "window_start": None,
    "window_end": None,
    "group_name": "wavelift-1",
    "migration_id": "m-1",
    "requested_by": "ana",
    "requested_at": AT,
    "request_id": "",
    "note": "",
    "error": "",
    "cancel_requested": False,
    "dag_id": "erp.live",
    "dag_run_id": "on_demand__1",
    "updated_at": AT,
    "finished_at": None,
}
DETAILS = {
    **ONE,
    "manager": "hcx_dc1",
    "mesh": "mesh-1",
    "entity_id": "vm-1",
    "group_id": "g-1",
    "instance_uuid": "u",
    "plan_digest": "d",
    "approval": None,
    "before": None,
    "times": {"starting": AT},
    "run_key": "k",
    "version": 1,
    "found": {"destination": {"verified": ["it is on"], "wrong": ["its MAC is another one"]}},
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(live, "client", lambda: made)
    monkeypatch.setenv("TZ", "UTC")
    return made


def test_start_sends_what_was_given_and_prints_ids(api: Api) -> None:
    api.answers["POST /waves/erp/live"] = {**RUN, "mode": "migrate", "migrations": [ONE], "made_before": False}
    window = ("--from", "2099-12-05T22:00:00+01:00", "--to", "2099-12-06T02:00:00+01:00")
    done = call("live", "start", "erp", "web01", *window, "--accept-warnings", "--request-id", "k1")
    assert done.exit_code == 0, done.output
    body = {
        "mode": "migrate",
        "servers": ["web01"],
        "window_start": "2099-12-05T22:00:00+01:00",
        "window_end": "2099-12-06T02:00:00+01:00",
        "request_id": "k1",
        "priority": "normal",
        "accept_warnings": True,
    }
    assert api.asked == [("POST /waves/erp/live", body)]
    assert "liv-1 web01" in done.stderr


def test_a_plan_is_printed_and_tells_by_its_status_whether_all_can_go(api: Api) -> None:
    api.answers["POST /waves/erp/live"] = {**RUN, "mode": "plan", "migrations": []}
    for why, code in (("", 0), ("it has a snapshot", 1)):
        api.left = {
            ("plan", "return_value"): {"digest": ""},
            ("plan", "report"): {"servers": [{"server": "web01", "why": why}]},
            ("plan", "words"): "web01: goes",
        }
        done = call("live", "plan", "erp")
        assert (done.exit_code, done.stdout.strip()) == (code, "web01: goes")


def test_lists_and_details_are_for_people(api: Api) -> None:
    api.answers["GET /live"] = {"total": 1, "limit": 50, "offset": 0, "migrations": [ONE]}
    api.answers["GET /live/liv-1"] = DETAILS
    listed, shown = call("live", "list").stdout, call("live", "show", "liv-1").stdout
    assert "replicating, 40 %" in listed
    for words in ("moving", "it is on", "its MAC is another one", "wavelift-1", "m-1"):
        assert words in shown
    api.answers["GET /live"] = ApiError("no right", status=403)
    assert call("live", "list").exit_code == 1


@pytest.mark.parametrize(
    ("state", "run", "words"),
    [
        ("ended", "", "is cancelled: HCX was not asked for it"),
        ("waiting", "", "goes no further; it ends when erp.live, run on_demand__1 comes to it"),
        ("moving", "on_demand__2", "is moving: replicating, 40 %"),
    ],
)
def test_cancel_tells_what_became_of_it(api: Api, state: str, run: str, words: str) -> None:
    api.answers["GET /live/liv-1"] = ONE
    api.answers["POST /live/liv-1/cancel"] = {**ONE, "state": state, "cancel_run": run}
    assert words in call("live", "cancel", "liv-1").stdout
