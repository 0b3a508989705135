"""Takes up a seed that an earlier run of the job left unfinished (invariants 4 and 6).

The blocks in the pending EBS snapshot come from an earlier instant. They are known to be *there*, not to be right. So
the whole disk is read, and each block whose digest differs is sent again, also one that became zero. At the end AWS
compares the number and the checksum of all blocks, so a block that we do not know of cannot remain unnoticed.

Only the run that the ``wavelift:run`` tag names may use the snapshot. Taking it up moves the tag. If somebody clears
the earlier run, that run finds that the snapshot is no longer its own. No lineage and no image names a pending
snapshot.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs_snapshot import PENDING
from wavelift.adapters.aws.ec2 import Ec2, Snapshot
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import DiskFacts, Message
from wavelift.base.errors import CorruptStreamError, NotFoundError, WaveliftError
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.services.dataplane.bases import Encryption
from wavelift.services.dataplane.staging import MOST_NOTE_BYTES, ServerStaging, note_index
from wavelift.transfer.journal import Journal, JournalIdentity, Segments, SegmentStore, most_segment_bytes
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import ZERO_BLOCK

log = logging.getLogger(__name__)

ZERO_DIGEST: Final = hashlib.sha256(ZERO_BLOCK).digest()
"""How a whole block of zeros is acknowledged."""


class FreshSeed(StrEnum):
    """Why a seed begins with nothing although an earlier run left one unfinished. There are no other reasons, but a
    disk of another uuid, device key or size; and no reason here is one that time cures."""

    GONE = "AWS has it no more: it was deleted, or got no block for two days"
    TAKEN = "another run took it up"
    OTHER_KEY = "it is encrypted in another way than the environment now says"
    UNKNOWN = "what lies in it is not known any more: its journal is gone or damaged"
    REFUSED = "AWS holds other blocks in it than were acknowledged"


class SeedNote(Message):
    """What the next run must know of an unfinished seed; an object beside the segments of its journal."""

    target: str
    """EBS snapshot, pending."""
    source: str
    """Of the journal's identity: the instant and the disk that were read."""
    uuid: str
    key: int
    capacity: int
    segments: dict[str, int]

    @classmethod
    def of(cls, disk: DiskFacts, identity: JournalIdentity, segments: Segments) -> Self:
        return cls(
            target=identity.target,
            source=identity.source,
            uuid=disk.uuid,
            key=disk.key,
            capacity=disk.capacity,
            segments=segments,
        )

    @property
    def identity(self) -> JournalIdentity:
        return JournalIdentity(self.target, self.source, self.capacity)

    def is_of(self, disk: DiskFacts) -> bool:
        """A wrong answer would cost time, never data: every block is compared. But two disks must not write into one
        snapshot, and copies of a file keep its uuid: the key, which is one disk's, has to fit as well."""
        return (self.uuid, self.key, self.capacity) == (disk.uuid, disk.key, disk.capacity)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A seed that may be taken up, and whose it is so far."""

    run_key: str
    folder: ServerStaging
    index: int
    """Of the disk in the run that left it: where note and segments lie."""
    note: SeedNote

    def pour_into(self, journal: Journal, state_folder: Path) -> None:
        """Let the journal of this run know what is known to lie in the snapshot, from this connector's file and the
        segments in the bucket, and store it: then the old ones are needed no more.

        :raises CorruptStreamError: a segment is damaged. :raises NotFoundError: one is gone.
        """
        if journal.identity != self.note.identity:  # else an earlier try of this run was killed in the middle of this
            prefix = self.folder.journal_prefix(self.index)
            most = most_segment_bytes(self.note.capacity)
            far = SegmentStore(
                segments=self.note.segments,
                fetch=lambda name: self.folder.s3.get_object(prefix + name, at_most=most),
            )
            old = Journal(state_folder, self.note.identity, far)
            try:
                journal.inherit(old)
                journal.flush()
            except BaseException:
                old.close(store=False)
                raise
            old.discard()


class UnfinishedSeeds:
    """Those of one server, looked up once.

    :param folders: of the run itself and of those that came to nothing since the last recorded one, by their keys.
    :param wanted: how a fresh seed would be encrypted.
    """

    def __init__(self, access: AwsAccess, folders: Mapping[str, ServerStaging], wanted: Encryption) -> None:
        self._wanted = wanted
        self._found = [each for run_key, folder in folders.items() for each in _notes(run_key, folder)]
        targets = [each.note.target for each in self._found]
        self._snapshots = Ec2(access).snapshots(targets) if targets else {}
        encrypted = any(one.encrypted for one in self._snapshots.values())
        self._key = wanted.key_arn(access) if wanted.on and encrypted else ""

    def of(self, disk: DiskFacts) -> Unfinished | None:
        """The one to take up; None, and the reason in the log, when there is none."""
        for each in self._found:
            if not each.note.is_of(disk):
                continue  # of the server's other disks, most likely
            why = self._refusal(each)
            if why is None:
                return each
            tell_fresh(each.note.target, why)
        return None

    def _refusal(self, unfinished: Unfinished) -> FreshSeed | None:
        note = unfinished.note
        found = self._snapshots.get(note.target)
        if found is None or found.state != PENDING:
            return FreshSeed.GONE
        if not is_of_run(found, unfinished.run_key):
            return FreshSeed.TAKEN
        other_key = bool(self._key and found.kms_key and found.kms_key != self._key)
        return FreshSeed.OTHER_KEY if found.encrypted != self._wanted.on or other_key else None


def refused_seed(target: str, error: WaveliftError, **where: object) -> WaveliftError:
    """AWS does not complete a seed that was taken up."""
    tell_fresh(target, FreshSeed.REFUSED, error.what)
    return WaveliftError(
        f"The seed that an earlier run left unfinished is given up: {FreshSeed.REFUSED}: {error.what}",
        next_step="The retry sends the disk whole, into a new snapshot",
        snapshot=target,
        **where,
    )


def tell_fresh(target: str, why: FreshSeed, detail: str = "") -> None:
    log.warning("the unfinished seed %s is not taken up: %s %s", target, why, detail)


def noted_seeds(s3: S3Staging, folder: str) -> frozenset[str]:
    """EBS snapshots that notes below ``folder`` name, of whichever run. A note that can't be read names none."""
    found = set()
    for entry in s3.list(folder):
        if note_index(entry.key) is not None:
            # A run that goes on with it deletes it.
            with suppress(ValidationError, NotFoundError, CorruptStreamError):
                body = s3.get_object(entry.key, at_most=MOST_NOTE_BYTES)
                found.add(SeedNote.model_validate_json(body).target)
    return frozenset(found)


def _notes(run_key: str, folder: ServerStaging) -> Iterator[Unfinished]:
    for index, body in folder.seed_notes():
        try:
            yield Unfinished(run_key, folder, index, SeedNote.model_validate_json(body))
        except ValidationError as error:
            tell_fresh(f"of {folder.prefix}", FreshSeed.UNKNOWN, str(error))


def is_of_run(snapshot: Snapshot, run_key: str) -> bool:
    """Whether the run may write to the pending snapshot, or give it up."""
    return snapshot.tags.get(TAG_RUN) == run_hash(run_key)


def held(journal: Journal) -> Manifest:
    """What lies in a pending snapshot without a parent, block by block; zeros where nothing was ever put.

    A short last block is known by the digest of its padded form, which never equals the disk's: it is sent again.
    """
    found = Manifest.empty(journal.identity.capacity)
    for index in journal.indices():
        digest = journal.digest(index)
        found.set(index, None if digest == ZERO_DIGEST else digest)
    return found


def targets_left(access: AwsAccess, folder: ServerStaging, run_key: str) -> frozenset[str]:
    """Pending snapshots of a run that failed which the next one may take up: they stay, and so does what is known of
    them. AWS cancels one that gets no block for two days."""
    named = [each.note.target for each in _notes(run_key, folder)]
    found = Ec2(access).snapshots(named) if named else {}
    return frozenset(id for id, each in found.items() if each.state == PENDING and is_of_run(each, run_key))
