"""``wavelift migrate``, ``migrations …``, ``verify`` and ``cleanup``: the REST API as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import typer

from wavelift.airflow.rest import ApiError, path_of
from wavelift.base.units import human_bytes
from wavelift.cli.connect import api_errors_told, client, fail, run_by, tell_user, wake
from wavelift.cli.details import next_after_cancel, print_migration, say_verified
from wavelift.cli.family import Family, RunRows, follow, leave, show_one, tell_run
from wavelift.cli.output import Times, add_row, say, show, table
from wavelift.cli.states import migration_state, say_why
from wavelift.cli.watch import Watch
from wavelift.cli.wave import await_wave, no_wave
from wavelift.console.answers import (
    MigrationCancelled,
    MigrationDetails,
    MigrationPage,
    MigrationRow,
    MigrationsStarted,
)
from wavelift.console.requests import CleanupBody
from wavelift.rules.flows import MIGRATE, PREFLIGHT

WAIT_SECONDS: Final = 48 * 3600.0
"""A wave of terabytes takes a day; who waits longer looks at the list."""


@api_errors_told()
def migrate(wave: str, asked: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Migrate servers of a wave, and wait for their end with live progress. Status 1 when one of them did not get
    through.

    :param asked: the fields of :class:`~wavelift.console.requests.MigrateBody` that were given.
    """
    api, dag_id = client(), MIGRATE.dag_id(wave)
    if api.is_paused(dag_id) is None:
        await_wave(api, wave, dag_id)
    wake(api, dag_id, no_wave(wave))
    answer = api.call("POST", path_of("wavelift", "waves", wave, "migrations"), asked)
    run = MigrationsStarted.model_validate(answer)
    tell_run(run, [f"{row.id} {row.server}" for row in run.migrations])
    if run.with_preflight:
        tell_user(f"the servers of {', '.join(run.with_preflight)} get ids when pre-flight has found them")
    if not wait:
        leave(answer, [f"`wavelift migrations list --wave {wave}` shows how they get on"], as_json=as_json)
        return
    rows = RunRows(api, MIGRATIONS, run, {"wave": wave})
    stop = [f"stop {row.server} alone: wavelift migrations cancel {row.id}" for row in run.migrations]
    watch = Watch(api, run.dag_id, run.dag_run_id)
    follow(rows, watch, answer, afterwards=stop, as_json=as_json, timeout=WAIT_SECONDS)


@api_errors_told()
def show_list(wave: str, state: str, limit: int, *, as_json: bool) -> None:
    """Print the list of migrations."""
    MIGRATIONS.list_rows(client(), {"wave": wave, "state": state, "limit": limit}, as_json=as_json)


def print_migrations(rows: Sequence[MigrationRow]) -> None:
    """Migrations as a table, and under it what went wrong."""
    times = Times()
    shown = table("id, began", "wave/server", "state, size", "image, instance", ids=("id, began", "image, instance"))
    for row in rows:
        made = "\n".join(filter(None, (row.image_id, row.instance_id)))
        size = human_bytes(row.bytes_total) if row.bytes_total else ""
        state = "\n".join(filter(None, (migration_state(row, times), size)))
        add_row(shown, f"{row.id}\n{times.of(row.created_at)}", f"{row.wave}/{row.server}", state, made)
    show(shown)
    for row in rows:
        say_why(row, times)
    times.tell()


MIGRATIONS: Final = Family(
    "/wavelift/migrations",
    "migrations",
    MigrationPage,
    MigrationRow,
    print_migrations,
    words="migrations",
    first="`wavelift migrate WAVE` begins them; `wavelift preflight WAVE` checks the wave before",
)


@api_errors_told()
def show_migration(migration: str, *, as_json: bool) -> None:
    """Print one migration."""
    answer = client().call("GET", path_of("wavelift", "migrations", migration))
    show_one(answer, MigrationDetails, print_migration, as_json=as_json)


@api_errors_told()
def cancel(migration: str) -> None:
    """Stop a migration."""
    answer = MigrationCancelled.model_validate(
        client().call("POST", path_of("wavelift", "migrations", migration, "cancel"))
    )
    if not answer.begun:
        say(f"{migration} ({answer.server}) {_not_begun(answer)}")
        return
    stopped = ", ".join(answer.stopped_tasks) or "no task was active"
    say(f"{migration} ({answer.server}) is being cancelled: {stopped}; {next_after_cancel(migration)}")


def _not_begun(row: MigrationRow) -> str:
    """What a cancel does before a migration begins."""
    if row.state.terminal:
        return "is cancelled: nothing of it had begun, and its DAG run is over"
    return f"does not begin; it is listed as cancelled when {row.dag_id}, run {row.dag_run_id} comes to it"


@api_errors_told()
def launch(migration: str) -> None:
    """Launch the instance of a finished import and print it."""
    run = run_by(client(), path_of("wavelift", "migrations", migration, "launch"))
    for result in run.result(MIGRATE.first_step("launch")):
        if result["instance_id"]:
            say(f"{result['server']}: {result['instance_id']} {result['private_ip']} is launched; check it in EC2")
        else:
            say(f"{result['server']}: no instance was launched: {result.get('skipped') or 'no reason was told'}")


@api_errors_told()
def verify(migration: str) -> None:
    """Compare an image with its manifests again and print what differs."""
    run = run_by(client(), path_of("wavelift", "migrations", migration, "verify"))
    for result in run.result(MIGRATE.first_step("verify")):
        say_verified(result)


@api_errors_told()
def cleanup(wave: str, *, dry_run: bool) -> None:
    """List, or remove, what ended runs left outside."""
    try:
        run = run_by(client(), "/wavelift/cleanup", CleanupBody(wave=wave, dry_run=dry_run).model_dump())
    except ApiError as error:
        fail(f"No wave {wave}: {error}" if error.status == 404 else str(error))
    report = run.xcom(PREFLIGHT, "report")
    if report is None:
        fail(run.why_failed(PREFLIGHT))
    if not report["leftovers"]:
        say(f"Nothing of ours is left around {wave}")
        return
    fate_of = "would go" if dry_run else "removed"
    shown = table("name", "kind", "owner", fate_of, title=f"Leftovers of {wave}", ids=["name"])
    for one in report["leftovers"]:
        goes = one["removed"] or (dry_run and one["owner"] == "ended run")
        fate = one["error"] or ("yes" if goes else "no, left alone")
        add_row(shown, one["name"], one["kind"], one["owner"], fate)
    show(shown)
    if dry_run:
        say(f"Nothing was removed; `wavelift cleanup {wave} --remove` removes what says yes")
    if any(one["error"] for one in report["leftovers"]):
        raise typer.Exit(1)
