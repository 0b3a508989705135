"""The rows of instance exports: one open export per account, region and instance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wavelift.base.errors import PermanentError, WaveliftError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState

NOW = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
ACCOUNT, REGION, INSTANCE = "111122223333", "eu-central-1", "i-0123456789abcdef0"


def _insert(ledger: Ledger, run: str, *, at: datetime = NOW, instance: str = INSTANCE) -> InstanceExport:
    with ledger.write(exports.lock_name(REGION, instance)) as tx:
        return exports.insert(
            tx,
            at=at,
            by="ana",
            run=DagRun("instance_export.lab", run),
            run_key=f"instance_export.lab/{run}/{instance}",
            environment="lab",
            account=ACCOUNT,
            region=REGION,
            instance_id=instance,
            subject=instance,
            choice="auto",
            target="vmware",
            format="ova",
            bucket="export-to-s3-acme-eu-central-1",
            requested_by="ana",
        )


def _to(ledger: Ledger, known: InstanceExport, state: ExportState) -> InstanceExport:
    with ledger.write(exports.lock_name(REGION, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        return exports.apply(tx, now, str(state), at=NOW, by="ana", state=state)


def test_a_new_export_is_queued_and_found_by_its_run_and_instance(ledger: Ledger) -> None:
    made = _insert(ledger, "one")
    with ledger.read() as tx:
        found = exports.of_dag_run(tx, made.run)
        opened = exports.open_of(tx, account=ACCOUNT, region=REGION, instance_id=INSTANCE)
    assert (made.state, found, opened) == (ExportState.QUEUED, made, made)
    assert made.id.startswith("exp-")


def test_the_database_refuses_a_second_open_export_of_an_instance(ledger: Ledger) -> None:
    known = _insert(ledger, "one")
    with pytest.raises(WaveliftError, match=r"UNIQUE|uq_instance_export_open"):
        _insert(ledger, "two")
    _insert(ledger, "other", instance="i-0123456789abcdef1")
    for state in (ExportState.CHECKING, ExportState.ACTIVE, ExportState.FAILED):
        known = _to(ledger, known, state)
    assert known.finished_at == NOW
    assert _insert(ledger, "two").state is ExportState.QUEUED


def test_a_completed_export_stays_completed(ledger: Ledger) -> None:
    known = _insert(ledger, "one")
    for state in (ExportState.ACTIVE, ExportState.VERIFYING, ExportState.COMPLETED):
        known = _to(ledger, known, state)
    with pytest.raises(PermanentError, match="cannot go from completed to queued"):
        _to(ledger, known, ExportState.QUEUED)


def test_the_list_shows_the_newest_first_and_can_begin_at_an_instant(ledger: Ledger) -> None:
    old = _insert(ledger, "old", at=NOW - timedelta(days=8), instance="i-0123456789abcdef2")
    new = _insert(ledger, "new")
    with ledger.read() as tx:
        everything = exports.list_exports(tx)
        week = exports.list_exports(tx, exports.ExportFilter(since=NOW - timedelta(days=7)))
        none = exports.list_exports(tx, exports.ExportFilter(environments=()))
    assert [each.id for each in everything.items] == [new.id, old.id]
    assert [each.id for each in week.items] == [new.id]
    assert none.items == ()
