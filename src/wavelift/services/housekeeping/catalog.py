"""Catalogue and connectors on the control plane: merges what connectors read, and lists what uses a connector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wavelift.base.catalog import CatalogIndex, CatalogRow, ConnectorHealth
from wavelift.base.domain import Message
from wavelift.base.errors import PermanentError, SpecError
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import Connector, Ledger, Tx, catalog, connectors, jobs, slots, waves
from wavelift.ledger.server_runs import SERVER_RUNS
from wavelift.rules.conf import HealthConf, ImportConf
from wavelift.rules.flows import SlotKind


class ImportTicket(Message):
    """What binds the tasks of one import together."""

    connection: str
    connector: str
    generation: int


class ImportSummary(Message):
    """What one import found."""

    connection: str
    connector: str
    generation: int
    overtaken: bool = False
    """A newer import or a clear came in between; this import changed nothing."""
    servers: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    tags_unknown: str = ""


class HealthRequest(Message):
    """What a connector is to try."""

    connector: str
    connection: str
    aws_conn_id: str = ""
    region: str = ""


def begin_import(ledger: Ledger, conf: Mapping[str, Any], ctx: RunContext, *, connector: str) -> ImportTicket:
    """Check the run's conf and begin a generation. A repeated call of the same run continues its own generation.

    :raises SpecError: an unknown key, or no connection and the connector is not registered with one.
    :raises PermanentError: the catalogue is another connector's.
    """
    asked = ImportConf.read(conf, connector=connector)
    with ledger.read() as tx:
        known = connectors.find(tx, connector)
    connection = _connection(asked, connector, known)
    with ledger.write(catalog.lock_name(connection)) as tx:
        require_owner(tx, connection, connector, clock=ctx.clock)
        started = catalog.begin_import(
            tx, connection, connector=connector, run=ctx.run, by=ctx.requester, clock=ctx.clock
        )
    return ImportTicket(connection=connection, connector=connector, generation=started.generation)


def owners(tx: Tx, connection: str, *, clock: Clock) -> tuple[str, ...]:
    """The connectors whose catalogue a connection's is: those registered with it, else the one that imported it last.

    Nobody's is one that was never imported whole, or was cleared.
    """
    registered = connectors.registered_with(tx, connection)
    if registered:
        return registered
    known = catalog.get_catalog(tx, connection, clock=clock)
    return (known.connector,) if known.connector and known.imported_at is not None else ()


def require_owner(tx: Tx, connection: str, connector: str, *, clock: Clock) -> None:
    """Call it in the transaction that begins an import, under the catalogue's lock.

    :raises PermanentError: the catalogue is another connector's.
    """
    known = owners(tx, connection, clock=clock)
    if known and connector not in known:
        raise PermanentError(
            f"The catalogue of this connection belongs to connector {', '.join(known)}",
            next_step="Import it through that connector. To move it, register the connection with this connector, "
            "with the right on both",
            connection=connection,
            connector=connector,
        )


def register_connector(
    ledger: Ledger,
    name: str,
    said: connectors.Registration,
    *,
    may_change: Callable[[str], object],
    by: str,
    clock: Clock,
) -> Connector:
    """Register a connector, or change what is known of one.

    :param may_change: called with each other owner of the connection's catalogue; it raises to refuse. Without it, a
        registration would be a way to take the catalogue over.
    """
    with ledger.write(connectors.lock_name(name), catalog.lock_name(said.connection)) as tx:
        for owner in owners(tx, said.connection, clock=clock):
            if owner != name:
                may_change(owner)
        return connectors.register(tx, name, said, by=by, clock=clock)


def merge_import(
    ledger: Ledger,
    ticket: ImportTicket,
    index: CatalogIndex,
    page: Callable[[int], Sequence[CatalogRow]],
    *,
    run: DagRun,
    clock: Clock,
) -> ImportSummary:
    """Merge page by page, one in memory at a time; mark as gone what is missing only after the last. Repeatable.

    :param page: returns page ``number`` of those that ``index`` counts.
    :param run: the one that merges. It must have begun the import that the ticket names.
    :raises PermanentError: another run has begun it.
    """
    summary = ImportSummary(connection=ticket.connection, connector=ticket.connector, generation=ticket.generation)
    for number in range(index.pages):
        rows = page(number)
        with ledger.write(catalog.lock_name(ticket.connection)) as tx:
            _require_own(tx, ticket, run, clock)
            merged = catalog.merge_page(tx, ticket.connection, ticket.generation, number=number, rows=rows, clock=clock)
        if not merged:
            break
    with ledger.write(catalog.lock_name(ticket.connection)) as tx:
        _require_own(tx, ticket, run, clock)
        found = catalog.finish_import(
            tx,
            ticket.connection,
            ticket.generation,
            index=index,
            clock=clock,
        )
    if found is None:
        return summary.model_copy(update={"overtaken": True})
    return summary.model_copy(
        update={
            "servers": found.servers,
            "new": found.new,
            "changed": found.changed,
            "gone": found.gone,
            "tags_unknown": index.tags_unknown,
        }
    )


def abort_import(ledger: Ledger, ticket: ImportTicket, error: str, *, run: DagRun, clock: Clock) -> bool:
    """The import's tasks have ended without success; False when it had ended already or was overtaken.

    :raises PermanentError: another run has begun it.
    """
    with ledger.write(catalog.lock_name(ticket.connection)) as tx:
        _require_own(tx, ticket, run, clock)
        return catalog.abort_import(tx, ticket.connection, ticket.generation, error, clock=clock)


def health_request(
    ledger: Ledger, conf: Mapping[str, Any], *, connector: str, scheduled: bool = False
) -> HealthRequest | None:
    """What the connector is to check: the values of the conf, else the registered ones.

    :param scheduled: a scheduled run: returns None for a connector that is not registered.
    :raises SpecError: an unknown key, or no connection anywhere.
    """
    asked = HealthConf.read(conf, connector=connector)
    with ledger.read() as tx:
        known = connectors.find(tx, connector)
    if known is None and scheduled:
        return None
    return HealthRequest(
        connector=connector,
        connection=_connection(asked, connector, known),
        aws_conn_id=asked.aws_conn_id or (known.aws_conn_id if known else ""),
        region=asked.region or (known.region if known else ""),
    )


def record_health(ledger: Ledger, health: ConnectorHealth, *, by: str, clock: Clock) -> bool:
    """Store what a connector found; False when the connector is not registered."""
    with ledger.write(connectors.lock_name(health.connector)) as tx:
        return connectors.record_health(tx, health, by=by, clock=clock) is not None


def connector_usage(tx: Tx, name: str, *, connectors_of: Mapping[str, str] | None = None) -> list[str]:
    """What uses a connector, in words: migrations that have not ended, slots, replication jobs (SMS-01).

    :param connectors_of: wave → connector, from the present specs. For a wave without a spec its last run is read.
    """
    counts = {
        **{rows.words.noun: rows.count_active(tx, name) for rows in SERVER_RUNS},
        "transfer slot": len(slots.standing(tx, SlotKind.TRANSFER, name)),
    }
    found = [f"{count} {what}{'s' if count > 1 else ''} under way" for what, count in counts.items() if count]
    return found + _replication_usage(tx, name, connectors_of or {})


def _replication_usage(tx: Tx, name: str, connectors_of: Mapping[str, str]) -> list[str]:
    found = []
    for wave, count in sorted(jobs.standing_by_wave(tx).items()):
        if (connectors_of.get(wave) or waves.last_connector(tx, wave)) == name:
            found.append(f"{count} replication job{'s' if count > 1 else ''} of wave '{wave}'")
    return found


def _require_own(tx: Tx, ticket: ImportTicket, run: DagRun, clock: Clock) -> None:
    """The ticket came by XCom, which a person may edit: what it names must be this run's."""
    known = catalog.get_catalog(tx, ticket.connection, clock=clock)
    if known.generation == ticket.generation and known.run != run:
        raise PermanentError(
            "Another DAG run has begun this import; the result of this run's first task was edited",
            next_step="Trigger a new run.",
            connection=ticket.connection,
            dag_run_id=known.dag_run_id,
        )


def _connection(conf: ImportConf | HealthConf, connector: str, known: Connector | None) -> str:
    connection = conf.connection or (known.connection if known else "")
    if not connection:
        raise SpecError(
            "No vSphere connection is given, and the connector is not registered with one",
            next_step="Give its id in the form, or run `wavelift connectors register`",
            connector=connector,
        )
    return connection
