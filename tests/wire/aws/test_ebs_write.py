"""Disks into EBS snapshots over TLS: seeds, deltas, kills, and everything that AWS refuses."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.wire.aws.disk_replica import BLOCKS, CAPACITY, DATA_BLOCKS, Replica, make_content

from wavelift.adapters.aws import ebs, ebs_snapshot
from wavelift.adapters.aws.bulk import BulkClient
from wavelift.adapters.aws.ebs import EbsStream, compare_snapshot
from wavelift.adapters.aws.ebs_snapshot import StartedSnapshot, complete_snapshot, snapshot_status
from wavelift.adapters.aws.ebs_write import EbsWriter, PutOptions
from wavelift.adapters.aws.errors import ParentRefusedError, SnapshotGoneError, TokenSpentError
from wavelift.base.domain import ChangedRange
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    LimitReachedError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    ProofError,
    ThrottledError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag, Progress
from wavelift.base.units import BLOCK, GIB
from wavelift.simulators.aws import AwsSimulator
from wavelift.transfer.file import FileWriter
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.verify import Comparison, Expected

from .disk_replica import QUICK

pytestmark = pytest.mark.wire


def compared(replica: Replica, started: StartedSnapshot, manifest: Manifest, **chosen: Any) -> Comparison:
    expected = Expected(manifest.digest, manifest.capacity, **chosen)
    return compare_snapshot(replica.access, started.snapshot_id, expected, cancel=CancelFlag())


# -- what is written ----------------------------------------------------------------------------------------------


def test_inv_1_a_seed_arrives_block_for_block(replica: Replica) -> None:
    content = make_content()
    started = replica.start()
    assert (started.volume_gib, started.parent, started.encrypted) == (1, "", False)
    writer = replica.writer(started)
    manifest = replica.copy(content, writer)
    data = len(list(manifest.data_blocks()))
    assert (writer.blocks_sent, writer.blocks_kept, writer.bytes_sent) == (data, 0, data * BLOCK)
    assert replica.read(started) == content
    row = replica.row(started)
    assert (row["own_blocks"], row["sent_twice"]) == (data, 0), "a seed skips zeros"
    assert compared(replica, started, manifest).changed == ()


def test_inv_2_a_block_that_became_zero_is_written_on_a_delta(replica: Replica) -> None:
    content = make_content()
    seed, _ = replica.send(content)
    content[3 * BLOCK : 4 * BLOCK] = bytes(BLOCK)
    content[4 * BLOCK + 5] = 77
    content[CAPACITY - 1] ^= 1
    started = replica.start(parent=seed.snapshot_id)
    writer = replica.writer(started)
    assert writer.writes_zeros
    manifest = Manifest.empty(CAPACITY)
    for index in (3, 4, BLOCKS - 1):
        data = memoryview(bytes(content[index * BLOCK : min((index + 1) * BLOCK, CAPACITY)]))
        digest = hashlib.sha256(data).digest()
        manifest.set(index, digest if any(data) else None)
        writer.write(index, writer.prepare(index, data, digest))
    writer.finish(manifest)
    writer.close()
    replica.aws_completed(started)
    assert replica.row(started)["own_blocks"] == 3
    assert replica.read(started) == content


def test_a_writer_that_skips_zeros_on_a_parent_would_be_seen(replica: Replica) -> None:
    content = make_content()
    seed, _ = replica.send(content)
    content[3 * BLOCK : 4 * BLOCK] = bytes(BLOCK)
    started = replica.start(parent=seed.snapshot_id)
    writer = replica.writer(started)
    writer.writes_zeros = False
    manifest = replica.copy(content, writer)
    assert replica.read(started) != content
    assert compared(replica, started, manifest).changed == (ChangedRange(offset=3 * BLOCK, length=BLOCK),)


# -- resuming -----------------------------------------------------------------------------------------------------


def interrupted(replica: Replica, started: StartedSnapshot, content: bytearray, *, keep: bool) -> EbsWriter:
    """A try that dies after 70 % of the blocks; without ``keep`` as kill -9 does, nothing stored at the end."""
    writer = replica.writer(started)
    if not keep:
        writer._journal.close = writer._journal._close_file  # type: ignore[method-assign, assignment]
    denied = {"code": "AccessDeniedException", "status": 403}
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", key=f"{started.snapshot_id}/*", skip=16, **denied)
    with pytest.raises(MissingPrivilegeError):
        replica.copy(content, writer)
    replica.aws.clear_rules()
    return writer


@pytest.mark.parametrize("elsewhere", [False, True])
def test_inv_6_a_killed_transfer_sends_nothing_twice(replica: Replica, elsewhere: bool) -> None:
    content = make_content()
    started = replica.start()
    first = interrupted(replica, started, content, keep=elsewhere)
    assert 0 < first.blocks_sent <= 16
    second = replica.writer(started, "other" if elsewhere else "state")
    manifest = replica.copy(content, second)
    data = len(list(manifest.data_blocks()))
    assert (second.blocks_kept, second.blocks_sent) == (first.blocks_sent, data - first.blocks_sent)
    assert replica.row(started)["sent_twice"] == 0
    assert replica.read(started) == content


def test_inv_6_what_followed_the_last_segment_is_sent_again_from_another_machine(replica: Replica) -> None:
    content = make_content()
    started = replica.start()
    first = interrupted(replica, started, content, keep=False)
    second = replica.writer(started, "other")
    replica.copy(content, second)
    assert second.blocks_kept == 0
    assert replica.row(started)["sent_twice"] == first.blocks_sent
    assert replica.read(started) == content


def test_finishing_twice_is_finishing(replica: Replica) -> None:
    content = make_content()
    started, _ = replica.send(content)
    again = replica.writer(started)
    replica.copy(content, again)
    assert again.blocks_sent == 0


# -- trouble on the way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"throttle": True, "probability": 0.5},
        {"status": 500, "count": 3},
        {"cut_response_after": 0, "count": 2},
        {"cut_request_after": 100_000, "count": 3},
        {"code": "ConcurrentLimitExceededException", "status": 400, "count": 5},
        {"code": "ResourceNotFoundException", "status": 404, "count": 2},
    ],
)
def test_what_a_retry_cures_is_cured(replica: Replica, fault: dict[str, Any]) -> None:
    content = make_content()
    started = replica.start()
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", **fault)
    replica.copy(content, replica.writer(started, puts=PutOptions(8, QUICK)))
    assert replica.read(started) == content


def test_inv_9_an_outage_in_mid_seed_costs_no_block_twice_beyond_those_in_flight(replica: Replica) -> None:
    """Long in tries, short in time: the pauses are a hundredth of the shipped ones."""
    content = make_content()
    started = replica.start()
    in_flight = 4
    puts = {"service": "ebs", "operation": "PutSnapshotBlock"}
    replica.aws.rule(**puts, cut_response_after=0, skip=6, count=in_flight)  # AWS took them, nobody heard of it
    replica.aws.rule(**puts, cut_request_after=0, skip=6 + in_flight, count=in_flight * 20)
    writer = replica.writer(started, puts=PutOptions(in_flight, RetryPolicy(patience_s=60, base_s=0.002, cap_s=0.2)))
    replica.copy(content, writer)
    assert [rule["applied"] for rule in replica.aws.rules()] == [in_flight, in_flight * 20]
    assert replica.row(started)["sent_twice"] <= in_flight
    assert replica.read(started) == content


def test_inv_9_an_outage_that_outlasts_all_patience_leaves_what_the_next_try_goes_on_with(replica: Replica) -> None:
    content = make_content()
    started = replica.start()
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", cut_request_after=0, skip=10)
    first = replica.writer(started, puts=PutOptions(policy=RetryPolicy(patience_s=0.3, base_s=0.01, cap_s=0.05)))
    with pytest.raises(UnreachableError):
        replica.copy(content, first)
    replica.aws.clear_rules()
    second = replica.writer(started)
    replica.copy(content, second)
    assert (second.blocks_kept, replica.row(started)["sent_twice"]) == (10, 0)
    assert replica.read(started) == content


def test_inv_9_a_state_store_that_is_away_for_a_while_does_not_end_a_transfer(replica: Replica) -> None:
    """It lies behind the same line as AWS."""
    started = replica.start()
    journal = replica.journal(started)
    away = [True]

    def checkpoint(segments: dict[str, int]) -> None:
        if away:
            raise WaveliftError("Airflow's task state store did not answer")

    journal._checkpoint = checkpoint
    journal._interval = 0.0
    writer = EbsWriter(replica.access, started, journal, puts=PutOptions(policy=QUICK))
    journal.append(0, hashlib.sha256(b"x").digest())
    writer._tick()
    writer._tick()
    away.clear()
    writer._tick()
    assert sum(journal.segments.values()) == 1
    away.append(True)
    impatient = EbsWriter(replica.access, started, journal, puts=PutOptions(policy=RetryPolicy(patience_s=0)))
    journal.append(1, hashlib.sha256(b"y").digest())
    with pytest.raises(WaveliftError, match="did not answer"):
        impatient._tick()
    away.clear()
    for each in (writer, impatient):
        each.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"throttle": True}, ThrottledError),
        ({"status": 500}, UnreachableError),
        ({"code": "ValidationException", "status": 400, "reason": "INVALID_BLOCK"}, ProofError),
        ({"code": "ValidationException", "status": 400, "reason": "WRITE_REQUEST_TIMEOUT"}, SnapshotGoneError),
        ({"code": "AccessDeniedException", "status": 403}, MissingPrivilegeError),
        ({"code": "ConflictException", "status": 409}, PermanentError),
    ],
)
def test_what_lasts_ends_in_an_error_of_ours(replica: Replica, fault: dict[str, Any], kind: type[Exception]) -> None:
    started = replica.start()
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", skip=3, **fault)
    writer = replica.writer(started, puts=PutOptions(policy=RetryPolicy(patience_s=0.3, base_s=0.01, cap_s=0.05)))
    with pytest.raises(kind) as caught:
        replica.copy(make_content(), writer)
    assert type(caught.value) is kind
    if kind in (MissingPrivilegeError, ProofError):
        applied = replica.aws.rules()[0]["applied"]
        assert applied <= 30, "none was tried again"
    assert started.snapshot_id in str(caught.value)


def test_inv_1_aws_refuses_what_is_not_its_checksum(replica: Replica) -> None:
    started = replica.start()
    writer = replica.writer(started)
    data = memoryview(bytes(b"x" * BLOCK))
    writer.write(0, writer.prepare(0, data, hashlib.sha256(b"else").digest()))
    with pytest.raises(ProofError, match="INVALID_BLOCK"):
        writer.finish(Manifest.empty(CAPACITY))
    writer.close()


def test_inv_1_what_the_manifest_does_not_name_is_no_proof(replica: Replica) -> None:
    started = replica.start()
    writer = replica.writer(started)
    data = memoryview(bytes(b"x" * BLOCK))
    writer.write(0, writer.prepare(0, data, hashlib.sha256(data).digest()))
    with pytest.raises(ProofError, match="manifest"):
        writer.finish(Manifest.empty(CAPACITY))
    writer.close()


def test_a_false_journal_is_found_out_by_aws(replica: Replica) -> None:
    content = make_content()
    started = replica.start()
    with replica.journal(started) as journal:
        journal.append(0, hashlib.sha256(content[:BLOCK]).digest())
    with pytest.raises(PermanentError, match="could not complete"):
        replica.copy(content, replica.writer(started))


def test_a_snapshot_that_aws_cancelled_or_somebody_deleted_needs_a_new_one(replica: Replica) -> None:
    started = replica.start()
    replica.aws.advance(49 * 3600)
    with pytest.raises(SnapshotGoneError, match="inactivity"):
        replica.copy(make_content(), replica.writer(started))
    assert snapshot_status(replica.access, started.snapshot_id) == "error"
    other = replica.start()
    interrupted(replica, other, make_content(), keep=True)
    replica.delete(other)
    with pytest.raises(SnapshotGoneError, match="does not exist"):
        replica.copy(make_content(), replica.writer(other))
    with pytest.raises(NotFoundError):
        snapshot_status(replica.access, other.snapshot_id)


def test_a_cancel_is_noticed_and_what_was_acknowledged_is_kept(replica: Replica) -> None:
    content = make_content()
    started = replica.start()
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", skip=10, throttle=True)
    cancel = CancelFlag()
    writer = replica.writer(started, cancel=cancel, puts=PutOptions(policy=RetryPolicy(patience_s=3600.0, base_s=0.1)))

    def killed(progress: Progress) -> None:
        if writer.blocks_sent:
            cancel.set()

    with pytest.raises(Cancelled):  # unnoticed, it would be tried again for an hour
        replica.copy(content, writer, cancel, killed)
    replica.aws.clear_rules()
    second = replica.writer(started)
    replica.copy(content, second)
    assert second.blocks_kept == writer.blocks_sent > 0


def test_a_put_for_which_there_is_no_thread_fails_the_disk(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not pass for a put: AWS would complete the snapshot without it."""

    def full(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", status=500, code="InternalServerException", count=1)
    started = replica.start()
    writer = replica.writer(started)
    monkeypatch.setattr(writer._pool, "submit", full)
    with pytest.raises(RuntimeError, match="new thread"):
        replica.copy(make_content(), writer)
    assert snapshot_status(replica.access, started.snapshot_id) == "pending"


@pytest.mark.parametrize("dials", [False, True])
def test_without_lines_of_our_own_every_put_has_a_thread(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, dials: bool
) -> None:
    """As through a proxy that speaks TLS itself."""
    content = make_content()
    started = replica.start()
    monkeypatch.setattr(BulkClient, "can_dial", lambda self, url: dials)
    writer = replica.writer(started)
    replica.copy(content, writer)
    assert (writer._lines._thread is None) is not dials
    assert replica.read(started) == content


def test_many_puts_are_in_flight(replica: Replica) -> None:
    """All that the disk has: none is answered before the last is sent."""
    content = make_content()
    started = replica.start()
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", latency=240)
    with ThreadPoolExecutor(1) as pool:
        copied = pool.submit(replica.copy, content, replica.writer(started))
        while (held := replica.aws.rules()[0]["applied"]) < DATA_BLOCKS and not copied.done():
            time.sleep(0.02)
        replica.aws.clear_rules()
        copied.result()
    assert held == DATA_BLOCKS


# -- completing ---------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS works on a snapshot for a while before it is completed."""
    monkeypatch.setattr(ebs_snapshot, "COMPLETION_POLL_S", 0.05)
    replica.aws.settings(snapshot_seconds=1.0)
    yield
    replica.aws.settings(snapshot_seconds=0.0)


@pytest.mark.usefixtures("slow")
def test_inv_6_a_lost_answer_of_complete_snapshot_gives_nothing_up(replica: Replica) -> None:
    """botocore asks again while AWS works on it, and is told that there is nothing to complete."""
    content = make_content()
    started = replica.start()
    replica.aws.rule(service="ebs", operation="CompleteSnapshot", cut_response_after=0, count=1)
    replica.copy(content, replica.writer(started))
    replica.aws_completed(started)
    assert replica.read(started) == content


@pytest.mark.usefixtures("slow")
def test_a_snapshot_is_called_incomplete_only_when_aws_was_not_asked_before(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = replica.start()
    wrong: Any = {"blocks": 3, "linear": hashlib.sha256().digest()}
    with pytest.raises(PermanentError, match="3 blocks"):
        complete_snapshot(replica.access, started.snapshot_id, **wrong)
    monkeypatch.setattr(ebs_snapshot, "COMPLETION_WAIT_S", 0.2)
    with pytest.raises(BusyError, match="nor says why"):
        complete_snapshot(replica.access, started.snapshot_id, **wrong, asked=True)
    cancel = CancelFlag()
    cancel.set()
    with pytest.raises(Cancelled):
        complete_snapshot(replica.access, started.snapshot_id, **wrong, asked=True, cancel=cancel)
    assert snapshot_status(replica.access, started.snapshot_id) == "pending"


def test_a_child_without_changes_is_completed_without_a_checksum(replica: Replica) -> None:
    content = make_content()
    seed, _ = replica.send(content)
    started = replica.start(parent=seed.snapshot_id)
    writer = replica.writer(started)
    writer.finish(Manifest.empty(CAPACITY))
    writer.close()
    replica.aws_completed(started)
    assert replica.read(started) == content


@pytest.mark.parametrize("times", [3, -1])
def test_a_block_that_aws_still_works_on_is_sent_again_for_a_while(replica: Replica, times: int) -> None:
    conflict = {"code": "ValidationException", "status": 400, "reason": "CONFLICTING_BLOCK_UPDATE"}
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", key="*/3", count=times, **conflict)
    content = make_content()
    started = replica.start()
    if times > 0:
        replica.copy(content, replica.writer(started))
        assert replica.read(started) == content
    else:
        with pytest.raises(BusyError):
            replica.copy(content, replica.writer(started))


# -- starting -----------------------------------------------------------------------------------------------------


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ParentRefusedError) as caught:
        call()
    return caught.value.reason


def test_inv_5_a_token_gives_its_snapshot_again(replica: Replica) -> None:
    token = uuid.uuid4().hex
    first = replica.start(token=token)
    assert replica.start(token=token) == first
    with pytest.raises(TokenSpentError):
        replica.start(token=token, capacity=2 * GIB)
    assert replica.start(token=token, repeated=True) == first
    replica.aws.advance(49 * 3600)
    with pytest.raises(TokenSpentError, match="is error"):
        replica.start(token=token)


def test_inv_5_a_token_whose_snapshot_was_deleted_or_completed_is_spent(replica: Replica) -> None:
    """AWS repeats its original answer, ``pending``, whatever became of the snapshot."""
    token, other = uuid.uuid4().hex, uuid.uuid4().hex
    replica.delete(replica.start(token=token))
    with pytest.raises(TokenSpentError, match="is gone"):
        replica.start(token=token, repeated=True)
    ended = replica.start(token=other)
    complete_snapshot(replica.access, ended.snapshot_id, blocks=0, linear=hashlib.sha256().digest())
    with pytest.raises(TokenSpentError, match="is completed"):
        replica.start(token=other)


def test_a_parent_that_is_gone_or_unfinished_is_refused(replica: Replica) -> None:
    seed, _ = replica.send(make_content())
    replica.delete(seed)
    assert refusal(lambda: replica.start(parent=seed.snapshot_id)) == "gone"
    pending = replica.start()
    assert refusal(lambda: replica.start(parent=pending.snapshot_id)) == "unfinished"


def test_growth_is_refused_with_a_parent_unless_aws_takes_it(replica: Replica) -> None:
    seed, _ = replica.send(make_content())
    assert refusal(lambda: replica.start(parent=seed.snapshot_id, capacity=GIB + 1)) == "grown"
    replica.aws.settings(allow_growth=True)
    assert replica.start(parent=seed.snapshot_id, capacity=GIB + 1).volume_gib == 2


def test_encryption_by_default_refuses_an_unencrypted_parent(replica: Replica, aws: AwsSimulator) -> None:
    content = make_content()
    seed, _ = replica.send(content)
    ec2 = aws.client("ec2")
    ec2.enable_ebs_encryption_by_default()
    try:
        assert refusal(lambda: replica.start(parent=seed.snapshot_id)) == "encryption"
        anew, _ = replica.send(content)
        assert anew.encrypted
        child = replica.start(parent=anew.snapshot_id)
        assert child.encrypted
    finally:
        ec2.disable_ebs_encryption_by_default()


def test_the_key_is_given_to_a_seed_and_inherited_by_its_child(replica: Replica, account: Any) -> None:
    seed, _ = replica.send(make_content(), kms_key=account.kms_key_arn)
    assert seed.encrypted
    assert replica.start(parent=seed.snapshot_id, kms_key=account.kms_key_arn, encrypted=True).encrypted


def test_too_many_pending_snapshots_mean_wait(replica: Replica) -> None:
    replica.aws.settings(pending_snapshot_limit=0)
    with pytest.raises(LimitReachedError):
        replica.start()


# -- verifying ----------------------------------------------------------------------------------------------------


def test_inv_1_a_comparison_names_every_differing_range(replica: Replica) -> None:
    content = make_content()
    started, manifest = replica.send(content)
    for index in (2, 5, BLOCKS - 1):
        manifest.set(index, hashlib.sha256(b"other").digest())
    manifest.set(3, None)
    found = compared(replica, started, manifest)
    assert [(one.offset // BLOCK, one.length // BLOCK) for one in found.changed] == [(2, 2), (5, 1), (BLOCKS - 1, 1)]
    some = compared(replica, started, manifest, indices=[0, 5])
    assert (some.changed, some.blocks_compared) == ((ChangedRange(offset=5 * BLOCK, length=BLOCK),), 2)


@pytest.fixture
def short_pages(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pages of blocks, listed slowly; the workers begin before the second is asked for."""
    monkeypatch.setattr(ebs, "GETS_IN_FLIGHT", 2)
    replica.aws.settings(page_blocks=8)
    replica.aws.rule(service="ebs", operation="ListSnapshotBlocks", latency=0.1)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.usefixtures("short_pages")
def test_inv_1_every_page_of_a_snapshot_is_compared(replica: Replica, sampled: bool) -> None:
    content = make_content()
    started, manifest = replica.send(content)
    data = list(manifest.data_blocks())
    assert len(data) == DATA_BLOCKS
    other, zeroed = data[8:16], data[16:]  # of pages 2 and 3
    chosen = {"indices": sorted({*data[::2], *other, *zeroed})} if sampled else {}
    assert compared(replica, started, manifest, **chosen).changed == ()
    for index in other:
        manifest.set(index, hashlib.sha256(b"other").digest())
    for index in zeroed:
        manifest.set(index, None)
    found = compared(replica, started, manifest, **chosen)
    named = {block for one in found.changed for block in range(one.offset // BLOCK, (one.offset + one.length) // BLOCK)}
    assert named == {*other, *zeroed}
    assert replica.read(started) == content


@pytest.mark.parametrize("after", [0, 1, 100, 300])
@pytest.mark.usefixtures("short_pages")
def test_inv_1_a_page_that_was_cut_off_is_no_end_of_the_list(replica: Replica, after: int) -> None:
    """boto3 takes a cut body for an answer without blocks: data where zeros are due would seem to be equal."""
    started, manifest = replica.send(make_content())
    zeroed = list(manifest.data_blocks())[8:]  # all of pages 2 and 3
    for index in zeroed:
        manifest.set(index, None)
    replica.aws.rule(service="ebs", operation="ListSnapshotBlocks", skip=1, count=1, cut_response_after=after)
    found = compared(replica, started, manifest)
    named = {block for one in found.changed for block in range(one.offset // BLOCK, (one.offset + one.length) // BLOCK)}
    assert named == set(zeroed)


def test_inv_5_an_answer_that_was_cut_off_makes_no_second_snapshot(replica: Replica) -> None:
    replica.aws.rule(service="ebs", operation="StartSnapshot", count=1, cut_response_after=20)
    content = make_content()
    started, _ = replica.send(content)
    assert replica.read(started) == content


def test_a_snapshot_streams_to_any_writer(replica: Replica, tmp_path: Path) -> None:
    content = make_content()
    started, manifest = replica.send(content)
    with closing(EbsStream(replica.access, started.snapshot_id, cancel=CancelFlag())) as stream:
        found = Manifest.empty(stream.size)
        copy(stream, FileWriter(tmp_path / "disk.raw", stream.size, sync=False), found, cancel=CancelFlag())
    with (tmp_path / "disk.raw").open("rb") as file:
        assert file.read(len(content)) == bytes(content)
        assert not any(file.read(BLOCK))
    whole = range(manifest.capacity // BLOCK)
    assert [found.digest(index) for index in whole] == [manifest.digest(index) for index in whole]
