"""What routes that show the ledger's rows share: of which waves, of which run, and one by its id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from fastapi import HTTPException

from wavelift.base.run import DagRun
from wavelift.console.access import readable_dags, require_read
from wavelift.ledger import Ledger, Tx


class NamesDags(Protocol):
    """A flow, or whatever else has one DAG for each name."""

    def dag_id(self, name: str, /) -> str: ...

    def wave_of(self, dag_id: str, /) -> str: ...


class OfDag(Protocol):
    """A row that a DAG run made."""

    @property
    def dag_id(self) -> str: ...


Row = TypeVar("Row", bound=OfDag)


def readable_in(user: Any, *flows: NamesDags) -> set[str]:
    """Whose DAGs of these flows the user may read: names of waves, or of networks."""
    return {name for dag_id in readable_dags(user) for flow in flows if (name := flow.wave_of(dag_id))}


def run_in(flow: NamesDags, name: str | None, dag_run_id: str | None, *, by: str = "wave") -> DagRun | None:
    """The run that a list is restricted to; None: it is not.

    :param by: what ``name`` is called in the query.
    :raises HTTPException: 422, an id of a run without the name of its DAG.
    """
    if dag_run_id is not None and name is None:
        raise HTTPException(422, f"dag_run_id names a run only together with {by}")
    return DagRun(flow.dag_id(name), dag_run_id) if name and dag_run_id else None


def readable(user: Any, ledger: Ledger, get: Callable[[Tx, str], Row], id: str) -> Row:
    """One row by its id.

    :param get: of the ledger. :raises NotFoundError: there is none. :raises HTTPException: 403, the user may not read
        its DAG.
    """
    with ledger.read() as tx:
        known = get(tx, id)
    require_read(user, known.dag_id)
    return known
