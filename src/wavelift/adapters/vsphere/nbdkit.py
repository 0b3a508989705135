"""nbdkit with the customer's VDDK or with its nfc plugin: one process for each disk of our snapshot that is read.

Both plugins serve one disk per process. nbdkit listens on a Unix socket in a folder that only we may enter, and gets
the password through a pipe. The kernel ends it when the *thread* that started it ends, so that thread must outlive it.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pyVmomi import vim

from wavelift.adapters.vsphere import nfc_plugin, vddk
from wavelift.adapters.vsphere.datastore import NotServed
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.faults import moref
from wavelift.adapters.vsphere.properties import read_one, snapshot_nodes
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession
from wavelift.adapters.vsphere.vddk import Meaning, VddkCheck, VddkConfig, explain
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import (
    Cancelled,
    FencedError,
    GuardError,
    LoginError,
    PermanentError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.net import fetch_certificate, sha1_thumbprint
from wavelift.base.printable import printable
from wavelift.base.remote_text import parameter
from wavelift.base.run import CancelFlag
from wavelift.base.units import exact_bytes
from wavelift.transfer.nbd.client import NbdClient
from wavelift.transfer.nbd.link import NbdAddress
from wavelift.transfer.nbd.reader import NbdReader
from wavelift.transfer.protocols import Extent

log = logging.getLogger(__name__)

START_SECONDS: Final = 30.0
"""Until the socket is there: nbdkit starts once more to load VDDK's libraries."""
END_SECONDS: Final = 10.0
"""To end its VDDK sessions; what is left is killed."""
POLL_SECONDS: Final = 0.02
LOG_BYTES: Final = 64 * 1024
"""Of the log's end that are looked at."""
LINE_LONGEST: Final = 2000
"""Characters of a line of the log; a host's own words are in it, and patterns search it."""
READ_SECONDS: Final = 120.0
"""Without a byte: VDDK opens its disk while we wait, and tries each transport in turn."""
THREADS: Final = 16
"""Of nbdkit: reads that VDDK has in flight."""
FOLDER: Final = "wavelift-nbd-"
STALE_SECONDS: Final = 600.0
"""A folder without a living nbdkit that is older was left by a process that was killed."""
SOCKET_PATH_LIMIT: Final = 107
_PASSWORD_LIMIT: Final = 4096
"""Fits into the pipe whole."""


class MovedError(GuardError):
    """The VM is not on the host whose slots were taken."""


@dataclass(frozen=True, slots=True)
class VddkRoute:
    """One disk as our snapshot froze it, served by VDDK."""

    vm: str
    snapshot: str
    server: str
    disk: str
    """``SCSI 0:1``."""
    file: str
    """``[ds] web01/web01.vmdk``: the disk's head in the snapshot."""
    capacity: int
    runtime_host: str
    thumbprint: str
    """SHA-1 of vCenter's certificate, seen over a connection under the session's own policy."""
    by: str = vddk.TITLES["vddk"]

    @property
    def reason(self) -> str:
        """For the run's record."""
        return f"{self.file} is served by {self.by}"


def probe(
    session: VsphereSession, frozen: FrozenVm, disk: DiskFacts, *, cancel: CancelFlag, expected_host: str = ""
) -> VddkRoute | NotServed:
    """Read the first bytes of ``disk`` through VDDK, and give the way; or why there is none.

    :param disk: as the snapshot froze it. :param expected_host: moref of the host that pre-flight saw.
    :raises MovedError: the VM is on another one; nothing was opened. :raises LoginError: vCenter refuses the account.
    """
    config = session.config
    if config.vddk is None:
        return NotServed("no nbdkit_plugin (VDDK or nfc) is set up on the connector")
    by = config.vddk.title
    if config.proxy:
        return NotServed(f"{by} connects directly, and the vsphere connection goes through a proxy")
    vm, server = frozen.vm, frozen.server
    host = _runtime_host(session, vm, server)
    if expected_host and host != expected_host:
        raise MovedError(
            "The VM has moved to another host than the one whose transfer slots were taken",
            server=server,
            host=host,
            expected=expected_host,
            next_step="Run it again from the pre-flight on, which takes the slots of the new host",
        )
    try:
        route = VddkRoute(
            vm, frozen.snapshot, server, disk.address, disk.file, disk.capacity, host, _thumbprint(config, session), by
        )
        with VddkReader(config, route, cancel=cancel) as reader:
            reader.read_into(0, memoryview(bytearray(min(reader.client.export.minimum, disk.capacity))))
        return route
    except (LoginError, Cancelled, FencedError):
        raise
    except WaveliftError as error:
        cancel.check()
        log.warning("%s %s cannot be read through %s: %s", server, disk.address, by, error)
        return NotServed(f"{by}: {error.what}")


def snapshot_gone(session: VsphereSession, route: VddkRoute) -> str:
    """Why what was read may not be our snapshot's content; empty when it is. VDDK reads the snapshot itself, wherever
    the VM runs, so only the snapshot's end matters."""
    values = read_one(session, vim.VirtualMachine, route.vm, ["snapshot.rootSnapshotList"], server=route.server)
    nodes = snapshot_nodes(values.get("snapshot.rootSnapshotList"))
    return "" if any(moref(node.snapshot) == route.snapshot for node in nodes) else "our snapshot is gone"


def _runtime_host(session: VsphereSession, vm: str, server: str) -> str:
    return moref(read_one(session, vim.VirtualMachine, vm, ["runtime.host"], server=server).get("runtime.host"))


def _thumbprint(config: VsphereConfig, session: VsphereSession) -> str:
    der = fetch_certificate(config.host, config.port, timeout=config.timeout, context=session.context)
    return sha1_thumbprint(der)


class VddkReader(NbdReader):
    """The reader of a route, with the nbdkit behind it; to be closed by the thread that opened it.

    :param areas: and ``skip_zeros``: see :class:`~wavelift.transfer.nbd.reader.NbdReader`.
    """

    def __init__(
        self,
        config: VsphereConfig,
        route: VddkRoute,
        *,
        cancel: CancelFlag,
        areas: Sequence[Extent] | None = None,
        skip_zeros: bool = False,
    ) -> None:
        """:raises WaveliftError: it can't be started, or can't open the disk; says why as far as its log does."""
        assert config.vddk is not None
        self.route = route
        self._nbdkit = Nbdkit(
            arguments(config, route),
            config.password,
            plugin=config.vddk.plugin,
            server=route.server,
            disk=route.disk,
        )
        try:
            self._nbdkit.wait_ready(cancel)
            client = NbdClient(
                NbdAddress(unix=self._nbdkit.socket),
                cancel=cancel,
                connections=config.vddk.connections,
                timeout=READ_SECONDS,
                explain=self._nbdkit.explain,
                server=route.server,
                disk=route.disk,
            )
            super().__init__(client, areas=areas, skip_zeros=skip_zeros)
            self._check_size()
        except BaseException:
            self._nbdkit.close()
            raise

    def _check_size(self) -> None:
        if self.size != self.route.capacity:
            self.client.close()
            raise PermanentError(
                f"{self.route.by} serves a disk of {exact_bytes(self.size)}, vCenter "
                f"says {exact_bytes(self.route.capacity)}",
                server=self.route.server,
                disk=self.route.disk,
                next_step="Look at the VM's disks in vCenter; another reader can be used until then",
            )

    def close(self) -> None:
        super().close()
        self._nbdkit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def arguments(config: VsphereConfig, route: VddkRoute) -> list[str]:
    """nbdkit's command line but for socket and password; holds no secret.

    :raises UnsafeTextError: a file or an id that vCenter told has control characters.
    """
    chosen: VddkConfig | None = config.vddk
    assert chosen is not None
    given = [
        chosen.nbdkit,
        "--foreground",
        "--exit-with-parent",
        "--readonly",
        "--newstyle",
        f"--threads={THREADS}",
        *(_of_nfc(config, chosen) if chosen.plugin == "nfc" else _of_vddk(chosen)),
        f"server={config.host}",
        f"port={config.port}",
        f"user={config.username}",
        f"thumbprint={route.thumbprint}",
        f"vm=moref={route.vm}",
        f"snapshot={route.snapshot}",
        f"file={route.file}",
    ]
    return [parameter(each, "what vCenter told of the disk") for each in given]


def _of_vddk(chosen: VddkConfig) -> list[str]:
    found = ["vddk", f"libdir={chosen.folder}", f"transports={':'.join(chosen.transports)}"]
    if chosen.compression != "none":
        found.append(f"compression={chosen.compression}")
    if chosen.config_file:
        found.append(f"config={chosen.config_file}")
    return found


def _of_nfc(config: VsphereConfig, chosen: VddkConfig) -> list[str]:
    """Certificates are verified unless the connection says otherwise, loudly (invariant 10)."""
    return [nfc_plugin.name_for_nbdkit(chosen), *(["insecure=true"] if config.certificate_mode == "ignore" else [])]


def check(config: VddkConfig) -> Iterator[VddkCheck]:
    """What the chosen plugin needs on this machine; touches no vCenter."""
    return nfc_plugin.check(config) if config.plugin == "nfc" else vddk.check_vddk(config)


@dataclass(frozen=True, slots=True)
class _Ways:
    """What differs between the plugins once nbdkit runs."""

    meanings: Sequence[Meaning]
    password: str
    """The parameter's value, of a file descriptor."""


_WAYS: Final[Mapping[str, _Ways]] = {
    "vddk": _Ways(vddk.MEANINGS, "-{}"),
    # Of the nfc plugin only ``+FILE`` is known.
    "nfc": _Ways(nfc_plugin.MEANINGS, "+/dev/fd/{}"),
}


class Nbdkit:
    """A running nbdkit.

    :param command: the program first, the plugin's name somewhere, its parameters behind that.
    :param password: handed over through a pipe, by its number. :param plugin: which one ``command`` names.
    """

    def __init__(self, command: Sequence[str], password: str, *, plugin: vddk.Plugin = "vddk", **where: object) -> None:
        """:raises PermanentError: the program is missing, or the password is none that can be handed over."""
        self._ways = _WAYS[plugin]
        self._where = where
        self._password = password
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER))
        self.socket: Final = str(self._folder / "s")
        self._ready = self._folder / "pid"
        self._log = self._folder / "log"
        try:
            self._process = self._start(command)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        secret = self._password.encode()
        if len(self.socket) > SOCKET_PATH_LIMIT:
            raise PermanentError(f"{self._folder} is too long for a socket", next_step="Set TMPDIR to a shorter one")
        if b"\n" in secret or len(secret) > _PASSWORD_LIMIT:
            raise PermanentError("nbdkit takes no such password", next_step="Change it: one line, 4096 bytes at most")
        given, kept = os.pipe()
        try:
            os.write(kept, secret)
            os.close(kept)
            # A file, not a pipe: what was said before an answer is there when the answer is.
            with self._log.open("ab") as said:
                parameter = f"password={self._ways.password.format(given)}"
                return subprocess.Popen(
                    [command[0], "--unix", self.socket, "--pidfile", self._ready, *command[1:], parameter],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=(given,),
                    env=_environment(),
                )
        except OSError as error:
            raise PermanentError(
                f"{command[0]} could not be started: {error.strerror}",
                next_step="Install nbdkit on the connector; `wavelift vsphere vddk` says what is missing",
                **self._where,
            ) from error
        finally:
            os.close(given)

    def wait_ready(self, cancel: CancelFlag) -> None:
        """:raises WaveliftError: it ended, or is not there in time. :raises Cancelled: meanwhile."""
        deadline = time.monotonic() + START_SECONDS
        while not (self._ready.exists() and self._ready.stat().st_size):
            if self._process.poll() is not None:
                raise self.explain() or self._ended()
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"nbdkit did not get ready in {START_SECONDS:g} s", next_step="Look at its log", **self._where
                )
            cancel.check()
            cancel.wait(POLL_SECONDS)

    def explain(self) -> WaveliftError | None:
        """What it said went wrong; that it ended, when it did; else None."""
        found = explain(self._lines(), self._ways.meanings, **self._where)
        return found or (self._ended() if self._process.poll() is not None else None)

    def _ended(self) -> WaveliftError:
        code = self._process.returncode
        last = next(reversed(self._lines()), "")
        return UnreachableError(
            f"nbdkit ended with {code}" + (f": {last}" if last else ""),
            next_step="`wavelift vsphere vddk` on the connector checks what it needs",
            **self._where,
        )

    def close(self) -> None:
        """End it, gently first, and remove its folder. Idempotent; never raises."""
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("nbdkit %d does not end and is killed", self._process.pid)
            self._process.kill()
            self._process.wait()
        for line in self._lines():
            log.debug("%s", line)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lines(self) -> list[str]:
        """The end of what it said, without the password."""
        try:
            with self._log.open("rb") as said:
                said.seek(max(0, said.seek(0, os.SEEK_END) - LOG_BYTES))
                text = said.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        lines = (text.replace(self._password, "***") if self._password else text).splitlines()
        return [printable(line, LINE_LONGEST) for line in lines]


def _sweep() -> None:
    """Remove what killed processes of ours left: the kernel ended their nbdkit, not its folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        try:
            there = folder.stat()
            if there.st_uid != os.getuid() or time.time() - there.st_mtime < STALE_SECONDS:
                continue
        except OSError:
            continue  # another one was quicker
        if not _serves(folder / "s"):
            shutil.rmtree(folder, ignore_errors=True)


def _serves(path: Path) -> bool:
    """Somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probing:
        probing.settimeout(1)
        try:
            probing.connect(str(path))
        except OSError:
            return False
    return True


def _environment() -> dict[str, str]:
    """Ours holds Airflow's secrets; and VDDK's words are to be English."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C"}
