"""What the routes of live migrations answer."""

from __future__ import annotations

from typing import Any

from wavelift.base.domain import Instant
from wavelift.console.answers import Answer, Page, RunStarted
from wavelift.console.cutover_answers import CutoverApproval
from wavelift.rules.live import LiveState


class LiveRow(Answer):
    """One server's live migration with HCX in one DAG run."""

    id: str
    wave: str
    server: str
    environment: str
    kind: str
    """``rav``, ``bulk``, ``vmotion`` or ``cold``."""
    state: LiveState
    phase: str
    """What HCX does now, or what is waited for, in words."""
    percent: int
    bytes_done: int | None
    bytes_total: int | None
    window_start: Instant | None
    window_end: Instant | None
    group_name: str
    """Of the mobility group in HCX."""
    migration_id: str
    """In HCX."""
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


class LivePage(Page):
    migrations: list[LiveRow]


class LiveDetails(LiveRow):
    """Everything about one live migration."""

    manager: str
    """The Airflow connection of the HCX manager."""
    mesh: str
    entity_id: str
    group_id: str
    instance_uuid: str
    plan_digest: str
    approval: CutoverApproval | None
    before: dict[str, Any] | None
    """The VM at the source, and where it shall go; null: no pre-flight has resolved it."""
    found: dict[str, Any] | None
    """What the verification found in both vCenters."""
    times: dict[str, Instant]
    run_key: str
    version: int


class LiveStarted(RunStarted):
    mode: str
    migrations: list[LiveRow]
    """Empty in mode plan, which opens none."""
    made_before: bool = False
    """The request was made before under the same name: nothing was started."""


class LiveCancelled(LiveRow):
    cancel_run: str
    """The DAG run that ends it in HCX; empty: HCX was not asked for it yet."""
