"""The account as EC2's actions use it: moto's backends, the other services' stores, and more state."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wavelift.simulators.aws.ebs.snapshot import Snapshot
from wavelift.simulators.aws.ebs.store import EbsStore, NewVolume
from wavelift.simulators.aws.ebs.volume import Volume
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.moto_bridge.address_log import AddressLog
from wavelift.simulators.aws.moto_bridge.backends import Backends
from wavelift.simulators.aws.moto_bridge.resources import SimAmi, SimSnapshot, billing, image_values
from wavelift.simulators.aws.s3.store import S3Store
from wavelift.simulators.aws.settings import MANAGED_EBS_KEY, Settings
from wavelift.simulators.aws.vmexport.tasks import ExportTasks
from wavelift.simulators.aws.vmimport.tasks import ImportTask, ImportTasks
from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.faults import Faults


@dataclass(frozen=True, slots=True)
class Launch:
    """What VM Export asks of an instance's past: its volumes and instance-store devices at the launch."""

    volumes: frozenset[str]
    instance_store: tuple[str, ...]


@dataclass(slots=True)
class Account:
    settings: Settings
    clock: Clock
    backends: Backends
    s3: S3Store
    ebs: EbsStore
    imports: ImportTasks
    exports: ExportTasks
    faults: Faults[Any]
    made: dict[tuple[str, str], tuple[str, Any]] = field(default_factory=dict)
    """By operation and client token: the request, and what it made."""
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """What happens by itself, and when: :meth:`after`."""
    running_since: dict[str, float] = field(default_factory=dict)
    """When an instance last began to run: its status checks begin anew."""
    reboots: dict[str, int] = field(default_factory=dict)
    launches: dict[str, Launch] = field(default_factory=dict)
    """How each instance was launched."""
    dns_changes: dict[str, Any] = field(default_factory=dict)
    """Route 53's changes by id."""
    targets: dict[str, dict[tuple[str, int], Any]] = field(default_factory=dict)
    """By target group (its ARN): its targets by id and port."""
    commands: dict[tuple[str, str], Any] = field(default_factory=dict)
    """Run Command's invocations by command and instance."""
    unseen: dict[str, float] = field(default_factory=dict)
    """Ids that EC2 does not show yet, and when it will."""
    address_log: AddressLog = field(default_factory=AddressLog)
    ebs_key: str = MANAGED_EBS_KEY
    """The account's default key as EC2 names it: the AWS managed key by its alias, a customer's key by its ARN."""

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let ``act`` happen when so many seconds of the simulator's clock have passed."""
        self.later.append((self.clock.now() + seconds, act))

    def catch_up(self) -> None:
        """Do what is due by now. Called before each call and each look at the state, with moto's lock."""
        now = self.clock.now()
        due = sorted((item for item in self.later if item[0] <= now), key=lambda item: item[0])
        self.later[:] = [item for item in self.later if item[0] > now]
        for _, act in due:
            act()
        self.ebs.close_volumes(self.backends.ec2.volumes)

    def volume(self, volume_id: str) -> Volume:
        """The content of a volume of EC2's. Raises AwsError."""
        with self.backends.lock:
            found = self.backends.ec2.volumes.get(volume_id)
            if found is None:
                raise AwsError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.", 400)
            key = self.backends.find_key(found.kms_key_id) if found.kms_key_id else None
            size, snapshot, encrypted = int(found.size), found.snapshot_id or "", bool(found.encrypted)
            volume = self.ebs.open_volume(NewVolume(volume_id, size, snapshot, encrypted, key.arn if key else ""))
            found.encrypted, found.kms_key_id = volume.encrypted, volume.kms_key or None
            return volume

    def repeated(self, operation: str, token: str, fingerprint: str) -> Any | None:
        """What this client token made before. Raises AwsError if that was another request."""
        known = self.made.get((operation, token)) if token else None
        if known is None:
            return None
        if known[0] != fingerprint:
            raise AwsError(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
                400,
            )
        return known[1]

    def hide(self, name: str) -> None:
        """Do not show a new resource before ``unseen_seconds`` have passed."""
        if seconds := self.settings.unseen_seconds:
            self.unseen[name] = self.clock.now() + seconds

    def show_snapshot(self, snapshot: Snapshot) -> None:
        with self.backends.lock:
            ec2 = self.backends.ec2
            ec2.snapshots[snapshot.id] = SimSnapshot(ec2, snapshot, self.ebs.state_of)

    def completed_snapshot(self, snapshot_id: str) -> Snapshot:
        """Raises EC2's error if the snapshot does not exist or is not completed."""
        try:
            return self.ebs.readable(snapshot_id)
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                raise AwsError(
                    "InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist.", 400
                ) from None
            raise AwsError("IncorrectState", f"Snapshot {snapshot_id} is not completed", 400) from None

    def register_import(self, task: ImportTask, *, windows: bool) -> str:
        """Make the image that an import ends in; its id."""
        values, mappings = image_values(task)
        image_id = f"ami-0{uuid.uuid4().hex[:16]}"
        with self.backends.lock:
            ec2 = self.backends.ec2
            terms = billing(task.request, windows)
            ec2.amis[image_id] = SimAmi(ec2, image_id, values=values, mappings=mappings, terms=terms)
            for name in (image_id, *(item["Ebs"]["SnapshotId"] for item in mappings)):
                self.hide(name)
        return image_id
