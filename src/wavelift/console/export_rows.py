"""Instance exports as rows of the REST API."""

from __future__ import annotations

from typing import Any, Final

from wavelift.console.chain import UNMAPPED
from wavelift.console.export_answers import ExportRow
from wavelift.console.progress import Progress
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.export_flows import CHAIN, EXPORT
from wavelift.rules.instance_export import ExportState

READ: Final = EXPORT.step("read").name
THERE: Final = frozenset({ExportState.VERIFYING, ExportState.COMPLETED})
"""States in which the object stands in S3."""


def export_row(known: InstanceExport, progress: Progress | None = None) -> ExportRow:
    """One line of the list.

    :param progress: tells where it is; without it the row is as the ledger says.
    """
    return ExportRow.of(known, **(row_fields(known) | (live(known, progress) if progress else {})))


def row_fields(known: InstanceExport) -> dict[str, Any]:
    """The fields of an :class:`ExportRow` that the ledger has not under the same name."""
    there = known.state in THERE and known.object_key
    return {"location": f"s3://{known.bucket}/{known.object_key}" if there else ""}


def live(known: InstanceExport, progress: Progress) -> dict[str, Any]:
    """The fields of an open export that the ledger does not have: its step, and how much of its volumes was read.

    How far AWS is with its own task, the ledger has.
    """
    if known.state.terminal:
        return {}
    at = progress.step_of(known, UNMAPPED, CHAIN)
    fields = at.fields if at else {}
    if at and at.waiting:
        return {**fields, "phase": at.waiting}
    if not at or at.step.name != READ:
        return fields
    moved = progress.moved(known, READ, UNMAPPED)
    if moved is None or not moved.total:
        return fields
    return {
        **fields,
        "phase": "reads the snapshots and writes the OVA",
        "percent": min(100, 100 * moved.done // moved.total),
        "bytes_done": moved.done,
        "bytes_total": moved.total,
        "rate": round(moved.rate),
    }
