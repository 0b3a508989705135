"""wavelift's signatures compared with those of botocore's signer: they must be equal, or AWS refuses the request."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.adapters.aws.access import AwsAccess, Keys
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.aws.sigv4 import EMPTY_SHA256, Scope, encode_query, sign

pytestmark = pytest.mark.unit

ODD_KEYS = ["plain", "a b+c/ü=~", "x//y/./z", "100%/&?#;:@", "漢字/(1)'!*,$"]
TOKENS = [None, "a/session+token=="]


def _oracle(kind: type[SigV4Auth], request: AWSRequest, token: str | None, service: str) -> dict[str, str]:
    """Headers after botocore has signed, with the moment that it took."""
    kind(Credentials("AKIDEXAMPLE", "secret/key+", token), service, "eu-central-1").add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


def _ours(method: str, url: str, oracle: dict[str, str], token: str | None, service: str, payload: str) -> str:
    ours = {"x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "authorization", "host"}
    sent = {name: value for name, value in oracle.items() if name.lower() not in ours}
    stamp = {name.lower(): value for name, value in oracle.items()}["x-amz-date"]
    signed = sign(
        method,
        url,
        sent,
        payload_hash=payload,
        scope=Scope(Keys("AKIDEXAMPLE", "secret/key+", token), "eu-central-1", service),
        now=datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
    )
    return signed["Authorization"]


class _FixedPayload(S3SigV4Auth):  # type: ignore[misc] # botocore has no types
    """The digest is given, as our UploadPart gives it, instead of computed or left unsigned."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.headers["X-Amz-Content-SHA256"])

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        given = request.headers["X-Amz-Content-SHA256"]
        super()._modify_request_before_signing(request)
        del request.headers["X-Amz-Content-SHA256"]
        request.headers["X-Amz-Content-SHA256"] = given


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("key", ODD_KEYS)
def test_upload_part_is_signed_as_botocore_does(key: str, token: str | None) -> None:
    payload = hashlib.sha256(b"part").hexdigest()
    query = encode_query({"partNumber": "7", "uploadId": "a.b_c-d~e/f+g=="})
    url = f"https://s3.eu-central-1.amazonaws.com/bucket/{quote(key, safe='/-_.~')}?{query}"
    headers = {"x-amz-checksum-sha256": "abc+/=", "X-Amz-Content-SHA256": payload}
    oracle = _oracle(_FixedPayload, AWSRequest("PUT", url, headers, b"part"), token, "s3")
    assert _ours("PUT", url, oracle, token, "s3", payload) == oracle["Authorization"]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("block_token", ["AAABAcVKJHk=", "with space/and+plus="])
def test_get_snapshot_block_is_signed_as_botocore_does(block_token: str, token: str | None) -> None:
    query = encode_query({"blockToken": block_token})
    url = f"https://ebs.eu-central-1.amazonaws.com/snapshots/snap-0123456789abcdef0/blocks/12?{query}"
    oracle = _oracle(SigV4Auth, AWSRequest("GET", url, {}, b""), token, "ebs")
    assert _ours("GET", url, oracle, token, "ebs", EMPTY_SHA256) == oracle["Authorization"]


@pytest.mark.parametrize("token", TOKENS)
def test_put_snapshot_block_is_signed_as_botocore_does(token: str | None) -> None:
    url = "https://ebs.eu-central-1.amazonaws.com/snapshots/snap-0a/blocks/0"
    body = b"\x01" * 512
    headers = {"x-amz-Data-Length": "524288", "x-amz-Checksum": "abc=", "x-amz-Checksum-Algorithm": "SHA256"}
    oracle = _oracle(SigV4Auth, AWSRequest("PUT", url, headers, body), token, "ebs")
    assert _ours("PUT", url, oracle, token, "ebs", hashlib.sha256(body).hexdigest()) == oracle["Authorization"]


@examples(15, 100)
@given(key=st.text(min_size=1, max_size=40), value=st.text(max_size=20), header=st.text("ab ÿ\t", min_size=1))
def test_any_key_and_query_is_signed_as_botocore_does(key: str, value: str, header: str) -> None:
    path = quote(key, safe="/-_.~", errors="replace").lstrip("/") or "k"
    query = encode_query({"z": "", "b": value, "a": "~"})
    url = f"https://bucket.s3.eu-central-1.amazonaws.com/{path}?{query}"
    headers = {"x-amz-meta-note": header.strip() or "x", "X-Amz-Content-SHA256": EMPTY_SHA256}
    oracle = _oracle(_FixedPayload, AWSRequest("PUT", url, headers, b""), None, "s3")
    assert _ours("PUT", url, oracle, None, "s3", EMPTY_SHA256) == oracle["Authorization"]


def test_a_changed_body_or_key_changes_the_signature() -> None:
    common: dict[str, Any] = {
        "scope": Scope(Keys("A", "s"), "r", "s3"),
        "now": datetime(2026, 1, 1, tzinfo=UTC),
    }
    url = "https://h/b/k?partNumber=1"
    first = sign("PUT", url, {}, payload_hash="0" * 64, **common)["Authorization"]
    assert first != sign("PUT", url, {}, payload_hash="1" * 64, **common)["Authorization"]
    assert first != sign("PUT", url[:-1] + "2", {}, payload_hash="0" * 64, **common)["Authorization"]


@cache
def _access(region: str, config: Config | None, endpoint: str | None) -> AwsAccess:
    """One for all keys and buckets: boto3's sessions and clients are dear to make."""
    session = boto3.Session(aws_access_key_id="A", aws_secret_access_key="s", region_name=region)
    return AwsAccess(session, endpoint_url=endpoint, config=config)


@pytest.mark.parametrize(
    ("region", "config", "endpoint"),
    [
        ("us-east-1", None, None),
        ("eu-central-1", None, None),
        ("cn-north-1", None, None),
        ("us-gov-west-1", Config(use_fips_endpoint=True), None),
        ("eu-west-1", Config(use_dualstack_endpoint=True), None),
        ("eu-west-1", Config(s3={"addressing_style": "path"}), None),
        ("eu-west-1", None, "http://127.0.0.1:5000"),
    ],
)
@pytest.mark.parametrize("bucket", ["staging-bucket", "dotted.bucket"])
@pytest.mark.parametrize("key", ODD_KEYS[:3])
def test_objects_are_addressed_as_boto3_does(
    region: str, config: Config | None, endpoint: str | None, bucket: str, key: str
) -> None:
    access = _access(region, config, endpoint)
    seen: list[str] = []

    def capture(request: Any, **_: object) -> AWSResponse:
        seen.append(request.url)
        return AWSResponse(request.url, 200, {}, _Empty())

    client = access.client("s3")
    client.meta.events.register("before-send.s3.UploadPart", capture)
    try:
        client.upload_part(Bucket=bucket, Key=key, PartNumber=1, UploadId="u", Body=b"x")
    finally:
        client.meta.events.unregister("before-send.s3.UploadPart", capture)
    assert S3Staging(access, bucket).url(key) == seen[0].partition("?")[0]


class _Empty:
    def stream(self, *_: object, **__: object) -> list[bytes]:
        return []
