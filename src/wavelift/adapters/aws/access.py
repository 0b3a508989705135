"""One AWS account and region through one connection: clients, endpoints and a credentials provider.

Keys are never kept: a transfer outlives them. Every request asks the provider, botocore's refreshable credentials, for
keys that are valid now.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
)
from botocore.utils import get_environ_proxies

from wavelift.adapters.aws.errors import EXPIRED_CODES, LOG_IN, THROTTLE_CODES, from_library_error, passes
from wavelift.adapters.aws.models import share_models
from wavelift.adapters.aws.ways import is_certificate_error, refused_login
from wavelift.base.errors import LoginError, ProxyLoginError, SpecError, TlsError, UnreachableError, WaveliftError
from wavelift.base.net import ca_path, is_private
from wavelift.base.patience import PATIENCE_S, RetryPolicy
from wavelift.base.printable import without_login
from wavelift.base.run import CancelFlag

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 60.0
CONTROL_ATTEMPTS: Final = 6
"""Tries of one control call; botocore's standard mode waits up to 20 s between them. In a task that can be called off,
a service that has answered it before is borne with for :attr:`AwsAccess.patience_s` instead: one that never did may be
a wrong name or a closed firewall, which no time cures."""
WAITS_ELSEWHERE: Final = frozenset({"ConcurrentLimitExceededException"})
"""Throttling by name, a count limit in fact: whoever meets it waits without holding a worker."""
ONCE: Final[dict[str, tuple[str, ...]]] = {"ec2": ("CreateInstanceExportTask", "CreateSnapshots")}
"""Service → calls without a client token: sent again after an answer that got lost, they would do their work twice.
Who makes such a call looks for its work by tag before the next try."""
NEVER_SENT: Final = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)
"""What botocore raises where no connection was made."""
TRIES_TO_TELL: Final = 6
"""A control call that failed so often waits for an outage: that is told once."""
EXPIRED_TRIES: Final = 2
"""Refreshes of an expired token within one control call."""
PROVIDER_ERRORS: Final = (BotoCoreError, ClientError, AttributeError, OSError, RuntimeError, TypeError, ValueError)
"""What looking for credentials may raise: botocore lets through what a credential process's absence, and its JSON of
another shape, raise in Python."""
_INVALID_ENDPOINT: Final = "Invalid endpoint"
"""How botocore's ValueError about an address begins."""
POOL_SIZE: Final = 64
"""Connections kept per client: disks in parallel x uploads in parallel, with room."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials for one request; never logged, stored or pickled."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False, default=None)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("credentials are not pickled")


@dataclass(frozen=True, slots=True)
class Outages:
    """How long AWS may be silent.

    :param patience_s: seconds for which what passes by itself is borne, per call.
    :param cancel: the task's wish to stop. Without one nobody could end the wait of a control call, and botocore's few
        tries must do.
    :param proven: AWS has answered an earlier task of the run: silence is an outage from the first call on.
    """

    patience_s: float = PATIENCE_S
    cancel: CancelFlag | None = None
    proven: bool = False


DEFAULT_OUTAGES: Final = Outages()


class AwsAccess:
    """Clients for one session, region and endpoint; safe to share between threads.

    :param session: carries the credentials; made by the Airflow hook, or plain ``boto3.Session()``.
    :param endpoint_url: another endpoint for every service (simulator), or a function that gives one service's
        (``s3``, ``ec2`` …; VPC endpoints); None: AWS's own.
    :param verify: True (or None or nothing, as hooks say it), or the path of a CA bundle; False only where somebody
        asked for it aloud.
    :param config: botocore settings of the connection; its proxies, time-outs and retries win over ours.
    """

    def __init__(
        self,
        session: boto3.Session,
        region: str | None = None,
        endpoint_url: str | Callable[[str], str | None] | None = None,
        verify: bool | str | None = True,
        config: Config | None = None,
        outages: Outages = DEFAULT_OUTAGES,
    ) -> None:
        share_models(session)
        self._session = session
        self.region: str = region or session.region_name or ""
        self.endpoint_url = endpoint_url
        self.verify = _verification(verify)
        self.patience_s = outages.patience_s
        self._cancel = outages.cancel
        self._proven = outages.proven
        self._obeyed = threading.local()
        self._answered: set[str] = set()
        """Services that have answered a control call."""
        self._given_config = config
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        if not self.region:
            raise LoginError("no AWS region is set", next_step="Set region_name in the AWS connection or environment")
        if self.verify is False:
            log.warning("TLS certificates of AWS are NOT verified (verify=False) in region %s", self.region)

    def __repr__(self) -> str:
        return f"AwsAccess(region={self.region!r})"

    @property
    def cancel(self) -> CancelFlag:
        """What ends the waits of this thread's calls."""
        flag: CancelFlag | None = getattr(self._obeyed, "cancel", None)
        return flag or self._cancel or CancelFlag()

    @contextmanager
    def obeying(self, cancel: CancelFlag) -> Iterator[None]:
        """Meanwhile this thread's calls wait no longer than until ``cancel``, a child of the task's: a guard that ends
        a part of the work must not be kept waiting by an outage of AWS."""
        before = getattr(self._obeyed, "cancel", None)
        self._obeyed.cancel = cancel
        try:
            yield
        finally:
            self._obeyed.cancel = before

    def client(self, service: str) -> Any:
        """The shared boto3 client of a service: one retry layer, explicit time-outs.

        :raises LoginError: the profile or the credentials chain is broken.
        """
        with self._lock:  # making clients from one session is not thread-safe
            if service not in self._clients:
                try:
                    self._clients[service] = self._make_client(service)
                except BotoCoreError as error:
                    raise from_library_error(error, f"could not make a client for {service}") from error
                except PROVIDER_ERRORS as error:  # it looks for credentials already
                    if str(error).startswith(_INVALID_ENDPOINT):
                        raise SpecError(
                            f"{service}: {without_login(str(error), bare=True)}",
                            next_step="Correct endpoint_url of the AWS connection; it begins with https://",
                        ) from error
                    raise credential_failure(error) from error
            return self._clients[service]

    def _make_client(self, service: str) -> Any:
        client = self._session.client(
            service,
            region_name=self.region,
            endpoint_url=self.endpoint_url(service) if callable(self.endpoint_url) else self.endpoint_url,
            verify=self.verify,
            config=self._config(),
        )
        if not is_private(client.meta.endpoint_url):
            raise SpecError(
                f"The endpoint of {service} is plain HTTP to another machine; session tokens are sent over HTTPS only",
                next_step="Give the address that begins with https:// (endpoint_url of the AWS connection)",
                endpoint=client.meta.endpoint_url,
            )
        # Of the service, not of all: botocore asks its own retry rule, which is the service's, before those of all.
        name = client.meta.service_model.service_id.hyphenize()
        client.meta.events.register_first(f"needs-retry.{name}", _refuse_damaged)
        client.meta.events.register_first(f"needs-retry.{name}", _end_lasting)
        for operation in ONCE.get(service, ()):
            client.meta.events.register_first(f"needs-retry.{name}.{operation}", _end_unanswered)
        client.meta.events.register_first("needs-retry", self._retry_expired)
        if self._cancel is not None:
            client.meta.events.register_first("needs-retry", self._bear)
        client.meta.events.register_first("before-call", self._look_for_credentials)
        return client

    def _bear(
        self,
        response: tuple[Any, dict[str, Any]] | None,
        operation: Any,
        caught_exception: Exception | None = None,
        request_dict: dict[str, Any] | None = None,
        **_: object,
    ) -> int | None:
        """Instead of botocore's count of tries: wait for what passes by itself, as long as there is patience.

        Returns the pause that is left in seconds, or None for "not my case".
        :raises Cancelled: the task was asked to stop meanwhile.
        """
        service = operation.service_model.service_name
        why = _passing(response, caught_exception)
        if not why:
            if response is not None:
                self._answered.add(service)
            return None
        cancel = self.cancel
        cancel.check()
        if not self._proven and service not in self._answered:
            return None
        story = (request_dict or {}).get("context", {}).setdefault("wavelift", {"since": time.monotonic(), "tries": 0})
        lasted = time.monotonic() - story["since"]
        if lasted >= self.patience_s:
            return None
        story["tries"] += 1
        pause = RetryPolicy(self.patience_s).pause(story["tries"])
        level = logging.WARNING if story["tries"] == TRIES_TO_TELL else logging.DEBUG
        log.log(level, "%s of %s: %s; tried again for %.0f s", operation.name, service, why, self.patience_s - lasted)
        cancel.wait(pause)
        cancel.check()
        return 0

    def _look_for_credentials(self, **_: object) -> None:
        """Before each call of boto3: what its signer would meet then may be anything that a provider or a credential
        process raises. Nothing is sent without them, and nothing is tried again for want of them.
        """
        self.credentials()

    def _retry_expired(
        self, response: tuple[Any, dict[str, Any]] | None, attempts: int, operation: Any, **_: object
    ) -> int | None:
        """botocore's retries don't know an expired token: refresh, and let it sign and send again at once.

        The answer to a HEAD has no body: there an expired token is a bare 400.
        Returns the pause in seconds, or None for "not my case".
        """
        code = response[1].get("Error", {}).get("Code") if response else None
        expired = code in EXPIRED_CODES or (code == "400" and str(operation.name).startswith("Head"))
        if not expired or attempts > EXPIRED_TRIES:
            return None
        self.renew(self.credentials())
        return 0

    def _config(self) -> Config:
        ours = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": CONTROL_ATTEMPTS},
            max_pool_connections=POOL_SIZE,
            user_agent_extra="wavelift",
        )
        return ours.merge(self._given_config) if self._given_config else ours

    def timeouts(self) -> tuple[float, float]:
        """Connect and read time-out in seconds, for our own client."""
        config = self._config()
        return float(config.connect_timeout), float(config.read_timeout)

    def proxy_for(self, url: str) -> str | None:
        """The proxy for a URL: the connection's, else the environment's (``HTTPS_PROXY``, ``NO_PROXY``)."""
        proxies = (self._given_config.proxies if self._given_config else None) or get_environ_proxies(url)
        found = proxies.get(url.partition("://")[0])
        return str(found) if found else None

    def credentials(self) -> Keys:
        """What is valid now; refreshed by botocore when it is about to expire.

        :raises LoginError: there are none, or they can't be refreshed until somebody logs in.
        :raises UnreachableError: nobody refused, but STS, SSO or another giver did not answer. So for ThrottledError.
        """
        try:
            source = self._session.get_credentials()
            frozen = source.get_frozen_credentials() if source else None
        except PROVIDER_ERRORS as error:
            raise credential_failure(error) from error
        if not frozen or not frozen.access_key:
            raise LoginError(
                "the AWS connection has no credentials", next_step=f"Give it keys, a profile or a role. {LOG_IN}"
            )
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    def renew(self, stale: Keys) -> None:
        """Refresh at once, although the local clock thinks that ``stale`` is still good.

        Several threads hear of the same expiry together; only the first refreshes. Keys that can't be refreshed stay.

        :raises LoginError: the refresh failed.
        """
        source = self._session.get_credentials()
        if not isinstance(source, RefreshableCredentials):
            return
        with self._lock:
            if self.credentials() == stale:
                # botocore has no public way to force it. The refresh itself must be botocore's, under its own lock:
                # two at once would mix the halves of two keys.
                source._expiry_time = datetime.now(UTC)
                self.credentials()


def _refuse_damaged(response: tuple[Any, dict[str, Any]] | None, operation: Any, **_: object) -> None:
    """Turn a damaged success into a 502, so that it is tried again like one and never believed.

    botocore takes a body that was cut off, or that is not JSON (the page of a proxy), for an answer without members:
    a list of blocks would seem to end there.
    """
    if response is None or response[0].status_code >= 300 or operation.has_streaming_output:
        return
    http, parsed = response
    if operation.http.get("method") != "HEAD" and _is_damaged(http, operation.service_model.resolved_protocol):
        http.status_code = 502
        parsed.clear()
        parsed |= {
            "Error": {"Code": "502", "Message": "the answer was cut off or is not AWS's"},
            "ResponseMetadata": {"HTTPStatusCode": 502},
        }


def _end_lasting(caught_exception: Exception | None = None, **_: object) -> None:
    """End a call whose failure a retry can't cure. botocore would send a refused password to the proxy six times,
    which can lock the account."""
    if caught_exception is not None and (is_certificate_error(caught_exception) or refused_login(caught_exception)):
        raise caught_exception


def _end_unanswered(
    response: tuple[Any, dict[str, Any]] | None,
    operation: Any,
    caught_exception: Exception | None = None,
    **_: object,
) -> None:
    """End a call of :data:`ONCE` that AWS may have carried out: no answer, or a fault inside AWS. A refusal, and a
    connection that was never made, are tried again as ever."""
    if caught_exception is not None and not isinstance(caught_exception, NEVER_SENT):
        raise caught_exception
    if response is None:
        return
    http, parsed = response
    code = str(parsed.get("Error", {}).get("Code", ""))
    if http.status_code >= 500 and code not in THROTTLE_CODES:
        raise ClientError(parsed, operation.name)


def _is_damaged(http: Any, protocol: str) -> bool:
    body: bytes = http.content
    length = http.headers.get("content-length", "")
    if length.isdigit() and not http.headers.get("content-encoding") and len(body) < int(length):
        return True
    if not body or "json" not in protocol:
        return False  # botocore's XML parser refuses by itself what it can't read
    try:
        json.loads(body)
    except ValueError:
        return True
    return False


def _passing(response: tuple[Any, dict[str, Any]] | None, error: Exception | None) -> str:
    """What time alone cures, in words; empty for anything else, success included."""
    if error is not None:
        lost = isinstance(error, ConnectionError | HTTPClientError)
        lasting = lost and (is_certificate_error(error) or refused_login(error))
        return type(error).__name__ if lost and not lasting else ""
    if response is None:
        return ""
    http, parsed = response
    code = str(parsed.get("Error", {}).get("Code", ""))
    return code or str(http.status_code) if code not in WAITS_ELSEWHERE and passes(code, http.status_code) else ""


def _verification(verify: bool | str | None) -> bool | str:
    """What ``verify`` means: off only for a plain False (or 0); an empty field of a form is no such wish."""
    if verify in (None, "", True):
        # boto3 given True forgets the variable; given None it would read it only for its own connections.
        return os.environ.get("AWS_CA_BUNDLE") or True
    return str(ca_path(str(verify))) if verify else False


def credential_failure(error: Exception) -> WaveliftError:
    """What a session or a refresh raised, without the request that it sent.

    An outage of a minute must not pass for a lost login: that would end a transfer of days.
    """
    doing = "could not get AWS credentials"
    if isinstance(error, BotoCoreError | ClientError):
        found = from_library_error(error, doing, service="sts")
        if found.retryable or isinstance(found, TlsError | ProxyLoginError):
            return found
    elif isinstance(error, TimeoutError | ConnectionError):
        return UnreachableError(f"{doing}: {error}", next_step="Check the way to whoever gives the credentials")
    return LoginError(f"{doing}: {error}".rstrip("."), next_step=LOG_IN)
