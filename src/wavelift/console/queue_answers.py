"""What the routes of the queue answer."""

from __future__ import annotations

from wavelift.base.domain import Instant
from wavelift.console.answers import Answer


class SlotHolder(Answer):
    """Who has a slot."""

    id: str
    wave: str
    server: str


class QueueRow(Answer):
    """A server that waits for slots; of several, what is told is the one that it lacks."""

    id: str
    """Of its migration or replication run."""
    wave: str
    server: str
    priority: str
    """``next``, ``normal`` or ``later``."""
    waits_for: str
    """``account``, ``datastore``, ``nfc_host``, ``nfc_vcenter``, ``transfer`` or ``import``."""
    scope: str
    """Which one: connector, account, ESXi host, …"""
    position: int
    """1 for the next."""
    in_use: int
    limit: int | None
    """null: an older version of wavelift asked."""
    in_use_by: list[SlotHolder]
    """As far as the caller may read them."""
    in_use_by_others: int
    """How many slots others have."""
    maintenance: str | None
    """The reason, if its connector is in maintenance; null: it is in service."""
    waits_since: Instant
    words: str
    dag_id: str
    dag_run_id: str


class QueueList(Answer):
    queue: list[QueueRow]
