"""A wave that HCX migrates, and one live migration of it, for the tests of the console."""

from __future__ import annotations

from typing import Any, Final

from tests.unit.services.live import environment

from wavelift.base.errors import SpecError
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import Ledger, live_migrations
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.hcx_wave import HcxWave
from wavelift.rules.live import LiveState
from wavelift.rules.live_plans import ResolvedLive, resolve_live

LIVE_RUN: Final = DagRun("erp.live", "manual__1")
CLOCK: Final = SystemClock()
MANAGER: Final = "hcx_dc1"


def live_wave(name: str) -> ResolvedLive:
    if name != "erp":
        raise SpecError(f"There is no spec of wave '{name}'")
    given = {"wave": name, "method": "hcx", "environment": "lab", "servers": ["web01", "db01"]}
    return resolve_live(HcxWave.load(given), environment(environment="lab"))


def one_live(ledger: Ledger, *, run: DagRun = LIVE_RUN, server: str = "web01", **columns: Any) -> LiveMigration:
    fields = {
        "by": "ana",
        "run_key": f"{run.dag_id}/{run.dag_run_id}/{server}",
        "wave": "erp",
        "server": server,
        "state": LiveState.WAITING,
        "environment": "lab",
        "requested_by": "ana",
        "manager": MANAGER,
        "kind": "rav",
        **columns,
    }
    with ledger.write(live_migrations.lock_name(MANAGER)) as tx:
        return live_migrations.insert(tx, at=CLOCK.now(), run=run, **fields)


def to(ledger: Ledger, known: LiveMigration, *states: LiveState, **columns: Any) -> LiveMigration:
    """The migration after it went through these states."""
    for state in states:
        with ledger.write(live_migrations.lock_name(MANAGER)) as tx:
            now = live_migrations.get(tx, known.id)
            known = live_migrations.apply(tx, now, str(state), at=CLOCK.now(), by="ana", state=state, **columns)
    return known
