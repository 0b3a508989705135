"""Checks of signature version 4, as AWS makes them.

The canonical request is built from the received bytes. The tests compare with botocore's own signer.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from wavelift.simulators.aws.credentials import Credential, Credentials
from wavelift.simulators.aws.errors import QUERY_XML_SERVICES, AwsError
from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.message import Request

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MAX_SKEW: Final = 15 * 60.0
"""Seconds that the request's date may differ from now."""
AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/(\d{8})/([^/,\s]+)/([^/,\s]+)/aws4_request\s*,"
    r"\s*SignedHeaders=([^,\s]+)\s*,\s*Signature=([0-9a-f]{64})"
)
HEX_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Authorization:
    access_key: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str


def parse(header: str) -> Authorization | None:
    match = AUTHORIZATION.fullmatch(header.strip())
    if match is None:
        return None
    access_key, date, region, service, signed, signature = match.groups()
    return Authorization(access_key, date, region, service, tuple(signed.split(";")), signature)


class Verifier:
    """Accepts a request, or raises the error that its service answers with."""

    def __init__(self, credentials: Credentials, clock: Clock) -> None:
        self._credentials, self._clock = credentials, clock

    def verify(self, request: Request) -> Credential:
        service = request.service
        header = request.headers.get("authorization", "")
        if not header:
            raise _refusal(service, "missing")
        authorization = parse(header)
        if authorization is None:
            raise _refusal(service, "malformed")
        credential = self._credentials.find(authorization.access_key)
        if credential is None:
            raise _refusal(service, "unknown")
        if request.headers.get("x-amz-security-token", "") != credential.token:
            raise _refusal(service, "token")
        if self._credentials.expired(credential):
            raise _refusal(service, "expired")
        self._check_date(request, authorization)
        _check_signed_headers(request, authorization)
        expected = _signature(request, authorization, credential.secret_key)
        if not hmac.compare_digest(expected, authorization.signature):
            raise _refusal(service, "signature")
        return credential

    def _check_date(self, request: Request, authorization: Authorization) -> None:
        stamp = request.headers.get("x-amz-date", "")
        try:
            then = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise _refusal(request.service, "malformed") from None
        # The caller uses the machine's clock, which tests do not move.
        now = self._clock.now() - self._clock.offset
        if abs(then.timestamp() - now) > MAX_SKEW or not stamp.startswith(authorization.date):
            raise _refusal(request.service, "skew")


def _check_signed_headers(request: Request, authorization: Authorization) -> None:
    must = {name for name in request.headers if name.startswith("x-amz-")} | {"host"}
    unsigned = must - set(authorization.signed_headers)
    if unsigned and request.service == "s3":
        raise AwsError(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            403,
            {"HeadersNotSigned": ", ".join(sorted(unsigned))},
        )
    if "host" in unsigned:
        raise _refusal(request.service, "signature")


def _signature(request: Request, authorization: Authorization, secret: str) -> str:
    scope = f"{authorization.date}/{authorization.region}/{authorization.service}/aws4_request"
    canonical = _canonical_request(request, authorization)
    to_sign = "\n".join(
        (ALGORITHM, request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = _signing_key(secret, authorization.date, authorization.region, authorization.service)
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=256)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _canonical_request(request: Request, authorization: Authorization) -> str:
    raw = request.raw_path or "/"
    # S3 encodes the path once; the other services encode the encoded path again.
    path = quote(unquote(raw), safe="/-_.~") if request.service == "s3" else quote(raw, safe="/-_.~")
    pairs = (pair.partition("=") for pair in request.raw_query.split("&") if pair)
    query = "&".join(
        f"{name}={value}" for name, value in sorted((_encode(name), _encode(value)) for name, _, value in pairs)
    )
    headers = "".join(f"{name}:{_squeeze(request.headers.get(name, ''))}\n" for name in authorization.signed_headers)
    digest = request.headers.get("x-amz-content-sha256")
    if digest is None:
        digest = hashlib.sha256(request.body.content).hexdigest()
    return "\n".join((request.method, path, query, headers, ";".join(authorization.signed_headers), digest))


def _encode(text: str) -> str:
    return quote(unquote(text), safe="-_.~")


def _squeeze(value: str) -> str:
    return " ".join(value.split())


def signed_payload(request: Request) -> str | None:
    """The body's SHA-256 as hex if the signature covers the body, else None."""
    digest = request.headers.get("x-amz-content-sha256", "")
    return digest if HEX_SHA256.fullmatch(digest) else None


_S3: Final = {
    "missing": ("AccessDenied", "Access Denied", 403),
    "malformed": ("AuthorizationHeaderMalformed", "The authorization header is malformed.", 400),
    "unknown": (
        "InvalidAccessKeyId",
        "The AWS Access Key Id you provided does not exist in our records.",
        403,
    ),
    "token": ("InvalidToken", "The provided token is malformed or otherwise invalid.", 400),
    "expired": ("ExpiredToken", "The provided token has expired.", 400),
    "signature": (
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
        403,
    ),
    "skew": (
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
        403,
    ),
}
_EC2: Final = {
    "missing": ("MissingAuthenticationToken", "Request is missing Authentication Token", 403),
    "malformed": ("AuthFailure", "Authorization header or parameters are not formatted correctly.", 401),
    "unknown": ("AuthFailure", "AWS was not able to validate the provided access credentials", 401),
    "token": ("AuthFailure", "AWS was not able to validate the provided access credentials", 401),
    "expired": ("RequestExpired", "Request has expired.", 400),
    "signature": ("AuthFailure", "AWS was not able to validate the provided access credentials", 401),
    "skew": ("RequestExpired", "Request has expired.", 400),
}
_QUERY: Final = {
    "missing": ("MissingAuthenticationToken", "Request is missing Authentication Token", 403),
    "malformed": ("IncompleteSignature", "The request signature does not conform to AWS standards.", 403),
    "unknown": ("InvalidClientTokenId", "The security token included in the request is invalid.", 403),
    "token": ("InvalidClientTokenId", "The security token included in the request is invalid.", 403),
    "expired": ("ExpiredToken", "The security token included in the request is expired", 403),
    "signature": (
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method.",
        403,
    ),
    "skew": ("SignatureDoesNotMatch", "Signature expired", 403),
}
_JSON: Final = {
    "missing": ("MissingAuthenticationTokenException", "Missing Authentication Token", 403),
    "malformed": ("IncompleteSignatureException", "The request signature does not conform to AWS standards.", 403),
    "unknown": ("UnrecognizedClientException", "The security token included in the request is invalid.", 403),
    "token": ("UnrecognizedClientException", "The security token included in the request is invalid.", 403),
    "expired": ("ExpiredTokenException", "The security token included in the request is expired", 403),
    "signature": (
        "InvalidSignatureException",
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method.",
        403,
    ),
    "skew": ("InvalidSignatureException", "Signature expired", 403),
}


def _refusal(service: str, reason: str) -> AwsError:
    table = _S3 if service == "s3" else _EC2 if service == "ec2" else _QUERY if service in QUERY_XML_SERVICES else _JSON
    return AwsError(*table[reason])
