"""What a connector reports: the servers of its vCenter as catalogue rows (SMS-02), and its own health (SMS-01)."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from wavelift.base.domain import Message

SERVER_TYPE: Final = "VIRTUAL_MACHINE"
"""The only kind of server in the catalogue. The value is SMS's term."""
PAGE_ROWS: Final = 500
"""Servers per page. A page is one response of vCenter, one XCom (about 250 KB) and one ledger transaction."""


class CatalogManager(Message):
    """The vCenter that a catalogue was read from."""

    id: str
    """Instance UUID of the vCenter."""
    name: str
    """The host name that the connector uses to connect to it."""
    type: str
    """``VirtualCenter``, or ``HostAgent`` for an ESXi host without vCenter."""
    product: str = ""
    """Full product name with version and build."""


class CatalogRow(Message):
    """One VM as the inventory shows it. Sizes are in bytes unless the name has another unit."""

    vm_id: str
    """Managed object id, ``vm-12``."""
    instance_uuid: str
    name: str
    path: str
    power: str
    connection_state: str
    template: bool
    guest_id: str
    guest_full_name: str
    cpus: int
    memory_mib: int
    disk_bytes: int
    """Committed plus uncommitted storage: the size to which the VM can grow, known without reading each disk."""
    tags: tuple[str, ...] = ()
    """``category:tag``, sorted."""

    @property
    def identity(self) -> str:
        """An id that stays the same if the VM is renamed or moved."""
        return self.instance_uuid or self.vm_id


class CatalogIndex(Message):
    """Summary of the pages that the connector delivered."""

    manager: CatalogManager
    pages: int
    rows: int
    tags_unknown: str = ""
    """Why tags could not be read; empty if they were read."""


class HealthCheck(Message):
    """The result of one check of a connector."""

    name: str
    """``vcenter``, ``host:<name>``, ``aws:sts``, ``aws:s3``, ``clock:vcenter``, ``clock:aws``."""
    ok: bool
    what: str
    next_step: str = ""


class ConnectorHealth(Message):
    """All checks of a connector at one time."""

    connector: str
    checked_at: datetime
    """According to the connector's clock."""
    checks: tuple[HealthCheck, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)
