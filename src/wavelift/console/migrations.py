"""Routes of migrations: the list, new ones, cancel, launch, verify, cleanup (AMP-04, AMP-07, AMP-08).

Reading needs the right to read the wave's DAG, writing the right to trigger it and that in the environment.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query

from wavelift.airflow.rest import ApiClient
from wavelift.base.run import SystemClock
from wavelift.console.access import readable_dags
from wavelift.console.answers import (
    MigrationCancelled,
    MigrationDetails,
    MigrationPage,
    MigrationRow,
    MigrationsStarted,
    RunStarted,
)
from wavelift.console.caller import Caller, CallerDep
from wavelift.console.chain import Chain
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep, start_run
from wavelift.console.lists import readable, run_in
from wavelift.console.on_demand import context_of, is_over, make_run, new_run, require_awake
from wavelift.console.progress import Progress
from wavelift.console.queue import Waiting
from wavelift.console.requests import CleanupBody, MigrateBody, MigrationQuery
from wavelift.ledger import Ledger, Migration, migrations
from wavelift.ledger.migrations import MigrationFilter
from wavelift.rules.authority import Action, cleanup_action
from wavelift.rules.conf import MigrateConf, MigrateMode
from wavelift.rules.flows import MIGRATE
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.common.admit import RunRequest
from wavelift.services.migration.admit import admit
from wavelift.services.migration.reserve import after_cancel
from wavelift.services.migration.waiting import end_cancelled, give_back

EXPORT: Final = MIGRATE.step("export").name
BEFORE_EXPORT: Final = MIGRATE.before(EXPORT)
WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; `wavelift migrate` does it by itself"


def add_migration_routes(app: FastAPI) -> None:
    _reading(app)
    _making(app)
    _writing(app)


def _reading(app: FastAPI) -> None:
    @app.get("/migrations")
    def list_migrations(
        query: Annotated[MigrationQuery, Query()], user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> MigrationPage:
        """Migrations of the waves that the caller may read, newest first; ``dag_run_id`` goes with ``wave``."""
        which = MigrationFilter(
            wave=query.wave,
            run=run_in(MIGRATE, query.wave, query.dag_run_id),
            states=[query.state] if query.state else None,
            search=query.search,
            dag_ids=readable_dags(user),
        )
        with ledger.read() as tx:
            page = migrations.list_migrations(tx, which, limit=query.limit, offset=query.offset)
        progress = Progress(airflow, waiting=Waiting(ledger, user).words)
        return MigrationPage.of(page, migrations=[_row(migration, progress) for migration in page.items])

    @app.get("/migrations/{migration_id}")
    def show_migration(migration_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> MigrationDetails:
        """Everything about one migration."""
        migration = readable(user, ledger, migrations.get, migration_id)
        progress = Progress(airflow, waiting=Waiting(ledger, user).words)
        return MigrationDetails.of(migration, **_live(migration, progress))


def _making(app: FastAPI) -> None:
    @app.post("/waves/{wave}/migrations")
    def migrate(
        wave: str, body: MigrateBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep, specs: SpecsDep
    ) -> MigrationsStarted:
        """Migrate servers now: their ids are in the answer, before any task has begun (AMP-04)."""
        dag_id = MIGRATE.dag_id(wave)
        caller.require(dag_id, Action.MIGRATE)
        require_awake(airflow, dag_id, WAY_OUT)
        run = new_run(dag_id, body.request_id or "")
        conf = MigrateConf(**body.model_dump(exclude={"request_id"}, exclude_unset=True))
        ctx = context_of(run, airflow, caller.requester.name)
        admitted = admit(ledger, RunRequest(wave, conf.given(), first=True), specs.wave, ctx, rights=caller.rights)
        make_run(airflow, run, conf, body.note or "", give_back=lambda: give_back(ledger, run, SystemClock()))
        with ledger.read() as tx:
            rows = migrations.of_dag_run(tx, run)
        return MigrationsStarted(
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            migrations=[MigrationRow.of(row) for row in sorted(rows, key=lambda row: row.server)],
            with_preflight=[plan.server for plan in admitted.wave.servers if plan.selector.many],
        )


def _writing(app: FastAPI) -> None:
    @app.post("/migrations/{migration_id}/cancel")
    def cancel_migration(
        migration_id: str, user: GetUserDep, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> MigrationCancelled:
        """Stop a queued or active migration: its task is failed, its snapshot removed, its import cancelled."""
        _changeable(ledger, migration_id, caller, stops=True)
        with ledger.write() as tx:
            migration = migrations.request_cancel(tx, migration_id, by=user.get_name(), clock=SystemClock())
        if migration.waits:
            return MigrationCancelled.of(_never_begins(ledger, airflow, migration), stopped_tasks=[], begun=False)
        chain = Chain(airflow, migration, migration.map_index)
        stopped = chain.stop()
        migration = after_cancel(ledger, migration, released=chain.released, clock=SystemClock())
        return MigrationCancelled.of(migration, stopped_tasks=stopped)

    @app.post("/migrations/{migration_id}/launch")
    def launch_migration(migration_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> RunStarted:
        """Launch the instance of a finished import, by a run of the wave's DAG."""
        return _run_mode(_changeable(ledger, migration_id, caller), caller, airflow, "launch")

    @app.post("/migrations/{migration_id}/verify")
    def verify_migration(migration_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> RunStarted:
        """Compare a finished import's image with its manifests again, by a run of the wave's DAG."""
        return _run_mode(_changeable(ledger, migration_id, caller), caller, airflow, "verify")

    @app.post("/cleanup")
    def cleanup(body: CleanupBody, caller: CallerDep, airflow: AirflowDep) -> RunStarted:
        """Look for what ended runs left outside; remove it unless ``dry_run``, which needs ``administer``."""
        dag_id = MIGRATE.dag_id(body.wave)
        caller.require(dag_id, cleanup_action(dry_run=body.dry_run))
        return start_run(airflow, dag_id, MigrateConf(mode="cleanup", dry_run=body.dry_run))


def _never_begins(ledger: Ledger, airflow: ApiClient, migration: Migration) -> Migration:
    """Its ``reserve`` refuses it, and stops no other server. Nobody would end it when the DAG run is over, or gone: one
    that is not there may be about to be made."""
    if is_over(airflow, migration.run, reserved_at=migration.created_at):
        return end_cancelled(ledger, migration.id, clock=SystemClock())
    return migration


def _changeable(ledger: Ledger, migration_id: str, caller: Caller, *, stops: bool = False) -> Migration:
    migration = readable(caller.user, ledger, migrations.get, migration_id)
    caller.require(migration.dag_id, Action.MIGRATE, stops=stops)
    return migration


def _run_mode(migration: Migration, caller: Caller, airflow: ApiClient, mode: MigrateMode) -> RunStarted:
    caller.require_where([migration.run], Action.MIGRATE)
    if not migration.image_id:
        raise HTTPException(409, f"{migration.id} has no image yet: it is {migration.state}")
    return start_run(airflow, migration.dag_id, MigrateConf(mode=mode, migrations=[migration.id]))


def _row(migration: Migration, progress: Progress) -> MigrationRow:
    return MigrationRow.of(migration, **_live(migration, progress))


def _live(migration: Migration, progress: Progress) -> dict[str, Any]:
    """The fields of an active migration that the ledger does not have: its step, and how far its transfer is."""
    if migration.state.terminal or migration.waits:  # before `reserve` no task is this server's
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
