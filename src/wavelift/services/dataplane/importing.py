"""Imports of disks into AMIs: submitted once and found again, ended, and removed when they are of an older instant."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Protocol

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.aws.vmimport import (
    ImportDisk,
    ImportRequest,
    ImportState,
    ImportStatus,
    VmImport,
    explain_import_failure,
)
from wavelift.base.errors import BusyError, LimitReachedError, NotFoundError, ProofError, TamperedError, WaveliftError
from wavelift.base.names import TAG_RUN, instant_of, run_hash
from wavelift.base.run import RunContext
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.services.dataplane.remote_task import RemoteTask, Verdict
from wavelift.services.dataplane.staged_object import difference

log = logging.getLogger(__name__)

VERDICT_KEY: Final = "import_source"
"""Checkpoint of an import outside any wave: :func:`accept_once`."""


@dataclass(frozen=True, slots=True)
class ImportRunning:
    """AWS processes it."""

    task_id: str
    phase: str


@dataclass(frozen=True, slots=True)
class ImportWaiting:
    """The account has no place for another import.

    :param below: how few imports must be active in the account before it is worth asking again.
    """

    words: str
    below: int = 0


class _Imports:
    """Import tasks of AWS as a :class:`~wavelift.services.dataplane.remote_task.Remote`."""

    kind = "import"

    def __init__(self, access: AwsAccess, server: str | None, run: str) -> None:
        self.api = VmImport(access)
        self._server = server
        self._run = run

    def find(self, task_id: str) -> ImportStatus | None:
        """:raises TamperedError: it is another run's. Who may clear a task may edit the stored id, too."""
        status = self.api.describe([task_id]).get(task_id)
        if status is not None and self._is_foreign(status):
            raise TamperedError(
                "The import that Airflow's task state store names is not this run's",
                field="task_id",
                expected="an import with the tag of this run",
                found=task_id,
                server=self._server,
                next_step=f"Clear the server's {CONTINUE_FROM} task; find out who edited the state of its import task",
            )
        return status

    def cancel(self, task_id: str, reason: str) -> None:
        status = self.api.describe([task_id]).get(task_id) if self._run else None
        if status is not None and self._is_foreign(status):
            log.warning("import %s is not cancelled: it is not this run's", task_id)
        else:
            self.api.cancel(task_id, reason)

    def _is_foreign(self, status: ImportStatus) -> bool:
        return bool(self._run) and status.tags.get(TAG_RUN) != self._run

    def judge(self, status: ImportStatus) -> Verdict:
        if not status.finished or status.state is ImportState.COMPLETED:
            return Verdict.ALIVE
        cancelled = explain_import_failure(status.message).code == "cancelled"
        return Verdict.CANCELLED if cancelled else Verdict.FAILED

    def failure(self, status: ImportStatus) -> WaveliftError:
        """AWS's words and our reading."""
        return status.failure(server=self._server)


class ImportTask(RemoteTask[ImportStatus]):
    """The import of one piece of work (``ctx.run_key``). What an outdated one made is for :func:`remove_outdated`.

    :param server: of a wave, whose imports all have the run's tag. None: an import outside any wave.
    """

    def __init__(self, access: AwsAccess, ctx: RunContext, *, instant: str, server: str | None = None) -> None:
        self._imports = _Imports(access, server, "" if server is None else run_hash(ctx.run_key))
        super().__init__(self._imports, ctx, instant=instant)

    def submit_import(self, request: Callable[[str], ImportRequest], *, limit: int) -> ImportRunning | ImportWaiting:
        """Submit the import if the account has a place for it (invariant 8).

        :param request: makes the request for a client token. :param limit: active imports of account and region.
        """
        self._ctx.cancel.check()
        active = self._imports.api.count_active()
        if active >= limit:
            return ImportWaiting(f"{active} imports are active in the account, the limit is {limit}", below=limit)
        try:
            task_id = self.submit(lambda token: self._imports.api.import_image(request(token)))
        except LimitReachedError as error:
            # AWS's limit is lower than ours: only when one of these has ended is it worth asking again.
            return ImportWaiting(error.what, below=max(1, active))
        return ImportRunning(task_id, "submitted")


def registered_name(run_key: str, instant: str = "") -> str:
    """The name of an image that a run registers; without ``instant`` what all of its names begin with."""
    return f"wavelift-{run_hash(run_key)}-{instant}"


def end_imports(access: AwsAccess, run_key: str, reason: str) -> dict[str, tuple[str, ...]]:
    """Cancel what still runs of a server's imports in this run; the images that stand, with their snapshots.

    An image is found by that of its import task, as one whose tagging was refused has no tag; and by its own, as AWS
    forgets import tasks. With the tag it must have a name that only we or an import give it: instances and volumes have
    the tag too, and backups copy it to images that are the customer's.
    """
    tag = {TAG_RUN: run_hash(run_key)}
    names = ("import-ami-", registered_name(run_key))
    imports, ec2 = VmImport(access), Ec2(access)
    made: dict[str, tuple[str, ...]] = {}
    for status in imports.find(tag):
        # Seconds before its end a task can't be cancelled any more: then it is as good as completed.
        after = status if status.finished else imports.cancel(status.task_id, reason).status
        if after is not None and after.image_id:
            made[after.image_id] = after.snapshot_ids
    tagged = {one.image_id: one for one in ec2.find_ours(tag).images if one.name.startswith(names)}
    standing = {**tagged, **ec2.images(made)}
    return {
        id: tuple(dict.fromkeys((*image.snapshot_ids, *made.get(id, ())))) for id, image in sorted(standing.items())
    }


def remove_outdated(access: AwsAccess, run_key: str, *, image_id: str, keep: Collection[str] = ()) -> tuple[str, ...]:
    """Deregister what a run's earlier imports made of other instants, and delete its snapshots; which images went.

    Called once ``image_id`` is recorded as the run's image: no import of the run is waited for any more. Who else may
    name the other images? No other run and no backup: see :func:`end_imports`. The ledger: no more,
    ``image_id`` was written over them. A lineage: ``keep``. An instance: it was launched from it, and a person may
    still need to tell whence: such an image stays. An image that somebody made of its snapshots: AWS refuses to delete
    those, and they stay.

    :param keep: snapshots that a record names.
    """
    ec2 = Ec2(access)
    outdated = end_imports(access, run_key, "wavelift: the run has its image")
    outdated.pop(image_id, None)
    in_use = {one.image_id for one in ec2.instances_of(outdated)}
    for id in sorted(in_use):
        log.warning("image %s is of an older instant and stays: an instance of it is there; deregister both", id)
    gone = tuple(id for id in outdated if id not in in_use)
    for id in gone:
        ec2.deregister(id, delete_snapshots=False)
        delete_unused(ec2, (snapshot_id for snapshot_id in outdated[id] if snapshot_id not in keep))
    return gone


def discard_imports(access: AwsAccess, run_key: str, keys: Collection[str], reason: str) -> tuple[str, ...]:
    """End a run's imports of these S3 objects, and remove what they made: images, with their snapshots. May be called
    again. An import that was submitted and had no answer is found by its tag.

    Unlike :func:`remove_outdated`, this takes an image that an instance was launched from: it is no one's source.
    """
    imports, wanted, gone = VmImport(access), set(keys), []
    for status in imports.find({TAG_RUN: run_hash(run_key)}):
        if not status.keys & wanted:
            continue
        after = status if status.finished else imports.cancel(status.task_id, reason).status
        if after is not None and after.image_id:
            discard_image(access, after)
            gone.append(after.image_id)
    return tuple(gone)


def discard_image(access: AwsAccess, status: ImportStatus) -> None:
    """Deregister the image of a completed import, and delete its snapshots. May be called again."""
    ec2 = Ec2(access)
    for one in ec2.instances_of([status.image_id]):
        log.warning("instance %s was launched from image %s, which is refused: stop it", one.instance_id, one.image_id)
    found = ec2.images([status.image_id]).get(status.image_id)
    ec2.deregister(status.image_id, delete_snapshots=False)
    delete_unused(ec2, dict.fromkeys((*(found.snapshot_ids if found is not None else ()), *status.snapshot_ids)))


class Verdicts(Protocol):
    """Where it is kept whether an import read what it should. It outlives retries and clears of the task."""

    def get(self) -> Mapping[str, Any] | None: ...

    def set(self, verdict: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Remembered:
    """The verdict of an import outside any wave, in the task's state."""

    ctx: RunContext

    def get(self) -> Mapping[str, Any] | None:
        found: dict[str, Any] | None = self.ctx.checkpoints.get(VERDICT_KEY)
        return found

    def set(self, verdict: Mapping[str, Any]) -> None:
        self.ctx.checkpoints.set(VERDICT_KEY, dict(verdict))


def is_accepted(verdict: Mapping[str, Any] | None, task_id: str) -> bool:
    """Whether this is the verdict of this import, and it was accepted."""
    return bool(verdict and verdict["task_id"] == task_id and verdict["accepted"])


def accept_once(
    verdicts: Verdicts, task_id: str, check: Callable[[], None], refuse: Callable[[ProofError], object]
) -> None:
    """Judge a completed import by ``check``, once. By the next try, what was compared may be deleted, or back at its
    place.

    :param refuse: ends what was imported. It is called again by each later try.
    :raises ProofError: what ``check`` raised now or before.
    """
    verdict = verdicts.get()
    if verdict is None or verdict["task_id"] != task_id:
        verdict = {}
    if is_accepted(verdict, task_id):
        return
    try:
        if verdict:
            raise ProofError(verdict["what"], next_step=verdict["next_step"], **verdict["where"])
        check()
    except ProofError as error:
        told = {name: str(value) for name, value in error.where.items()}
        refused = {"what": error.what, "next_step": error.next_step, "where": told}
        verdicts.set({"task_id": task_id, "accepted": False, **refused})
        refuse(error)
        raise
    verdicts.set({"task_id": task_id, "accepted": True})


def delete_unused(ec2: Ec2, snapshot_ids: Iterable[str]) -> int:
    """Delete snapshots but for those that an image stands on: it takes them along when it goes. How many."""
    deleted = 0
    for snapshot_id in snapshot_ids:
        try:
            ec2.delete_snapshot(snapshot_id)
            deleted += 1
        except BusyError:
            log.warning("snapshot %s stays: another image was made of it", snapshot_id)
    return deleted


def import_disks(
    access: AwsAccess,
    disks: Sequence[ImportDisk],
    request: Callable[[str], ImportRequest],
    ctx: RunContext,
    *,
    limit: int,
) -> ImportStatus | ImportRunning | ImportWaiting:
    """Bring an import outside any wave one step further; the completed task's status at its end.

    An image that this task made of other content stays: who uses it is not known here. A disk that names its version is
    compared with it before and after; of one that was changed meanwhile no image stays.

    :raises NotFoundError: an object is gone. :raises WaveliftError: when it failed, with AWS's words and our reading.
    :raises ProofError: an object is not of the version that was asked for.
    """
    work = ImportTask(access, ctx, instant=instant_of(*_content(access, disks)))
    status = work.look()
    if status is None:
        _check_versions(access, disks, "before it was imported")
        return work.submit_import(request, limit=limit)
    if not status.finished:
        return ImportRunning(status.task_id, status.phase)
    if any(disk.version for disk in disks):
        made = status
        accept_once(
            _Remembered(ctx),
            made.task_id,
            lambda: _check_versions(access, disks, "while it was imported"),
            lambda _: discard_image(access, made),
        )
    return status


def _check_versions(access: AwsAccess, disks: Sequence[ImportDisk], when: str) -> None:
    for disk in disks:
        if disk.version is None:
            continue
        with closing(S3Staging(access, disk.bucket)) as s3:
            why = difference(disk.version, None, s3.head(disk.key))
        if why:
            raise ProofError(
                f"The disk to import was changed {when}: {why}",
                object=f"s3://{disk.bucket}/{disk.key}",
                next_step="Find out who may write to the bucket, then upload the disk again",
            )


def _content(access: AwsAccess, disks: Sequence[ImportDisk]) -> Iterator[str]:
    """What each disk holds now: the key in S3 may be that of another upload by the time of a clear."""
    for disk in disks:
        if disk.snapshot_id:
            yield disk.snapshot_id
            continue
        if disk.version is not None:
            yield f"{disk.bucket}/{disk.key} {disk.version.model_dump_json()}"
            continue
        with closing(S3Staging(access, disk.bucket)) as s3:
            found = s3.head(disk.key)
        if found is None:
            raise NotFoundError(
                "The disk to import is not in S3",
                object=f"s3://{disk.bucket}/{disk.key}",
                next_step="Clear the task that uploads it too: an image that was made of it before can't be told "
                "from one of another upload",
            )
        yield f"{disk.bucket}/{disk.key} {found.size} {found.version.model_dump_json()}"
