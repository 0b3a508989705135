"""Routes of migrations: the list, cancel, launch, verify, cleanup (AMP-07, AMP-08).

Reading needs the right to read the wave's DAG, writing the right to trigger it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query

from wavelift.airflow.rest import ApiClient
from wavelift.base.run import SystemClock
from wavelift.console.access import readable_dags, require_read, require_trigger
from wavelift.console.answers import MigrationCancelled, MigrationDetails, MigrationPage, MigrationRow, RunStarted
from wavelift.console.chain import Chain
from wavelift.console.deps import AirflowDep, LedgerDep, start_run
from wavelift.console.progress import Progress
from wavelift.console.queue import Waiting
from wavelift.console.requests import CleanupBody, MigrationQuery
from wavelift.ledger import Ledger, Migration, migrations
from wavelift.ledger.migrations import MigrationFilter
from wavelift.rules.conf import MigrateConf, MigrateMode
from wavelift.rules.flows import MIGRATE
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.migration.reserve import after_cancel

EXPORT: Final = MIGRATE.step("export").name
BEFORE_EXPORT: Final = MIGRATE.before(EXPORT)


def add_migration_routes(app: FastAPI) -> None:
    _reading(app)
    _writing(app)


def _reading(app: FastAPI) -> None:
    @app.get("/migrations")
    def list_migrations(
        query: Annotated[MigrationQuery, Query()], user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> MigrationPage:
        """Migrations of the waves that the caller may read, newest first."""
        states = [query.state] if query.state else None
        which = MigrationFilter(wave=query.wave, states=states, search=query.search, dag_ids=readable_dags(user))
        with ledger.read() as tx:
            page = migrations.list_migrations(tx, which, limit=query.limit, offset=query.offset)
        progress = Progress(airflow, waiting=Waiting(ledger, user).words)
        return MigrationPage.of(page, migrations=[_row(migration, progress) for migration in page.items])

    @app.get("/migrations/{migration_id}")
    def show_migration(migration_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> MigrationDetails:
        """Everything about one migration."""
        migration = _readable(ledger, migration_id, user)
        progress = Progress(airflow, waiting=Waiting(ledger, user).words)
        return MigrationDetails.of(migration, **_live(migration, progress))


def _writing(app: FastAPI) -> None:
    @app.post("/migrations/{migration_id}/cancel")
    def cancel_migration(
        migration_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> MigrationCancelled:
        """Stop a queued or active migration: its task is failed, its snapshot removed, its import cancelled."""
        _triggerable(ledger, migration_id, user)
        with ledger.write() as tx:
            migration = migrations.request_cancel(tx, migration_id, by=user.get_name(), clock=SystemClock())
        chain = Chain(airflow, migration, migration.map_index)
        stopped = chain.stop()
        migration = after_cancel(ledger, migration, released=chain.released, clock=SystemClock())
        return MigrationCancelled.of(migration, stopped_tasks=stopped)

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
        dag_id = MIGRATE.dag_id(body.wave)
        require_trigger(user, dag_id)
        return start_run(airflow, dag_id, MigrateConf(mode="cleanup", dry_run=body.dry_run))


def _readable(ledger: Ledger, migration_id: str, user: Any) -> Migration:
    with ledger.read() as tx:
        migration = migrations.get(tx, migration_id)
    require_read(user, migration.dag_id)
    return migration


def _triggerable(ledger: Ledger, migration_id: str, user: Any) -> Migration:
    migration = _readable(ledger, migration_id, user)
    require_trigger(user, migration.dag_id)
    return migration


def _run_mode(migration: Migration, airflow: ApiClient, mode: MigrateMode) -> RunStarted:
    if not migration.image_id:
        raise HTTPException(409, f"{migration.id} has no image yet: it is {migration.state}")
    return start_run(airflow, migration.dag_id, MigrateConf(mode=mode, migrations=[migration.id]))


def _row(migration: Migration, progress: Progress) -> MigrationRow:
    return MigrationRow.of(migration, **_live(migration, progress))


def _live(migration: Migration, progress: Progress) -> dict[str, Any]:
    """The fields of an active migration that the ledger does not have: its step, and how far its transfer is."""
    if migration.state.terminal:
        return {}
    at = progress.step_of(migration, migration.map_index)
    fields = at.fields if at else {}
    if at and at.waiting:
        return {**fields, "phase": at.waiting}
    if migration.state is not MigrationState.TRANSFERRING or (at and at.step.name in BEFORE_EXPORT):
        return fields
    moved = progress.moved(migration, EXPORT, migration.map_index)
    if moved is None or not migration.bytes_total:
        return fields
    return {
        "phase": at.step.name if at else EXPORT,
        "bytes_done": moved.done,
        "progress_pct": min(100, 100 * moved.done // migration.bytes_total),
        "bytes_sent": moved.sent,
        **fields,
    }
