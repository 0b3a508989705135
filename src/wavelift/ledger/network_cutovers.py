"""Cutovers of networks. Every change needs the lock of the network, and writes an event to the audit trail.

Their steps are rows of :mod:`wavelift.ledger.cutovers`, whose subject is ``(NETWORK_KIND, id of the cutover)``; so are
the approvals.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun
from wavelift.ledger.database import Tx
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.spine import Rows, Words, containing, matching, of_run
from wavelift.ledger.tables_hcx import network_cutover
from wavelift.rules.flows import NETWORK
from wavelift.rules.network_cutover import OPEN, NetworkState, require_network_way

NETWORK_KIND: Final = "network_cutover"
"""Subject of the steps and approvals; the id is the cutover's."""


def cutover_id(run_key: str) -> str:
    """The id of the cutover that a DAG run opens."""
    return f"{NETWORK.prefix}{run_hash(run_key)}"


def lock_name(network: str) -> str:
    return f"network:{network}"


class _NetworkCutovers(Rows[NetworkCutover]):
    def locks(self, known: NetworkCutover) -> tuple[str, ...]:
        return (lock_name(known.network),)

    def _require_way(self, known: NetworkCutover, to: NetworkState) -> None:
        require_network_way(known.state, to, cutover=known.id)

    def _arrival(self, known: NetworkCutover, to: NetworkState, at: datetime) -> Mapping[str, Any]:
        return {"finished_at": at if to.terminal else None}

    def _run_of(self, known: NetworkCutover) -> DagRun:
        return known.run


_rows = _NetworkCutovers(
    network_cutover,
    NetworkCutover,
    Words(
        kind=NETWORK_KIND,
        noun="network cutover",
        key="cutover",
        listing="the list of network cutovers (`wavelift network list`)",
    ),
)
ROWS: Final = _rows
find = _rows.find
get = _rows.get
apply = _rows.apply
tell = _rows.tell


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFilter:
    """Which cutovers to list. Fields that are not set do not restrict it."""

    network: str | None = None
    networks: Collection[str] | None = None
    """Networks that the caller may read. If it is empty, the list is empty."""
    states: Collection[NetworkState] | None = None
    run: DagRun | None = None
    search: str = ""
    """Part of an id, network, prefix or note. Case does not matter."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        found = matching(network_cutover, {"network": self.network}, {"network": self.networks, "state": self.states})
        if self.run is not None:
            found.append(of_run(network_cutover, self.run))
        if self.search:
            found.append(containing(network_cutover, self.search, ("id", "network", "prefix", "note")))
        return found


def list_cutovers(
    tx: Tx, which: NetworkFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[NetworkCutover]:
    """One page of cutovers, newest first."""
    order = (network_cutover.c.requested_at.desc(), network_cutover.c.id)
    return _rows.page(tx, (which or NetworkFilter()).conditions(), order=order, limit=limit, offset=offset)


def of_dag_run(tx: Tx, run: DagRun) -> NetworkCutover | None:
    """The cutover that a DAG run opened; None: it opened none."""
    return next(iter(_rows.all(tx, of_run(network_cutover, run), limit=1)), None)


def ended_by(tx: Tx, run: DagRun) -> NetworkCutover | None:
    """The cutover that a DAG run reverts or finishes."""
    mine = (network_cutover.c.revert_run == run.dag_run_id) | (network_cutover.c.finish_run == run.dag_run_id)
    return next(iter(_rows.all(tx, network_cutover.c.dag_id == run.dag_id, mine, limit=1)), None)


def open_of(tx: Tx, network: str) -> NetworkCutover | None:
    """The open cutover of a network; None: there is none."""
    where = (network_cutover.c.network == network, network_cutover.c.state.in_(OPEN))
    return next(iter(_rows.all(tx, *where, limit=1)), None)


def everything_open(tx: Tx, *states: NetworkState) -> tuple[NetworkCutover, ...]:
    """Every open cutover of the installation in these states, oldest first."""
    return _rows.all(
        tx, network_cutover.c.state.in_(states), order=(network_cutover.c.requested_at, network_cutover.c.id)
    )


def insert(tx: Tx, *, at: datetime, by: str, run: DagRun, run_key: str, **columns: Any) -> NetworkCutover:
    """Open a cutover. The database refuses a second open one of the network
    (:class:`sqlalchemy.exc.IntegrityError`)."""
    made = _rows.insert(
        tx,
        id=cutover_id(run_key),
        run_key=run_key,
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        requested_at=at,
        updated_at=at,
        **{"phase": "", "error": "", "alert": "", **columns},
    )
    _rows.tell(tx, made, str(made.state), at=at, by=by, details={"network": made.network})
    return made


def note_time(
    tx: Tx, known: NetworkCutover, moment: str, *, at: datetime, by: str | DagRun, **columns: Any
) -> NetworkCutover:
    """Record when something happened, with other changes. The first time stays when it happens again, unless the
    columns change the state."""
    times = dict(known.times or {})
    if moment not in times or "state" in columns:
        times[moment] = at.isoformat()
    return _rows.apply(tx, known, moment, at=at, by=by, times=times, **columns)
