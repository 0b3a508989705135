"""The audit trail as a whole: listed for who may read what the events are about; sealed and checked by administrators.

A request does a bounded part and says whether there is more. A kill between two requests loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.base.run import SystemClock
from wavelift.console.access import readable_dags
from wavelift.console.audit_answers import (
    AnyEventList,
    AnyEventRow,
    SealDigest,
    SealedGroup,
    SealedNow,
    SealedPage,
    SealsChecked,
)
from wavelift.console.audit_right import may_audit, require_audit
from wavelift.console.deps import LedgerDep
from wavelift.console.requests import EventQuery, SealedQuery
from wavelift.ledger import seals
from wavelift.ledger.events import EventFilter, Readable, newest_events
from wavelift.rules.connectors import CATALOG_DAG, connector_of
from wavelift.rules.flows import FLOWS, REPLICATE
from wavelift.rules.seals import BYTES_A_SEAL, Seal

SEALS_A_REQUEST: Final = 20
"""10,000 events: less than a second."""
GROUPS_A_PAGE: Final = 100
BYTES_A_PAGE: Final = 2 * BYTES_A_SEAL
"""Of lines. As JSON they have up to twice as many."""


def add_audit_routes(app: FastAPI) -> None:
    @app.get("/events")
    def list_events(query: Annotated[EventQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> AnyEventList:
        """The newest events of all objects that the caller may read; ``before`` the last id for older ones.

        Events that belong to no DAG, job or connector are shown to administrators only.
        """
        with ledger.read() as tx:
            found = newest_events(tx, _filter(query, user), limit=query.limit + 1)
        rows = [AnyEventRow.of(each) for each in found[: query.limit]]
        return AnyEventList(events=rows, more=len(found) > query.limit)

    @app.post("/audit/seal")
    def seal_events(user: GetUserDep, ledger: LedgerDep) -> SealedNow:
        """Seal the next events that are older than 10 minutes. For administrators."""
        require_audit(user)
        made = []
        for _ in range(SEALS_A_REQUEST):
            with ledger.write(seals.LOCK) as tx:  # each for itself: whoever writes events waits for milliseconds
                seal = seals.seal_next(tx, by=user.get_name(), now=SystemClock().now())
            if seal is None:
                break
            made.append(seal)
        with ledger.read() as tx:
            reach = seals.extent(tx)
        events = sum(len(seal.rows) for seal in made)
        return SealedNow.of(reach, seals=len(made), events=events, more=len(made) == SEALS_A_REQUEST)

    @app.get("/audit/sealed")
    def list_sealed(query: Annotated[SealedQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> SealedPage:
        """Sealed events as lines of the exported file, the oldest first. For administrators."""
        require_audit(user)
        with ledger.read() as tx:
            groups, more = _some(seals.sealed_after(tx, query.after))
        return SealedPage(groups=groups, more=more)

    @app.get("/audit/verify")
    def check_seals(query: Annotated[SealedQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> SealsChecked:
        """Compare the next seals with their events; the first difference ends it. For administrators."""
        require_audit(user)
        checked: list[Seal] = []
        difference, more = None, False
        with ledger.read() as tx:
            for one in seals.check_after(tx, query.after):
                if len(checked) == SEALS_A_REQUEST:
                    more = True
                    break
                checked.append(one.seal)
                if difference := one.difference:
                    break
            unsealed = seals.extent(tx).unsealed
        told = [SealDigest.of(seal) for seal in checked]
        events = sum(len(seal.rows) for seal in checked)
        return SealsChecked(seals=told, events=events, difference=difference, unsealed=unsealed, more=more)


def _filter(query: EventQuery, user: Any) -> EventFilter:
    asked = query.model_dump(exclude={"kind", "id", "dag_id", "limit"})
    dags = None if query.dag_id is None else {query.dag_id}
    if query.wave is not None:
        of_wave = {flow.dag_id(query.wave) for flow in FLOWS}
        dags = of_wave if dags is None else of_wave & dags
    readable = None if may_audit(user) else _readable(readable_dags(user))
    return EventFilter(object_kind=query.kind, object_id=query.id, dag_ids=dags, readable=readable, **asked)


def _readable(dag_ids: set[str]) -> Readable:
    waves = {wave for dag_id in dag_ids if (wave := REPLICATE.wave_of(dag_id))}
    connectors = {connector_of(dag_id) for dag_id in dag_ids if dag_id.partition(".")[0] == CATALOG_DAG}
    return Readable(dag_ids=dag_ids, waves=waves, connectors=connectors)


def _some(sealed: Iterator[seals.SealedEvents]) -> tuple[list[SealedGroup], bool]:
    """As many groups as an answer bears, at least one."""
    groups: list[SealedGroup] = []
    size = 0
    for one in sealed:
        line = one.seal.line()
        size += len(line) + sum(map(len, one.lines))
        if groups and (size > BYTES_A_PAGE or len(groups) == GROUPS_A_PAGE):
            return groups, True
        groups.append(SealedGroup(last_event_id=one.seal.last_event_id, seal=line, events=list(one.lines)))
    return groups, False
