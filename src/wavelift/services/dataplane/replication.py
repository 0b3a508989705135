"""One replication run of one server: its snapshot's disks become EBS snapshots, seeds or deltas on the last run's.

Nothing is staged in S3 but manifests and journals' segments. A retry of the same vSphere snapshot goes on in the same
EBS snapshots (invariant 6). A new vSphere snapshot begins new ones, or takes up a seed that was left unfinished and
compares all of it (:mod:`~wavelift.services.dataplane.unfinished`): blocks of two instants never mix.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs_snapshot import (
    COMPLETED,
    PENDING,
    StartedSnapshot,
    complete_snapshot,
    volume_gib,
)
from wavelift.adapters.aws.ebs_write import PUTS_IN_FLIGHT, EbsWriter, PutOptions
from wavelift.adapters.vsphere.lease import ExportLease
from wavelift.base.domain import DiskLineage, ReplicatedDisk, ReplicationResult
from wavelift.base.errors import GuardError, PermanentError, ProofError, WaveliftError, located
from wavelift.base.run import RunContext
from wavelift.base.units import BLOCK
from wavelift.services.dataplane.bases import Base, find_bases
from wavelift.services.dataplane.disk_crew import DiskCrew, FrozenServer, TransferOptions, lease_stream
from wavelift.services.dataplane.manifests import LINEAGE_HEADER, PARENT_HEADER, LoadedManifests, StoredManifest
from wavelift.services.dataplane.readers import Readings, doubt_after, open_reader
from wavelift.services.dataplane.replication_target import DiskReplication, RunKeys, Targets
from wavelift.services.dataplane.replication_try import ReplicationRecord, without_blocks
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.services.dataplane.unfinished import ZERO_DIGEST, held, refused_seed
from wavelift.transfer.audit import AUDIT_PCT
from wavelift.transfer.journal import UNKNOWN_DIGEST, Journal
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import CopyOptions, copy
from wavelift.transfer.protocols import BlockStream, Extent

log = logging.getLogger(__name__)

LIES_KEY: Final = "tracking_lies"
"""Checkpoint: parent snapshot → what change tracking was found to say wrongly since it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationOptions(TransferOptions):
    """How hard a run may work on the connector, and where it keeps its journals."""

    state_folder: Path
    audit_pct: float = AUDIT_PCT
    """Per cent of the blocks that change tracking calls unchanged."""
    puts_in_flight: int = PUTS_IN_FLIGHT
    """Blocks on their way to AWS, per disk: what a killed task may have to send again."""


def _ignore_lie(key: int, why: str) -> None:
    """The default listener."""


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What earlier runs of the job left, and who is told when one of them was wrong.

    :param lineages: of the last recorded run; empty before the first.
    :param unfinished: keys of the job's runs that failed since: a seed that they left is gone on with.
    :param distrust: told the key of a disk in ``lineages`` whose change tracking was found to lie, and the proof, at
        once: the next run must know it also when this one comes to nothing.
    """

    lineages: Sequence[DiskLineage] = ()
    unfinished: Sequence[str] = ()
    distrust: Callable[[int, str], object] = _ignore_lie


def replicate_server(
    source: FrozenServer, access: AwsAccess, ctx: RunContext, options: ReplicationOptions, history: RunHistory
) -> ReplicationResult:
    """Write every disk of the snapshot into an EBS snapshot on the last run's, and store its manifest.

    The EBS snapshots were completed by us; AWS may still take a moment until it calls them completed.

    :raises GuardError: a guard stopped it, or the VM left our snapshot's files; what was read since is given up.
    :raises FencedError: another try owns the work; nothing was cleaned up.
    """
    task, ref = source.task, source.snapshot.ref
    with located(server=task.name), ServerStaging.of(access, task.plan, ctx.run_key) as staging:
        disks = _Replication(source, access, staging, ctx, options, history).run()
    return ReplicationResult(
        server=task.name, snapshot=ref.moref, quiesced=ref.quiesced, quiesce_note=ref.quiesce_note, disks=disks
    )


class _Replication(DiskCrew[DiskReplication, ReplicatedDisk]):
    """One try of one server's run."""

    options: ReplicationOptions
    doing = "replicated"
    if_gone = "Trigger a new run"

    def __init__(
        self,
        source: FrozenServer,
        access: AwsAccess,
        staging: ServerStaging,
        ctx: RunContext,
        options: ReplicationOptions,
        history: RunHistory,
    ) -> None:
        super().__init__(source, access, staging, ctx, options)
        self.history = history
        self.record = ReplicationRecord(ctx, self.snapshot.ref)
        keys = RunKeys(ctx.run_key, tuple(history.unfinished))
        self.targets = Targets(access, staging, self.task, keys, self.record, options.state_folder)
        self.manifests = LoadedManifests(access)

    def run(self) -> tuple[ReplicatedDisk, ...]:
        disks = super().run()
        kept = {disk.lineage.snapshot_id for disk in disks}
        kept.update(lineage.snapshot_id for lineage in self.history.lineages)
        self.targets.give_up_outdated(kept)
        return disks

    def is_fresh(self) -> bool:
        return not any(self.record.disk(index) for index in range(len(self.snapshot.disks)))

    def read_whole(self) -> bool:
        return all(disk.kind == "seed" for disk in self.finished.values())

    def take_up(self) -> None:
        """Disks that an earlier try of the same snapshot finished, as far as AWS agrees."""
        known = {index: self.record.disk(index) for index in range(len(self.snapshot.disks))}
        self.targets.look(list(known.values()))
        for index, each in known.items():
            if each.get("done") and self._is_completed(each):
                self.finished[index] = ReplicatedDisk.load(each["done"])

    def _is_completed(self, known: dict[str, Any]) -> bool:
        if not self.targets.is_mine(known):  # a later run took the seed up: it holds another instant by now
            return False
        state = self.targets.state(known)
        if state != PENDING or not known.get("sealed"):
            return state == COMPLETED
        # AWS holds all, and may have been told so: its answer was lost, or it works on it. Nothing is read again.
        blocks, linear = known["sealed"]
        sealed = {"blocks": blocks, "linear": bytes.fromhex(linear)}
        complete_snapshot(self.access, known["target"], **sealed, asked=True, cancel=self.ctx.cancel)
        return True

    def plan(self, pending: Sequence[int]) -> list[DiskReplication]:
        disks = self.snapshot.disks
        bases = find_bases(self.manifests, disks, self.history.lineages, self.targets.encryption)
        readings = Readings(
            self.session,
            self.task,
            self.snapshot,
            self.stop,
            audit_pct=self.options.audit_pct,
        )
        return [self._work(index, self._begun_base(index, bases[index]), readings) for index in pending]

    def _begun_base(self, index: int, base: Base) -> Base:
        """A seed that an earlier try of this instant began stays one, whatever could be built on by now."""
        known = self.record.disk(index)
        began_seed = known.get("parent") == "" and (not known.get("target") or self.targets.state(known) == PENDING)
        return Base.seed(known.get("reason", "")) if base.lineage is not None and began_seed else base

    def _work(self, index: int, base: Base, readings: Readings) -> DiskReplication:
        """A lie about the changes since a parent, once a try has seen it, is known to all later ones of any instant."""
        disk, lineage = self.snapshot.disks[index], base.lineage
        lies: dict[str, str] = self.ctx.checkpoints.get(LIES_KEY) or {}
        if lineage is not None and lineage.snapshot_id in lies:
            known = lineage.quarantine or lies[lineage.snapshot_id]
            base = replace(base, lineage=lineage.model_copy(update={"quarantine": known}))
        reading = readings.of(disk, base)
        if lineage is not None and reading.quarantine and not lineage.quarantine:
            self.ctx.checkpoints.set(LIES_KEY, {**lies, lineage.snapshot_id: reading.quarantine})
            self.history.distrust(lineage.key, reading.quarantine)
        return DiskReplication(index, disk, base, reading)

    # --- moving -----------------------------------------------------------------------------------------------------

    def leased(self, tasks: Sequence[DiskReplication]) -> list[int]:
        return [work.index for work in tasks if work.reading.route is None]

    def move(self, lease: ExportLease | None, task: DiskReplication) -> None:
        work = self.targets.choose(task)
        began = self.ctx.clock.monotonic()
        journal = self.targets.journal(work)
        base = held(journal) if work.holds_others else work.base.manifest
        manifest = self._manifest(work, base)
        resumed = self._resume(work, journal, manifest)
        ending: list[bool] = []
        stored: list[ReplicatedDisk] = []

        def last_look(blocks: int, linear: bytes) -> None:
            self._still_frozen(work)
            ending.append(True)
            with self.access.obeying(self.stop):  # another thread than this one
                stored.append(self._stored(work, manifest, writer, began))
            # Before the snapshot is completed: a try that is killed meanwhile must not send everything again.
            self.record.update(work.index, done=stored[0].dump(), sealed=[blocks, linear.hex()])

        writer = EbsWriter(
            self.access,
            StartedSnapshot(work.target, volume_gib(work.disk.capacity), work.parent, holds_others=work.holds_others),
            journal,
            before_complete=last_look,
            cancel=self.stop,
            puts=PutOptions(self.options.puts_in_flight),
        )
        try:
            with self._source(lease, work, resumed) as source:
                stats = copy(
                    source,
                    writer,
                    manifest,
                    cancel=self.stop,
                    options=CopyOptions(
                        self.options.workers,
                        self.throttle,
                        base,
                        partial=work.base.manifest is not None and work.reading.route is not None,
                    ),
                    report=self.report(work.index, "replicate"),
                )
        except GuardError:
            self._doubt(work, journal)
            raise
        except PermanentError as error:
            if ending and type(error) in (PermanentError, ProofError):
                raise self._give_up(work, journal, error) from error
            raise
        finally:
            journal.close()
        read = stats.read_bytes + work.reading.audited * BLOCK
        seconds = round(self.ctx.clock.monotonic() - began, 3)
        done = stored[0].model_copy(update={"bytes_read": read, "seconds": seconds})
        self.finished[work.index] = done
        self.record.update(work.index, done=done.dump())
        journal.discard()
        self.staging.s3.delete(self.staging.seed_key(work.index))

    def _doubt(self, work: DiskReplication, journal: Journal) -> None:
        """What was read by ranges may not be our snapshot's. Of a seed all is compared by the next try; in a child the
        parent's blocks and ours can't be told apart by their instants, and it is small. A lease's stream is ours."""
        if work.reading.route is None:
            return
        if not work.parent:
            self.record.update(work.index, holds_others=True)
            return
        self.targets.give_up_now(work.target)
        journal.discard()

    def _give_up(self, work: DiskReplication, journal: Journal, error: WaveliftError) -> WaveliftError:
        """AWS is right: there are blocks in it that nobody knows of. The retry begins a fresh one: to ask for this
        one's completion again would be in vain for ever."""
        self.targets.give_up_now(work.target)
        journal.discard()
        where = {"disk": disk_label(work.index, work.disk)}
        if work.holds_others:
            return refused_seed(work.target, error, **where)
        return WaveliftError(
            f"AWS holds other blocks than it acknowledged, so the snapshot is given up: {error.what}",
            next_step="The retry sends them anew, into another snapshot",
            snapshot=work.target,
            **where,
        )

    def _resume(self, work: DiskReplication, journal: Journal, manifest: Manifest) -> frozenset[int]:
        """Blocks that need not be read again. A stream comes whole anyway, and its writer knows what is there; what may
        be of another instant is compared, all of it."""
        if work.reading.route is None or work.holds_others:
            return frozenset()
        # The last block may be short: its digest is of the padded one that AWS has, not of the disk's.
        known = frozenset(
            index
            for index in journal.indices()
            if (index + 1) * BLOCK <= work.disk.capacity and journal.digest(index) != UNKNOWN_DIGEST
        )
        for index in known:
            digest = journal.digest(index)
            manifest.set(index, None if digest == ZERO_DIGEST else digest)
        return known

    @contextmanager
    def _source(
        self, lease: ExportLease | None, work: DiskReplication, resumed: frozenset[int]
    ) -> Iterator[BlockStream]:
        route = work.reading.route
        if route is None:
            assert lease is not None
            with lease_stream(lease, work.disk) as leased:
                yield leased
            return
        areas, skip_zeros = work.reading.areas, work.reading.skip_zeros and not resumed
        if resumed:
            whole = (Extent(0, work.disk.capacity),)
            areas = tuple(without_blocks(whole if areas is None else areas, resumed, work.disk.capacity))
        with (
            closing(open_reader(self.session, route, cancel=self.stop, areas=areas, skip_zeros=skip_zeros)) as reader,
            closing(reader.stream()) as stream,
        ):
            yield stream

    def _manifest(self, work: DiskReplication, base: Manifest | None) -> Manifest:
        parent = work.base.lineage.dump() if work.base.lineage else None
        facts = {"parent": work.parent, PARENT_HEADER: parent, LINEAGE_HEADER: self._lineage(work)}
        header = {**self.manifest_header(work.index), **facts}
        return Manifest.empty(work.disk.capacity, **header) if base is None else base.successor(**header)

    def _still_frozen(self, work: DiskReplication) -> None:
        """:raises GuardError: what was read by ranges may not be our snapshot's content."""
        if work.reading.route is None:
            return
        why = doubt_after(self.session, work.reading.route)
        if why:
            raise GuardError(
                f"What was read may not be what our snapshot froze: {why}",
                server=self.task.name,
                disk=disk_label(work.index, work.disk),
                next_step="The retry begins this disk anew; keep others from working on the VM's snapshots meanwhile",
            )

    def _lineage(self, work: DiskReplication) -> dict[str, Any]:
        """What the next run must know of the disk, but for where its manifest lies."""
        disk = work.disk
        return {
            "key": disk.key,
            "address": disk.address,
            "uuid": disk.uuid,
            "file": disk.base_file,
            "capacity": disk.capacity,
            "change_id": disk.change_id,
            "snapshot_id": work.target,
            "encrypted": self.targets.encryption.on,
            "hardware_version": self.task.facts.hardware_version,
            "taken_at": self.snapshot.ref.created,
            "quarantine": work.reading.quarantine,
        }

    def _stored(self, work: DiskReplication, manifest: Manifest, writer: EbsWriter, began: float) -> ReplicatedDisk:
        """Store the manifest. What this disk's run left, but for the bytes read, which are counted at the end."""
        key = self.staging.manifest_key(work.index, self.record.instant_id)
        kept = StoredManifest.save(self.staging.s3, key, manifest)
        disk, reading = work.disk, work.reading
        where = {"bucket": kept.bucket, "manifest_key": kept.key, "manifest_digest": kept.digest}
        lineage = DiskLineage.load({**self._lineage(work), **where})
        return ReplicatedDisk(
            index=work.index,
            boot=disk.boot,
            label=disk_label(work.index, disk),
            kind="delta" if work.parent else "seed",
            kind_reason=reading.why_whole if work.parent else _seed_reason(work),
            reader=reading.reader,
            reader_reason=reading.reader_reason,
            parent_snapshot_id=work.parent,
            lineage=lineage,
            content_digest=manifest.content_digest(),
            data_bytes=manifest.data_bytes,
            bytes_read=0,
            bytes_sent=writer.bytes_sent,
            blocks_sent=writer.blocks_sent,
            blocks_audited=reading.audited,
            seconds=round(self.ctx.clock.monotonic() - began, 3),
        )


def _seed_reason(work: DiskReplication) -> str:
    compared = "; what an earlier try or run had sent was compared" if work.holds_others else ""
    return work.base.reason + compared
