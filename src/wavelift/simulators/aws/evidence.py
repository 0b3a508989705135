"""What the AWS simulator keeps for a checker: objects and disks as they were when they were used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

OBJECTS: Final = "objects"
IMPORTS: Final = "imports"
FLIPS: Final = "flips"
EXPORTS: Final = "exports"
RAW: Final = "raw"
"""Folder of the raw images that ``imports`` and ``exports`` name."""


@dataclass(frozen=True, slots=True)
class KeptObject:
    bucket: str
    key: str
    path: str
    size: int
    etag: str
    multipart: bool


@dataclass(frozen=True, slots=True)
class KeptImport:
    """One disk of an import. ``raw`` is the file that the object decodes to, before the conversion changed anything."""

    task: str
    number: int
    bucket: str
    key: str
    snapshot: str
    device: str
    image: str
    raw: str
    changed: list[dict[str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Flip:
    """One byte that a fault rule changed in a stored object."""

    bucket: str
    key: str
    object_offset: int
    disk_offset: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class KeptExport:
    """A finished export. ``raw`` is the source's disk as the task read it."""

    task: str
    source: str
    bucket: str
    key: str
    raw: str
    rebooted: bool
