"""EBS direct: states, parents, checksums, tokens and pages."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

BLOCK = 512 << 10
Refused = Callable[..., ClientError]
Sha = Callable[[bytes], str]


def block(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest() * (BLOCK // 32)


class Volume:
    """Snapshots through EBS direct, deleted at the end of the test."""

    def __init__(self, ebs: Any, ec2: Any, sha: Sha) -> None:
        self._ebs, self._ec2, self._sha = ebs, ec2, sha
        self._made: list[str] = []

    def start(self, **options: Any) -> str:
        answer = self._ebs.start_snapshot(**{"VolumeSize": 1, "ClientToken": uuid.uuid4().hex, **options})
        if answer["SnapshotId"] not in self._made:
            self._made.append(answer["SnapshotId"])
        return str(answer["SnapshotId"])

    def put(self, snapshot: str, index: int, data: bytes, **options: Any) -> None:
        arguments = {"DataLength": BLOCK, "Checksum": self._sha(data), "ChecksumAlgorithm": "SHA256", **options}
        self._ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockData=data, **arguments)

    def make(self, blocks: dict[int, bytes], **options: Any) -> str:
        snapshot = self.start(**options)
        for index, data in blocks.items():
            self.put(snapshot, index, data)
        assert self._ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=len(blocks))["Status"] == "completed"
        return snapshot

    def delete(self, snapshot: str) -> None:
        self._ec2.delete_snapshot(SnapshotId=snapshot)
        self._made.remove(snapshot)

    def close(self) -> None:
        for snapshot in reversed(self._made):
            self._ec2.delete_snapshot(SnapshotId=snapshot)


@pytest.fixture
def volume(sim: AwsSimulator, ebs: Any, ec2: Any, sha: Sha) -> Iterator[Volume]:
    made = Volume(ebs, ec2, sha)
    yield made
    made.close()


def test_blocks_come_back_and_the_linear_checksum_is_checked(
    ebs: Any, ec2: Any, volume: Volume, read_snapshot: Any, sha: Sha, refused: Refused
) -> None:
    blocks = {index: block(f"b{index}") for index in (7, 0, 2047)}
    snapshot = volume.start(Description="d", Tags=[{"Key": "wavelift:run", "Value": "r"}])
    for index, data in blocks.items():
        volume.put(snapshot, index, data)
    linear = sha(b"".join(hashlib.sha256(blocks[index]).digest() for index in sorted(blocks)))
    end = {
        "SnapshotId": snapshot,
        "ChecksumAlgorithm": "SHA256",
        "ChecksumAggregationMethod": "LINEAR",
    }
    described = ec2.describe_snapshots(Filters=[{"Name": "tag:wavelift:run", "Values": ["r"]}])["Snapshots"][0]
    assert (described["SnapshotId"], described["State"], described["VolumeSize"]) == (snapshot, "pending", 1)
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=snapshot)
    refused("ValidationException", ebs.complete_snapshot, **end, ChangedBlocksCount=2, Checksum=linear)
    refused("ValidationException", ebs.complete_snapshot, **end, ChangedBlocksCount=3, Checksum=sha(b"other"))
    ebs.complete_snapshot(**end, ChangedBlocksCount=3, Checksum=linear)
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed"
    assert read_snapshot(snapshot) == blocks
    error = refused("ValidationException", lambda: volume.put(snapshot, 1, block("late")))
    assert error.response["Reason"] == "INVALID_SNAPSHOT_ID"


def test_put_refuses_what_is_not_a_right_block(sim: AwsSimulator, volume: Volume, sha: Sha, refused: Refused) -> None:
    snapshot, data = volume.start(), block("x")
    for change, reason in (
        ({"Checksum": sha(b"else")}, "INVALID_BLOCK"),
        ({"DataLength": 4096}, "INVALID_PARAMETER_VALUE"),
    ):
        error = refused("ValidationException", lambda change=change: volume.put(snapshot, 0, data, **change))
        assert error.response["Reason"] == reason
    refused("ValidationException", lambda: volume.put(snapshot, 0, data[:-1]))
    refused("ValidationException", lambda: volume.put(snapshot, 2048, data))
    refused("ResourceNotFoundException", lambda: volume.put("snap-0123456789abcdef0", 0, data))
    row = next(item for item in sim.state()["snapshots"] if item["id"] == snapshot)
    assert row["own_blocks"] == 0


def test_child_shows_the_merged_disk_and_outlives_its_parent(
    ebs: Any, volume: Volume, read_snapshot: Any, refused: Refused
) -> None:
    parent = volume.make({1: block("one"), 2: block("two")})
    child = volume.make({2: bytes(BLOCK), 3: block("three")}, ParentSnapshotId=parent)
    merged = {1: block("one"), 2: bytes(BLOCK), 3: block("three")}
    assert read_snapshot(child) == merged
    volume.delete(parent)
    refused("ResourceNotFoundException", ebs.list_snapshot_blocks, SnapshotId=parent)
    assert read_snapshot(child) == merged


def test_changed_blocks_in_both_directions(ebs: Any, volume: Volume, refused: Refused) -> None:
    parent = volume.make({1: block("one"), 2: block("two")})
    child = volume.make({2: block("new"), 9: block("nine")}, ParentSnapshotId=parent)
    answer = ebs.list_changed_blocks(FirstSnapshotId=parent, SecondSnapshotId=child)
    rows = {row["BlockIndex"]: row for row in answer["ChangedBlocks"]}
    assert sorted(rows) == [2, 9]
    assert "FirstBlockToken" not in rows[9]
    old = ebs.get_snapshot_block(SnapshotId=parent, BlockIndex=2, BlockToken=rows[2]["FirstBlockToken"])
    new = ebs.get_snapshot_block(SnapshotId=child, BlockIndex=2, BlockToken=rows[2]["SecondBlockToken"])
    assert (old["BlockData"].read(), new["BlockData"].read()) == (block("two"), block("new"))
    back = ebs.list_changed_blocks(FirstSnapshotId=child, SecondSnapshotId=parent)["ChangedBlocks"]
    assert [(row["BlockIndex"], "SecondBlockToken" in row) for row in back] == [(2, True), (9, False)]
    alone = ebs.list_changed_blocks(SecondSnapshotId=child)["ChangedBlocks"]
    assert [row["BlockIndex"] for row in alone] == [1, 2, 9]
    stranger = volume.make({1: block("one")})
    error = refused("ValidationException", ebs.list_changed_blocks, FirstSnapshotId=stranger, SecondSnapshotId=child)
    assert error.response["Reason"] == "UNRELATED_SNAPSHOTS"


def test_lists_come_in_pages_from_any_start(ebs: Any, volume: Volume, list_blocks: Any, refused: Refused) -> None:
    data = block("same")
    indices = list(range(0, 500, 2))
    snapshot = volume.make(dict.fromkeys(reversed(indices), data))
    first = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100)
    assert [row["BlockIndex"] for row in first["Blocks"]] == indices[:100]
    assert (first["BlockSize"], first["VolumeSize"]) == (BLOCK, 1)
    found = [row["BlockIndex"] for row in list_blocks(snapshot, MaxResults=100, StartingBlockIndex=3)]
    assert found == indices[2:]
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=snapshot, NextToken="bogus")


def test_a_page_may_hold_less_than_was_asked_for(
    sim: AwsSimulator, ebs: Any, volume: Volume, list_blocks: Any, refused: Refused
) -> None:
    indices = list(range(0, 22, 2))
    snapshot = volume.make(dict.fromkeys(indices, block("same")))
    sim.settings(page_blocks=4)
    first = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100)
    assert [row["BlockIndex"] for row in first["Blocks"]] == indices[:4]
    assert [row["BlockIndex"] for row in list_blocks(snapshot, StartingBlockIndex=3)] == indices[2:]
    changed = ebs.list_changed_blocks(SecondSnapshotId=snapshot)
    assert ([row["BlockIndex"] for row in changed["ChangedBlocks"]], "NextToken" in changed) == (indices[:4], True)
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=snapshot, MaxResults=10_001)


def test_block_tokens_belong_to_a_block_and_expire(
    sim: AwsSimulator, ebs: Any, volume: Volume, refused: Refused
) -> None:
    snapshot = volume.make({1: block("one"), 2: block("two")})
    sim.settings(block_token_seconds=60)
    one, two = (row["BlockToken"] for row in ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"])
    for token in (two, "bogus", one[:-4] + "AAAA"):
        error = refused(
            "ValidationException", ebs.get_snapshot_block, SnapshotId=snapshot, BlockIndex=1, BlockToken=token
        )
        assert error.response["Reason"] == "INVALID_BLOCK_TOKEN"
    assert ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=1, BlockToken=one)["BlockData"].read() == block("one")
    sim.advance(61)
    refused("ValidationException", ebs.get_snapshot_block, SnapshotId=snapshot, BlockIndex=1, BlockToken=one)


def test_client_token_continues_or_conflicts(ebs: Any, volume: Volume, refused: Refused) -> None:
    token = uuid.uuid4().hex
    first = volume.start(ClientToken=token)
    assert volume.start(ClientToken=token) == first
    refused("ConflictException", ebs.start_snapshot, VolumeSize=2, ClientToken=token)


def test_start_checks_size_parent_and_encryption(
    sim: AwsSimulator, ebs: Any, volume: Volume, base: Bootstrap, refused: Refused
) -> None:
    parent = volume.make({0: block("zero")}, VolumeSize=2)
    for bad, reason in (
        ({"VolumeSize": 1, "ParentSnapshotId": parent}, "INVALID_VOLUME_SIZE"),
        ({"VolumeSize": 3, "ParentSnapshotId": parent}, "INVALID_VOLUME_SIZE"),
        ({"VolumeSize": 70000}, "INVALID_VOLUME_SIZE"),
        ({"VolumeSize": 2, "ParentSnapshotId": parent, "Encrypted": True}, "INVALID_PARAMETER_VALUE"),
        ({"VolumeSize": 2, "KmsKeyArn": base.kms_key_arn}, "INVALID_PARAMETER_VALUE"),
        ({"VolumeSize": 2, "Timeout": 11, "Encrypted": True, "KmsKeyArn": base.kms_key_arn[:-4] + "0000"}, None),
    ):
        code = "ValidationException" if reason else "ResourceNotFoundException"
        error = refused(code, ebs.start_snapshot, **bad)
        assert reason is None or error.response["Reason"] == reason
    sim.settings(allow_growth=True)
    assert volume.start(VolumeSize=3, ParentSnapshotId=parent)
    assert volume.start(VolumeSize=2, Encrypted=True, KmsKeyArn=base.kms_key_arn)


def test_pending_snapshot_times_out_by_the_clock(
    sim: AwsSimulator, ec2: Any, ebs: Any, volume: Volume, refused: Refused
) -> None:
    snapshot = volume.start(Timeout=10)
    sim.advance(9 * 60)
    volume.put(snapshot, 0, block("in time"))
    sim.advance(9 * 60)
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "pending"
    sim.advance(61)
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "error"
    error = refused("ValidationException", lambda: volume.put(snapshot, 1, block("late")))
    assert error.response["Reason"] == "WRITE_REQUEST_TIMEOUT"
    refused("ValidationException", ebs.complete_snapshot, SnapshotId=snapshot, ChangedBlocksCount=1)


def test_completion_takes_its_time(sim: AwsSimulator, ec2: Any, ebs: Any, volume: Volume) -> None:
    sim.settings(snapshot_seconds=100)
    snapshot = volume.start()
    volume.put(snapshot, 0, block("x"))
    assert ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)["Status"] == "pending"
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "pending"
    sim.advance(101)
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed"


def test_limits_on_pending_and_concurrent(
    sim: AwsSimulator, ebs: Any, volume: Volume, sha: Sha, refused: Refused
) -> None:
    snapshot = volume.start()
    pending = sum(item["state"] == "pending" for item in sim.state()["snapshots"])
    sim.settings(pending_snapshot_limit=pending)
    refused("ServiceQuotaExceededException", ebs.start_snapshot, VolumeSize=1)
    sim.settings(concurrent_puts=1)
    codes: list[str] = []
    data = block("busy")
    client = sim.client("ebs", config=Config(retries={"total_max_attempts": 1}, max_pool_connections=16))

    def put(worker: int) -> None:
        for turn in range(20):
            try:
                client.put_snapshot_block(
                    SnapshotId=snapshot,
                    BlockIndex=worker * 100 + turn,
                    BlockData=data,
                    DataLength=BLOCK,
                    Checksum=sha(data),
                    ChecksumAlgorithm="SHA256",
                )
            except ClientError as error:
                codes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=put, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {"ConcurrentLimitExceededException"}
    row = next(item for item in sim.state()["snapshots"] if item["id"] == snapshot)
    assert row["own_blocks"] + len(codes) == 160


def test_blocks_sent_twice_are_counted(sim: AwsSimulator, volume: Volume) -> None:
    def counted() -> tuple[int, int]:
        row = sim.counters().get("ebs.blocks", {})
        return row.get("puts", 0), row.get("repeated", 0)

    puts, repeated = counted()
    snapshot = volume.start()
    for data in ("a", "b", "a"):
        volume.put(snapshot, 5, block(data))
    assert counted() == (puts + 3, repeated + 2)


def test_throttling_by_rate(sim: AwsSimulator, ebs: Any, volume: Volume, refused: Refused) -> None:
    snapshot = volume.make({0: block("x")})
    sim.rule(service="ebs", operation="ListSnapshotBlocks", per_second=1)
    ebs.list_snapshot_blocks(SnapshotId=snapshot)
    error = refused("RequestThrottledException", ebs.list_snapshot_blocks, SnapshotId=snapshot)
    assert error.response["Reason"] == "ACCOUNT_THROTTLED"
