"""A client of a vendor's REST API over HTTPS: TLS policy, proxy, login, patience, limits. It knows no vendor.

One call is one :class:`Ask`. :meth:`RestClient.send` logs in again once after a 401, bears what passes by itself for a
bounded time, and sends a call that must not happen twice only once. The vendor's words for an error are the caller's
business (``explain``).
"""

from __future__ import annotations

import itertools
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPException
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

import urllib3
from urllib3.connection import HTTPSConnection

from wavelift.base.errors import (
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    SpecError,
    ThrottledError,
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
from wavelift.base.printable import printable
from wavelift.base.remote_text import header_value, host_name, request_target
from wavelift.base.run import CancelFlag
from wavelift.base.tunnel import Proxy, ProxyAway, ProxyRefused, bracketed, open_tunnel, proxy_error
from wavelift.base.units import MIB

log = logging.getLogger(__name__)

HTTPS_PORT: Final = 443
CONNECT_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 60.0
"""For one answer. A busy manager takes seconds; a load balancer in front of it gives up after a minute."""
ANSWER_LIMIT: Final = 64 * MIB
"""Of one call. A page of 1000 objects has about 2 MB."""
WORDS_LONGEST: Final = 1000
"""Characters of a vendor's words in an error."""
CONNECTIONS: Final = 4
"""Kept open per client: the threads of one task."""
PAUSES: Final = RetryPolicy(base_s=0.5)
TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
DOUBTFUL_S: Final = 60.0
"""A manager that starts says 500 for a while, but so it does of a request that it will never understand."""
THROTTLED: Final = 429
UNAUTHORIZED: Final = 401

CertificateMode = Literal["verify", "thumbprint", "ignore"]
CERTIFICATE_MODES: Final[tuple[CertificateMode, ...]] = ("verify", "thumbprint", "ignore")


class LostAnswerError(UnreachableError):
    """A call that must not be sent twice was sent, and its answer did not come. Look what it did, then decide."""


class UnreadableError(UnreachableError):
    """The answer is not this API's: no JSON, too long, or without a field that every answer has."""


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


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    :param path: below the place's base, percent-encoded: see :func:`segment`.
    :param body: sent as JSON; None sends none. :param form: sent as an HTML form in its place.
    :param accept: statuses from 400 on that are no error.
    :param again: whether it may be sent twice. None: if it is a GET. Say True for what sets a state, or only reads.
    :param signed: whether it carries the login. False for the login itself.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    form: Mapping[str, str] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    accept: frozenset[int] = frozenset()
    again: bool | None = None
    signed: bool = True

    @property
    def repeatable(self) -> bool:
        return self.method == "GET" if self.again is None else self.again

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.query, quote_via=quote)}" if self.query else self.path

    def payload(self) -> tuple[bytes | None, dict[str, str]]:
        """The bytes and their type."""
        if self.form is not None:
            return urlencode(self.form).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
        if self.body is None:
            return None, {}
        return json.dumps(self.body).encode(), {"Content-Type": "application/json"}


def segment(text: str) -> str:
    """``text`` as one segment of a path: a slash in it does not lead elsewhere.

    :raises UnsafeTextError: it is empty, or leads to another folder.
    """
    if text in {"", ".", ".."}:
        raise UnsafeTextError(f"'{text}' cannot be a part of the address of a request", next_step="Nothing was sent")
    return quote(text, safe="")


@dataclass(frozen=True)
class Answer:
    """An answer that was read completely."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    data: bytes = field(repr=False)
    system: str = ""

    @property
    def ok(self) -> bool:
        return self.status < 400

    def json(self) -> Any:
        """The body; None if there is none. :raises UnreadableError: it is no JSON."""
        if not self.data.strip():
            return None
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as error:
            raise UnreadableError(
                f"the answer is not {self.system}'s: no JSON, but {self.data[:40]!r}",
                next_step="Check host, port and path: a proxy or another program may answer there",
                status=self.status,
            ) from error

    def object(self) -> dict[str, Any]:
        """The body as an object; empty if there is none. :raises UnreadableError: it is something else."""
        found = self.json()
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise UnreadableError(f"the answer is not {self.system}'s: no JSON object", status=self.status)
        return found

    @cached_property
    def error_fields(self) -> dict[str, Any]:
        """The fields of an error: of a JSON object, or of XML ``<entry><string>name</string><string>text</string>``
        (HCX, while it starts). Empty if it is neither. Never raises."""
        try:
            found = json.loads(self.data)
            return found if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            return _xml_entries(self.data)

    def words(self) -> str:
        """The vendor's words, if they are where vendors put them; else the beginning of the body."""
        fields = self.error_fields
        texts = [fields.get(name) for name in ("error_message", "message", "errorMessage", "error")]
        texts += [one.get("message") for one in _objects(fields.get("errors"))]
        said = "; ".join(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))
        return printable(said or self.data[:WORDS_LONGEST].decode("utf-8", "replace").strip(), WORDS_LONGEST)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _xml_entries(data: bytes) -> dict[str, Any]:
    # A document type could define entities, which make a short text long.
    if not data.lstrip().startswith(b"<") or b"<!" in data:
        return {}
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return {}
    pairs = ([child.text or "" for child in entry] for entry in root.iter("entry"))
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) >= 2}


Explain = Callable[[Answer, Mapping[str, object]], WaveliftError]
"""A refused call (an answer from 400 on) as an error of ours, with these coordinates."""
Login = Callable[["RestClient"], Mapping[str, str]]
"""Logs in and gives the headers that every call carries. It sends with ``signed=False``."""


def refused(answer: Answer, where: Mapping[str, object]) -> WaveliftError:
    """What a status says in every API."""
    said = f"{answer.system} answers {answer.status}: {answer.words()}".rstrip(": ")
    told = {**where, "status": answer.status}
    if answer.status == UNAUTHORIZED:
        return LoginError(
            f"{answer.system} refused the login ({said})",
            next_step="Correct the connection; nothing is tried again by itself, as that may lock the account",
            **told,
        )
    if answer.status == 403:
        return MissingPrivilegeError(said, next_step="Give the account of the connection the right to it", **told)
    if answer.status == 404:
        return NotFoundError(said, next_step="Look whether it still exists, and under this name", **told)
    if answer.status == THROTTLED:
        return ThrottledError(said, next_step="A later try may succeed", **told)
    if answer.status in TRANSIENT:
        return UnreachableError(said, next_step=f"Look at {answer.system}'s health; a later try may succeed", **told)
    return WaveliftError(said, next_step=f"Look at {answer.system}'s own log of this call", **told)


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
        """The answer to ``ask``: below 400, or of a status that it accepts.

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
        if isinstance(error, LostAnswerError) or (isinstance(error, UnknownNameError) and not self._met):
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
            try:
                # One byte more than allowed tells a longer answer. It is not unpacked: we ask for none that is packed.
                data = response.read(ANSWER_LIMIT + 1, decode_content=False)
            finally:
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, HTTPException) as error:
            problem = self._explained(ask, error, where)
        else:
            self._met = True
            if len(data) > ANSWER_LIMIT:
                raise UnreadableError(
                    f"an answer of more than {ANSWER_LIMIT} bytes", next_step="", **{**self._where, **where}
                )
            names = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, names, data, self.place.system)
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
