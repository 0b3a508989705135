"""Starting a DAG run from inside a task, with the task's own token: no login, and the requester is inherited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wavelift.base.errors import WaveliftError
from wavelift.base.run import DagRun


def start_run(run: DagRun, conf: Mapping[str, Any], *, note: str = "") -> bool:
    """Create a DAG run of this id; False: there is one already, so that a repeated call is harmless.

    Whoever triggered the run of this task is recorded as who triggered the new one. Works in a teardown, too.

    :raises WaveliftError: Airflow did not create it.
    """
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse, TriggerDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    asked = TriggerDagRun(dag_id=run.dag_id, run_id=run.dag_run_id, conf=dict(conf), note=note or None)
    answer = SUPERVISOR_COMMS.send(asked)
    if not isinstance(answer, ErrorResponse):
        return True
    if answer.error is ErrorType.DAGRUN_ALREADY_EXISTS:
        return False
    raise WaveliftError(
        f"Airflow did not start {run}",
        detail=f"{answer.error.value} {answer.detail or ''}"[:200],
        next_step=f"Look whether the DAG {run.dag_id} exists, then clear this task",
    )
