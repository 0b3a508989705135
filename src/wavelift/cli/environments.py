"""``wavelift whoami`` and ``wavelift environments …``: who I am, and where I may send servers."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from wavelift.airflow.rest import path_of
from wavelift.cli.connect import api_errors_told, client, run_by
from wavelift.cli.findings import print_blocks
from wavelift.cli.output import AsJson, add_row, print_json, say, show, show_facts, table, told_empty
from wavelift.console.answers import EnvironmentDetails, EnvironmentList, EnvironmentRow, Me
from wavelift.rules.environment import CHECK_TASK

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="As the environment's file is called.")]
GRANTED = "An administrator grants them under 'may' of an environment's file (docs/authorisation.md)"


@api_errors_told()
def whoami(*, as_json: bool) -> None:
    answer = client().call("GET", "/wavelift/me")
    if as_json:
        print_json(answer)
        return
    me = Me.model_validate(answer)
    show_facts(
        f"You are {me.name}",
        [
            ("roles", ", ".join(f"group:{role}" for role in me.roles) or "none that Airflow tells"),
            ("groups", ", ".join(f"group:{group}" for group in me.groups) or "none in principals.yaml"),
            ("in vCenter", me.vcenter_principal or "nobody said who you are (principals.yaml)"),
        ],
    )
    if me.problem:
        say(f"The groups can't be read, so nothing new starts: {me.problem}")
    _show_rows(me.environments)


@app.command("list")
@api_errors_told()
def list_(as_json: AsJson = False) -> None:
    """The environments that are granted to you, and what you may do there."""
    answer = client().call("GET", "/wavelift/environments")
    if as_json:
        print_json(answer)
        return
    _show_rows(EnvironmentList.model_validate(answer).environments)


@app.command("show")
@api_errors_told()
def show_one(name: Name, as_json: AsJson = False) -> None:
    """What an environment that is granted to you allows."""
    answer = client().call("GET", path_of("wavelift", "environments", name))
    if as_json:
        print_json(answer)
        return
    found = EnvironmentDetails.model_validate(answer)
    say(f"{found.name}: you may {', '.join(found.actions)}")
    for line in yaml.safe_dump(found.spec, sort_keys=False, allow_unicode=True).splitlines():
        say(line)


@app.command()
@api_errors_told()
def check(name: Name, as_json: AsJson = False) -> None:
    """Check an environment's account, and count the free addresses of its subnets; status 1 when something is wrong."""
    found = run_by(client(), path_of("wavelift", "environments", name, "check")).result(CHECK_TASK)
    if as_json:
        print_json(found)
    else:
        print_blocks(found, verbose=True)
        rooms = table("subnet", "zone", "network", "free addresses", title=f"Account {found['account'] or 'unknown'}")
        for room in found["subnets"]:
            free = room["free_addresses"]
            add_row(rooms, room["subnet"], room["zone"], room["cidr"], "unknown" if free is None else str(free))
        show(rooms)
    if any(one["severity"] == "error" for one in found["findings"]):
        raise typer.Exit(1)


def _show_rows(rows: list[EnvironmentRow]) -> None:
    if not rows:
        told_empty("environments granted to you", GRANTED)
        return
    shown = table("environment", "account", "region", "you may")
    for row in rows:
        named = f"{row.name}\n{row.description}".strip()
        add_row(shown, named, row.account or f"none ({row.kind})", row.region, ", ".join(row.actions))
    show(shown)
