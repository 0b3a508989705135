"""What export tasks need of the account: the source's disk, the place's rules, fault rules and evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wavelift.simulators.aws.ebs.snapshot import Snapshot
from wavelift.simulators.aws.ebs.volume import Volume
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.evidence import EXPORTS, RAW, KeptExport
from wavelift.simulators.aws.faults import Rule
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.exportable import exported_volumes
from wavelift.simulators.aws.moto_bridge.exports import check_export_role
from wavelift.simulators.aws.moto_bridge.instances import reboot
from wavelift.simulators.aws.s3.store import StoredObject
from wavelift.simulators.aws.vmexport.place import check_bucket, check_grants
from wavelift.simulators.aws.vmexport.produce import ExportFailed, write_raw
from wavelift.simulators.aws.vmexport.tasks import ExportTask
from wavelift.simulators.kit.evidence import Evidence


class ExportWorld:
    """``done`` is told of each finished object."""

    def __init__(self, account: Account, evidence: Evidence, done: Callable[..., None]) -> None:
        self._account, self._evidence, self._done = account, evidence, done

    def fault(self, phase: str, task: ExportTask) -> Rule | None:
        rules = self._account.faults.take("export", service="ec2", operation=phase, key=task.new.source)
        return rules[0] if rules else None

    def in_force(self, rule: Rule) -> bool:
        return self._account.faults.has(rule.id)

    def take(self, task: ExportTask, raw: Path) -> None:
        if task.new.kind == "instance":
            self._take_volume(task, raw)
        else:
            self._take_snapshot(task, raw)

    def _take_volume(self, task: ExportTask, raw: Path) -> None:
        account = self._account
        with account.backends.lock:
            account.catch_up()
            instance = account.backends.ec2.get_instance_by_id(task.new.source)
            if instance is None or instance.state not in {"running", "stopping", "stopped"}:
                raise ExportFailed(f"ClientError: The instance {task.new.source} does not exist any more")
            exported = exported_volumes(account, instance)
            if len(exported) != 1:
                raise ExportFailed(f"ClientError: The instance {task.new.source} has {len(exported)} virtual disks")
            volume = account.volume(exported[0])
            if instance.state == "running" and account.settings.export_reboots:
                reboot(account, instance)
                task.rebooted = True
        try:
            _of_volume(volume, raw)
        except FileNotFoundError:  # it went meanwhile, and its volume with it
            raise ExportFailed(f"ClientError: The instance {task.new.source} does not exist any more") from None

    def _take_snapshot(self, task: ExportTask, raw: Path) -> None:
        account = self._account
        with account.backends.lock:
            image: Any = account.backends.ec2.amis.get(task.new.source)
            if image is None:
                raise ExportFailed(f"ClientError: The image {task.new.source} does not exist any more")
            ebs = image.block_device_mappings[0]["Ebs"]
        try:
            snapshot = account.completed_snapshot(ebs["SnapshotId"])
        except AwsError as error:
            raise ExportFailed(f"ClientError: {error.message}") from error
        write_raw(raw, int(ebs["VolumeSize"]), snapshot.indices(), lambda index: _block(snapshot, index))

    def check_place(self, task: ExportTask) -> None:
        account, new = self._account, task.new
        bucket = check_bucket(account.s3, new.bucket, task.key, account.settings.region)
        if new.kind == "instance":
            check_grants(bucket, task.key)
        else:
            check_export_role(account, new, bucket, task.key)

    def object_done(self, bucket: str, stored: StoredObject, *, multipart: bool) -> None:
        self._done(bucket, stored, multipart=multipart)

    def keep_export(self, task: ExportTask) -> None:
        if not self._account.settings.evidence or task.raw is None:
            return
        kept = self._evidence.keep_file(task.raw, RAW, f"{task.id}.raw")
        self._evidence.keep(
            EXPORTS,
            KeptExport(
                task=task.id,
                source=task.new.source,
                bucket=task.new.bucket,
                key=task.key,
                raw=str(kept),
                rebooted=task.rebooted,
            ),
        )


def _of_volume(volume: Volume, raw: Path) -> None:
    with volume.lock:
        below = set(volume.base.indices()) if volume.base is not None else set()
        write_raw(raw, volume.size, sorted(below | volume.written), volume.read)


def _block(snapshot: Snapshot, index: int) -> bytes:
    owner = snapshot.owner(index)
    assert owner is not None
    return owner.own_bytes(index)
