"""Reads the disks of a snapshot through an NFC lease.

While the lease is held, vCenter refuses PowerOn, Destroy and Migrate of the VM. A thread of its own keeps the lease
alive over its own connection, so that a slow disk cannot end it. If the lease ends or the run is cancelled, all readers
are cut off at once and learn the reason.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pyVmomi import vim, vmodl

from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.esxi import OVERRIDE as ESXI_OVERRIDE
from wavelift.adapters.vsphere.esxi import esxi_context
from wavelift.adapters.vsphere.faults import VENDOR_ERRORS, moref, translate, words
from wavelift.adapters.vsphere.nfc import Address, Body, Target, disk_address, lease_address, target_of
from wavelift.adapters.vsphere.properties import Values, Wait, read_one, watch
from wavelift.adapters.vsphere.session import OVERRIDE, VsphereSession
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import (
    BusyError,
    CorruptStreamError,
    GuardError,
    NotFoundError,
    UnreachableError,
    WaveliftError,
    located,
)
from wavelift.base.net import CUTS, addresses_of, candidates, explained_tls_error, unreachable
from wavelift.base.run import CancelFlag

log = logging.getLogger(__name__)

T = TypeVar("T")

READY_TIMEOUT_S: Final = 300.0
BUSY_WAIT_S: Final = 330.0
"""A VM that is busy is asked for again this long: the lease of a killed process holds it until it times out, after five
minutes."""

BUSY_POLL_S: Final = 5.0
BEAT_S: Final = 30.0
"""At most so long between two signs of life, and never longer than a quarter of the lease's time-out."""

_HOST_NAMES: Final = ("name", "config.network.vnic", "config.network.consoleVnic")
"""Where a host may be reached, as vCenter knows it."""

POLL_S: Final = 0.25
"""How soon a cancel is seen."""

BEAT_TIMEOUT_S: Final = 30.0
DEFAULT_LEASE_TIMEOUT_S: Final = 300
"""What vCenter states; used if it states none."""

SHORTEST_LEASE_TIMEOUT_S: Final = 1
"""Less than this, or a negative one, is no time-out of a vCenter: signs of life would go without a pause."""


class ExportLease:
    """A lease on a snapshot's disks; use as context manager: success completes it, an error aborts it.

    :param disks: the disks that the snapshot froze (:func:`~wavelift.adapters.vsphere.snapshots.snapshot_disks`).
    :param percent: how far the whole export is, 0..100, asked at each sign of life.
    :param check_manifest: hash what arrives and compare with vCenter's own SHA-1 at the end (0.6-1.0 CPU-s per GiB).
    """

    def __init__(
        self,
        session: VsphereSession,
        frozen: FrozenVm,
        disks: Sequence[DiskFacts],
        *,
        cancel: CancelFlag,
        percent: Callable[[], int] = lambda: 0,
        check_manifest: bool = False,
    ) -> None:
        self.session = session
        self.vm = frozen.vm
        self.snapshot = frozen.snapshot
        self.disks = tuple(disks)
        self.cancel = cancel
        self.server = frozen.server
        self.check_manifest = check_manifest
        self._percent = percent
        self._lease: Any = None
        self._timeout = float(DEFAULT_LEASE_TIMEOUT_S)
        self._urls: dict[Address, Any] = {}
        self._host = ""
        self._bodies: dict[Address, LeaseBody] = {}
        self._contexts: dict[tuple[str, int], tuple[ssl.SSLContext, str]] = {}
        self._lock = threading.Lock()
        self._context_lock = threading.Lock()
        self._lost: WaveliftError | None = None
        self._stop = threading.Event()
        self._beater = threading.Thread(target=self._beat, name=f"lease-{self.server or self.vm}", daemon=True)

    @property
    def where(self) -> dict[str, Any]:
        # Its full id, session[…]…, begins with the session's key, which is nobody's business in a log.
        return {"server": self.server or None, "lease": moref(self._lease).rpartition("]")[2] or None}

    def _at(self, disk: DiskFacts) -> dict[str, Any]:
        return {"disk": disk.address, **self.where}

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._host = self._current_host()
        self._lease = self._ask()
        try:
            self._await_ready()
            self._beater.start()
        except BaseException:
            self.abort()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            self.abort()
            return
        try:
            self.complete()
        except BaseException:
            self.abort()
            raise

    def _ask(self) -> Any:
        """A new lease; waits while another task or lease holds the VM."""
        target = self.session.managed(vim.vm.Snapshot, self.snapshot)
        give_up = time.monotonic() + BUSY_WAIT_S
        while True:
            self.cancel.check()
            try:
                return self.session.change(target.ExportSnapshot, server=self.server or None, snapshot=self.snapshot)
            except BusyError as error:
                if time.monotonic() >= give_up:
                    raise
                log.info("%s: no lease yet: %s", self.server or self.vm, error.what)
            self.cancel.wait(BUSY_POLL_S)

    def _await_ready(self) -> None:
        def settled(values: Values) -> str | None:
            state = str(values.get("state", ""))
            return state if state in ("ready", "error", "done") else None

        state = watch(
            self.session,
            self._lease,
            ["state"],
            settled,
            Wait("preparing the export lease", READY_TIMEOUT_S, self.cancel),
            **self.where,
        )
        values = read_one(self.session, vim.HttpNfcLease, moref(self._lease), ["info", "error"], **self.where)
        if state != "ready":
            fault = values.get("error")
            raise translate(fault, **self.where) if fault is not None else self._ended("vCenter gives no reason")
        info = values["info"]
        self._timeout = float(max(info.leaseTimeout or DEFAULT_LEASE_TIMEOUT_S, SHORTEST_LEASE_TIMEOUT_S))
        self._urls = _match(info.deviceUrl or (), self.disks, self.where)

    def complete(self) -> None:
        """End a lease whose disks were all read.

        :raises GuardError: the VM moved meanwhile. :raises CorruptStreamError: vCenter's manifest says otherwise.
        """
        self.check()
        if self.check_manifest:
            self._compare_manifest()
        self._check_host()
        self._end(lambda lease: lease.HttpNfcLeaseComplete(), "complete")

    def abort(self) -> None:
        """End the lease without success; never raises."""
        self._lose(self._ended("it was aborted"))
        self._end(lambda lease: lease.HttpNfcLeaseAbort(), "abort")

    def _end(self, tell: Callable[[Any], None], verb: str) -> None:
        """Stop the thread, close the bodies, tell vCenter. A lost answer costs nothing: the lease times out."""
        self._stop.set()
        if self._beater.is_alive():
            self._beater.join()
        with self._lock:
            bodies = list(self._bodies.values())
        for body in bodies:
            body.close()
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            tell(lease)
        except VENDOR_ERRORS as error:
            log.info("%s: the lease could not be told to %s: %s", self.server or self.vm, verb, type(error).__name__)

    # --- signs of life --------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        try:
            self._give_signs_of_life()
        except Exception as error:  # in silence, the lease would time out minutes later and nobody knew why
            log.exception("%s: the lease's signs of life broke", self.server or self.vm)
            self._lose(self._ended(f"its signs of life stopped: {type(error).__name__}"))

    def _give_signs_of_life(self) -> None:
        interval = min(BEAT_S, self._timeout / 4)
        shown = 0
        last = time.monotonic()
        due = last
        with self.session.own_connection(timeout=min(BEAT_TIMEOUT_S, interval)) as stub:
            lease = self.session.managed(vim.HttpNfcLease, moref(self._lease), stub)
            while not self._stop.wait(POLL_S):
                try:
                    self.cancel.check()
                except WaveliftError as stopped:
                    self._lose(stopped)
                    return
                now = time.monotonic()
                if now < due:
                    continue
                shown = max(shown, min(100, self._percent()))
                try:
                    lease.HttpNfcLeaseProgress(shown)
                except vmodl.MethodFault as fault:
                    self._lose(self._ended(words(fault)))
                    return
                except VENDOR_ERRORS as error:
                    if now - last > self._timeout:
                        self._lose(self._ended(f"no sign of life reached vCenter: {type(error).__name__}"))
                        return
                    due = now + interval / 4
                else:
                    last = now
                    due = now + interval

    def _ended(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"the export lease has ended: {why}", next_step="A retry takes a new lease and reads again", **self.where
        )

    def _lose(self, error: WaveliftError) -> None:
        """Remember the first reason and cut off all readers."""
        with self._lock:
            if self._lost is None:
                self._lost = error
            bodies = list(self._bodies.values())
        for body in bodies:
            body.cut()

    def check(self) -> None:
        """:raises WaveliftError: why the lease is lost, if it is."""
        if self._lost is not None:
            raise self._lost

    # --- bodies ---------------------------------------------------------------------------------------------------

    def open(self, disk: DiskFacts) -> LeaseBody:
        """The raw stream-optimised VMDK of ``disk``, to be read once.

        :raises TlsError: the host's certificate is refused. :raises UnreachableError: no connection, or lease lost.
        """
        self.check()
        url = self._urls[disk_address(disk)]
        config = self.session.config
        target = target_of(str(url.url), config.host, config.port)
        with located(**self._at(disk)):
            context, name = self._context(target, str(getattr(url, "sslThumbprint", None) or ""))
        target = Target(name, target.port, target.path, target.local)
        body = Body(
            target,
            context,
            connect_timeout=config.timeout,
            proxy=config.http_proxy,
            hashed=self.check_manifest,
            address="" if target.local else config.esxi_address(name),
        )
        stream = LeaseBody(self, disk, body)
        earlier = self._bodies.get(disk_address(disk))
        if earlier is not None:
            earlier.close()
        with self._lock:
            self._bodies[disk_address(disk)] = stream
        self.check()  # who lost the lease just now knew nothing of this body
        stream.request()
        return stream

    def _context(self, target: Target, thumbprint: str) -> tuple[ssl.SSLContext, str]:
        """One context per host and lease, and the name that resolves."""
        config = self.session.config
        if target.local:
            return self.session.context, target.host
        place = (target.host, target.port)
        with self._context_lock:
            if place not in self._contexts:
                name = config.esxi_name(target.host)
                self._check_is_host(name)
                reported = (thumbprint, self._reported_thumbprint() if not thumbprint else "")
                context = esxi_context(config, name, target.port, reported, timeout=config.timeout)
                self._contexts[place] = (context, name)
            return self._contexts[place]

    def _check_is_host(self, name: str) -> None:
        """The ticket goes to no machine but the host that runs the VM, by its name, by an address of that name or by
        one of its own: NFC may have a network of its own.

        :raises GuardError: vCenter's inventory knows the host by another name.
        """
        config = self.session.config
        if not self._host or config.esxi_address(name):
            return
        values = read_one(self.session, vim.HostSystem, self._host, _HOST_NAMES, **self.where)
        known = str(values.get("name") or "")
        if not known or name.casefold() in (each.casefold() for each in candidates(known, config.dns_suffixes)):
            return
        own = {str(nic.spec.ip.ipAddress) for path in _HOST_NAMES[1:] for nic in values.get(path) or ()}
        at = addresses_of(name)
        if at & addresses_of(known) or {str(address) for address in at} & own:
            return
        raise GuardError(
            f"the lease's URL leads to '{name}', but the VM runs on '{known}'",
            next_step="Nothing was sent. If this is the same host, set its address in esxi_addresses of the vSphere "
            "connection",
            **self.where,
        )

    def _reported_thumbprint(self) -> str:
        if not self._host:
            return ""
        path = "summary.config.sslThumbprint"
        return str(read_one(self.session, vim.HostSystem, self._host, [path]).get(path) or "")

    def explain(self, error: BaseException, body: Body, disk: DiskFacts) -> WaveliftError:
        """Why a body broke: the lease, a move of the VM, a certificate, or just the line."""
        if self._lost is not None:
            return self._lost
        where = self._at(disk)
        config, target = self.session.config, body.target
        if isinstance(error, ssl.SSLError) and not isinstance(error, CUTS):
            override = OVERRIDE if target.local else ESXI_OVERRIDE
            refused = explained_tls_error(
                error,
                target.host,
                target.port,
                timeout=config.timeout,
                proxy=config.http_proxy,
                override=override,
                address="" if target.local else config.esxi_address(target.host),
            )
            return _placed(refused, where)
        if not body.received and isinstance(error, OSError) and not isinstance(error, ConnectionError):
            return _placed(unreachable(error, target.host, target.port), where)
        return self._why_cut(error, body, where)

    def _why_cut(self, error: BaseException, body: Body, where: dict[str, Any]) -> WaveliftError:
        try:
            self._check_host()
            ref = moref(self._lease)
            values = read_one(self.session, vim.HttpNfcLease, ref, ["state", "error"]) if ref else {}
        except GuardError as moved:
            return moved
        except NotFoundError:
            return self._ended("vCenter no longer knows it")
        except WaveliftError as also:
            log.info("could not ask vCenter why the body broke: %s", also.what)
            values = {}
        if str(values.get("state", "")) == "error":
            fault = values.get("error")
            return self._ended(words(fault) if fault is not None else "vCenter gives no reason")
        if isinstance(error, WaveliftError):
            return _placed(error, where)
        return UnreachableError(
            f"the disk's body broke off after {body.received} bytes: {str(error) or type(error).__name__}",
            next_step="A retry reads the disk again from its start; parts that are stored are not sent again",
            host=f"{body.target.host}:{body.target.port}",
            **where,
        )

    # --- the VM stays where it is ---------------------------------------------------------------------------------

    def _current_host(self) -> str:
        values = read_one(self.session, vim.VirtualMachine, self.vm, ["runtime.host"], server=self.server or None)
        return moref(values.get("runtime.host"))

    def _check_host(self) -> None:
        now = self._current_host()
        if now != self._host:
            raise GuardError(
                "the VM moved to another host while its disks were read",
                next_step="A retry exports it from there; keep it in place meanwhile (DRS: manual)",
                before=self._host,
                after=now,
                **self.where,
            )

    # --- vCenter's own checksums ----------------------------------------------------------------------------------

    def _compare_manifest(self) -> None:
        entries = self.session.read(self._lease.HttpNfcLeaseGetManifest, **self.where) or ()
        known = {str(entry.key): entry for entry in entries}
        with self._lock:
            bodies = list(self._bodies.items())
        for address, stream in bodies:
            entry = known.get(str(self._urls[address].key))
            if entry is None:
                raise WaveliftError(
                    "vCenter's manifest does not name the disk, so its checksum cannot be compared",
                    next_step="Retry, or switch the manifest check off",
                    disk=stream.disk.address,
                    **self.where,
                )
            sent, got = (str(entry.sha1).lower(), int(entry.size)), (stream.sha1, stream.received)
            if sent != got:
                raise CorruptStreamError(
                    f"what arrived is not what the host sent: {got[1]} bytes with SHA-1 {got[0]}, sent were {sent[1]} "
                    f"with {sent[0]}",
                    next_step="A retry reads the disk again",
                    disk=stream.disk.address,
                    **self.where,
                )


class LeaseBody:
    """A disk's raw bytes while the lease lives; errors in our words."""

    def __init__(self, lease: ExportLease, disk: DiskFacts, body: Body) -> None:
        self.disk = disk
        self._lease = lease
        self._body = body

    @property
    def target(self) -> Target:
        """Where it comes from."""
        return self._body.target

    @property
    def received(self) -> int:
        """Bytes so far."""
        return self._body.received

    @property
    def finished(self) -> bool:
        return self._body.finished

    @property
    def sha1(self) -> str:
        """Hex; empty unless the manifest is to be checked."""
        return self._body.sha1

    def request(self) -> None:
        # The URL itself is the ticket. Only vCenter gets its own session's cookie: whoever has that is us.
        cookie = self._lease.session.cookie if self._body.target.local else ""
        self._guarded(lambda: self._body.request(cookie))

    def readinto(self, buffer: Any) -> int:
        """Bytes read into ``buffer``; 0 only at the true end of the body.

        :raises UnreachableError: broke off or lease lost. :raises GuardError: the VM moved.
        :raises Cancelled, FencedError: as the cancel flag says.
        """
        return self._guarded(lambda: self._body.readinto(buffer))

    def _guarded(self, call: Callable[[], T]) -> T:
        problem: WaveliftError
        try:
            result = call()
        except (*VENDOR_ERRORS, WaveliftError) as error:
            problem = self._lease.explain(error, self._body, self.disk)
        else:
            self._lease.check()  # after the read: a body that was cut off may end in rubbish
            return result
        self._body.close()
        raise problem

    def cut(self) -> None:
        self._body.cut()

    def interrupt(self) -> None:
        """Break a read that blocks: the pipeline's other end has failed, and this body is no longer wanted."""
        self._body.cut()

    def close(self) -> None:
        self._body.close()


def _placed(error: WaveliftError, where: dict[str, Any]) -> WaveliftError:
    """``error`` with the coordinates that it does not name itself."""
    error.where = {key: value for key, value in where.items() if value is not None} | error.where
    return error


def _match(urls: Sequence[Any], disks: Sequence[DiskFacts], where: dict[str, Any]) -> dict[Address, Any]:
    """Disk address → the lease's URL for it; both sides must name the same disks (invariant 11).

    A lease also offers other files: NVRAM, the ISO of a CD-ROM. vSphere sets ``disk`` for disks and need not clear it
    for the others, so a URL that says nothing counts only if one of our disks has its address.
    """
    wanted = {disk_address(disk): disk for disk in disks}
    named = [(lease_address(str(url.key)) or (str(url.key), -1, -1), url) for url in urls if url.disk is not False]
    files = [(address, url) for address, url in named if url.disk or address in wanted]
    offered = dict(files)
    if len(offered) != len(files):
        raise GuardError(
            f"the lease offers a disk more than once: {', '.join(sorted(str(url.key) for _, url in files))}",
            next_step="Which file holds the disk can't be told; look at the VM's disks in vCenter",
            **where,
        )
    if offered.keys() != wanted.keys():
        here = ", ".join(sorted(disk.address for key, disk in wanted.items() if key not in offered)) or "none"
        there = ", ".join(sorted(str(url.key).rpartition("/")[2] for key, url in offered.items() if key not in wanted))
        raise GuardError(
            f"the lease does not offer the snapshot's disks: missing {here}; unexpected {there or 'none'}",
            next_step="Look for independent, RDM or shared disks; they cannot be exported",
            **where,
        )
    return offered
