"""Runs that are asked for through our REST API: what they are about has ids in the ledger before there is a DAG run.

What the ledger reserves is reserved under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. So a refusal comes before any DAG run exists. A family of routes says what it reserves, what its run is
triggered with and how a reservation is given back: :func:`open_once`. One that reserves nothing: :func:`make_once`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from fastapi import HTTPException
from pydantic import BaseModel

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.names import ON_DEMAND
from wavelift.base.run import DagRun, MemoryCheckpoints, RunContext, SystemClock
from wavelift.console.answers import RunStarted
from wavelift.console.deps import require_loaded
from wavelift.rules.conf import RunConf
from wavelift.services.migration.waiting import MAKING

ServerRow = TypeVar("ServerRow", bound="OfServer")
ServersConf = TypeVar("ServersConf", bound=RunConf)
Opened = TypeVar("Opened")
"""What a family reserves for a run: rows, or one."""
ENDED: Final = ("success", "failed", "")
"""What a DAG run that is over, or was deleted, is."""
CONFLICT: Final = 409
SERVER_ERROR: Final = 500


class OfServer(Protocol):
    """A row of one server that a run is about."""

    @property
    def server(self) -> str: ...

    @property
    def state(self) -> object: ...


class Named(Protocol):
    """A body that may name its request."""

    @property
    def request_id(self) -> str | None: ...

    @property
    def note(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to start a run.

    :param request_id: the caller's own name of the request: asked with it again, nothing is started twice.
    """

    airflow: ApiClient
    run: DagRun
    requester: str
    request_id: str
    note: str

    @classmethod
    def of(cls, body: Named, dag_id: str, *, what: str, airflow: ApiClient, by: str) -> Asked:
        """A request for a run of this DAG. Asked again under the same name, it is for the same run.

        :param what: the mode of the run, or the id of what it is about: each has request names of its own.
        """
        run = new_run(dag_id, f"{what}.{body.request_id}" if body.request_id else "")
        return cls(airflow, run, by, body.request_id or "", body.note or "")


def given_in(body: BaseModel) -> dict[str, Any]:
    """What a request says of its run, as a conf takes it: without null and the request's name; instants as text."""
    given = body.model_dump(exclude={"request_id"}, exclude_unset=True)
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in given.items()
        if value is not None
    }


def all_made(rows: Sequence[ServerRow], *, unless: Collection[object]) -> Sequence[ServerRow] | None:
    """The rows of an earlier request, if its DAG run was made. :param unless: states in which it may not be there."""
    return rows if rows and all(row.state not in unless for row in rows) else None


def about(rows: Sequence[ServerRow], conf: ServersConf) -> tuple[Sequence[ServerRow], ServersConf]:
    """What was reserved, and the conf of a run about just that, whatever the file says when it begins."""
    return rows, conf.model_copy(update={"servers": [row.server for row in rows]}) if rows else conf


def open_once(
    asked: Asked,
    way_out: str,
    *,
    before: Callable[[], Opened | None],
    reserve: Callable[[RunContext], tuple[Opened, RunConf]],
    give_back: Callable[[], None],
) -> tuple[Opened, bool]:
    """Reserve what a run is about, then make the run. Second: the same request was made before.

    :param before: what an earlier request of the same name has, if its DAG run was made.
    :param reserve: what is reserved now, and the conf of the run about it. :param give_back: when it can't be made.
    :raises HTTPException: as :func:`require_awake`. :raises ApiError: as :func:`make_run`.
    """
    known = before()
    if known is not None:
        return known, True
    require_awake(asked.airflow, asked.run.dag_id, way_out)
    opened, conf = reserve(context_of(asked.run, asked.airflow, asked.requester))
    return opened, make_once(asked, conf, give_back=give_back)


def make_once(asked: Asked, conf: RunConf, *, give_back: Callable[[], None] | None = None) -> bool:
    """Make the DAG run. Whether it was there already, made by an earlier request of the same name.

    :raises ApiError: as :func:`make_run`.
    """
    airflow, run = asked.airflow, asked.run
    try:
        make_run(airflow, run, conf, asked.note, give_back=give_back)
    except ApiError as error:
        if not (asked.request_id and error.status == CONFLICT and airflow.find_run_state(run.dag_id, run.dag_run_id)):
            raise
        return True
    return False


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
    airflow: ApiClient, run: DagRun, conf: RunConf, note: str, *, give_back: Callable[[], None] | None = None
) -> RunStarted:
    """Make the DAG run for which something was reserved; if it can't be made, nothing stays reserved.

    :param give_back: called then.
    :raises ApiError: Airflow refused it, or did not answer and has no such run.
    """
    started = RunStarted(dag_id=run.dag_id, dag_run_id=run.dag_run_id)
    try:
        airflow.trigger(run.dag_id, conf.given(), run_id=run.dag_run_id, note=note)
    except Exception as error:
        status = error.status if isinstance(error, ApiError) else None
        if status == CONFLICT:  # the same request at the same moment made it, and what is reserved is its own
            raise
        if status is not None and (not status or status >= SERVER_ERROR) and _is_there(airflow, run):
            return started  # only the answer was lost
        if give_back is not None:
            give_back()
        raise
    return started


def is_over(airflow: ApiClient, run: DagRun, *, reserved_at: datetime) -> bool:
    """Whether the run comes to nothing any more: it has ended, or is not there and is not about to be made."""
    state = airflow.find_run_state(run.dag_id, run.dag_run_id)
    being_made = state == "" and SystemClock().now() - reserved_at < MAKING
    return state in ENDED and not being_made


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
