"""What the ledger hands out of connectors and catalogue: frozen values like those of :mod:`wavelift.ledger.records`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from wavelift.ledger.records import OfDagRun


class CatalogState(StrEnum):
    """States of the catalogue of one connection, in SMS's words (SMS-02)."""

    NOT_IMPORTED = "NOT_IMPORTED"
    IMPORTING = "IMPORTING"
    AVAILABLE = "AVAILABLE"
    DELETED = "DELETED"
    """Cleared by a person."""
    EXPIRED = "EXPIRED"
    """Never stored: what :data:`AVAILABLE` is called once the last import is old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """A registered connector: an Airflow queue near a vCenter (SMS-01)."""

    name: str
    """The queue's name, as ``source.connector`` of a wave gives it."""
    connection: str
    """Airflow connection of its vCenter."""
    aws_conn_id: str
    region: str
    description: str
    maintenance: bool
    """No new migration begins; running ones finish (AMP-05)."""
    maintenance_reason: str
    health: dict[str, Any] | None
    """:class:`~wavelift.base.catalog.ConnectorHealth` as JSON; None until it was asked."""
    checked_at: datetime | None
    """When ``health`` was stored, by the ledger's clock."""
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
    """What it goes back to when the import that runs ends without success."""
    generation: int
    """Grows with every import begun and every clear: what an older one brings late is ignored."""
    merged_pages: list[int]
    """Numbers of the pages of this generation that were merged."""
    manager_id: str
    manager_name: str
    manager_type: str
    manager_product: str
    tags_unknown: str
    """Why the last import brought no tags."""
    error: str
    """Why the last import ended without success; empty when it did not."""
    imported_at: datetime | None
    """End of the last import that succeeded."""
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
    """The last import did not find it."""
    first_seen: datetime
    last_seen: datetime
    first_generation: int
    changed_generation: int
    seen_generation: int
    gone_generation: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJob:
    """The replication job of a server, as a row of the catalogue shows it (SMS-02)."""

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
    """What one import found, counted from the rows: the same however often it is asked."""

    servers: int
    """Present now."""
    new: int
    changed: int
    """Renamed, moved, grown …, or back after they had been gone."""
    gone: int
