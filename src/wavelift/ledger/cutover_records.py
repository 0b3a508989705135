"""Records of cutovers: frozen values. Times are in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from wavelift.base.domain import Message
from wavelift.ledger.records import OfDagRun
from wavelift.rules.cutover import BackupState, CutoverState, StepState, TrialState
from wavelift.rules.flows import CUTOVER, TEST


class TargetPlace(Message):
    """Where an instance is: enough to reach it without any spec."""

    aws_conn_id: str
    region: str
    account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutover(OfDagRun):
    """One server's cutover. The DAG run is the one that opened it; revert and finalize are runs of their own."""

    flow: ClassVar = CUTOVER

    id: str
    run_key: str
    wave: str
    server: str
    environment: str
    state: CutoverState
    phase: str
    """What it does now, for people."""
    request_id: str
    requested_by: str
    requested_at: datetime
    note: str
    tier: str
    tier_index: int
    window_start: datetime | None
    window_end: datetime | None
    job_id: str
    forecast: dict[str, Any] | None
    plan_digest: str
    """SHA-256, hex, of the plan of its DAG run. Approvals name it."""
    source: dict[str, Any] | None
    """:class:`~wavelift.rules.cutover.SourceBefore` as JSON; None until ``reserve`` intends to stop the source."""
    presync_runs: tuple[str, ...]
    """Ids of the DAG runs of ``<wave>.replicate`` that were started for it. Written before they are triggered."""
    run_id: str
    """The replication run of the last changes."""
    image_id: str
    instance_id: str
    private_ip: str
    target: dict[str, Any] | None
    """:class:`TargetPlace` as JSON."""
    checks: list[dict[str, Any]] | None
    times: dict[str, str] | None
    """Name of a moment → ISO 8601: ``going``, ``stopping``, ``down``, ``recorded``, ``image``, ``launched``,
    ``checked``, ``switched``, ``reverting``, ``source_up``."""
    verify_run: str
    revert_run: str
    finalize_run: str
    error: str
    cancel_requested: bool
    updated_at: datetime
    finished_at: datetime | None
    version: int

    def moment(self, name: str) -> datetime | None:
        """When something happened; None: it has not."""
        text = (self.times or {}).get(name)
        return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One undoable step of a subject: a cutover, a server that was prepared, or something of another flow."""

    subject_kind: str
    subject_id: str
    name: str
    position: int
    kind: str
    state: StepState
    words: str
    undo_words: str
    spec: dict[str, Any] | None
    """What the step's class is made with."""
    before: Any
    """What was there before the first change. Once stored, it never changes until the step is undone."""
    wanted: Any
    wait: dict[str, Any] | None
    error: str
    changed_at: datetime | None
    updated_at: datetime
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One answer to a plan. The newest one of a digest counts."""

    id: int
    subject_kind: str
    subject_id: str
    digest: str
    answer: str
    """``approve`` or ``reject``."""
    answered_by: str
    requested_by: str
    answered_at: datetime
    valid_until: datetime
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TestInstance(OfDagRun):
    """An instance that was launched to try an image."""

    __test__: ClassVar = False  # of pytest
    flow: ClassVar = TEST

    id: str
    run_key: str
    wave: str
    server: str
    environment: str
    state: TrialState
    phase: str
    requested_by: str
    run_id: str
    """The replication run whose AMI it is."""
    image_id: str
    instance_id: str
    private_ip: str
    target: dict[str, Any] | None
    """:class:`TargetPlace` as JSON."""
    checks: list[dict[str, Any]] | None
    passed: bool | None
    """None: not known yet."""
    error: str
    launched_at: datetime | None
    ends_at: datetime | None
    """When it is terminated if nobody does it before."""
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup(OfDagRun):
    """An image and a launch template of a migrated instance."""

    id: str
    wave: str
    server: str
    environment: str
    subject: str
    """The migration or the cutover whose instance it is."""
    state: BackupState
    reboot: bool
    instance_id: str
    image_id: str
    template_id: str
    template_version: int | None
    target: dict[str, Any] | None = field(repr=False)
    requested_by: str
    error: str
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    version: int
