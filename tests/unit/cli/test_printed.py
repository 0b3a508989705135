"""What people read, whole, in 80 columns and in 200: the texts lie beside this file in ``printed``.

``WRITE_PRINTED=1`` writes them again; then read each of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli import cutover_samples as cut
from tests.unit.cli import export_samples as exp
from tests.unit.cli.answers import (
    APPLIED,
    FAILED,
    IMPORTING,
    SERVER,
    details,
    job,
    migration,
    run,
    run_details,
)
from typer.testing import CliRunner, Result

from wavelift.base.times import minute_up, utc_minute
from wavelift.cli import backup, catalog, connectors, cutover, events, export, jobs, migrations, replicate, wave
from wavelift.cli.details import print_migration, proof
from wavelift.cli.main import app
from wavelift.cli.output import Times, in_own_zone, local_time
from wavelift.cli.states import export_state, migration_state, run_state, tries_again, why
from wavelift.console.answers import MigrationDetails, MigrationRow, RunRow
from wavelift.console.export_answers import ExportRow
from wavelift.rules.lifecycle import MigrationState

pytestmark = pytest.mark.unit

PRINTED: Final = Path(__file__).parent / "printed"
PAGE: Final = {"total": 1, "limit": 50, "offset": 0}
REFUSED: Final = run(
    id="run-99aabbccddee", type="OnDemand", state="Refused", status="2 on-demand runs in 24 hours; the limit is 2",
    refused_until="2026-12-01T12:00:00.3+00:00", ami_id="", bytes_read=0, bytes_sent=0, bytes_total=0, rate=0,
    duration_s=0.0, scheduled_start=None, started_at=None,
)  # fmt: skip
DEREGISTERED: Final = run(id="run-aabbccddeeff", ami_state="deregistered", type="OnDemand", scheduled_start=None)
CATALOG: Final = {
    "connection": "vcenter-frankfurt", "state": "AVAILABLE", "connector": "dc1", "product": "", "tags_unknown": "",
    "manager": {"id": "uuid-vc", "name": "vc.example.com", "type": "VirtualCenter"}, "error": "",
    "imported_at": "2026-11-22T10:00:00.7+00:00", "dag_id": "server_catalog.dc1", "dag_run_id": "manual__1",
    "last_modified": "2026-11-22T10:00:00.7+00:00",
}  # fmt: skip
CHECKED: Final = "2026-12-01T09:00:00+00:00"
CONNECTOR: Final = {
    "name": "frankfurt-dc1", "connection": "vcenter-frankfurt", "aws_conn_id": "aws_frankfurt",
    "region": "eu-central-1", "description": "Rack 12", "maintenance": True, "maintenance_reason": "new switch",
    "health": {
        "connector": "frankfurt-dc1", "checked_at": CHECKED, "checks": [{"name": "vcenter", "ok": True, "what": ""}],
    },
    "checked_at": CHECKED, "registered_at": CHECKED, "registered_by": "ana", "healthy": True, "health_age_s": 600,
}  # fmt: skip
EVENT: Final = {"actor": "ana", "dag_run_id": "manual__1", "details": {}}
EVENTS: Final = [
    {**EVENT, "id": 41, "at": "2026-12-01T09:00:05.123456+00:00", "action": "migration.queued",
     "details": {"server": "erp-db01", "to": "queued"}},
    {**EVENT, "id": 77, "at": "2026-07-01T09:00:00+00:00", "action": "replication_job.extended",
     "details": {"from": "2026-12-01T09:00:00+00:00", "to": "2027-03-01T09:00:00.250000+00:00"}},
    {**EVENT, "id": 78, "at": "2026-12-01T09:00:00+00:00", "action": "migration.cancelled"},
]  # fmt: skip
ANSWERS: Final[dict[str, Any]] = {
    "/wavelift/migrations": {**PAGE, "total": 3, "migrations": [migration(), FAILED, IMPORTING]},
    "/wavelift/migrations/mig-0b6f9c1d2e3a": details(),
    "/wavelift/migrations/mig-1c7a0d2e3f4b": {**details(verify_result=None, conversion_report=None), **FAILED,
                                              "launch_result": None, "snapshot_ids": []},
    "/wavelift/runs/run-0123456789ab": run_details(),
    "/wavelift/jobs": {**PAGE, "jobs": [job()]},
    "/wavelift/jobs/job-0123456789ab": job(),
    "/wavelift/jobs/job-0123456789ab/runs": {**PAGE, "total": 3, "runs": [run(), REFUSED, DEREGISTERED]},
    "/wavelift/catalog": {**PAGE, "servers": [SERVER]},
    "/wavelift/catalogs": {"catalogs": [CATALOG]},
    "/wavelift/connectors": {"connectors": [CONNECTOR]},
    "/wavelift/events/mig-0b6f9c1d2e3a": {"events": EVENTS},
    "/wavelift/events": {"events": [{**one, "object_kind": "migration", "object_id": "mig-0b6f9c1d2e3a",
                                     "dag_id": "erp-frankfurt.migrate"} for one in reversed(EVENTS)], "more": True},
    "/wavelift/waves/erp-frankfurt/apply": APPLIED,
    "/wavelift/cutovers": {**PAGE, "total": 4, "cutovers": [cut.cutover(), cut.WAITS, cut.MOVES, cut.FAILED]},
    "/wavelift/cutovers/cut-0b6f9c1d2e3a": cut.details(),
    "/wavelift/cutovers/cut-2d8b1e3f4a5c": {**cut.details(), **cut.MOVES, "steps": [cut.step(), cut.PERSON]},
    "/wavelift/tests": {**PAGE, "total": 2, "tests": [cut.TEST, cut.ENDED_TEST]},
    "/wavelift/backups": {**PAGE, "total": 2, "backups": [cut.BACKUP, cut.BROKEN_BACKUP]},
    "/wavelift/exports": {**PAGE, "total": 5, "exports": [exp.export(), exp.READS, exp.WAITS, exp.DONE, exp.FAILED]},
    f"/wavelift/exports/{exp.EXP}": exp.DONE,
    "/wavelift/exports/exp-1c7a0d2e3f4b": {**exp.DETAILS, **exp.FAILED},
}  # fmt: skip
COMMANDS: Final = {
    "migrations_list": "migrations list",
    "migrations_show": "migrations show mig-0b6f9c1d2e3a",
    "migrations_show_failed": "migrations show mig-1c7a0d2e3f4b",
    "runs_show": "runs show run-0123456789ab",
    "jobs_list": "jobs list",
    "jobs_show": "jobs show job-0123456789ab",
    "jobs_history": "jobs history job-0123456789ab",
    "catalog_list": "catalog list",
    "connectors_list": "connectors list",
    "events": "events mig-0b6f9c1d2e3a",
    "events_list": "events list --wave erp-frankfurt",
    "cutover_list": "cutover list",
    "cutover_show": "cutover show cut-0b6f9c1d2e3a",
    "cutover_show_asks": "cutover show cut-2d8b1e3f4a5c",
    "cutover_tests": "cutover tests",
    "backup_list": "backup list",
    "export_list": "export list",
    "export_show": f"export show {exp.EXP}",
    "export_show_failed": "export show exp-1c7a0d2e3f4b",
    "wave_apply_dry_run": "wave apply erp-frankfurt --dry-run",
}
NOTHING: Final[dict[str, Any]] = {
    "/wavelift/migrations": {**PAGE, "total": 0, "migrations": []},
    "/wavelift/jobs": {**PAGE, "total": 0, "jobs": []},
    "/wavelift/jobs/job-1/runs": {**PAGE, "total": 0, "runs": []},
    "/wavelift/catalog": {**PAGE, "total": 0, "servers": []},
    "/wavelift/catalogs": {"catalogs": []},
    "/wavelift/connectors": {"connectors": []},
    "/wavelift/events/mig-1": {"events": []},
    "/wavelift/events": {"events": [], "more": False},
    "/wavelift/cutovers": {**PAGE, "total": 0, "cutovers": []},
    "/wavelift/tests": {**PAGE, "total": 0, "tests": []},
    "/wavelift/backups": {**PAGE, "total": 0, "backups": []},
    "/wavelift/exports": {**PAGE, "total": 0, "exports": []},
    "/wavelift/waves/erp/apply": {
        **APPLIED, "wave": "erp", "changes": [], "unbound": [], "clashes": [], "dag_paused": False,
    },
}  # fmt: skip


class Api:
    """Answers by path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self.answers[path.split("?")[0]]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], None]]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()

    def install(answers: dict[str, Any]) -> None:
        for module in (backup, catalog, connectors, cutover, events, export, jobs, migrations, replicate, wave):
            monkeypatch.setattr(module, "client", lambda: Api(answers))

    yield install
    monkeypatch.undo()
    time.tzset()


def call(*words: str, columns: str = "") -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": columns})


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_for_people(name: str, columns: str, use: Callable[[dict[str, Any]], None]) -> None:
    use(ANSWERS)
    done = call(*COMMANDS[name].split(), columns=columns)
    assert done.exit_code == 0, done.output
    expected = PRINTED / f"{name}_{columns}.txt"
    if os.environ.get("WRITE_PRINTED"):
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(done.stdout)
    assert done.stdout == expected.read_text()
    if columns == "200":
        assert call(*COMMANDS[name].split()).stdout == done.stdout, "the same in a pipe"


def test_every_text_belongs_to_a_command() -> None:
    assert {file.stem.rpartition("_")[0] for file in PRINTED.iterdir()} == set(COMMANDS)


@pytest.mark.parametrize("command", ["migrations show mig-0b6f9c1d2e3a", "runs show run-0123456789ab"])
def test_json_is_what_the_api_says(command: str, use: Callable[[dict[str, Any]], None]) -> None:
    use(ANSWERS)
    shown = json.loads(call(*command.split(), "--json").stdout)
    assert shown == ANSWERS[f"/wavelift/{command.split()[0]}/{command.split()[-1]}"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "migrations list",
            "No migrations yet. `wavelift migrate WAVE` begins them; `wavelift preflight WAVE` checks the wave before",
        ),
        (
            "migrations list --wave erp --state failed",
            "No migrations match --wave erp --state failed. Without these options all are listed",
        ),
        (
            "jobs list",
            "No replication jobs yet. `wavelift wave apply WAVE` makes those of a wave whose file has a `replication:` "
            "section",
        ),
        ("jobs list --search x --offset 3", "No replication jobs match --search x --offset 3. Without"),
        ("jobs history job-1", "No runs yet. The first one begins at the job's next time (`wavelift jobs show`)"),
        ("jobs history job-1 --state failed", "No runs match --state failed. Without these options all are listed"),
        ("catalog list", "No servers yet. Register a connector with `wavelift connectors register NAME"),
        ("catalog list --gone --tag a:b", "No servers match --tag a:b --gone. Without these options all are listed"),
        ("connectors list", "No connectors yet. `wavelift connectors register NAME --connection VSPHERE_CONNECTION`"),
        ("events mig-1 --after 7", "No events of mig-1 after number 7"),
        ("events list", "No events yet. The first one is written when a connector is registered or a wave begins"),
        ("events list --since 2026-12-01 --kind slot", "No events match --kind slot --since 2026-12-01. Without"),
        ("cutover list", "No cutovers yet. `wavelift cutover plan WAVE` tells what one would do"),
        ("cutover list --state switched", "No cutovers match --state switched. Without these options all are listed"),
        ("cutover tests", "No test instances yet. `wavelift cutover test WAVE` launches"),
        ("export list", "No instance exports of the last 7 days yet. `wavelift export start INSTANCE` begins one"),
        ("export list --all --state failed", "No instance exports match --state failed. Without these options"),
        ("backup list --wave erp", "No backups match --wave erp. Without these options all are listed"),
        ("wave apply erp", "erp: no server of its file has a `replication:` section, and there are no jobs"),
    ],
)
def test_an_empty_list_says_what_to_do_first(command: str, words: str, use: Callable[[dict[str, Any]], None]) -> None:
    use(NOTHING)
    done = call(*command.split())
    assert (done.exit_code, done.stdout.startswith(words)) == (0, True), done.output
    assert done.stdout.count("\n") == 1, "no empty table"


# Times


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_who_waits_as_told_never_comes_too_early(instant: datetime) -> None:
    up = minute_up(instant)
    assert instant <= up < instant + timedelta(minutes=1)
    assert (up.second, up.microsecond) == (0, 0)
    assert datetime.strptime(utc_minute(instant), "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC) == up


@pytest.mark.parametrize(
    ("zone", "words", "zones"),
    [
        ("Europe/Berlin", "2026-12-01 11:00", "CET"),
        ("UTC", "2026-12-01 10:00", "UTC"),
        ("Asia/Dubai", "2026-12-01 14:00", "UTC+04:00"),
        ("Asia/Kathmandu", "2026-12-01 15:45", "UTC+05:45"),
        ("America/Sao_Paulo", "2026-12-01 07:00", "UTC-03:00"),
    ],
)
def test_times_are_local_and_the_zone_is_said_once(
    zone: str, words: str, zones: str, use: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    times = Times()
    assert times.of(datetime(2026, 12, 1, 10, 0, 59, 999999, UTC)) == words
    assert times.of(None) == ""
    assert times.zones == zones
    assert local_time(datetime(2026, 12, 1, 9, 59, 0, 1, UTC), up=True) == f"{words} {zones}"
    assert local_time(None) == ""


def test_a_time_of_the_hour_that_comes_twice_has_its_zone_beside_it(use: object) -> None:
    times = Times()
    assert times.of(datetime(2026, 10, 25, 0, 30, tzinfo=UTC)) == "2026-10-25 02:30 CEST"
    assert times.of(datetime(2026, 10, 25, 1, 30, tzinfo=UTC)) == "2026-10-25 02:30 CET"
    assert times.of(datetime(2026, 10, 25, 2, 30, tzinfo=UTC)) == "2026-10-25 03:30"
    assert local_time(datetime(2026, 10, 25, 0, 30, tzinfo=UTC)) == "2026-10-25 02:30 CEST"


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("refused until 2026-12-01 10:00 UTC.", "refused until 2026-12-01 11:00 CET."),
        ("reverted at 2026-07-01 23:59:30 UTC (event)", "reverted at 2026-07-02 01:59:30 CEST (event)"),
        ("from 2026-12-01 10:00 UTC to 2026-12-02 10:00 UTC", "from 2026-12-01 11:00 CET to 2026-12-02 11:00 CET"),
        ("2026-13-01 10:00 UTC, 2026-12-01 10:00 UTC+03:00", "2026-13-01 10:00 UTC, 2026-12-01 10:00 UTC+03:00"),
        ("0001-01-01 00:00 UTC and 9999-12-31 23:59 UTC", None),
    ],
)
def test_the_server_s_sentences_have_times_of_the_user_s_zone(sentence: str, told: str | None, use: object) -> None:
    shown = in_own_zone(sentence)
    assert shown == told or (told is None and "9999-12-31 23:59 UTC" in shown), shown


# States


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "queued"}, "queued"),
        ({"state": "queued", "phase": "waits for a transfer slot"}, "queued: waits for a transfer slot"),
        ({"state": "transferring", "phase": "export", "progress_pct": 37}, "transferring: 37 %"),
        ({"state": "transferring", "bytes_total": 0, "progress_pct": 0}, "transferring"),
        ({"state": "verifying", "phase": "verifying", "progress_pct": 100}, "verifying: reading back what is stored"),
        ({"state": "verifying", "phase": "waits to import: place 2"}, "verifying: waits to import: place 2"),
        ({"state": "importing", "phase": "import: converting", "progress_pct": 40}, "importing: 40 % (converting)"),
        ({"state": "importing", "phase": "comparing the image", "progress_pct": 0}, "importing: comparing the image"),
        ({"state": "importing", "phase": "compares the image with its source"}, "importing: comparing the image"),
        ({"state": "launching", "phase": "launching", "progress_pct": 100}, "launching"),
        ({"state": "failed", "phase": "import: converting", "progress_pct": 40}, "failed"),
        ({"state": "queued", "cancel_requested": True}, "queued, is being cancelled"),
    ],
)
def test_a_state_says_what_goes_on_and_never_100_per_cent_of_something_else(
    changes: dict[str, Any], words: str
) -> None:
    assert migration_state(MigrationRow.model_validate(migration(**changes)), Times()) == words


@given(st.sampled_from(MigrationState), st.text(max_size=20), st.integers(0, 100))
def test_the_comparison_of_the_image_is_never_called_like_the_proof(
    state: MigrationState, phase: str, percent: int
) -> None:
    row = MigrationRow.model_validate(migration(state=state, phase=phase, progress_pct=percent))
    words = migration_state(row, Times())
    assert words.startswith(str(state)), "the word that --state takes"
    assert (
        "100 %" not in words or state is MigrationState.TRANSFERRING or phase.startswith("import: ") or "100 %" in phase
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "Active", "status": "Uploading", "progress_pct": 37}, "Uploading 37 %"),
        ({"state": "Active", "status": "Converting: booting", "progress_pct": 9}, "Converting: booting 9 %"),
        ({"state": "Active", "status": "Waits for a slot", "progress_pct": 0}, "Waits for a slot"),
        ({"state": "Active", "status": "", "progress_pct": 0}, "Active"),
        ({"state": "Completed", "progress_pct": 100}, "Completed"),
        ({"state": "Active", "status": "Uploading", "progress_pct": 1, "cancel_requested": True},
         "Uploading 1 %, is being cancelled"),
    ],
)  # fmt: skip
def test_a_run_s_state(changes: dict[str, Any], words: str) -> None:
    assert run_state(RunRow.model_validate(run(**changes)), Times()) == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "active: 40 % (AWS: converting)"),
        ({"phase": ""}, "active: 40 %"),
        ({"percent": 0}, "active: AWS: converting"),
        ({"state": "verifying", "percent": 100, "phase": "it is opened"}, "verifying: it is opened"),
        ({"state": "checking", "percent": 0, "phase": "", "step": "check", "step_state": "queued"},
         "checking: check (queued)"),
        ({"state": "checking", "percent": 0, "phase": "", "step": "", "step_state": ""}, "checking"),
        ({"state": "cancelling", "percent": 40, "phase": "stops, and removes what it made"},
         "cancelling: stops, and removes what it made"),
        ({"state": "failed"}, "failed"),
        ({"step": "begin", "step_state": "up_for_retry", "retry_at": "2026-12-01T13:02:01+00:00"},
         "begin: failed, tries again 2026-12-01 14:03"),
    ],
)  # fmt: skip
def test_an_export_s_state(changes: dict[str, Any], words: str, use: object) -> None:
    assert export_state(ExportRow.model_validate(exp.export(**changes)), Times()) == words


class Retried(MigrationRow):
    """A row of a server that tells why a step is tried again."""

    step: str = "snapshot"
    step_state: str = "up_for_retry"
    retry_reason: str = "vCenter does not answer"
    retry_at: datetime | None = datetime(2026, 12, 1, 13, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ({"step": "snapshot", "step_state": "running", "step_try": 1}, "snapshot"),
        ({"step": "snapshot", "step_state": "running", "step_try": 2}, "snapshot (try 2)"),
        ({"step": "export", "step_state": "queued"}, "export (queued)"),
    ],
)
def test_what_the_ledger_can_not_know_is_told_from_airflow(at: dict[str, Any], words: str) -> None:
    row = MigrationRow.model_validate(migration(state="transferring", phase="export", progress_pct=0, **at))
    assert migration_state(row, Times()) == f"transferring: {words}"
    active = RunRow.model_validate(run(state="Active", status=at["step"].capitalize(), progress_pct=0, **at))
    assert run_state(active, Times()) == words


def test_a_step_that_is_tried_again_says_when_and_why(use: object) -> None:
    row = Retried.model_validate(migration(state="transferring", phase="export", progress_pct=3))
    assert migration_state(row, Times()) == "snapshot: failed, tries again 2026-12-01 14:03"
    assert why(row, Times()) == "vCenter does not answer"
    assert migration_state(row.model_copy(update={"retry_at": None}), Times()) == "snapshot: failed, tries again"
    assert tries_again(MigrationRow.model_validate(migration()), Times()) == "", "an older server"
    ended = Retried.model_validate(migration(state="failed", error="no route"))
    assert (migration_state(ended, Times()), why(ended, Times())) == ("failed", "no route")


@pytest.mark.parametrize(
    ("verified", "words"),
    [
        (None, "attested: AWS accepted every block under its SHA-256; nothing was read back"),
        ({"level": "off"}, "attested: AWS accepted every block under its SHA-256; nothing was read back"),
        ({"level": "sample:2.5", "bytes_verified": 1 << 20, "bytes_read_back": 1 << 20},
         "sampled 2.5 %: 2 blocks compared, 1.0 MiB read back, no difference"),
        ({"level": "full", "bytes_verified": 1, "bytes_read_back": 0, "mismatches": 2},
         "proven: 1 blocks compared, 0 B read back, 2 differ"),
    ],
)  # fmt: skip
def test_inv_1_the_proof_is_named_by_how_far_it_goes(verified: dict[str, Any] | None, words: str) -> None:
    assert proof(verified, [{"index": 0}]) == words
    assert proof(verified, []) == "", "nothing is stored yet"


def test_a_migration_that_never_began_names_no_index_of_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    never = {
        "id": "mig-1",
        "server": "web01",
        "state": "failed",
        "server_id": None,
        "map_index": -1,
        "error": "dc1 is in maintenance",
    }
    print_migration(MigrationDetails.model_validate(details(**never)))
    told = " ".join(capsys.readouterr().out.split())
    assert "clear the server.reserve of web01 in that DAG run" in told
    assert "map index" not in told
