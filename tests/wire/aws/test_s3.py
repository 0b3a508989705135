"""Bytes into S3 and back, over TLS, with everything that goes wrong on the way."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from tests.eventually import eventually
from tests.wire.aws.conftest import Connect

from wavelift.adapters.aws.access import AwsAccess, Keys, Outages
from wavelift.adapters.aws.bulk import BulkRequest
from wavelift.adapters.aws.errors import ObjectChangedError, UploadGoneError
from wavelift.adapters.aws.s3 import S3PartSink, S3Staging, composite_checksum
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    CorruptStreamError,
    FencedError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    ProofError,
    ThrottledError,
    TlsError,
    UnreachableError,
)
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.base.units import KIB, MIB
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

ODD = "waves/a b+c/ü=~/disk-0.vmdk"
META = {"wavelift-run": "abc123", "server": "Bücher"}
PART_SIZE = 5 * MIB
QUICK = RetryPolicy(patience_s=3.0, base_s=0.01, cap_s=0.1)


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def put_all(sink: S3PartSink, parts: Iterable[bytes], *, threads: int = 3) -> None:
    """As the part writer does: numbered parts from a few threads, in no order, as views."""

    def put(numbered: tuple[int, bytes]) -> None:
        number, data = numbered
        sink.put_part(number, memoryview(bytearray(data)), digest(data))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, reversed(list(enumerate(parts, start=1)))))


def read_all(staging: S3Staging, key: str) -> bytes:
    """By ``readinto`` with an odd buffer, as a decoder reads."""
    found = bytearray()
    buffer = bytearray(300_007)
    with staging.open_stream(key) as stream:
        while count := stream.readinto(buffer):
            found += buffer[:count]
        assert stream.position == stream.size == len(found)
    return bytes(found)


def test_air_05_a_multipart_object_comes_back_byte_for_byte(
    aws: AwsSimulator, access: AwsAccess, account: Bootstrap, parts: list[bytes]
) -> None:
    staging = S3Staging(access, account.bucket, account.kms_key_arn, policy=QUICK)
    sink = staging.multipart(ODD, metadata=META, tags={"wavelift:run": "abc123", "Name": "wave/[ü]{x}"})
    put_all(sink, parts)
    sink.complete()
    assert (sink.parts_sent, sink.parts_kept, sink.bytes_sent) == (4, 0, sum(map(len, parts)))
    assert read_all(staging, ODD) == b"".join(parts)
    info = staging.head(ODD)
    assert info is not None
    assert info.size == sum(map(len, parts))
    assert info.checksum == composite_checksum([digest(part) for part in parts])
    assert info.metadata == {"wavelift-run": "abc123", "server": "B%C3%BCcher"}
    head = access.client("s3").head_object(Bucket=account.bucket, Key=ODD)
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", account.kms_key_arn)
    offset = len(parts[0]) - 10
    assert staging.read_range(ODD, offset, 30) == (parts[0] + parts[1])[offset : offset + 30]
    assert staging.delete_prefix("waves") == 1
    assert staging.head(ODD) is None


def test_inv_6_a_resumed_upload_keeps_equal_parts_and_overwrites_the_others(
    aws: AwsSimulator, staging: S3Staging, parts: list[bytes]
) -> None:
    first = staging.multipart("r/disk-0.vmdk", metadata=META)
    put_all(first, [*parts[:3], parts[0], parts[1]])
    before = aws.counters()["s3.UploadPart"]["calls"]
    other = bytes(PART_SIZE) + b"other"
    again = [parts[0], other, parts[1][:-1], parts[3]]  # part 5 of the old try is beyond the end of this one
    second = staging.multipart("r/disk-0.vmdk", metadata=META, previous_upload_id=first.upload_id)
    assert second.upload_id == first.upload_id
    put_all(second, again)
    second.complete()
    assert (second.parts_kept, second.parts_sent) == (1, 3)
    assert aws.counters()["s3.UploadPart"]["calls"] == before + 3
    assert read_all(staging, "r/disk-0.vmdk") == b"".join(again)
    staging.delete("r/disk-0.vmdk")


def test_a_part_put_twice_in_one_try_is_sent_once(staging: S3Staging, parts: list[bytes]) -> None:
    sink = staging.multipart("r/disk-0.vmdk", metadata={})
    put_all(sink, parts)
    put_all(sink, parts)
    assert (sink.parts_sent, sink.parts_kept) == (4, 4)
    sink.abort()


def test_many_stored_parts_are_listed_over_pages(aws: AwsSimulator, staging: S3Staging) -> None:
    sink = staging.multipart("r/many", metadata={})
    small = [bytes([number % 251]) * 100 for number in range(1005)]
    put_all(sink, small, threads=8)
    again = staging.multipart("r/many", metadata={}, previous_upload_id=sink.upload_id)
    calls = aws.counters()["s3.UploadPart"]["calls"]
    put_all(again, small)
    assert (again.parts_kept, aws.counters()["s3.UploadPart"]["calls"]) == (1005, calls)
    with pytest.raises(PermanentError, match="EntityTooSmall"):
        again.complete()
    again.abort()


def test_an_upload_that_is_gone_is_begun_anew(staging: S3Staging, parts: list[bytes]) -> None:
    first = staging.multipart("r/gone", metadata={})
    first.abort()
    first.abort()
    second = staging.multipart("r/gone", metadata={}, previous_upload_id=first.upload_id)
    assert second.upload_id != first.upload_id
    second.abort()


def test_a_part_for_an_aborted_upload_says_so(staging: S3Staging, parts: list[bytes]) -> None:
    sink = staging.multipart("r/gone", metadata={})
    staging.abort_upload("r/gone", sink.upload_id)
    with pytest.raises(UploadGoneError, match="NoSuchUpload") as caught:
        sink.put_part(1, parts[3], digest(parts[3]))
    assert caught.value.where["part"] == 1
    with pytest.raises(ProofError, match="never stored"):
        sink.complete()


def test_complete_refuses_a_hole(staging: S3Staging, parts: list[bytes]) -> None:
    sink = staging.multipart("r/hole", metadata={})
    sink.put_part(1, parts[0], digest(parts[0]))
    sink.put_part(3, parts[3], digest(parts[3]))
    with pytest.raises(ProofError, match=r"parts \[2\]"):
        sink.complete()
    with pytest.raises(PermanentError, match="outside"):
        sink.put_part(10_001, b"x", digest(b"x"))
    sink.abort()


def test_a_part_that_an_outlived_try_overwrote_is_mended_by_a_retry(staging: S3Staging, parts: list[bytes]) -> None:
    """Two machines of one queue may deflate the same block differently: nothing is mixed, and nothing is permanent."""
    sink = staging.multipart("overlap", metadata={})
    put_all(sink, parts[:2])
    outlived = staging.multipart("overlap", metadata={}, previous_upload_id=sink.upload_id)
    outlived.put_part(2, parts[2], digest(parts[2]))
    with pytest.raises(BusyError, match="InvalidPart") as told:
        sink.complete()
    assert told.value.retryable
    again = staging.multipart("overlap", metadata={}, previous_upload_id=sink.upload_id)
    put_all(again, parts[:2])
    again.complete()
    assert (again.parts_kept, again.parts_sent) == (1, 1)
    assert read_all(staging, "overlap") == b"".join(parts[:2])
    staging.delete("overlap")


def test_complete_after_a_lost_answer_is_done(aws: AwsSimulator, staging: S3Staging, parts: list[bytes]) -> None:
    sink = staging.multipart("r/lost", metadata={})
    put_all(sink, parts)
    aws.rule(service="s3", operation="CompleteMultipartUpload", cut_response_after=0, count=1)
    sink.complete()
    sink.complete()
    assert read_all(staging, "r/lost") == b"".join(parts)
    staging.delete("r/lost")


def test_complete_may_answer_200_with_an_error_in_it(aws: AwsSimulator, staging: S3Staging, parts: list[bytes]) -> None:
    """S3 sends the status before it has joined the parts; what becomes of it stands in the body."""
    sink = staging.multipart("r/two-hundred", metadata={})
    put_all(sink, parts)
    aws.rule(service="s3", operation="CompleteMultipartUpload", status=200, code="InternalError", count=1)
    sink.complete()
    assert read_all(staging, "r/two-hundred") == b"".join(parts)
    staging.delete("r/two-hundred")


def test_inv_1_an_object_of_another_try_is_not_taken_for_ours(staging: S3Staging, parts: list[bytes]) -> None:
    sink = staging.multipart("r/other", metadata={})
    sink.put_part(1, parts[3], digest(parts[3]))
    staging.put_object("r/other", b"somebody else's")
    staging.abort_upload("r/other", sink.upload_id)
    with pytest.raises(UploadGoneError):
        sink.complete()
    staging.delete("r/other")


def test_inv_1_bytes_that_do_not_fit_their_digest_are_refused_and_tried_once_more(
    aws: AwsSimulator, staging: S3Staging, parts: list[bytes]
) -> None:
    sink = staging.multipart("r/wrong", metadata={})
    calls = aws.counters().get("s3.UploadPart", {}).get("calls", 0)
    with pytest.raises(ProofError) as caught:
        sink.put_part(1, parts[3], digest(b"other bytes"))
    assert caught.value.where["part"] == 1
    assert aws.counters()["s3.UploadPart"]["calls"] == calls + 2
    sink.abort()


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 502},
        {"throttle": True},
        {"code": "RequestTimeout", "status": 400},
        {"code": "ExpiredToken", "status": 400},
        {"code": "BadDigest", "status": 400, "count": 1},
        {"cut_request_after": 0},
        {"cut_request_after": 2 * MIB},
        {"cut_response_after": 0},
    ],
    ids=str,
)
def test_air_05_a_part_survives(
    aws: AwsSimulator, staging: S3Staging, parts: list[bytes], fault: dict[str, int]
) -> None:
    sink = staging.multipart("r/f", metadata={})
    aws.rule(**{"service": "s3", "operation": "UploadPart", "part": 2, "count": 2, **fault})
    put_all(sink, parts)
    sink.complete()
    assert read_all(staging, "r/f") == b"".join(parts)
    staging.delete("r/f")


def test_air_05_a_slow_down_storm_is_sat_out(aws: AwsSimulator, staging: S3Staging, parts: list[bytes]) -> None:
    sink = staging.multipart("r/storm", metadata={})
    aws.rule(service="s3", operation="UploadPart", throttle=True, probability=0.8)
    put_all(sink, parts, threads=4)
    aws.clear_rules()
    sink.complete()
    assert read_all(staging, "r/storm") == b"".join(parts)
    staging.delete("r/storm")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 500}, UnreachableError),
        ({"throttle": True}, ThrottledError),
        ({"cut_request_after": MIB}, UnreachableError),
        ({"code": "AccessDenied", "status": 403}, MissingPrivilegeError),
        ({"code": "ExpiredToken", "status": 400}, LoginError),
        ({"code": "InvalidAccessKeyId", "status": 403}, LoginError),
    ],
)
def test_air_05_a_part_that_fails_for_good_says_which_and_what_to_do(
    aws: AwsSimulator,
    access: AwsAccess,
    account: Bootstrap,
    parts: list[bytes],
    fault: dict[str, int],
    kind: type[Exception],
) -> None:
    staging = S3Staging(access, account.bucket, policy=RetryPolicy(patience_s=0.2, base_s=0.01, cap_s=0.1))
    sink = staging.multipart("r/bad", metadata={})
    aws.rule(service="s3", operation="UploadPart", part=2, **fault)
    with pytest.raises(kind) as caught:
        put_all(sink, parts)
    assert "part=2" in str(caught.value)
    assert "key=r/bad" in str(caught.value)
    assert getattr(caught.value, "next_step", "")
    assert aws.secret_key not in str(caught.value)
    assert "Signature=" not in repr(caught.value)
    sink.abort()


def test_a_cancel_stops_a_part_in_the_middle(aws: AwsSimulator, staging: S3Staging, parts: list[bytes]) -> None:
    cancel = CancelFlag()
    sink = staging.multipart("r/cancel", metadata={}, cancel=cancel)
    aws.rule(service="s3", operation="UploadPart", throttle=True)
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        sink.put_part(1, parts[0], digest(parts[0]))
    timer.join()
    sink.abort()


@pytest.mark.parametrize("fenced", [False, True])
def test_inv_9_a_part_that_gets_no_answer_ends_with_the_wish_to_stop(
    aws: AwsSimulator, connect: Connect, account: Bootstrap, parts: list[bytes], fenced: bool
) -> None:
    """The state store answered 404 while S3 was silent: the try waited for a minute, and for another."""
    patient = connect(config=Config(read_timeout=600))
    cancel = CancelFlag()
    staging = S3Staging(patient, account.bucket, policy=QUICK)
    sink = staging.multipart("r/silent", metadata={}, cancel=cancel)
    sink.put_part(1, parts[0], digest(parts[0]))  # the second goes over the same connection
    aws.rule(service="s3", operation="UploadPart", latency=600)
    with ThreadPoolExecutor(2) as pool:
        putting = [pool.submit(sink.put_part, number, parts[0], digest(parts[0])) for number in (2, 3)]
        assert eventually(lambda: aws.rules()[0]["applied"] == 2)
        cancel.set("another try owns the work", fenced=fenced)
        try:
            assert eventually(lambda: all(each.done() for each in putting))
        finally:
            aws.clear_rules()
        for each in putting:
            with pytest.raises(FencedError if fenced else Cancelled, match="another try"):
                each.result()
    sink.abort()
    staging.close()


def test_inv_9_a_control_call_bears_an_outage_of_a_service_that_answered_before(
    aws: AwsSimulator, connect: Connect, account: Bootstrap
) -> None:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    outage = {"service": "s3", "operation": "HeadObject", "count": 3}
    with pytest.raises(UnreachableError):
        aws.rule(status=500, **outage)  # a name that never answered: no time cures that
        S3Staging(connect(config=once, outages=Outages(cancel=CancelFlag())), account.bucket).head("x")
    aws.clear_rules()
    aws.rule(status=500, **outage)
    assert (
        S3Staging(connect(config=once, outages=Outages(cancel=CancelFlag(), proven=True)), account.bucket).head("x")
        is None
    )
    aws.clear_rules()
    cancel = CancelFlag()
    staging = S3Staging(connect(config=once, outages=Outages(cancel=cancel)), account.bucket)
    assert staging.head("x") is None
    for fault in ({"status": 500}, {"throttle": True}, {"cut_response_after": 0}):
        aws.rule(**fault, **outage)
        assert staging.head("x") is None
        assert aws.rules()[0]["applied"] == 3
        aws.clear_rules()
    aws.rule(service="s3", operation="HeadObject", status=500)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(staging.head, "x")
        assert eventually(lambda: aws.rules()[0]["applied"] >= 2)
        cancel.set("the task was killed")
        with pytest.raises(Cancelled, match="killed"):
            asking.result()
    aws.clear_rules()
    impatient = S3Staging(connect(config=once, outages=Outages(0.3, CancelFlag())), account.bucket)
    assert impatient.head("x") is None
    aws.rule(service="s3", operation="HeadObject", status=500)
    with pytest.raises(UnreachableError):
        impatient.head("x")


def test_aws_credentials_that_expire_all_the_time_are_refreshed(
    aws: AwsSimulator,
    connect: Callable[..., AwsAccess],
    assumed: boto3.Session,
    account: Bootstrap,
    parts: list[bytes],
) -> None:
    """Each session lives two seconds: less than the upload."""
    aws.settings(session_seconds=2)
    try:
        staging = S3Staging(connect(assumed), account.bucket, policy=QUICK)
        sink = staging.multipart("r/expiry", metadata={})
        aws.rule(service="s3", operation="UploadPart", latency=0.8)
        put_all(sink, [parts[0], parts[1], parts[2], parts[0], parts[3]], threads=1)
        aws.clear_rules()
        sink.complete()
        assert read_all(staging, "r/expiry") == b"".join([*parts[:3], parts[0], parts[3]])
        staging.delete("r/expiry")
    finally:
        aws.settings(session_seconds=0)


def test_a_session_that_is_revoked_early_is_renewed(
    aws: AwsSimulator,
    connect: Callable[..., AwsAccess],
    assumed: boto3.Session,
    account: Bootstrap,
    parts: list[bytes],
) -> None:
    """The local clock says 'good for an hour', AWS says ExpiredToken."""
    staging = S3Staging(connect(assumed), account.bucket, policy=QUICK)
    sink = staging.multipart("r/revoked", metadata={})
    sink.put_part(1, parts[0], digest(parts[0]))
    assert aws.expire_sessions() >= 1
    put_all(sink, parts, threads=4)
    assert aws.expire_sessions() >= 1
    sink.complete()
    assert aws.expire_sessions() >= 1
    assert read_all(staging, "r/revoked") == b"".join(parts)
    assert aws.expire_sessions() >= 1
    assert staging.head("r/revoked") is not None  # the answer to a HEAD has no body, so no code: 400 is all it says
    aws.rule(service="s3", operation="HeadObject", code="ExpiredToken", status=400)
    aws.rule(service="s3", operation="ListParts", code="ExpiredToken", status=400)
    with pytest.raises(LoginError, match="ExpiredToken") as caught:
        staging.multipart("r/revoked", metadata={}, previous_upload_id="u")
    assert "even after a refresh" in caught.value.next_step
    staging.delete("r/revoked")


def test_wrong_keys_are_not_tried_again(
    aws: AwsSimulator, connect: Callable[..., AwsAccess], account: Bootstrap
) -> None:
    session = aws.session(aws_access_key_id=aws.access_key, aws_secret_access_key="wrong")
    calls = sum(each.get("calls", 0) for name, each in aws.counters().items() if name.startswith("s3."))
    with pytest.raises(LoginError, match="SignatureDoesNotMatch"):
        S3Staging(connect(session), account.bucket, policy=QUICK).get_object("x", at_most=KIB)
    with pytest.raises(LoginError, match="SignatureDoesNotMatch"):
        S3Staging(connect(session), account.bucket, policy=QUICK).multipart("x", metadata={})
    assert sum(each.get("calls", 0) for name, each in aws.counters().items() if name.startswith("s3.")) <= calls + 2


def test_sms_16_an_unknown_certificate_is_refused_and_said(
    aws: AwsSimulator, connect: Callable[..., AwsAccess], account: Bootstrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    staging = S3Staging(connect(verify=True), account.bucket, policy=QUICK)
    with pytest.raises(TlsError, match="certificate verify failed"):
        staging.get_object("x", at_most=KIB)
    with pytest.raises(TlsError, match="certificate verify failed"):
        staging.put_object("x", b"")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(aws.ca_file))
    assert S3Staging(connect(verify=True), account.bucket, policy=QUICK).head("x") is None


def test_tls_unverified_works_and_warns(
    aws: AwsSimulator, connect: Callable[..., AwsAccess], account: Bootstrap, caplog: pytest.LogCaptureFixture
) -> None:
    staging = S3Staging(connect(verify=False), account.bucket, policy=QUICK)
    assert "NOT verified" in caplog.text
    with pytest.raises(NotFoundError):
        staging.get_object("x", at_most=KIB)


def test_nobody_listening_is_said_after_bounded_tries(connect: Callable[..., AwsAccess], aws: AwsSimulator) -> None:
    access = AwsAccess(aws.session(), endpoint_url="https://127.0.0.1:9", verify=aws.verify)
    with pytest.raises(UnreachableError, match="refused"):
        S3Staging(access, "staging", policy=QUICK).get_object("x", at_most=KIB)


# -- reading back ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(staging: S3Staging, parts: list[bytes]) -> Iterable[tuple[str, bytes]]:
    data = b"".join(parts[:2])
    staging.put_object("read/me", data)
    yield "read/me", data
    staging.delete("read/me")


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_response_after": 0},
        {"cut_response_after": 1},
        {"cut_response_after": 2 * MIB + 17},
        {"status": 500},
        {"throttle": True},
        {"code": "ExpiredToken", "status": 400},
    ],
    ids=str,
)
def test_air_05_a_cut_read_goes_on_where_it_was(
    aws: AwsSimulator, staging: S3Staging, stored: tuple[str, bytes], fault: dict[str, int]
) -> None:
    aws.rule(**{"service": "s3", "operation": "GetObject", "count": 3, **fault})
    key, data = stored
    assert read_all(staging, key) == data


def test_a_read_that_moves_forward_never_runs_out_of_tries(
    aws: AwsSimulator, staging: S3Staging, stored: tuple[str, bytes]
) -> None:
    aws.rule(service="s3", operation="GetObject", cut_response_after=600 * KIB)
    key, data = stored
    with staging.open_stream(key) as stream:
        assert stream.readall() == data
        assert stream.resumed > 4


def test_a_read_that_stands_still_ends(aws: AwsSimulator, staging: S3Staging, stored: tuple[str, bytes]) -> None:
    aws.rule(service="s3", operation="GetObject", cut_response_after=0, skip=1)
    with staging.open_stream(stored[0]) as stream:
        aws.rule(service="s3", operation="GetObject", cut_response_after=0)
        stream._drop()
        with pytest.raises(UnreachableError, match="position=0"):
            stream.read(1)


def test_an_ignored_range_is_no_proof_of_damage(
    aws: AwsSimulator, staging: S3Staging, stored: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.rule(service="s3", operation="GetObject", cut_response_after=MIB, count=1)
    with staging.open_stream(stored[0]) as stream:
        whole = stream._request()
        monkeypatch.setattr(stream, "_request", lambda: whole)
        with pytest.raises(UnreachableError, match="ignored the range"):
            stream.readall()


def test_inv_1_an_object_replaced_while_it_is_read_is_not_mixed(
    aws: AwsSimulator, staging: S3Staging, stored: tuple[str, bytes]
) -> None:
    aws.rule(service="s3", operation="GetObject", cut_response_after=MIB, count=1)
    with staging.open_stream(stored[0]) as stream:
        staging.put_object(stored[0], bytes(len(stored[1])))
        with pytest.raises(ObjectChangedError):
            stream.readall()


def test_a_range_beyond_the_end_is_an_error_not_a_short_answer(staging: S3Staging, stored: tuple[str, bytes]) -> None:
    key, data = stored
    assert staging.read_range(key, len(data) - 5, 5) == data[-5:]
    assert staging.read_range(key, 3, 0) == b""
    with pytest.raises(CorruptStreamError, match="5 of 6") as short:
        staging.read_range(key, len(data) - 5, 6)
    with pytest.raises(CorruptStreamError) as behind:
        staging.read_range(key, len(data), 1)
    # "offset" is a place on a disk, which a part of an object doesn't know.
    assert "offset" not in short.value.where | behind.value.where
    with pytest.raises(NotFoundError):
        staging.read_range("no/such", 0, 1)


# -- small objects and housekeeping ---------------------------------------------------------------------------------


def test_small_objects_are_stored_listed_and_deleted(staging: S3Staging) -> None:
    keys = [f"small/{number:03d}" for number in range(5)]
    for key in keys:
        info = staging.put_object(key, key.encode(), metadata={"n": "ü"})
        assert info.checksum == base64.b64encode(digest(key.encode())).decode()
    staging.put_object("small-not/000", b"stays")
    staging.put_object("small/empty", b"")
    assert staging.get_object("small/empty", at_most=KIB) == b""
    assert [item.key for item in staging.list("small/")] == [*keys, "small/empty"]
    assert staging.get_object(keys[3], at_most=KIB) == b"small/003"
    assert staging.delete_prefix("small") == 6
    assert [item.key for item in staging.list("small")] == ["small-not/000"]
    staging.delete("small-not/000", "never/was")
    for root in ("", "/"):
        with pytest.raises(PermanentError, match="whole bucket"):
            staging.delete_prefix(root)


def test_open_uploads_are_found_and_dropped(staging: S3Staging, parts: list[bytes]) -> None:
    sinks = [staging.multipart(f"open/{number}", metadata={}) for number in range(3)]
    sinks[1].put_part(1, parts[3], digest(parts[3]))
    found = staging.list_uploads("open/")
    assert {(upload.key, upload.upload_id) for upload in found} == {(sink.key, sink.upload_id) for sink in sinks}
    for upload in found:
        staging.abort_upload(upload.key, upload.upload_id)
    assert staging.list_uploads("open/") == []


def test_a_missing_bucket_is_said(connect: Callable[..., AwsAccess]) -> None:
    with pytest.raises(NotFoundError, match="NoSuchBucket"):
        S3Staging(connect(), "no-such-bucket", policy=QUICK).multipart("x", metadata={})


def test_secrets_stay_out_of_logs(
    aws: AwsSimulator,
    connect: Callable[..., AwsAccess],
    assumed: boto3.Session,
    account: Bootstrap,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """At our own level DEBUG; botocore's and urllib3's are the operator's choice."""
    caplog.set_level("DEBUG", logger="wavelift")
    access = connect(assumed)
    staging = S3Staging(access, account.bucket, policy=QUICK)
    aws.rule(service="s3", status=500, count=2)
    staging.put_object("log/x", b"x")
    assert staging.get_object("log/x", at_most=KIB) == b"x"
    staging.delete("log/x")
    keys = access.credentials()
    shown = "".join(record.getMessage() for record in caplog.records if record.name.startswith("wavelift"))
    for secret in (keys.access_key, keys.secret_key, keys.token or "", aws.secret_key):
        assert secret not in shown


def test_an_answer_that_is_longer_than_the_range_is_not_read(
    staging: S3Staging, stored: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that drops the Range header must not fill the memory with a disk."""
    signed = staging._bulk._signed

    def without_range(request: BulkRequest, keys: Keys) -> dict[str, str]:
        headers = {name: value for name, value in request.headers.items() if name != "Range"}
        return signed(replace(request, headers=headers), keys)

    monkeypatch.setattr(staging._bulk, "_signed", without_range)
    with pytest.raises(UnreachableError, match=f"answer has {len(stored[1])} bytes where 5 are due"):
        staging.read_range(stored[0], 3, 5)


def test_an_object_larger_than_it_may_be_is_not_read(aws: AwsSimulator, staging: S3Staging) -> None:
    staging.put_object("large", bytes(64 * KIB))
    with pytest.raises(CorruptStreamError, match="65536 bytes where it may have 65535"):
        staging.get_object("large", at_most=64 * KIB - 1)
    assert len(staging.get_object("large", at_most=64 * KIB)) == 64 * KIB
    staging.delete("large")


def test_inv_1_only_the_version_that_was_asked_for_is_read(
    aws: AwsSimulator, access: AwsAccess, staging: S3Staging
) -> None:
    """In a bucket without versions another object is refused; with them, the one that was there is still read."""
    s3, key = access.client("s3"), "pinned"
    staging.put_object(key, b"old old")
    old = staging.head(key)
    assert old is not None
    staging.put_object(key, b"new new")
    with pytest.raises(ObjectChangedError):
        staging.open_stream(key, version=old.version)
    with pytest.raises(ObjectChangedError):
        staging.read_range(key, 0, 3, version=old.version)
    staging.delete(key)
    s3.create_bucket(Bucket="pinned-versions", CreateBucketConfiguration={"LocationConstraint": aws.region})
    s3.put_bucket_versioning(Bucket="pinned-versions", VersioningConfiguration={"Status": "Enabled"})
    versions = S3Staging(access, "pinned-versions", policy=QUICK)
    versions.put_object(key, b"old old")
    old = versions.head(key)
    assert old is not None
    versions.put_object(key, b"new new")
    versions.delete(key)
    with versions.open_stream(key, version=old.version) as stream:
        assert stream.read() == b"old old"
    assert versions.read_range(key, 4, 3, version=old.version) == b"old"
    with pytest.raises(NotFoundError):
        versions.read_range(key, 4, 3, version=old.version.model_copy(update={"version_id": "0" * 32}))
    versions.close()
    rows = s3.list_object_versions(Bucket="pinned-versions")
    for row in (*rows["Versions"], *rows["DeleteMarkers"]):
        s3.delete_object(Bucket="pinned-versions", Key=key, VersionId=row["VersionId"])
    s3.delete_bucket(Bucket="pinned-versions")
