"""Finds what carries our tag or name and belongs to no living run, and removes it on request (invariants 4, 5).

Only what is the wave's own is shown: a vSphere snapshot by the run hash in its name, what lies in AWS by the wave's
folder or tag. What another wave left is not its business, nor what an export made of an instance of the wave: snapshots
and images have the tags of the export's run (:mod:`.export_staging`), no tag of a volume is copied to them, and its own
run or the upkeep removes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs_snapshot import COMPLETED, PENDING
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.aws.vmimport import VmImport
from wavelift.adapters.vsphere import snapshots
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import BusyError, NotFoundError, PermanentError, TamperedError, WaveliftError
from wavelift.base.names import MADE_BY, SNAPSHOT_PREFIX, TAG_RUN, TAG_WAVE, slug
from wavelift.base.run import CancelFlag, DagRun, Liveness
from wavelift.rules.flows import FLOWS, flow_of
from wavelift.services.dataplane.messages import SNAPSHOT_KIND, Admitted, CleanupReport, Leftover, StandingSnapshot
from wavelift.services.dataplane.staging import DISK_SUFFIX
from wavelift.services.dataplane.unfinished import noted_seeds

log = logging.getLogger(__name__)

FINISHED: Final = frozenset({COMPLETED, "recoverable"})
"""States of an EBS snapshot that a lineage or an image may name."""


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    name: str
    run: str
    remove: Callable[[], object]


def sweep(
    session: VsphereSession, access: AwsAccess, admitted: Admitted, liveness: Liveness, *, dag_id: str
) -> CleanupReport:
    """Look through the wave's vCenter and its environment; remove what ended runs left unless it is a dry run.

    AMIs, their snapshots, instances and manifests are results, not leftovers: they stay. What carries the wave's name
    in AWS, of a run that our ledger does not know, may belong to another installation and stays too.

    :param liveness: asked right before each removal: an ended run lives again as soon as a server is cleared.
    :param dag_id: of the DAG whose task this is: what was admitted came by XCom, and may name runs of its wave only.
    :raises TamperedError: it names another wave.
    """
    _require_own(admitted, flow_of(dag_id).wave_of(dag_id))
    owners = {hash: run for run in admitted.runs for hash in run.hashes}

    def owner_of(hash: str) -> str:
        run = owners.get(hash)
        if run is None:
            return "unknown"
        return "living run" if liveness.run(DagRun(run.dag_id, run.run_id)) else "ended run"

    return CleanupReport(
        wave=admitted.wave.wave,
        dry_run=admitted.dry_run,
        leftovers=tuple(
            _treat(found, owner_of(found.run), dry_run=admitted.dry_run) for found in _find(session, access, admitted)
        ),
    )


def _require_own(admitted: Admitted, wave: str) -> None:
    own = [flow.dag_id(wave) for flow in FLOWS]
    named = [flow.dag_id(admitted.wave.wave) for flow in FLOWS] + [run.dag_id for run in admitted.runs]
    if foreign := next((dag_id for dag_id in named if dag_id not in own), None):
        raise TamperedError(
            "The clean-up of a wave was told of another wave's runs",
            field="runs.dag_id",
            expected=" or ".join(own),
            found=foreign,
            next_step="Find out who edited the XComs of this run, then trigger a new clean-up",
        )


def _treat(found: _Found, owner: str, *, dry_run: bool) -> Leftover:
    line = Leftover(kind=found.kind, name=found.name, run=found.run, owner=owner)
    if dry_run or owner != "ended run":
        return line
    try:
        found.remove()
    except WaveliftError as error:
        return line.model_copy(update={"error": str(error)})
    return line.model_copy(update={"removed": True})


def _find(session: VsphereSession, access: AwsAccess, admitted: Admitted) -> Iterator[_Found]:
    seen = set()
    wave, own = admitted.wave.wave, {hash for run in admitted.runs for hash in run.hashes}
    for ref in snapshots.find_ours(session):
        if ref.name.removeprefix(SNAPSHOT_PREFIX) not in own:
            continue  # another wave's, or another installation's
        remove = partial(snapshots.remove_snapshot, session, ref.vm, ref.name, cancel=CancelFlag())
        seen.add(ref.name)
        yield _Found(SNAPSHOT_KIND, f"{ref.server}: {ref.name}", ref.name.removeprefix(SNAPSHOT_PREFIX), remove)
    for one in admitted.standing:
        if one.name != f"{SNAPSHOT_PREFIX}{one.run}":
            raise PermanentError(
                "the clean-up was told of a snapshot with another name than its run's",
                next_step="Find out who edited the XComs of this run, then trigger a new clean-up",
                snapshot=one.name,
                run=one.run,
            )
        if one.connection == admitted.wave.connection and one.name not in seen:
            words = f"{one.server}: {one.name} (vCenter shows none, the ledger does not know that it is gone)"
            yield _Found(SNAPSHOT_KIND, words, one.run, partial(_make_sure, session, one))
    yield from _staged(access, admitted)
    imports = VmImport(access)
    for status in imports.find({TAG_RUN: "", TAG_WAVE: wave}):
        if not status.finished:
            cancel = partial(imports.cancel, status.task_id, "wavelift cleanup: its run has ended")
            yield _Found("import task", status.task_id, status.tags.get(TAG_RUN, ""), cancel)
    yield from _half_made(access, admitted)


def _make_sure(session: VsphereSession, one: StandingSnapshot) -> None:
    """Nothing of that name stands, or comes yet from a task under way, on a VM that we may look at. Should the id name
    another VM by now, no harm is done: the snapshot's name is that of one run."""
    try:
        snapshots.remove_snapshot(session, one.vm, one.name, cancel=CancelFlag())
    except NotFoundError:
        log.info("%s: the VM is gone, and its snapshots with it", one.server)


def _folder(admitted: Admitted) -> str:
    prefix = admitted.wave.environment.staging.prefix.strip("/")
    return "/".join(part for part in (prefix, slug(admitted.wave.wave)) if part) + "/"


def _staged(access: AwsAccess, admitted: Admitted) -> Iterator[_Found]:
    """Unfinished uploads and staged disks below this wave's folder; ``<prefix>/<wave>/<run>/<server>/…``."""
    staging, folder = admitted.wave.environment.staging, _folder(admitted)
    with closing(S3Staging(access, staging.bucket)) as s3:
        for upload in s3.list_uploads(folder):
            abort = partial(s3.abort_upload, upload.key, upload.upload_id)
            yield _Found("upload", f"s3://{staging.bucket}/{upload.key}", _run_of(upload.key, folder), abort)
        for entry in s3.list(folder):
            if entry.key.endswith(DISK_SUFFIX):
                delete = partial(s3.delete, entry.key)
                yield _Found("staged disk", f"s3://{staging.bucket}/{entry.key}", _run_of(entry.key, folder), delete)


def _run_of(key: str, folder: str) -> str:
    return key.removeprefix(folder).split("/", 1)[0]


def _half_made(access: AwsAccess, admitted: Admitted) -> Iterator[_Found]:
    """EBS snapshots of the wave that never completed. Who else may name one?

    A completed one: a lineage or an AMI, which only the ledger knows. A pending one: its own run's tries, and, where
    that run failed, a note in the wave's folder: the job's next run goes on with it, and AWS cancels it when none comes
    for two days.
    """
    ec2, wave = Ec2(access), admitted.wave
    with closing(S3Staging(access, wave.environment.staging.bucket)) as s3:
        noted = noted_seeds(s3, _folder(admitted))
    for snapshot in ec2.snapshots_with({TAG_RUN: "", TAG_WAVE: wave.wave}):
        if not snapshot.description.startswith(MADE_BY):
            continue  # a backup of an instance of ours, with its tags
        if snapshot.state == PENDING and snapshot.snapshot_id in noted:
            continue
        if snapshot.state not in FINISHED:
            delete = partial(_delete_half_made, ec2, snapshot.snapshot_id)
            yield _Found("EBS snapshot", snapshot.snapshot_id, snapshot.tags.get(TAG_RUN, ""), delete)


def _delete_half_made(ec2: Ec2, snapshot_id: str) -> None:
    """Delete it unless it was completed since it was listed: a record may name it by now."""
    found = ec2.snapshots([snapshot_id]).get(snapshot_id)
    if found is not None and found.state in FINISHED:
        raise BusyError(
            "It was completed meanwhile and stays", next_step="Nothing: its run goes on with it", snapshot=snapshot_id
        )
    ec2.delete_snapshot(snapshot_id)
