"""Where active servers are, and how far their transfers. Airflow has it: a connector never writes to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from wavelift.airflow.rest import RETRY, UNDER_WAY, ApiClient, ApiError
from wavelift.base.rates import TransferProgress
from wavelift.base.tries import FailedTry
from wavelift.ledger import ServerRun
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.flows import Step

T = TypeVar("T")
Moving = ServerRun[Any] | Cutover | InstanceExport
"""One server in one DAG run, or the one thing that a run is about: its tasks are not mapped."""

DEFERRED: Final = "deferred"
MOST_QUESTIONS: Final = 100
"""To Airflow, for one answer of ours. More transfers than a fleet of connectors runs at a time."""
MOST_SECONDS: Final = 10.0
"""For all questions of one answer."""


@dataclass(frozen=True, slots=True)
class StepNow:
    """The step that a server is at.

    :ivar number: of the try, from 1.
    :ivar failed: the last try, while the next one is waited for.
    :ivar waiting: its place in the queue, in words, while it waits for a slot.
    """

    step: Step
    state: str
    number: int
    failed: FailedTry | None = None
    waiting: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """Of a :class:`~wavelift.console.answers.ServerStep`."""
        failed = self.failed or FailedTry()
        return {
            "step": self.step.name,
            "step_state": self.state,
            "step_try": self.number,
            "step_tries": failed.of,
            "retry_reason": failed.what,
            "retry_at": failed.next_at,
            "waiting": self.waiting,
        }


@dataclass(slots=True)
class _Tasks:
    """The tasks under way of one DAG run, and which server stands at which map index."""

    under_way: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Map index → task id → its instance."""
    indexes: dict[str, int] = field(default_factory=dict)
    """Server → map index, of those whose name a task has told: it tells it when it begins."""
    named: bool = False
    """The names that only ended tasks tell were asked for."""

    def note(self, rows: list[dict[str, Any]]) -> None:
        """An instance that has not begun is named by its index: a server may be called so, too."""
        for row in rows:
            name, index = row.get("rendered_map_index"), int(row["map_index"])
            if name and name != str(index):
                self.indexes[name] = index
            elif name:
                self.indexes.setdefault(name, index)


class Progress:
    """Step and progress of the rows of one answer. A row that would cost too much keeps what the ledger knows.

    The tasks of a DAG run are asked for once, however many rows it has: those that are under way, a few per server.
    """

    def __init__(
        self,
        airflow: ApiClient,
        now: Callable[[], float] = time.monotonic,
        *,
        waiting: Callable[[Any], str] = lambda _: "",
    ) -> None:
        """:param waiting: the place in the queue of a server whose task is deferred, in words; empty: it has none."""
        self._airflow = airflow
        self._waiting = waiting
        self._now = now
        self._until = now() + MOST_SECONDS
        self._left = MOST_QUESTIONS
        self._runs: dict[tuple[str, str], _Tasks] = {}

    def index_of(self, run: Moving) -> int | None:
        """Where a server stands among the mapped tasks of its run; None if Airflow does not tell.

        Of a server whose next task waits, only those that ended tell the name: its first one, at least.
        """
        tasks = self._tasks(run)
        if run.server not in tasks.indexes and not tasks.named:
            tasks.named = True
            first = run.flow.chain[0].task_id
            rows = self._ask(
                lambda timeout: self._airflow.task_instances(run.dag_id, run.dag_run_id, task_id=first, timeout=timeout)
            )
            tasks.note(rows or [])
        return tasks.indexes.get(run.server)

    def step_of(self, run: Moving, index: int, steps: Sequence[Step] = ()) -> StepNow | None:
        """The step of the server at this map index; None between two steps, and if Airflow does not tell.

        :param steps: of a run whose tasks are not mapped, in their order.
        """
        mine = self._tasks(run).under_way.get(index, {})
        step = next((step for step in steps or run.flow.chain if step.task_id in mine), None)
        if step is None:
            return None
        row = mine[step.task_id]
        failed = None
        if row["state"] == RETRY:
            failed = self._ask(
                lambda timeout: self._airflow.failed_try(
                    run.dag_id, run.dag_run_id, step.task_id, map_index=index, timeout=timeout
                )
            )
        waiting = self._waiting(run) if row["state"] == DEFERRED else ""
        return StepNow(step, row["state"], int(row.get("try_number") or 0), failed, waiting)

    def moved(self, run: Moving, step: str, index: int) -> TransferProgress | None:
        """The bytes that a step has moved for the server at this map index."""
        return self._ask(
            lambda timeout: self._airflow.progress(
                run.dag_id, run.dag_run_id, run.flow.task_id(step), map_index=index, timeout=timeout
            )
        )

    def _tasks(self, run: Moving) -> _Tasks:
        place = (run.dag_id, run.dag_run_id)
        if place not in self._runs:
            tasks = self._runs[place] = _Tasks()
            rows = self._ask(lambda timeout: self._airflow.task_instances(*place, states=UNDER_WAY, timeout=timeout))
            tasks.note(rows or [])
            tasks.named = rows is None  # who does not tell this does not tell the names either
            for row in rows or ():
                tasks.under_way.setdefault(int(row["map_index"]), {})[row["task_id"]] = row
        return self._runs[place]

    def _ask(self, question: Callable[[float], T]) -> T | None:
        left = self._until - self._now()
        if self._left <= 0 or left <= 0:
            return None
        self._left -= 1
        try:
            return question(left)
        except ApiError as error:
            if not error.status:  # no answer: the next question would wait for one, too
                self._left = 0
            return None
