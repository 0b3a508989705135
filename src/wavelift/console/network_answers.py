"""What the routes of networks and their cutovers answer."""

from __future__ import annotations

from typing import Any

from wavelift.base.domain import Instant
from wavelift.console.answers import Answer, Page, RunStarted
from wavelift.console.cutover_answers import CutoverApproval, CutoverStep
from wavelift.rules.network_cutover import NetworkState


class NetworkCutoverRow(Answer):
    """One cutover of a network. Its DAG run is the one that opened it; revert and finish are runs of their own."""

    id: str
    network: str
    environment: str
    state: NetworkState
    phase: str
    prefix: str
    """Such as ``10.1.2.0/24``."""
    extension_id: str
    requested_by: str
    requested_at: Instant
    request_id: str
    note: str
    revert_run: str
    finish_run: str
    error: str
    alert: str
    """What somebody must know, such as that nobody routes the network; empty: nothing."""
    cancel_requested: bool
    soak_until: Instant | None
    """It may not be finished before."""
    dag_id: str
    dag_run_id: str
    updated_at: Instant
    finished_at: Instant | None


class NetworkCutoverPage(Page):
    cutovers: list[NetworkCutoverRow]


class NetworkCutoverDetails(NetworkCutoverRow):
    """Everything about one cutover of a network."""

    steps: list[CutoverStep]
    """In their order; they are undone in reverse order."""
    approval: CutoverApproval | None
    plan: dict[str, Any] | None
    plan_digest: str
    before: dict[str, Any] | None
    """Both sides and the extension, before the first write; null: nothing was looked at yet."""
    after: dict[str, Any] | None
    probes: dict[str, Any] | None
    times: dict[str, Instant]
    run_key: str
    version: int


class NetworkRow(Answer):
    """One network of the files."""

    network: str
    environment: str
    description: str
    disconnect_by: str
    on_failure: str
    dag_id: str
    stale: bool
    """Its file is invalid now; this is its last valid version."""
    cutover: NetworkCutoverRow | None
    """The newest, open or over."""


class NetworkList(Answer):
    networks: list[NetworkRow]


class NetworkCutoverStarted(RunStarted):
    mode: str
    cutover: NetworkCutoverRow | None
    """null in mode plan, which opens none."""
    made_before: bool = False
    """The request was made before under the same name: nothing was started."""


class NetworkStepConfirmed(CutoverStep):
    cutover: str
