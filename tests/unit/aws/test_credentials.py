"""Lost credentials, and credentials whose source temporarily does not answer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore import exceptions as vendor
from botocore.credentials import RefreshableCredentials
from botocore.session import get_session

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.base.errors import LoginError, ThrottledError, TlsError, UnreachableError, WaveliftError
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag

pytestmark = pytest.mark.unit

NOWHERE: Final = "http://127.0.0.1:9"
"""The discard port: a call that is sent is refused, and would be tried six times."""
PROFILES: Final = {
    "sso": """
        [profile lab]
        region = eu-central-1
        sso_session = corp
        sso_account_id = 111122223333
        sso_role_name = mover
        [sso-session corp]
        sso_region = eu-central-1
        sso_start_url = https://corp.example/start
    """,
    **{
        name: f"[profile lab]\nregion = eu-central-1\ncredential_process = {command}\n"
        for name, command in {
            "process": "/no/such/program",
            "process that fails": f"{sys.executable} -c 1/0",
            "process that babbles": f"{sys.executable} -c print(1)",
        }.items()
    },
    "login": "[profile lab]\nregion = eu-central-1\nlogin_session = arn:aws:iam::111122223333:user/mover\n",
    "nothing": "[profile lab]\nregion = eu-central-1\n",
}


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AwsAccess]:
    """An access by a profile ``lab`` of this content; nothing of the machine's own AWS set-up is seen."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def make(content: str) -> AwsAccess:
        lines = [line.strip() for line in content.splitlines()]
        (tmp_path / "config").write_text("\n".join(lines) + "\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        return AwsAccess(boto3.Session(profile_name="lab"), endpoint_url=NOWHERE)

    return make


@pytest.mark.parametrize("content", PROFILES.values(), ids=PROFILES)
def test_who_is_not_logged_in_hears_it_at_once(profile: Callable[[str], AwsAccess], content: str) -> None:
    """Nothing was sent, so nothing is tried again: the endpoint that answers nobody is never asked."""
    access = profile(content)
    began = time.monotonic()
    with pytest.raises(LoginError, match=r"Log in again|keys, a profile or a role"):
        AccountChecks(access).account_id()
    with pytest.raises(LoginError):
        BulkClient(access, "s3").send(_request(), CancelFlag())
    assert time.monotonic() - began < 20


def _request() -> BulkRequest:
    return BulkRequest("GET", f"{NOWHERE}/bucket/key", "could not read the object", "s3:GetObject")


def _refreshing(*outcomes: Exception | None) -> tuple[AwsAccess, list[int]]:
    """An access whose keys are over, and what each refresh of them ends in; the number of them."""
    left, asked = list(outcomes), [0]

    def refresh() -> dict[str, str]:
        asked[0] += 1
        outcome = left.pop(0) if left else None
        if outcome is not None:
            raise outcome
        return {"access_key": "new", "secret_key": "s", "token": "t", "expiry_time": "2099-01-01T00:00:00Z"}

    over = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    given = {"access_key": "old", "secret_key": "s", "token": "t", "expiry_time": over}
    core = get_session()
    core._credentials = RefreshableCredentials.create_from_metadata(given, refresh, method="sts-assume-role")
    return AwsAccess(boto3.Session(botocore_session=core, region_name="eu-west-1"), endpoint_url=NOWHERE), asked


def _refusal(code: str, status: int) -> vendor.ClientError:
    answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return vendor.ClientError(answer, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_refusal("AccessDenied", 403), LoginError),
        (_refusal("ExpiredTokenException", 400), LoginError),
        (_refusal("UnauthorizedException", 401), LoginError),
        (_refusal("InvalidIdentityToken", 400), LoginError),
        (vendor.SSOTokenLoadError(error_msg="Token for corp does not exist"), LoginError),
        (vendor.UnauthorizedSSOTokenError(), LoginError),
        (vendor.LoginRefreshRequired(), LoginError),
        (FileNotFoundError(2, "No such file", "/no/such/program"), LoginError),
        (json.JSONDecodeError("Expecting value", "x", 0), LoginError),
        (vendor.EndpointConnectionError(endpoint_url="https://sts"), UnreachableError),
        (vendor.ConnectTimeoutError(endpoint_url="https://sts"), UnreachableError),
        (TimeoutError("the identity provider is silent"), UnreachableError),
        (_refusal("ServiceUnavailable", 503), UnreachableError),
        (_refusal("IDPCommunicationError", 400), UnreachableError),
        (_refusal("Throttling", 400), ThrottledError),
        (vendor.SSLError(endpoint_url="https://sts", error="certificate verify failed"), TlsError),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_a_refresh_that_is_refused_is_a_lost_login_and_one_that_is_not_answered_is_an_outage(
    error: Exception, kind: type[WaveliftError]
) -> None:
    with pytest.raises(WaveliftError) as caught:
        _refreshing(error)[0].credentials()
    assert type(caught.value) is kind
    assert caught.value.retryable is (kind in (UnreachableError, ThrottledError))
    assert caught.value.next_step


QUICK: Final = RetryPolicy(patience_s=0.5, base_s=0.01, cap_s=0.02)


def test_an_outage_in_mid_refresh_is_borne_as_any_other() -> None:
    """Keys that end while STS can't be reached: the block waits for it, and is then sent with the new ones."""
    cut = vendor.EndpointConnectionError(endpoint_url="https://sts")
    access, asked = _refreshing(cut, cut)
    with pytest.raises(UnreachableError, match="could not read the object"):
        BulkClient(access, "s3", policy=QUICK).send(_request(), CancelFlag())
    assert asked == [3], "two outages were waited for; then the endpoint itself was asked"


def test_a_lost_login_ends_it_at_once() -> None:
    access, asked = _refreshing(_refusal("AccessDenied", 403))
    with pytest.raises(LoginError):
        BulkClient(access, "s3", policy=QUICK).send(_request(), CancelFlag())
    assert asked == [1]
