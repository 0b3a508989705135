"""What nbdkit reads disks with, and how it is set up; and VMware's VDDK: what it needs, and what its log means.

nbdkit's ``vddk`` plugin loads VMware's VDDK or a drop-in of its library, which the customer brings; the other plugin
is in ``nfc_plugin``. VDDK was never run here, nor was a drop-in. The plugin's options are those of its manual (1.24 to
1.46); the phrases of the log are from public reports, named beside them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    SpecError,
    ThrottledError,
    TlsError,
    UnreachableError,
    WaveliftError,
)

Plugin = Literal["vddk", "nfc"]
PLUGINS: Final[tuple[Plugin, ...]] = get_args(Plugin)
TITLES: Final[dict[str, str]] = {"vddk": "VDDK", "nfc": "the nfc plugin"}
"""What does the reading, in messages."""
COMPRESSIONS: Final = ("none", "zlib", "fastlz", "skipz")
TRANSPORTS: Final = ("file", "san", "hotadd", "nbdssl", "nbd")
HOST_SESSIONS: Final = 8
"""Disks read at a time from one ESXi host: 4 MB of its NFC buffers each, 32 MB in all (48 MB on newer ones)."""
VCENTER_SESSIONS: Final = 52
"""NFC connections through one vCenter (VDDK guide, "NFC session limits")."""
CONNECTIONS: Final = 1
"""Connections per disk. Each is an NFC session. One carries as much as VDDK gives: published rates of one disk do not
exceed 162 MiB/s (documentation of Forklift)."""
CHECK_SECONDS: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class VddkConfig:
    """What nbdkit reads with, as the worker's own configuration says, and how, by fields of the ``vsphere`` connection.

    What is *loaded and run* on a connector is not for a connection or a spec to say: both are edited by people who may
    not run programs there.

    :param folder: of the worker: for ``vddk`` the ``vmware-vix-disklib-distrib`` or a drop-in laid out as it, for
        ``nfc`` where the plugin's file lies (empty: nbdkit's own). :param nbdkit: of the worker: by name or path.
    :param config_file: of the worker: VDDK's own, e.g. with ``vixDiskLib.nfcAio.Session.*``.
    :param transports: tried in this order. :param compression: on the line between host and connector. These three are
        VDDK's: not looked at with ``nfc``.
    :param connections: per disk. :param host_sessions: disks at a time per ESXi host. :param vcenter_sessions: the
        same per vCenter.
    """

    folder: str = ""
    plugin: Plugin = "vddk"
    nbdkit: str = "nbdkit"
    transports: tuple[str, ...] = ("nbdssl", "nbd")
    compression: str = "none"
    connections: int = CONNECTIONS
    config_file: str = ""
    host_sessions: int = HOST_SESSIONS
    vcenter_sessions: int = VCENTER_SESSIONS

    def __post_init__(self) -> None:
        if self.plugin not in PLUGINS:
            raise SpecError(
                f"[wavelift] nbdkit_plugin is '{self.plugin}'",
                next_step=f"Allowed are {', '.join(PLUGINS)}, or nothing",
            )
        if self.folder and not Path(self.folder).is_absolute():
            raise SpecError(f"[wavelift] nbdkit_folder is '{self.folder}'", next_step="Give the full path")
        if self.plugin == "vddk":
            self._check_vddk()
        for name in ("connections", "host_sessions", "vcenter_sessions"):
            if getattr(self, name) < 1:
                raise SpecError(f"vddk_{name} is {getattr(self, name)}", next_step="Give 1 or more")

    @property
    def title(self) -> str:
        return TITLES[self.plugin]

    def _check_vddk(self) -> None:
        if not self.folder:
            raise SpecError(
                "[wavelift] nbdkit_plugin is vddk, and nbdkit_folder is empty",
                next_step="Give the full path of the VDDK distribution, or of a drop-in laid out as it",
            )
        if self.config_file and not Path(self.config_file).is_absolute():
            raise SpecError(f"[wavelift] vddk_config is '{self.config_file}'", next_step="Give the full path")
        if self.compression not in COMPRESSIONS:
            raise SpecError(
                f"vddk_compression is '{self.compression}'", next_step=f"Allowed are {', '.join(COMPRESSIONS)}"
            )
        strange = [each for each in self.transports if each not in TRANSPORTS]
        if strange or not self.transports:
            raise SpecError(
                f"vddk_transports is '{':'.join(self.transports)}'",
                next_step=f"Give some of {', '.join(TRANSPORTS)}, the preferred one first, with colons between",
            )


# --- the log --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a line of nbdkit's log means."""

    pattern: re.Pattern[str]
    kind: type[WaveliftError]
    what: str
    cure: str


def meaning(pattern: str, kind: type[WaveliftError], what: str, cure: str) -> Meaning:
    return Meaning(re.compile(pattern, re.IGNORECASE), kind, what, cure)


MEANINGS: Final[tuple[Meaning, ...]] = (
    # nbdkit-vddk-plugin(1), "Trick"; virtual-disks issue 18
    meaning(
        r"verify SSL certificate|thumbprint|SSL (error|exception)",
        TlsError,
        "VDDK refuses the server's certificate",
        "Sign in again so that the certificate is read anew; was it renewed, or does something stand in between?",
    ),
    # nbdkit-vddk-plugin(1), "Out of memory errors"; bugzilla 1614276
    meaning(
        r"NFC error 5|failed to allocate the\s+requested \d+ bytes|NFC_NO_MEMORY",
        ThrottledError,
        "the ESXi host is out of NFC buffers",
        "Lower vddk_host_sessions, or raise maxMemory of the host's NFC service",
    ),
    # VDDK guide, "NFC session limits"; Veritas 100053291 in migratekit issue 14
    meaning(
        r"too many (open )?(sessions|connections)|session limit|maximum number of (sessions|connections|tasks)|"
        r"vmware-authd socket.*temporarily unavailable",
        LimitReachedError,
        "too many NFC sessions are open",
        "Lower vddk_vcenter_sessions, and look what else reads disks through this vCenter (backups)",
    ),
    meaning(
        r"licen[cs]e|not licensed|edition .* does not (support|allow)",
        PermanentError,
        "the host's licence does not allow VDDK to read it",
        "A paid vSphere licence is needed: the free ESXi serves no VDDK",
    ),
    # velero-plugin-for-vsphere issues 118 and 145
    meaning(
        r"(?:connect(?:ing)? to (?:server|peer)|CnxAuthdConnect)(?:.*?(?P<place>[\w.\-]+:\d+))?",
        UnreachableError,
        "VDDK does not reach the ESXi host",
        "Open TCP 902 from the connector to every ESXi host, and check that the host's name resolves there",
    ),
    meaning(
        r"host address lookup|could not resolve|name or service not known",
        UnreachableError,
        "VDDK cannot resolve the ESXi host's name",
        "Let the connector's DNS know the hosts by the names that vCenter has for them",
    ),
    meaning(
        r"incorrect user ?name|invalid login|login (failed|failure)|cannot complete login|authentication failed",
        LoginError,
        "vCenter refuses VDDK's login",
        "Check user and password of the vsphere connection",
    ),
    meaning(
        r"insufficient permission|not have (the )?(permission|privilege|access rights)|NoPermission",
        MissingPrivilegeError,
        "VDDK lacks a right",
        "Give the role what `wavelift vsphere role` prints",
    ),
    meaning(
        r"\blocked\b|failed to lock",
        BusyError,
        "the disk is locked",
        "Look which other tool works on this VM's disks or snapshots",
    ),
    meaning(
        r"ManagedObjectNotFound|(file|disk|snapshot|object).{0,40}(not found|no longer exists|does not exist)|"
        r"cannot find (the )?(file|disk|snapshot)",
        NotFoundError,
        "VDDK does not find the disk",
        "Look whether the snapshot still exists: the VM's events tell who removed it",
    ),
    meaning(
        r"libvixDiskLib|cannot open plugin|unknown parameter|requires VDDK",
        PermanentError,
        "nbdkit cannot load VDDK",
        "Run `wavelift vsphere vddk` on the connector: it says what is missing",
    ),
)
"""The first that fits a line counts."""


def explain(lines: Iterable[str], meanings: Sequence[Meaning] = MEANINGS, **where: object) -> WaveliftError | None:
    """What nbdkit's log says went wrong, by its last line that says something; None when none does.

    :param meanings: of the plugin that ran.
    """
    for line in reversed(list(lines)):
        for one in meanings:
            if found := one.pattern.search(line):
                place = found.groupdict().get("place")
                what = f"{one.what} {place}" if place else one.what
                return one.kind(f"{what}: {_shortened(line)}", next_step=one.cure, **where)
    return None


def _shortened(line: str) -> str:
    """Without nbdkit's own beginning."""
    return re.sub(r"^nbdkit: (\w+\[\d+\]: )?(error|debug): ", "", line.strip())[:300]


# --- the check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VddkCheck:
    """One thing that reading through nbdkit needs."""

    name: str
    ok: bool
    what: str
    next_step: str = ""


def check_vddk(config: VddkConfig) -> Iterator[VddkCheck]:
    """What is there and what is missing on this machine; touches no vCenter. Ends at what makes the rest pointless."""
    program = check_program(config)
    yield program
    if not program.ok:
        return
    library = _library(config)
    if library is None:
        yield VddkCheck(
            "vddk",
            False,
            f"there is no lib64/libvixDiskLib.so below {config.folder}",
            "Unpack VDDK there if you have it (its public download ended in August 2026), or a drop-in of its library; "
            "or use the nfc plugin",
        )
        return
    yield VddkCheck("vddk", True, str(library))
    loads, said = run_program([config.nbdkit, "vddk", "--dump-plugin", f"libdir={config.folder}"])
    if loads:
        yield VddkCheck("plugin", True, "nbdkit's vddk plugin loads this library")
    else:
        yield VddkCheck(
            "plugin",
            False,
            f"nbdkit's vddk plugin does not load: {said.splitlines()[0] if said else 'no word why'}",
            "Debian's nbdkit comes without the plugin: use that of Fedora, RHEL or Ubuntu (nbdkit-plugin-vddk), or "
            "build nbdkit from source",
        )
    if config.config_file and not Path(config.config_file).is_file():
        yield VddkCheck("config", False, f"{config.config_file} does not exist", "Correct [wavelift] vddk_config")


def check_program(config: VddkConfig) -> VddkCheck:
    """nbdkit itself."""
    runs, said = run_program([config.nbdkit, "--version"])
    if runs:
        return VddkCheck("nbdkit", True, said.splitlines()[0] if said else config.nbdkit)
    return VddkCheck(
        "nbdkit", False, f"{config.nbdkit} does not run: {said}", "Install nbdkit, 1.24 or newer, on the connector"
    )


def _library(config: VddkConfig) -> Path | None:
    for folder in ("lib64", "."):
        if found := sorted((Path(config.folder) / folder).glob("libvixDiskLib.so*")):
            return found[0]
    return None


def run_program(command: list[str]) -> tuple[bool, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()
