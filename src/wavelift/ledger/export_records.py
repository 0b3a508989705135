"""Records of instance exports: frozen values. Times are in UTC, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from wavelift.ledger.records import OfDagRun
from wavelift.rules.flows import EXPORT
from wavelift.rules.instance_export import ExportState


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceExport(OfDagRun):
    """One export of one instance, in one DAG run (AMP-10)."""

    flow: ClassVar = EXPORT

    id: str
    run_key: str
    state: ExportState
    phase: str
    """What it does now, for people."""
    percent: int
    """Of the phase, as AWS or the reader tells it; 0 where nobody does."""
    environment: str
    account: str
    """Number of the AWS account."""
    region: str
    instance_id: str
    """``i-…``."""
    subject: str
    """As it was asked for: the instance's id, or that of the migration or cutover that made it."""
    choice: str
    """The method that was asked for: ``auto`` or one of them."""
    method: str
    """The method that was chosen; empty: not yet."""
    target: str
    format: str
    bucket: str
    prefix: str
    may_reboot: bool
    request_id: str
    requested_by: str
    requested_at: datetime
    note: str
    plan: dict[str, Any] | None
    """What the check saw and chose: :class:`~wavelift.services.dataplane.export_messages.ExportPlan`."""
    findings: list[dict[str, Any]] | None
    made: dict[str, Any] | None
    """What may exist outside, written down before it is made: tokens, snapshots, image, upload."""
    task_id: str
    """Of AWS: ``export-i-…`` or ``export-ami-…``; empty with the method ``direct``."""
    object_key: str
    object_bytes: int | None
    result: dict[str, Any] | None
    """What the verification found."""
    times: dict[str, str] | None
    """Name of a moment → ISO 8601."""
    error: str
    cancel_requested: bool
    updated_at: datetime
    finished_at: datetime | None
    version: int

    @property
    def server(self) -> str:
        """The name that errors and events show."""
        return self.instance_id
