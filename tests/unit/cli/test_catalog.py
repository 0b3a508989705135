"""``wavelift catalog`` and ``wavelift connectors`` against an API of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from wavelift.airflow.rest import ApiError
from wavelift.cli import catalog, connectors
from wavelift.cli.connectors import health_words
from wavelift.cli.main import app
from wavelift.console.answers import ConnectorRow

pytestmark = pytest.mark.unit

SERVER: dict[str, Any] = {
    "id": "s-0123456789ab",
    "connection": "vc",
    "type": "VIRTUAL_MACHINE",
    "manager_name": "vc.example.com",
    "manager_type": "VirtualCenter",
    "manager_id": "uuid-vc",
    "instance_uuid": "uuid-7",
    "guest_id": "debian12_64Guest",
    "connection_state": "connected",
    "first_seen": "2026-11-22T10:00:00+00:00",
    "last_seen": "2026-11-22T10:00:00+00:00",
    "vm_id": "vm-7",
    "name": "web[01]",
    "path": "/dc1/vm/web[01]",
    "power": "poweredOn",
    "template": False,
    "gone": False,
    "cpus": 2,
    "memory_mib": 2048,
    "disk_bytes": 5 << 30,
    "guest_full_name": "Debian",
    "tags": ["env:prod"],
    "job": {"id": "job-1", "state": "DELETED", "terminated": True},
}
CATALOG = {
    "connection": "vc",
    "state": "AVAILABLE",
    "connector": "dc1",
    "manager": {"id": "uuid-vc", "name": "vc.example.com", "type": "VirtualCenter"},
    "product": "",
    "tags_unknown": "",
    "imported_at": "2026-11-22T10:00:00+00:00",
    "dag_id": "server_catalog.dc1",
    "dag_run_id": "manual__1",
    "last_modified": "2026-11-22T10:00:00+00:00",
    "error": "",
}
SUMMARY = {
    "connection": "vc",
    "servers": 3,
    "new": 2,
    "changed": 1,
    "gone": 0,
    "overtaken": False,
    "tags_unknown": "",
}


class Api:
    """Answers by method and path; remembers what was asked."""

    def __init__(self, answers: dict[str, Any], *, xcom: Any = None, state: str = "success") -> None:
        self.answers, self._xcom, self._state = answers, xcom, state
        self.asked: list[tuple[str, Any]] = []
        self.unpaused: list[str] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((f"{method} {path}", body))
        answer = self.answers[f"{method} {path.split('?')[0]}"]
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def is_paused(self, dag_id: str) -> bool | None:
        found = self.answers.get(f"GET /api/v2/dags/{dag_id}")
        return None if found is None else bool(found["is_paused"]) and dag_id not in self.unpaused

    def task_instances(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{"task_id": "read", "map_index": -1, "state": "running"}]

    def held_runs(self, dag_id: str) -> int:
        return 0

    def unpause(self, dag_id: str) -> None:
        self.unpaused.append(dag_id)

    def wait_for_run(self, dag_id: str, run_id: str, *, every: Callable[[], None], **_: Any) -> str:
        every()
        return self._state

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value") -> Any:
        if key == "wavelift_failure":
            return {"what": "no route to vCenter"} if self._state == "failed" else None
        return self._xcom


Use = Callable[..., Api]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def install(answers: dict[str, Any], **more: Any) -> Api:
        api = Api(answers, **more)
        for module in (catalog, connectors):
            monkeypatch.setattr(module, "client", lambda: api)
        return api

    return install


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def run_of(dag_id: str, path: str) -> dict[str, Any]:
    return {
        f"GET /api/v2/dags/{dag_id}": {"is_paused": True},
        f"POST {path}": {"dag_id": dag_id, "dag_run_id": "manual__1"},
    }


def test_an_import_wakes_its_dag_and_tells_what_it_found(use: Use) -> None:
    api = use(run_of("server_catalog.dc1", "/wavelift/catalog/import"), xcom=SUMMARY)
    done = call("catalog", "import", "--connection", "vc", "--connector", "dc1")
    told = "vc: 3 servers; 2 new, 1 changed, 0 gone\n`wavelift catalog list --connection vc` lists them\n"
    assert (done.exit_code, done.stdout) == (0, told), done.output
    assert api.unpaused == ["server_catalog.dc1"]
    assert done.stderr.splitlines() == [
        "server_catalog.dc1 was paused; it is unpaused now",
        "server_catalog.dc1, run manual__1",
        "read: running",
    ]
    assert api.asked == [("POST /wavelift/catalog/import", {"connection": "vc", "connector": "dc1"})]


def test_an_import_that_failed_or_was_overtaken_says_so(use: Use) -> None:
    use(run_of("server_catalog", "/wavelift/catalog/import"), state="failed")
    done = call("catalog", "import", "--connection", "vc")
    assert (done.exit_code, "no route to vCenter" in done.output) == (1, True)
    use(run_of("server_catalog", "/wavelift/catalog/import"), xcom={**SUMMARY, "overtaken": True})
    assert "a newer import or a clear" in call("catalog", "import").stdout
    use({})
    done = call("catalog", "import", "--connector", "mars")
    assert (done.exit_code, "no wave names connector mars" in done.output) == (1, True)


def test_the_list_shows_every_column_and_the_way_to_the_next_page(use: Use) -> None:
    page = {"servers": [SERVER], "total": 3, "limit": 1, "offset": 1}
    answers = {"GET /wavelift/catalog": page, "GET /wavelift/catalogs": {"catalogs": [CATALOG]}}
    api = use(answers)
    done = call("catalog", "list", "--search", "a b", "--gone", "--limit", "1", "--offset", "1")
    assert done.exit_code == 0, done.output
    assert api.asked[0][0] == "GET /wavelift/catalog?search=a+b&gone=true&limit=1&offset=1"
    for text in (
        "s-0123456789ab",
        "vm-7",
        "/dc1/vm/web[01]",
        "env:prod",
        "5.0 GiB",
        "job-1",
        "terminated",
        "AVAILABLE",
    ):
        assert text in done.stdout, text
    assert "2 to 2 of 3; --offset 2 for more" in done.stdout
    assert json.loads(call("catalog", "list", "--json").stdout)["servers"] == [SERVER]


def test_clear_tells_how_many(use: Use) -> None:
    api = use({"POST /wavelift/catalog/clear": {"connection": "vc", "removed": 7}})
    told = "vc: 7 servers forgotten; `wavelift catalog import` reads them again\n"
    assert call("catalog", "clear", "--connection", "vc").stdout == told
    assert api.asked == [("POST /wavelift/catalog/clear", {"connection": "vc"})]


def test_maintenance_is_switched_on_and_off(use: Use) -> None:
    api = use({"POST /wavelift/connectors/dc1/maintenance": {}})
    assert "in maintenance" in call("connectors", "maintenance", "dc1", "--reason", "upgrade").stdout
    assert "in service" in call("connectors", "maintenance", "dc1", "--off").stdout
    assert [body for _, body in api.asked] == [{"on": True, "reason": "upgrade"}, {"on": False, "reason": ""}]


def test_a_refusal_is_one_line_and_status_1(use: Use) -> None:
    use({"POST /wavelift/connectors/dc1/disassociate": ApiError("in use: 2 migrations under way", status=409)})
    done = call("connectors", "disassociate", "dc1")
    assert (done.exit_code, "2 migrations under way" in done.output) == (1, True)


def test_a_check_fails_when_something_cannot_be_reached(use: Use) -> None:
    bad = {"name": "aws:s3", "ok": False, "what": "S3 does not answer", "next_step": "Check the firewall"}
    use(run_of("connector_health.dc1", "/wavelift/connectors/dc1/check"), xcom={"checks": [bad]})
    done = call("connectors", "check", "dc1")
    assert done.exit_code == 1
    assert "FAILED" in done.stdout
    assert "Check the firewall" in done.stdout


@pytest.mark.parametrize(
    ("health", "age", "words"),
    [
        (None, None, "never checked"),
        ({"checks": [{"name": "vcenter", "ok": True, "what": ""}]}, 65, "well\n1 min ago"),
        ({"checks": [{"name": "vcenter", "ok": False, "what": ""}]}, 7300, "FAILED: vcenter\n2 h ago"),
    ],
)
def test_sms_01_health_is_told_with_its_age(health: Any, age: int | None, words: str) -> None:
    texts = dict.fromkeys(("name", "connection", "aws_conn_id", "region", "description", "maintenance_reason"), "")
    at: dict[str, Any] = {"checked_at": None, "registered_at": "2026-11-22T10:00:00+00:00", "registered_by": "ana"}
    told = health and {"connector": "dc1", "checked_at": "2026-11-22T10:00:00+00:00", **health}
    row: dict[str, Any] = {**texts, **at, "maintenance": False, "healthy": None, "health": told, "health_age_s": age}
    assert health_words(ConnectorRow.model_validate(row)) == words
