"""What Airflow says of other runs and their tasks: what a dead one holds is free."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from airflow.sdk.exceptions import AirflowRuntimeError

from wavelift.base.errors import WaveliftError
from wavelift.operators._keys import PLACE_KEY
from wavelift.rules.flows import CONTINUE_FROM, EVERY_FLOW, PREFLIGHT, RELEASE

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import DagRun

log = logging.getLogger(__name__)

GONE: Final = (404, 410)
"""How Airflow answers a task instance that it has replaced by another try, or what it has deleted."""
LIVING: Final = ("queued", "running")
"""States of a DAG run in which its tasks may still do something."""
ENDED_STATES: Final = ("success", "failed", "upstream_failed", "skipped", "removed")
NOT_BEGUN: Final = (None, "scheduled", "queued")
"""States of a task whose next try has not read its server yet."""
CLEARED: Final = "restarting"
"""The state of a task that was cleared while it ran, until its process has ended."""


class AirflowLiveness:
    """:class:`~wavelift.base.run.Liveness` as a task asks Airflow."""

    def __init__(self, context: Context) -> None:
        self._ti = context["ti"]

    def run(self, run: DagRun) -> bool:
        if (run.dag_id, run.dag_run_id) == (self._ti.dag_id, self._ti.run_id):
            return True
        try:
            state = self._ti.get_dagrun_state(run.dag_id, run.dag_run_id)
        except AirflowRuntimeError as error:
            if status_of(error) in GONE:
                return False
            raise WaveliftError(
                f"Airflow did not tell whether {run} still runs",
                detail=str(error.error.detail)[:200],
                next_step="The retry asks again; look at Airflow's api-server",
            ) from error
        return state in LIVING  # a str enum: its str() is not its value

    def ended(self, run: DagRun, holders: Collection[str], kind: str) -> Collection[str]:
        """A holder is alive unless all its tasks have ended for certain: see :class:`MappedGroup`.

        Slots that the run's own tasks hold, for all its servers together, are alive until each of these has ended.
        When Airflow does not answer, all are alive: a task that asks for a slot need not fail for that.
        """
        steps = [step for flow in EVERY_FLOW for step in flow.steps if kind in step.holds]
        if not any(step.per_server for step in steps):
            return holders if self._all_ended(run, [step.task_id for step in steps]) else ()
        tasks = {step.task_id for step in steps}
        other: dict[str, Any] = {"dag_id": run.dag_id, "run_id": run.dag_run_id}
        try:
            listed = self._ti.xcom_pull(task_ids=PREFLIGHT, map_indexes=-1, **other)
            # As a list of tasks: for a single one, Airflow gives a single value without its list.
            noted = self._ti.xcom_pull(task_ids=[CONTINUE_FROM], key=PLACE_KEY, **other)
            states = self._ti.get_task_states(dag_id=run.dag_id, run_ids=[run.dag_run_id], task_ids=sorted(tasks))
        except AirflowRuntimeError as error:
            log.warning("Airflow did not tell which tasks of %s have ended: nothing is freed: %s", run, error)
            return ()
        group = MappedGroup.of(listed or (), [note for note in noted or () if note], states.get(run.dag_run_id, {}))
        last = {RELEASE} if RELEASE in tasks else tasks
        prefix = f"{run.dag_id}/{run.dag_run_id}/"
        return [one for one in holders if group.ended(one.removeprefix(prefix), tasks=tasks, last=last)]

    def _all_ended(self, run: DagRun, tasks: Sequence[str]) -> bool:
        """Whether all of these tasks of a run, none of them mapped, have ended. A task that was cleared has no state:
        it will run again."""
        try:
            found = self._ti.get_task_states(dag_id=run.dag_id, run_ids=[run.dag_run_id], task_ids=list(tasks))
        except AirflowRuntimeError as error:
            log.warning("Airflow did not tell which tasks of %s have ended: nothing is freed: %s", run, error)
            return False
        states = found.get(run.dag_run_id, {})
        return set(tasks) <= states.keys() and all(state in ENDED_STATES for state in states.values())


Entry = tuple[str, int | None]
"""A server's name, and the try of the pre-flight that listed it."""


@dataclass(frozen=True, slots=True)
class MappedGroup:
    """The tasks of a run's servers, and what is certain about which server they are for.

    A task reads the server at its map index when it begins. The pre-flight may run again and list other servers while
    the tasks of the earlier list go on, or are tried again. So a map index belongs to a server for certain only while
    ``reserve`` at this index noted what the pre-flight lists there now, of the same try.

    :param listed: what the pre-flight lists now, by map index.
    :param noted: what ``reserve`` noted at its latest try, by map index.
    :param states: task id → map index → state; -1 stands for a task that is not expanded yet.
    """

    listed: Mapping[int, Entry]
    noted: Mapping[int, Entry]
    states: Mapping[str, Mapping[int, str | None]]

    @classmethod
    def of(
        cls, listed: Iterable[Mapping[str, Any]], noted: Iterable[Mapping[str, Any]], states: Mapping[str, str | None]
    ) -> Self:
        """From the XComs, and states by ``task`` or ``task_<map index>``, as Airflow returns them."""
        found: dict[str, dict[int, str | None]] = {}
        for name, state in states.items():
            task, _, index = name.rpartition("_")
            mapped = index.isdecimal()
            found.setdefault(task if mapped else name, {})[int(index) if mapped else -1] = state
        return cls(
            {index: (one["name"], one.get("try")) for index, one in enumerate(listed)},
            {one["map_index"]: (one["name"], one["try"]) for one in noted},
            found,
        )

    def ended(self, server: str, *, tasks: Set[str], last: Set[str]) -> bool:
        """Whether all tasks of a server have ended, of those that ``tasks`` names; False when that is not certain.

        :param last: of them, those of which one must exist: before it, the group is still being expanded.
        """
        now = {index for index, (name, _) in self.listed.items() if name == server}
        before = {index for index, (name, _) in self.noted.items() if name == server}
        if not now or any(not self._certain(index) for index in now) or self._anybody_s(tasks):
            return False
        expanded = all(any(index in self.states.get(task, ()) for task in last) for index in now)
        own = (self.states[task].get(index, "removed") for task in tasks & self.states.keys() for index in now | before)
        return expanded and all(state in ENDED_STATES for state in own)

    def _certain(self, index: int) -> bool:
        return index in self.listed and self.noted.get(index) == self.listed[index]

    def _anybody_s(self, tasks: Set[str]) -> bool:
        """Whether some task goes on, or is not expanded, of which nobody can tell the server.

        ``reserve`` is not meant: a try of it that has noted nothing yet has asked for nothing, and keeps what it asks
        for. A task that has not begun will read what is listed now. One that was cleared while it ran still ends.
        """
        return any(
            state not in ENDED_STATES
            if index < 0
            else state == CLEARED or (state not in (*ENDED_STATES, *NOT_BEGUN) and not self._certain(index))
            for task in tasks
            if task != CONTINUE_FROM
            for index, state in self.states.get(task, {}).items()
        )


def status_of(error: AirflowRuntimeError) -> int | None:
    """The HTTP status with which Airflow's execution API refused."""
    return (error.error.detail or {}).get("status_code")
