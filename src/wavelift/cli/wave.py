"""``wavelift wave …``: validate here, plan through the wave's DAG."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.cli.connect import client, fail

app = typer.Typer(no_args_is_help=True)
console = Console()
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


@app.command()
def plan(name: Annotated[str, typer.Argument(metavar="WAVE")]) -> None:
    """What a wave would move, make and cost; creates nothing."""
    run_mode(name, "plan")


def run_mode(name: str, mode: str) -> None:
    """Run ``<wave>.migrate`` in a mode that creates nothing and print its report."""
    api = client()
    try:
        report, state = report_of(api, name, {"mode": mode})
    except ApiError as error:
        fail(str(error))
    print_findings(report)
    if mode == "plan":
        print_estimate(report.get("estimate", {}))
    if state != "success" or any(finding["severity"] == "error" for finding in report.get("findings", [])):
        raise typer.Exit(1)


def report_of(api: ApiClient, name: str, conf: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Trigger ``<wave>.migrate`` with ``conf``, wait for its end; its pre-flight report and final state."""
    dag_id = f"{name}.migrate"
    status, answer = api.request("GET", f"/api/v2/dags/{dag_id}")
    if status == 404:
        raise ApiError(f"No wave {name}: Airflow has no DAG {dag_id}; see 'wavelift wave validate FILE'")
    if status == 200 and answer.get("is_paused"):
        api.unpause(dag_id)
    run_id = api.trigger(dag_id, conf)
    state = api.wait_for_run(dag_id, run_id, timeout=RUN_SECONDS)
    report = api.xcom(dag_id, run_id, "preflight", key="report")
    if report is None:
        raise ApiError(f"run {run_id} of {dag_id} ended as {state} without a report; see its log in Airflow")
    return dict(report), state


COLOURS = {"error": "bold red", "warning": "yellow", "info": "dim"}


def print_findings(report: dict[str, Any]) -> None:
    """The findings as a table: worst first."""
    table = Table("severity", "subject", "finding", "next action", title=f"Pre-flight of {report.get('wave', '')}")
    order = {name: place for place, name in enumerate(COLOURS)}
    for finding in sorted(report.get("findings", []), key=lambda one: (order[one["severity"]], one["subject"])):
        style = COLOURS[finding["severity"]]
        table.add_row(
            f"[{style}]{finding['severity']}[/]",
            finding["subject"],
            f"{finding['what']}\n[dim]{finding['why']}[/]" if finding["why"] else finding["what"],
            finding["next_action"],
        )
    console.print(table)


def print_estimate(estimate: dict[str, Any]) -> None:
    """What the wave would move, make and cost."""
    from wavelift.rules.estimate import Estimate, table

    shown = Table("what", "value", title="Plan (nothing was created)")
    for what, value in table(Estimate.load(estimate)):
        shown.add_row(what, value)
    console.print(shown)
