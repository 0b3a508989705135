"""``wavelift wave …``: plan through the wave's DAG, apply its replication through REST."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wavelift.airflow.rest import ApiClient, ApiError, path_of
from wavelift.cli.connect import EndedRun, api_errors_told, client, ended, wake
from wavelift.cli.findings import print_report
from wavelift.cli.output import Times, add_row, print_json, say, show, table
from wavelift.console.answers import RunStarted, WaveApplied
from wavelift.rules.conf import MigrateConf, MigrateMode
from wavelift.rules.flows import MIGRATE, PREFLIGHT

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
    unpause: Annotated[bool, typer.Option("--unpause", help="Let Airflow schedule the wave's replication.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Make and change a wave's replication jobs as its file says; shows the drift. Nothing is ever deleted."""
    api = client()
    answer = api.call("POST", path_of("wavelift", "waves", name, "apply"), {"dry_run": dry_run})
    if unpause and not dry_run and answer["dag_paused"]:
        api.unpause(answer["dag_id"])
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
        say(f"Airflow has no DAG {done.dag_id} yet, so nothing runs")
    elif done.dag_paused:
        say(f"{done.dag_id} is paused in Airflow, so nothing runs: `wavelift wave apply {done.wave} --unpause`")
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
    if run.state != "success" or any(finding["severity"] == "error" for finding in report.get("findings", [])):
        raise typer.Exit(1)


def report_of(api: ApiClient, name: str, conf: MigrateConf) -> tuple[dict[str, Any], EndedRun]:
    """Trigger ``<wave>.migrate`` with ``conf`` and wait for its end; the pre-flight report, and the run."""
    dag_id = MIGRATE.dag_id(name)
    wake(api, dag_id, no_wave(name))
    run = ended(api, RunStarted(dag_id=dag_id, dag_run_id=api.trigger(dag_id, conf.given())))
    report = run.xcom(PREFLIGHT, "report")
    if report is None:
        raise ApiError(run.why_failed(PREFLIGHT))
    return dict(report), run


def no_wave(name: str) -> str:
    """What to say of a wave that Airflow does not know."""
    return f"No wave {name}: Airflow has no DAG {MIGRATE.dag_id(name)}; see 'wavelift wave validate FILE'"
