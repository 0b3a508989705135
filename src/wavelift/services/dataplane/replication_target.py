"""The EBS snapshot that a disk's blocks go into (invariants 5 and 6).

It is one of three: a snapshot that an earlier try began for the same vSphere snapshot, a seed that an earlier run left
unfinished, or a new one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs_snapshot import PENDING, NewSnapshot, start_snapshot
from wavelift.adapters.aws.ec2 import Ec2, Snapshot
from wavelift.adapters.aws.errors import ParentRefusedError, TokenSpentError
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import CorruptStreamError, NotFoundError, WaveliftError
from wavelift.base.names import MADE_BY, TAG_RUN, client_token, run_hash
from wavelift.base.run import CancelFlag
from wavelift.services.dataplane.bases import Base, Encryption
from wavelift.services.dataplane.importing import delete_unused
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.readers import Reading
from wavelift.services.dataplane.replication_try import ReplicationRecord
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.services.dataplane.unfinished import (
    FreshSeed,
    SeedNote,
    Unfinished,
    UnfinishedSeeds,
    is_of_run,
    tell_fresh,
)
from wavelift.transfer.journal import Journal, JournalIdentity, Segments, SegmentStore, most_segment_bytes

log = logging.getLogger(__name__)

TOKENS_IN_A_TRY: Final = 4
"""StartSnapshot's tokens that one try may find spent; the next try goes on behind them."""


@dataclass(frozen=True, slots=True)
class DiskReplication:
    """The work on one disk in this try."""

    index: int
    disk: DiskFacts
    base: Base
    reading: Reading
    target: str = ""
    """EBS snapshot."""
    holds_others: bool = False
    """The target, a seed, holds blocks of another instant, or of a doubtful one: none is believed to be right."""

    @property
    def parent(self) -> str:
        return self.base.lineage.snapshot_id if self.base.lineage else ""


@dataclass(frozen=True, slots=True)
class RunKeys:
    """This run's key, and those of the job's runs that failed since the last recorded one."""

    own: str
    unfinished: tuple[str, ...] = ()


class Targets:
    """The EBS snapshots of one try of one server's run.

    :param state_folder: of the connector, for journals.
    """

    def __init__(
        self,
        access: AwsAccess,
        staging: ServerStaging,
        task: ServerTask,
        keys: RunKeys,
        record: ReplicationRecord,
        state_folder: Path,
    ) -> None:
        self.access = access
        self.staging = staging
        self.task = task
        self.keys = keys
        self.record = record
        self.state_folder = state_folder
        self.encryption = Encryption.of(access, task.plan.target)
        self.begun: dict[str, Snapshot] = {}
        """Of earlier tries of this instant, as AWS shows them when this one begins."""

    def look(self, known: Sequence[dict[str, Any]]) -> None:
        """Ask AWS for the snapshots that the record names."""
        self.begun = Ec2(self.access).snapshots(each["target"] for each in known if each.get("target"))

    def give_up_outdated(self, keep: set[str]) -> None:
        """Those of earlier instants of this run."""
        for found in Ec2(self.access).snapshots(set(self.record.outdated) - keep).values():
            self.give_up(found)

    def give_up_now(self, target: str) -> None:
        """:meth:`give_up` by what AWS says of it now: the try may have been outlived."""
        self.give_up(Ec2(self.access).snapshots([target]).get(target))

    def give_up(self, found: Snapshot | None) -> None:
        """Delete what this run began, unless another one has taken it up or an image stands on it."""
        if found is not None and is_of_run(found, self.keys.own):
            delete_unused(Ec2(self.access), [found.snapshot_id])

    def state(self, known: dict[str, Any]) -> str:
        """Of a disk's EBS snapshot; empty when there is none."""
        found = self.begun.get(known.get("target", ""))
        return found.state if found is not None else ""

    def is_mine(self, known: dict[str, Any]) -> bool:
        """Whether the disk's EBS snapshot is there and still this run's."""
        found = self.begun.get(known.get("target", ""))
        return found is not None and is_of_run(found, self.keys.own)

    def choose(self, work: DiskReplication) -> DiskReplication:
        """The disk's EBS snapshot: the one that an earlier try of this instant began, or a new one."""
        known = self.record.disk(work.index)
        attempt = int(known.get("attempt", 0))
        if known.get("target"):
            # Pending it is also while AWS works on one that we completed: completing it again does no harm.
            if self.state(known) == PENDING and self.is_mine(known) and known.get("parent", "") == work.parent:
                return replace(work, target=known["target"], holds_others=bool(known.get("holds_others")))
            if not known.get("done"):  # else a record may name it; see TryRecord.outdated
                self.give_up(self.begun.get(known["target"]))
            attempt += 1
            self.record.update(work.index, target="", segments={}, holds_others=False, done=None)
        for number in range(attempt, attempt + TOKENS_IN_A_TRY):
            try:
                return self._begun(work, number)
            except TokenSpentError as error:
                last: WaveliftError = error
            except ParentRefusedError as error:
                last = error
                log.warning("%s %s: %s; a new seed", self.task.name, work.disk.address, error.what)
                seed = replace(work.reading, areas=None, why_whole="")
                work = replace(work, base=Base.seed(error.what), reading=seed)
        raise last

    def _begun(self, work: DiskReplication, attempt: int) -> DiskReplication:
        """A new EBS snapshot, or a seed that was left unfinished."""
        if not work.parent:
            folders = {key: self.staging.beside(key, self.task.plan) for key in (self.keys.own, *self.keys.unfinished)}
            seeds = UnfinishedSeeds(self.access, folders, self.encryption)
            if (found := seeds.of(work.disk)) and (taken := self._taken_up(work, attempt, found)):
                return taken
        return self._started(work, attempt)

    def _taken_up(self, work: DiskReplication, attempt: int, found: Unfinished) -> DiskReplication | None:
        """The seed with all that is known of it, ours from now on; None when too little is known.

        Whatever ends this half-way, it can be done again: the tag moves when our own journal and note know all, and the
        state store is told last.
        """
        target = found.note.target
        work = replace(work, target=target, holds_others=True)
        journal = self.journal(work)
        try:
            found.pour_into(journal, self.state_folder)
            blocks = len(journal)
        except (CorruptStreamError, NotFoundError) as error:
            tell_fresh(target, FreshSeed.UNKNOWN, error.what)
            journal.discard()
            return None
        finally:
            journal.close(store=False)
        Ec2(self.access).tag([target], {TAG_RUN: run_hash(self.keys.own)})
        self.record.keep(target)  # this try may complete it, and a record name it
        began = {"attempt": attempt, "parent": "", "reason": work.base.reason, "holds_others": True, "done": None}
        self.record.update(work.index, target=target, **began)
        log.info("%s %s: goes on with the seed %s: %d blocks", self.task.name, work.disk.address, target, blocks)
        return work

    def _started(self, work: DiskReplication, attempt: int) -> DiskReplication:
        target, known = self.task.plan.target, self.record.disk(work.index)
        repeated = not known.get("target") and known.get("attempt") == attempt
        # Before the call: whatever becomes of its answer, the next try asks under the same token or a later one.
        mark = {"attempt": attempt, "parent": work.parent, "reason": work.base.reason, "segments": {}, "done": None}
        self.record.update(work.index, target="", holds_others=False, **mark)
        wanted = NewSnapshot(
            capacity=work.disk.capacity,
            parent=work.parent,
            token=client_token(self.keys.own, f"disk{work.index}", attempt, instant=self.record.instant_id),
            tags=self.task.plan.made_with(self.keys.own),
            description=f"{MADE_BY}{self.task.plan.wave}/{self.task.name} {disk_label(work.index, work.disk)}",
            encrypted=target.encrypt,
            kms_key=target.kms_key or "",
        )
        started = start_snapshot(self.access, wanted, repeated=repeated)
        self.record.update(work.index, target=started.snapshot_id)
        return replace(work, target=started.snapshot_id)

    def journal(self, work: DiskReplication) -> Journal:
        prefix = self.staging.journal_prefix(work.index)
        s3, cancel = self.staging.s3, self.access.cancel  # of this thread; others store the segments
        identity = JournalIdentity(work.target, f"{self.record.instant} {work.disk.key}", work.disk.capacity)
        far = SegmentStore(
            store=lambda name, data: self._put(prefix + name, data, cancel),
            checkpoint=lambda segments: self._noted(work, identity, segments, cancel),
            segments=self.record.disk(work.index).get("segments"),
            fetch=lambda name: s3.get_object(prefix + name, at_most=most_segment_bytes(identity.capacity)),
        )
        return Journal(self.state_folder, identity, far)

    def _noted(self, work: DiskReplication, identity: JournalIdentity, segments: Segments, cancel: CancelFlag) -> None:
        """A segment is stored: the state store knows it for the next try, and of a seed the bucket for the next run."""
        self.record.update(work.index, segments=segments)
        if work.parent:
            return
        note = SeedNote.of(work.disk, identity, segments)
        self._put(self.staging.seed_key(work.index), note.model_dump_json().encode(), cancel)

    def _put(self, key: str, data: bytes, cancel: CancelFlag) -> None:
        with self.access.obeying(cancel):
            self.staging.s3.put_object(key, data)
