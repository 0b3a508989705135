"""``wavelift migrations …``, ``verify`` and ``cleanup``: the REST API as tables."""

from __future__ import annotations

from typing import Final

import typer

from wavelift.airflow.rest import ApiError, path_of
from wavelift.base.units import human_bytes
from wavelift.cli.connect import api_errors_told, client, fail, query, run_by
from wavelift.cli.details import next_after_cancel, print_migration, say_verified
from wavelift.cli.output import Times, add_row, print_json, say, show, table, told_empty
from wavelift.cli.states import migration_state, say_why
from wavelift.console.answers import MigrationCancelled, MigrationDetails, MigrationPage
from wavelift.console.requests import CleanupBody
from wavelift.rules.flows import MIGRATE, PREFLIGHT

FIRST: Final = f"Trigger {MIGRATE.dag_id('<wave>')} in Airflow; `wavelift preflight WAVE` checks the wave before"


@api_errors_told()
def show_list(wave: str, state: str, limit: int, *, as_json: bool) -> None:
    """Print the list of migrations."""
    answer = client().call("GET", query("/wavelift/migrations", {"wave": wave, "state": state, "limit": limit}))
    if as_json:
        print_json(answer)
        return
    page = MigrationPage.model_validate(answer)
    if page.migrations:
        print_migrations(page)
    else:
        told_empty("migrations", FIRST, wave=wave, state=state)


def print_migrations(page: MigrationPage) -> None:
    """Migrations as a table, and under it what went wrong."""
    times = Times()
    shown = table("id, began", "wave/server", "state, size", "image, instance", ids=("id, began", "image, instance"))
    for row in page.migrations:
        made = "\n".join(filter(None, (row.image_id, row.instance_id)))
        size = human_bytes(row.bytes_total) if row.bytes_total else ""
        state = "\n".join(filter(None, (migration_state(row, times), size)))
        add_row(shown, f"{row.id}\n{times.of(row.created_at)}", f"{row.wave}/{row.server}", state, made)
    show(shown)
    for row in page.migrations:
        say_why(row, times)
    times.tell()
    if page.total > len(page.migrations):
        say(f"{len(page.migrations)} of {page.total}; raise --limit to see more")


@api_errors_told()
def show_one(migration: str, *, as_json: bool) -> None:
    """Print one migration."""
    answer = client().call("GET", path_of("wavelift", "migrations", migration))
    if as_json:
        print_json(answer)
    else:
        print_migration(MigrationDetails.model_validate(answer))


@api_errors_told()
def cancel(migration: str) -> None:
    """Stop a migration."""
    answer = MigrationCancelled.model_validate(
        client().call("POST", path_of("wavelift", "migrations", migration, "cancel"))
    )
    stopped = ", ".join(answer.stopped_tasks) or "no task was active"
    say(f"{migration} ({answer.server}) is being cancelled: {stopped}; {next_after_cancel(migration)}")


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
