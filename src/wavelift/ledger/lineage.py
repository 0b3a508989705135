"""The lineage of each disk: the EBS snapshot and manifest that the next run uses as its base.

Only a recorded run changes it, for all disks of the job at once. A change needs the lock of the job's wave."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wavelift.base.domain import DiskLineage
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.replication_records import LineageRow
from wavelift.ledger.replication_tables import disk_lineage


def read_lineage(tx: Tx, job_id: str) -> tuple[DiskLineage, ...]:
    """The disks of a job, sorted by key. Empty before the first recorded run, which copies every disk completely."""
    return tuple(row.lineage for row in rows(tx, job_id))


def rows(tx: Tx, job_id: str) -> tuple[LineageRow, ...]:
    """Like :func:`read_lineage`, with the run that recorded each disk."""
    query = sa.select(disk_lineage).where(disk_lineage.c.job_id == job_id).order_by(disk_lineage.c.key)
    return tuple(LineageRow(**row._asdict()) for row in tx.execute(query))


def replace(tx: Tx, job_id: str, run_id: str, disks: Sequence[DiskLineage], *, at: datetime) -> None:
    """Replace all disks of the job by those of one run. A disk that the run did not have is removed."""
    remove(tx, job_id)
    values: list[dict[str, Any]] = [
        {"job_id": job_id, "run_id": run_id, "recorded_at": at, **disk.model_dump()} for disk in disks
    ]
    if values:
        tx.execute(disk_lineage.insert(), values)


def remove(tx: Tx, job_id: str) -> None:
    """Remove all disks of the job. Its next run copies every disk completely."""
    require_lock(tx)
    tx.execute(disk_lineage.delete().where(disk_lineage.c.job_id == job_id))


def set_quarantine(tx: Tx, job_id: str, key: int, reason: str) -> bool:
    """Store why a disk's change tracking cannot be used. The first reason stays. False if nothing changed."""
    require_lock(tx)
    mine = (disk_lineage.c.job_id == job_id) & (disk_lineage.c.key == key) & (disk_lineage.c.quarantine == "")
    return tx.execute(disk_lineage.update().where(mine).values(quarantine=reason)).rowcount == 1
