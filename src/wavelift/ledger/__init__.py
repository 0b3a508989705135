"""The relational record of servers, migrations, slots and events. Control-plane tasks, console and CLI only.

Open a :class:`Ledger` and hand it to the functions of ``waves``, ``migrations``, ``events``, ``servers``,
``catalog`` and ``connectors``; slots and
new migrations are the business of :mod:`wavelift.services.common.slots`. Records are frozen values.
"""

from wavelift.ledger.catalog_records import Catalog, CatalogEntry, CatalogServer, CatalogState, Connector, ServerJob
from wavelift.ledger.database import Ledger
from wavelift.ledger.records import (
    Event,
    Migration,
    Page,
    Server,
    Slot,
    SlotKind,
    SnapshotState,
    SourceServer,
    WaveRun,
    WaveRunState,
)
from wavelift.ledger.replication_records import (
    AmiState,
    LineageRow,
    ReplicationJob,
    ReplicationRun,
    SupersededDisk,
    WaveSchedule,
)

__all__ = [
    "AmiState",
    "Catalog",
    "CatalogEntry",
    "CatalogServer",
    "CatalogState",
    "Connector",
    "Event",
    "Ledger",
    "LineageRow",
    "Migration",
    "Page",
    "ReplicationJob",
    "ReplicationRun",
    "Server",
    "ServerJob",
    "Slot",
    "SlotKind",
    "SnapshotState",
    "SourceServer",
    "SupersededDisk",
    "WaveRun",
    "WaveRunState",
    "WaveSchedule",
]
