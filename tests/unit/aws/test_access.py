"""The connection's TLS, proxy and credentials, as every client of ours gets them."""

from __future__ import annotations

import base64
import logging
import ssl
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.session import get_session

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest, read_failure
from wavelift.base.errors import SpecError, WaveliftError

pytestmark = pytest.mark.unit


def access_with(**options: Any) -> AwsAccess:
    return AwsAccess(boto3.Session("AKIAEXAMPLE", "secret", None, "eu-west-1"), **options)


@pytest.mark.parametrize("verify", ["", None, True])
def test_inv_10_tls_is_verified_unless_somebody_says_false(monkeypatch: pytest.MonkeyPatch, verify: Any) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    client = BulkClient(access_with(verify=verify), "s3")
    assert client._context.verify_mode is ssl.CERT_REQUIRED
    assert client._context.check_hostname


@pytest.mark.parametrize("verify", [False, 0])
def test_inv_10_unverified_tls_is_logged_loudly(verify: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        client = BulkClient(access_with(verify=verify), "s3")
    assert client._context.verify_mode is ssl.CERT_NONE
    assert "NOT verified" in caplog.text


def test_a_bundle_that_is_not_there_is_a_mistake_in_the_connection() -> None:
    with pytest.raises(SpecError, match=r"/no/such/bundle\.pem") as told:
        BulkClient(access_with(verify="/no/such/bundle.pem"), "s3")
    assert "verify" in told.value.next_step


def test_sms_17_a_proxy_s_login_is_decoded_as_botocore_does() -> None:
    access = access_with(config=Config(proxies={"https": "http://us%40er:p%3Ass@proxy.example:3128"}))
    pool = BulkClient(access, "s3")._pool("https://s3.eu-west-1.amazonaws.com/b/k")
    login = base64.b64encode(b"us@er:p:ss").decode()
    assert pool.proxy_headers == {"proxy-authorization": f"Basic {login}"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [b"[]", b'"no"', b"17", b"<html/>", b"\xff"])
def test_inv_13_an_answer_that_is_not_aws_s_is_an_error_of_ours(body: bytes) -> None:
    class Answer:
        status = 502
        headers: dict[str, str] = {}
        data = body

    request = BulkRequest(method="GET", url="https://e/", doing="could not read", action="ebs:GetSnapshotBlock")
    assert isinstance(read_failure(request, Answer()).error, WaveliftError)  # type: ignore[arg-type]


def test_a_forced_refresh_never_runs_beside_botocore_s_own() -> None:
    """Two at once would mix the halves of two keys: a refresh sets key, secret and token one after the other."""
    began, go_on = threading.Event(), threading.Event()
    inside: list[int] = []
    most = 0

    def refresh() -> dict[str, str]:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        began.set()
        go_on.wait(60)
        inside.pop()
        return {"access_key": "new", "secret_key": "s", "token": "t", "expiry_time": "2099-01-01T00:00:00Z"}

    given = {"access_key": "old", "secret_key": "s", "token": "t", "expiry_time": "2099-01-01T00:00:00Z"}
    core = get_session()
    core._credentials = RefreshableCredentials.create_from_metadata(given, refresh, method="test")
    access = AwsAccess(boto3.Session(botocore_session=core, region_name="eu-west-1"))
    forced = threading.Thread(target=access.renew, args=(access.credentials(),))
    forced.start()
    assert began.wait(60)
    core._credentials._expiry_time = datetime.now(UTC) + timedelta(seconds=60)  # now botocore wants one as well
    seen: list[str] = []
    own = threading.Thread(target=lambda: seen.append(access.credentials().access_key))
    own.start()
    own.join(0.3)
    go_on.set()
    for thread in (forced, own):
        thread.join(60)
    assert most == 1
    assert seen == ["new"]
