"""Deadlines and their warnings, the window of a cutover as a deadline, and people who are told once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from airflow.sdk import BaseNotifier
from airflow.serialization.decoders import decode_deadline_alert
from airflow.serialization.encoders import encode_deadline_alert
from tests.ledgers import fresh_ledger

from wavelift.airflow import config, notifications, notifiers
from wavelift.airflow.notifications import WindowDeadline, wave_deadline, wave_is_late, window_deadline
from wavelift.airflow.notifiers import Kind, Notice, notify
from wavelift.base.errors import SpecError
from wavelift.dag_factory import raise_spec_errors, trial
from wavelift.dag_factory.migrate import migrate_dag
from wavelift.dag_factory.replicate import replicate_dag
from wavelift.ledger import Event, Ledger, events
from wavelift.plugin import WaveliftPlugin
from wavelift.rules.plans import WaveShape

pytestmark = pytest.mark.airflow

SHAPE = WaveShape(wave="erp", deadline_minutes=60, replicates=True)
START, END = "2026-12-01T20:00:00+00:00", "2026-12-02T06:00:00+00:00"
RUN_AFTER = datetime(2026, 12, 1, 18, 0, tzinfo=UTC)
HERE = "tests.airflow.test_notifications"


class Told(BaseNotifier):
    """Keeps what it is given."""

    template_fields = ("text",)
    heard: ClassVar[list[str]] = []

    def __init__(self, *, text: str = "{{ wavelift.kind }}: {{ wavelift.title }}") -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        self.heard.append(self.text)


class ToldAsync(Told):
    async def async_notify(self, context: Any) -> None:
        self.heard.append(f"async {self.text}")


class Broken(BaseNotifier):
    def notify(self, context: Any) -> None:
        raise RuntimeError("no way to https://user:secret@hooks.example.com")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    with fresh_ledger(tmp_path / "ledger.db") as made:
        monkeypatch.setattr(config, "ledger_url", lambda: f"sqlite:///{tmp_path / 'ledger.db'}")
        yield made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the setting; gives what was told."""
    Told.heard.clear()

    def configure(*entries: Any, text: str | None = None) -> list[str]:
        setting = json.dumps(list(entries)) if text is None else text
        monkeypatch.setattr(config, "notifiers", lambda: setting)
        return Told.heard

    return configure


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"class": f"{HERE}.{name}", **more}


def notice(kind: Kind = Kind.FENCE, subject: str = "cut-1") -> Notice:
    return Notice(kind=kind, subject=subject, title="erp-1 is on", text="It is on.", at=RUN_AFTER, wave="erp")


def late_events(ledger: Ledger) -> list[Event]:
    with ledger.read() as tx:
        return list(events.list_events(tx))


# Deadlines


@pytest.mark.parametrize("make", [migrate_dag, replicate_dag, trial.test_dag])
def test_air_03_migrate_replicate_and_test_have_a_deadline_and_a_warning(make: Any) -> None:
    assert [alert.interval for alert in make(SHAPE).deadline] == [timedelta(minutes=60), timedelta(minutes=48)]
    assert not make(WaveShape(wave="erp")).deadline
    assert wave_deadline(WaveShape(wave="erp")) is None


@pytest.mark.parametrize(
    ("conf", "share", "expected"),
    [
        ({"mode": "cutover", "window_start": START, "window_end": END}, 1.0, "2026-12-02T06:00:00+00:00"),
        ({"mode": "cutover", "window_start": START, "window_end": END}, 0.8, "2026-12-02T04:00:00+00:00"),
        ({"mode": "cutover", "window_end": END}, 0.5, "2026-12-02T00:00:00+00:00"),  # it begins with the run
        ({"mode": "plan", "window_start": START, "window_end": END}, 1.0, None),
        ({"window_end": END}, 1.0, None),  # the default mode is plan
        ({"mode": "cutover"}, 1.0, None),
        ({"mode": "cutover", "window_end": "tomorrow"}, 1.0, None),
        ({"mode": "cutover", "window_end": "2026-12-02T06:00:00"}, 1.0, None),  # without an offset
        ({"mode": "cutover", "window_end": 17}, 1.0, None),
        ({"mode": "cutover", "window_start": END, "window_end": START}, 0.8, "2026-12-01T20:00:00+00:00"),
    ],
)
def test_the_window_of_the_conf_is_the_deadline_and_a_bad_one_is_none(
    conf: dict[str, Any], share: float, expected: str | None
) -> None:
    found = WindowDeadline(share).instant(conf, RUN_AFTER)
    assert (found and found.isoformat()) == expected


def test_the_window_of_the_file_counts_where_the_conf_has_none() -> None:
    found = WindowDeadline(0.8, START, END)
    assert found.instant({"mode": "cutover"}, RUN_AFTER) == datetime(2026, 12, 2, 4, tzinfo=UTC)
    assert found.instant({"mode": "cutover", "window_end": "2026-12-02T01:00:00+00:00"}, RUN_AFTER) == datetime(
        2026, 12, 2, tzinfo=UTC
    )


def test_airflow_stores_the_reference_and_finds_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow import plugins_manager

    (known,) = WaveliftPlugin.deadline_references
    found = {f"{known.__module__}.{known.__qualname__}": known}
    monkeypatch.setattr(plugins_manager, "get_deadline_references_plugins", lambda: found)
    for alert, share in zip(window_deadline(SHAPE, start=START, end=END), (1.0, 0.8), strict=True):
        stored = json.loads(json.dumps(encode_deadline_alert(alert)))
        again: Any = decode_deadline_alert({"__type": "deadline_alert", "__var": stored}).reference
        inner = again.inner_ref
        assert (type(inner), inner.share, inner.start, inner.end) == (WindowDeadline, share, START, END)


def test_a_late_run_is_logged_recorded_and_told_and_its_warning_is_another_event(
    ledger: Ledger, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard = told(entry("Told"), entry("ToldAsync", kinds=["late"]))
    context = {"dag_run": {"dag_id": "erp.migrate", "dag_run_id": "m1", "state": "running"}}
    with caplog.at_level(logging.WARNING):
        asyncio.run(wave_is_late(wave="erp", minutes=60, share=0.8, context=context))
        asyncio.run(wave_is_late(wave="erp", minutes=60, context=context))
        asyncio.run(wave_is_late(wave="erp", minutes=60, context=context))  # told twice by Airflow
    assert heard == ["nearly_late: erp may become late", "late: erp is late", "async late: erp is late"]
    actions = [(one.action, one.object_id, one.details) for one in late_events(ledger)]
    assert actions[:2] == [
        ("wave_run.nearly_late", "erp.migrate/m1", {"wave": "erp", "minutes": 60}),
        ("wave_run.late", "erp.migrate/m1", {"wave": "erp", "minutes": 60}),
    ]
    assert "Run m1 of erp.migrate has not finished after 60 minutes" in caplog.text


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_run_that_has_ended_is_not_late(ledger: Ledger, told: Any, state: str) -> None:
    """Airflow drops deadlines of runs that succeeded only."""
    heard = told(entry("Told"))
    context = {"dag_run": {"dag_id": "erp.migrate", "dag_run_id": "m1", "state": state}}
    asyncio.run(wave_is_late(wave="erp", minutes=60, context=context))
    assert not heard
    assert not late_events(ledger)


# Notifiers


def test_each_event_is_told_once(ledger: Ledger, told: Any) -> None:
    heard = told(entry("Told"))
    assert [notify(ledger, notice()), notify(ledger, notice())] == [True, False]
    assert notify(ledger, notice(subject="cut-2"))
    assert notify(ledger, notice(Kind.NOBODY_SERVES))
    assert notify(ledger, notice(subject="x" * 700))
    assert [text.split(":")[0] for text in heard] == ["fence", "fence", "nobody_serves", "fence"]


def test_a_notifier_hears_its_kinds_and_one_that_fails_stops_nobody(
    ledger: Ledger, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard = told(entry("Broken"), entry("Told", kinds=["failure"]), entry("Told", arguments={"text": "heard"}))
    assert notify(ledger, notice())
    assert heard == ["heard"]
    assert f"{HERE}.Broken failed" in caplog.text
    assert "secret" not in caplog.text


def test_the_end_of_a_run_is_told_and_again_after_a_clear(ledger: Ledger, told: Any) -> None:
    heard = told(entry("Told"))
    dag = SimpleNamespace(dag_id="erp.migrate", get_template_env=lambda **_: None)

    def run(clear: int) -> Any:
        return {"dag_run": SimpleNamespace(run_id="m1", clear_number=clear), "dag": dag, "run_id": "m1"}

    real = migrate_dag(SHAPE)
    for clear, call in [(0, notifications.run_failed), (0, notifications.run_failed), (1, notifications.run_succeeded)]:
        call({**run(clear), "dag": real})
    notifications.run_failed({**run(1), "dag": real})
    assert heard == ["failure: erp.migrate failed", "success: erp.migrate succeeded", "failure: erp.migrate failed"]


@pytest.mark.parametrize(("dag_id", "about"), [("erp.migrate", "erp"), ("instance_export.lab", "lab")])
def test_the_end_of_a_run_is_told_with_what_its_dag_is_of(
    monkeypatch: pytest.MonkeyPatch, dag_id: str, about: str
) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(notifications, "_opened", lambda: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(notifications, "notify", lambda ledger, notice, context: heard.append(notice.wave))
    run = SimpleNamespace(run_id="m1", clear_number=0)
    notifications.run_failed({"dag_run": run, "dag": SimpleNamespace(dag_id=dag_id), "run_id": "m1"})
    assert heard == [about]


def test_a_dag_has_callbacks_only_if_somebody_is_to_be_told(told: Any) -> None:
    told(text="")
    assert not migrate_dag(SHAPE).on_failure_callback
    told(entry("Told"))
    dag: Any = migrate_dag(SHAPE)
    assert dag.on_failure_callback
    assert dag.on_success_callback


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ('{"class": "a.B"}', "is no list"),
        ('[{"clas": "a.B"}]', "entry 1: class: Field required"),
        ('[{"class": "a.B", "kinds": ["fire"]}]', "entry 1: kinds"),
        ('[{"class": "no.such.Thing"}]', "'no.such.Thing', which cannot be imported"),
        ('[{"class": "Thing"}]', "which cannot be imported"),
        ('[{"class": "json.JSONDecoder"}]', "which is no notifier"),
        (json.dumps([entry("Told", arguments={"colour": "s3cret"})]), "unexpected keyword argument 'colour'"),
    ],
)
def test_a_wrong_setting_is_an_import_error_that_names_it_and_breaks_no_dag(
    ledger: Ledger, told: Any, text: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told(text=text)
    for name in ("waves_folder", "environments_folder", "last_valid_folder"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(config, name, lambda name=name: tmp_path / name)
    with pytest.raises(SpecError, match=r"\[wavelift\] notifiers") as raised:
        raise_spec_errors()
    assert words in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert migrate_dag(SHAPE).dag_id == "erp.migrate"
    assert notify(ledger, notice())  # the work goes on


def test_a_right_setting_is_no_error(told: Any) -> None:
    told(
        {
            "class": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
            "arguments": {"to": "ops@example.com", "subject": "{{ wavelift.title }}", "html_content": "x"},
        }
    )
    notifiers.check()
