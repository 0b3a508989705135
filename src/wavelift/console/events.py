"""The audit trail of one migration, replication job, run or instance export: who did what, and when."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query

from wavelift.console.access import require_read
from wavelift.console.audit_answers import EventList, EventRow
from wavelift.console.deps import LedgerDep
from wavelift.console.lists import readable
from wavelift.console.replication import readable_job
from wavelift.console.values import LARGEST
from wavelift.ledger import Ledger, exports, jobs
from wavelift.ledger.events import EVENTS_A_PAGE, list_events
from wavelift.ledger.server_runs import SERVER_RUNS, rows_of
from wavelift.rules.flows import EXPORT


def add_event_routes(app: FastAPI) -> None:
    @app.get("/events/{object_id}")
    def list_object_events(
        object_id: str,
        user: GetUserDep,
        ledger: LedgerDep,
        after: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = EVENTS_A_PAGE,
    ) -> EventList:
        """What happened to a migration, a replication job, a run or an export, oldest first; ``after``: the last id."""
        kind = _kind(ledger, object_id, user)
        with ledger.read() as tx:
            found = list_events(tx, object_kind=kind, object_id=object_id, after=after, limit=limit)
        return EventList(events=[EventRow.of(each) for each in found])


def _kind(ledger: Ledger, id: str, user: Any) -> str:
    """What the id names, once it is known that the caller may read it."""
    if id.startswith(jobs.PREFIX):
        readable_job(ledger, id, user)
        return "replication_job"
    if id.startswith(EXPORT.prefix):
        readable(user, ledger, exports.get, id)
        return exports.EXPORT_KIND
    if (rows := rows_of(id)) is None:
        prefixes = ", ".join(f"{each.words.noun} ({each.flow.prefix}…)" for each in SERVER_RUNS)
        exported = f"instance export ({EXPORT.prefix}…)"
        raise HTTPException(422, f"{id} names no {prefixes}, {exported} or replication job ({jobs.PREFIX}…)")
    with ledger.read() as tx:
        known = rows.get(tx, id)
    require_read(user, known.dag_id)
    return rows.words.kind
