"""The relational record of servers, migrations, slots and events. Control-plane tasks, console and CLI only.

The caller (a service, a route, a report) opens the transaction: ``with ledger.read() as tx`` or
``with ledger.write(*locks) as tx``. Every function of ``waves``, ``migrations``, ``replication_runs``, ``jobs``,
``lineage``, ``slots``, ``servers``, ``catalog``, ``connectors`` and ``events`` takes it as its first argument, and none
opens one itself. SQL is written here only. Records are frozen values.
"""

from wavelift.ledger.catalog_records import Catalog, CatalogEntry, CatalogServer, CatalogState, Connector, ServerJob
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import (
    Bound,
    Event,
    Migration,
    Page,
    Server,
    ServerRun,
    Slot,
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
from wavelift.ledger.spine import Progress

__all__ = [
    "AmiState",
    "Bound",
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
    "Progress",
    "ReplicationJob",
    "ReplicationRun",
    "Server",
    "ServerJob",
    "ServerRun",
    "Slot",
    "SnapshotState",
    "SourceServer",
    "SupersededDisk",
    "Tx",
    "WaveRun",
    "WaveRunState",
    "WaveSchedule",
]
