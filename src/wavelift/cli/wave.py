"""``wavelift wave …``: plan through the wave's DAG, apply its replication through REST."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from wavelift.airflow.rest import ApiClient, ApiError, path_of
from wavelift.cli.connect import EndedRun, api_errors_told, client, ended, fail, unpause, wake
from wavelift.cli.findings import print_report
from wavelift.cli.output import Times, add_row, print_json, say, show, table
from wavelift.cli.watch import paused_words, told
from wavelift.console.answers import RunStarted, WaveApplied, WaveFile
from wavelift.rules.conf import MigrateConf, MigrateMode
from wavelift.rules.flows import MIGRATE, PREFLIGHT, REPORT

app = typer.Typer(no_args_is_help=True)


WaveName = Annotated[str, typer.Argument(metavar="WAVE")]
Servers = Annotated[list[str] | None, typer.Option("--server", help="Only this server; may be given again.")]
AsJson = Annotated[bool, typer.Option("--json", help="The whole report as JSON.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show notes, too.")]


@app.command()
def plan(name: WaveName, servers: Servers = None, verbose: Verbose = False, as_json: AsJson = False) -> None:
    """What a wave would move, make and cost; creates nothing."""
    run_mode(name, "plan", servers, verbose=verbose, as_json=as_json)


@app.command()
@api_errors_told()
def apply(
    name: WaveName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how jobs and file differ.")] = False,
    awake: Annotated[bool, typer.Option("--unpause", help="Let Airflow schedule the wave's replication.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Make and change a wave's replication jobs as its file says; shows the drift. Nothing is ever deleted."""
    api = client()
    answer = api.call("POST", path_of("wavelift", "waves", name, "apply"), {"dry_run": dry_run})
    if awake and not dry_run:
        if answer["dag_paused"] is None and any(change["kind"] != "missing" for change in answer["changes"]):
            await_wave(api, name, answer["dag_id"])
            answer["dag_paused"] = api.is_paused(answer["dag_id"])
        if answer["dag_paused"]:
            unpause(api, answer["dag_id"])
            answer["dag_paused"] = False
    if as_json:
        print_json(answer)
        return
    print_changes(WaveApplied.model_validate(answer))


DID = {"create": "made", "update": "changed", "keep": "as the file says", "missing": "not in the file; left alone"}
WOULD = {**DID, "create": "would be made", "update": "would be changed"}


def print_changes(done: WaveApplied) -> None:
    """Server by server what was done, or would be, and each field that differs."""
    words = WOULD if done.dry_run else DID
    times = Times()
    dry = " (dry run: nothing was changed)" if done.dry_run else ""
    shown = table("server", "job", "what", "ledger → file", title=f"Replication of {done.wave}{dry}", ids=["job"])
    for row in done.changes:
        fields = "\n".join(
            f"{key}: {_value(both.ledger, times)} → {_value(both.spec, times)}" for key, both in row.fields.items()
        )
        add_row(shown, row.server, row.job_id or "", words[row.kind], fields)
    if done.changes:
        show(shown)
    else:
        say(f"{done.wave}: no server of its file has a `replication:` section, and there are no jobs")
    times.tell()
    for entry in done.unbound:
        say(f"{entry}: the catalogue holds no server of it; run `wavelift catalog import`, then apply again")
    for clash in done.clashes:
        say(f"{clash.server} is left alone: {clash.what}. {clash.do}")
    if done.dag_paused is None:
        say(f"Airflow has no DAG {done.dag_id} yet. Until it has read the file, nothing runs and no job is listed")
    elif done.dag_paused:
        say(paused_words(done.dag_id, f"wavelift wave apply {done.wave} --unpause"))
    if not done.changes:
        return
    if done.dry_run:
        say(f"`wavelift wave apply {done.wave}` does it")
    else:
        say(f"`wavelift jobs list --wave {done.wave}` shows when they run")


def _value(value: Any, times: Times) -> str:
    """A field of a job; a time in local time."""
    if value is None:  # of keep_amis: no limit
        return "all"
    if isinstance(value, bool):
        return str(value).lower()
    return str(times.told(value))


@api_errors_told()
def run_mode(name: str, mode: MigrateMode, servers: list[str] | None, *, verbose: bool, as_json: bool) -> None:
    """Run ``<wave>.migrate`` in a mode that creates nothing and print its report; status 1 when a server may not go."""
    report, run = report_of(client(), name, MigrateConf(mode=mode, servers=servers or None))
    if as_json:
        print_json(report)
    else:
        print_report(report, plan=mode == "plan", verbose=verbose)
    if any(finding["severity"] == "error" for finding in report.get("findings", [])):
        raise typer.Exit(1)
    if run.state != "success":  # the last line above says that all is ready
        fail(run.why_failed(REPORT))


def report_of(api: ApiClient, name: str, conf: MigrateConf) -> tuple[dict[str, Any], EndedRun]:
    """Trigger ``<wave>.migrate`` with ``conf`` and wait for its end; the pre-flight report, and the run."""
    dag_id = MIGRATE.dag_id(name)
    if api.is_paused(dag_id) is None:
        await_wave(api, name, dag_id)
    wake(api, dag_id, no_wave(name))
    run = ended(api, RunStarted(dag_id=dag_id, dag_run_id=api.trigger(dag_id, conf.given())))
    report = run.xcom(PREFLIGHT, "report")
    if report is None:
        raise ApiError(run.why_failed(PREFLIGHT))
    return dict(report), run


def await_wave(api: ApiClient, name: str, dag_id: str) -> None:
    """Wait until Airflow has a DAG of a wave, if the wave's file is there and valid.

    :raises ApiError: the file is not valid, or it takes much longer than Airflow needs.
    """
    try:
        file = WaveFile.model_validate(api.call("GET", path_of("wavelift", "waves", name)))
    except ApiError as error:
        if error.unknown:  # an older server, or no right to read the wave
            raise ApiError(no_wave(name, dag_id=dag_id)) from error
        raise
    if file.problem:
        raise ApiError(no_wave(name, file.problem, dag_id=dag_id))
    until = time.monotonic() + LOADS * file.within_s + PARSE_SECONDS
    with told(Console(stderr=True)) as show:
        while api.is_paused(dag_id) is None:
            show([f"The file of {name} is valid; Airflow has not loaded it yet, it does so every {file.within_s} s"])
            if time.monotonic() > until:
                raise ApiError(no_wave(name, NOT_LOADED, dag_id=dag_id))
            time.sleep(1)


LOADS: Final = 2
PARSE_SECONDS: Final = 60
"""What reading the files may take, on top of two times the interval."""
NOT_LOADED: Final = (
    "Its file is valid. See the import errors in the web UI, and whether Airflow's DAG processor runs and reads "
    "dags/waves.py"
)


def no_wave(name: str, why: str = "", *, dag_id: str = "") -> str:
    """What to say of a wave whose DAG, by default the one of migrations, Airflow does not know."""
    why = why or (
        "Airflow reads a new file within some minutes (30 s with its own settings); check it with "
        "`wavelift wave validate FILE`, and look at the import errors in the web UI"
    )
    return f"No wave {name}: Airflow has no DAG {dag_id or MIGRATE.dag_id(name)}. {why}"
