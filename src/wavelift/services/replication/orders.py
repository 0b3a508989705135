"""The replication jobs that a wave's spec asks for, with guest and identity of each server from the catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wavelift.ledger import CatalogServer, Ledger, catalog, jobs
from wavelift.ledger.catalog import ServerFilter
from wavelift.rules.guests import Guest, guest
from wavelift.rules.inventory_names import select
from wavelift.rules.plans import Clash, Found, ResolvedWave, ServerPlan, bind
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder

_ALL: Final = 100_000
"""More servers than a vCenter has: the whole catalogue of one connection, a few hundred bytes a row."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The servers of a wave by name. Folders and tags are replaced by the servers that the catalogue has in them.

    :param rows: name → row of the catalogue, for those that it has.
    :param unbound: folders and tags without a server in the catalogue: import it first.
    :param clashes: servers that two entries select; no other waits for them.
    """

    plans: dict[str, ServerPlan]
    rows: dict[str, CatalogServer]
    unbound: tuple[str, ...] = ()
    clashes: tuple[Clash, ...] = ()

    def guest(self, server: str) -> Guest | None:
        """None when the catalogue does not know the server, or vCenter does not know its guest."""
        row = self.rows.get(server)
        return guest(row.guest_id) if row is not None and row.guest_id else None


def bind_wave(ledger: Ledger, wave: ResolvedWave) -> Bound:
    """Look the wave's servers up in the catalogue of its connection, as a run looks them up in vCenter.

    :raises AmbiguousError: when an entry can be read in two ways.
    """
    with ledger.read() as tx:
        known = catalog.list_servers(tx, ServerFilter(connections=[wave.connection]), limit=_ALL).items
    rows = [entry.server for entry in known if not entry.server.template]
    found = [_found(plan, rows) for plan in wave.servers]
    bindings = bind(wave.servers, found)
    plans = {plan.server: plan for plan in bindings.plans}
    by_path = {row.path: row for row in rows}
    count = Counter(row.name for row in rows)
    by_name = {row.name: row for row in rows if count[row.name] == 1}
    either = {
        name: by_path.get(plan.selector.value) or by_name.get(plan.selector.value) for name, plan in plans.items()
    }
    unbound = tuple(
        plan.server
        for plan, vms in zip(wave.servers, found, strict=True)
        if plan.selector.many and not vms and plan.replication is not None
    )
    rows_of = {name: row for name, row in either.items() if row is not None}
    return Bound(plans, rows_of, unbound, bindings.clashes)


def orders_of_wave(ledger: Ledger, wave: ResolvedWave, bound: Bound) -> tuple[JobOrder, ...]:
    """The jobs that the wave's spec asks for."""
    with ledger.read() as tx:
        standing = {job.server for job in jobs.standing(tx, wave.wave)}
    return tuple(
        order_of(plan, plan.replication, bound, new=name not in standing)
        for name, plan in bound.plans.items()
        if plan.replication is not None
    )


def order_of(
    plan: ServerPlan, replication: ReplicationPlan, bound: Bound, *, new: bool, license_type: str = ""
) -> JobOrder:
    """The job of one server.

    :param new: only a new job takes the server's identity from the catalogue. For an existing job the last run knows
        it, and an old catalogue must not contradict that.
    """
    row = bound.rows.get(plan.server) if new else None
    return JobOrder(
        server=plan.server,
        plan=replication,
        license_type=license_type or plan.license_type,
        guest=bound.guest(plan.server),
        source=row.connection if row else "",
        identity=row.identity if row else "",
    )


def _found(plan: ServerPlan, rows: Sequence[CatalogServer]) -> list[Found]:
    """What the selector finds. A server that is not in the catalogue is taken from the spec: its run will find it."""
    selector = plan.selector
    if selector.kind == "tag":
        hits = [row for row in rows if selector.value in row.tags]
    else:
        hits = select(selector, rows, lambda row: row.path)
    if selector.many or len(hits) == 1:
        return [Found(row.name, row.path, row.vm_id) for row in hits]
    return [Found(selector.leaf, selector.value)]
