"""The audit trail over REST: what is listed for whom, sealing by parts, the exported lines, the check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.team import Team
from fastapi import HTTPException
from tests.unit.console.test_replication_routes import Desk, desk
from tests.unit.ledger.test_seals import forge

from wavelift.base.run import DagRun
from wavelift.console import audit, audit_right
from wavelift.ledger import events
from wavelift.rules.seals import EVENTS_A_SEAL, SealedFile

__all__ = ["desk"]

pytestmark = pytest.mark.unit

LONG_AGO = datetime(2026, 1, 1, 12, tzinfo=UTC)


def write(desk: Desk, count: int = 1, *, at: datetime = LONG_AGO, dag_id: str = "erp.migrate", **told: Any) -> None:
    words = {"kind": "migration", "id": "mig-1", "action": "migration.queued", "actor": "ana", "details": {}} | told
    with desk.ledger.write() as tx:
        for _ in range(count):
            subject = events.Subject(words["kind"], words["id"], DagRun(dag_id, "r1"))
            events.append(
                tx, subject, words["action"], at=at, actor=words["actor"], details=words["details"]
            )  # fmt: skip


def listed(desk: Desk, **query: Any) -> list[int]:
    return [row["id"] for row in desk.get("/events", **query)["events"]]


def test_a_list_has_what_its_reader_may_read_newest_first(desk: Desk) -> None:
    desk.post("/connectors", name="hall-a", connection="vc")
    job = desk.job()
    write(desk)
    write(desk, dag_id="secret.migrate")
    write(desk, dag_id="", kind="import", id="left-over")
    seen = desk.get("/events")["events"]
    about = [(row["object_kind"], row["object_id"]) for row in seen]
    assert ("migration", "mig-1") in about
    assert ("replication_job", job) in about, "it belongs to no DAG run, and to a wave that may be read"
    assert {kind for kind, _ in about} == {"migration", "replication_job"}, "no connector: its DAG may not be read"
    assert {row["dag_id"] for row in seen} == {"erp.migrate", ""}
    assert [row["id"] for row in seen] == sorted((row["id"] for row in seen), reverse=True)
    desk.rights.audit = True
    every = desk.get("/events")["events"]
    assert len(every) > len(seen)
    assert {"connector", "import"} <= {row["object_kind"] for row in every}
    desk.rights.audit = desk.rights.read = False
    assert desk.get("/events")["events"] == []


def test_events_of_a_connector_are_for_those_who_may_read_its_dag(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hall-a", "hall-b", "default"):
        desk.post("/connectors", name=name, connection="vc")
    for dag_ids, seen in (({"server_catalog.hall-a"}, ["hall-a"]), ({"server_catalog"}, ["default"]), (set(), [])):
        monkeypatch.setattr(desk.rights, "get_authorized_dag_ids", lambda dag_ids=dag_ids, **_: dag_ids)
        assert [row["object_id"] for row in desk.get("/events")["events"]] == seen
    monkeypatch.setattr(desk.rights, "get_authorized_dag_ids", lambda **_: {"connector_health.hall-a"})
    assert desk.get("/events")["events"] == []


def test_each_filter_and_the_pages(desk: Desk) -> None:
    job = desk.job()
    made = listed(desk)
    write(desk)
    write(desk, id="mig-2", actor="bob")
    write(desk, action="slot.granted", kind="slot", at=LONG_AGO + timedelta(hours=1))
    write(desk, action="slot_x.y", dag_id="erp.replicate")
    one, two, three, four = sorted(set(listed(desk)) - set(made))
    assert listed(desk, kind="slot") == [three]
    assert listed(desk, id="mig-2") == [two]
    assert listed(desk, id=job) == made
    assert listed(desk, actor="bob") == [two]
    assert listed(desk, action="slot.granted") == listed(desk, action="slot.") == [three]
    assert listed(desk, action="slot") == [], "no part of a word"
    assert listed(desk, dag_id="erp.replicate") == [four]
    assert listed(desk, wave="erp") == [four, three, two, one, *made]
    assert listed(desk, wave="erp", dag_id="erp.migrate") == [three, two, one, *made]
    assert listed(desk, wave="other") == []
    hour = (LONG_AGO + timedelta(hours=1)).isoformat()
    assert listed(desk, since=hour) == [three, *made]
    assert listed(desk, until=hour) == [four, two, one]
    assert listed(desk, since="2026-01-01T14:00:00+01:00", until="2026-01-01T14:00:01+01:00") == [three]
    first = desk.get("/events", limit=2)
    assert ([row["id"] for row in first["events"]], first["more"]) == ([four, three], True)
    rest = desk.get("/events", limit=500, before=three)
    assert ([row["id"] for row in rest["events"]], rest["more"]) == ([two, one, *made], False)


@pytest.mark.parametrize("query", ["since=2026-01-01T12:00:00", "until=yesterday", "before=0", "wave=a/b", "limit=501"])
def test_a_time_without_offset_and_other_nonsense_is_refused(desk: Desk, query: str) -> None:
    desk.refused("GET", f"/events?{query}", 422)


def export(desk: Desk) -> SealedFile:
    file, after, more = SealedFile(), 0, True
    while more:
        page = desk.get("/audit/sealed", after=after)
        more = page["more"]
        for group in page["groups"]:
            for line in (group["seal"], *group["events"]):
                file.take(f"{line}\n".encode())
            after = group["last_event_id"]
    file.end()
    return file


def test_sealing_exporting_and_checking_go_by_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "SEALS_A_REQUEST", 2)
    monkeypatch.setattr(audit, "GROUPS_A_PAGE", 2)
    desk.rights.audit = True
    write(desk, 4 * EVENTS_A_SEAL + 1)
    write(desk, at=datetime.now(UTC))
    sealed = [desk.post("/audit/seal") for _ in range(4)]
    assert [(one["seals"], one["more"]) for one in sealed] == [(2, True), (2, True), (1, False), (0, False)]
    assert sealed[-1]["last_event_id"] == 4 * EVENTS_A_SEAL + 1
    assert sealed[-1]["digest"] == sealed[-2]["digest"]
    file = export(desk)
    assert (file.seals, file.events) == (5, 4 * EVENTS_A_SEAL + 1)
    assert file.last is not None
    assert file.last.sealed_by == "ana"
    assert file.last.digest == sealed[-1]["digest"]
    checks, after, more = [], 0, True
    while more:
        checks.append(desk.get("/audit/verify", after=after))
        after, more = checks[-1]["seals"][-1]["last_event_id"], checks[-1]["more"]
    assert [len(one["seals"]) for one in checks] == [2, 2, 1]
    assert {one["unsealed"] for one in checks} == {1}
    assert [one["difference"] for one in checks] == [None] * 3
    forge(desk.ledger, f"DELETE FROM event WHERE id = {EVENTS_A_SEAL + 3}")
    found = desk.get("/audit/verify")
    assert found["difference"]["event_id"] == EVENTS_A_SEAL + 3
    assert not found["more"], "the first difference ends the check"


def test_large_events_are_exported_in_answers_that_the_gate_lets_through(desk: Desk) -> None:
    desk.rights.audit = True
    write(desk, 30, details={"text": '"' * 250_000})
    while desk.post("/audit/seal")["more"]:
        pass
    assert export(desk).events == 30


@pytest.mark.parametrize(("role", "may"), [("viewer", False), ("user", False), ("op", True), ("admin", True)])
def test_administrators_of_airflow_may(monkeypatch: pytest.MonkeyPatch, role: str, may: bool) -> None:
    monkeypatch.setattr(audit_right, "get_auth_manager", SimpleAuthManager)
    user = SimpleAuthManagerUser(username="x", role=role)
    assert audit_right.may_audit(user) is may
    if not may:
        with pytest.raises(HTTPException) as caught:
            audit_right.require_audit(user)
        assert caught.value.status_code == 403


@pytest.mark.parametrize(
    ("role", "teams", "may"),
    [("op", ["red"], False), ("op", ["red", "blue"], True), ("viewer", ["red", "blue"], False), ("admin", [], True)],
)
def test_with_teams_only_who_belongs_to_all_of_them(
    monkeypatch: pytest.MonkeyPatch, role: str, teams: list[str], may: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    monkeypatch.setattr(audit_right, "get_auth_manager", SimpleAuthManager)
    monkeypatch.setattr(Team, "get_all_team_names", lambda: {"red", "blue"})
    assert audit_right.may_audit(SimpleAuthManagerUser(username="x", role=role, teams=teams)) is may
