"""A signed-in vCenter session: TLS policy, time-outs, keepalive, and a second login for reads.

One :class:`ssl.SSLContext` serves SOAP and downloads. A call goes through :meth:`VsphereSession.read`, which signs in
again once when the session has ended and repeats a cut call once, or through :meth:`VsphereSession.change`, which
never repeats: the caller looks what the lost call did, then decides.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from pyVmomi import vim

from wavelift.adapters.vsphere.faults import TEXT_LONGEST, VENDOR_ERRORS, translate
from wavelift.adapters.vsphere.soap import Endpoint, make_stub, negotiate
from wavelift.adapters.vsphere.vddk import VddkConfig
from wavelift.base.errors import GuardError, LoginError, SpecError, WaveliftError
from wavelift.base.net import (
    CUTS,
    explained_tls_error,
    ignoring_context,
    leads_inside,
    parse_thumbprint,
    pin,
    qualify,
    unreachable,
    verifying_context,
)
from wavelift.base.patience import PATIENCE_S
from wavelift.base.printable import printable
from wavelift.base.remote_text import header_value, host_name
from wavelift.base.tunnel import Proxy

log = logging.getLogger(__name__)

T = TypeVar("T")

KEEPALIVE_S: Final = 240.0
"""vCenter ends a session idle for 30 minutes, some sites set 10; a CurrentTime costs about a millisecond."""

TIMEOUT_S: Final = 60.0
"""Per socket operation. Longer than any single wait of ours (``properties.WAIT_S``)."""

LOGOUT_TIMEOUT_S: Final = 10.0
"""For ending the keepalive and for signing out."""

OVERRIDE: Final = "certificate_mode (thumbprint, or ignore) of the vSphere connection"


@dataclass(frozen=True, kw_only=True)
class VsphereConfig:
    """How to reach one vCenter.

    :param ca_bundle: file or folder of PEM authorities, trusted beside the system's (SMS-15).
    :param certificate_mode: ``verify``; ``thumbprint`` trusts exactly the certificate of ``thumbprint`` (SHA-256 or
        SHA-1); ``ignore`` trusts anybody and logs so.
    :param esxi_mode: for hosts that serve downloads (AMP-12): ``vcenter`` trusts the thumbprints that vCenter reports,
        ``ca`` the authorities, ``pin`` those of ``esxi_thumbprints``, ``ignore`` anybody, loudly.
    :param esxi_addresses: host as vCenter names it → the address at which the connector reaches it: behind NAT, or
        where its DNS knows them not. Certificates are still checked by the name.
    :param proxy: ``http://user:password@host:port``; None uses none, whatever the environment says.
    :param vddk: for reading disks through VDDK, where the customer has it.
    :param patience_s: seconds for which a reader bears what passes by itself.
    :param timeout: seconds per socket operation. :param keepalive: seconds between two signs of life.
    """

    host: str
    username: str
    password: str = field(repr=False)
    port: int = 443
    ca_bundle: str | None = None
    certificate_mode: Literal["verify", "thumbprint", "ignore"] = "verify"
    thumbprint: str | None = None
    esxi_mode: Literal["vcenter", "ca", "pin", "ignore"] = "vcenter"
    esxi_thumbprints: tuple[str, ...] = ()
    esxi_addresses: Mapping[str, str] = field(default_factory=dict, hash=False)
    proxy: str | None = field(default=None, repr=False)
    dns_suffixes: tuple[str, ...] = ()
    vddk: VddkConfig | None = None
    patience_s: float = PATIENCE_S
    timeout: float = TIMEOUT_S
    keepalive: float = KEEPALIVE_S

    def __post_init__(self) -> None:
        if self.certificate_mode == "thumbprint" and not self.thumbprint:
            raise SpecError("certificate_mode is 'thumbprint' but no thumbprint is given")
        if self.esxi_mode == "pin" and not self.esxi_thumbprints:
            raise SpecError("esxi_mode is 'pin' but no esxi_thumbprints are given")
        for digits in (*([self.thumbprint] if self.thumbprint else []), *self.esxi_thumbprints):
            parse_thumbprint(digits)

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"

    def esxi_address(self, host: str) -> str:
        """Where to reach an ESXi host in place of its name; empty: by the name."""
        return next((at for name, at in self.esxi_addresses.items() if name.casefold() == host.casefold()), "")

    def esxi_name(self, host: str) -> str:
        """The name to call an ESXi host by. vCenter tells ``host``; only ``esxi_addresses`` are the connection's own.

        :raises NotFoundError: it does not resolve, and no address is given for it.
        :raises GuardError: it leads to this machine or to a metadata service, and the vCenter does not.
        :raises UnsafeTextError: it is no name of a machine.
        """
        host_name(host, "the name of an ESXi host")
        if self.esxi_address(host):
            return host
        name = qualify(host, self.dns_suffixes)
        if (why := leads_inside(name)) and not leads_inside(self.host):
            raise GuardError(
                f"vCenter names '{host}' as an ESXi host, but {why}",
                next_step="Nothing was sent there. If the host is right, set its address in esxi_addresses of the "
                "vSphere connection",
                vcenter=self.place,
            )
        return name

    @property
    def http_proxy(self) -> Proxy | None:
        return Proxy.parse(self.proxy) if self.proxy else None


@dataclass(frozen=True, slots=True)
class About:
    """What vCenter says of itself."""

    full_name: str
    version: str
    build: str
    api_version: str
    instance_uuid: str
    api_type: str = ""
    """``VirtualCenter``, or ``HostAgent`` for an ESXi host."""


def tls_context(config: VsphereConfig) -> ssl.SSLContext:
    """The context for vCenter itself.

    :raises TlsError: the pinned thumbprint is not the presented one. :raises UnreachableError: no connection.
    """
    if config.certificate_mode == "ignore":
        log.warning(
            "certificate_mode=ignore: the certificate of vCenter %s is NOT checked, anybody in between can read the "
            "password and the disks",
            config.place,
        )
        return ignoring_context()
    if config.certificate_mode == "thumbprint":
        known = [config.thumbprint or ""]
        proxy = config.http_proxy
        return pin(
            config.host,
            config.port,
            known,
            timeout=config.timeout,
            proxy=proxy,
            override="thumbprint of the vSphere connection",
        )
    return verifying_context(config.ca_bundle)


def connect(config: VsphereConfig) -> VsphereSession:
    """Sign in; use as ``with connect(config) as session``.

    :raises TlsError: the certificate is refused; says why and what overrides it (SMS-16).
    :raises LoginError: never retried. :raises UnreachableError: no answer.
    """
    session = VsphereSession(config, tls_context(config))
    session._open()
    return session


class VsphereSession:
    """Thread safe. Objects made under one login (collectors, leases) end with it: see :attr:`generation`."""

    about: About
    content: Any

    def __init__(self, config: VsphereConfig, context: ssl.SSLContext) -> None:
        self.config = config
        self.context = context
        self.generation = 0
        """Counts logins; a lease of an older login is lost."""
        self._login_lock = threading.Lock()
        self._login_refused: WaveliftError | None = None
        self._user: Any = None
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"vsphere-keepalive-{config.host}", daemon=True)
        self._stub: Any = None

    def __repr__(self) -> str:
        return f"VsphereSession({self.config.username}@{self.config.place})"

    # --- life -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        config = self.config
        where = {"vcenter": config.place}
        version = self._attempt(lambda: negotiate(self._endpoint, timeout=config.timeout), where)
        self._stub = self._make_stub(version, timeout=config.timeout)
        try:
            self.content = self._attempt(
                lambda: self.managed(vim.ServiceInstance, "ServiceInstance").RetrieveContent(), where
            )
            about = self.content.about
            self.about = About(
                full_name=printable(about.fullName or about.name or "", TEXT_LONGEST),
                version=printable(about.version or "", TEXT_LONGEST),
                build=printable(about.build or "", TEXT_LONGEST),
                api_version=printable(about.apiVersion or "", TEXT_LONGEST),
                instance_uuid=printable(about.instanceUuid or "", TEXT_LONGEST),
                api_type=printable(about.apiType or "", TEXT_LONGEST),
            )
            self._login()
        except WaveliftError:
            self._stub.DropConnections()
            raise
        self._keeper.start()

    def close(self) -> None:
        """Sign out and close all sockets; never raises."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._keeper.is_alive() and self._keeper is not threading.current_thread():
            self._keeper.join(LOGOUT_TIMEOUT_S)
        if self._stub is None:
            return
        # A new connection with a short time-out: a vCenter that hangs must not hold up the end of a task.
        self._stub.DropConnections()
        self._stub.schemeArgs["timeout"] = min(self.config.timeout, LOGOUT_TIMEOUT_S)
        try:
            self.content.sessionManager.Logout()
        except VENDOR_ERRORS as error:
            log.info(
                "vCenter %s: sign-out failed (%s); the session ends by itself", self.config.place, type(error).__name__
            )
        self._stub.DropConnections()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _keep(self) -> None:
        while not self._stop.wait(self.config.keepalive):
            try:
                self.read(self.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
            except LoginError as error:
                log.error("keepalive of vCenter %s stops: %s", self.config.place, error)
                return
            except WaveliftError as error:
                log.warning("keepalive of vCenter %s failed, trying on: %s", self.config.place, error)

    def _login(self) -> None:
        if self._login_refused is not None:
            raise self._login_refused
        where = {"vcenter": self.config.place, "user": self.config.username}
        self._stub.cookie = ""
        try:
            self._user = self._attempt(
                lambda: self.content.sessionManager.Login(self.config.username, self.config.password), where
            )
        except LoginError as error:
            self._login_refused = error
            raise
        self.generation += 1

    def renew(self, generation: int) -> None:
        """Sign in again because a download under the login ``generation`` got a 401; once, however many threads ask."""
        with self._login_lock:
            if self.generation == generation and not self._stop.is_set():
                log.info("the session at vCenter %s has ended, signing in again", self.config.place)
                self._login()

    # --- calls ----------------------------------------------------------------------------------------------------

    def clock_ahead(self) -> timedelta:
        """How far vCenter's clock is ahead of this machine's, to within a round trip: times that vCenter states
        (a snapshot's creation) are by its own.
        """
        asked = datetime.now(UTC)
        theirs: datetime = self.read(self.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
        answered = datetime.now(UTC)
        return theirs - (asked + (answered - asked) / 2)

    @property
    def user(self) -> str:
        """The name that vCenter knows us by."""
        return str(self._user.userName or self.config.username)

    @property
    def session_key(self) -> str:
        """vCenter's id of this login; what privilege checks ask about."""
        return str(self._user.key)

    @property
    def cookie(self) -> str:
        """``vmware_soap_session=…`` for downloads, without attributes. A secret.

        :raises UnsafeTextError: vCenter set one that cannot be a header.
        """
        return header_value(str(self._stub.cookie).split(";", 1)[0].strip(), "the session's cookie")

    def managed(self, kind: Any, moref: str, stub: Any = None) -> Any:
        """The managed object ``moref``; no call is made."""
        return kind(moref, stub or self._stub)

    def read(self, call: Callable[[], T], **where: object) -> T:
        """Run ``call``, which must change nothing; once more after a new login or a cut connection.

        :raises WaveliftError: in our words; ``where`` are its coordinates.
        """
        generation = self.generation
        problem: WaveliftError | None = None
        ended = False
        try:
            return call()
        except vim.fault.NotAuthenticated:
            ended = True
        except CUTS as error:
            log.info("vCenter %s: a read was cut (%s), reading again", self.config.place, type(error).__name__)
        except VENDOR_ERRORS as error:
            problem = self._explain(error, where)
        if problem is not None:
            raise problem
        if ended:
            self.renew(generation)
        return self._attempt(call, where)

    def change(self, call: Callable[[], T], **where: object) -> T:
        """Run ``call`` exactly once. After an :class:`UnreachableError` its effect is unknown: look, then decide."""
        return self._attempt(call, where)

    def _attempt(self, call: Callable[[], T], where: dict[str, Any]) -> T:
        problem: WaveliftError
        try:
            return call()
        except VENDOR_ERRORS as error:
            problem = self._explain(error, where)
        raise problem

    def _explain(self, error: BaseException, where: dict[str, Any]) -> WaveliftError:
        config = self.config
        if isinstance(error, ssl.SSLError) and not isinstance(error, CUTS):
            return explained_tls_error(
                error, config.host, config.port, timeout=config.timeout, proxy=config.http_proxy, override=OVERRIDE
            )
        if isinstance(error, OSError):
            problem = unreachable(error, config.host, config.port)
            return type(problem)(problem.what, next_step=problem.next_step, **{"vcenter": config.place, **where})
        return translate(error, **where)

    # --- further connections --------------------------------------------------------------------------------------

    def _make_stub(self, version: str, *, timeout: float, cookie: str = "") -> Any:
        return make_stub(self._endpoint, timeout=timeout, version=version, cookie=cookie)

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.config.host, self.config.port, self.context, self.config.http_proxy)

    @contextmanager
    def own_connection(self, *, timeout: float) -> Iterator[Any]:
        """A second stub in the same session, so that a slow call on the first cannot delay this one."""
        stub = self._make_stub(self._stub.version, timeout=timeout, cookie=self._stub.cookie)
        try:
            yield stub
        finally:
            stub.DropConnections()
