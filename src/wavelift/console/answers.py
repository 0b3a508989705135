"""What the REST API answers, as models. The routes build them, and the command line reads answers with them.

Times are ISO 8601 in UTC, sizes are in bytes, rates in bytes per second.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from wavelift.base.catalog import ConnectorHealth
from wavelift.base.domain import Instant, Refusal
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.replication import JobState


class Answer(BaseModel):
    """A reader ignores the fields that a newer server adds."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    @classmethod
    def of(cls, record: object, **others: Any) -> Self:
        """The fields that ``record`` has under the same name, and ``others``."""
        same = {
            name: getattr(record, name) for name in cls.model_fields if name not in others and hasattr(record, name)
        }
        return cls.model_validate({**same, **others})


class Problem(BaseModel):
    """Why a request was refused; ``rule``, ``until`` and ``refusals`` only where a replication rule says no."""

    detail: str
    rule: str | None = None
    until: Instant | None = None
    """When the rule holds no more by itself."""
    refusals: list[Refusal] = []


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    loc: list[str | int]
    msg: str
    type: str


class WrongRequest(BaseModel):
    """A request that can never be served as it is."""

    detail: str | list[FieldProblem]


class Page(Answer):
    """A window on a list; ``total`` counts all that match."""

    total: int
    limit: int
    offset: int


# Who may do what


class EnvironmentRow(Answer):
    """An environment that is granted to the caller."""

    name: str
    description: str
    kind: str = "aws"
    """``hcx``: it has no account, region and VPC."""
    account: str = ""
    region: str = ""
    vpc: str = ""
    exports_bucket: str = ""
    """Of its instance exports; empty: nothing is exported from it."""
    actions: list[str]
    """What the caller may do: ``migrate``, ``cut_over``, ``administer``."""


class EnvironmentList(Answer):
    environments: list[EnvironmentRow]


class EnvironmentDetails(EnvironmentRow):
    spec: dict[str, Any]
    """As its file says now."""


class Me(Answer):
    """Who the caller is for environments."""

    name: str
    roles: list[str]
    """``role/NAME``, as ``group:role/NAME`` in an environment means them."""
    groups: list[str]
    """By ``principals.yaml``."""
    vcenter_principal: str | None = None
    environments: list[EnvironmentRow]
    problem: str = ""
    """Why the groups cannot be read."""


# DAG runs


class RunStarted(Answer):
    """The DAG run that does the work."""

    dag_id: str
    dag_run_id: str
    dag_paused: bool = False
    """Airflow does not start it until somebody unpauses the DAG."""


class VerifyStarted(RunStarted):
    runs: list[str]
    """Ids of the replication runs that are read back."""


class ServerStep(Answer):
    """The step that a server is at, as Airflow's task instances say it.

    Empty if the server is not active, if it is between two steps, or if Airflow was not asked.
    """

    step: str = ""
    step_state: str = ""
    """Of its task: ``scheduled``, ``queued``, ``running``, ``deferred``, ``up_for_retry``, …"""
    step_try: int = 0
    """From 1; with ``up_for_retry`` the one that failed."""
    step_tries: int = 0
    """How many it has; told with ``up_for_retry`` only."""
    retry_reason: str = ""
    """Why the last try failed, while the next one is waited for."""
    retry_at: Instant | None = None
    """When the next one begins."""
    waiting: str = ""
    """Its place in the queue, in words, while it waits for a slot; ``GET /queue`` tells more."""


# Migrations


class MigrationRow(ServerStep):
    """One migration of the list: id, state, progress, results (AMP-07, AMP-08)."""

    id: str
    wave: str
    server: str
    state: MigrationState
    phase: str
    progress_pct: int
    bytes_done: int
    bytes_total: int
    bytes_sent: int | None = None
    """Known only while the transfer runs."""
    import_task_id: str
    image_id: str
    instance_id: str
    error: str
    cancel_requested: bool
    dag_id: str
    dag_run_id: str
    created_at: Instant
    finished_at: Instant | None


class MigrationPage(Page):
    migrations: list[MigrationRow]


class MigrationDetails(MigrationRow):
    """Everything about one migration."""

    run_key: str
    server_id: int | None
    map_index: int
    connector: str
    region: str
    snapshot_name: str
    snapshot_vm: str
    snapshot_state: str | None
    export_result: dict[str, Any] | None
    verify_result: dict[str, Any] | None
    snapshot_ids: list[str]
    conversion_report: list[dict[str, Any]] | None
    launch_result: dict[str, Any] | None
    updated_at: Instant
    version: int


class MigrationCancelled(MigrationRow):
    stopped_tasks: list[str]
    begun: bool = True
    """False: nothing of it had begun, so nothing is to be removed."""


class MigrationsStarted(RunStarted):
    """The run that moves the servers, and the ids that they have from now on."""

    migrations: list[MigrationRow]
    with_preflight: list[str]
    """Entries for a folder or a tag: their servers get ids when pre-flight has found them."""


# Catalogue and connectors


class ManagerRow(Answer):
    """The vCenter that a catalogue was read from."""

    id: str
    name: str
    type: str


class CatalogStatus(Answer):
    """The catalogue of one connection, with state and time of the last import."""

    connection: str
    connector: str
    state: str
    last_modified: Instant
    imported_at: Instant | None
    manager: ManagerRow
    product: str
    tags_unknown: str
    error: str
    dag_id: str
    dag_run_id: str


class CatalogList(Answer):
    catalogs: list[CatalogStatus]


class ServerJob(Answer):
    """The replication job of a server."""

    id: str
    state: str
    terminated: bool


class ServerRow(Answer):
    """One server of a catalogue, with everything that SMS-02 names."""

    id: str
    connection: str
    type: str
    name: str
    path: str
    manager_name: str
    manager_type: str
    manager_id: str
    vm_id: str
    instance_uuid: str
    guest_id: str
    guest_full_name: str
    power: str
    connection_state: str
    template: bool
    cpus: int
    memory_mib: int
    disk_bytes: int
    tags: list[str]
    gone: bool
    first_seen: Instant
    last_seen: Instant
    job: ServerJob | None


class ServerPage(Page):
    servers: list[ServerRow]


class CatalogCleared(Answer):
    connection: str
    removed: int


class ConnectorRow(Answer):
    """A registered connector; ``health_age_s`` says how old the knowledge of its health is."""

    name: str
    connection: str
    aws_conn_id: str
    region: str
    description: str
    maintenance: bool
    maintenance_reason: str
    health: ConnectorHealth | None
    checked_at: Instant | None
    registered_at: Instant
    registered_by: str
    healthy: bool | None
    health_age_s: int | None


class ConnectorList(Answer):
    connectors: list[ConnectorRow]


class ConnectorDisassociated(Answer):
    name: str
    disassociated: bool


# Replication


class RunRow(ServerStep):
    """One replication run, with everything that SMS-08 names."""

    id: str
    job_id: str
    wave: str
    server: str
    type: str
    """``Automatic``, ``OnDemand`` or ``Cutover``."""
    state: str
    status: str
    rule: str
    refused_until: Instant | None
    scheduled_start: Instant | None
    requested_at: Instant
    requested_by: str
    started_at: Instant | None
    completed_at: Instant | None
    ami_id: str
    ami_state: str | None
    progress_pct: int
    bytes_done: int
    bytes_total: int
    bytes_read: int
    bytes_sent: int
    rate: int
    duration_s: float
    error: str
    quarantine: str
    cancel_requested: bool
    dag_id: str
    dag_run_id: str


class RunPage(Page):
    runs: list[RunRow]


class RunDetails(RunRow):
    """One run with its disks."""

    result: dict[str, Any] | None
    superseded: list[dict[str, Any]]
    verified: dict[str, Any] | None = None
    """What was read back before the AMI was made; null: not known."""


class RunCancelled(RunRow):
    stopped_tasks: list[str]


class ReplicationStarted(RunStarted):
    runs: list[RunRow]


class JobRow(Answer):
    """One replication job with its current run, latest AMI, next instant and term (SMS-03, SMS-10)."""

    id: str
    wave: str
    server: str
    state: JobState
    state_reason: str
    seed_at: Instant
    frequency_hours: int
    next_at: Instant | None
    license_type: str
    description: str
    keep_amis: int | None
    """null: all."""
    pause_after_failures: int
    ami: str
    force_register: bool
    failures: int
    latest_ami_id: str
    current_run: RunRow | None
    first_replication_at: Instant | None
    term_ends_at: Instant | None
    term_days_left: int | None
    """Whole days, rounded up; 0 once the term is over."""
    source: str
    identity: str
    created_by: str
    created_at: Instant
    updated_at: Instant
    deleted_at: Instant | None
    dag_id: str


class JobList(Answer):
    jobs: list[JobRow]


class JobPage(Page):
    jobs: list[JobRow]


class JobDeleted(Answer):
    """What stops and what is removed; the AMIs stay (SMS-09)."""

    job: JobRow
    stopped_tasks: list[str]
    cut_short: list[str]
    """Ids of the runs that were stopped."""
    snapshots: list[str]
    manifests: list[str]
    dag_id: str
    dag_run_id: str | None
    """The run that removes it; null when there is nothing to remove."""
    dag_paused: bool
    """Airflow does not start that run until somebody unpauses the DAG."""


class FieldChange(Answer):
    ledger: Any
    spec: Any


class JobChange(Answer):
    kind: str
    server: str
    job_id: str | None
    fields: dict[str, FieldChange]


class EntryClash(Answer):
    """A server that is left alone, and what to do about it."""

    server: str
    what: str
    do: str


class WaveFile(Answer):
    """A wave as its file says it now, and whether Airflow has loaded it."""

    wave: str
    dag_id: str
    loaded: bool
    """Airflow has its DAG."""
    problem: str
    """Why the file allows no run; empty: it is valid."""
    within_s: int
    """Airflow looks at the files again within so many seconds."""


class WaveApplied(Answer):
    wave: str
    dry_run: bool
    changes: list[JobChange]
    unbound: list[str]
    """Folders and tags of which the catalogue holds no server."""
    clashes: list[EntryClash]
    dag_id: str
    dag_paused: bool | None
    """null: Airflow does not know the DAG."""
