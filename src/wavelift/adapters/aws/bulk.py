"""The client for calls that carry bytes. It signs each try with fresh credentials and is their only retry layer.

It retries cut connections, time-outs, 5xx and throttling (together for a bounded time), an expired token (after a
refresh) and damaged bytes (once). It does not retry what a retry cannot cure (invariant 9).
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import urlsplit
from xml.etree import ElementTree

import urllib3
from urllib3.exceptions import HTTPError

from wavelift.adapters.aws.access import POOL_SIZE, AwsAccess, Keys
from wavelift.adapters.aws.connections import POOLS, Call, pool_through, tls_context
from wavelift.adapters.aws.errors import (
    DAMAGED_CODES,
    EXPIRED_CODES,
    from_answer,
    passes,
)
from wavelift.adapters.aws.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, Scope, sign
from wavelift.adapters.aws.ways import certificate_refused, is_certificate_error, proxy_failure
from wavelift.base.errors import ThrottledError, UnreachableError, WaveliftError
from wavelift.base.net import https_connection
from wavelift.base.patience import RetryPolicy
from wavelift.base.remote_text import request_head
from wavelift.base.run import CancelFlag
from wavelift.base.tunnel import Proxy
from wavelift.base.units import KIB
from wavelift.base.wire import Answer
from wavelift.transfer.throttle import Pace

log = logging.getLogger(__name__)

SEND_SLICE: Final = 256 * KIB
"""A body goes out in slices: a socket's time-out spans one ``sendall``, and a cancel is noticed between them."""
PACED_SLICE: Final = 64 * KIB
"""Under a throttle: S3 gives up a request that is silent for 20 s, and several parts share the rate."""
RENEWALS: Final = 3
"""Refreshes of an expired token for one call; more means that the refresh itself gives expired tokens."""
TELL_AFTER_S: Final = 30.0
TELL_EVERY_S: Final = 60.0
"""An outage is told in the log once it is one, and then from time to time: many calls meet it together."""
TELLING_REASONS: Final = frozenset(
    {
        "CONFLICTING_BLOCK_UPDATE",
        "INVALID_BLOCK",
        "INVALID_BLOCK_TOKEN",
        "INVALID_SNAPSHOT_ID",
        "WRITE_REQUEST_TIMEOUT",
    }
)
"""EBS direct's reasons that say what to do next where its code (``ValidationException`` …) does not."""
DAMAGED_TRIES: Final = 2
"""A flipped bit on the way is cured by sending again; a wrong digest never is."""


class Trouble(Enum):
    """What kind of failure a try ended in: decides whether and how long it is tried again."""

    PASSING = "passing"
    """A cut line, a time-out, 5xx, throttling: time cures it."""
    EXPIRED = "expired"
    DAMAGED = "damaged"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try."""

    trouble: Trouble
    error: WaveliftError
    code: str = ""
    retry_after_s: float = 0.0
    keys: Keys | None = None
    """What the try was signed with."""


class Patience:
    """What is left of the policy for one call.

    :param clock: seconds, monotonic.
    """

    def __init__(self, policy: RetryPolicy, cancel: CancelFlag, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._cancel = cancel
        self._clock = clock
        self._counts = dict.fromkeys(Trouble, 0)
        self._since: float | None = None
        """When the call first met what passes by itself."""

    def spend(self, failure: Failure) -> None:
        """Wait before the next try.

        :raises WaveliftError: the failure's own error, when another try is not worth it.
        :raises Cancelled: the flag was set while waiting.
        """
        self._cancel.check()  # the failure may be its echo
        self._counts[failure.trouble] += 1
        if self._exhausted(failure.trouble):
            raise failure.error
        seconds = max(self._policy.pause(sum(self._counts.values())), failure.retry_after_s)
        log.debug("trying again in %.1f s: %s", seconds, failure.error.what)
        self._cancel.wait(min(seconds, self._policy.cap_s))
        self._cancel.check()

    def lasted(self) -> float:
        """Seconds since the call first met what passes by itself; 0 when it did not."""
        return 0.0 if self._since is None else self._clock() - self._since

    def _exhausted(self, trouble: Trouble) -> bool:
        if trouble is Trouble.PASSING:
            now = self._clock()
            if self._since is None:
                self._since = now
            return now - self._since >= self._policy.patience_s
        allowed = {Trouble.EXPIRED: RENEWALS + 1, Trouble.DAMAGED: DAMAGED_TRIES}
        return self._counts[trouble] >= allowed.get(trouble, 0)


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """One call: where, what, and how to speak of it.

    :param sha256: digest of ``body``, already computed by the caller; raw bytes.
    :param doing: for messages, e.g. ``"could not store part 7"``.
    :param action: IAM action, for the message about a missing one.
    :param throttle: paces the body on the wire.
    :param where: coordinates for messages.
    :param unsigned: the operation leaves its body out of the signature (``v4-unsigned-body`` in AWS's model), as its
        checksum is a signed header; only over TLS, as botocore does it.
    """

    method: str
    url: str
    doing: str
    action: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | bytearray | memoryview | None = None
    sha256: bytes = b""
    throttle: Pace | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    unsigned: bool = False
    at_most: int | None = None
    """Bytes that a good answer may have; None: as many as AWS sends."""

    def payload_hash(self) -> str:
        """What the signature says of the body."""
        if self.unsigned and self.url.startswith("https:"):
            return UNSIGNED_PAYLOAD
        return self.sha256.hex() if self.body is not None else EMPTY_SHA256

    def failed(self, code: str, message: str, status: int) -> WaveliftError:
        return from_answer(code, message, status, self.doing, action=self.action, **self.where)


class BulkClient:
    """Signed requests of one service over pooled connections; safe to share between threads.

    :param connections: kept open, per host: as many as threads send at the same time.
    """

    def __init__(
        self, access: AwsAccess, service: str, *, policy: RetryPolicy | None = None, connections: int = POOL_SIZE
    ) -> None:
        self._access = access
        self._connections = connections
        self._service = service
        self.policy = policy or RetryPolicy(patience_s=access.patience_s)
        connect, read = access.timeouts()
        self._timeout = urllib3.Timeout(connect=connect, read=read)
        self._context = tls_context(access.verify)
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._told_at = -TELL_EVERY_S

    def send(
        self, request: BulkRequest, cancel: CancelFlag, *, after: Failure | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The answer, its body read.

        :param after: how a try that was made elsewhere failed: it counts as the first one.
        :raises WaveliftError: one of ours, after the policy is used up.
        :raises Cancelled: the flag was set.
        """
        return self._send(request, cancel, preload=True, after=after)

    def open(self, request: BulkRequest, cancel: CancelFlag) -> urllib3.BaseHTTPResponse:
        """Like :meth:`send`, but the body is left on the wire: the caller reads it and closes the answer."""
        return self._send(request, cancel, preload=False)

    def close(self) -> None:
        """Close idle connections."""
        for pool in self._pools.values():
            pool.clear()

    # -- for a caller that has connections of its own -------------------------------------------------------------

    @property
    def silence_s(self) -> float:
        """Seconds without a byte after which a request is given up."""
        return self._access.timeouts()[1]

    def can_dial(self, url: str) -> bool:
        """Whether :meth:`dial` leads there: directly, or through a tunnel that an HTTP proxy makes."""
        proxy = self._access.proxy_for(url)
        return proxy is None or (url.startswith("https:") and urlsplit(proxy).scheme in ("", "http"))

    def keys(self) -> Keys:
        """What is valid now, to sign with; blocks while it is refreshed.

        :raises LoginError: there are none.
        """
        return self._access.credentials()

    def dial(self, url: str) -> socket.socket:
        """A new connection to a URL's host.

        :raises OSError: none, or none that is trusted; :raises HTTPException: the proxy gives no tunnel.
        """
        place = urlsplit(url)
        timeout = self._access.timeouts()[0]
        host, port = str(place.hostname), place.port or (443 if place.scheme == "https" else 80)
        if place.scheme != "https":
            return socket.create_connection((host, port), timeout)
        proxy = self._access.proxy_for(url)
        connection = https_connection(
            host,
            port,
            self._context,
            timeout=timeout,
            proxy=None if proxy is None else Proxy.parse(proxy, default_port=80),
        )
        connection.connect()
        return cast(socket.socket, connection.sock)

    def head(self, request: BulkRequest, keys: Keys) -> bytes:
        """The signed request up to its body, as it goes over the wire. Nothing here blocks."""
        headers = self._signed(request, keys)
        return request_head(request.method, request.url[_path_at(request.url) :], headers)

    # -- tries ----------------------------------------------------------------------------------------------------

    def _send(
        self, request: BulkRequest, cancel: CancelFlag, *, preload: bool, after: Failure | None = None
    ) -> urllib3.BaseHTTPResponse:
        patience = Patience(self.policy, cancel)
        failure = after
        while True:
            if failure is not None:
                patience.spend(failure)
                self._tell(failure, patience)
            cancel.check()
            try:
                keys = self._keys_after(failure)
            except (ThrottledError, UnreachableError) as error:
                failure = Failure(Trouble.PASSING, error)
                continue
            try:
                answer = self._once(request, keys, cancel, preload=preload)
                if answer.status < 300:
                    return answer
                failure = read_failure(request, answer, keys)
            except (HTTPError, OSError) as error:
                failure = connection_failure(request, error, proxy=self._access.proxy_for(request.url))

    def _tell(self, failure: Failure, patience: Patience) -> None:
        lasted, now = patience.lasted(), time.monotonic()
        if lasted >= TELL_AFTER_S and now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            left = max(0.0, self.policy.patience_s - lasted)
            log.warning("%s; since %.0f s, tried again for %.0f s more", failure.error.what, lasted, left)

    def _keys_after(self, failure: Failure | None) -> Keys:
        if failure is not None and failure.trouble is Trouble.EXPIRED and failure.keys is not None:
            self._access.renew(failure.keys)
        return self._access.credentials()

    def _once(self, request: BulkRequest, keys: Keys, cancel: CancelFlag, *, preload: bool) -> urllib3.BaseHTTPResponse:
        headers = self._signed(request, keys)
        call = Call(cancel)
        with call:
            answer = self._pool(request.url).request(
                request.method,
                request.url,
                body=None if request.body is None else _slices(request.body, cancel, request.throttle),
                headers=headers,
                retries=False,
                redirect=False,
                timeout=self._timeout,
                preload_content=preload and request.at_most is None,
                decode_content=False,
            )
            if preload and answer.status < 300 and request.at_most is not None:
                _read_body(request, answer, request.at_most)
            return answer

    def _signed(self, request: BulkRequest, keys: Keys) -> dict[str, str]:
        headers = sign(
            request.method,
            request.url,
            request.headers,
            payload_hash=request.payload_hash(),
            scope=Scope(keys, self._access.region, self._service),
        )
        headers["User-Agent"] = "wavelift"
        if request.body is not None:
            headers["Content-Length"] = str(memoryview(request.body).nbytes)
        return headers

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections for a URL: direct, or through its proxy, which is looked up once per host and not for
        every request."""
        place = url[: _path_at(url)]
        pool = self._pools.get(place)
        if pool is None:
            pool = self._make_pool(self._access.proxy_for(url))
            pool.pool_classes_by_scheme = POOLS
            pool = self._pools.setdefault(place, pool)  # two threads may race: the loser's has no connection yet
        return pool

    def _make_pool(self, proxy: str | None) -> urllib3.PoolManager:
        return pool_through(proxy, maxsize=self._connections, ssl_context=self._context)


def _read_body(request: BulkRequest, answer: urllib3.BaseHTTPResponse, at_most: int) -> None:
    """Read an answer that may not be longer than a limit: S3's and EBS's say how long they are before they begin.

    :raises UnreachableError: it is longer, or does not say: no answer of AWS.
    """
    said = answer.headers.get("Content-Length", "")
    if not said.isdecimal() or int(said) > at_most:
        answer.close()
        raise UnreachableError(
            f"{request.doing}: the answer has {said or 'an unknown number of'} bytes where {at_most} are due",
            next_step="A proxy on the way may have answered: go around it, then try again",
            **request.where,
        )
    _ = answer.data  # an answer that is cut meanwhile is tried again, as one that is read at once


def _path_at(url: str) -> int:
    return url.index("/", len("https://"))


def _slices(body: bytes | bytearray | memoryview, cancel: CancelFlag, throttle: Pace | None) -> Iterator[bytes]:
    # urllib3's types know bytes only; its sockets take any buffer, and a view spares a copy.
    view = memoryview(body).cast("B")
    length = PACED_SLICE if throttle and throttle.limited else SEND_SLICE
    for start in range(0, len(view), length):
        cancel.check()
        part = view[start : start + length]
        if throttle:
            throttle.take(len(part), cancel)
        yield cast(bytes, part)


def connection_failure(request: BulkRequest, error: Exception, *, proxy: str | None = None) -> Failure:
    """No answer: refused, cut, timed out, no tunnel, or a certificate that nobody vouches for.

    :param proxy: the URL of the one that the request was to go through.
    """
    text = f"{request.doing}: {_without_url(error)}".rstrip(".")
    if is_certificate_error(error):
        return Failure(Trouble.FINAL, certificate_refused(error, text, **request.where))
    if (refused := proxy_failure(error, url=request.url, proxy=proxy)) is not None:
        trouble = Trouble.PASSING if refused.retryable else Trouble.FINAL
        text = f"{request.doing}: {refused.what}"
        return Failure(trouble, type(refused)(text, next_step=refused.next_step, **request.where))
    hint = "Check the way from this machine to the AWS endpoint (DNS, proxy, firewall), then try again"
    return Failure(Trouble.PASSING, UnreachableError(text, next_step=hint, **request.where))


def _without_url(error: Exception) -> str:
    """urllib3's words without its object reprs; a URL of ours can carry an upload id and a block token."""
    return f"{type(error).__name__}: {str(error).rpartition('>: ')[2].partition(' (url=')[0]}"


def read_failure(request: BulkRequest, answer: urllib3.BaseHTTPResponse | Answer, keys: Keys | None = None) -> Failure:
    """What an error answer means for the next try.

    :param keys: what the request was signed with.
    """
    code, message = _error_of(answer.headers, answer.data)
    status = answer.status
    error = request.failed(code, message, status)
    return Failure(_trouble(code, status), error, code, _retry_after(answer.headers), keys)


def _trouble(code: str, status: int) -> Trouble:
    if code in EXPIRED_CODES:
        return Trouble.EXPIRED
    if code in DAMAGED_CODES:
        return Trouble.DAMAGED
    return Trouble.PASSING if passes(code, status) else Trouble.FINAL


def _error_of(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """Code and message of S3's XML or of a REST-JSON service; empty where there are none."""
    if body.lstrip()[:1] == b"<":
        try:
            tree = ElementTree.fromstring(body)
        except ElementTree.ParseError:
            return "", ""
        return tree.findtext("Code", ""), tree.findtext("Message", "")
    try:
        said = json.loads(body or b"{}")
    except ValueError:
        said = None
    if not isinstance(said, dict):  # a proxy's answer, not AWS's
        said = {}
    code = str(headers.get("x-amzn-ErrorType") or said.get("__type") or said.get("code") or "")
    message = str(said.get("message") or said.get("Message") or "")
    reason = said.get("Reason")
    if reason in TELLING_REASONS:
        return reason, message
    return code.partition(":")[0].rpartition("#")[2], f"{reason}: {message}" if reason else message


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
