"""Records of connectors and of the catalogue. Frozen values, like those of :mod:`wavelift.ledger.records`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from wavelift.ledger.records import OfDagRun


class CatalogState(StrEnum):
    """States of the catalogue of one connection, with the names that AWS SMS uses (SMS-02)."""

    NOT_IMPORTED = "NOT_IMPORTED"
    IMPORTING = "IMPORTING"
    AVAILABLE = "AVAILABLE"
    DELETED = "DELETED"
    """Cleared by a person."""
    EXPIRED = "EXPIRED"
    """Never stored. :data:`AVAILABLE` is shown as this when the last import is old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """A registered connector: an Airflow queue whose workers can reach a vCenter (SMS-01)."""

    name: str
    """Name of the queue; a wave names it in ``source.connector``."""
    connection: str
    """Airflow connection of its vCenter."""
    aws_conn_id: str
    region: str
    description: str
    maintenance: bool
    """True: no new migration begins, and running ones continue (AMP-05)."""
    maintenance_reason: str
    health: dict[str, Any] | None
    """:class:`~wavelift.base.catalog.ConnectorHealth` as JSON; None before the first check."""
    checked_at: datetime | None
    """When ``health`` was stored."""
    registered_at: datetime
    registered_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog(OfDagRun):
    """The catalogue of one connection's vCenter."""

    connection: str
    connector: str
    """Queue on which it was last imported."""
    state: CatalogState
    state_before: CatalogState
    """The state that returns if the running import fails."""
    generation: int
    """Increases with every import and every clear. Pages of an older generation are ignored."""
    merged_pages: list[int]
    """Numbers of the merged pages of this generation."""
    manager_id: str
    manager_name: str
    manager_type: str
    manager_product: str
    tags_unknown: str
    """Why the last import could not read tags; empty if it could."""
    error: str
    """Why the last import failed; empty if it did not."""
    imported_at: datetime | None
    """When the last successful import ended."""
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogServer:
    """One server of a catalogue (SMS-02). Sizes in bytes unless named otherwise."""

    id: str
    """``s-`` and 12 hex digits of connection and identity: the same after a clear and a new import."""
    connection: str
    identity: str
    type: str
    name: str
    path: str
    manager_name: str
    manager_type: str
    manager_id: str
    vm_id: str
    instance_uuid: str
    guest_id: str
    guest_full_name: str
    power: str
    connection_state: str
    template: bool
    cpus: int
    memory_mib: int
    disk_bytes: int
    tags: tuple[str, ...]
    gone: bool
    """True: the last import did not list it."""
    first_seen: datetime
    last_seen: datetime
    first_generation: int
    changed_generation: int
    seen_generation: int
    gone_generation: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJob:
    """The replication job of a server, as the catalogue shows it (SMS-02)."""

    id: str
    state: str
    terminated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One row of the list: a server, and its job if it has one."""

    server: CatalogServer
    job: ServerJob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportCounts:
    """The result of one import, counted from the rows."""

    servers: int
    """Servers that are not gone."""
    new: int
    changed: int
    """Servers with a changed field, or that returned after they were gone."""
    gone: int
