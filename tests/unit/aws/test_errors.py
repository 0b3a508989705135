"""Every refusal by AWS becomes one of wavelift's errors, with coordinates and advice, and never with a secret."""

from __future__ import annotations

import logging
import pickle
import re
import ssl
import string
from typing import Final

import boto3
import pytest
import urllib3
from botocore import exceptions as vendor
from botocore.credentials import RefreshableCredentials
from botocore.parsers import ResponseParserError
from botocore.session import get_session

from wavelift.adapters.aws.access import AwsAccess, Keys
from wavelift.adapters.aws.bulk import BulkRequest, Failure, Patience, Trouble, connection_failure
from wavelift.adapters.aws.errors import UploadGoneError, aws_errors, from_answer
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    LimitReachedError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    ProofError,
    ThrottledError,
    TlsError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ExpiredToken", 400, LoginError),
        ("SignatureDoesNotMatch", 403, LoginError),
        ("RequestTimeTooSkewed", 403, LoginError),
        ("AuthFailure", 401, LoginError),
        ("AccessDenied", 403, MissingPrivilegeError),
        ("UnauthorizedOperation", 403, MissingPrivilegeError),
        ("ResourceCountLimitExceeded", 400, LimitReachedError),
        ("InstanceLimitExceeded", 400, LimitReachedError),
        ("VcpuLimitExceeded", 400, LimitReachedError),
        ("InsufficientFreeAddressesInSubnet", 400, LimitReachedError),
        ("RequestLimitExceeded", 503, ThrottledError),
        ("SlowDown", 503, ThrottledError),
        ("Throttling", 400, ThrottledError),
        ("InvalidSnapshot.NotFound", 400, NotFoundError),
        ("InvalidAMIID.NotFound", 400, NotFoundError),
        ("InvalidConversionTaskId", 400, NotFoundError),
        ("NoSuchBucket", 404, NotFoundError),
        ("NoSuchUpload", 404, UploadGoneError),
        ("IncorrectInstanceState", 400, BusyError),
        ("InvalidSnapshot.InUse", 400, BusyError),
        ("BadDigest", 400, ProofError),
        ("XAmzContentSHA256Mismatch", 400, ProofError),
        ("InternalError", 500, UnreachableError),
        ("", 502, UnreachableError),
        ("PermanentRedirect", 301, PermanentError),
        ("IdempotentParameterMismatch", 400, PermanentError),
        ("EntityTooSmall", 400, PermanentError),
        ("NeverHeardOf", 400, PermanentError),
    ],
)
def test_air_05_codes_become_our_errors(code: str, status: int, kind: type[WaveliftError]) -> None:
    error = from_answer(code, "words of AWS", status, "could not do it", bucket="staging")
    assert type(error) is kind
    assert "could not do it" in str(error)
    assert "words of AWS" in str(error)
    assert "bucket=staging" in str(error)
    assert error.next_step


@pytest.mark.parametrize(
    ("message", "action"),
    [
        (
            "User: arn:aws:iam::1:user/x is not authorized to perform: s3:PutObjectTagging on resource: y",
            "s3:PutObjectTagging",
        ),
        ("Access Denied", "ec2:ImportImage"),
    ],
)
def test_sms_13_a_denied_call_names_the_action(message: str, action: str) -> None:
    error = from_answer("AccessDenied", message, 403, "could not start", action="ec2:ImportImage")
    assert isinstance(error, MissingPrivilegeError)
    assert error.where["action"] == action
    assert action in error.next_step


def test_an_encoded_authorization_message_is_left_out() -> None:
    message = "You are not authorized. Encoded authorization failure message: " + "A1b2" * 200
    assert "A1b2" not in str(from_answer("UnauthorizedOperation", message, 403, "could not"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (vendor.NoCredentialsError(), LoginError),
        (vendor.CredentialRetrievalError(provider="assume-role", error_msg="denied"), LoginError),
        (vendor.EndpointConnectionError(endpoint_url="https://s3"), UnreachableError),
        (vendor.ReadTimeoutError(endpoint_url="https://s3"), UnreachableError),
        (vendor.SSLError(endpoint_url="https://s3", error="certificate verify failed: self-signed"), TlsError),
        (vendor.SSLError(endpoint_url="https://s3", error="EOF occurred in violation of protocol"), UnreachableError),
        (vendor.ParamValidationError(report="Invalid type"), PermanentError),
    ],
)
def test_air_05_library_errors_become_our_errors(error: Exception, kind: type[WaveliftError]) -> None:
    with pytest.raises(WaveliftError) as caught, aws_errors("could not look", service="ec2", task="import-ami-1"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.where == {"task": "import-ami-1"}


def _made(kind: type[vendor.BotoCoreError]) -> vendor.BotoCoreError:
    """One of botocore's errors, with whatever its message wants."""
    wanted = {name for _, name, _, _ in string.Formatter().parse(kind.fmt) if name}
    return kind(**dict.fromkeys(wanted, "x"))


APART: Final = (vendor.SSLError, vendor.WaiterError)
"""One is told by its words, the other never met: nothing of ours waits in botocore's way."""
LIBRARY: Final = [
    each
    for _, each in sorted(vars(vendor).items())
    if isinstance(each, type) and issubclass(each, vendor.BotoCoreError) and each not in APART
]
CREDENTIALS: Final = re.compile(r"credential|token|sso|login|mfa|profile|imds|metadata ser", re.IGNORECASE)
PASSING: Final = (vendor.HTTPClientError, vendor.ConnectionError, vendor.IncompleteReadError)


@pytest.mark.parametrize("kind", LIBRARY, ids=lambda kind: kind.__name__)
def test_every_error_of_botocore_is_the_network_s_a_login_s_or_a_setting_s(kind: type[vendor.BotoCoreError]) -> None:
    """All that this botocore knows, not a list of ours: a lost login is never taken for a line that will come back."""
    with pytest.raises(WaveliftError) as caught, aws_errors("could not look", service="ec2"):
        raise _made(kind)
    error = caught.value
    damaged = (vendor.ChecksumError, vendor.FlexibleChecksumError, vendor.CapacityNotAvailableError)
    if issubclass(kind, (*PASSING, *damaged)):
        assert type(error) is UnreachableError
    elif CREDENTIALS.search(f"{kind.__name__} {kind.fmt}") and not issubclass(kind, vendor.ValidationError):
        assert type(error) is LoginError
        assert "Log in again" in error.next_step
    else:
        assert isinstance(error, PermanentError)
    assert error.next_step


def test_inv_13_an_answer_that_nobody_can_read_is_ours() -> None:
    with pytest.raises(UnreachableError), aws_errors("could not look", service="ec2"):
        raise ResponseParserError("Unable to parse response (syntax error): <html>")


def test_a_client_error_keeps_the_request_id_and_the_operation() -> None:
    answer = {
        "Error": {"Code": "UnauthorizedOperation", "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": 403, "RequestId": "req-1"},
    }
    with pytest.raises(MissingPrivilegeError) as caught, aws_errors("could not start", service="ec2"):
        raise vendor.ClientError(answer, "ImportImage")
    assert caught.value.where == {"action": "ec2:ImportImage", "request": "req-1"}


def _request() -> BulkRequest:
    return BulkRequest("PUT", "https://host/b/k?uploadId=secret-upload", "could not store part 7", "s3:PutObject")


def test_a_cut_and_a_bad_certificate_are_different_things() -> None:
    cut = connection_failure(_request(), urllib3.exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred")))
    assert (cut.trouble, type(cut.error)) == (Trouble.PASSING, UnreachableError)
    bad = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
    refused = connection_failure(_request(), urllib3.exceptions.SSLError(bad))
    assert (refused.trouble, type(refused.error)) == (Trouble.FINAL, TlsError)
    assert "secret-upload" not in str(refused.error)


def _failure(trouble: Trouble) -> Failure:
    return Failure(trouble, UnreachableError(trouble.value))


@pytest.mark.parametrize(("trouble", "allowed"), [(Trouble.DAMAGED, 1), (Trouble.EXPIRED, 3), (Trouble.FINAL, 0)])
def test_inv_9_tries_are_bounded_by_the_kind_of_trouble(trouble: Trouble, allowed: int) -> None:
    patience = Patience(RetryPolicy(base_s=0.001, cap_s=0.002), CancelFlag())
    for _ in range(allowed):
        patience.spend(_failure(trouble))
    with pytest.raises(UnreachableError, match=trouble.value):
        patience.spend(_failure(trouble))


class _Time(CancelFlag):
    """A clock that goes on only while somebody waits on the flag."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.is_set()


def test_inv_9_what_passes_by_itself_is_borne_for_half_an_hour_not_for_some_tries() -> None:
    time = _Time()
    patience = Patience(RetryPolicy(), time, clock=lambda: time.now)
    while time.now < 1000 + 10 * 60:
        patience.spend(_failure(Trouble.PASSING))  # an outage of ten minutes
    tries = 0
    with pytest.raises(UnreachableError, match="passing"):
        for tries in range(1000):  # noqa: B007
            patience.spend(_failure(Trouble.PASSING))
    assert 30 * 60 <= time.now - 1000 <= 30 * 60 + 20
    assert tries < 200, "and not in a hurry"


def test_inv_9_a_longer_wait_that_aws_asks_for_counts_as_well() -> None:
    time = _Time()
    patience = Patience(RetryPolicy(patience_s=60), time, clock=lambda: time.now)
    asked = Failure(Trouble.PASSING, UnreachableError("slow down"), retry_after_s=15)
    with pytest.raises(UnreachableError):
        for _ in range(20):
            patience.spend(asked)
    assert 60 <= time.now - 1000 <= 75


def test_pauses_double_up_to_the_cap_and_are_never_in_step() -> None:
    policy = RetryPolicy(base_s=1, cap_s=8)
    for failures, ceiling in ((1, 1), (2, 2), (4, 8), (9, 8)):
        pauses = {policy.pause(failures) for _ in range(20)}
        assert len(pauses) > 1
        assert all(ceiling / 2 <= pause <= ceiling for pause in pauses)


def test_a_cancel_ends_a_pause_at_once() -> None:
    cancel = CancelFlag()
    cancel.set()
    with pytest.raises(Cancelled):
        Patience(RetryPolicy(base_s=60, cap_s=60), cancel).spend(_failure(Trouble.PASSING))


def test_inv_10_keys_show_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys("AKIAVISIBLE", "very-secret", "session-token")
    access = AwsAccess(boto3.Session("AKIAVISIBLE", "very-secret", "session-token", "eu-west-1"))
    with caplog.at_level(logging.DEBUG):
        logging.getLogger().warning("%r %r %r", keys, access, access.credentials())
    for shown in (repr(keys), repr(access), caplog.text):
        assert not any(secret in shown for secret in ("AKIAVISIBLE", "very-secret", "session-token"))
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def _refreshing_access(results: list[str]) -> AwsAccess:
    """Credentials that botocore believes good for an hour, and what each refresh gives."""
    given = iter(results)

    def refresh() -> dict[str, str]:
        return {
            "access_key": next(given),
            "secret_key": "s",
            "token": "t",
            "expiry_time": "2099-01-01T00:00:00Z",
        }

    core = get_session()
    core._credentials = RefreshableCredentials.create_from_metadata(refresh(), refresh, method="test")
    return AwsAccess(boto3.Session(botocore_session=core, region_name="eu-west-1"))


def test_a_token_that_aws_calls_expired_is_refreshed_once_for_all_threads() -> None:
    access = _refreshing_access(["first", "second"])
    stale = access.credentials()
    access.renew(stale)
    assert access.credentials().access_key == "second"
    access.renew(stale)  # a second thread heard of the same expiry: a third refresh would raise StopIteration
    assert access.credentials().access_key == "second"


def test_no_region_and_no_credentials_are_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(LoginError, match="region"):
        AwsAccess(boto3.Session())
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(LoginError, match="no credentials"):
        AwsAccess(boto3.Session(), "eu-west-1").credentials()
