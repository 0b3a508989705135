"""From objects in the bucket to an image and an instance, and what the conversion changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contexts import context_of

from wavelift.adapters.aws import ec2 as ec2_module
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import EbsStream, SnapshotBlocks, compare_snapshot
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest, ImportState, ImportStatus, VmImport
from wavelift.base.domain import ChangedRange
from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    RemoteJobError,
    ThrottledError,
)
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag, RunContext
from wavelift.base.units import BLOCK, GIB, KIB
from wavelift.services.dataplane.importing import ImportRunning, ImportTask
from wavelift.services.dataplane.remote_task import MAX_UNSEEN
from wavelift.simulators.aws import AwsSimulator, Bootstrap
from wavelift.transfer.verify import Comparison, Expected

pytestmark = pytest.mark.wire

TAGS = {"wavelift:run": "abc123def456", "wavelift:server": "web01", "Name": "demo/web01"}
QUICK = RetryPolicy(patience_s=3.0, base_s=0.01, cap_s=0.1)
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Machine:
    """Two disks in the bucket, and their raw images."""

    raws: tuple[Path, Path]
    disks: tuple[ImportDisk, ImportDisk]

    def request(self, token: str, **changes: object) -> ImportRequest:
        return replace(ImportRequest(self.disks, token, tags=TAGS, description="web01"), **changes)  # type: ignore[arg-type]


@pytest.fixture
def machine(staging: S3Staging, account: Bootstrap, make_disk: Callable[..., tuple[Path, Path]]) -> Iterator[Machine]:
    raws, disks = [], []
    for number in range(2):
        raw, vmdk = make_disk(seed=number + 10)
        key = f"imports/web01/disk-{number}.vmdk"
        staging.put_object(key, vmdk.read_bytes())
        raws.append(raw)
        disks.append(ImportDisk(bucket=account.bucket, key=key))
    yield Machine((raws[0], raws[1]), (disks[0], disks[1]))
    staging.delete_prefix("imports")


@pytest.fixture
def imports(access: AwsAccess) -> VmImport:
    return VmImport(access)


@pytest.fixture
def ec2(access: AwsAccess) -> Ec2:
    return Ec2(access)


def wait(imports: VmImport, task_id: str, until: Callable[[ImportStatus], bool]) -> ImportStatus:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        status = imports.describe([task_id]).get(task_id)  # a young task may not be seen yet
        if status is not None and until(status):
            return status
        time.sleep(0.05)
    raise AssertionError(f"{task_id} is still {status}")


def finished(imports: VmImport, task_id: str) -> ImportStatus:
    return wait(imports, task_id, lambda status: status.finished)


def gone(ec2: Ec2, instance_id: str) -> None:
    """Terminate and wait until the simulator has let go of the volumes."""
    ec2.terminate([instance_id])
    ec2.terminate([instance_id, "i-0000000000000dead"])


def compared(access: AwsAccess, snapshot_id: str, expected: Expected) -> Comparison:
    return compare_snapshot(access, snapshot_id, expected, cancel=CancelFlag(), policy=QUICK)


def digests(raw: Path) -> Callable[[int], bytes | None]:
    content = raw.read_bytes()

    def digest(index: int) -> bytes | None:
        block = content[index * BLOCK : (index + 1) * BLOCK]
        return hashlib.sha256(block).digest() if any(block) else None

    return digest


def test_amp_08_an_import_becomes_a_tagged_image_and_an_instance(
    aws: AwsSimulator, access: AwsAccess, account: Bootstrap, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    task_id = imports.import_image(machine.request("token-whole"))
    assert imports.import_image(machine.request("token-whole")) == task_id
    assert [status.task_id for status in imports.find({"wavelift:run": TAGS["wavelift:run"]})] == [task_id]
    done = finished(imports, task_id)
    assert done.state is ImportState.COMPLETED
    assert done.tags == TAGS
    # AWS's list comes in any order; by device name it is that of the disks, and the keys say the same.
    assert tuple(done.snapshot_by_key[disk.key] for disk in machine.disks) == done.snapshot_ids
    assert not ec2.find_ours({"wavelift:run": ""})

    image = ec2.tag_image(done.image_id, TAGS, snapshot_ids=done.snapshot_ids)
    assert image.snapshot_ids == done.snapshot_ids
    ours = ec2.find_ours({"wavelift:run": TAGS["wavelift:run"]})
    assert [one.image_id for one in ours.images] == [done.image_id]
    assert {one.snapshot_id for one in ours.snapshots} == set(done.snapshot_ids)
    assert ours.images[0].tags == TAGS

    launch = LaunchRequest(
        done.image_id,
        "t3.medium",
        account.subnet_ids[0],
        "launch-1",
        security_groups=[account.security_group_id],
        private_ip="10.20.1.77",
        tags=TAGS,
    )
    instance = ec2.launch(launch)
    calls = aws.counters()["ec2.RunInstances"]["calls"]
    assert ec2.launch(launch).instance_id == instance.instance_id
    assert aws.counters()["ec2.RunInstances"]["calls"] == calls
    described = ec2.describe_instances([instance.instance_id, "i-0000000000000dead"])
    assert list(described) == [instance.instance_id]
    seen = described[instance.instance_id]
    assert (seen.private_ip, seen.public_ip, seen.image_id) == ("10.20.1.77", "", done.image_id)
    assert seen.tags == TAGS
    raw = access.client("ec2").describe_instances(InstanceIds=[instance.instance_id])
    options = raw["Reservations"][0]["Instances"][0]["MetadataOptions"]
    assert options["HttpTokens"] == "required"

    with pytest.raises(BusyError):
        ec2.delete_snapshot(done.snapshot_ids[0])
    gone(ec2, instance.instance_id)
    ec2.deregister(done.image_id, delete_snapshots=True)
    ec2.deregister(done.image_id, delete_snapshots=True)
    assert not ec2.find_ours({"wavelift:run": ""})


def test_inv_1_the_conversion_report_lists_the_boot_disks_changes_and_none_elsewhere(
    aws: AwsSimulator, access: AwsAccess, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    done = finished(imports, imports.import_image(machine.request("token-report")))
    evidence = {each["number"]: each for each in aws.evidence()["imports"] if each["task"] == done.task_id}
    numbers = sorted(evidence)
    for number, raw, snapshot_id in zip(numbers, machine.raws, done.snapshot_ids, strict=True):
        capacity = raw.stat().st_size
        found = compared(access, snapshot_id, Expected(digests(raw), capacity))
        with closing(EbsStream(access, snapshot_id, cancel=CancelFlag(), policy=QUICK)) as stream:
            assert stream.size == GIB
        assert found.blocks_compared == capacity // BLOCK
        touched = {
            index
            for each in evidence[number]["changed"]
            for index in range(each["offset"] // BLOCK, -(-(each["offset"] + each["length"]) // BLOCK))
        }
        assert _blocks(found.changed) == touched
    assert evidence[numbers[0]]["changed"]
    assert not evidence[numbers[1]]["changed"]
    ec2.deregister(done.image_id, delete_snapshots=True)


def _blocks(ranges: tuple[ChangedRange, ...]) -> set[int]:
    return {index for each in ranges for index in range(each.offset // BLOCK, (each.offset + each.length) // BLOCK)}


def test_inv_1_every_kind_of_difference_is_found(
    aws: AwsSimulator, access: AwsAccess, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    """The manifest is bent instead of the snapshot: a byte, data that became zeros, zeros that became data."""
    done = finished(imports, imports.import_image(machine.request("token-bent")))
    capacity = machine.raws[1].stat().st_size
    true = digests(machine.raws[1])
    bent: dict[int, bytes | None] = {
        0: hashlib.sha256(b"other").digest(),
        3: hashlib.sha256(b"source has data, snapshot has none").digest(),
        8: None,
        15: true(15),
    }

    def digest(index: int) -> bytes | None:
        return bent.get(index, true(index))

    found = compared(access, done.snapshot_ids[1], Expected(digest, capacity))
    assert [(each.offset // BLOCK, each.length // BLOCK) for each in found.changed] == [(0, 1), (3, 1), (8, 1)]
    sampled = compared(access, done.snapshot_ids[1], Expected(digest, capacity, [0, 1, 8]))
    assert (_blocks(sampled.changed), sampled.blocks_compared) == ({0, 8}, 3)
    short = capacity - 32 * KIB  # the disk ends inside its last block, and the snapshot has data beyond
    tail = compared(access, done.snapshot_ids[1], Expected(true, short))
    assert _blocks(tail.changed) == {15}
    ec2.deregister(done.image_id, delete_snapshots=True)


@pytest.mark.parametrize(
    "fault",
    [
        {"throttle": True},
        {"status": 500},
        {"cut_response_after": 1000},
        {"code": "ExpiredTokenException", "status": 400},
    ],
    ids=str,
)
def test_air_05_reading_blocks_survives(
    aws: AwsSimulator, access: AwsAccess, machine: Machine, imports: VmImport, ec2: Ec2, fault: dict[str, int]
) -> None:
    done = finished(imports, imports.import_image(machine.request(f"token-ebs-{fault}")))
    raw = machine.raws[1]
    aws.rule(**{"service": "ebs", "operation": "GetSnapshotBlock", "count": 2, **fault})
    found = compared(access, done.snapshot_ids[1], Expected(digests(raw), raw.stat().st_size))
    assert found.changed == ()
    aws.clear_rules()
    ec2.deregister(done.image_id, delete_snapshots=True)


def test_expired_block_tokens_are_listed_again(
    aws: AwsSimulator, access: AwsAccess, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    done = finished(imports, imports.import_image(machine.request("token-stale")))
    life = aws.settings()["block_token_seconds"]
    aws.settings(block_token_seconds=0.2)
    try:
        blocks = SnapshotBlocks(access, done.snapshot_ids[1], policy=QUICK)
        listed = [block for page in blocks.pages() for block in page]
        time.sleep(0.4)
        aws.settings(block_token_seconds=life)
        content = machine.raws[1].read_bytes()
        for block in listed:
            piece = content[block.index * BLOCK : (block.index + 1) * BLOCK]
            assert blocks.get(block, CancelFlag()) == piece.ljust(BLOCK, b"\0")
        blocks.close()
    finally:
        aws.settings(block_token_seconds=life)
    ec2.deregister(done.image_id, delete_snapshots=True)


def test_a_snapshot_that_is_not_there_is_said(access: AwsAccess) -> None:
    with pytest.raises(NotFoundError):
        compared(access, "snap-0123456789abcdef0", Expected(lambda _: None, GIB))


def test_amp_08_a_failed_import_carries_the_words_and_our_reading(
    aws: AwsSimulator, machine: Machine, imports: VmImport
) -> None:
    aws.rule(
        kind="import", key="*web01*", message="ClientError: Unsupported kernel version 9.9", outcome="deleted", count=1
    )
    task_id = imports.import_image(machine.request("token-fails"))
    status = finished(imports, task_id)
    assert status.state is ImportState.FAILED
    error = status.failure(server="web01")
    assert isinstance(error, RemoteJobError)
    for words in ("Unsupported kernel version 9.9", "default kernel", f"task={task_id}", "server=web01"):
        assert words in str(error)


def test_a_cancelled_import_ends_and_a_second_cancel_says_so(
    aws: AwsSimulator, machine: Machine, imports: VmImport
) -> None:
    aws.rule(kind="import", key="*web01*", phase="converting", outcome="stuck")
    task_id = imports.import_image(machine.request("token-cancel"))
    assert imports.count_active() == 1
    assert imports.cancel(task_id, "the task was killed").cancelled
    ended = finished(imports, task_id)
    assert ended.state is ImportState.FAILED
    assert not imports.describe([task_id])[task_id].failure().retryable
    wait(imports, task_id, lambda status: status.status == "deleted")
    again = imports.cancel(task_id)
    assert not again.cancelled
    assert again.status is not None
    assert again.status.finished
    assert imports.count_active() == 0
    unknown = imports.cancel("import-ami-0123456789abcdef0")
    assert (unknown.cancelled, unknown.status) == (False, None)


def test_inv_8_a_full_region_means_wait(aws: AwsSimulator, machine: Machine, imports: VmImport) -> None:
    aws.rule(kind="import", key="*web01*", phase="pending", outcome="stuck")
    limit = aws.settings()["import_limit"]
    tasks = [imports.import_image(machine.request(f"token-full-{number}")) for number in range(limit)]
    assert imports.count_active() == limit
    with pytest.raises(LimitReachedError) as caught:
        imports.import_image(machine.request("token-full-more"))
    assert caught.value.retryable
    for task_id in tasks:
        imports.cancel(task_id)
    for task_id in tasks:
        wait(imports, task_id, lambda status: status.status == "deleted")


def test_inv_5_a_running_import_of_ours_is_found_by_its_tag(
    aws: AwsSimulator, machine: Machine, imports: VmImport
) -> None:
    aws.rule(kind="import", key="*web01*", phase="pending", outcome="stuck")
    task_id = imports.import_image(machine.request("token-left"))
    assert [status.task_id for status in imports.find({"wavelift:run": ""}) if not status.finished] == [task_id]
    imports.cancel(task_id)
    wait(imports, task_id, lambda status: status.status == "deleted")
    assert not [status for status in imports.find({"wavelift:run": ""}) if not status.finished]


def test_throttling_is_not_taken_for_a_full_region(aws: AwsSimulator, machine: Machine, imports: VmImport) -> None:
    aws.rule(service="ec2", operation="ImportImage", throttle=True)
    with pytest.raises(ThrottledError):
        imports.import_image(machine.request("token-throttled"))


def test_many_tasks_are_described_in_few_calls_and_unknown_ones_left_out(
    aws: AwsSimulator, machine: Machine, imports: VmImport
) -> None:
    aws.rule(kind="import", key="*web01*", phase="pending", outcome="stuck")
    tasks = [imports.import_image(machine.request(f"token-many-{number}")) for number in range(3)]
    before = aws.counters()["ec2.DescribeImportImageTasks"]["calls"]
    assert set(imports.describe([*tasks, *tasks])) == set(tasks)
    assert aws.counters()["ec2.DescribeImportImageTasks"]["calls"] == before + 1
    unknown = [f"import-ami-{number:017x}" for number in range(2)]
    assert set(imports.describe([tasks[0], unknown[0], tasks[1], unknown[1], tasks[2]])) == set(tasks)
    assert imports.describe([]) == {}
    for task_id in tasks:
        imports.cancel(task_id)
    for task_id in tasks:
        wait(imports, task_id, lambda status: status.status == "deleted")


@pytest.mark.parametrize(("changes", "role"), [({"role_name": "no-such-role"}, "no-such-role")])
def test_amp_06_a_missing_role_is_named_with_what_to_do(
    machine: Machine, imports: VmImport, changes: dict[str, str], role: str
) -> None:
    with pytest.raises(MissingPrivilegeError, match="does not exist or does not have sufficient") as caught:
        imports.import_image(machine.request("token-role", **changes))
    assert caught.value.where["role"] == role
    assert "wavelift iam show" in caught.value.next_step


def test_a_missing_object_is_refused_with_what_to_do(machine: Machine, imports: VmImport, account: Bootstrap) -> None:
    disks = [ImportDisk(bucket=account.bucket, key="imports/never.vmdk")]
    with pytest.raises(MissingPrivilegeError, match="S3 object") as caught:
        imports.import_image(machine.request("token-missing", disks=disks))
    assert "s3:GetObject" in caught.value.next_step


def test_the_same_token_for_another_import_is_refused(machine: Machine, imports: VmImport, aws: AwsSimulator) -> None:
    aws.rule(kind="import", key="*web01*", phase="pending", outcome="stuck")
    task_id = imports.import_image(machine.request("token-twice"))
    with pytest.raises(PermanentError, match="IdempotentParameterMismatch"):
        imports.import_image(machine.request("token-twice", disks=machine.disks[:1]))
    imports.cancel(task_id)
    wait(imports, task_id, lambda status: status.status == "deleted")


def test_a_lost_answer_of_import_and_launch_makes_nothing_twice(
    aws: AwsSimulator, account: Bootstrap, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    before = {status.task_id for status in imports.find({"wavelift:run": ""})}
    aws.rule(service="ec2", operation="ImportImage", cut_response_after=0, count=1)
    task_id = imports.import_image(machine.request("token-lost"))
    # Not the active ones: the call asks again after a pause in which an import may end.
    assert {status.task_id for status in imports.find({"wavelift:run": ""})} - before == {task_id}
    done = finished(imports, task_id)
    aws.rule(service="ec2", operation="RunInstances", cut_response_after=0, count=1)
    ec2.tag_image(done.image_id, TAGS)
    launch = LaunchRequest(done.image_id, "t3.medium", account.subnet_ids[1], "launch-lost", tags=TAGS)
    instance = ec2.launch(launch)
    assert [one.instance_id for one in ec2.find_ours({"wavelift:run": ""}).instances] == [instance.instance_id]
    gone(ec2, instance.instance_id)
    ec2.deregister(done.image_id, delete_snapshots=True)


def test_inv_5_a_launch_asked_for_again_after_its_instance_was_terminated_gives_another(
    aws: AwsSimulator, account: Bootstrap, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    done = finished(imports, imports.import_image(machine.request("token-again")))
    launch = LaunchRequest(done.image_id, "t3.medium", account.subnet_ids[0], "launch-again", tags=TAGS)
    first = ec2.launch(launch)
    gone(ec2, first.instance_id)
    second = ec2.launch(launch)
    assert second.instance_id != first.instance_id
    assert ec2.launch(launch).instance_id == second.instance_id
    gone(ec2, second.instance_id)
    # Long afterwards EC2 lists the terminated ones no more, and still knows their tokens.
    aws.rule(service="ec2", operation="RunInstances", code="IdempotentInstanceTerminated", status=400, count=1)
    third = ec2.launch(replace(launch, client_token="launch-long-after"))
    assert third.client_token == "launch-long-after-1"
    gone(ec2, third.instance_id)
    ec2.deregister(done.image_id, delete_snapshots=True)


def stored(ctx: RunContext) -> dict[str, Any]:
    found: dict[str, Any] = ctx.checkpoints.get("import") or {}
    return found


@pytest.fixture
def slow_to_see(aws: AwsSimulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """EC2 as it is: what was made is not seen at once."""
    tick = SimpleNamespace(sleep=lambda _: aws.advance(61), monotonic=time.monotonic)
    monkeypatch.setattr(ec2_module, "time", tick)
    aws.settings(unseen_seconds=60.0)
    yield
    aws.settings(unseen_seconds=0.0)


@pytest.mark.usefixtures("slow_to_see")
def test_inv_5_what_ec2_does_not_show_yet_is_neither_lost_nor_made_again(
    aws: AwsSimulator, access: AwsAccess, account: Bootstrap, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    ctx = context_of("demo.migrate/run-1/web01")
    tokens: list[str] = []
    young = {"wavelift:run": "young"}

    def request(token: str) -> ImportRequest:
        tokens.append(token)
        return machine.request(token, tags=young)

    assert isinstance(ImportTask(access, ctx, instant="one").submit_import(request, limit=5), ImportRunning)
    started = stored(ctx)["task_id"]
    assert imports.describe([started]) == {}
    # A cleared or resumed task looks again at once: one import, whatever AWS says of it meanwhile.
    for _ in range(3):
        assert ImportTask(access, ctx, instant="one").look() is None
        assert isinstance(ImportTask(access, ctx, instant="one").submit_import(request, limit=5), ImportRunning)
        assert stored(ctx)["task_id"] == started
    assert len(set(tokens)) == 1
    aws.advance(61)
    done = finished(imports, started)
    assert [status.task_id for status in imports.find(young)] == [started]

    image = ec2.tag_image(done.image_id, TAGS, snapshot_ids=done.snapshot_ids)  # waits until it is seen
    assert image.snapshot_ids == done.snapshot_ids
    launch = LaunchRequest(done.image_id, "t3.medium", account.subnet_ids[0], "launch-young", tags=TAGS)
    instance = ec2.launch(launch)
    assert ec2.describe_instances([instance.instance_id]) == {}
    assert ec2.launch(launch).instance_id == instance.instance_id
    aws.advance(61)
    assert ec2.describe_instances([instance.instance_id])
    gone(ec2, instance.instance_id)
    ec2.deregister(done.image_id, delete_snapshots=True)


def test_an_import_that_aws_has_forgotten_is_submitted_under_a_new_token_in_the_end(
    access: AwsAccess, machine: Machine
) -> None:
    ctx = context_of("demo.migrate/run-1/web01")
    known = {"instant": "one", "task_id": "import-ami-0123456789abcdef0", "attempt": 0, "cancelled": 0}
    ctx.checkpoints.set("import", known)
    for _ in range(MAX_UNSEEN):
        assert ImportTask(access, ctx, instant="one").look() is None
        assert (stored(ctx)["task_id"], stored(ctx)["attempt"]) == ("", 0)
        ctx.checkpoints.set("import", {**stored(ctx), "task_id": "import-ami-0123456789abcdef0"})
    assert ImportTask(access, ctx, instant="one").look() is None
    assert stored(ctx)["attempt"] == 1


def test_pages_may_be_empty_or_short(
    aws: AwsSimulator, access: AwsAccess, machine: Machine, imports: VmImport, ec2: Ec2
) -> None:
    done = finished(imports, imports.import_image(machine.request("token-pages")))
    aws.settings(thin_pages=True)
    try:
        blocks = SnapshotBlocks(access, done.snapshot_ids[1], policy=QUICK)
        pages = list(blocks.pages())
        blocks.close()
        assert pages[0] == []
        assert len(pages) > 1
        raw = machine.raws[1]
        found = compared(access, done.snapshot_ids[1], Expected(digests(raw), raw.stat().st_size))
        assert found.changed == ()
    finally:
        aws.settings(thin_pages=False)
    ec2.deregister(done.image_id, delete_snapshots=True)


def test_launching_what_is_not_there_is_said(ec2: Ec2, account: Bootstrap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec2_module, "SEEN_WAIT_S", 0.3)
    monkeypatch.setattr(ec2_module, "SEEN_POLL_S", 0.1)
    request = LaunchRequest("ami-0123456789abcdef0", "t3.medium", account.subnet_ids[0], "launch-none")
    with pytest.raises(NotFoundError, match="ami-0123456789abcdef0"):
        ec2.launch(request)
    with pytest.raises(NotFoundError):
        ec2.tag_image("ami-0123456789abcdef0", TAGS)
    assert ec2.images(["ami-0123456789abcdef0"]) == {}
    assert ec2.snapshots(["snap-0123456789abcdef0"]) == {}
    ec2.delete_snapshot("snap-0123456789abcdef0")
