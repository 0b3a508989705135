"""The REST API under ``/wavelift``: the list of migrations, cancel, launch, verify, cleanup (AMP-07, AMP-08).

Catalogue, connectors and replication have modules of their own.

Every route denies by default: reading needs the right to read the wave's DAG, writing the right to trigger it.
What runs in Airflow is started and stopped through Airflow's own REST API with the caller's token, so Airflow's own
checks and audit log apply too.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from wavelift import __version__
from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.errors import BusyError, NotFoundError, PermanentError, RefusedError, WaveliftError
from wavelift.base.rates import PROGRESS_KEY, TransferProgress
from wavelift.base.run import SystemClock
from wavelift.console.access import may_read, may_trigger, readable_dags
from wavelift.console.catalog import add_catalog_routes
from wavelift.console.chain import Chain
from wavelift.console.deps import AirflowDep, LedgerDep
from wavelift.console.events import add_event_routes
from wavelift.console.gate import Gate
from wavelift.console.origin import SameOrigin
from wavelift.console.replication import add_replication_routes
from wavelift.console.replication_runs import add_replication_run_routes
from wavelift.ledger import Ledger, Migration, migrations
from wavelift.ledger.migrations import MigrationFilter
from wavelift.rules.fields import FLAG
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.migration.reserve import after_cancel

CONFLICTS: Final = (PermanentError, BusyError)
"""What is as it is: the same request would be refused again."""


class CleanupBody(BaseModel):
    """Which wave's vCenter and environment to look through."""

    model_config = ConfigDict(extra="forbid")
    wave: str
    dry_run: Annotated[bool, FLAG] = True


class RunStarted(BaseModel):
    """The DAG run that does the work."""

    dag_id: str
    dag_run_id: str


def create_app() -> FastAPI:
    """The application that Airflow's api-server mounts."""
    # Deny by default: no route without a login, whatever it forgets to ask; FastAPI's own pages know no login.
    login = [Depends(get_user)]
    app = FastAPI(
        title="wavelift", version=__version__, dependencies=login, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Gate)
    app.add_middleware(SameOrigin)  # the outer one: what is refused takes no place
    app.add_exception_handler(WaveliftError, _wavelift_error)
    app.add_exception_handler(ApiError, _api_error)
    _reading(app)
    _writing(app)
    add_catalog_routes(app)
    add_replication_routes(app)
    add_replication_run_routes(app)
    add_event_routes(app)
    return app


async def _wavelift_error(request: Request, error: Exception) -> JSONResponse:
    status = 404 if isinstance(error, NotFoundError) else 409 if isinstance(error, CONFLICTS) else 503
    answer: dict[str, Any] = {"detail": str(error)}
    if isinstance(error, RefusedError):  # for programs: the rule, and when it will hold no more
        answer |= {name: error.where.get(name) for name in ("rule", "until")} | {"refusals": list(error.refusals)}
    return JSONResponse(answer, status_code=status)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, ApiError) and 400 <= error.status < 500 else 502
    return JSONResponse({"detail": str(error)}, status_code=status)


def _reading(app: FastAPI) -> None:
    @app.get("/migrations")
    def list_migrations(
        user: GetUserDep,
        ledger: LedgerDep,
        airflow: AirflowDep,
        wave: str | None = None,
        state: MigrationState | None = None,
        search: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        """Migrations of the waves that the caller may read, newest first."""
        with ledger.read() as tx:
            page = migrations.list_migrations(
                tx,
                MigrationFilter(
                    wave=wave, states=[state] if state else None, search=search, dag_ids=readable_dags(user)
                ),
                limit=limit,
                offset=offset,
            )
        return {
            "migrations": [_row(migration, airflow) for migration in page.items],
            "total": page.total,
            "limit": page.limit,
            "offset": page.offset,
        }

    @app.get("/migrations/{migration_id}")
    def show_migration(migration_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> dict[str, Any]:
        """Everything about one migration."""
        migration = _readable(ledger, migration_id, user)
        return {**asdict(migration), **_row(migration, airflow)}


def _writing(app: FastAPI) -> None:
    @app.post("/migrations/{migration_id}/cancel")
    def cancel_migration(migration_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> dict[str, Any]:
        """Stop a queued or active migration: its task is failed, its snapshot removed, its import cancelled."""
        _triggerable(ledger, migration_id, user)
        with ledger.write() as tx:
            migration = migrations.request_cancel(tx, migration_id, by=user.get_name(), clock=SystemClock())
        chain = Chain.of_migration(airflow, migration)
        stopped = chain.stop()
        migration = after_cancel(ledger, migration, released=chain.released, clock=SystemClock())
        return {**_row(migration, None), "stopped_tasks": stopped}

    @app.post("/migrations/{migration_id}/launch")
    def launch_migration(migration_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> RunStarted:
        """Launch the instance of a finished import, by a run of the wave's DAG."""
        return _run_mode(_triggerable(ledger, migration_id, user), airflow, "launch")

    @app.post("/migrations/{migration_id}/verify")
    def verify_migration(migration_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> RunStarted:
        """Compare a finished import's image with its manifests again, by a run of the wave's DAG."""
        return _run_mode(_triggerable(ledger, migration_id, user), airflow, "verify")

    @app.post("/cleanup")
    def cleanup(body: CleanupBody, user: GetUserDep, airflow: AirflowDep) -> RunStarted:
        """Look for what ended runs left outside; remove it unless ``dry_run``."""
        dag_id = f"{body.wave}.migrate"
        if not may_trigger(user, dag_id):
            raise HTTPException(403, f"You may not trigger {dag_id}")
        run_id = airflow.trigger(dag_id, {"mode": "cleanup", "dry_run": body.dry_run})
        return RunStarted(dag_id=dag_id, dag_run_id=run_id)


def _readable(ledger: Ledger, migration_id: str, user: Any) -> Migration:
    with ledger.read() as tx:
        migration = migrations.get(tx, migration_id)
    if not may_read(user, migration.dag_id):
        raise HTTPException(403, f"You may not read {migration.dag_id}")
    return migration


def _triggerable(ledger: Ledger, migration_id: str, user: Any) -> Migration:
    migration = _readable(ledger, migration_id, user)
    if not may_trigger(user, migration.dag_id):
        raise HTTPException(403, f"You may not trigger {migration.dag_id}")
    return migration


def _run_mode(migration: Migration, airflow: ApiClient, mode: str) -> RunStarted:
    if not migration.image_id:
        raise HTTPException(409, f"{migration.id} has no image yet: it is {migration.state}")
    run_id = airflow.trigger(migration.dag_id, {"mode": mode, "migrations": [migration.id]})
    return RunStarted(dag_id=migration.dag_id, dag_run_id=run_id)


def _row(migration: Migration, airflow: ApiClient | None) -> dict[str, Any]:
    """One line of the list: id, state, progress, results (AMP-07, AMP-08)."""
    row = {
        "id": migration.id,
        "wave": migration.wave,
        "server": migration.server,
        "state": str(migration.state),
        "phase": migration.phase,
        "progress_pct": migration.progress_pct,
        "bytes_done": migration.bytes_done,
        "bytes_total": migration.bytes_total,
        "import_task_id": migration.import_task_id,
        "image_id": migration.image_id,
        "instance_id": migration.instance_id,
        "error": migration.error,
        "cancel_requested": migration.cancel_requested,
        "dag_id": migration.dag_id,
        "dag_run_id": migration.dag_run_id,
        "created_at": migration.created_at.isoformat(),
        "finished_at": migration.finished_at.isoformat() if migration.finished_at else None,
    }
    if airflow is not None and migration.state is MigrationState.TRANSFERRING:
        row |= _live(migration, airflow)
    return row


def _live(migration: Migration, airflow: ApiClient) -> dict[str, Any]:
    """How far the running transfer is; the task's state store knows, the connector never writes to the ledger."""
    stored = airflow.state_store(
        migration.dag_id, migration.dag_run_id, "server.export", PROGRESS_KEY, map_index=migration.map_index
    )
    moved = TransferProgress.load(stored)
    if moved is None or not migration.bytes_total:
        return {}
    return {
        "phase": "export",
        "bytes_done": moved.done,
        "progress_pct": min(100, 100 * moved.done // migration.bytes_total),
        "bytes_sent": moved.sent,
    }
