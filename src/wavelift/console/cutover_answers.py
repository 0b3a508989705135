"""What the routes of cutovers, test instances and backups answer."""

from __future__ import annotations

from typing import Any

from wavelift.base.domain import Instant
from wavelift.console.answers import Answer, Page, RunStarted, ServerStep
from wavelift.rules.cutover import BackupState, CutoverState, StepState, TrialState
from wavelift.rules.serving import Serves


class CutoverRow(ServerStep):
    """One server's cutover. Its DAG run is the one that opened it; revert and finalize are runs of their own."""

    id: str
    wave: str
    server: str
    environment: str
    tier: str
    state: CutoverState
    phase: str
    serves: Serves
    """Who serves, as far as is known; ``nobody`` from the order to stop the source on."""
    downtime_s: float | None
    """Seconds in which nobody served, so far; null: it was never so."""
    requested_by: str
    requested_at: Instant
    request_id: str
    note: str
    window_start: Instant | None
    window_end: Instant | None
    run_id: str
    """The replication run of the last changes."""
    image_id: str
    instance_id: str
    private_ip: str
    presync_runs: list[str]
    """DAG runs that replicate before the source is stopped."""
    verify_run: str
    """The DAG run that reads back what was recorded."""
    revert_run: str
    finalize_run: str
    error: str
    cancel_requested: bool
    dag_id: str
    dag_run_id: str
    updated_at: Instant
    finished_at: Instant | None


class CutoverPage(Page):
    cutovers: list[CutoverRow]


class CutoverStep(Answer):
    """One undoable step."""

    name: str
    kind: str
    state: StepState
    words: str
    undo_words: str
    before: Any
    """What was there before the first change; null: nothing was changed."""
    wanted: Any
    waits: str
    """What it waits for, in words."""
    error: str
    changed_at: Instant | None


class CutoverApproval(Answer):
    """The answer to the plan, as the ledger has it."""

    answer: str
    """``approve`` or ``reject``."""
    answered_by: str
    answered_at: Instant
    valid_until: Instant
    digest: str


class CutoverDetails(CutoverRow):
    """Everything about one cutover."""

    steps: list[CutoverStep]
    """Of the switch of the network, in their order; they are undone in reverse order."""
    prepared: list[CutoverStep]
    """What ``prepare`` changed for the server. It outlives a cutover that is reverted."""
    approval: CutoverApproval | None
    forecast: dict[str, Any] | None
    plan_digest: str
    source: dict[str, Any] | None
    """The source as it was; null: nothing of it was touched."""
    target: dict[str, Any] | None
    checks: list[dict[str, Any]] | None
    times: dict[str, Instant]
    job_id: str
    run_key: str
    version: int


class CutoversStarted(RunStarted):
    mode: str
    cutovers: list[CutoverRow]
    """Empty in modes plan and prepare, which open none."""
    made_before: bool = False
    """The request was made before under the same name: nothing was started."""


class CutoverRunStarted(RunStarted):
    """A run that ends a cutover."""

    mode: str
    cutover: CutoverRow


class CutoverCancelled(CutoverRow):
    pass


class CutoverAnswered(Answer):
    """The answer that was given. Whether it counts is decided by the run: the ledger's approval says it."""

    dag_id: str
    dag_run_id: str
    task_id: str
    answer: str
    answered_by: str


class StepConfirmed(CutoverStep):
    cutover: str


class TrialRow(Answer):
    """One test instance."""

    id: str
    wave: str
    server: str
    environment: str
    state: TrialState
    phase: str
    passed: bool | None
    """null: not known yet."""
    run_id: str
    image_id: str
    instance_id: str
    private_ip: str
    checks: list[dict[str, Any]] | None
    requested_by: str
    error: str
    launched_at: Instant | None
    ends_at: Instant | None
    """When it is terminated if nobody does it before."""
    dag_id: str
    dag_run_id: str
    created_at: Instant
    updated_at: Instant
    finished_at: Instant | None


class TrialPage(Page):
    tests: list[TrialRow]


class TrialsStarted(RunStarted):
    made_before: bool = False


class TrialEnds(RunStarted):
    test: TrialRow


class BackupRow(Answer):
    """An image of an instance, and a launch template that starts it."""

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
    requested_by: str
    error: str
    dag_id: str
    dag_run_id: str
    created_at: Instant
    updated_at: Instant
    finished_at: Instant | None


class BackupPage(Page):
    backups: list[BackupRow]


class BackupStarted(RunStarted):
    backup: str
    """Its id, from the moment on when the run has begun."""
    made_before: bool = False
