"""``wavelift connectors …``: the places that read vCenters, through the REST API."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from wavelift.cli.catalog import RUN_SECONDS, AsJson, wake
from wavelift.cli.connect import api_errors_told, client, fail, stdout_console, why_run_failed
from wavelift.rules.connectors import HEALTH_DAG, dag_id_of

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="CONNECTOR", help="Its Airflow queue.")]


@app.command()
@api_errors_told()
def register(
    name: Name,
    connection: Annotated[str, typer.Option(help="vSphere connection of its vCenter.")],
    aws: Annotated[str, typer.Option(help="AWS connection that it uses.")] = "",
    region: Annotated[str, typer.Option(help="AWS region.")] = "",
    description: Annotated[str, typer.Option()] = "",
) -> None:
    """Register a connector, or change what is known of one (SMS-01)."""
    body = {"name": name, "connection": connection, "aws_conn_id": aws, "region": region, "description": description}
    client().call("POST", "/wavelift/connectors", body)
    print(f"{name} is registered; `wavelift connectors check {name}` tries what it can reach")


@app.command("list")
@api_errors_told()
def list_(as_json: AsJson = False) -> None:
    """Registered connectors with their health and how old that knowledge is."""
    answer = client().call("GET", "/wavelift/connectors")
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("connector", "vCenter", "AWS", "state", "health"):
        table.add_column(name, overflow="fold")
    for row in answer["connectors"]:
        state = f"maintenance: {row['maintenance_reason'] or 'no reason given'}" if row["maintenance"] else "in service"
        aws = f"{row['aws_conn_id']}\n{row['region']}".strip()
        named = f"{row['name']}\n{row['description']}".strip()
        table.add_row(*map(escape, (named, row["connection"], aws, state, health_words(row))))
    stdout_console().print(table)


@app.command()
@api_errors_told()
def check(name: Name, as_json: AsJson = False) -> None:
    """Try from its queue what a connector can reach; status 1 when something fails."""
    api = client()
    wake(api, dag_id_of(HEALTH_DAG, name), name)
    run = api.call("POST", f"/wavelift/connectors/{name}/check")
    state = api.wait_for_run(run["dag_id"], run["dag_run_id"], timeout=RUN_SECONDS)
    health = api.xcom(run["dag_id"], run["dag_run_id"], "check")
    if state != "success" or health is None:
        fail(why_run_failed(api, run["dag_id"], run["dag_run_id"], state, "begin"))
    if as_json:
        print(json.dumps(health, indent=2))
    else:
        table = Table(title=f"Connector {escape(name)}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("check", "", "found", "next action"):
            table.add_column(column, overflow="fold")
        for one in health["checks"]:
            table.add_row(*map(escape, (one["name"], "ok" if one["ok"] else "FAILED", one["what"], one["next_step"])))
        stdout_console().print(table)
    if not all(one["ok"] for one in health["checks"]):
        raise typer.Exit(1)


@app.command()
@api_errors_told()
def maintenance(
    name: Name,
    on: Annotated[bool, typer.Option("--on/--off", help="No new migration begins; running ones finish.")] = True,
    reason: Annotated[str, typer.Option(help="Told to whoever is refused.")] = "",
) -> None:
    """Put a connector into maintenance, or back into service (AMP-05)."""
    client().call("POST", f"/wavelift/connectors/{name}/maintenance", {"on": on, "reason": reason})
    print(f"{name} is {'in maintenance: no new migration begins on it' if on else 'in service'}")


@app.command()
@api_errors_told()
def disassociate(name: Name) -> None:
    """Forget a connector that nothing uses."""
    client().call("POST", f"/wavelift/connectors/{name}/disassociate")
    print(f"{name} is no longer registered")


def health_words(row: dict[str, Any]) -> str:
    """What the list says of a connector's health."""
    if row["health"] is None:
        return "never checked"
    failed = [check["name"] for check in row["health"]["checks"] if not check["ok"]]
    minutes = row["health_age_s"] // 60
    age = f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"
    return f"{'well' if not failed else 'FAILED: ' + ', '.join(failed)}\n{age}"
