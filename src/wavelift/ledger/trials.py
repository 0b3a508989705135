"""Test instances: launched to try an image, ended by hand or when their time is over.

Every change needs the lock of the wave's jobs and writes an event to the audit trail.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun
from wavelift.ledger import jobs
from wavelift.ledger.cutover_records import TestInstance
from wavelift.ledger.database import Tx
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.spine import Rows, Words, matching, of_run
from wavelift.ledger.tables_cutover import test_instance
from wavelift.rules.cutover import TrialState, require_trial_way
from wavelift.rules.flows import TEST


def trial_id(run_key: str) -> str:
    """The id of the test instance that one server has in one DAG run."""
    return f"{TEST.prefix}{run_hash(run_key)}"


class _Trials(Rows[TestInstance]):
    def locks(self, known: TestInstance) -> tuple[str, ...]:
        return (jobs.lock_name(known.wave),)

    def _require_way(self, known: TestInstance, to: TrialState) -> None:
        require_trial_way(known.state, to, test=known.id)

    def _arrival(self, known: TestInstance, to: TrialState, at: datetime) -> Mapping[str, Any]:
        return {"finished_at": at if to.terminal else None}


_rows = _Trials(
    test_instance,
    TestInstance,
    Words(kind="test_instance", noun="test instance", key="test", listing="`wavelift cutover tests`"),
)
ROWS: Final = _rows
find = _rows.find
get = _rows.get
apply = _rows.apply


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFilter:
    """Which test instances to list. Fields that are not set do not restrict it."""

    wave: str | None = None
    waves: Collection[str] | None = None
    """Waves that the caller may read. If it is empty, the list is empty."""
    server: str | None = None
    states: Collection[TrialState] | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        among = {"wave": self.waves, "state": self.states}
        return matching(test_instance, {"wave": self.wave, "server": self.server}, among)


def list_trials(
    tx: Tx, which: TrialFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[TestInstance]:
    """One page of test instances, newest first."""
    order = (test_instance.c.created_at.desc(), test_instance.c.id)
    return _rows.page(tx, (which or TrialFilter()).conditions(), order=order, limit=limit, offset=offset)


def of_dag_run(tx: Tx, run: DagRun) -> tuple[TestInstance, ...]:
    """The test instances of one DAG run, by server."""
    return _rows.all(tx, of_run(test_instance, run), order=(test_instance.c.server,))


def newest_result(tx: Tx, wave: str, server: str) -> TestInstance | None:
    """The newest test of a server of which the result is known, whether or not its instance still stands."""
    mine = (test_instance.c.wave == wave) & (test_instance.c.server == server) & test_instance.c.passed.is_not(None)
    found = _rows.all(tx, mine, order=(test_instance.c.created_at.desc(), test_instance.c.id), limit=1)
    return found[0] if found else None


def standing(tx: Tx, wave: str | None = None) -> tuple[TestInstance, ...]:
    """Test instances that have not ended, oldest first."""
    where = [test_instance.c.state != TrialState.ENDED, *matching(test_instance, {"wave": wave}, {})]
    return _rows.all(tx, *where, order=(test_instance.c.created_at, test_instance.c.id))


def due(tx: Tx, now: datetime) -> tuple[TestInstance, ...]:
    """Test instances whose time is over, or whose end was begun and not finished."""
    over = (test_instance.c.ends_at <= now) | (test_instance.c.state == TrialState.ENDING)
    return _rows.all(tx, test_instance.c.state != TrialState.ENDED, over, order=(test_instance.c.created_at,))


def insert(tx: Tx, *, at: datetime, by: str, run: DagRun, run_key: str, **columns: Any) -> TestInstance:
    """Write that an instance is going to be launched."""
    made = _rows.insert(
        tx,
        id=trial_id(run_key),
        run_key=run_key,
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        state=TrialState.LAUNCHING,
        created_at=at,
        updated_at=at,
        **columns,
    )
    _rows.tell(tx, made, "intended", at=at, by=by, details={"server": made.server, "image": made.image_id})
    return made
