"""What passes between the tasks of a replicate run: small JSON, every piece naming its server."""

from __future__ import annotations

from wavelift.base.domain import DiskLineage, Message
from wavelift.rules.plans import ResolvedWave


class TurnedDown(Message):
    """A server that may not run now: which rule says so, and until when (ISO 8601) where that can be told."""

    server: str
    rule: str
    reason: str
    until: str | None = None


class AdmittedRuns(Message):
    """What ``admit`` decided, over the spec that it froze for the run."""

    wave: ResolvedWave
    """Only the entries of servers that may run, and folders."""
    dag_id: str
    run_id: str
    requested_by: str
    scheduled: bool
    granted: tuple[str, ...] = ()
    """Names of the servers that go on."""
    refused: tuple[TurnedDown, ...] = ()
    skipped: tuple[TurnedDown, ...] = ()
    finished: tuple[str, ...] = ()


class ReservedRun(Message):
    """A transfer slot is won; what the run builds on goes with it, since no transfer opens the ledger."""

    server: str
    run: str
    lineages: tuple[DiskLineage, ...] = ()


class VerifiedRun(Message):
    """What ``verify`` read back from EBS."""

    server: str
    level: str
    blocks_checked: int = 0
    bytes_read_back: int = 0
