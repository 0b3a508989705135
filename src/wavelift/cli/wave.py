"""``wavelift wave …``: validate here, plan through the wave's DAG, apply its replication through REST."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.cli.connect import api_errors_told, client, stdout_console, why_run_failed
from wavelift.rules.conf import MigrateConf, MigrateMode

app = typer.Typer(no_args_is_help=True)
RUN_SECONDS = 1800.0
"""A pre-flight of 150 servers takes minutes; half an hour means that nobody works on the connector's queue."""


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Wave files (or environment files).")],
    environments: Annotated[
        Path | None, typer.Option(help="Folder of the environments; by default beside the waves' folder.")
    ] = None,
) -> None:
    """Check wave files; prints the same text as Airflow's import error."""
    from wavelift.specs import Issue, check_file, format_errors

    issues: list[Issue] = []
    for file in files:
        issues += check_file(file, environments or file.resolve().parent.parent / "environments")
    if issues:
        print(format_errors(issues))
        sys.exit(1)
    print(f"{len(files)} file{'s' if len(files) > 1 else ''} valid")


WaveName = Annotated[str, typer.Argument(metavar="WAVE")]
Servers = Annotated[list[str] | None, typer.Option("--server", help="Only this server; may be given again.")]
AsJson = Annotated[bool, typer.Option("--json", help="The whole report as JSON.")]


@app.command()
def plan(name: WaveName, servers: Servers = None, as_json: AsJson = False) -> None:
    """What a wave would move, make and cost; creates nothing."""
    run_mode(name, "plan", servers, as_json=as_json)


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
    answer = api.call("POST", f"/wavelift/waves/{name}/apply", {"dry_run": dry_run})
    if unpause and not dry_run and answer["dag_paused"]:
        api.unpause(answer["dag_id"])
        answer["dag_paused"] = False
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    print_changes(answer)


DID = {"create": "made", "update": "changed", "keep": "as the file says", "missing": "not in the file; left alone"}
WOULD = {**DID, "create": "would be made", "update": "would be changed"}


def print_changes(answer: dict[str, Any]) -> None:
    """Server by server what was done, or would be, and each field that differs."""
    words = WOULD if answer["dry_run"] else DID
    table = Table(title=f"Replication of {escape(answer['wave'])}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("server", "job", "", "ledger → file"):
        table.add_column(column, overflow="fold")
    for row in answer["changes"]:
        fields = "\n".join(f"{key}: {both['ledger']} → {both['spec']}" for key, both in row["fields"].items())
        table.add_row(*map(escape, (row["server"], row["job_id"] or "", words[row["kind"]], fields)))
    console = stdout_console()
    console.print(table)
    for entry in answer["unbound"]:
        told = f"{entry}: the catalogue holds no server of it; `wavelift catalog import`, then apply again"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    for clash in answer["clashes"]:
        told = f"{clash['server']} is left alone: {clash['what']}. {clash['do']}"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    if answer["dag_paused"] is None:
        console.print(f"Airflow has no DAG {answer['dag_id']} yet, so nothing runs", markup=False, soft_wrap=True)
    elif answer["dag_paused"]:
        way_out = f"`wavelift wave apply {answer['wave']} --unpause`"
        told = f"{answer['dag_id']} is paused in Airflow, so nothing runs: {way_out}"
        console.print(told, markup=False, highlight=False, soft_wrap=True)


@api_errors_told()
def run_mode(name: str, mode: MigrateMode, servers: list[str] | None, *, as_json: bool) -> None:
    """Run ``<wave>.migrate`` in a mode that creates nothing and print its report; status 1 when a server may not go."""
    report, state = report_of(client(), name, MigrateConf(mode=mode, servers=servers or None))
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print_findings(report)
        if mode == "plan":
            print_estimate(report.get("estimate", {}))
    if state != "success" or any(finding["severity"] == "error" for finding in report.get("findings", [])):
        raise typer.Exit(1)


def report_of(api: ApiClient, name: str, conf: MigrateConf) -> tuple[dict[str, Any], str]:
    """Trigger ``<wave>.migrate`` with ``conf``, wait for its end; its pre-flight report and final state."""
    dag_id = f"{name}.migrate"
    status, answer = api.request("GET", f"/api/v2/dags/{dag_id}")
    if status == 404:
        raise ApiError(no_wave(name))
    if status == 200 and answer.get("is_paused"):
        api.unpause(dag_id)
    run_id = api.trigger(dag_id, conf.given())
    state = api.wait_for_run(dag_id, run_id, timeout=RUN_SECONDS)
    report = api.xcom(dag_id, run_id, "preflight", key="report")
    if report is None:
        raise ApiError(why_run_failed(api, dag_id, run_id, state, "preflight"))
    return dict(report), state


def no_wave(name: str) -> str:
    """What to say of a wave that Airflow doesn't know."""
    return f"No wave {name}: Airflow has no DAG {name}.migrate; see 'wavelift wave validate FILE'"


COLOURS = {"error": "bold red", "warning": "yellow", "info": "dim"}


def print_findings(report: dict[str, Any]) -> None:
    """The findings as a table, worst first; what is said of several servers in the same words stands once."""
    table = Table(title=f"Pre-flight of {escape(report.get('wave', ''))}", box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for name in ("severity", "subject", "finding", "next action"):
        table.add_column(name, overflow="fold")
    for finding, subjects in grouped(report.get("findings", [])):
        style = COLOURS[finding["severity"]]
        why = f"\n[dim]{escape(finding['why'])}[/]" if finding["why"] else ""
        table.add_row(
            f"[{style}]{finding['severity']}[/]",
            escape("\n".join(subjects)),
            escape(finding["what"]) + why,
            escape(finding["next_action"]),
        )
    stdout_console().print(table)


def grouped(findings: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """Findings that differ in their subject only, as one with all subjects; errors first."""
    places: dict[tuple[str, ...], tuple[dict[str, Any], list[str]]] = {}
    order = {name: place for place, name in enumerate(COLOURS)}
    for finding in sorted(findings, key=lambda one: (order[one["severity"]], one["subject"])):
        words = tuple(finding[key] for key in ("severity", "code", "what", "why", "next_action"))
        places.setdefault(words, (finding, []))[1].append(finding["subject"])
    return list(places.values())


def print_estimate(estimate: dict[str, Any]) -> None:
    """What the wave would move, make and cost."""
    from wavelift.rules.estimate import Estimate, table

    shown = Table("what", "value", title="Plan (nothing was created)", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for what, value in table(Estimate.load(estimate)):
        shown.add_row(escape(what), escape(value))
    stdout_console().print(shown)
