"""``wavelift jobs …``: the standing orders to replicate, and their history, through the REST API (SMS-03, SMS-08)."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.units import human_bytes
from wavelift.cli.connect import api_errors_told, client, fail, local_time, stdout_console, why_run_failed
from wavelift.cli.watch import human_seconds
from wavelift.rules.flows import REPLICATE

app = typer.Typer(no_args_is_help=True)
VERIFY_SECONDS = 24 * 3600.0
"""How long the command waits for a read-back: it reads whole disks."""
AsJson = Annotated[bool, typer.Option("--json", help="JSON, times in UTC, instead of a table in local time.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Its id, or WAVE/SERVER.")]
Limit = Annotated[int, typer.Option(min=1, max=500)]
Offset = Annotated[int, typer.Option(min=0)]
Seed = Annotated[
    str, typer.Option("--seed", help="First run: now, epoch seconds, or ISO 8601 with an offset; up to 30 days ahead.")
]
Every = Annotated[int | None, typer.Option("--every", min=12, max=24, help="Hours between scheduled runs.")]
License = Annotated[str, typer.Option("--license", help="auto, aws or byol (Linux: never aws).")]
Description = Annotated[str | None, typer.Option(help="One line for people.")]
Keep = Annotated[int | None, typer.Option("--keep", min=1, help="AMIs kept; older ones are deregistered.")]
PauseAfter = Annotated[
    int | None, typer.Option("--pause-after", min=0, help="Failed runs in a row after which it pauses; 0: never.")
]
Ami = Annotated[str, typer.Option("--ami", help="import (AWS converts) or register (Linux with its own licence).")]
Force = Annotated[
    bool | None, typer.Option("--force-register/--no-force-register", help="Register other guests and licences too.")
]


@app.command("list")
@api_errors_told()
def list_(
    wave: Annotated[str, typer.Option(help="Only this wave.")] = "",
    state: Annotated[str, typer.Option(help="active, paused, deleting or deleted.")] = "",
    search: Annotated[str, typer.Option(help="Part of id, server, wave, description or AMI id.")] = "",
    limit: Limit = 50,
    offset: Offset = 0,
    as_json: AsJson = False,
) -> None:
    """Jobs with state, next instant, current run, latest AMI and term."""
    asked = {"wave": wave, "state": state, "search": search, "limit": limit, "offset": offset}
    answer = client().call("GET", f"/wavelift/jobs?{_query(asked)}")
    if as_json:
        _print(answer)
        return
    table = _table("job", "wave/server", "state", "next, every", "run", "latest AMI", "term ends")
    for row in answer["jobs"]:
        table.add_row(*map(escape, _cells(row)))
    console = stdout_console()
    console.print(table)
    for row in answer["jobs"]:
        if row["state_reason"]:
            told = f"{row['id']} {row['server']}: {row['state_reason']}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)
    _tell_more(answer, "jobs")


@app.command()
@api_errors_told()
def show(job: Job, as_json: AsJson = False) -> None:
    """Everything about one job."""
    api = client()
    row = api.call("GET", f"/wavelift/jobs/{_id_of(api, job)}")
    _print(row) if as_json else _print_job(row)


@app.command()
@api_errors_told()
def create(
    wave: Annotated[str, typer.Argument(metavar="WAVE")],
    servers: Annotated[list[str], typer.Argument(metavar="SERVER...", help="As the wave's file names them.")],
    seed: Seed = "",
    every: Every = None,
    license_type: License = "",
    description: Description = None,
    keep: Keep = None,
    pause_after: PauseAfter = None,
    ami: Ami = "",
    force_register: Force = None,
    as_json: AsJson = False,
) -> None:
    """Make the jobs of one or more servers, all or none; what is left out is as the wave's file says."""
    fields = _fields(seed, every, license_type, description, keep, pause_after, ami, force_register)
    answer = client().call("POST", "/wavelift/jobs", {"wave": wave, "servers": servers, **fields})
    if as_json:
        _print(answer)
        return
    for row in answer["jobs"]:
        print(f"{row['id']} ({wave}/{row['server']}) is made; first run {local_time(row['next_at'])}")


@app.command()
@api_errors_told()
def update(
    job: Job,
    seed: Seed = "",
    every: Every = None,
    license_type: License = "",
    description: Description = None,
    keep: Keep = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every AMI.")] = False,
    pause_after: PauseAfter = None,
    ami: Ami = "",
    force_register: Force = None,
    as_json: AsJson = False,
) -> None:
    """Change a job; a new seed time or frequency counts from now on. `wave apply` sets it back to the wave's file."""
    fields = _fields(seed, every, license_type, description, keep, pause_after, ami, force_register)
    if keep_all:
        fields["keep_amis"] = None
    if not fields:
        raise ApiError("nothing to change; see `wavelift jobs update --help` for what can be")
    api = client()
    row = api.call("PATCH", f"/wavelift/jobs/{_id_of(api, job)}", fields)
    _print(row) if as_json else _print_job(row)


@app.command()
@api_errors_told()
def pause(job: Job, reason: Annotated[str, typer.Option(help="Told to whoever is refused.")] = "") -> None:
    """Start no run any more; one that is active goes on."""
    row = _post(job, "pause", {"reason": reason})
    print(f"{row['id']} ({row['wave']}/{row['server']}) is paused")


@app.command()
@api_errors_told()
def resume(job: Job) -> None:
    """Go on with the next instant; failures are counted anew."""
    row = _post(job, "resume")
    print(f"{row['id']} ({row['wave']}/{row['server']}) is active; next run {local_time(row['next_at'])}")


@app.command()
@api_errors_told()
def extend(
    job: Job, days: Annotated[int | None, typer.Option(min=1, help="Another whole term without it.")] = None
) -> None:
    """Let the server be replicated longer than its 90 days (SMS-10)."""
    row = _post(job, "extend", {"days": days})
    print(f"{row['id']} ({row['wave']}/{row['server']}): the term ends {local_time(row['term_ends_at'])}")


@app.command()
@api_errors_told()
def delete(job: Job, as_json: AsJson = False) -> None:
    """Stop a job and its run and remove what they made outside, never their AMIs (SMS-09)."""
    api = client()
    answer = api.call("DELETE", f"/wavelift/jobs/{_id_of(api, job)}")
    if as_json:
        _print(answer)
        return
    row = answer["job"]
    print(f"{row['id']} ({row['wave']}/{row['server']}) is {row['state']}; its AMIs stay")
    for run in answer["cut_short"]:
        print(f"  {run} was cut short")
    for what in ("snapshots", "manifests"):
        for name in answer[what]:
            print(f"  to go: {name}")
    if answer["dag_run_id"]:
        print(f"removed by run {answer['dag_run_id']} of {answer['dag_id']}; asked again, the removal starts again")
    if answer["dag_paused"]:
        print(f"{answer['dag_id']} is paused in Airflow: the removal waits until somebody unpauses it")


@api_errors_told()
def verify(what: str) -> None:
    """Read EBS snapshots back whole and compare them with their manifests: of a run, or of a job's newest.

    Ends with 1 when a block differs, and names the first differing offsets.
    """
    api = client()
    path = f"runs/{what}" if what.startswith("run-") else f"jobs/{_id_of(api, what)}"
    started = api.call("POST", f"/wavelift/{path}/verify")
    dag_id, run_id = started["dag_id"], started["dag_run_id"]
    state = api.wait_for_run(dag_id, run_id, timeout=VERIFY_SECONDS)
    task = REPLICATE.first_step("verify")
    results = api.xcom(dag_id, run_id, task) or []
    if state != "success" or not results:
        fail(why_run_failed(api, dag_id, run_id, state, task))
    for run, result in zip(started["runs"], results, strict=True):
        print(
            f"{result['server']} {run}: {result['blocks_checked']} blocks compared, "
            f"{human_bytes(result['bytes_read_back'])} read back: no difference"
        )


@app.command()
@api_errors_told()
def history(
    job: Job,
    state: Annotated[str, typer.Option(help="Only this state, e.g. failed.")] = "",
    search: Annotated[str, typer.Option(help="Part of run id, status or AMI id.")] = "",
    limit: Limit = 50,
    offset: Offset = 0,
    as_json: AsJson = False,
) -> None:
    """A job's runs, newest first: type, state, times, AMI, bytes read and sent, rate, duration (SMS-08)."""
    api = client()
    asked = {"state": state, "search": search, "limit": limit, "offset": offset}
    answer = api.call("GET", f"/wavelift/jobs/{_id_of(api, job)}/runs?{_query(asked)}")
    if as_json:
        _print(answer)
        return
    print_runs(answer["runs"])
    _tell_more(answer, "runs")


def print_runs(rows: list[dict[str, Any]]) -> None:
    """Runs as a table, and under it what went wrong."""
    table = _table("run, server", "type, state", "scheduled, completed", "AMI", "read, sent", "rate, duration")
    for row in rows:
        table.add_row(*map(escape, _run_cells(row)))
    console = stdout_console()
    console.print(table)
    for row in rows:
        words = row["error"] or (row["status"] if row["state"] in ("Refused", "Skipped", "Expired") else "")
        if words:
            until = f"; not before {local_time(row['refused_until'])}" if row["refused_until"] else ""
            told = f"{row['id']} {row['server']}: {words}{until}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)


def _run_cells(row: dict[str, Any]) -> list[str]:
    state = row["state"]
    if state == "Active":
        state = f"{row['status'] or 'Active'} {row['progress_pct']} %"
    read, sent = row["bytes_read"] or row["bytes_done"], row["bytes_sent"]
    rate = f"{human_bytes(row['rate'])}/s" if row["rate"] else ""
    duration = human_seconds(row["duration_s"]) if row["duration_s"] else ""
    return [
        f"{row['id']}\n{row['server']}",
        f"{row['type']}\n{state}",
        f"{local_time(row['scheduled_start']) or '(on demand)'}\n{local_time(row['completed_at'])}",
        f"{row['ami_id']}{' (deregistered)' if row['ami_state'] == 'deregistered' else ''}",
        f"{human_bytes(read)}\n{human_bytes(sent)}",
        f"{rate}\n{duration}",
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    run = row["current_run"]
    return [
        row["id"],
        f"{row['wave']}/{row['server']}",
        row["state"],
        f"{local_time(row['next_at'])}\nevery {row['frequency_hours']} h",
        f"{run['id']}\n{run['status'] or run['state']} {run['progress_pct']} %" if run else "",
        row["latest_ami_id"],
        _term(row),
    ]


def _term(row: dict[str, Any]) -> str:
    if row["term_ends_at"] is None:
        return "with the first run"
    left = row["term_days_left"]
    return f"{local_time(row['term_ends_at'])}\n{f'{left} days left' if left else 'over: extend it'}"


def _print_job(row: dict[str, Any]) -> None:
    keep = "all" if row["keep_amis"] is None else str(row["keep_amis"])
    run = row["current_run"]
    told = {
        "state": f"{row['state']}{': ' + row['state_reason'] if row['state_reason'] else ''}",
        "next run": local_time(row["next_at"]) or "none",
        "seed time": local_time(row["seed_at"]),
        "every": f"{row['frequency_hours']} h",
        "licence": row["license_type"],
        "AMI": f"{row['ami']}{', forced' if row['force_register'] else ''}; kept: {keep}",
        "latest AMI": row["latest_ami_id"] or "none",
        "current run": f"{run['id']} {run['state']} {run['status']} {run['progress_pct']} %" if run else "none",
        "failures": f"{row['failures']} in a row; pauses after {row['pause_after_failures'] or 'no number of them'}",
        "term": _term(row).replace("\n", ", "),
        "server": f"{row['identity']} of {row['source']}" if row["identity"] else "not met yet",
        "description": row["description"],
        "made": f"{local_time(row['created_at'])} by {row['created_by']}",
    }
    table = Table(title=escape(f"{row['id']}  {row['wave']}/{row['server']}"), box=box.SIMPLE_HEAD, show_header=False)
    for what, value in told.items():
        table.add_row(what, escape(value))
    stdout_console().print(table)


def _id_of(api: ApiClient, job: str) -> str:
    """The id of a job given by id or as WAVE/SERVER."""
    wave, slash, server = job.partition("/")
    if not slash:
        return job
    found = api.call("GET", f"/wavelift/jobs?{_query({'wave': wave, 'search': server, 'limit': 500})}")["jobs"]
    for row in found:
        if row["server"] == server:
            return str(row["id"])
    raise ApiError(f"Wave {wave} has no replication job for server {server}; see `wavelift jobs list --wave {wave}`")


def _post(job: str, verb: str, body: Any = None) -> dict[str, Any]:
    api = client()
    return dict(api.call("POST", f"/wavelift/jobs/{_id_of(api, job)}/{verb}", body))


def _fields(
    seed: str,
    every: int | None,
    license_type: str,
    description: str | None,
    keep: int | None,
    pause_after: int | None,
    ami: str,
    force_register: bool | None,
) -> dict[str, Any]:
    """What was given, under the API's names."""
    given = {
        "seed_time": seed or None,
        "frequency_hours": every,
        "license_type": license_type or None,
        "description": description,
        "keep_amis": keep,
        "pause_after_failures": pause_after,
        "ami": ami or None,
        "force_register": force_register,
    }
    return {name: value for name, value in given.items() if value is not None}


def _query(asked: dict[str, Any]) -> str:
    return urlencode({key: value for key, value in asked.items() if value})


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _tell_more(answer: dict[str, Any], what: str) -> None:
    shown = len(answer[what])
    if answer["total"] > shown:
        last = answer["offset"] + shown
        stdout_console().print(f"{answer['offset'] + 1} to {last} of {answer['total']}; --offset {last} for more")


def _print(answer: Any) -> None:
    print(json.dumps(answer, indent=2))
