"""Routes of the queue: who waits for which slot behind whom, and who goes first (AMP-04).

Reading shows the servers of the waves that the caller may read. Others count in the positions, and are not named.
Moving needs the right to trigger the wave's DAG, and that in its environment.
"""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI

from wavelift.base.errors import NotFoundError
from wavelift.base.run import SystemClock
from wavelift.console.access import readable_dags, require_read
from wavelift.console.caller import CallerDep
from wavelift.console.deps import LedgerDep
from wavelift.console.queue_answers import QueueList, QueueRow, SlotHolder
from wavelift.console.requests import PriorityBody
from wavelift.ledger import Ledger, ServerRun
from wavelift.ledger.server_runs import rows_of
from wavelift.rules.authority import priority_action
from wavelift.rules.queue import Priority
from wavelift.services.common import slots
from wavelift.services.common.line import Line, MayRead, lines


def add_queue_routes(app: FastAPI) -> None:
    @app.get("/queue")
    def show_queue(user: GetUserDep, ledger: LedgerDep) -> QueueList:
        """The servers that wait for a slot, the next one first, of the waves that the caller may read."""
        readable = readable_dags(user)
        return _listed(ledger, readable.__contains__)

    @app.post("/queue/{server_run_id}/priority")
    def move_in_queue(server_run_id: str, body: PriorityBody, caller: CallerDep, ledger: LedgerDep) -> QueueRow:
        """Give a migration or replication run that waits another priority; its servers' order of asking stays."""
        known = _known(ledger, server_run_id)
        require_read(caller.user, known.dag_id)
        caller.require(known.dag_id, priority_action(body.priority))
        priority = Priority.named(body.priority)
        slots.prefer(ledger, known.run_key, priority, by=caller.requester.name, clock=SystemClock())
        readable = readable_dags(caller.user) | {known.dag_id}
        return next(row for row in _listed(ledger, readable.__contains__).queue if row.id == known.id)


class Waiting:
    """What the rows of one answer say of servers that wait: read when the first such row comes."""

    def __init__(self, ledger: Ledger, user: Any) -> None:
        self._ledger = ledger
        self._user = user
        self._words: dict[str, str] | None = None

    def words(self, known: ServerRun[Any]) -> str:
        """What it waits for, in words; empty: it waits for no slot."""
        return self.words_of(known.id)

    def words_of(self, id: str) -> str:
        """The same of a migration or replication run, by its id."""
        if self._words is None:
            may_read = readable_dags(self._user).__contains__
            self._words = {line.moving.id: line.words(may_read) for line in lines(self._ledger)}
        return self._words.get(id, "")


def _listed(ledger: Ledger, may_read: MayRead) -> QueueList:
    return QueueList(queue=[_row(line, may_read) for line in lines(ledger) if may_read(line.moving.run.dag_id)])


def _row(line: Line, may_read: MayRead) -> QueueRow:
    named = [one for one in line.by if may_read(one.run.dag_id)]
    return QueueRow(
        id=line.moving.id,
        wave=line.moving.wave,
        server=line.moving.server,
        priority=line.priority.word,
        waits_for=str(line.place.kind),
        scope=line.place.scope,
        position=line.position,
        in_use=line.taken,
        limit=line.limit,
        in_use_by=[SlotHolder(id=one.id, wave=one.wave, server=one.server) for one in named],
        in_use_by_others=len(line.by) - len(named),
        maintenance=line.maintenance,
        waits_since=line.since,
        words=line.words(may_read),
        dag_id=line.moving.run.dag_id,
        dag_run_id=line.moving.run.dag_run_id,
    )


def _known(ledger: Ledger, id: str) -> ServerRun[Any]:
    rows = rows_of(id)
    if rows is None:
        raise NotFoundError("Nothing has such an id", next_step="See `wavelift queue`.", id=id)
    with ledger.read() as tx:
        known: ServerRun[Any] = rows.get(tx, id)
    return known
