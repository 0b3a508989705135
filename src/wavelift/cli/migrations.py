"""``wavelift migrations …``, ``events``, ``verify`` and ``cleanup``: the REST API as tables."""

from __future__ import annotations

import json

import typer

from wavelift.airflow.rest import ApiError, path_of
from wavelift.base.units import human_bytes
from wavelift.cli.connect import api_errors_told, client, fail, query, run_by
from wavelift.cli.output import add_row, print_json, say, stdout_console, table
from wavelift.cli.watch import step_row
from wavelift.console.answers import EventList, MigrationCancelled, MigrationPage
from wavelift.console.requests import CleanupBody
from wavelift.rules.flows import MIGRATE, PREFLIGHT


@api_errors_told()
def show_list(wave: str, state: str, limit: int, *, as_json: bool) -> None:
    """Print the list of migrations."""
    answer = client().call("GET", query("/wavelift/migrations", {"wave": wave, "state": state, "limit": limit}))
    if as_json:
        print_json(answer)
        return
    page = MigrationPage.model_validate(answer)
    shown = table("id", "wave/server", "state", "progress", "image, instance")
    for row in page.migrations:
        at = step_row("", row).short if row.step else row.phase
        state = f"{row.state} ({at})" if at else row.state
        # One under the other: ids whole at 80 columns.
        progress = f"{row.progress_pct} %\n{human_bytes(row.bytes_total)}"
        made = "\n".join(filter(None, (row.image_id, row.instance_id)))
        add_row(shown, row.id, f"{row.wave}/{row.server}", state, progress, made)
    stdout_console().print(shown)
    for row in page.migrations:
        if row.error:
            say(f"{row.id} {row.server}: {row.error}")
        elif row.retry_reason:
            say(f"{row.id} {row.server}: {step_row('', row).words}")
    if page.total > len(page.migrations):
        say(f"{len(page.migrations)} of {page.total}; raise --limit to see more")


@api_errors_told()
def show(migration: str) -> None:
    """Print one migration as JSON."""
    print_json(client().call("GET", path_of("wavelift", "migrations", migration)))


@api_errors_told()
def show_events(what: str, limit: int, after: int, *, as_json: bool) -> None:
    """Print the audit trail of one object."""
    answer = client().call("GET", query(path_of("wavelift", "events", what), {"limit": limit, "after": str(after)}))
    if as_json:
        print_json(answer)
        return
    for one in EventList.model_validate(answer).events:
        details = json.dumps(one.details, ensure_ascii=False) if one.details else ""
        say(f"{one.id} {one.at.isoformat()} {one.actor}: {one.action} {details}".rstrip())


@api_errors_told()
def cancel(migration: str) -> None:
    """Stop a migration."""
    answer = MigrationCancelled.model_validate(
        client().call("POST", path_of("wavelift", "migrations", migration, "cancel"))
    )
    stopped = ", ".join(answer.stopped_tasks) or "no task was active"
    say(f"{migration} ({answer.server}) is being cancelled: {stopped}")


@api_errors_told()
def launch(migration: str) -> None:
    """Launch the instance of a finished import and print it."""
    run = run_by(client(), path_of("wavelift", "migrations", migration, "launch"))
    for result in run.result(MIGRATE.first_step("launch")):
        say(f"{result['server']}: {result['instance_id']} {result['private_ip']}")


@api_errors_told()
def verify(migration: str) -> None:
    """Compare an image with its manifests again and print what differs."""
    run = run_by(client(), path_of("wavelift", "migrations", migration, "verify"))
    for result in run.result(MIGRATE.first_step("verify")):
        for disk in result["disks"]:
            changed = ", ".join(f"{part['offset']}+{part['length']}" for part in disk["changed"]) or "nothing"
            say(
                f"{result['server']} disk {disk['index']} ({disk['snapshot_id']}): {disk['blocks_compared']} blocks "
                f"compared, changed by the conversion: {changed}"
            )


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
    shown = table("kind", "name", "owner", "would go" if dry_run else "removed", title=f"Leftovers of {wave}")
    for one in report["leftovers"]:
        goes = one["removed"] or (dry_run and one["owner"] == "ended run")
        fate = one["error"] or ("yes" if goes else "no, left alone")
        add_row(shown, one["kind"], one["name"], one["owner"], fate)
    stdout_console().print(shown)
    if any(one["error"] for one in report["leftovers"]):
        raise typer.Exit(1)
