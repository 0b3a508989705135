"""Translates what AWS and its client library say into our own errors; nothing else does (invariant 13).

AWS's words are kept in ``what``, because people search for them. Keys, tokens and signatures are never kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from botocore import credentials, tokens
from botocore import exceptions as vendor
from botocore.parsers import ResponseParserError

from wavelift.adapters.aws.ways import certificate_refused, is_certificate_error, proxy_failure
from wavelift.base.errors import (
    BusyError,
    CorruptStreamError,
    LimitReachedError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    ProofError,
    ThrottledError,
    UnreachableError,
    WaveliftError,
)

LOG_IN: Final = (
    "Log in again where this task runs (aws sso login, aws login, the credential process), or renew the keys, profile "
    "or role of the AWS connection; then clear the task"
)

EXPIRED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
"""The session token is over: fresh credentials cure it, once."""

THROTTLE_CODES: Final = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "SnapshotCreationPerVolumeRateExceeded",
        "ConcurrentLimitExceededException",
        "TransactionInProgressException",
    }
)
"""A slower pace cures them. ``RequestLimitExceeded`` is EC2's throttling, not a count limit."""

DAMAGED_CODES: Final = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ChecksumMismatch"}
)
"""AWS computed another digest than the one we sent: the bytes changed on the way, or the digest was never theirs."""

_LOGIN_CODES: Final = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotSignedUp",
        "OptInRequired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_DENIED_CODES: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedOperation", "403", "Forbidden"}
)
_LIMIT_CODES: Final = frozenset(
    {
        "AddressLimitExceeded",
        "InsufficientFreeAddressesInSubnet",
        "InsufficientInstanceCapacity",
        "LimitExceededException",
        "MaxSpotInstanceCountExceeded",
        "PendingSnapshotLimitExceeded",
        "ResourceCountLimitExceeded",
        "ServiceQuotaExceededException",
        "SnapshotLimitExceeded",
    }
)
_LIMIT_SUFFIX: Final = "LimitExceeded"
"""``InstanceLimitExceeded``, ``VcpuLimitExceeded``, ``VolumeLimitExceeded`` … share it."""

_BUSY_CODES: Final = frozenset(
    {
        "ConditionalRequestConflict",
        "IncorrectInstanceState",
        "IncorrectState",
        "InvalidNetworkInterface.InUse",
        "InvalidSnapshot.InUse",
        "InvalidSnapshot.State",
        "OperationAborted",
        "ResourceInUse",
    }
)
_MISSING_CODES: Final = frozenset(
    {
        "404",
        "InvalidArnException",
        "InvalidConversionTaskId",
        "InvalidConversionTaskId.Malformed",
        "InvalidExportTaskID.Malformed",
        "NoSuchBucket",
        "NoSuchChange",
        "NoSuchEntity",
        "NoSuchHostedZone",
        "NoSuchKey",
        "NoSuchVersion",
        "NotFound",
        "NotFoundException",
        "ResourceNotFoundException",
    }
)
_MISSING_SUFFIXES: Final = (".NotFound", "NotFound", ".Unknown")
_WRONG_REGION_CODES: Final = frozenset(
    {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
)
_REQUEST_TIMEOUTS: Final = frozenset({"RequestTimeout", "RequestTimeoutException"})
"""S3 waited for our bytes in vain; it says so with 400."""
CONFLICT_CODES: Final = frozenset({"CONFLICTING_BLOCK_UPDATE"})
"""What a put meets that is sent again while AWS still works on the first: that ends by itself, soon."""
_MOMENTARY_CODES: Final = frozenset(
    {
        "IDPCommunicationError",
        "InternalError",
        "InternalFailure",
        "InternalServerException",
        *_REQUEST_TIMEOUTS,
    }
)

_S3_ACTIONS: Final = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CompleteMultipartUpload": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectsV2": "s3:ListBucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "UploadPart": "s3:PutObject",
}
"""Operations of S3 whose permission has another name."""

_NAMED_ACTION: Final = re.compile(r"not authorized to perform:? ([a-z0-9-]+:[A-Za-z]+)")
_ENCODED_MESSAGE: Final = re.compile(r"Encoded authorization failure message: .*", re.DOTALL)


class UploadGoneError(WaveliftError):
    """The multipart upload does not exist any more: somebody aborted or completed it. A retry begins a new one."""


class StaleTokenError(WaveliftError):
    """The token of a snapshot block expired: list the blocks again."""


class SnapshotGoneError(WaveliftError):
    """The unfinished EBS snapshot takes no blocks any more: deleted, cancelled by AWS for inactivity, or no longer
    pending. A new one is needed, under a new client token; a retry of the same one can't help."""


class ParentRefusedError(WaveliftError):
    """AWS makes no child of this parent snapshot: the disk needs a seed. ``reason`` names why, in one word."""

    @property
    def reason(self) -> str:
        """``gone``, ``unfinished``, ``grown``, ``encryption`` (by default, and the parent is not), ``refused``."""
        return str(self.where.get("reason", ""))


class TokenSpentError(WaveliftError):
    """The client token started another snapshot before, with other parameters or deleted since: take the next one."""


class ObjectChangedError(WaveliftError):
    """An object was replaced while it was being read."""


def action_name(service: str, operation: str) -> str:
    """The IAM action behind an API operation: ``("s3", "UploadPart")`` → ``s3:PutObject``."""
    if service == "s3" and operation in _S3_ACTIONS:
        return _S3_ACTIONS[operation]
    return f"{service}:{operation}" if service else operation


def error_code(error: vendor.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def error_message(error: vendor.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))


def error_status(error: vendor.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_missing(code: str) -> bool:
    return code in _MISSING_CODES or code.endswith(_MISSING_SUFFIXES)


def is_limit(code: str) -> bool:
    return code not in THROTTLE_CODES and (code in _LIMIT_CODES or code.endswith(_LIMIT_SUFFIX))


def passes(code: str, status: int) -> bool:
    """Whether time alone cures an error answer: throttling, and a fault inside AWS or on the way there."""
    if is_limit(code):  # EC2 says with 500 that it has no room for an instance type
        return False
    return code in THROTTLE_CODES | _MOMENTARY_CODES | CONFLICT_CODES or status == 429 or status >= 500


def from_answer(
    code: str, message: str, status: int, what: str, *, action: str = "", next_step: str = "", **where: object
) -> WaveliftError:
    """An error answer of AWS as one of ours.

    :param what: what was being done, e.g. ``"could not store part 7"``; AWS's words are appended.
    :param action: the IAM action that the call needs, for the message about a missing one.
    """
    kind, hint = _verdict(code, status)
    said = _ENCODED_MESSAGE.sub("", message).strip()
    text = f"{what}: AWS says {code or status}" + (f" ({said})" if said else "")
    if kind is MissingPrivilegeError:
        named = _NAMED_ACTION.search(message)
        needed = named.group(1) if named else action
        where = {"action": needed or None, **where}
        hint = f"Allow {needed or 'the call'} to the identity of this connection (wavelift iam show)"
    return kind(text.rstrip("."), next_step=next_step or hint, **where)


def _verdict(code: str, status: int) -> tuple[type[WaveliftError], str]:
    """Error type and default advice of a code, most specific first."""
    for codes, kind, hint in _VERDICTS:
        if code in codes:
            return kind, hint
    if is_missing(code):
        return NotFoundError, "Check the name, the region and whether somebody deleted it"
    if is_limit(code):
        return LimitReachedError, "Wait for a free place, or have the quota raised"
    if status == 429:
        return ThrottledError, _THROTTLE_HINT
    if status >= 500 or status == 0:
        return UnreachableError, "AWS had an internal fault; try again"
    return PermanentError, "The request itself is wrong for this account or region; read AWS's words"


_THROTTLE_HINT: Final = "Lower the number of parallel transfers, or try again later"
_VERDICTS: Final[tuple[tuple[frozenset[str], type[WaveliftError], str], ...]] = (
    (
        EXPIRED_CODES,
        LoginError,
        f"The session token is expired even after a refresh. {LOG_IN}",
    ),
    (_LOGIN_CODES, LoginError, "Check the credentials of the AWS connection, its region and this machine's clock"),
    (_DENIED_CODES, MissingPrivilegeError, ""),
    (THROTTLE_CODES, ThrottledError, _THROTTLE_HINT),
    (
        DAMAGED_CODES,
        ProofError,
        "The bytes changed between this machine and AWS: check the network path and memory, then transfer again",
    ),
    (_WRONG_REGION_CODES, PermanentError, "The bucket is in another region: it must be in the region of the import"),
    (frozenset({"NoSuchUpload"}), UploadGoneError, "Run the export again; it begins a new upload"),
    (
        frozenset({"InvalidPart"}),
        BusyError,
        "Another try of this export overwrote a part; a retry compares them all and sends that one again",
    ),
    (frozenset({"INVALID_BLOCK_TOKEN"}), StaleTokenError, "List the snapshot's blocks again"),
    (
        frozenset({"WRITE_REQUEST_TIMEOUT", "INVALID_SNAPSHOT_ID"}),
        SnapshotGoneError,
        "Start a new snapshot for this disk; what this one held is lost",
    ),
    (
        frozenset({"INVALID_BLOCK"}),
        ProofError,
        "AWS got another block than the one that was read: check network path and memory, then transfer again",
    ),
    (
        CONFLICT_CODES,
        BusyError,
        "Another try sends the same block: a retry goes on once that has ended",
    ),
    (frozenset({"InvalidRange"}), CorruptStreamError, "The object is shorter than it was: export this disk again"),
    (frozenset({"PreconditionFailed"}), ObjectChangedError, "Another process wrote this object; start again"),
    (_BUSY_CODES, BusyError, "Wait until the other operation on it has ended"),
    (_MOMENTARY_CODES, UnreachableError, "AWS had an internal fault; try again"),
)


def from_client_error(error: vendor.ClientError, what: str, *, next_step: str = "", **where: object) -> WaveliftError:
    """A botocore error answer as one of ours."""
    request = error.response.get("ResponseMetadata", {}).get("RequestId")
    if request:
        where = {**where, "request": request}
    return from_answer(
        error_code(error),
        error_message(error),
        error_status(error),
        what,
        action=action_name(str(where.pop("service", "")), error.operation_name),
        next_step=next_step,
        **where,
    )


def _raised_by(*modules: ModuleType) -> tuple[type[vendor.BotoCoreError], ...]:
    """The errors that these modules of botocore work with."""
    found = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    return tuple(each for each in found if issubclass(each, vendor.BotoCoreError))


_CREDENTIAL_ERRORS: Final = (
    *_raised_by(credentials, tokens),
    vendor.ConfigParseError,
    vendor.InvalidIMDSEndpointError,
    vendor.InvalidIMDSEndpointModeError,
    vendor.NoAuthTokenError,
    vendor.NoCredentialsError,
    vendor.ProfileNotFound,
    vendor.SSOError,
)
"""Whatever botocore's providers of credentials raise (SSO, login, processes, profiles, metadata), and what the signer
and the session say where there are none. Nobody's network is at fault: somebody must log in."""
_PASSING: Final = (
    vendor.CapacityNotAvailableError,
    vendor.ChecksumError,
    vendor.ConnectionError,
    vendor.FlexibleChecksumError,
    vendor.HTTPClientError,
    vendor.IncompleteReadError,
    ResponseParserError,
)
"""No answer, a cut one, or one that is not AWS's: what may be otherwise at the next try. All else stays as it is."""


def from_library_error(error: BaseException, what: str, *, next_step: str = "", **where: object) -> WaveliftError:
    """What botocore raises without an answer of AWS (no connection, no credentials, wrong call) as one of ours."""
    if isinstance(error, vendor.ClientError):
        return from_client_error(error, what, next_step=next_step, **where)
    where.pop("service", None)
    text = f"{what}: {error}".rstrip(".")
    if is_certificate_error(error):
        return certificate_refused(error, text, next_step=next_step, **where)
    if (refused := proxy_failure(error)) is not None:
        return type(refused)(f"{what}: {refused.what}", next_step=next_step or refused.next_step, **where)
    if isinstance(error, _PASSING):
        hint = "Check the way from this machine to the AWS endpoint (DNS, proxy, firewall), then try again"
        return UnreachableError(text, next_step=next_step or hint, **where)
    if isinstance(error, _CREDENTIAL_ERRORS):
        return LoginError(text, next_step=next_step or LOG_IN, **where)
    hint = "Correct the setting or value that botocore refuses: the AWS connection, its configuration or the spec"
    return PermanentError(text, next_step=next_step or hint, **where)


@contextmanager
def aws_errors(what: str, *, service: str = "", next_step: str = "", **where: object) -> Iterator[None]:
    """Translate what botocore raises inside.

    :param what: what was being done, e.g. ``"could not start the import"``.
    :param service: service name, for the name of a missing permission.
    """
    try:
        yield
    except (vendor.ClientError, vendor.BotoCoreError, ResponseParserError) as error:
        raise from_library_error(error, what, next_step=next_step, service=service, **where) from error
