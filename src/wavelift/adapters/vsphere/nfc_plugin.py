"""nbdkit's ``nfc`` plugin, a reader of VMware's NFC protocol that needs no VDDK: what it needs, and what its log means.

Never run here: in autumn 2026 it was handed out to few. That it takes the parameters that we give (server, port, user,
password, thumbprint, vm, snapshot, file, insecure) is known from virt-v2v's ``-it nfc``, and that it is written in Go
and reads over TCP 902 too. Its own words were not published; the table has those of nbdkit, of Go's network and TLS
libraries, of vCenter and of ESXi, which any reader passes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wavelift.adapters.vsphere.vddk import Meaning, VddkCheck, VddkConfig, check_program, meaning, run_program
from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    ThrottledError,
    TlsError,
    UnreachableError,
)

FILE: Final = "nbdkit-nfc-plugin.so"
NAME: Final = "nfc"

MEANINGS: Final[tuple[Meaning, ...]] = (
    # nbdkit
    meaning(
        r"cannot open plugin|unknown parameter|nbdkit-nfc-plugin\.so",
        PermanentError,
        "nbdkit cannot load its nfc plugin",
        "Run `wavelift vsphere vddk --plugin nfc` on the connector: it says what is missing",
    ),
    # Go, crypto/x509 and crypto/tls
    meaning(
        r"x509:|tls:|certificate|thumbprint",
        TlsError,
        "the nfc plugin refuses the server's certificate",
        "Let the connector's system trust the CA of vCenter and its hosts, or sign in again if it was renewed",
    ),
    # Go, net
    meaning(
        r"no such host|server misbehaving",
        UnreachableError,
        "the nfc plugin cannot resolve the ESXi host's name",
        "Let the connector's DNS know the hosts by the names that vCenter has for them",
    ),
    # ESXi, as VDDK passes it on
    meaning(
        r"vmware-authd socket.*temporarily unavailable|too many (open )?(sessions|connections)|session limit",
        LimitReachedError,
        "too many NFC sessions are open",
        "Lower vddk_vcenter_sessions, and look what else reads disks through this vCenter (backups)",
    ),
    meaning(
        r"NFC error 5|failed to allocate the\s+requested \d+ bytes|NFC_NO_MEMORY",
        ThrottledError,
        "the ESXi host is out of NFC buffers",
        "Lower vddk_host_sessions, or raise maxMemory of the host's NFC service",
    ),
    # Go, net
    meaning(
        r"dial tcp (?P<place>[\w.\-]+:\d+|\[[0-9a-f:]+\]:\d+)|i/o timeout|connection refused|no route to host|"
        r"connection reset by peer|broken pipe",
        UnreachableError,
        "the nfc plugin does not reach vCenter or the ESXi host",
        "Open TCP 443 to vCenter and 902 to every ESXi host from the connector",
    ),
    # vCenter's faults
    meaning(
        r"InvalidLogin|incorrect user ?name|cannot complete login|NotAuthenticated",
        LoginError,
        "vCenter refuses the nfc plugin's login",
        "Check user and password of the vsphere connection",
    ),
    meaning(
        r"NoPermission|permission to perform this operation was denied",
        MissingPrivilegeError,
        "the nfc plugin lacks a right",
        "Give the role what `wavelift vsphere role` prints",
    ),
    meaning(
        r"RestrictedVersion|InvalidLicense|LicenseRestricted",
        PermanentError,
        "the host's licence does not allow it to be read",
        "A paid vSphere licence is needed",
    ),
    meaning(
        r"FileLocked|failed to lock|\block(ed)? by\b",
        BusyError,
        "the disk is locked",
        "Look which other tool works on this VM's disks or snapshots",
    ),
    meaning(
        r"ManagedObjectNotFound|FileNotFound|(file|disk|snapshot).{0,40}(not found|no longer exists|does not exist)|"
        r"has already been deleted or has not been completely created",
        NotFoundError,
        "the nfc plugin does not find the disk",
        "Look whether the snapshot still exists: the VM's events tell who removed it",
    ),
)
"""The first that fits a line counts."""


def name_for_nbdkit(config: VddkConfig) -> str:
    """The plugin as nbdkit is told it: by its file where a folder is named, else from nbdkit's own folder."""
    return str(Path(config.folder) / FILE) if config.folder else NAME


def check(config: VddkConfig) -> Iterator[VddkCheck]:
    """What is there and what is missing on this machine; touches no vCenter. Ends at what makes the rest pointless."""
    program = check_program(config)
    yield program
    if not program.ok:
        return
    if config.folder and not (Path(config.folder) / FILE).is_file():
        yield VddkCheck(
            "plugin",
            False,
            f"there is no {FILE} in {config.folder}",
            "Correct [wavelift] nbdkit_folder, or leave it empty when the plugin lies in nbdkit's own folder",
        )
        return
    loads, said = run_program([config.nbdkit, name_for_nbdkit(config), "--dump-plugin"])
    if loads:
        yield VddkCheck("plugin", True, "nbdkit's nfc plugin loads")
    else:
        yield VddkCheck(
            "plugin",
            False,
            f"nbdkit's nfc plugin does not load: {said.splitlines()[0] if said else 'no word why'}",
            f"Put {FILE} into nbdkit's plugin folder, or name its folder in [wavelift] nbdkit_folder",
        )
