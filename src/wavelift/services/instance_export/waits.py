"""What an export's task waits for. The operator has a trigger for each; woken, it calls the service again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForTask:
    """Until a task of AWS has ended.

    :param words: for people, as of the others.
    """

    task_id: str
    words: str


@dataclass(frozen=True, slots=True)
class ForPlace:
    """Until fewer than ``below`` tasks of both export APIs are active in account and region (VIE-04)."""

    below: int
    words: str


@dataclass(frozen=True, slots=True)
class ForImage:
    """Until AWS has made an image."""

    image_id: str
    words: str


@dataclass(frozen=True, slots=True)
class ForSnapshots:
    """Until no snapshot is pending."""

    snapshot_ids: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class ForAWhile:
    """AWS does not show yet what it was just told to make."""

    words: str


Waits = ForTask | ForPlace | ForImage | ForSnapshots | ForAWhile
