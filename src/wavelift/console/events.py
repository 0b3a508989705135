"""The audit trail of one migration, replication job or run: who did what, and when."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query

from wavelift.console.access import may_read
from wavelift.console.deps import LedgerDep
from wavelift.console.replication import readable_job, require_read
from wavelift.ledger import Ledger, migrations, replication_runs
from wavelift.ledger.events import EVENTS_A_PAGE, list_events


def add_event_routes(app: FastAPI) -> None:
    @app.get("/events/{object_id}")
    def list_object_events(
        object_id: str,
        user: GetUserDep,
        ledger: LedgerDep,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = EVENTS_A_PAGE,
    ) -> dict[str, Any]:
        """What happened to a migration, a replication job or a run, oldest first; ``after`` is the last id seen."""
        kind = _kind(ledger, object_id, user)
        with ledger.read() as tx:
            found = list_events(tx, object_kind=kind, object_id=object_id, after=after, limit=limit)
        return {
            "events": [
                {
                    "id": each.id,
                    "at": each.at.isoformat(),
                    "actor": each.actor,
                    "action": each.action,
                    "dag_run_id": each.dag_run_id,
                    "details": each.details,
                }
                for each in found
            ]
        }


def _kind(ledger: Ledger, id: str, user: Any) -> str:
    """What the id names, once it is known that the caller may read it."""
    match id.partition("-")[0]:
        case "mig":
            with ledger.read() as tx:
                dag_id = migrations.get(tx, id).dag_id
            if not may_read(user, dag_id):
                raise HTTPException(403, f"You may not read {dag_id}")
            return "migration"
        case "job":
            readable_job(ledger, id, user)
            return "replication_job"
        case "run":
            with ledger.read() as tx:
                wave = replication_runs.get(tx, id).wave
            require_read(user, wave)
            return "replication_run"
    raise HTTPException(422, f"{id} names no migration (mig-…), replication job (job-…) or run (run-…)")
