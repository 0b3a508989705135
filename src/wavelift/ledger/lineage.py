"""What the next run of each disk builds on. It advances only with a recorded run, all disks at once (invariant 4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wavelift.base.domain import DiskLineage
from wavelift.ledger.database import Tx
from wavelift.ledger.replication_records import LineageRow
from wavelift.ledger.replication_tables import disk_lineage


def read_lineage(tx: Tx, job_id: str) -> tuple[DiskLineage, ...]:
    """The disks of a job by their keys; empty before its first recorded run: then every disk is a seed."""
    return tuple(row.lineage for row in rows(tx, job_id))


def rows(tx: Tx, job_id: str) -> tuple[LineageRow, ...]:
    """:func:`read_lineage` with the run that each disk comes from."""
    query = sa.select(disk_lineage).where(disk_lineage.c.job_id == job_id).order_by(disk_lineage.c.key)
    return tuple(LineageRow(**row._asdict()) for row in tx.execute(query))


# Writing: the caller's transaction holds the wave's lock


def replace(tx: Tx, job_id: str, run_id: str, disks: Sequence[DiskLineage], *, at: datetime) -> None:
    """Put the whole set of one run in the place of the last one: a disk that is gone has no lineage any more."""
    remove(tx, job_id)
    values: list[dict[str, Any]] = [
        {"job_id": job_id, "run_id": run_id, "recorded_at": at, **disk.model_dump()} for disk in disks
    ]
    if values:
        tx.execute(disk_lineage.insert(), values)


def remove(tx: Tx, job_id: str) -> None:
    """Forget the job's disks: its next run is a seed."""
    tx.execute(disk_lineage.delete().where(disk_lineage.c.job_id == job_id))


def set_quarantine(tx: Tx, job_id: str, key: int, reason: str) -> bool:
    """Say why a disk's change tracking is not believed; the first reason stays. False when nothing changed."""
    mine = (disk_lineage.c.job_id == job_id) & (disk_lineage.c.key == key) & (disk_lineage.c.quarantine == "")
    return tx.execute(disk_lineage.update().where(mine).values(quarantine=reason)).rowcount == 1
