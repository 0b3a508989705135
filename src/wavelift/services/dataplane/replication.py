"""One replication run of one server: its snapshot's disks become EBS snapshots, seeds or deltas on the last run's.

Nothing is staged in S3 but manifests and journals' segments. A retry of the same vSphere snapshot goes on in the same
EBS snapshots (invariant 6); a new vSphere snapshot begins new ones, or takes up a seed that was left unfinished and
compares all of it (:mod:`~wavelift.services.dataplane.unfinished`): two instants never mix.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
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
from wavelift.adapters.aws.ebs_write import PUTS_IN_FLIGHT, EbsWriter
from wavelift.adapters.vsphere import snapshots
from wavelift.adapters.vsphere.lease import ExportLease
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import DiskLineage, ReplicatedDisk, ReplicationResult
from wavelift.base.errors import (
    CorruptStreamError,
    FencedError,
    GuardError,
    NotFoundError,
    PermanentError,
    ProofError,
    ThrottledError,
    UnreachableError,
    WaveliftError,
    located,
)
from wavelift.base.names import run_hash
from wavelift.base.run import Progress, RunContext
from wavelift.base.units import BLOCK, MBIT, SECTOR
from wavelift.services.dataplane.bases import Base, find_bases
from wavelift.services.dataplane.guards import GUARD_SECONDS, TransferGuards
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.outage import SourcePatience
from wavelift.services.dataplane.rates import note_rate
from wavelift.services.dataplane.readers import Readings, doubt_after, open_reader
from wavelift.services.dataplane.replication_target import DiskJob, Targets
from wavelift.services.dataplane.replication_try import OwnedStream, TryRecord, without_blocks
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.services.dataplane.unfinished import (
    ZERO_DIGEST,
    held,
    refused_seed,
)
from wavelift.transfer.audit import AUDIT_PCT
from wavelift.transfer.journal import UNKNOWN_DIGEST, Journal
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import CopyStats, copy
from wavelift.transfer.protocols import BlockStream, Extent
from wavelift.transfer.throttle import Pace, Paces, Throttle
from wavelift.transfer.vmdk import StreamVmdkSource

log = logging.getLogger(__name__)

LIES_KEY: Final = "tracking_lies"
"""Checkpoint: parent snapshot → what change tracking was found to say wrongly since it."""


@dataclass(frozen=True, slots=True)
class ReplicationOptions:
    """How hard a run may work on the connector, and where it keeps its journals."""

    state_folder: Path
    workers: int = 2
    """Threads that read and hash, per disk."""
    parallel_disks: int = 2
    guard_seconds: float = GUARD_SECONDS
    audit_pct: float = AUDIT_PCT
    """Per cent of the blocks that change tracking calls unchanged."""
    puts_in_flight: int = PUTS_IN_FLIGHT
    """Blocks on their way to AWS, per disk: what a killed task may have to send again."""
    line: Pace | None = None
    """The connector's, which all its transfers share."""


def replicate_server(
    session: VsphereSession,
    access: AwsAccess,
    task: ServerTask,
    snapshot: TakenSnapshot,
    lineages: Sequence[DiskLineage],
    ctx: RunContext,
    options: ReplicationOptions,
    distrust: Callable[[int, str], object] = lambda key, why: None,
    unfinished: Sequence[str] = (),
) -> ReplicationResult:
    """Write every disk of ``snapshot`` into an EBS snapshot on the last run's, and store its manifest.

    The EBS snapshots were completed by us; AWS takes a moment more until they are so for it.

    :param lineages: what the job's last recorded run left; empty before its first.
    :param distrust: told the key of a disk in ``lineages`` whose change tracking was found to lie, and the proof, at
        once: the next run must know it also when this one comes to nothing.
    :param unfinished: keys of the job's runs that failed since: a seed that they left is gone on with.
    :raises GuardError: a guard stopped it, or the VM left our snapshot's files; what was read since is given up.
    :raises FencedError: another try owns the work; nothing was cleaned up.
    """
    with located(server=task.name), ServerStaging.of(access, task.plan, ctx.run_key) as staging:
        disks = _Run(session, access, staging, task, snapshot, lineages, ctx, options, distrust, unfinished).run()
    ref = snapshot.ref
    return ReplicationResult(
        server=task.name, snapshot=ref.moref, quiesced=ref.quiesced, quiesce_note=ref.quiesce_note, disks=disks
    )


class _Run:
    """One try of one server's run."""

    def __init__(
        self,
        session: VsphereSession,
        access: AwsAccess,
        staging: ServerStaging,
        task: ServerTask,
        snapshot: TakenSnapshot,
        lineages: Sequence[DiskLineage],
        ctx: RunContext,
        options: ReplicationOptions,
        distrust: Callable[[int, str], object],
        unfinished: Sequence[str],
    ) -> None:
        self.session = session
        self.access = access
        self.staging = staging
        self.task = task
        self.snapshot = snapshot
        self.lineages = lineages
        self.ctx = ctx
        self.options = options
        self.distrust = distrust
        rate = task.plan.guards.max_mbit_s
        self.throttle = Paces(Throttle(rate * MBIT) if rate else None, options.line)
        self.stop = ctx.cancel.child()
        self.patience = SourcePatience(session.config.patience_s, ctx.clock)
        self.record = TryRecord(ctx, snapshot)
        self.targets = Targets(access, staging, task, ctx.run_key, self.record, unfinished, options.state_folder)
        self.finished: dict[int, ReplicatedDisk] = {}
        self.passed: dict[int, int] = {}
        """Bytes of each disk in the lease that were read, for its percent."""

    def run(self) -> tuple[ReplicatedDisk, ...]:
        disks = range(len(self.snapshot.disks))
        began, whole = self.ctx.clock.monotonic(), not any(self.record.disk(index) for index in disks)
        while not self._all_finished():
            try:
                self._round([index for index in disks if index not in self.finished])
            except (UnreachableError, ThrottledError) as error:
                whole = False
                self.patience.again(error, self.ctx.cancel)
        if whole and all(disk.kind == "seed" for disk in self.finished.values()):
            passed = sum(disk.capacity for disk in self.snapshot.disks)
            note_rate(self.options.state_folder, passed, self.ctx.clock.monotonic() - began)
        kept = {disk.lineage.snapshot_id for disk in self.finished.values()}
        kept.update(lineage.snapshot_id for lineage in self.lineages)
        self.targets.give_up_outdated(kept)
        return tuple(self.finished[index] for index in disks)

    def _all_finished(self) -> bool:
        self._take_up()
        return len(self.finished) == len(self.snapshot.disks)

    def _round(self, pending: Sequence[int]) -> None:
        """Open the source and move what is pending, as far as it goes."""
        self.stop = self.ctx.cancel.child()
        self.first_error = None
        guards = TransferGuards(self.session, self.task, self.snapshot, self.ctx, interval=self.options.guard_seconds)
        self._check_snapshot()
        guards.check()
        with guards.watching(self.stop.set), self.access.obeying(self.stop):
            self._move(self._plan(pending))

    def _check_snapshot(self) -> None:
        """:raises NotFoundError: somebody removed it; a retry can't bring it back."""
        ref = self.snapshot.ref
        found = snapshots.find_snapshot(self.session, ref.vm, ref.name)
        if found is None or found.moref != ref.moref:
            raise NotFoundError(
                "The snapshot that is to be replicated is gone",
                server=self.task.name,
                snapshot=ref.name,
                next_step="Trigger a new run; the VM's events in vCenter tell who removed it",
            )

    def _take_up(self) -> None:
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

    def _plan(self, pending: Sequence[int]) -> list[DiskJob]:
        disks = self.snapshot.disks
        bases = find_bases(self.access, disks, self.lineages, self.targets.encryption)
        readings = Readings(
            self.session,
            self.task,
            self.snapshot,
            self.stop,
            run=self.ctx.run_key,
            audit_pct=self.options.audit_pct,
        )
        return [self._job(index, self._begun_base(index, bases[index]), readings) for index in pending]

    def _begun_base(self, index: int, base: Base) -> Base:
        """A seed that an earlier try of this instant began stays one, whatever could be built on by now."""
        known = self.record.disk(index)
        began_seed = known.get("parent") == "" and (not known.get("target") or self.targets.state(known) == PENDING)
        return Base.seed(known.get("reason", "")) if base.lineage is not None and began_seed else base

    def _job(self, index: int, base: Base, readings: Readings) -> DiskJob:
        """A lie about the changes since a parent, once a try has seen it, is known to all later ones of any instant."""
        disk, lineage = self.snapshot.disks[index], base.lineage
        lies: dict[str, str] = self.ctx.checkpoints.get(LIES_KEY) or {}
        if lineage is not None and lineage.snapshot_id in lies:
            known = lineage.quarantine or lies[lineage.snapshot_id]
            base = replace(base, lineage=lineage.model_copy(update={"quarantine": known}))
        reading = readings.of(disk, base)
        if lineage is not None and reading.quarantine and not lineage.quarantine:
            self.ctx.checkpoints.set(LIES_KEY, {**lies, lineage.snapshot_id: reading.quarantine})
            self.distrust(lineage.key, reading.quarantine)
        return DiskJob(index, disk, base, reading)

    # --- moving -----------------------------------------------------------------------------------------------------

    def _move(self, jobs: Sequence[DiskJob]) -> None:
        """A few disks at a time; the first error stops the others and is raised."""
        streams = [job for job in jobs if job.reading.route is None]
        with self._lease(streams) if streams else nullcontext() as lease:
            with ThreadPoolExecutor(self.options.parallel_disks, thread_name_prefix="wavelift-disk") as pool:
                running = [pool.submit(self._guarded, lease, job) for job in jobs]
                try:
                    errors = [error for each in running if (error := each.exception()) is not None]
                except BaseException:  # Airflow's time-out is thrown into this thread
                    self.stop.set("the task was interrupted")
                    raise
            if errors:
                raise self.first_error or errors[0]

    first_error: BaseException | None = None

    def _guarded(self, lease: ExportLease | None, job: DiskJob) -> None:
        try:
            self.stop.check()
            with self.access.obeying(self.stop):
                self._move_disk(lease, self.targets.choose(job))
        except BaseException as error:
            self.first_error = self.first_error or error
            self.stop.set("another disk of the server failed", fenced=isinstance(error, FencedError))
            raise

    def _lease(self, jobs: Sequence[DiskJob]) -> ExportLease:
        total = sum(job.disk.capacity for job in jobs)
        return ExportLease(
            self.session,
            vm=self.task.facts.moref,
            snapshot=self.snapshot.ref.moref,
            disks=self.snapshot.disks,
            server=self.task.name,
            cancel=self.stop,
            percent=lambda: min(100, 100 * sum(self.passed.values()) // total) if total else 100,
        )

    def _move_disk(self, lease: ExportLease | None, job: DiskJob) -> None:
        began = self.ctx.clock.monotonic()
        journal = self.targets.journal(job)
        base = held(journal) if job.holds_others else job.base.manifest
        manifest = self._manifest(job, base)
        resumed = self._resume(job, journal, manifest)
        target = StartedSnapshot(job.target, volume_gib(job.disk.capacity), job.parent)
        label = disk_label(job.index, job.disk)
        stats: list[CopyStats] = []
        ending: list[bool] = []

        def last_look(blocks: int, linear: bytes) -> None:
            self._still_frozen(job)
            ending.append(True)
            with self.access.obeying(self.stop):  # another thread than this one
                self._store_manifest(job, manifest)
            # Before the snapshot is completed: a try that is killed meanwhile must not send everything again.
            done = self._done(job, manifest, writer, began).dump()
            self.record.update(job.index, done=done, sealed=[blocks, linear.hex()])

        writer = EbsWriter(
            self.access,
            target,
            journal,
            before_complete=last_look,
            cancel=self.stop,
            in_flight=self.options.puts_in_flight,
            holds_others=job.holds_others,
        )
        try:
            with self._source(lease, job, resumed) as source:
                stats.append(
                    copy(
                        source,
                        writer,
                        manifest,
                        workers=self.options.workers,
                        throttle=self.throttle,
                        cancel=self.stop,
                        on_progress=lambda progress: self._on_progress(job, progress),
                        server=self.task.name,
                        disk=label,
                        phase="replicate",
                        base=base,
                        partial=job.base.manifest is not None and job.reading.route is not None,
                    )
                )
        except GuardError:
            self._doubt(job, journal)
            raise
        except PermanentError as error:
            if ending and type(error) in (PermanentError, ProofError):
                raise self._give_up(job, journal, error) from error
            raise
        finally:
            journal.close()
        read = stats[0].read_bytes + job.reading.audited * BLOCK
        done = self._done(job, manifest, writer, began).model_copy(update={"bytes_read": read})
        self.finished[job.index] = done
        self.record.update(job.index, done=done.dump())
        journal.discard()
        self.staging.s3.delete(self.staging.seed_key(job.index))

    def _doubt(self, job: DiskJob, journal: Journal) -> None:
        """What was read by ranges may not be our snapshot's. Of a seed all is compared by the next try; in a child the
        parent's blocks and ours can't be told apart by their instants, and it is small. A lease's stream is ours."""
        if job.reading.route is None:
            return
        if not job.parent:
            self.record.update(job.index, holds_others=True)
            return
        self.targets.give_up_now(job.target)
        journal.discard()

    def _give_up(self, job: DiskJob, journal: Journal, error: WaveliftError) -> WaveliftError:
        """AWS is right: there are blocks in it that nobody knows of. The retry begins a fresh one: to ask for this
        one's completion again would be in vain for ever."""
        self.targets.give_up_now(job.target)
        journal.discard()
        where = {"disk": disk_label(job.index, job.disk)}
        if job.holds_others:
            return refused_seed(job.target, error, **where)
        return WaveliftError(
            f"AWS holds other blocks than it acknowledged, so the snapshot is given up: {error.what}",
            next_step="The retry sends them anew, into another snapshot",
            snapshot=job.target,
            **where,
        )

    def _resume(self, job: DiskJob, journal: Journal, manifest: Manifest) -> frozenset[int]:
        """Blocks that need not be read again. A stream comes whole anyway, and its writer knows what is there; what may
        be of another instant is compared, all of it."""
        if job.reading.route is None or job.holds_others:
            return frozenset()
        # The last block may be short: its digest is of the padded one that AWS has, not of the disk's.
        known = frozenset(
            index
            for index in journal.indices()
            if (index + 1) * BLOCK <= job.disk.capacity and journal.digest(index) != UNKNOWN_DIGEST
        )
        for index in known:
            digest = journal.digest(index)
            manifest.set(index, None if digest == ZERO_DIGEST else digest)
        return known

    def _source(self, lease: ExportLease | None, job: DiskJob, resumed: frozenset[int]) -> closing[BlockStream]:
        route = job.reading.route
        if route is None:
            assert lease is not None
            stream = StreamVmdkSource(lease.open(job.disk))
            if stream.size != -(-job.disk.capacity // SECTOR) * SECTOR:
                raise CorruptStreamError(
                    f"The stream is of a disk of {stream.size} bytes, vCenter says {job.disk.capacity}",
                    disk=job.disk.address,
                    next_step="The retry asks for a new lease; if it says so again, check the VM's disks in vCenter",
                )
            return closing(stream)
        areas, skip_zeros = job.reading.areas, job.reading.skip_zeros and not resumed
        if resumed:
            whole = (Extent(0, job.disk.capacity),)
            areas = tuple(without_blocks(whole if areas is None else areas, resumed, job.disk.capacity))
        reader = open_reader(self.session, route, cancel=self.stop, areas=areas, skip_zeros=skip_zeros)
        return closing(OwnedStream(reader))

    def _manifest(self, job: DiskJob, base: Manifest | None) -> Manifest:
        header = {
            "server": self.task.name,
            "disk": job.index,
            "address": job.disk.address,
            "run": run_hash(self.ctx.run_key),
            "snapshot": self.snapshot.ref.moref,
            "target": job.target,
            "parent": job.parent,
        }
        return Manifest.empty(job.disk.capacity, **header) if base is None else base.successor(**header)

    def _still_frozen(self, job: DiskJob) -> None:
        """:raises GuardError: what was read by ranges may not be our snapshot's content."""
        if job.reading.route is None:
            return
        why = doubt_after(self.session, job.reading.route)
        if why:
            raise GuardError(
                f"What was read may not be what our snapshot froze: {why}",
                server=self.task.name,
                disk=disk_label(job.index, job.disk),
                next_step="The retry begins this disk anew; keep others from working on the VM's snapshots meanwhile",
            )

    def _store_manifest(self, job: DiskJob, manifest: Manifest) -> None:
        self.staging.s3.put_object(self.staging.manifest_key(job.index, self.record.instant_id), manifest.to_bytes())

    def _on_progress(self, job: DiskJob, progress: Progress) -> None:
        if job.reading.route is None:
            self.passed[job.index] = progress.done
        self.patience.moved(progress)
        self.ctx.progress(progress)

    def _done(self, job: DiskJob, manifest: Manifest, writer: EbsWriter, began: float) -> ReplicatedDisk:
        """What this disk's run left, but for the bytes read, which are counted when the copy has ended."""
        disk, reading = job.disk, job.reading
        lineage = DiskLineage(
            key=disk.key,
            address=disk.address,
            uuid=disk.uuid,
            file=disk.base_file,
            capacity=disk.capacity,
            change_id=disk.change_id,
            snapshot_id=job.target,
            bucket=self.staging.bucket,
            manifest_key=self.staging.manifest_key(job.index, self.record.instant_id),
            manifest_digest=hashlib.sha256(manifest.to_bytes()).hexdigest(),
            encrypted=self.targets.encryption.on,
            hardware_version=self.task.facts.hardware_version,
            taken_at=self.snapshot.ref.created,
            quarantine=reading.quarantine,
        )
        return ReplicatedDisk(
            index=job.index,
            boot=disk.boot,
            label=disk_label(job.index, disk),
            kind="delta" if job.parent else "seed",
            kind_reason=reading.why_whole if job.parent else _seed_reason(job),
            reader=reading.reader,
            reader_reason=reading.reader_reason,
            parent_snapshot_id=job.parent,
            lineage=lineage,
            content_digest=manifest.content_digest(),
            data_bytes=manifest.data_bytes,
            bytes_read=0,
            bytes_sent=writer.bytes_sent,
            blocks_sent=writer.blocks_sent,
            blocks_audited=reading.audited,
            seconds=round(self.ctx.clock.monotonic() - began, 3),
        )


def _seed_reason(job: DiskJob) -> str:
    compared = "; what an earlier try or run had sent was compared" if job.holds_others else ""
    return job.base.reason + compared
