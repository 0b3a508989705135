"""Protocols for what pre-flight needs to know about the source. The vSphere adapter's records satisfy them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wavelift.rules.preflight_requester import RequesterFacts


class Host(Protocol):
    """An ESXi host as vCenter reports it."""

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
    """Whether the connector can reach a host over HTTPS and trusts its certificate."""

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
    """A datastore of the VM. Sizes are in bytes."""

    @property
    def name(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def accessible(self) -> bool: ...


class MissingOnEntity(Protocol):
    """The privileges that one principal lacks on one vCenter object."""

    @property
    def principal(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def privileges(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class GuestPort:
    """Whether the SSH or RDP port of the guest answered the connector."""

    port: int
    address: str = ""
    failed: str = ""
    """Why the port did not answer; empty if it did."""
    not_asked: str = ""
    """Why the port was not tested; empty if it was."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The surroundings of one VM. None means that something was not checked; then there is no finding about it."""

    vcenter_version: str = ""
    host: Host | None = None
    reach: Reachability | None = None
    datastores: Sequence[Datastore] = ()
    missing_privileges: Sequence[MissingOnEntity] = ()
    port: GuestPort | None = None
    requester: RequesterFacts | None = None
    vddk: bool = False
    """Whether disks are read through VDDK, which can read any range, and not as one stream."""
