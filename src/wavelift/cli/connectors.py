"""``wavelift connectors …``: the places that read vCenters, through the REST API."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from wavelift.airflow.rest import path_of
from wavelift.cli.catalog import no_connector
from wavelift.cli.connect import api_errors_told, client, run_by, wake
from wavelift.cli.output import AsJson, add_row, print_json, say, show, table, told_empty
from wavelift.console.answers import ConnectorList, ConnectorRow
from wavelift.rules.connectors import HEALTH_DAG, dag_id_of

app = typer.Typer(no_args_is_help=True)
FIRST: Final = "`wavelift connectors register NAME --connection VSPHERE_CONNECTION` registers the first"
Name = Annotated[str, typer.Argument(metavar="CONNECTOR", help="Its Airflow queue.")]


@app.command()
@api_errors_told()
def register(
    name: Name,
    connection: Annotated[str, typer.Option(help="vSphere connection of its vCenter.")],
    aws: Annotated[str, typer.Option(help="AWS connection that it uses.")] = "",
    region: Annotated[str, typer.Option(help="AWS region.")] = "",
    description: Annotated[str, typer.Option(help="One line for people.")] = "",
) -> None:
    """Register a connector, or change a registered one."""
    body = {"name": name, "connection": connection, "aws_conn_id": aws, "region": region, "description": description}
    client().call("POST", "/wavelift/connectors", body)
    say(f"{name} is registered; `wavelift connectors check {name}` tries what it can reach")


@app.command("list")
@api_errors_told()
def list_(as_json: AsJson = False) -> None:
    """Registered connectors with the result and the age of their last check."""
    answer = client().call("GET", "/wavelift/connectors")
    if as_json:
        print_json(answer)
        return
    found = ConnectorList.model_validate(answer).connectors
    if not found:
        told_empty("connectors", FIRST)
        return
    shown = table("connector", "vCenter", "AWS", "state", "health")
    for row in found:
        state = f"maintenance: {row.maintenance_reason or 'no reason given'}" if row.maintenance else "in service"
        aws = f"{row.aws_conn_id}\n{row.region}".strip()
        named = f"{row.name}\n{row.description}".strip()
        add_row(shown, named, row.connection, aws, state, health_words(row))
    show(shown)


@app.command()
@api_errors_told()
def check(name: Name, as_json: AsJson = False) -> None:
    """Try from its queue what a connector can reach; status 1 when something fails."""
    api = client()
    wake(api, dag_id_of(HEALTH_DAG, name), no_connector(HEALTH_DAG, name))
    health = run_by(api, path_of("wavelift", "connectors", name, "check")).result("check", explained_by="begin")
    if as_json:
        print_json(health)
    else:
        shown = table("check", "result", "found", "next action", title=f"Connector {name}")
        for one in health["checks"]:
            add_row(shown, one["name"], "ok" if one["ok"] else "FAILED", one["what"], one["next_step"])
        show(shown)
    if not all(one["ok"] for one in health["checks"]):
        raise typer.Exit(1)


@app.command()
@api_errors_told()
def maintenance(
    name: Name,
    on: Annotated[bool, typer.Option("--on/--off", help="Nothing new begins; what runs finishes.")] = True,
    reason: Annotated[str, typer.Option(help="Shown to all that wait or are refused.")] = "",
) -> None:
    """Put a connector into maintenance, or back into service."""
    client().call("POST", path_of("wavelift", "connectors", name, "maintenance"), {"on": on, "reason": reason})
    if on:
        back = f"`wavelift connectors maintenance {name} --off` ends it"
        say(f"{name} is in maintenance: nothing new begins on it, running servers finish, queued ones wait; {back}")
    else:
        say(f"{name} is in service: queued servers begin in their order")


@app.command()
@api_errors_told()
def disassociate(name: Name) -> None:
    """Remove the registration of a connector that nothing uses."""
    client().call("POST", path_of("wavelift", "connectors", name, "disassociate"))
    say(f"{name} is no longer registered; `wavelift connectors register {name}` brings it back")


def health_words(row: ConnectorRow) -> str:
    """The result of the last check and its age."""
    if row.health is None:
        return "never checked"
    failed = [check.name for check in row.health.checks if not check.ok]
    minutes = (row.health_age_s or 0) // 60
    age = f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"
    return f"{'well' if not failed else 'FAILED: ' + ', '.join(failed)}\n{age}"
