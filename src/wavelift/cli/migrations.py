"""``wavelift migrations …``, ``verify`` and ``cleanup``: the REST API as tables."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.units import human_bytes
from wavelift.cli.connect import client, fail
from wavelift.cli.wave import RUN_SECONDS

console = Console()


def show_list(wave: str, state: str, limit: int, *, as_json: bool) -> None:
    """Print the list of migrations."""
    query = urlencode({key: value for key, value in (("wave", wave), ("state", state), ("limit", limit)) if value})
    answer = _call("GET", f"/wavelift/migrations?{query}")
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    table = Table("id", "wave", "server", "state", "progress", "bytes", "image", "instance", "error")
    for row in answer["migrations"]:
        table.add_row(
            row["id"],
            row["wave"],
            row["server"],
            f"{row['state']} ({row['phase']})" if row["phase"] else row["state"],
            f"{row['progress_pct']} %",
            f"{human_bytes(row['bytes_done'])} of {human_bytes(row['bytes_total'])}",
            row["image_id"],
            row["instance_id"],
            row["error"],
        )
    console.print(table)
    if answer["total"] > len(answer["migrations"]):
        console.print(f"{len(answer['migrations'])} of {answer['total']}; raise --limit to see more")


def show(migration: str) -> None:
    """Print one migration as JSON."""
    print(json.dumps(_call("GET", f"/wavelift/migrations/{migration}"), indent=2))


def cancel(migration: str) -> None:
    """Ask for the end of a migration."""
    answer = _call("POST", f"/wavelift/migrations/{migration}/cancel")
    stopped = ", ".join(answer["stopped_tasks"]) or "no task was active"
    console.print(f"{migration} ({answer['server']}) is being cancelled: {stopped}")


def launch(migration: str) -> None:
    """Launch the instance of a finished import and print it."""
    api = client()
    run = _run(api, f"/wavelift/migrations/{migration}/launch")
    results = api.xcom(run["dag_id"], run["dag_run_id"], "launch_imported") or []
    if run["state"] != "success" or not results:
        fail(_why(api, run, "launch_imported"))
    for result in results:
        console.print(f"{result['server']}: {result['instance_id']} {result['private_ip']}")


def verify(migration: str) -> None:
    """Compare an image with its manifests again and print what differs."""
    api = client()
    run = _run(api, f"/wavelift/migrations/{migration}/verify")
    results = api.xcom(run["dag_id"], run["dag_run_id"], "verify_imported") or []
    if run["state"] != "success" or not results:
        fail(_why(api, run, "verify_imported"))
    for result in results:
        for disk in result["disks"]:
            changed = ", ".join(f"{part['offset']}+{part['length']}" for part in disk["changed"]) or "nothing"
            console.print(
                f"{result['server']} disk {disk['index']} ({disk['snapshot_id']}): {disk['blocks_compared']} blocks "
                f"compared, changed by the conversion: {changed}"
            )


def cleanup(wave: str, *, dry_run: bool) -> None:
    """List, or remove, what ended runs left outside."""
    api = client()
    run = _run(api, "/wavelift/cleanup", {"wave": wave, "dry_run": dry_run})
    report = api.xcom(run["dag_id"], run["dag_run_id"], "preflight", key="report")
    if report is None:
        fail(_why(api, run, "preflight"))
    table = Table("kind", "name", "owner", "removed" if not dry_run else "would go", title=f"Leftovers of {wave}")
    for one in report["leftovers"]:
        fate = one["error"] or (
            "yes" if one["removed"] or (dry_run and one["owner"] == "ended run") else "no, left alone"
        )
        table.add_row(one["kind"], one["name"], one["owner"], fate)
    console.print(table if report["leftovers"] else f"Nothing of ours is left around {wave}")
    if any(one["error"] for one in report["leftovers"]):
        raise typer.Exit(1)


def _run(api: ApiClient, path: str, body: Any = None) -> dict[str, Any]:
    try:
        run = dict(api.call("POST", path, body))
        state = api.wait_for_run(run["dag_id"], run["dag_run_id"], timeout=RUN_SECONDS)
    except ApiError as error:
        fail(str(error))
    return {**run, "state": state}


def _why(api: ApiClient, run: dict[str, Any], task: str) -> str:
    left = api.xcom(run["dag_id"], run["dag_run_id"], task, key="wavelift_failure") or api.xcom(
        run["dag_id"], run["dag_run_id"], "admit", key="wavelift_failure"
    )
    words = (left or {}).get("what", "see its log in Airflow")
    return f"run {run['dag_run_id']} of {run['dag_id']} ended as {run['state']}: {words}"


def _call(method: str, path: str, body: Any = None) -> Any:
    try:
        return client().call(method, path, body)
    except ApiError as error:
        fail(str(error))
