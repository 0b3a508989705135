"""One instance export, for the tests of the console."""

from __future__ import annotations

from typing import Any, Final

from wavelift.base.names import run_key
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState

EXPORT_DAG: Final = "instance_export.lab"
EXPORT_RUN: Final = DagRun(EXPORT_DAG, "manual__1")
INSTANCE: Final = "i-0123456789abcdef0"
BUCKET: Final = "export-to-s3-acme-eu-central-1"
CLOCK: Final = SystemClock()


def one_export(
    ledger: Ledger, *, run: DagRun = EXPORT_RUN, instance: str = INSTANCE, at: Any = None, **columns: Any
) -> InstanceExport:
    """Queued, and its run has begun."""
    fields = {
        "by": "ana",
        "run_key": run_key(run.dag_id, run.dag_run_id, instance),
        "environment": "lab",
        "account": "123456789012",
        "region": "eu-central-1",
        "instance_id": instance,
        "subject": instance,
        "choice": "auto",
        "target": "vmware",
        "format": "ova",
        "bucket": BUCKET,
        "requested_by": "ana",
        "times": {"admitted": CLOCK.now().isoformat()},
        **columns,
    }
    with ledger.write(exports.lock_name("eu-central-1", instance)) as tx:
        return exports.insert(tx, at=at or CLOCK.now(), run=run, **fields)


def to(ledger: Ledger, known: InstanceExport, *states: ExportState, **columns: Any) -> InstanceExport:
    """The export after it went through these states."""
    for state in states:
        with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
            now = exports.get(tx, known.id, lock=True)
            known = exports.apply(tx, now, str(state), at=CLOCK.now(), by="ana", state=state, **columns)
    return known
