"""What the routes of the audit trail answer: events and their seals."""

from __future__ import annotations

from typing import Any

from wavelift.base.domain import Instant
from wavelift.console.answers import Answer
from wavelift.rules.seals import Difference


class EventRow(Answer):
    id: int
    at: Instant
    actor: str
    action: str
    dag_run_id: str
    details: dict[str, Any]


class EventList(Answer):
    events: list[EventRow]


class AnyEventRow(EventRow):
    """An event of any object: with what it is about."""

    object_kind: str
    object_id: str
    dag_id: str


class AnyEventList(Answer):
    """``more``: older events match too; ask for those before the last id."""

    events: list[AnyEventRow]
    more: bool


class SealedNow(Answer):
    """What one request has sealed, and how far the seals reach now; ``more``: ask again."""

    seals: int
    events: int
    last_event_id: int
    digest: str
    more: bool


class SealedGroup(Answer):
    """Lines of the exported file: of a seal, and of its events as they are now."""

    last_event_id: int
    seal: str
    events: list[str]


class SealedPage(Answer):
    groups: list[SealedGroup]
    more: bool


class SealDigest(Answer):
    last_event_id: int
    digest: str


class SealsChecked(Answer):
    """The seals that one request has compared with their events; ``more``: go on after the last one.

    A difference ends the check. ``unsealed`` counts the events after the last seal of all.
    """

    seals: list[SealDigest]
    events: int
    difference: Difference | None
    unsealed: int
    more: bool
