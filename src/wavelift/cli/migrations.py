"""``wavelift migrations …``, ``events``, ``verify`` and ``cleanup``: the REST API as tables."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.units import human_bytes
from wavelift.cli.connect import api_errors_told, client, fail, stdout_console, why_run_failed
from wavelift.cli.wave import RUN_SECONDS, no_wave
from wavelift.rules.flows import MIGRATE


@api_errors_told()
def show_list(wave: str, state: str, limit: int, *, as_json: bool) -> None:
    """Print the list of migrations."""
    query = urlencode({key: value for key, value in (("wave", wave), ("state", state), ("limit", limit)) if value})
    answer = client().call("GET", f"/wavelift/migrations?{query}")
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    console = stdout_console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("id", "wave/server", "state", "progress", "image, instance"):
        table.add_column(name, overflow="fold")
    for row in answer["migrations"]:
        state = f"{row['state']} ({row['phase']})" if row["phase"] else row["state"]
        # One under the other: ids whole at 80 columns.
        progress = f"{row['progress_pct']} %\n{human_bytes(row['bytes_total'])}"
        made = "\n".join(filter(None, (row["image_id"], row["instance_id"])))
        table.add_row(*map(escape, (row["id"], f"{row['wave']}/{row['server']}", state, progress, made)))
    console.print(table)
    for row in answer["migrations"]:
        if row["error"]:
            console.print(f"{row['id']} {row['server']}: {row['error']}", markup=False, soft_wrap=True)
    if answer["total"] > len(answer["migrations"]):
        console.print(f"{len(answer['migrations'])} of {answer['total']}; raise --limit to see more")


@api_errors_told()
def show(migration: str) -> None:
    """Print one migration as JSON."""
    print(json.dumps(client().call("GET", f"/wavelift/migrations/{migration}"), indent=2))


@api_errors_told()
def show_events(what: str, limit: int, after: int, *, as_json: bool) -> None:
    """Print the audit trail of one object."""
    answer = client().call(
        "GET", f"/wavelift/events/{quote(what, safe='')}?{urlencode({'limit': limit, 'after': after})}"
    )
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    for one in answer["events"]:
        details = json.dumps(one["details"], ensure_ascii=False) if one["details"] else ""
        print(f"{one['id']} {one['at']} {one['actor']}: {one['action']} {details}".rstrip())


@api_errors_told()
def cancel(migration: str) -> None:
    """Ask for the end of a migration."""
    answer = client().call("POST", f"/wavelift/migrations/{migration}/cancel")
    stopped = ", ".join(answer["stopped_tasks"]) or "no task was active"
    print(f"{migration} ({answer['server']}) is being cancelled: {stopped}")


@api_errors_told()
def launch(migration: str) -> None:
    """Launch the instance of a finished import and print it."""
    api = client()
    run = _run(api, f"/wavelift/migrations/{migration}/launch")
    task = MIGRATE.first_step("launch")
    results = api.xcom(run["dag_id"], run["dag_run_id"], task) or []
    if run["state"] != "success" or not results:
        fail(why_run_failed(api, run["dag_id"], run["dag_run_id"], run["state"], task))
    for result in results:
        print(f"{result['server']}: {result['instance_id']} {result['private_ip']}")


@api_errors_told()
def verify(migration: str) -> None:
    """Compare an image with its manifests again and print what differs."""
    api = client()
    run = _run(api, f"/wavelift/migrations/{migration}/verify")
    task = MIGRATE.first_step("verify")
    results = api.xcom(run["dag_id"], run["dag_run_id"], task) or []
    if run["state"] != "success" or not results:
        fail(why_run_failed(api, run["dag_id"], run["dag_run_id"], run["state"], task))
    for result in results:
        for disk in result["disks"]:
            changed = ", ".join(f"{part['offset']}+{part['length']}" for part in disk["changed"]) or "nothing"
            print(
                f"{result['server']} disk {disk['index']} ({disk['snapshot_id']}): {disk['blocks_compared']} blocks "
                f"compared, changed by the conversion: {changed}"
            )


@api_errors_told()
def cleanup(wave: str, *, dry_run: bool) -> None:
    """List, or remove, what ended runs left outside."""
    api = client()
    try:
        run = _run(api, "/wavelift/cleanup", {"wave": wave, "dry_run": dry_run})
    except ApiError as error:
        fail(no_wave(wave) if error.status == 404 else str(error))
    report = api.xcom(run["dag_id"], run["dag_run_id"], "preflight", key="report")
    if report is None:
        fail(why_run_failed(api, run["dag_id"], run["dag_run_id"], run["state"], "preflight"))
    if not report["leftovers"]:
        print(f"Nothing of ours is left around {wave}")
        return
    table = Table(title=f"Leftovers of {escape(wave)}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("kind", "name", "owner", "would go" if dry_run else "removed"):
        table.add_column(name, overflow="fold")
    for one in report["leftovers"]:
        goes = one["removed"] or (dry_run and one["owner"] == "ended run")
        fate = one["error"] or ("yes" if goes else "no, left alone")
        table.add_row(*map(escape, (one["kind"], one["name"], one["owner"], fate)))
    stdout_console().print(table)
    if any(one["error"] for one in report["leftovers"]):
        raise typer.Exit(1)


def _run(api: ApiClient, path: str, body: Any = None) -> dict[str, Any]:
    """Start a run by a route of ours and wait for its end."""
    run = dict(api.call("POST", path, body))
    state = api.wait_for_run(run["dag_id"], run["dag_run_id"], timeout=RUN_SECONDS)
    return {**run, "state": state}
