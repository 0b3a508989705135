"""Runs that are asked for through our REST API: their servers have ids in the ledger before there is a DAG run.

What the ledger reserves is reserved under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. So a refusal comes before any DAG run exists.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from fastapi import HTTPException

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.names import ON_DEMAND
from wavelift.base.run import DagRun, MemoryCheckpoints, RunContext, SystemClock
from wavelift.console.deps import require_loaded

ENDED: Final = ("success", "failed", "")
"""What a DAG run that is over, or was deleted, is."""
CONFLICT: Final = 409
SERVER_ERROR: Final = 500


def require_awake(airflow: ApiClient, dag_id: str, way_out: str) -> None:
    """A run of a paused DAG would stay queued.

    :raises HTTPException: 404, when Airflow does not know the DAG; 409, when it is paused.
    """
    if require_loaded(airflow, dag_id):
        raise HTTPException(409, f"{dag_id} is paused: nothing starts; {way_out}")


def new_run(dag_id: str, name: str = "") -> DagRun:
    """The DAG run that will be made.

    :param name: by which the caller will know it again; empty: by time and chance.
    """
    return DagRun(dag_id, ON_DEMAND + (name or f"{SystemClock().now():%Y-%m-%dT%H:%M:%S}_{secrets.token_hex(6)}"))


def context_of(run: DagRun, airflow: ApiClient, requester: str) -> RunContext:
    """In which a service reserves for a run that is not made yet."""
    return RunContext(run, requester=requester, liveness=Seen(airflow), checkpoints=MemoryCheckpoints())


def make_run(
    airflow: ApiClient, run: DagRun, conf: Mapping[str, Any], note: str, *, give_back: Callable[[], None]
) -> None:
    """Make the DAG run for which something was reserved; if it can't be made, nothing stays reserved.

    :param give_back: called then.
    :raises ApiError: Airflow refused it, or did not answer and has no such run.
    """
    try:
        airflow.trigger(run.dag_id, conf, run_id=run.dag_run_id, note=note)
    except ApiError as error:
        if error.status == CONFLICT:  # the same request at the same moment made it, and what is reserved is its own
            raise
        if (not error.status or error.status >= SERVER_ERROR) and _is_there(airflow, run):
            return  # only the answer was lost
        give_back()
        raise
    except Exception:
        give_back()
        raise


class Seen:
    """Other DAG runs as the caller may see them; what can't be told counts as alive."""

    def __init__(self, airflow: ApiClient) -> None:
        self._airflow = airflow

    def run(self, run: DagRun) -> bool:
        return self._airflow.find_run_state(run.dag_id, run.dag_run_id) not in ENDED

    def ended(self, run: DagRun, holders: Collection[str], kind: str) -> Collection[str]:
        return ()  # a reservation frees no slot


def _is_there(airflow: ApiClient, run: DagRun) -> bool:
    try:
        return bool(airflow.find_run_state(run.dag_id, run.dag_run_id))
    except ApiError:
        return False
