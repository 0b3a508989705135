"""What HCX answered when it was told to start: the ids of its migrations, checked before anything uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.errors import PermanentError, TamperedError
from wavelift.base.printable import printable
from wavelift.base.run import RunContext
from wavelift.ledger import live_migrations
from wavelift.ledger.database import Ledger
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.services.dataplane.live_messages import Started, StartedOne
from wavelift.services.live_migration.runs import lock_of, of_run

NOT_TAKEN: Final = "HCX did not take it"


@dataclass(frozen=True, slots=True)
class Recorded:
    """:param moving: server → id of its migration in HCX. :param refused: server → why HCX did not take it."""

    moving: Mapping[str, str]
    refused: Mapping[str, str]


def record(ledger: Ledger, started: Started, ctx: RunContext) -> Recorded:
    """Note which migrations HCX made. Repeated, it changes nothing.

    :raises TamperedError: what came by XCom is of another group, names a server that was not started, or another
        migration than the one that is noted.
    :raises PermanentError: HCX took none.
    """
    wave, _ = of_run(ledger, ctx)
    with ledger.write(lock_of(wave)) as tx:
        known = {each.server: each for each in live_migrations.of_dag_run(tx, ctx.run) if each.state in IN_HCX}
        came = {each.server: each for each in started.servers}
        for server in came.keys() - known.keys():
            _refuse("server", ", ".join(sorted(known)), server, server)
        for server, each in known.items():
            _require_own(each, started, came.get(server))
        moving, refused = {}, {}
        for server, each in known.items():
            one = came.get(server) or StartedOne(server=server)
            if one.migration_id:
                moving[server] = one.migration_id
                columns: dict[str, Any] = {"state": LiveState.MOVING, "phase": "HCX migrates it"}
                columns |= {"group_id": started.group_id, "migration_id": one.migration_id}
                if each.state is LiveState.STARTING:
                    live_migrations.apply(tx, each, "started", at=ctx.clock.now(), by=ctx.run, **columns)
            elif each.state is LiveState.STARTING:
                why = refused[server] = printable("; ".join(one.errors) or NOT_TAKEN)
                columns = {"state": LiveState.FAILED, "error": why, "phase": ""}
                live_migrations.apply(tx, each, "not_started", at=ctx.clock.now(), by=ctx.run, **columns)
            else:
                moving[server] = each.migration_id
    if not moving:
        words = "; ".join(f"{server}: {why}" for server, why in refused.items())
        raise PermanentError(
            f"HCX started nothing: {words or 'this run has nothing to start'}",
            next_step="Remove the causes, and trigger a new run",
            wave=wave.wave,
        )
    return Recorded(moving, refused)


def _require_own(known: LiveMigration, started: Started, one: StartedOne | None) -> None:
    if started.group_name != known.group_name:
        _refuse("group_name", known.group_name, started.group_name, known.server)
    if one is None or not one.migration_id:
        return
    if known.migration_id and one.migration_id != known.migration_id:
        _refuse("migration_id", known.migration_id, one.migration_id, known.server)
    if known.group_id and started.group_id != known.group_id:
        _refuse("group_id", known.group_id, started.group_id, known.server)


def _refuse(field: str, expected: str, found: str, server: str) -> None:
    raise TamperedError(
        "What came by XCom is not what this run started", field=field, expected=expected, found=found, server=server
    )
