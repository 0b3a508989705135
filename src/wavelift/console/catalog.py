"""Routes of the server catalogue and of connectors (SMS-01, SMS-02), denying by default like all others.

Reading needs the right to read the connector's ``server_catalog`` DAG, writing the right to trigger it.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.base.run import SystemClock
from wavelift.console.access import may_read, require_same_team, require_trigger
from wavelift.console.answers import (
    CatalogCleared,
    CatalogList,
    CatalogStatus,
    ConnectorDisassociated,
    ConnectorList,
    ConnectorRow,
    ManagerRow,
    RunStarted,
    ServerJob,
    ServerPage,
    ServerRow,
)
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep, start_run
from wavelift.console.requests import ClearBody, ConnectorBody, ImportBody, MaintenanceBody, ServerQuery
from wavelift.ledger import Catalog, CatalogEntry, Connector, Ledger, catalog, connectors, servers
from wavelift.ledger.catalog import ServerFilter
from wavelift.ledger.jobs import jobs_of_servers
from wavelift.rules.conf import HealthConf, ImportConf
from wavelift.rules.connectors import CATALOG_DAG, DEFAULT_CONNECTOR, HEALTH_DAG, dag_id_of
from wavelift.services.housekeeping.catalog import connector_usage, register_connector, require_owner


def add_catalog_routes(app: FastAPI) -> None:
    _catalog_reading(app)
    _catalog_writing(app)
    _connector_reading(app)
    _connector_writing(app)


def _catalog_reading(app: FastAPI) -> None:
    @app.get("/catalogs")
    def list_catalogs(user: GetUserDep, ledger: LedgerDep) -> CatalogList:
        """The catalogues that the caller may read, with state and time of the last import."""
        return CatalogList(catalogs=[_catalog_row(one) for one in _readable_catalogs(ledger, user)])

    @app.get("/catalog")
    def list_servers(query: Annotated[ServerQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> ServerPage:
        """One page of the servers of the catalogues that the caller may read, by name."""
        known = _readable_catalogs(ledger, user)
        wanted = [one.connection for one in known if query.connection in (None, one.connection)]
        which = ServerFilter(connections=wanted, search=query.search, tag=query.tag, gone=query.gone)
        with ledger.read() as tx:
            page = catalog.list_servers(tx, which, limit=query.limit, offset=query.offset, job_of=jobs_of_servers)
        return ServerPage.of(page, servers=[ServerRow.of(entry.server, job=_job(entry)) for entry in page.items])


def _catalog_writing(app: FastAPI) -> None:
    @app.post("/catalog/import")
    def import_catalog(body: ImportBody, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> RunStarted:
        """Start an import, by a run of the connector's ``server_catalog`` DAG; of no other connector's catalogue."""
        dag_id = _triggerable(user, body.connector)
        if body.connection:
            require_same_team(dag_id, body.connection)
            with ledger.read() as tx:
                require_owner(tx, body.connection, body.connector, clock=SystemClock())
        return start_run(airflow, dag_id, ImportConf(connection=body.connection))

    @app.post("/catalog/clear")
    def clear_catalog(body: ClearBody, user: GetUserDep, ledger: LedgerDep) -> CatalogCleared:
        """Forget the servers of a connection; an import that runs writes no more."""
        clock = SystemClock()
        with ledger.write(catalog.lock_name(body.connection)) as tx:
            known = catalog.get_catalog(tx, body.connection, clock=clock)
            _triggerable(user, known.connector or DEFAULT_CONNECTOR)
            removed = catalog.clear(tx, body.connection, by=user.get_name(), clock=clock)
        return CatalogCleared(connection=body.connection, removed=removed)


def _connector_reading(app: FastAPI) -> None:
    @app.get("/connectors")
    def list_connectors(user: GetUserDep, ledger: LedgerDep) -> ConnectorList:
        """The registered connectors that the caller may read, with their health and its age in seconds."""
        now = SystemClock().now()
        with ledger.read() as tx:
            known = connectors.list_connectors(tx)
        readable = (one for one in known if may_read(user, dag_id_of(CATALOG_DAG, one.name)))
        return ConnectorList(connectors=[_connector_row(one, now) for one in readable])


def _connector_writing(app: FastAPI) -> None:
    @app.post("/connectors")
    def register(body: ConnectorBody, user: GetUserDep, ledger: LedgerDep) -> ConnectorRow:
        """Register a connector, or change what is known of one.

        A connection whose catalogue is another connector's needs the right on that one, too.
        """
        require_same_team(_triggerable(user, body.name), body.connection)
        clock = SystemClock()
        said = connectors.Registration(**body.model_dump(exclude={"name"}))
        known = register_connector(
            ledger, body.name, said, may_change=partial(_triggerable, user), by=user.get_name(), clock=clock
        )
        return _connector_row(known, clock.now())

    @app.post("/connectors/{name}/maintenance")
    def maintenance(name: str, body: MaintenanceBody, user: GetUserDep, ledger: LedgerDep) -> ConnectorRow:
        """Let no new migration begin on a connector, or let it again (AMP-05)."""
        _triggerable(user, name)
        clock = SystemClock()
        with ledger.write(connectors.lock_name(name)) as tx:
            known = connectors.set_maintenance(
                tx, name, on=body.on, reason=body.reason, by=user.get_name(), clock=clock
            )
        return _connector_row(known, clock.now())

    @app.post("/connectors/{name}/check")
    def check(name: str, user: GetUserDep, airflow: AirflowDep) -> RunStarted:
        """Try what the connector can reach, by a run of its ``connector_health`` DAG."""
        _triggerable(user, name)
        return start_run(airflow, dag_id_of(HEALTH_DAG, name), HealthConf())

    @app.post("/connectors/{name}/disassociate")
    def disassociate(name: str, user: GetUserDep, ledger: LedgerDep, specs: SpecsDep) -> ConnectorDisassociated:
        """Forget a connector that nothing uses: no migration, no slot, no replication job."""
        _triggerable(user, name)
        used_by = partial(connector_usage, connectors_of=specs.connectors())
        with ledger.write(connectors.lock_name(name), servers.LOCK) as tx:
            connectors.disassociate(tx, name, used_by=used_by, by=user.get_name(), clock=SystemClock())
        return ConnectorDisassociated(name=name, disassociated=True)


def _readable_catalogs(ledger: Ledger, user: Any) -> list[Catalog]:
    with ledger.read() as tx:
        known = catalog.list_catalogs(tx, clock=SystemClock())
    return [one for one in known if may_read(user, dag_id_of(CATALOG_DAG, one.connector))]


def _triggerable(user: Any, connector: str) -> str:
    dag_id = dag_id_of(CATALOG_DAG, connector)
    require_trigger(user, dag_id)
    return dag_id


def _catalog_row(known: Catalog) -> CatalogStatus:
    manager = ManagerRow(id=known.manager_id, name=known.manager_name, type=known.manager_type)
    return CatalogStatus.of(known, last_modified=known.modified_at, manager=manager, product=known.manager_product)


def _job(entry: CatalogEntry) -> ServerJob | None:
    return ServerJob.of(entry.job) if entry.job else None


def _connector_row(known: Connector, now: datetime) -> ConnectorRow:
    return ConnectorRow.of(
        known,
        healthy=all(check["ok"] for check in known.health["checks"]) if known.health else None,
        health_age_s=round((now - known.checked_at).total_seconds()) if known.checked_at else None,
    )
