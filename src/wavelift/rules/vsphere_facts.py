"""What pre-flight wants to know of the source, by shape: the vSphere adapter's own records fit as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Host(Protocol):
    """An ESXi host as vCenter knows it."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def connection_state(self) -> str:
        """``connected``, ``disconnected`` or ``notResponding``."""
        ...

    @property
    def in_maintenance(self) -> bool: ...


class Reachability(Protocol):
    """Whether the connector reaches a host by HTTPS and trusts its certificate."""

    @property
    def host(self) -> str: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def certificate_valid(self) -> bool: ...
    @property
    def fully_qualified(self) -> bool: ...
    @property
    def error(self) -> Exception | None: ...


class Datastore(Protocol):
    """A datastore under the VM; bytes."""

    @property
    def name(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def accessible(self) -> bool: ...


class MissingOnEntity(Protocol):
    """What one principal lacks on one vCenter object."""

    @property
    def principal(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def privileges(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class GuestPort:
    """Whether the guest's SSH or RDP answered the connector."""

    port: int
    address: str = ""
    failed: str = ""
    """Why it did not answer; empty when it did."""
    not_asked: str = ""
    """Why nobody asked."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Everything around one VM. None: was not looked at, and no finding is made of it."""

    vcenter_version: str = ""
    host: Host | None = None
    reach: Reachability | None = None
    datastores: Sequence[Datastore] = ()
    missing_privileges: Sequence[MissingOnEntity] = ()
    port: GuestPort | None = None
    vddk: bool = False
    """Disks are read through VDDK, at any place, not as one stream."""
