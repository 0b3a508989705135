"""Operators of a way back: one server that fails does not stop the others, and nobody takes it for a success."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from wavelift.airflow import notifiers
from wavelift.airflow.notifiers import Kind
from wavelift.base.errors import PermanentError, UnreachableError, WaveliftError
from wavelift.base.run import DagRun
from wavelift.operators.connector.cutover_back import LookAtSourcesOperator, StartSourcesOperator
from wavelift.operators.control import cutover_back
from wavelift.operators.control._telling import TITLES, TellingOperator
from wavelift.operators.control.cutover_back import CutoverReportOperator, RevertFailedOperator, UndoOperator
from wavelift.rules.cutover import SourceBefore
from wavelift.services.cutover import back, persons, report
from wavelift.services.cutover.report import ToTrigger
from wavelift.services.cutover.watch import Alert
from wavelift.services.dataplane import source_return, source_watch
from wavelift.services.dataplane.cutover_messages import SeenSource, SourceToStart, StartedSource, WatchedSource

pytestmark = pytest.mark.airflow


def source(server: str) -> dict[str, Any]:
    before = SourceBefore(connection="vc", connector="dc1", vm="vm-1", instance_uuid="u-1", path="/vm", powered_on=True)
    return SourceToStart(server=server, cutover=f"cut-{server}", environment="prod", before=before).dump()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the operator over sources, of which some fail."""
    failing: dict[str, WaveliftError] = {}

    @contextmanager
    def granted(self: Any, context: Any, one: Any) -> Iterator[None]:
        yield None

    def start_source(session: Any, one: SourceToStart, cancel: Any) -> StartedSource:
        if one.server in failing:
            raise failing[one.server]
        return StartedSource(server=one.server, cutover=one.cutover, powered_on=True)

    monkeypatch.setattr(StartSourcesOperator, "granted", granted)
    monkeypatch.setattr(source_return, "start_source", start_source)

    def run(error: WaveliftError | None, try_number: int) -> dict[str, dict[str, Any]]:
        failing.clear()
        if error is not None:
            failing["a"] = error
        operator = StartSourcesOperator(task_id="start", undone={"sources": [source("a"), source("b")]})
        context: Any = {"ti": SimpleNamespace(try_number=try_number, max_tries=2)}
        return {one["server"]: one for one in operator.work(context)["servers"]}

    return run


def test_a_source_that_fails_does_not_stop_the_others(start: Any) -> None:
    found = start(PermanentError("its cards were changed"), 1)
    assert found["a"]["error"] == "its cards were changed"
    assert found["b"]["powered_on"]


def test_what_passes_by_itself_is_tried_again_and_the_last_try_tells_all(start: Any) -> None:
    with pytest.raises(UnreachableError):
        start(UnreachableError("vCenter does not answer"), 1)
    assert "does not answer" in start(UnreachableError("vCenter does not answer"), 3)["a"]["error"]
    assert start(None, 1)["a"]["powered_on"]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the look at two sources, of which the vCenter of the first one can't be opened."""

    def run(error: WaveliftError, try_number: int) -> dict[str, SeenSource]:
        @contextmanager
        def vcenter(self: Any, connection: str) -> Iterator[str]:
            if connection == "vc1":
                raise error
            yield connection

        monkeypatch.setattr(LookAtSourcesOperator, "vcenter", vcenter)
        monkeypatch.setattr(
            source_watch, "look_at", lambda session, one: SeenSource(server=one.server, cutover=one.cutover, on=True)
        )
        sources = [
            WatchedSource(server=name, cutover=f"cut-{name}", connection=connection, vm="vm-1").dump()
            for name, connection in (("a", "vc1"), ("b", "vc2"))
        ]
        context: Any = {"ti": SimpleNamespace(try_number=try_number, max_tries=1)}
        found = LookAtSourcesOperator(task_id="look", sources=sources).work(context)
        return {one.server: one for one in map(SeenSource.load, found)}

    return run


def test_a_vcenter_that_can_t_be_opened_does_not_hide_the_others(look: Any) -> None:
    found = look(PermanentError("its certificate has changed"), 1)
    assert (found["a"].error, found["b"].on) == ("its certificate has changed", True)


def test_a_vcenter_that_does_not_answer_is_tried_again_first(look: Any) -> None:
    with pytest.raises(UnreachableError):
        look(UnreachableError("vCenter does not answer"), 1)
    found = look(UnreachableError("vCenter does not answer"), 2)
    assert "does not answer" in found["a"].error
    assert found["b"].on


def test_who_is_asked_by_a_way_back_is_told_before_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, str]] = []
    wait = "person|cutover|cut-1|person router"
    waiting = back.Waiting({("aws", "eu-central-1"): (wait,)}, ("a person",))
    monkeypatch.setattr(back, "undo", lambda *_, **__: waiting)
    monkeypatch.setattr(persons, "asked", lambda ledger, waits: list(waits))
    monkeypatch.setattr(UndoOperator, "claimed", lambda *_: ("cut-1",))
    monkeypatch.setattr(UndoOperator, "tell", lambda self, ledger, alerts, kind, context: told.append((alerts, kind)))
    ledger: Any = None
    with pytest.raises(TaskDeferred):
        UndoOperator(task_id="undo", wave="erp").go_on(ledger, {}, ledger)
    assert told == [([wait], "person")]


def test_an_alert_is_told_once_for_its_step_and_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(notifiers, "notify", lambda ledger, notice, context: heard.append(notice.subject))
    at = datetime(2026, 12, 1, tzinfo=UTC)
    first = Alert(cutover="cut-1", server="a", wave="erp", words="Move it", since=at, about="p forward")
    other = first.model_copy(update={"about": "p back"})
    ledger: Any = None
    for kind in TITLES:
        TellingOperator(task_id="tell").tell(ledger, [first, other], kind, {})
    assert len(set(heard)) == 2
    assert set(TITLES) <= set(Kind)


@pytest.fixture
def teardown(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ``revert_failed`` after a report of some state."""
    import wavelift.airflow.runs as runs

    started: list[Any] = []
    monkeypatch.setattr(runs, "start_run", lambda run, conf, note: started.append((run, conf)))
    monkeypatch.setattr(RevertFailedOperator, "ledger", lambda self: contextmanager(lambda: iter([None]))())
    monkeypatch.setattr(RevertFailedOperator, "server_context", lambda self, context: None)

    def run(state: str, asked: ToTrigger | None) -> list[Any]:
        started.clear()
        monkeypatch.setattr(report, "reverts", lambda ledger, ctx: asked)
        monkeypatch.setattr(cutover_back, "task_states", lambda context: {"report": state})
        context: Any = {"ti": SimpleNamespace(xcom_push=lambda **_: None)}
        operator = RevertFailedOperator(task_id="revert_failed", wave="erp")
        try:
            operator.work(context)
        except PermanentError as error:
            return [*started, str(error)]
        return list(started)

    return run


REVERT = ToTrigger(DagRun("erp.cutover", "revert__1"), {"mode": "revert", "cutovers": ["cut-a"]}, "a: it failed")


def test_what_failed_is_reverted_and_the_run_still_fails(teardown: Any) -> None:
    run, words = teardown("failed", REVERT)
    assert run == (REVERT.run, REVERT.conf)
    assert "by run revert__1" in words
    assert len(teardown("failed", None)) == 1, "also where there is nothing to revert"
    assert teardown("success", None) == []


@pytest.mark.parametrize("mode", ["plan", "prepare", "cutover", "revert", "finalize"])
def test_no_task_of_a_mode_fails_unheard(mode: str) -> None:
    ends = CutoverReportOperator(task_id="report", wave="erp")._ended_by(mode)
    assert "failed" in ends["admit"]
    last = {"plan": "plan", "prepare": "prepare", "cutover": "go", "revert": "start_sources", "finalize": "finalize"}
    assert "failed" in ends[last[mode]]
    if mode == "cutover":
        assert ends["presync_2"] == ("failed",), "it skips itself when the forecast fits"
