"""Fault rules and the control plane of the simulator itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap, start
from wavelift.simulators.kit.process import SimulatorError

pytestmark = pytest.mark.wire

MIB = 1 << 20
Refused = Callable[..., ClientError]


def _put(s3: Any, key: str, body: bytes = b"data") -> Any:
    return s3.put_object(Bucket="staging", Key=key, Body=body)


def test_rule_hits_what_it_names_as_often_as_it_says(sim: AwsSimulator, s3: Any, key: str, refused: Refused) -> None:
    sim.rule(service="s3", operation="PutObject", key=f"*/{key}", status=500, count=2, skip=1)
    _put(s3, key)
    refused("InternalError", _put, s3=s3, key=key)
    _put(s3, key + "-other")
    refused("InternalError", _put, s3=s3, key=key)
    _put(s3, key)
    rule = sim.rules()[0]
    assert (rule["matched"], rule["applied"]) == (4, 2)


@pytest.mark.parametrize(
    ("service", "code", "call"),
    [
        ("s3", "SlowDown", lambda sim: _put(sim.client("s3"), "throttled")),
        ("ec2", "RequestLimitExceeded", lambda sim: sim.client("ec2").describe_images()),
        ("kms", "Throttling", lambda sim: sim.client("kms").list_keys()),
    ],
)
def test_throttling_in_the_services_words(
    sim: AwsSimulator, base: Bootstrap, refused: Refused, service: str, code: str, call: Callable[[AwsSimulator], Any]
) -> None:
    sim.rule(service=service, throttle=True, count=1)
    call(sim)  # boto3's own retry gets over one
    sim.rule(service=service, throttle=True)
    refused(code, lambda: call(sim))


def test_one_part_fails_for_good(sim: AwsSimulator, s3: Any, key: str, sha: Any, refused: Refused) -> None:
    sim.rule(service="s3", operation="UploadPart", part=2, status=500)
    upload = s3.create_multipart_upload(Bucket="staging", Key=key, ChecksumAlgorithm="SHA256")["UploadId"]
    where = {"Bucket": "staging", "Key": key, "UploadId": upload, "Body": b"x", "ChecksumSHA256": sha(b"x")}
    s3.upload_part(**where, PartNumber=1)
    for _ in range(3):
        refused("InternalError", s3.upload_part, **where, PartNumber=2)
    s3.upload_part(**where, PartNumber=3)
    s3.abort_multipart_upload(Bucket="staging", Key=key, UploadId=upload)


def test_request_cut_in_the_middle_stores_nothing(sim: AwsSimulator, s3: Any, key: str, refused: Refused) -> None:
    sim.rule(service="s3", operation="PutObject", cut_request_after=MIB, count=1)
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        _put(s3, key, os.urandom(8 * MIB))
    refused("NoSuchKey", s3.get_object, Bucket="staging", Key=key)


def test_answer_cut_in_the_middle(sim: AwsSimulator, s3: Any, key: str) -> None:
    data = os.urandom(4 * MIB)
    _put(s3, key, data)
    sim.rule(service="s3", operation="GetObject", cut_response_after=MIB + 5, count=1)
    body = s3.get_object(Bucket="staging", Key=key)["Body"]
    got = bytearray()
    with pytest.raises(Exception, match=r"(?i)reset|incomplete|broken") as caught:
        while piece := body.read(64 << 10):
            got += piece
    assert not isinstance(caught.value, AssertionError)
    assert data.startswith(bytes(got))
    assert len(got) < MIB + 6
    assert s3.get_object(Bucket="staging", Key=key)["Body"].read() == data


def test_lost_answer_of_a_call_that_was_done(sim: AwsSimulator, s3: Any, key: str) -> None:
    sim.rule(service="s3", operation="PutObject", cut_response_after=0, count=1)
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        _put(s3, key, b"done all the same")
    assert s3.get_object(Bucket="staging", Key=key)["Body"].read() == b"done all the same"


def test_tls_connection_is_cut_too(tls_running: AwsSimulator) -> None:
    s3 = tls_running.client("s3")
    s3.put_object(Bucket="tls-bucket", Key="cut", Body=os.urandom(MIB))
    tls_running.rule(service="s3", operation="GetObject", cut_response_after=1000, count=1)
    with pytest.raises(Exception, match=r"(?i)reset|incomplete|broken|eof"):
        s3.get_object(Bucket="tls-bucket", Key="cut")["Body"].read()
    tls_running.clear_rules()


def test_latency_and_probability(sim: AwsSimulator, s3: Any, key: str) -> None:
    sim.rule(service="s3", operation="PutObject", latency=0.3, count=1)
    begin = time.monotonic()
    _put(s3, key)
    assert time.monotonic() - begin >= 0.3
    sim.rule(service="s3", operation="HeadObject", status=500, probability=0.5)
    outcomes = set()
    for _ in range(40):
        try:
            s3.head_object(Bucket="staging", Key=key)
            outcomes.add("served")
        except ClientError:
            outcomes.add("failed")
    assert outcomes == {"served", "failed"}


def test_a_call_that_is_held_back_goes_on_when_its_rule_is_dropped(sim: AwsSimulator, s3: Any, key: str) -> None:
    rule = sim.rule(service="s3", operation="PutObject", latency=120)
    call = threading.Thread(target=_put, args=(s3, key))
    call.start()
    while not [each for each in sim.rules() if each["id"] == rule and each["applied"]]:
        time.sleep(0.01)
    assert call.is_alive()
    sim.clear_rules()
    call.join(60)
    assert not call.is_alive()
    assert s3.get_object(Bucket="staging", Key=key)["Body"].read() == b"data"


def test_expired_credentials_on_order(sim: AwsSimulator, s3: Any, key: str, refused: Refused) -> None:
    sim.rule(service="s3", operation="PutObject", status=400, code="ExpiredToken", count=1)
    refused("ExpiredToken", _put, s3=s3, key=key)
    _put(s3, key)


def test_counters_count_calls_errors_and_bytes(sim: AwsSimulator, s3: Any, key: str, refused: Refused) -> None:
    before = sim.counters().get("s3.PutObject", {})
    _put(s3, key, b"x" * 1000)
    sim.rule(service="s3", operation="PutObject", status=500, count=1)
    refused("InternalError", _put, s3=s3, key=key)
    after = sim.counters()["s3.PutObject"]
    assert after["calls"] == before.get("calls", 0) + 2
    assert after["errors"] == before.get("errors", 0) + 1
    assert after["bytes_in"] >= before.get("bytes_in", 0) + 1000


def test_a_call_is_counted_before_its_answer_leaves(sim: AwsSimulator, s3: Any, key: str) -> None:
    _put(s3, key, bytes(64 << 20))  # more than the buffers of the line hold
    before = sim.counters().get("s3.GetObject", {}).get("calls", 0)
    body = s3.get_object(Bucket="staging", Key=key)["Body"]
    assert sim.counters()["s3.GetObject"]["calls"] == before + 1
    assert len(body.read()) == 64 << 20


def test_state_shows_what_was_left_and_control_refuses_nonsense(sim: AwsSimulator, s3: Any, key: str) -> None:
    before = sim.state()
    upload = s3.create_multipart_upload(Bucket="staging", Key=key)["UploadId"]
    _put(s3, key + "-left")
    state = sim.state()["buckets"]["staging"]
    assert {"key": key, "id": upload, "parts": 0} in state["uploads"]
    assert key + "-left" in state["objects"]
    s3.abort_multipart_upload(Bucket="staging", Key=key, UploadId=upload)
    s3.delete_object(Bucket="staging", Key=key + "-left")
    assert sim.state() == before
    for call in (
        lambda: sim.rule(colour="red"),
        lambda: sim.rule(kind="storm"),
        lambda: sim.settings(nonsense=1),
        lambda: sim.control("GET", "nowhere"),
    ):
        with pytest.raises(SimulatorError, match="error"):
            call()


def test_runs_alone_says_where_it_is_and_ends_on_sigterm(state_folder: Path) -> None:
    command = [sys.executable, "-m", "wavelift.simulators.aws", "--state", str(state_folder), "--tls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        hello = json.loads(process.stdout.readline())
        assert hello["pid"] == process.pid
        assert hello["url"].startswith("https://127.0.0.1:")
        session = boto3.Session(hello["access_key"], "simulator-secret-key", region_name=hello["region"])
        client = session.client("s3", endpoint_url=hello["url"], verify=hello["ca_file"])
        assert client.list_buckets()["Buckets"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_region_and_evidence_as_set(state_folder: Path, refused: Refused) -> None:
    with start(state_folder, region="eu-west-1", evidence=False) as simulator:
        base = simulator.bootstrap("one", role=False)
        assert base.subnet_ids
        simulator.client("s3").put_object(Bucket="one", Key="k", Body=b"x")
        assert simulator.evidence()["objects"] == []
        refused("NoSuchEntity", simulator.client("iam").get_role, RoleName="vmimport")
    assert not list((state_folder / "world" / "s3" / "incoming").iterdir())


def test_start_that_fails_says_why(state_folder: Path) -> None:
    with pytest.raises(RuntimeError, match="no setting 'colour'"):
        start(state_folder, colour="red")
