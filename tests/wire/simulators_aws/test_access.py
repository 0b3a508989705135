"""Signatures and sessions: refused is refused, on every service."""

from __future__ import annotations

import base64
import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

Refused = Callable[..., ClientError]
ONE_TRY = Config(retries={"total_max_attempts": 1})
CALLS: dict[str, Callable[[Any], Any]] = {
    "s3": lambda client: client.list_buckets(),
    "ec2": lambda client: client.describe_images(),
    "ebs": lambda client: client.list_snapshot_blocks(SnapshotId="snap-0123456789abcdef0"),
    "iam": lambda client: client.list_roles(),
    "kms": lambda client: client.list_keys(),
    "sts": lambda client: client.get_caller_identity(),
}


def _client(sim: AwsSimulator, service: str, **keys: str) -> Any:
    return sim.client(service, config=ONE_TRY, **keys)


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("s3", "SignatureDoesNotMatch", 403),
        ("ec2", "AuthFailure", 401),
        ("ebs", "InvalidSignatureException", 403),
        ("iam", "SignatureDoesNotMatch", 403),
        ("kms", "InvalidSignatureException", 403),
        ("sts", "SignatureDoesNotMatch", 403),
    ],
)
def test_wrong_secret_is_refused(sim: AwsSimulator, refused: Refused, service: str, code: str, status: int) -> None:
    client = _client(sim, service, aws_access_key_id=sim.access_key, aws_secret_access_key="wrong")
    error = refused(code, lambda: CALLS[service](client))
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("s3", "InvalidAccessKeyId"),
        ("ec2", "AuthFailure"),
        ("ebs", "UnrecognizedClientException"),
        ("iam", "InvalidClientTokenId"),
    ],
)
def test_unknown_key_is_refused(sim: AwsSimulator, refused: Refused, service: str, code: str) -> None:
    client = _client(sim, service, aws_access_key_id="AKIAUNKNOWN", aws_secret_access_key=sim.secret_key)
    refused(code, lambda: CALLS[service](client))


def _signed_put(sim: AwsSimulator, body: bytes, **headers: str) -> AWSRequest:
    digest = hashlib.sha256(body).hexdigest()
    request = AWSRequest("PUT", f"{sim.endpoint_url}/staging/signed%20key", data=body, headers=headers)
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials(sim.access_key, sim.secret_key), "s3", sim.region).add_auth(request)
    assert request.headers["X-Amz-Content-SHA256"] == digest
    return request


def _send(request: AWSRequest, body: bytes, **changes: str) -> urllib3.BaseHTTPResponse:
    headers = {**dict(request.headers.items()), **changes}
    return urllib3.request(request.method, request.url, body=body, headers=headers, retries=False)


def test_body_that_is_not_the_signed_one_is_refused(sim: AwsSimulator, base: Bootstrap) -> None:
    request = _signed_put(sim, b"what was signed")
    answer = _send(request, b"what was sent!!")
    assert answer.status == 400
    assert b"XAmzContentSHA256Mismatch" in answer.data
    assert _send(request, b"what was signed").status == 200


def test_header_changed_after_signing_is_refused(sim: AwsSimulator, base: Bootstrap) -> None:
    right = base64.b64encode(hashlib.sha256(b"data").digest()).decode()
    request = _signed_put(sim, b"data", **{"x-amz-checksum-sha256": right})
    wrong = base64.b64encode(hashlib.sha256(b"else").digest()).decode()
    answer = _send(request, b"data", **{"x-amz-checksum-sha256": wrong})
    assert (answer.status, b"SignatureDoesNotMatch" in answer.data) == (403, True)
    answer = _send(request, b"data", **{"x-amz-meta-added": "later"})
    assert (answer.status, b"not signed" in answer.data) == (403, True)


def test_unsigned_request_is_refused_without_leaking_html(sim: AwsSimulator, base: Bootstrap) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{sim.endpoint_url}/staging/key", timeout=60)
    assert caught.value.code == 403
    assert b"<Code>AccessDenied</Code>" in caught.value.read()


def test_signature_for_another_region_is_refused_by_s3(sim: AwsSimulator, base: Bootstrap) -> None:
    request = AWSRequest("GET", f"{sim.endpoint_url}/staging")
    S3SigV4Auth(Credentials(sim.access_key, sim.secret_key), "s3", "ap-south-1").add_auth(request)
    answer = _send(request, b"")
    assert answer.status == 400
    assert b"AuthorizationHeaderMalformed" in answer.data
    assert f"<Region>{sim.region}</Region>".encode() in answer.data


def test_session_works_until_its_set_life_ends(sim: AwsSimulator, base: Bootstrap, refused: Refused) -> None:
    sim.settings(session_seconds=300)
    sts = sim.client("sts")
    issued = sts.assume_role(RoleArn=base.assumable_role_arn, RoleSessionName="copy")["Credentials"]
    keys = {
        "aws_access_key_id": issued["AccessKeyId"],
        "aws_secret_access_key": issued["SecretAccessKey"],
        "aws_session_token": issued["SessionToken"],
    }
    clients = {name: _client(sim, name, **keys) for name in CALLS}
    assert CALLS["sts"](clients["sts"])["Arn"].endswith(":assumed-role/wavelift/copy")
    assert issued["Expiration"].timestamp() <= sim.control("GET", "clock")["now"] + 300
    sim.advance(300)
    codes = {
        "s3": "ExpiredToken",
        "ec2": "RequestExpired",
        "ebs": "ExpiredTokenException",
        "iam": "ExpiredToken",
        "kms": "ExpiredTokenException",
        "sts": "ExpiredToken",
    }
    for name, code in codes.items():
        refused(code, lambda name=name: CALLS[name](clients[name]))
    bare = {**keys, "aws_session_token": "forged"}
    refused("InvalidToken", lambda: CALLS["s3"](_client(sim, "s3", **bare)))


def test_sessions_can_be_ended_at_once(sim: AwsSimulator, base: Bootstrap, refused: Refused) -> None:
    issued = sim.client("sts").assume_role(RoleArn=base.assumable_role_arn, RoleSessionName="copy")["Credentials"]
    client = _client(
        sim,
        "s3",
        aws_access_key_id=issued["AccessKeyId"],
        aws_secret_access_key=issued["SecretAccessKey"],
        aws_session_token=issued["SessionToken"],
    )
    client.list_buckets()
    assert sim.expire_sessions() >= 1
    refused("ExpiredToken", client.list_buckets)
    sim.client("s3").list_buckets()


def test_role_that_does_not_trust_the_caller_is_refused(sim: AwsSimulator, base: Bootstrap, refused: Refused) -> None:
    arn = base.assumable_role_arn.replace("role/wavelift", "role/vmimport")
    refused("AccessDenied", sim.client("sts").assume_role, RoleArn=arn, RoleSessionName="copy")
    refused("AccessDenied", sim.client("sts").assume_role, RoleArn=arn + "-none", RoleSessionName="copy")


def test_unknown_action_is_an_aws_error_in_every_protocol(sim: AwsSimulator, refused: Refused) -> None:
    refused("InvalidAction", sim.client("ec2").create_store_image_task, ImageId="ami-1", Bucket="b")
    refused("UnknownOperationException", sim.client("ssm").start_automation_execution, DocumentName="d")
