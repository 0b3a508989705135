"""Routes of the server catalogue and of connectors (SMS-01, SMS-02), denying by default like all others.

Reading needs the right to read the connector's ``server_catalog`` DAG, writing the right to trigger it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from wavelift.base.run import SystemClock
from wavelift.console.access import may_read, may_trigger
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep
from wavelift.ledger import Catalog, CatalogEntry, Connector, catalog, connectors, servers
from wavelift.ledger.catalog import ServerFilter
from wavelift.ledger.jobs import jobs_of_servers
from wavelift.ledger.records import ROWS_A_PAGE
from wavelift.rules.connectors import CATALOG_DAG, DEFAULT_CONNECTOR, HEALTH_DAG, dag_id_of
from wavelift.rules.fields import FLAG
from wavelift.services.housekeeping.catalog import connector_usage

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""A connector's name is part of DAG ids and the name of a queue."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImportBody(_Body):
    """Which vCenter to read, through which connector; the connector's own connection when none is given."""

    connection: str | None = None
    connector: Annotated[str, Field(pattern=NAME)] = DEFAULT_CONNECTOR


class ClearBody(_Body):
    connection: str


class ConnectorBody(_Body):
    """A connector as it is registered; AWS may be left out until replication needs it."""

    name: Annotated[str, Field(pattern=NAME)]
    connection: Annotated[str, Field(min_length=1)]
    aws_conn_id: str = ""
    region: str = ""
    description: str = ""


class MaintenanceBody(_Body):
    on: Annotated[bool, FLAG]
    reason: str = ""


def add_catalog_routes(app: FastAPI) -> None:
    _catalog_reading(app)
    _catalog_writing(app)
    _connector_reading(app)
    _connector_writing(app)


def _catalog_reading(app: FastAPI) -> None:
    @app.get("/catalogs")
    def list_catalogs(user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """The catalogues that the caller may read, with state and time of the last import."""
        with ledger.read() as tx:
            known = catalog.list_catalogs(tx, clock=SystemClock())
        return {"catalogs": [_catalog_row(one) for one in _readable(known, user)]}

    @app.get("/catalog")
    def list_servers(
        user: GetUserDep,
        ledger: LedgerDep,
        connection: str | None = None,
        search: str = "",
        tag: str = "",
        gone: bool | None = False,
        limit: Annotated[int, Query(ge=1, le=500)] = ROWS_A_PAGE,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        """One page of the servers of the catalogues that the caller may read, by name."""
        with ledger.read() as tx:
            known = catalog.list_catalogs(tx, clock=SystemClock())
        wanted = [one.connection for one in _readable(known, user) if connection in (None, one.connection)]
        which = ServerFilter(connections=wanted, search=search, tag=tag, gone=gone)
        with ledger.read() as tx:
            page = catalog.list_servers(tx, which, limit=limit, offset=offset, job_of=jobs_of_servers)
        return {
            "servers": [_server_row(entry) for entry in page.items],
            "total": page.total,
            "limit": page.limit,
            "offset": page.offset,
        }


def _catalog_writing(app: FastAPI) -> None:
    @app.post("/catalog/import")
    def import_catalog(body: ImportBody, user: GetUserDep, airflow: AirflowDep) -> dict[str, str]:
        """Start an import, by a run of the connector's ``server_catalog`` DAG."""
        dag_id = _triggerable(user, body.connector)
        run_id = airflow.trigger(dag_id, {"connection": body.connection})
        return {"dag_id": dag_id, "dag_run_id": run_id}

    @app.post("/catalog/clear")
    def clear_catalog(body: ClearBody, user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """Forget the servers of a connection; an import that runs writes no more."""
        clock = SystemClock()
        with ledger.read() as tx:
            known = catalog.get_catalog(tx, body.connection, clock=clock)
        _triggerable(user, known.connector or DEFAULT_CONNECTOR)
        with ledger.write(catalog.lock_name(body.connection)) as tx:
            removed = catalog.clear(tx, body.connection, by=user.get_name(), clock=clock)
        return {"connection": body.connection, "removed": removed}


def _connector_reading(app: FastAPI) -> None:
    @app.get("/connectors")
    def list_connectors(user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """The registered connectors that the caller may read, with their health and its age in seconds."""
        now = SystemClock().now()
        with ledger.read() as tx:
            known = connectors.list_connectors(tx)
        readable = (one for one in known if may_read(user, dag_id_of(CATALOG_DAG, one.name)))
        return {"connectors": [_connector_row(one, now) for one in readable]}


def _connector_writing(app: FastAPI) -> None:
    @app.post("/connectors")
    def register(body: ConnectorBody, user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """Register a connector, or change what is known of one."""
        _triggerable(user, body.name)
        clock = SystemClock()
        said = connectors.Registration(**body.model_dump(exclude={"name"}))
        with ledger.write(connectors.lock_name(body.name)) as tx:
            known = connectors.register(tx, body.name, said, by=user.get_name(), clock=clock)
        return _connector_row(known, clock.now())

    @app.post("/connectors/{name}/maintenance")
    def maintenance(name: str, body: MaintenanceBody, user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """Let no new migration begin on a connector, or let it again (AMP-05)."""
        _triggerable(user, name)
        clock = SystemClock()
        with ledger.write(connectors.lock_name(name)) as tx:
            known = connectors.set_maintenance(
                tx, name, on=body.on, reason=body.reason, by=user.get_name(), clock=clock
            )
        return _connector_row(known, clock.now())

    @app.post("/connectors/{name}/check")
    def check(name: str, user: GetUserDep, airflow: AirflowDep) -> dict[str, str]:
        """Try what the connector can reach, by a run of its ``connector_health`` DAG."""
        _triggerable(user, name)
        dag_id = dag_id_of(HEALTH_DAG, name)
        return {"dag_id": dag_id, "dag_run_id": airflow.trigger(dag_id)}

    @app.post("/connectors/{name}/disassociate")
    def disassociate(name: str, user: GetUserDep, ledger: LedgerDep, specs: SpecsDep) -> dict[str, Any]:
        """Forget a connector that nothing uses: no migration, no slot, no replication job."""
        _triggerable(user, name)
        used_by = partial(connector_usage, connectors_of=specs.connectors())
        with ledger.write(connectors.lock_name(name), servers.LOCK) as tx:
            connectors.disassociate(tx, name, used_by=used_by, by=user.get_name(), clock=SystemClock())
        return {"name": name, "disassociated": True}


def _readable(known: Sequence[Catalog], user: Any) -> list[Catalog]:
    return [one for one in known if may_read(user, dag_id_of(CATALOG_DAG, one.connector))]


def _triggerable(user: Any, connector: str) -> str:
    dag_id = dag_id_of(CATALOG_DAG, connector)
    if not may_trigger(user, dag_id):
        raise HTTPException(403, f"You may not trigger {dag_id}")
    return dag_id


def _catalog_row(known: Catalog) -> dict[str, Any]:
    return {
        "connection": known.connection,
        "connector": known.connector,
        "state": str(known.state),
        "last_modified": known.modified_at.isoformat(),
        "imported_at": known.imported_at.isoformat() if known.imported_at else None,
        "manager": {"id": known.manager_id, "name": known.manager_name, "type": known.manager_type},
        "product": known.manager_product,
        "tags_unknown": known.tags_unknown,
        "error": known.error,
        "dag_id": known.dag_id,
        "dag_run_id": known.dag_run_id,
    }


def _server_row(entry: CatalogEntry) -> dict[str, Any]:
    """One line of the list, with everything that SMS-02 names."""
    server = asdict(entry.server)
    hidden = ("identity", "first_generation", "changed_generation", "seen_generation", "gone_generation")
    return {
        **{name: value for name, value in server.items() if name not in hidden},
        "first_seen": entry.server.first_seen.isoformat(),
        "last_seen": entry.server.last_seen.isoformat(),
        "job": asdict(entry.job) if entry.job else None,
    }


def _connector_row(known: Connector, now: datetime) -> dict[str, Any]:
    """One line of the list; ``health_age_s`` says how old the knowledge is."""
    return {
        **asdict(known),
        "checked_at": known.checked_at.isoformat() if known.checked_at else None,
        "registered_at": known.registered_at.isoformat(),
        "healthy": all(check["ok"] for check in known.health["checks"]) if known.health else None,
        "health_age_s": round((now - known.checked_at).total_seconds()) if known.checked_at else None,
    }
