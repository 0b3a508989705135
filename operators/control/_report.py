"""What the reports of both DAGs read of a run's task instances: how each server's tasks ended, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from wavelift.operators._base import FAILURE_KEY

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.common.report import TaskOutcome

GROUP: Final = "server."
FAILED_STATES: Final = ("failed", "upstream_failed", "removed")


def task_states(context: Context) -> dict[str, str]:
    """``task`` or ``task_<map index>`` → state, of the run that reports."""
    ti = context["ti"]
    return dict(ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {}))


def why_stopped(context: Context, states: Mapping[str, str], ended_by: Mapping[str, Collection[str]]) -> str:
    """What ended the run before its servers did. Airflow lets the report, a teardown, alone decide how the run ends.

    :param ended_by: task → states of it with which the run was over.
    """
    for name, bad in ended_by.items():
        if states.get(name) in bad:
            return f"{name}: {_words(context, name, -1) or 'it was stopped'}"
    return ""


def ended_by(first: str) -> dict[str, Collection[str]]:
    """For :func:`why_stopped`: neither ``admit`` nor the task that the run's mode begins with is skipped by itself.

    :param first: empty: the mode has none.
    """
    return dict.fromkeys(("admit", first) if first else ("admit",), ("failed", "skipped"))


def task_outcomes(context: Context, states: Mapping[str, str], servers: Sequence[str]) -> list[TaskOutcome]:
    """Each server's failed tasks and what they said; only those are asked for their words (facts 2).

    :param servers: in the order of their map indexes.
    """
    from wavelift.services.common.report import TaskOutcome

    found = []
    for index, server in enumerate(servers):
        mine = {name.rpartition("_")[0]: state for name, state in states.items() if name.endswith(f"_{index}")}
        failed = tuple(name for name, state in mine.items() if name.startswith(GROUP) and state in FAILED_STATES)
        said = (_words(context, name, index) or f"{name} was stopped" for name in failed if mine[name] == "failed")
        found.append(TaskOutcome(server=server, failed_tasks=failed, words=next(said, "")))
    return found


def _words(context: Context, task: str, map_index: int) -> str:
    left: dict[str, Any] = context["ti"].xcom_pull(task_ids=task, key=FAILURE_KEY, map_indexes=map_index) or {}
    return str(left.get("what") or "")
