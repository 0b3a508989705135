"""``wavelift catalog …``: the server catalogue through the REST API."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import urlencode

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.units import human_bytes
from wavelift.cli.connect import api_errors_told, client, fail, stdout_console, why_run_failed
from wavelift.rules.connectors import CATALOG_DAG, DEFAULT_CONNECTOR, dag_id_of

app = typer.Typer(no_args_is_help=True)
RUN_SECONDS = 1800.0
"""5,000 servers take a minute or two; half an hour means that nobody works on the connector's queue."""
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.command("import")
@api_errors_told()
def import_(
    connection: Annotated[
        str, typer.Option(help="vSphere connection; without it the one that the connector is registered with.")
    ] = "",
    connector: Annotated[str, typer.Option(help="Queue near that vCenter.")] = DEFAULT_CONNECTOR,
    as_json: AsJson = False,
) -> None:
    """Read a vCenter and bring the catalogue up to date; tells what is new, changed and gone."""
    api = client()
    wake(api, dag_id_of(CATALOG_DAG, connector), connector)
    run = api.call("POST", "/wavelift/catalog/import", {"connection": connection or None, "connector": connector})
    state = api.wait_for_run(run["dag_id"], run["dag_run_id"], timeout=RUN_SECONDS)
    summary = api.xcom(run["dag_id"], run["dag_run_id"], "merge")
    if state != "success" or summary is None:
        fail(why_run_failed(api, run["dag_id"], run["dag_run_id"], state, "close"))
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    if summary["overtaken"]:
        print(f"{summary['connection']}: a newer import or a clear came in between")
        return
    print(
        f"{summary['connection']}: {summary['servers']} servers; {summary['new']} new, {summary['changed']} changed, "
        f"{summary['gone']} gone"
    )
    if summary["tags_unknown"]:
        print(f"without tags: {summary['tags_unknown']}")


@app.command("list")
@api_errors_told()
def list_(
    connection: Annotated[str, typer.Option(help="Only this vSphere connection.")] = "",
    search: Annotated[str, typer.Option(help="Part of name, path, id, VM id or guest.")] = "",
    tag: Annotated[str, typer.Option(help="vSphere tag as category:tag.")] = "",
    gone: Annotated[bool, typer.Option("--gone", help="Those that the last import did not find.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Servers by name, with the state of their catalogues (SMS-02)."""
    api = client()
    asked = {"connection": connection, "search": search, "tag": tag, "gone": gone, "limit": limit, "offset": offset}
    query = urlencode({key: str(value).lower() if value is True else value for key, value in asked.items() if value})
    answer = api.call("GET", f"/wavelift/catalog?{query}")
    catalogs = api.call("GET", "/wavelift/catalogs")["catalogs"]
    if as_json:
        print(json.dumps({**answer, "catalogs": catalogs}, indent=2))
        return
    console = stdout_console()
    for one in catalogs:
        if connection in ("", one["connection"]):
            failed = f", last import failed: {one['error']}" if one["error"] else ""
            told = f"{one['connection']}: {one['state']}, {one['manager']['name']}, modified {one['last_modified']}"
            console.print(told + failed, markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("id", "name, path", "power", "size", "guest, tags", "job"):
        table.add_column(name, overflow="fold")
    for row in answer["servers"]:
        table.add_row(*map(escape, _cells(row)))
    console.print(table)
    if answer["total"] > len(answer["servers"]):
        last = answer["offset"] + len(answer["servers"])
        console.print(f"{answer['offset'] + 1} to {last} of {answer['total']}; --offset {last} for more")


def _cells(row: dict[str, object]) -> list[str]:
    job = row["job"]
    told = f"{job['id']}\n{job['state']}{', terminated' if job['terminated'] else ''}" if isinstance(job, dict) else ""
    tags = row["tags"] if isinstance(row["tags"], list) else []
    return [
        f"{row['id']}\n{row['vm_id']}",
        f"{row['name']}\n{row['path']}",
        f"{row['power']}{' (template)' if row['template'] else ''}{' (gone)' if row['gone'] else ''}",
        f"{row['cpus']} CPU, {row['memory_mib']} MiB\n{human_bytes(int(str(row['disk_bytes'])))}",
        "\n".join([str(row["guest_full_name"]), *map(str, tags)]),
        told,
    ]


@app.command()
@api_errors_told()
def clear(connection: Annotated[str, typer.Option(help="vSphere connection whose servers to forget.")]) -> None:
    """Forget the servers of a connection; migrations and jobs stay."""
    answer = client().call("POST", "/wavelift/catalog/clear", {"connection": connection})
    print(f"{connection}: {answer['removed']} servers forgotten")


def wake(api: ApiClient, dag_id: str, connector: str) -> None:
    """A new DAG is paused; one that no wave names does not exist.

    :raises ApiError: the second, in words.
    """
    status, answer = api.request("GET", f"/api/v2/dags/{dag_id}")
    if status == 404:
        raise ApiError(
            f"No DAG {dag_id}: no wave names connector {connector}, and dags/catalog.py makes DAGs for those"
        )
    if status == 200 and answer.get("is_paused"):
        api.unpause(dag_id)
