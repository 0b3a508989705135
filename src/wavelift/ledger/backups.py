"""Backups of migrated instances: an image, and a launch template that starts it (AMP-09)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from wavelift.base.names import run_hash, run_key
from wavelift.base.run import DagRun
from wavelift.ledger.cutover_records import Backup
from wavelift.ledger.database import Tx
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.spine import Rows, Words, matching
from wavelift.ledger.tables_cutover import backup
from wavelift.rules.cutover import BackupState, require_backup_way

PREFIX: Final = "bak-"
"""Of the ids."""


def backup_id(run: DagRun, subject: str) -> str:
    """The id of the backup that one instance has in one DAG run."""
    return f"{PREFIX}{run_hash(run_key(run.dag_id, run.dag_run_id, subject))}"


class _Backups(Rows[Backup]):
    def _require_way(self, known: Backup, to: BackupState) -> None:
        require_backup_way(known.state, to, backup=known.id)

    def _arrival(self, known: Backup, to: BackupState, at: datetime) -> Mapping[str, Any]:
        return {"finished_at": at if to.terminal else None}


_rows = _Backups(backup, Backup, Words(kind="backup", noun="backup", key="backup", listing="`wavelift backup list`"))
find = _rows.find
get = _rows.get
apply = _rows.apply


def list_backups(
    tx: Tx,
    *,
    wave: str | None = None,
    waves: Collection[str] | None = None,
    subject: str | None = None,
    limit: int = ROWS_A_PAGE,
    offset: int = 0,
) -> Page[Backup]:
    """One page of backups, newest first. ``waves``: those that the caller may read."""
    where = matching(backup, {"wave": wave, "subject": subject}, {"wave": waves})
    return _rows.page(tx, where, order=(backup.c.created_at.desc(), backup.c.id), limit=limit, offset=offset)


def insert(tx: Tx, *, at: datetime, by: str, run: DagRun, subject: str, **columns: Any) -> Backup:
    """Write that a backup is going to be made."""
    made = _rows.insert(
        tx,
        id=backup_id(run, subject),
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        subject=subject,
        state=BackupState.MAKING,
        requested_by=by,
        created_at=at,
        updated_at=at,
        **columns,
    )
    _rows.tell(tx, made, "requested", at=at, by=by, details={"instance": made.instance_id, "reboot": made.reboot})
    return made
