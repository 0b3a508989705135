"""What the clean-up of one wave learns from the ledger, and what its report may write there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contexts import run_context
from tests.ledgers import fresh_ledger, within
from tests.unit.rules.conftest import resolved

from wavelift.base.errors import TamperedError
from wavelift.base.names import run_hash, snapshot_name
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, Migration, SnapshotState, SourceServer, migrations, waves
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.leftovers import known_runs, standing_snapshots
from wavelift.services.dataplane.messages import SNAPSHOT_KIND, Admitted, CleanupReport, Leftover
from wavelift.services.migration.begin import NewMigration, begin_migration
from wavelift.services.migration.report import Ended, finish

__all__ = ["resolved"]

pytestmark = pytest.mark.unit

OURS, OTHERS = DagRun("erp.migrate", "r1"), DagRun("crm.migrate", "r1")
CLEANING = DagRun("erp.migrate", "cleaning")


class Desk:
    """Two waves over one vCenter, each with a server whose snapshot may still stand."""

    def __init__(self, ledger: Ledger, resolved: Callable[..., ResolvedWave]) -> None:
        self.ledger = ledger
        self.resolved = resolved
        self.ours, self.others = (self._left(run) for run in (OURS, OTHERS))

    def freeze(self, run: DagRun, mode: str = "migrate") -> RunContext:
        name = run.dag_id.partition(".")[0]
        wave = self.resolved("web01", wave=name)
        admitted = Admitted(
            wave=wave,
            mode=mode,  # type: ignore[arg-type]
            dag_id=run.dag_id,
            run_id=run.dag_run_id,
            requested_by="ana",
            runs=tuple(known_runs(self.ledger, name)) if mode == "cleanup" else (),
        )
        asked = waves.NewWaveRun(run=run, wave=name, mode=mode, requested_by="ana", source="api", spec=admitted.dump())
        ctx = run_context(run)
        within(self.ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=ctx.clock)
        return ctx

    def _left(self, run: DagRun) -> Migration:
        self.freeze(run)
        name = run.dag_id.partition(".")[0]
        ctx = run_context(run, "web01")
        server = SourceServer(source="vc", name="web01", moref=f"vm-{name}", instance_uuid=f"uuid-{name}")
        known = begin_migration(self.ledger, NewMigration(name, server, "hall-a", "eu-central-1"), ctx)
        with self.ledger.write() as tx:
            named = {"name": snapshot_name(ctx.run_key), "vm": server.moref}
            return migrations.record_intent(tx, known.id, **named, clock=ctx.clock)

    def report(self, *of: Migration) -> None:
        """What the report of a clean-up makes of what came by XCom."""
        gone = [
            Leftover(kind=SNAPSHOT_KIND, name="web01", run=run_hash(one.run_key), owner="ended run", removed=True)
            for one in of
        ]
        swept = CleanupReport(wave="erp", dry_run=False, leftovers=tuple(gone))
        finish(self.ledger, Ended(None, swept=swept), run_context(CLEANING))

    def state(self, known: Migration) -> SnapshotState | None:
        return within(self.ledger.read(), migrations.get, known.id).snapshot_state


@pytest.fixture
def desk(tmp_path: Path, resolved: Callable[..., ResolvedWave]) -> Desk:
    return Desk(fresh_ledger(tmp_path / "ledger.db"), resolved)


def test_a_wave_is_told_of_its_own_runs_only(desk: Desk) -> None:
    (known,) = known_runs(desk.ledger, "erp")
    assert known.dag_id == "erp.migrate"
    assert known.hashes == {run_hash(desk.ours.run_key)}
    (standing,) = standing_snapshots(desk.ledger, "erp")
    assert (standing.vm, standing.run) == ("vm-erp", run_hash(desk.ours.run_key))


def test_what_a_clean_up_removed_is_recorded(desk: Desk) -> None:
    desk.freeze(CLEANING, "cleanup")
    desk.report(desk.ours)
    assert (desk.state(desk.ours), desk.state(desk.others)) == (SnapshotState.REMOVED, SnapshotState.INTENDED)


def test_an_edited_report_frees_no_server_of_another_wave(desk: Desk) -> None:
    """Its server would be taken for free while a snapshot of ours stands."""
    desk.freeze(CLEANING, "cleanup")
    with pytest.raises(TamperedError, match="field=leftovers"):
        desk.report(desk.ours, desk.others)
    assert (desk.state(desk.ours), desk.state(desk.others)) == (SnapshotState.INTENDED, SnapshotState.INTENDED)


def test_a_run_that_cleans_nothing_up_records_nothing_as_removed(desk: Desk) -> None:
    desk.freeze(CLEANING, "preflight")
    desk.report(desk.ours)
    assert desk.state(desk.ours) is SnapshotState.INTENDED
