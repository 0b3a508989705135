"""What a connector tells of its vCenter: rows of the catalogue (SMS-02) and its own health (SMS-01)."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from wavelift.base.domain import Message

SERVER_TYPE: Final = "VIRTUAL_MACHINE"
"""The only kind of server that the catalogue knows, in SMS's word."""
PAGE_ROWS: Final = 500
"""Servers per page: one answer of vCenter, one XCom (some 250 KB), one transaction of the ledger."""


class CatalogManager(Message):
    """The vCenter that a catalogue was read from."""

    id: str
    """Its instance UUID."""
    name: str
    """The host name by which the connector reaches it."""
    type: str
    """``VirtualCenter``; ``HostAgent`` for an ESXi host without one."""
    product: str = ""
    """Full name with version and build."""


class CatalogRow(Message):
    """One VM as the inventory shows it. Sizes in bytes unless named otherwise."""

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
    """Committed and uncommitted storage together: what the VM may grow to, without a look at each disk."""
    tags: tuple[str, ...] = ()
    """``category:tag``, sorted."""

    @property
    def identity(self) -> str:
        """Stays the same when the VM is renamed or moved."""
        return self.instance_uuid or self.vm_id


class CatalogIndex(Message):
    """What the connector says of the pages that it handed over."""

    manager: CatalogManager
    pages: int
    rows: int
    tags_unknown: str = ""
    """Why no tags could be read; empty when they were."""


class HealthCheck(Message):
    """One thing that a connector tried."""

    name: str
    """``vcenter``, ``host:<name>``, ``aws:sts``, ``aws:s3``, ``clock:vcenter``, ``clock:aws``."""
    ok: bool
    what: str
    next_step: str = ""


class ConnectorHealth(Message):
    """Everything that a connector tried in one pass, and when."""

    connector: str
    checked_at: datetime
    """By the connector's own clock."""
    checks: tuple[HealthCheck, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)
