"""What the routes of instance exports answer. Sizes are bytes."""

from __future__ import annotations

from typing import Any

from wavelift.base.domain import Instant
from wavelift.console.answers import Page, RunStarted, ServerStep
from wavelift.rules.instance_export import ExportState


class ExportRow(ServerStep):
    """One export of one instance to S3."""

    id: str
    environment: str
    account: str
    region: str
    instance_id: str
    subject: str
    """As it was asked for: the instance, or the migration or cutover that made it."""
    state: ExportState
    phase: str
    """What it does now, or waits for, in words."""
    percent: int
    """Of this phase; 0 where nobody tells it."""
    bytes_done: int | None = None
    """Read of the volumes so far, with the method ``direct``; null: not known."""
    bytes_total: int | None = None
    rate: int = 0
    """Bytes per second; 0 while it is unknown."""
    choice: str
    """The method that was asked for: ``auto`` or one of them."""
    method: str
    """The method that was chosen; empty: not yet."""
    target: str
    format: str
    bucket: str
    prefix: str
    object_key: str
    """Empty: not known yet."""
    object_bytes: int | None
    location: str = ""
    """``s3://…`` of the object; empty: it is not there."""
    may_reboot: bool
    task_id: str
    """Of AWS; empty with the method ``direct``."""
    requested_by: str
    requested_at: Instant
    request_id: str
    note: str
    error: str
    cancel_requested: bool
    dag_id: str
    dag_run_id: str
    updated_at: Instant
    finished_at: Instant | None


class ExportPage(Page):
    exports: list[ExportRow]


class ExportDetails(ExportRow):
    """Everything about one export."""

    why: str
    """This method."""
    findings: list[dict[str, Any]] | None
    """Of the check; null: it was not checked yet."""
    plan: dict[str, Any] | None
    """What was seen and chosen; whatever is made follows it."""
    made: dict[str, Any] | None
    """What may exist outside; it is written down before it is made."""
    result: dict[str, Any] | None
    """What the verification found in the object."""
    times: dict[str, Instant]
    run_key: str
    version: int


class ExportStarted(RunStarted):
    mode: str
    export: ExportRow | None
    """null in modes check and setup, which open none."""
    made_before: bool = False
    """The request was made before under the same name: nothing was started."""


class ExportCancelled(ExportRow):
    stopped_tasks: list[str]
