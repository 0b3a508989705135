"""What an export makes of an instance and removes again: snapshots of one instant, or a temporary image (AMP-10).

CreateSnapshots has no client token. So every call has a token of its own among the snapshots' tags, which the caller
has written down; snapshots with it are looked for before the call, and a call whose answer got lost is not sent again
(:data:`~wavelift.adapters.aws.access.ONCE`). All snapshots of one call have the same start time (EC2 API reference,
SnapshotInfo): snapshots of two instants are never mixed.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.backups import BackupRequest, Backups
from wavelift.adapters.aws.ec2 import BATCH, SEEN_POLL_S, SEEN_WAIT_S, Ec2, Image
from wavelift.adapters.aws.errors import aws_errors
from wavelift.adapters.aws.tagging import filters, from_aws, has_tags, specification
from wavelift.adapters.aws.texts import description
from wavelift.base.errors import BusyError, PermanentError, WaveliftError
from wavelift.base.names import MADE_BY, TAG_RUN
from wavelift.base.units import GIB

log = logging.getLogger(__name__)

TAG_CALL: Final = "wavelift:call"
"""On snapshots of CreateSnapshots: which call made them."""
IMAGE_PREFIX: Final = "wavelift-export-"
"""What the names of temporary images begin with. A tag alone is no proof that an image is ours to remove."""
OF_IMAGE: Final = "Created by CreateImage("
"""How AWS describes the snapshots of CreateImage."""
_PERCENT: Final = re.compile(r"(\d{1,3})%")
FAILED_STATES: Final = frozenset({"error", "recoverable", "recovering"})


def image_name(run: str, attempt: int) -> str:
    """Of a run's temporary image: another attempt makes another image, of another instant.

    :param run: hash of the run's key (:func:`wavelift.base.names.run_hash`).
    """
    return f"{IMAGE_PREFIX}{run}-{attempt}"


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """A snapshot of a volume. ``size`` is bytes, ``progress`` percent."""

    snapshot_id: str
    volume_id: str
    state: str
    size: int
    started: datetime
    progress: int = 0
    encrypted: bool = False
    description: str = ""
    message: str = ""
    """AWS's words of a failure."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        return self.state == "completed"


@dataclass(frozen=True, slots=True)
class SnapshotsRequest:
    """Snapshots of an instance's volumes, all of one instant: crash-consistent, as after a power cut.

    :ivar volume_ids: those that the export needs, in its order of disks.
    :ivar token: of this call; another call has another one.
    :ivar tags: must name the run (``wavelift:run``).
    """

    instance_id: str
    volume_ids: Sequence[str]
    token: str
    tags: Mapping[str, str]
    description: str = ""

    def parameters(self) -> dict[str, Any]:
        """The request as boto3 wants it. No tags of the volumes are copied: they may be those of another run."""
        return {
            "InstanceSpecification": {"InstanceId": self.instance_id, "ExcludeBootVolume": False},
            "Description": description(f"{MADE_BY}{self.description or f'export of {self.instance_id}'}"),
            "TagSpecifications": specification("snapshot", self.tags, {TAG_CALL: self.token}),
        }


@dataclass(frozen=True, slots=True)
class SnapshotSet:
    """Snapshots of one instant, one for each volume that was asked for, in that order.

    :ivar unasked: what the call made beside them, of volumes that nobody asked for. They go with the rest.
    """

    started: datetime
    snapshots: tuple[SourceSnapshot, ...]
    unasked: tuple[SourceSnapshot, ...] = ()

    @property
    def completed(self) -> bool:
        return all(one.completed for one in self.snapshots)

    @property
    def progress(self) -> int:
        """Percent, by size."""
        size = sum(one.size for one in self.snapshots) or 1
        return sum((100 if one.completed else one.progress) * one.size for one in self.snapshots) // size

    def check(self) -> None:
        """:raises WaveliftError: AWS could not make one of them: remove the set, and take another one."""
        for one in self.snapshots:
            if one.state in FAILED_STATES:
                raise WaveliftError(
                    f"AWS could not make a snapshot: it is {one.state} ({one.message or 'without a word why'})",
                    next_step="Export again: it takes new snapshots",
                    snapshot=one.snapshot_id,
                    volume=one.volume_id,
                )


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did.

    :ivar kept: what stays → why: somebody made an image of a snapshot.
    """

    images: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)


class ExportSources:
    """Snapshots and temporary images of exports, of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access, self._ec2, self._backups = access, Ec2(access), Backups(access)

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    # -- snapshots of one instant ---------------------------------------------------------------------------------

    def take(self, request: SnapshotsRequest) -> SnapshotSet:
        """The snapshots of this call: those with its token, or new ones (invariant 5). They are pending at first.

        :raises PermanentError: a volume that is asked for is not attached any more.
        :raises NotFoundError: there is no such instance. :raises ThrottledError: too many snapshots of one volume.
        """
        _named_run(request.tags)
        known = self.of_call(request.tags, request.token)
        if not known:
            with aws_errors("could not take the snapshots", service="ec2", instance=request.instance_id):
                answer = self._client.create_snapshots(**request.parameters())
            known = [_read(one) for one in answer["Snapshots"]]
        return self._whole(request, known)

    def _whole(self, request: SnapshotsRequest, found: list[SourceSnapshot]) -> SnapshotSet:
        """The set of the call. EC2 is consistent in the end: of an earlier try's it may not show all at once."""
        give_up = time.monotonic() + SEEN_WAIT_S
        while (whole := one_instant(found, request.volume_ids)) is None:
            if time.monotonic() >= give_up:
                have = {one.volume_id for one in found}
                lacking = [volume for volume in request.volume_ids if volume not in have]
                raise PermanentError(
                    f"the snapshots of one instant lack a volume: {', '.join(lacking) or 'they are of two instants'}",
                    next_step="Somebody detached it after the check, or EC2 is slow to show it. Export again",
                    instance=request.instance_id,
                )
            self._access.cancel.wait(SEEN_POLL_S)
            self._access.cancel.check()
            found = self.of_call(request.tags, request.token) or found
        return whole

    def of_call(self, tags: Mapping[str, str], token: str) -> list[SourceSnapshot]:
        """What EC2 shows of one call's snapshots."""
        return self.find({**tags, TAG_CALL: token})

    def find(self, tags: Mapping[str, str]) -> list[SourceSnapshot]:
        """Snapshots of this account that carry all these tags and that we, or CreateImage for us, made."""
        _named_run(tags)
        found = self._described(Filters=filters(tags))
        return [one for one in found if one.description.startswith((MADE_BY, OF_IMAGE)) and has_tags(one.tags, tags)]

    def look(self, snapshot_ids: Iterable[str]) -> dict[str, SourceSnapshot]:
        """Snapshots by id, one call per hundred; unknown ids are left out."""
        wanted = [one for one in dict.fromkeys(snapshot_ids) if one]
        found: dict[str, SourceSnapshot] = {}
        for start in range(0, len(wanted), BATCH):
            chosen = [{"Name": "snapshot-id", "Values": wanted[start : start + BATCH]}]
            found |= {one.snapshot_id: one for one in self._described(Filters=chosen)}
        return found

    def _described(self, **selection: Any) -> list[SourceSnapshot]:
        pages = self._client.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], **selection)
        with aws_errors("could not look at the snapshots", service="ec2"):
            return [_read(one) for page in pages for one in page["Snapshots"]]

    # -- a temporary image ----------------------------------------------------------------------------------------

    def make_image(
        self, instance_id: str, name: str, *, reboot: bool, tags: Mapping[str, str], description: str = ""
    ) -> Image:
        """Begin the image of this name, or find it (invariant 5); it is pending at first. Follow it by its id.

        :param name: of :func:`image_name`. :param reboot: CreateImage may shut the guest down and start it again.
        :raises PermanentError: the name is taken by an image of something else.
        """
        _named_run(tags)
        request = BackupRequest(instance_id, name, reboot=reboot, tags=tags, description=f"{MADE_BY}{description}")
        return self._backups.create_image(request)

    def image(self, image_id: str) -> Image:
        """:raises NotFoundError: there is no such image. :raises PermanentError: AWS could not make it."""
        return self._backups.image(image_id)

    def shows_image(self, image_id: str) -> bool:
        """Whether EC2 shows an image, in whatever state."""
        return image_id in self._ec2.images([image_id])

    # -- removal --------------------------------------------------------------------------------------------------

    def remove(self, tags: Mapping[str, str]) -> Removed:
        """Deregister the temporary images of a run, and delete its snapshots. May be called again.

        Only what carries all ``tags`` and has a name or description that only we, or CreateImage for us, give. Who else
        may name it? Nobody waits for a temporary image any more, and an instance that somebody launched from it does
        not need it. A snapshot that somebody made an image of stays: AWS refuses to delete it.
        """
        _named_run(tags)
        images = [one for one in self._ec2.find_ours(tags).images if one.name.startswith(IMAGE_PREFIX)]
        for image in images:
            self._ec2.deregister(image.image_id, delete_snapshots=False)
        own = {snapshot_id for image in images for snapshot_id in image.snapshot_ids}
        found = {one.snapshot_id for one in self.find(tags)}
        if foreign := own - found:
            log.warning("snapshots %s of a temporary image have no tag of the run and stay", ", ".join(sorted(foreign)))
        deleted, kept = [], dict.fromkeys(sorted(foreign), "it has no tag of the run")
        for snapshot_id in sorted(found):
            try:
                self._delete(snapshot_id, of_image=snapshot_id in own)
                deleted.append(snapshot_id)
            except BusyError as error:
                log.warning("snapshot %s stays: somebody made an image of it", snapshot_id)
                kept[snapshot_id] = error.what
        return Removed(tuple(sorted(one.image_id for one in images)), tuple(deleted), kept)

    def _delete(self, snapshot_id: str, *, of_image: bool) -> None:
        """:param of_image: an image that was deregistered just now had it: EC2 may count it as used for some seconds.

        :raises BusyError: somebody made an image of it."""
        give_up = time.monotonic() + (SEEN_WAIT_S if of_image else 0.0)
        while True:
            try:
                self._ec2.delete_snapshot(snapshot_id)
                return
            except BusyError:
                if time.monotonic() >= give_up:
                    raise
            self._access.cancel.wait(SEEN_POLL_S)
            self._access.cancel.check()


def one_instant(found: Sequence[SourceSnapshot], volume_ids: Sequence[str]) -> SnapshotSet | None:
    """The first complete set: exactly one snapshot of each volume, all of one call and one start time. None: no such.

    EC2 shows whole seconds, so the start time alone does not tell two calls apart.
    """
    instants: dict[tuple[datetime, str], list[SourceSnapshot]] = {}
    for one in found:
        instants.setdefault((one.started, one.tags.get(TAG_CALL, "")), []).append(one)
    for started, call in sorted(instants):
        of_instant = instants[started, call]
        of_volume = {one.volume_id: one for one in of_instant}
        if len(of_volume) == len(of_instant) and set(volume_ids) <= set(of_volume):
            chosen = tuple(of_volume[volume] for volume in volume_ids)
            return SnapshotSet(started, chosen, tuple(one for one in of_instant if one.volume_id not in volume_ids))
    return None


def _named_run(tags: Mapping[str, str]) -> None:
    """Without a run's name the tags would fit what is not ours."""
    if not tags.get(TAG_RUN):
        raise PermanentError(f"snapshots and images of an export need the tag {TAG_RUN}", next_step="This is a bug")


def _read(one: Mapping[str, Any]) -> SourceSnapshot:
    percent = _PERCENT.fullmatch(str(one.get("Progress") or ""))
    return SourceSnapshot(
        snapshot_id=one["SnapshotId"],
        volume_id=one.get("VolumeId", ""),
        state=one.get("State", ""),
        size=int(one.get("VolumeSize") or 0) * GIB,
        started=one["StartTime"],
        progress=int(percent.group(1)) if percent else 0,
        encrypted=bool(one.get("Encrypted")),
        description=one.get("Description") or "",
        message=one.get("StateMessage") or "",
        tags=from_aws(one.get("Tags", [])),
    )
