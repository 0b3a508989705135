"""The JSON messages between the tasks of a replicate run. They are small, and each one names its server."""

from __future__ import annotations

from pydantic import Field

from wavelift.base.domain import DiskLineage, Instant, Message, Refusal, ReplicatedDisk
from wavelift.rules.conf import ReplicateMode
from wavelift.rules.cutover import SourceBefore
from wavelift.rules.plans import ResolvedWave
from wavelift.services.dataplane.messages import AccountUse


class RecordedRun(Message):
    """A recorded run whose EBS snapshots are to be read back."""

    server: str
    run: str
    aws_conn_id: str
    region: str
    disks: tuple[ReplicatedDisk, ...]


class AdmittedRuns(Message):
    """What ``admit`` decided, over the spec that it froze for the run."""

    wave: ResolvedWave
    """Only the entries of servers that may run, folders and tags."""
    dag_id: str
    run_id: str
    requested_by: str
    scheduled: bool
    granted: tuple[str, ...] = ()
    """Names of the servers that go on."""
    refused: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()
    finished: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What someone should act on soon: terms that end."""
    mode: ReplicateMode = "replicate"
    jobs: tuple[str, ...] = ()
    """In mode ``delete``: whose replicas go."""
    recorded: tuple[RecordedRun, ...] = ()
    """In mode ``verify``: what is read back."""
    token: str = Field(default="", repr=False)
    """The grant of pre-flight, a credential: Airflow masks a field of this name."""
    account_use: AccountUse | None = None


class StopOrder(Message):
    """What ``stop_source`` needs to know: it has no ledger."""

    cutover: str
    before: SourceBefore
    """As the ledger has it: what a revert will restore."""
    not_after: Instant | None = None
    """No source that runs is asked to shut down later: its downtime would go beyond the window. None: no window."""
    ordered_at: Instant | None = None
    """When ``reserve`` gave it: each has its own. None: of an older version."""


class StoppedSource(Message):
    """What ``stop_source`` returns: the source is off, stays off, and none of its cards can be connected by a power-on
    or by its guest."""

    server: str
    vm: str
    down_at: Instant
    """When it was first seen off."""
    how: str
    """In words, for people."""


class ReservedRun(Message):
    """A transfer slot is won; what the run builds on goes with it, since no transfer opens the ledger."""

    server: str
    run: str
    lineages: tuple[DiskLineage, ...] = ()
    unfinished: tuple[str, ...] = ()
    """Keys of the job's runs that failed since the last recorded one: one may have left an unfinished seed."""
    token: str = Field(default="", repr=False)
    """The server's grant, a credential: Airflow masks a field of this name."""
    stop: StopOrder | None = None
    """Of a cutover: its source is to be stopped."""


class VerifiedRun(Message):
    """What ``verify`` read back from EBS."""

    server: str
    level: str
    blocks_checked: int = 0
    bytes_read_back: int = 0
    snapshots: tuple[str, ...] = ()
    """The EBS snapshots, in disk order."""
