"""What HCX is told: validate, start, and end migrations; and how far they are (HCX-02, HCX-03, HCX-04)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from wavelift.adapters.hcx.intents import (
    CardMapping,
    Endpoint,
    MigrationOrder,
    Network,
    Options,
    Place,
    PlacementType,
    Provision,
    Storage,
    Vm,
    Window,
)
from wavelift.adapters.hcx.mobility import Mobility, Verdict, query_many
from wavelift.adapters.hcx.mobility import Started as StartedVm
from wavelift.adapters.hcx.phases import SWITCHING, Phase, Progress
from wavelift.base.errors import PermanentError, TamperedError, UnreachableError, WaveliftError
from wavelift.base.rest import RestClient
from wavelift.base.run import RunContext
from wavelift.rules.hcx_wave import WITH_WINDOW
from wavelift.rules.wave import decode_name
from wavelift.services.dataplane.hcx_ids import refuse_other_ids
from wavelift.services.dataplane.live_messages import (
    Cancelled,
    CancelledOne,
    CancelOne,
    CancelOrder,
    Followed,
    FollowedOne,
    FollowOrder,
    LiveOrder,
    LiveTask,
    PlaceRef,
    Said,
    SiteRef,
    Started,
    StartedOne,
    Validated,
)

log = logging.getLogger(__name__)

LOOKS: Final = 12
LOOK_SECONDS: Final = 5.0
"""A minute: until HCX names what it started, or has ended what it was told to end."""
_PROVISIONS: Final[Mapping[str, Provision]] = {"same": "sameAsSource", "thin": "thin", "thick": "thick"}
_OPTIONS: Final[Mapping[str, str]] = {
    "security_tags": "replicate_security_tags",
    "custom_attributes": "update_custom_attributes",
}
"""Options whose names differ from the adapter's."""
_DATASTORE: Final = "datastore"


# --- validate and start ---------------------------------------------------------------------------------------------


def validate(order: LiveOrder, *, hcx: RestClient, ctx: RunContext) -> Validated:
    """Let HCX validate the migrations. An error stops all; warnings do unless the order accepts them.

    A group that has begun is not validated again: its VMs move, and HCX would refuse them for that.

    :raises PermanentError: with the errors and warnings of every server.
    """
    mobility = Mobility(hcx)
    group = mobility.find_group(order.group_name)
    if group is not None and any(row.begun for row in mobility.query_group(group)):
        log.info("the group %s has begun already: it is not validated again", order.group_name)
        return Validated(group_name=order.group_name)
    ctx.cancel.check()
    refuse_other_ids(hcx, order.tasks)
    verdict = mobility.validate(migration_orders(order))
    said = _said(order, verdict)
    for one in said:
        for words in one.warnings:
            log.warning("%s: HCX warns: %s", one.server, words)
    if verdict.has_errors:
        raise PermanentError(
            f"HCX's validation has errors, and nothing was started: {_words(verdict, said, errors=True)}",
            next_step="Correct what HCX names, then trigger a new run",
            wave=order.wave,
        )
    if not verdict.passes(accept_warnings=order.accept_warnings):
        raise PermanentError(
            f"HCX's validation has warnings, and nothing was started: {_words(verdict, said, errors=False)}",
            next_step="Correct what HCX names; or set 'accept_warnings: true', and trigger a new run",
            wave=order.wave,
        )
    return Validated(group_name=order.group_name, said=said)


def _said(order: LiveOrder, verdict: Verdict) -> tuple[Said, ...]:
    names = {task.entity_id: task.name for task in order.tasks}
    return tuple(
        Said(server=names.get(item.entity_id, item.entity_id or "?"), errors=item.errors, warnings=item.warnings)
        for item in verdict.items
        if item.errors or item.warnings
    )


def _words(verdict: Verdict, said: Sequence[Said], *, errors: bool) -> str:
    whole = verdict.errors if errors else verdict.warnings
    found = [*whole]
    found += [f"{one.server}: {words}" for one in said for words in (one.errors if errors else one.warnings)]
    return "; ".join(found) or "HCX refuses, and does not say why"


def start(order: LiveOrder, *, hcx: RestClient, ctx: RunContext) -> Started:
    """Make the mobility group of the order's name and start it; one that is there already is the same one.

    :raises RefusedRequestError: HCX started none of them.
    :raises PermanentError: HCX has the group, not started, for servers that are not to be moved any more.
    :raises UnreachableError: nobody knows yet what HCX started. The retry finds out.
    """
    mobility = Mobility(hcx)
    known = mobility.find_group(order.group_name)
    if known is None or not any(row.begun for row in mobility.query_group(known)):
        refuse_other_ids(hcx, order.tasks)  # of one that has begun, VMs may have left the source
    _refuse_old_draft(mobility, order)
    group = mobility.make_group(order.group_name, migration_orders(order))
    ctx.cancel.check()
    found = _named(mobility, order, group, mobility.start_group(group), ctx)
    return Started(
        group_name=order.group_name,
        group_id=group,
        servers=tuple(
            StartedOne(server=task.name)
            if (one := found.get(task.entity_id)) is None
            else StartedOne(server=task.name, migration_id=one.migration_id, errors=one.errors, warnings=one.warnings)
            for task in order.tasks
        ),
        at=ctx.clock.now(),
    )


def _refuse_old_draft(mobility: Mobility, order: LiveOrder) -> None:
    group = mobility.find_group(order.group_name) if order.dropped else None
    if group is None or any(row.begun for row in mobility.query_group(group)):
        return
    raise PermanentError(
        f"HCX has the mobility group of an earlier try, not started, which is also for {', '.join(order.dropped)}",
        next_step="Trigger a new run for the servers that are to be moved; delete the group's draft in HCX",
        group=order.group_name,
        wave=order.wave,
    )


def _named(
    mobility: Mobility, order: LiveOrder, group: str, started: Sequence[StartedVm], ctx: RunContext
) -> dict[str, StartedVm]:
    """Entity → what HCX started. HCX may name some a moment later."""
    wanted = {task.entity_id for task in order.tasks}
    for looks in range(LOOKS + 1):
        found = {one.entity_id: one for one in started if one.entity_id in wanted}
        nameless = [one.migration_id for one in started if one.migration_id and one.entity_id not in wanted]
        told = {entity for entity, one in found.items() if one.migration_id or one.errors}
        if not nameless and told == wanted:
            return found
        if looks < LOOKS:
            ctx.cancel.wait(LOOK_SECONDS)
            ctx.cancel.check()
            started = _with_rows(started, mobility.query_group(group))
    if nameless:
        raise UnreachableError(
            f"HCX started migrations, and does not say of which VMs: {', '.join(nameless)}",
            next_step="The retry asks again; look for the group in HCX",
            group=order.group_name,
        )
    return found


def _with_rows(started: Iterable[StartedVm], rows: Iterable[Progress]) -> list[StartedVm]:
    """What a start answered, with what the query knows more of it."""
    known = {row.migration_id: row for row in rows}
    kept = [one for one in started if one.migration_id not in known]
    said = {one.migration_id: one for one in started}
    return kept + [
        StartedVm(
            migration_id=id,
            entity_id=row.entity_id,
            errors=said[id].errors if id in said else (),
            warnings=said[id].warnings if id in said else (),
        )
        for id, row in known.items()
    ]


def migration_orders(order: LiveOrder) -> list[MigrationOrder]:
    """What the adapter takes, of what the control plane ordered."""
    window = None
    if order.window_start is not None and order.window_end is not None:
        window = Window(start_ms=_ms(order.window_start.timestamp()), end_ms=_ms(order.window_end.timestamp()))
    return [_migration(task, window if task.type in WITH_WINDOW else None) for task in order.tasks]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _migration(task: LiveTask, window: Window | None) -> MigrationOrder:
    options: dict[str, Any] = {_OPTIONS.get(name, name): value for name, value in task.options.items()}
    return MigrationOrder(
        type=task.type,
        vm=Vm(id=task.entity_id, name=task.entity_name, summary=task.summary),
        source=_endpoint(task.source),
        destination=_endpoint(task.destination),
        placement=tuple(
            Place(id=place.id, name=_leaf(place.name), type=cast("PlacementType", place.type))
            for place in task.placement
        ),
        storage=Storage(
            id=task.storage.id, name=_leaf(task.storage.name), type=_DATASTORE, provision=_PROVISIONS[task.provision]
        ),
        cards=tuple(
            CardMapping(mac=card.mac, source=_network(card.source), destination=_network(card.destination))
            for card in task.cards
        ),
        options=Options(**options),
        window=window,
        mesh_id=task.mesh_id,
    )


def _endpoint(site: SiteRef) -> Endpoint:
    return Endpoint(**site.model_dump())


def _network(place: PlaceRef) -> Network:
    return Network(id=place.id, name=place.name, type=place.type)


def _leaf(name: str) -> str:
    """The name of a place that the wave's file names by its path."""
    return decode_name(name.rpartition("/")[2]) if name.startswith("/") else name


# --- follow ---------------------------------------------------------------------------------------------------------


def follow(order: FollowOrder, *, hcx: RestClient, ctx: RunContext) -> Followed | None:
    """Look once: one query, however many servers. None: HCX has not ended with all of them, and there is time left."""
    found, now = query_many(hcx, order.migrations.values()), ctx.clock.now()
    servers = tuple(followed_one(server, id, found.get(id)) for server, id in order.migrations.items())
    for one in servers:
        log.info("%s: %s%s", one.server, one.words, f" [{one.word}]" if one.word else "")
    over = all(id in found and found[id].phase.over for id in order.migrations.values())
    return Followed(servers=servers, at=now) if over or now >= order.until else None


def followed_one(server: str, migration_id: str, seen: Progress | None) -> FollowedOne:
    """What a query says of one server. None: HCX does not list it, which is no outcome."""
    if seen is None:
        return FollowedOne(server=server, migration_id=migration_id, phase="", words="HCX does not list it")
    return FollowedOne(
        server=server,
        migration_id=migration_id,
        phase=str(seen.phase),
        percent=seen.percent,
        bytes_done=seen.bytes_done,
        bytes_total=seen.bytes_total,
        words=seen.words,
        error="; ".join(seen.errors),
        word=seen.state,
    )


# --- cancel ---------------------------------------------------------------------------------------------------------


def cancel(order: CancelOrder, *, hcx: RestClient, ctx: RunContext) -> Cancelled:
    """End what has not begun to switch over. One without ids is looked for by its group's name and its entity.

    Each server is asked for by itself: one that HCX refuses keeps no other. May be repeated.

    :raises TamperedError: an id is that of another machine's migration.
    :raises WaveliftError: HCX refuses one that has neither ended nor begun to switch over, after all were asked for.
    """
    mobility = Mobility(hcx)
    asked = list(_with_ids(mobility, order.servers))
    rows = query_many(hcx, [one.migration_id for one in asked if one.migration_id])
    done: dict[str, CancelledOne] = {}
    told: dict[str, CancelOne] = {}
    refused: dict[str, str] = {}
    for one in asked:
        _require_its_own(one, rows.get(one.migration_id))
        ended = _without(one, rows.get(one.migration_id))
        if ended is not None:
            done[one.server] = ended
            continue
        why = mobility.force_cancel([StartedVm(migration_id=one.migration_id)], one.group_id)
        if why:
            refused[one.server] = "; ".join(why.get(one.migration_id, ()))
        told[one.server] = one
        ctx.cancel.check()
    _see_the_end(hcx, told, done, refused, ctx)
    _leave_drafts(hcx, {server: told[server] for server in refused if server not in done}, done)
    still = {server: why for server, why in refused.items() if server not in done}
    if still:
        words = "; ".join(f"{server}: {why}" for server, why in still.items())
        raise WaveliftError(f"HCX does not cancel: {words}", next_step="The retry asks again", wave=order.wave)
    for server in told.keys() - done.keys():
        words = "Ask again later, or look there"
        done[server] = CancelledOne(server=server, outcome="asked", words=words)
    return Cancelled(servers=tuple(done[one.server] for one in order.servers), at=ctx.clock.now())


def _with_ids(mobility: Mobility, servers: Iterable[CancelOne]) -> Iterator[CancelOne]:
    """With the ids of what a lost answer did not tell; without them, if HCX has no such group or migration."""
    groups: dict[str, tuple[str, Mapping[str, Progress]]] = {}
    for one in servers:
        if one.migration_id:
            yield one
            continue
        if one.group_name not in groups:
            id = one.group_id or (mobility.find_group(one.group_name) if one.group_name else None) or ""
            rows = mobility.query_group(id) if id else ()
            # One without any sign may be a draft, or wait for its turn: then it must be ended, too.
            groups[one.group_name] = (id, {row.entity_id: row for row in sorted(rows, key=lambda row: row.begun)})
        id, known = groups[one.group_name]
        row = known.get(one.entity_id)
        yield one.model_copy(update={"group_id": id, "migration_id": row.migration_id if row is not None else ""})


def _require_its_own(one: CancelOne, row: Progress | None) -> None:
    """The ids came by XCom once. Where HCX leaves one out, it is not compared."""
    for field, expected, found in (
        ("entity_id", one.entity_id, row.entity_id if row is not None else ""),
        ("group_id", one.group_id, row.group_id if row is not None else ""),
    ):
        if expected and found and expected != found:
            raise TamperedError(
                "HCX's migration of this id is of another machine",
                field=field,
                expected=expected,
                found=found,
                server=one.server,
            )


def _without(one: CancelOne, row: Progress | None) -> CancelledOne | None:
    """What is to be said of a server that can't be cancelled, or need not be; None: it can."""
    if row is None:
        words = "HCX has no migration of it" if one.group_id else "HCX has no such group"
        return CancelledOne(server=one.server, outcome="absent", words=words)
    if row.phase is Phase.CANCELLED:
        return CancelledOne(server=one.server, outcome="cancelled", words=row.words)
    if row.phase in SWITCHING:
        return CancelledOne(server=one.server, outcome="too_late", words=row.words)
    if row.phase.over:
        return CancelledOne(server=one.server, outcome="over", words=row.words)
    return None


def _leave_drafts(hcx: RestClient, refused: Mapping[str, CancelOne], done: dict[str, CancelledOne]) -> None:
    """What HCX does not cancel, and shows no sign of having begun, was never started."""
    rows = query_many(hcx, [one.migration_id for one in refused.values()])
    for server, one in refused.items():
        row = rows.get(one.migration_id)
        if row is not None and not row.begun:
            words = "HCX has a draft of it, which was never started"
            done[server] = CancelledOne(server=server, outcome="absent", words=words)


def _see_the_end(
    hcx: RestClient,
    told: Mapping[str, CancelOne],
    done: dict[str, CancelledOne],
    refused: Mapping[str, str],
    ctx: RunContext,
) -> None:
    """HCX ends a migration a while after it took the order, and may have begun to switch it over meanwhile."""
    for looks in range(LOOKS):
        waiting = {server: one for server, one in told.items() if server not in done}
        if not waiting or (looks and waiting.keys() <= refused.keys()):
            return
        if looks:
            ctx.cancel.wait(LOOK_SECONDS)
            ctx.cancel.check()
        rows = query_many(hcx, [one.migration_id for one in waiting.values()])
        for server, one in waiting.items():
            row = rows.get(one.migration_id)
            ended = _without(one, row) if row is not None else None
            if ended is not None:
                done[server] = ended
