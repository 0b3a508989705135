"""A client of a vendor's REST API over HTTPS: TLS policy, proxy, login, patience, limits. It knows no vendor.

One call is one :class:`Ask`. :meth:`RestClient.send` logs in again once after a 401, bears what passes by itself for a
bounded time, and sends a call that must not happen twice only once. The vendor's words for an error are the caller's
business (``explain``).
"""

from __future__ import annotations

import itertools
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPSConnection

from wavelift.base.errors import (
    LoginError,
    SpecError,
    UnknownNameError,
    UnreachableError,
    UnsafeTextError,
    WaveliftError,
)
from wavelift.base.net import (
    CUTS,
    causes,
    explained_tls_error,
    ignoring_context,
    parse_thumbprint,
    pin,
    unreachable,
    verifying_context,
)
from wavelift.base.patience import PATIENCE_S, RetryPolicy
from wavelift.base.remote_text import header_value, host_name, request_target
from wavelift.base.rest_message import (
    THROTTLED,
    TRANSIENT,
    UNAUTHORIZED,
    Answer,
    Ask,
    Explain,
    LostAnswerError,
    UnreadableError,
    refused,
    segment,
)
from wavelift.base.run import CancelFlag
from wavelift.base.tunnel import Proxy, ProxyAway, ProxyRefused, bracketed, open_tunnel, proxy_error
from wavelift.base.units import KIB, MIB

log = logging.getLogger(__name__)

__all__ = [
    "CERTIFICATE_MODES",
    "HTTPS_PORT",
    "PAUSES",
    "Answer",
    "Ask",
    "CertificateMode",
    "Explain",
    "Login",
    "LostAnswerError",
    "RestClient",
    "RestPlace",
    "UnreadableError",
    "refused",
    "segment",
    "split_https",
]

HTTPS_PORT: Final = 443
CONNECT_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 60.0
"""For one answer. A busy manager takes seconds; a load balancer in front of it gives up after a minute."""
ANSWER_LIMIT: Final = 64 * MIB
"""Of one call. A page of 1000 objects has about 2 MB."""
PIECE: Final = 64 * KIB
CONNECTIONS: Final = 4
"""Kept open per client: the threads of one task."""
PAUSES: Final = RetryPolicy(base_s=0.5)
DOUBTFUL_S: Final = 60.0
"""A manager that starts says 500 for a while, but so it does of a request that it will never understand."""
CertificateMode = Literal["verify", "thumbprint", "ignore"]
CERTIFICATE_MODES: Final[tuple[CertificateMode, ...]] = ("verify", "thumbprint", "ignore")


@dataclass(frozen=True, kw_only=True)
class RestPlace:
    """Where an API is, and how to reach it.

    :param system: the vendor's name for it, as errors say it: ``NSX``, ``HCX``.
    :param host: name or address. :param base: path before every call's path, without a slash at its end.
    :param certificate_mode: as of :class:`~wavelift.adapters.vsphere.session.VsphereConfig`: ``verify``, ``thumbprint``
        (of ``thumbprint`` only), or ``ignore``, which logs a warning.
    :param ca_bundle: file or folder of PEM authorities, trusted beside the system's.
    :param proxy: ``http://user:password@host:port``; None uses none, whatever the environment says.
    :param patience_s: seconds for which a call bears what passes by itself. :param timeout_s: for one answer.
    """

    system: str
    host: str
    port: int = HTTPS_PORT
    base: str = ""
    certificate_mode: CertificateMode = "verify"
    thumbprint: str | None = None
    ca_bundle: str | None = None
    proxy: str | None = field(default=None, repr=False)
    patience_s: float = PATIENCE_S
    timeout_s: float = READ_TIMEOUT_S

    def __post_init__(self) -> None:
        host_name(self.host, f"the host of {self.system}")
        request_target(f"{self.base}/", f"the base path of {self.system}")
        if self.certificate_mode == "thumbprint" and not self.thumbprint:
            raise SpecError("certificate_mode is 'thumbprint' but no thumbprint is given", system=self.place)
        if self.thumbprint:
            parse_thumbprint(self.thumbprint)

    @property
    def place(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def connection_words(self) -> str:
        """What a reader corrects."""
        return f"the {self.system} connection"

    @property
    def http_proxy(self) -> Proxy | None:
        return Proxy.parse(self.proxy) if self.proxy else None

    def context(self) -> ssl.SSLContext:
        """:raises TlsError: the pinned thumbprint is not the presented one. :raises UnreachableError: no connection."""
        if self.certificate_mode == "ignore":
            log.warning(
                "certificate_mode=ignore: the certificate of %s %s is NOT checked, anybody in between can read the "
                "password and change what is sent",
                self.system,
                self.place,
            )
            return ignoring_context()
        if self.certificate_mode == "thumbprint":
            return pin(
                self.host,
                self.port,
                [self.thumbprint or ""],
                timeout=CONNECT_TIMEOUT_S,
                proxy=self.http_proxy,
                override=f"thumbprint of {self.connection_words}",
            )
        return verifying_context(self.ca_bundle)


def split_https(url: str, what: str) -> tuple[str, int, str]:
    """``https://host:port/base/`` → host, port, base path without the slash at its end.

    :param what: what the address is, for the error.
    :raises SpecError: it is no HTTPS address, or it has a login, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        fits = parts.scheme == "https" and "@" not in parts.netloc and not (parts.query or parts.fragment)
        if fits and host:
            request_target(f"{parts.path}/", what)
            return host_name(host, what), port or HTTPS_PORT, parts.path.rstrip("/")
    except (ValueError, UnsafeTextError):
        pass
    raise SpecError(f"{what} is no address of the form https://host[:port][/path]", next_step="Correct it")


SECRET_SHORTEST: Final = 8
"""Characters of a header's value that is looked for in answers: a shorter one stands there by chance."""
Login = Callable[["RestClient"], Mapping[str, str]]
"""Logs in and gives the headers that every call carries. It sends with ``signed=False``."""


class RestClient:
    """Thread safe. Use it as ``with RestClient(...) as client``, or close it.

    :param login: None: there is no session. :param headers: of every signed call, such as a Basic login.
    :param explain: the vendor's own errors; :func:`refused` is the rest.
    :param cancel: ends waits between two tries.
    """

    def __init__(
        self,
        place: RestPlace,
        *,
        login: Login | None = None,
        headers: Mapping[str, str] | None = None,
        explain: Explain = refused,
        cancel: CancelFlag | None = None,
    ) -> None:
        self.place = place
        self._login, self._fixed, self._explain = login, headers or {}, explain
        self._cancel = cancel or CancelFlag()
        self._lock = threading.RLock()
        self._headers: Mapping[str, str] | None = None
        self._refused: LoginError | None = None
        self._pool: urllib3.HTTPSConnectionPool | None = None
        self._met = False
        """Whether it ever answered: only then an unknown name is an outage of DNS, and not a wrong name."""
        self.logins = 0

    def __repr__(self) -> str:
        return f"RestClient({self.place.system} {self.place.place})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def send(self, ask: Ask, **where: object) -> Answer:
        """The answer to ``ask``: below 300, or of a status that it accepts.

        :param where: coordinates of an error.
        :raises LostAnswerError: it must not be sent twice, and nobody knows what it did.
        :raises UnreachableError, ThrottledError: for longer than the place's patience.
        :raises LoginError, TlsError: at once. :raises WaveliftError: as ``explain`` says.
        :raises Cancelled: between two tries.
        """
        began: float | None = None
        renewed = False
        for failures in itertools.count(1):
            self._cancel.check()
            logins, headers = self._signature(ask)
            problem: WaveliftError
            try:
                answer = self._once(ask, headers, where)
            except UnreachableError as error:
                problem, borne = error, self._borne(ask, error)
            else:
                if answer.status == UNAUTHORIZED and self._may_renew(ask) and not renewed:
                    renewed = True
                    self._renew(logins)
                    continue
                if answer.ok or answer.status in ask.accept:
                    return answer
                problem, borne = self._refusal(ask, answer, where)
            began = began or time.monotonic()
            if time.monotonic() - began >= borne:
                raise problem
            log.info("trying %s %s of %s again: %s", ask.method, ask.path, self.place.system, problem.what)
            self._cancel.wait(PAUSES.pause(failures))
        raise AssertionError

    # --- login ----------------------------------------------------------------------------------------------------

    def _may_renew(self, ask: Ask) -> bool:
        return ask.signed and self._login is not None

    def _signature(self, ask: Ask) -> tuple[int, Mapping[str, str]]:
        if not ask.signed:
            return 0, {}
        with self._lock:
            if self._refused is not None:  # a further try could lock the account
                raise self._refused
            if self._login is not None and self._headers is None:
                self._sign_in()
            return self.logins, {**self._fixed, **(self._headers or {})}

    def _renew(self, logins: int) -> None:
        """Log in again because the login number ``logins`` got a 401: once, however many threads ask."""
        with self._lock:
            if self.logins == logins:
                log.info("the session at %s %s has ended, logging in again", self.place.system, self.place.place)
                self._sign_in()

    def _sign_in(self) -> None:
        assert self._login is not None
        try:
            found = self._login(self)
        except LoginError as error:
            self._refused = error
            raise
        self._headers = {name: header_value(text, f"the header {name}") for name, text in found.items()}
        self.logins += 1

    # --- one try --------------------------------------------------------------------------------------------------

    def _borne(self, ask: Ask, error: UnreachableError) -> float:
        """For how long a failed connection is borne, in seconds."""
        if isinstance(error, LostAnswerError | UnreadableError) or (
            isinstance(error, UnknownNameError) and not self._met
        ):
            return 0.0
        return self.place.patience_s

    def _refusal(self, ask: Ask, answer: Answer, where: Mapping[str, object]) -> tuple[WaveliftError, float]:
        problem = self._explain(answer, {**self._where, **where})
        if isinstance(problem, LoginError) and ask.signed:
            self._refused = problem
        if answer.status not in TRANSIENT or isinstance(problem, LoginError):
            return problem, 0.0
        if not ask.repeatable and answer.status != THROTTLED:  # a gateway says it, whatever happened behind it
            return self._lost(ask, problem.what, where), 0.0
        return problem, min(self.place.patience_s, DOUBTFUL_S) if answer.status == 500 else self.place.patience_s

    def _lost(self, ask: Ask, why: str, where: Mapping[str, object]) -> LostAnswerError:
        return LostAnswerError(
            f"nobody knows what {ask.method} {ask.path} did: {why}",
            next_step=f"Look at {self.place.system} what is there, then try again",
            **{**self._where, **where},
        )

    @property
    def _where(self) -> dict[str, object]:
        return {self.place.system.lower(): self.place.place}

    def _once(self, ask: Ask, headers: Mapping[str, str], where: Mapping[str, object]) -> Answer:
        target = request_target(f"{self.place.base}{ask.target}", "the path")
        body, kind = ask.payload()
        told = {"Accept": "application/json", "User-Agent": "wavelift", **kind, **headers, **ask.headers}
        problem: WaveliftError
        try:
            response = self._open().urlopen(
                ask.method, target, body, told, retries=False, redirect=False, preload_content=False
            )
            data = _read(response)
        except (urllib3.exceptions.HTTPError, OSError, HTTPException) as error:
            problem = self._explained(ask, error, where)
        else:
            self._met = True
            if data is None:
                raise UnreadableError(
                    f"an answer of more than {ANSWER_LIMIT} bytes", next_step="", **{**self._where, **where}
                )
            names = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, names, _without(headers, data), self.place.system)
        raise problem

    def _open(self) -> urllib3.HTTPSConnectionPool:
        with self._lock:
            if self._pool is None:
                context, place = self.place.context(), self.place
                self._pool = urllib3.HTTPSConnectionPool(
                    place.host,
                    place.port,
                    timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, place.timeout_s), read=place.timeout_s),
                    maxsize=CONNECTIONS,
                    ssl_context=context,
                    # Else urllib3 compares the name where our context deliberately does not.
                    assert_hostname=None if context.check_hostname else False,
                )
                self._pool.ConnectionCls = _connection_through(place.http_proxy)
            return self._pool

    def _explained(self, ask: Ask, error: BaseException, where: Mapping[str, object]) -> WaveliftError:
        place, told = self.place, {**self._where, **where}
        found = list(causes(error))
        for each in found:
            if isinstance(each, ProxyRefused | ProxyAway):
                return proxy_error(each, where=place.connection_words, **told)
            if isinstance(each, ssl.SSLError) and not isinstance(each, (*CUTS, TimeoutError)):
                return explained_tls_error(
                    each,
                    place.host,
                    place.port,
                    timeout=CONNECT_TIMEOUT_S,
                    proxy=place.http_proxy,
                    override=f"certificate_mode (thumbprint, or ignore) of {place.connection_words}",
                )
        root = next((each for each in found if isinstance(each, OSError)), error)
        problem = unreachable(root, place.host, place.port)
        if ask.repeatable or any(isinstance(each, _NOT_SENT) for each in found):
            return type(problem)(problem.what, next_step=problem.next_step, **told)
        return self._lost(ask, problem.what, where)


def _read(response: urllib3.BaseHTTPResponse) -> bytes | None:
    """The body, as it was sent: we ask for none that is packed. None: it is too long.

    To its end: a single read of a body that is cut off gives its beginning, and no error.
    """
    data = bytearray()
    try:
        for piece in response.stream(PIECE, decode_content=False):
            data += piece
            if len(data) > ANSWER_LIMIT:
                response.close()
                return None
    finally:
        response.release_conn()
    return bytes(data)


def _without(login: Mapping[str, str], data: bytes) -> bytes:
    """An answer without our own login, which some programs repeat in their errors: what an error says is logged and
    kept."""
    for value in login.values():
        for secret in {value, value.rpartition(" ")[2]}:
            if len(secret) >= SECRET_SHORTEST:
                data = data.replace(secret.encode(), b"***")
    return data


_NOT_SENT: Final = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
"""urllib3's errors before there is a connection. An unknown name is one of them."""


def _connection_through(proxy: Proxy | None) -> type[HTTPSConnection]:
    """urllib3's connection, with our tunnel: urllib3's own throws away what the proxy says."""
    if proxy is None:
        return HTTPSConnection
    through = proxy

    class Tunnelled(HTTPSConnection):
        def _new_conn(self) -> Any:
            wait = self.timeout if isinstance(self.timeout, float | int) else CONNECT_TIMEOUT_S
            return open_tunnel(through, self.host, int(self.port or HTTPS_PORT), timeout=float(wait))

    return Tunnelled
