"""``wavelift jobs …``: the standing orders to replicate, and their history, through the REST API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from wavelift.airflow.rest import ApiClient, ApiError, path_of
from wavelift.base.units import human_bytes, human_seconds
from wavelift.cli.connect import api_errors_told, client, ended, query, wake
from wavelift.cli.connect import unpause as unpause_dag
from wavelift.cli.family import Family, show_one
from wavelift.cli.local_time import with_offset
from wavelift.cli.output import (
    AsJson,
    Limit,
    Offset,
    Times,
    add_row,
    local_time,
    print_json,
    say,
    show_facts,
    table,
    tell_more,
)
from wavelift.cli.output import show as show_table
from wavelift.cli.states import run_state, say_why, why
from wavelift.cli.watch import paused_words
from wavelift.console.answers import JobDeleted, JobList, JobPage, JobRow, RunPage, RunRow, VerifyStarted
from wavelift.rules.flows import REPLICATE
from wavelift.rules.replication import JobState

app = typer.Typer(no_args_is_help=True)
VERIFY_SECONDS: Final = 24 * 3600.0
"""How long the command waits for a read-back: it reads whole disks."""
Job = Annotated[str, typer.Argument(metavar="JOB", help="Its id, or WAVE/SERVER.")]
Seed = Annotated[
    str | None,
    typer.Option(
        "--seed",
        help="First run: now, a time in your zone ('2026-12-01 10:00'), one with an offset, or epoch seconds; up to "
        "30 days ahead.",
    ),
]
Every = Annotated[int | None, typer.Option("--every", min=12, max=24, help="Hours between scheduled runs.")]
License = Annotated[str | None, typer.Option("--license", help="auto, aws or byol (Linux: never aws).")]
Description = Annotated[str | None, typer.Option(help="One line for people.")]
Keep = Annotated[int | None, typer.Option("--keep", min=1, help="AMIs kept; older ones are deregistered.")]
PauseAfter = Annotated[
    int | None, typer.Option("--pause-after", min=0, help="Failed runs in a row after which it pauses; 0: never.")
]
Ami = Annotated[
    str | None, typer.Option("--ami", help="import (AWS converts) or register (Linux with its own licence).")
]
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
    JOBS.list_rows(client(), asked, as_json=as_json, more=tell_more)


def print_jobs(rows: Sequence[JobRow]) -> None:
    """Jobs as a table, and under it what they or their runs suffer from."""
    times = Times()
    shown = table(
        *("job, wave/server", "state", "next, every", "run, latest AMI", "term ends"),
        ids=("job, wave/server", "run, latest AMI"),
    )
    for row in rows:
        add_row(shown, *_cells(row, times))
    show_table(shown)
    for row in rows:
        if row.state_reason:
            say(f"{row.id} {row.server}: {row.state_reason}")
        if row.current_run:
            say_why(row.current_run, times)
    times.tell()


JOBS: Final = Family(
    "/wavelift/jobs",
    "jobs",
    JobPage,
    JobRow,
    print_jobs,
    words="replication jobs",
    first="`wavelift wave apply WAVE` makes those of a wave whose file has a `replication:` section. Jobs are listed "
    "as soon as Airflow has read that section, and to users who may read the DAG",
)


@app.command()
@api_errors_told()
def show(job: Job, as_json: AsJson = False) -> None:
    """Everything about one job."""
    api = client()
    _show(api.call("GET", path_of("wavelift", "jobs", _id_of(api, job))), as_json=as_json)


@app.command()
@api_errors_told()
def create(  # noqa: PLR0913  # one parameter per option
    wave: Annotated[str, typer.Argument(metavar="WAVE")],
    servers: Annotated[list[str], typer.Argument(metavar="SERVER...", help="As the wave's file names them.")],
    seed_time: Seed = None,
    frequency_hours: Every = None,
    license_type: License = None,
    description: Description = None,
    keep_amis: Keep = None,
    pause_after_failures: PauseAfter = None,
    ami: Ami = None,
    force_register: Force = None,
    as_json: AsJson = False,
) -> None:
    """Make the jobs of one or more servers, all or none; what is left out is as set in the wave's file."""
    fields = _given(
        seed_time=with_offset(seed_time) if seed_time else seed_time,
        frequency_hours=frequency_hours,
        license_type=license_type,
        description=description,
        keep_amis=keep_amis,
        pause_after_failures=pause_after_failures,
        ami=ami,
        force_register=force_register,
    )
    answer = client().call("POST", "/wavelift/jobs", {"wave": wave, "servers": servers, **fields})
    if as_json:
        print_json(answer)
        return
    for row in JobList.model_validate(answer).jobs:
        say(f"{_named(row)} is made; {_next_run(row)}")
    say(f"`wavelift jobs list --wave {wave}` shows how they get on")


@app.command()
@api_errors_told()
def update(  # noqa: PLR0913  # one parameter per option
    job: Job,
    seed_time: Seed = None,
    frequency_hours: Every = None,
    license_type: License = None,
    description: Description = None,
    keep_amis: Keep = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every AMI.")] = False,
    pause_after_failures: PauseAfter = None,
    ami: Ami = None,
    force_register: Force = None,
    as_json: AsJson = False,
) -> None:
    """Change a job; a new seed time or frequency counts from now on. `wave apply` sets it back to the wave's file."""
    fields = _given(
        seed_time=with_offset(seed_time) if seed_time else seed_time,
        frequency_hours=frequency_hours,
        license_type=license_type,
        description=description,
        keep_amis=keep_amis,
        pause_after_failures=pause_after_failures,
        ami=ami,
        force_register=force_register,
    )
    if keep_all:
        fields["keep_amis"] = None
    if not fields:
        raise ApiError("nothing to change; see `wavelift jobs update --help` for what can be")
    api = client()
    _show(api.call("PATCH", path_of("wavelift", "jobs", _id_of(api, job)), fields), as_json=as_json)


@app.command()
@api_errors_told()
def pause(job: Job, reason: Annotated[str, typer.Option(help="Told to whoever is refused.")] = "") -> None:
    """Start no run any more; one that is active goes on."""
    row = _post(job, "pause", {"reason": reason})
    say(f"{_named(row)} is paused: no new run begins; `wavelift jobs resume {row.id}` goes on")


@app.command()
@api_errors_told()
def resume(job: Job) -> None:
    """Go on with the next instant; failures are counted anew."""
    row = _post(job, "resume")
    say(f"{_named(row)} is active; {_next_run(row)}")


@app.command()
@api_errors_told()
def extend(
    job: Job, days: Annotated[int | None, typer.Option(min=1, help="Another whole term without it.")] = None
) -> None:
    """Let the server be replicated longer than its 90 days."""
    row = _post(job, "extend", {"days": days})
    say(f"{_named(row)}: the term ends {local_time(row.term_ends_at)}; until then its runs go on")


@app.command()
@api_errors_told()
def delete(
    job: Job,
    unpause: Annotated[bool, typer.Option("--unpause", help="Let Airflow schedule the wave's replication.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a job and its run and remove what they made outside, never their AMIs."""
    api = client()
    answer = api.call("DELETE", path_of("wavelift", "jobs", _id_of(api, job)))
    if unpause and answer["dag_paused"]:
        unpause_dag(api, answer["dag_id"])
        answer["dag_paused"] = False
    if as_json:
        print_json(answer)
        return
    done = JobDeleted.model_validate(answer)
    say(f"{_named(done.job)} is {done.job.state}; its AMIs stay")
    for run in done.cut_short:
        say(f"  {run} was cut short")
    for name in (*done.snapshots, *done.manifests):
        say(f"  to go: {name}")
    if done.dag_run_id:
        say(f"removed by run {done.dag_run_id} of {done.dag_id}; asked again, the removal starts again")
    if done.dag_paused:
        say(paused_words(done.dag_id, f"wavelift jobs delete {done.job.id} --unpause"))


@api_errors_told()
def verify(what: str, *, unpause: bool) -> None:
    """Read EBS snapshots back whole and compare them with their manifests: of a run, or of a job's newest.

    Ends with 1 when a block differs, and names the first differing offsets.
    """
    api = client()
    thing = ("runs", what) if what.startswith(REPLICATE.prefix) else ("jobs", _id_of(api, what))
    if unpause:
        dag_id = str(api.call("GET", path_of("wavelift", *thing))["dag_id"])
        wake(api, dag_id, f"Airflow has no DAG {dag_id}", asked=True)
    started = VerifyStarted.model_validate(api.call("POST", path_of("wavelift", *thing, "verify")))
    results = ended(api, started, timeout=VERIFY_SECONDS).result(REPLICATE.first_step("verify"))
    for run, result in zip(started.runs, results, strict=True):
        say(
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
    """A job's runs, newest first: type, state, times, AMI, bytes read and sent, rate, duration."""
    api = client()
    asked = {"state": state, "search": search, "limit": limit, "offset": offset}
    runs = replace(RUNS, path=path_of("wavelift", "jobs", _id_of(api, job), "runs"))
    runs.list_rows(api, asked, as_json=as_json, more=tell_more)


def print_runs(rows: Sequence[RunRow]) -> None:
    """Runs as a table, and under it what went wrong."""
    times = Times()
    shown = table(
        *("run, server, AMI", "type, state", "scheduled, completed", "read, sent", "rate, duration"),
        ids=["run, server, AMI"],
    )
    for row in rows:
        add_row(shown, *_run_cells(row, times))
    show_table(shown)
    for row in rows:
        say_why(row, times)
    times.tell()


RUNS: Final = Family(
    "/wavelift/runs",
    "runs",
    RunPage,
    RunRow,
    print_runs,
    words="runs",
    first="The first one begins at the job's next time (`wavelift jobs show`); `wavelift replicate WAVE` asks now",
)
NO_INSTANT: Final = {"Cutover": "(of a cutover)"}
"""Type of a run → what stands in the place of its scheduled start."""


def _run_cells(row: RunRow, times: Times) -> list[str]:
    read, sent = row.bytes_read or row.bytes_done, row.bytes_sent
    rate = f"{human_bytes(row.rate)}/s" if row.rate else ""
    gone = "deregistered" if row.ami_state == "deregistered" else ""
    duration = human_seconds(row.duration_s) if row.duration_s else ""
    return [
        "\n".join(filter(None, (row.id, row.server, row.ami_id, gone))),
        f"{row.type}\n{run_state(row, times)}",
        f"{times.of(row.scheduled_start) or NO_INSTANT.get(row.type, '(on demand)')}\n{times.of(row.completed_at)}",
        f"{human_bytes(read)}\n{human_bytes(sent)}" if row.started_at else "",
        f"{rate}\n{duration}",
    ]


def _cells(row: JobRow, times: Times) -> list[str]:
    run = row.current_run
    return [
        f"{row.id}\n{row.wave}/{row.server}",
        row.state,
        f"{times.of(row.next_at, up=True)}\nevery {row.frequency_hours} h",
        "\n".join(filter(None, (*((run.id, run_state(run, times)) if run else ()), row.latest_ami_id))),
        _term(row, times),
    ]


def _term(row: JobRow, times: Times) -> str:
    if row.term_ends_at is None:
        return "with the first run"
    left = row.term_days_left
    return f"{times.of(row.term_ends_at)}\n{f'{left} days left' if left else 'over: extend it'}"


def _next_run(row: JobRow) -> str:
    """The next run, if there is one."""
    return f"next run {local_time(row.next_at, up=True)}" if row.next_at else "no run is due"


def _named(row: JobRow) -> str:
    return f"{row.id} ({row.wave}/{row.server})"


def _show(answer: Any, *, as_json: bool) -> None:
    show_one(answer, JobRow, _print_job, as_json=as_json)


def _print_job(row: JobRow) -> None:
    times = Times()
    keep = "all" if row.keep_amis is None else str(row.keep_amis)
    run = row.current_run
    told = {
        "state": f"{row.state}{': ' + row.state_reason if row.state_reason else ''}",
        "next run": times.of(row.next_at, up=True) or "none",
        "seed time": times.of(row.seed_at),
        "every": f"{row.frequency_hours} h",
        "licence": row.license_type,
        "AMI": f"{row.ami}{', forced' if row.force_register else ''}; kept: {keep}",
        "latest AMI": row.latest_ami_id or "none",
        "current run": f"{run.id} {run_state(run, times)}" if run else "none",
        "why": why(run, times) if run else "",
        "failures": f"{row.failures} in a row; pauses after {row.pause_after_failures or 'no number of them'}",
        "term": _term(row, times).replace("\n", ", "),
        "server": f"{row.identity} of {row.source}" if row.identity else "not met yet",
        "description": row.description,
        "made": f"{times.of(row.created_at)} by {row.created_by}",
        "next": _next_step(row),
    }
    show_facts(f"{row.id}  {row.wave}/{row.server}", told.items())
    times.tell()


def _next_step(row: JobRow) -> str:
    if row.state is JobState.PAUSED:
        return f"`wavelift jobs resume {row.id}` goes on with the next instant"
    if row.state is not JobState.ACTIVE:
        return ""
    if row.term_days_left == 0:
        return f"`wavelift jobs extend {row.id}` lets it run again"
    return f"`wavelift jobs history {row.id}` lists its runs; `wavelift jobs pause {row.id}` stops new ones"


def _id_of(api: ApiClient, job: str) -> str:
    """The id of a job given by id or as WAVE/SERVER."""
    wave, slash, server = job.partition("/")
    if not slash:
        return job
    answer = api.call("GET", query("/wavelift/jobs", {"wave": wave, "search": server, "limit": 500}))
    for row in JobPage.model_validate(answer).jobs:
        if row.server == server:
            return row.id
    raise ApiError(f"Wave {wave} has no replication job for server {server}; see `wavelift jobs list --wave {wave}`")


def _post(job: str, verb: str, body: Any = None) -> JobRow:
    api = client()
    return JobRow.model_validate(api.call("POST", path_of("wavelift", "jobs", _id_of(api, job), verb), body))


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given. Each has the name of a field of a job."""
    return {name: value for name, value in options.items() if value is not None}
