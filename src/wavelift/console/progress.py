"""How far running transfers are. Airflow's task state store has it: a connector never writes to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.rates import TransferProgress
from wavelift.ledger import ServerRun

T = TypeVar("T")

MOST_QUESTIONS: Final = 100
"""To Airflow, for one answer of ours. More transfers than a fleet of connectors runs at a time."""
MOST_SECONDS: Final = 10.0
"""For all questions of one answer."""


class Progress:
    """The progress of the rows of one answer. A row that would cost too much keeps what the ledger knows.

    The tasks of a DAG run are asked for once, however many rows it has.
    """

    def __init__(self, airflow: ApiClient, now: Callable[[], float] = time.monotonic) -> None:
        self._airflow = airflow
        self._now = now
        self._until = now() + MOST_SECONDS
        self._left = MOST_QUESTIONS
        self._indexes: dict[tuple[str, str, str], dict[str, int]] = {}

    def of_server(self, run: ServerRun[Any], task_id: str) -> TransferProgress | None:
        """Of the server of ``run``, wherever it stands among the mapped tasks."""
        place = (run.dag_id, run.dag_run_id, task_id)
        if place not in self._indexes:
            self._indexes[place] = self._ask(lambda timeout: self._begun(*place, timeout)) or {}
        index = self._indexes[place].get(run.server)
        return None if index is None else self.of(run, task_id, index)

    def of(self, run: ServerRun[Any], task_id: str, map_index: int) -> TransferProgress | None:
        """Of one mapped task."""
        return self._ask(
            lambda timeout: self._airflow.progress(
                run.dag_id, run.dag_run_id, task_id, map_index=map_index, timeout=timeout
            )
        )

    def _begun(self, dag_id: str, run_id: str, task_id: str, timeout: float) -> dict[str, int]:
        """Server → map index, of those of the mapped tasks that have begun: a task tells its server then."""
        rows = self._airflow.task_instances(dag_id, run_id, task_id=task_id, timeout=timeout)
        return {row["rendered_map_index"]: int(row["map_index"]) for row in rows if row.get("rendered_map_index")}

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
