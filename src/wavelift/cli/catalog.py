"""``wavelift catalog …``: the server catalogue through the REST API."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from wavelift.base.units import MIB, human_bytes
from wavelift.cli.connect import api_errors_told, client, query, run_by, wake
from wavelift.cli.output import (
    AsJson,
    Limit,
    Offset,
    Times,
    add_row,
    print_json,
    say,
    show,
    table,
    tell_more,
    told_empty,
)
from wavelift.console.answers import CatalogCleared, CatalogList, ServerPage, ServerRow
from wavelift.console.requests import ImportBody
from wavelift.rules.connectors import CATALOG_DAG, DEFAULT_CONNECTOR, dag_id_of

app = typer.Typer(no_args_is_help=True)
FIRST: Final = (
    "Register a connector with `wavelift connectors register NAME --connection VSPHERE_CONNECTION`, then read its "
    "vCenter with `wavelift catalog import --connector NAME`"
)


@app.command("import")
@api_errors_told()
def import_(
    connection: Annotated[
        str, typer.Option(help="vSphere connection. By default the one that the connector is registered with.")
    ] = "",
    connector: Annotated[str, typer.Option(help="Queue near that vCenter.")] = DEFAULT_CONNECTOR,
    as_json: AsJson = False,
) -> None:
    """Read a vCenter and update the catalogue. Shows how many servers are new, changed and gone."""
    api = client()
    wake(api, dag_id_of(CATALOG_DAG, connector), no_connector(CATALOG_DAG, connector))
    body = ImportBody(connection=connection or None, connector=connector)
    summary = run_by(api, "/wavelift/catalog/import", body.model_dump()).result("merge", explained_by="close")
    if as_json:
        print_json(summary)
        return
    if summary["overtaken"]:
        say(f"{summary['connection']}: a newer import or a clear came in between")
        return
    say(
        f"{summary['connection']}: {summary['servers']} servers; {summary['new']} new, {summary['changed']} changed, "
        f"{summary['gone']} gone"
    )
    say(f"`wavelift catalog list --connection {summary['connection']}` lists them")
    if summary["tags_unknown"]:
        say(f"without tags: {summary['tags_unknown']}")


@app.command("list")
@api_errors_told()
def list_(  # noqa: PLR0913  # one parameter per option
    connection: Annotated[str, typer.Option(help="Only this vSphere connection.")] = "",
    search: Annotated[str, typer.Option(help="Part of name, path, id, VM id or guest.")] = "",
    tag: Annotated[str, typer.Option(help="vSphere tag as category:tag.")] = "",
    gone: Annotated[bool, typer.Option("--gone", help="Those that the last import did not find.")] = False,
    limit: Limit = 50,
    offset: Offset = 0,
    as_json: AsJson = False,
) -> None:
    """Servers by name, with the state of their catalogues."""
    api = client()
    asked = {"connection": connection, "search": search, "tag": tag, "gone": gone, "limit": limit, "offset": offset}
    answer = api.call("GET", query("/wavelift/catalog", asked))
    catalogs = api.call("GET", "/wavelift/catalogs")
    if as_json:
        print_json({**answer, **catalogs})
        return
    times = Times()
    for one in CatalogList.model_validate(catalogs).catalogs:
        if connection in ("", one.connection):
            failed = f", last import failed: {one.error}" if one.error else ""
            modified = times.of(one.last_modified)
            say(f"{one.connection}: {one.state}, {one.manager.name}, modified {modified}{failed}")
    times.tell()
    page = ServerPage.model_validate(answer)
    if not page.servers:
        told_empty("servers", FIRST, connection=connection, search=search, tag=tag, gone=gone, offset=offset)
        return
    shown = table("id, job", "name, path", "power, size", "guest, tags", ids=["id, job"])
    for row in page.servers:
        add_row(shown, *_cells(row))
    show(shown)
    tell_more(page, len(page.servers))


def _cells(row: ServerRow) -> list[str]:
    job = row.job
    ordered = (job.id, f"{job.state}{', terminated' if job.terminated else ''}") if job else ()
    power = f"{row.power}{' (template)' if row.template else ''}{' (gone)' if row.gone else ''}"
    return [
        "\n".join((row.id, row.vm_id, *ordered)),
        f"{row.name}\n{row.path}",
        f"{power}\n{row.cpus} CPU, {human_bytes(row.memory_mib * MIB)}\n{human_bytes(row.disk_bytes)}",
        "\n".join([row.guest_full_name, *row.tags]),
    ]


@app.command()
@api_errors_told()
def clear(
    connection: Annotated[str, typer.Option(help="vSphere connection whose servers are removed from the catalogue.")],
) -> None:
    """Remove the servers of a connection from the catalogue; migrations and jobs stay."""
    cleared = CatalogCleared.model_validate(
        client().call("POST", "/wavelift/catalog/clear", {"connection": connection})
    )
    say(f"{connection}: {cleared.removed} servers forgotten; `wavelift catalog import` reads them again")


def no_connector(kind: str, connector: str) -> str:
    """Why Airflow has no DAG of a connector."""
    dag_id = dag_id_of(kind, connector)
    return f"No DAG {dag_id}: no wave names connector {connector}, and dags/catalog.py makes DAGs for those"
