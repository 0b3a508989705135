"""One ImportImage task over retries, deferrals and clears: submitted once, found again, and never twice at a time.

The task id lies in the checkpoint store, which survives a clear: so it is checked against AWS before use, and against
the instant of what is to be imported: after a clear the source has been read again, and the image of the older instant
is not the one that is asked for. A task that was cancelled under us (a cleared task's old trigger does that,
in its ``on_kill``) is submitted again under a new client token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

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
from wavelift.base.errors import BusyError, LimitReachedError, NotFoundError, WaveliftError
from wavelift.base.names import TAG_RUN, client_token, instant_of, run_hash
from wavelift.base.run import RunContext

log = logging.getLogger(__name__)

IMPORT_KEY: Final = "import"
MAX_RESUBMITS: Final = 3
"""How often an import that somebody cancelled under us is submitted again."""
MAX_UNSEEN: Final = 10
"""Looks that find AWS not knowing the task before it counts as gone: a young task is not seen at once."""


@dataclass(frozen=True, slots=True)
class ImportRunning:
    """AWS works on it."""

    task_id: str
    phase: str


@dataclass(frozen=True, slots=True)
class ImportWaiting:
    """The account has no place for another import.

    :param below: how few imports must be active in the account before it is worth asking again.
    """

    words: str
    below: int = 0


class ImportJob:
    """The import of one piece of work (``ctx.run_key``).

    :param instant: of what is imported (:func:`wavelift.base.names.instant_of`). An import of another one that is
        remembered is not this one: it is cancelled if it still runs, and its token is not asked again.
    """

    def __init__(self, access: AwsAccess, ctx: RunContext, *, instant: str, server: str | None = None) -> None:
        self._imports = VmImport(access)
        self._ctx = ctx
        self._instant = instant
        self._server = server
        stored: dict[str, Any] = ctx.checkpoints.get(IMPORT_KEY) or {}
        self._outdated = ""
        if stored.get("instant") != instant:
            self._outdated, stored = stored.get("task_id", ""), {}
        self.task_id: str = stored.get("task_id", "")
        self._attempt: int = stored.get("attempt", 0)
        self._cancelled: int = stored.get("cancelled", 0)
        self._unseen: int = stored.get("unseen", 0)

    def look(self) -> ImportStatus | None:
        """The task that runs or is completed; None when one must be submitted.

        :raises WaveliftError: when it failed, with AWS's words and our reading; the next look finds nothing to wait
            for and a new one may be submitted.
        """
        self._end_outdated()
        if not self.task_id:
            return None
        status = self._imports.describe([self.task_id]).get(self.task_id)
        if status is not None and (not status.finished or status.state is ImportState.COMPLETED):
            return status
        if status is None:
            self._submit_again()
            return None
        cancelled = explain_import_failure(status.message).code == "cancelled"
        self._forget(cancelled=cancelled)
        if not cancelled:
            raise status.failure(server=self._server)
        if self._cancelled > MAX_RESUBMITS:
            raise WaveliftError(
                "The import was cancelled again and again",
                server=self._server,
                next_step="Find out who cancels import tasks in this account, then clear this task",
            )
        return None

    def submit(self, request: Callable[[str], ImportRequest], *, limit: int) -> ImportRunning | ImportWaiting:
        """Submit the import if the account has a place for it (invariant 8).

        :param request: makes the request for a client token. :param limit: active imports of account and region.
        """
        self._ctx.cancel.check()
        active = self._imports.count_active()
        if active >= limit:
            return ImportWaiting(f"{active} imports are active in the account, the limit is {limit}", below=limit)
        token = client_token(self._ctx.run_key, "import", self._attempt, instant=self._instant)
        try:
            self._remember(self._imports.import_image(request(token)))
        except LimitReachedError as error:
            # AWS's limit is lower than ours: only when one of these has ended is it worth asking again.
            return ImportWaiting(error.what, below=max(1, active))
        return ImportRunning(self.task_id, "submitted")

    def cancel(self, reason: str) -> None:
        """Cancel the task if it still runs."""
        for task_id in filter(None, (self.task_id, self._outdated)):
            self._imports.cancel(task_id, reason)

    def _end_outdated(self) -> None:
        """Who else may name a running import? Nobody: its task instance, which is this one, has begun another. What a
        completed one made is for :func:`remove_outdated`."""
        if self._outdated:
            self._imports.cancel(self._outdated, "wavelift: the source was read again")
            self._outdated = ""
            self._store()

    def _remember(self, task_id: str) -> None:
        self.task_id = task_id
        self._store()

    def _submit_again(self) -> None:
        """AWS does not know the task: too young to be seen, or forgotten. The same client token tells: AWS answers it
        with the task that it started for it, and only if there is none with a new one (invariant 5).
        """
        self._unseen += 1
        if self._unseen > MAX_UNSEEN:
            self._forget(cancelled=False)
            return
        self.task_id = ""
        self._store()

    def _forget(self, *, cancelled: bool) -> None:
        """The remote end is final and bad: the next submission needs a new client token."""
        self.task_id = ""
        self._attempt += 1
        self._unseen = 0
        self._cancelled = self._cancelled + 1 if cancelled else 0
        self._store()

    def _store(self) -> None:
        self._ctx.checkpoints.set(
            IMPORT_KEY,
            {
                "instant": self._instant,
                "task_id": self.task_id,
                "attempt": self._attempt,
                "cancelled": self._cancelled,
                "unseen": self._unseen,
            },
        )


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

    An image that this task made of other content stays: who uses it is not known here.

    :raises NotFoundError: an object is gone. :raises WaveliftError: when it failed, with AWS's words and our reading.
    """
    job = ImportJob(access, ctx, instant=instant_of(*_content(access, disks)))
    status = job.look()
    if status is None:
        return job.submit(request, limit=limit)
    return status if status.finished else ImportRunning(status.task_id, status.phase)


def _content(access: AwsAccess, disks: Sequence[ImportDisk]) -> Iterator[str]:
    """What each disk holds now: the key in S3 may be that of another upload by the time of a clear."""
    for disk in disks:
        if disk.snapshot_id:
            yield disk.snapshot_id
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
        yield f"{disk.bucket}/{disk.key} {found.etag} {found.size}"
