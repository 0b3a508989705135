"""What a checker needs that trusts nobody: objects and disks as they were, kept beside the running state."""

from __future__ import annotations

import os
import threading
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


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
    """One disk of an import: ``raw`` is what the object decodes to, before the conversion changed anything."""

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


class Evidence:
    """Files are hard links, so keeping them costs no copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._objects: list[KeptObject] = []
        self._imports: list[KeptImport] = []
        self._flips: list[Flip] = []
        for name in ("objects", "raw"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def keep_object(self, bucket: str, key: str, path: Path, *, size: int, etag: str, multipart: bool) -> None:
        link = self._folder / "objects" / f"{uuid.uuid4().hex[:12]}-{Path(key).name}"
        os.link(path, link)
        with self._lock:
            self._objects.append(KeptObject(bucket, key, str(link), size, etag, multipart))

    def keep_raw(self, task: str, number: int, raw: Path) -> None:
        os.link(raw, self.raw_path(task, number))

    def raw_path(self, task: str, number: int) -> Path:
        return self._folder / "raw" / f"{task}-{number}.raw"

    def keep_import(self, kept: KeptImport) -> None:
        with self._lock:
            self._imports.append(kept)

    def note_flip(self, flip: Flip) -> None:
        with self._lock:
            self._flips.append(flip)

    def listing(self) -> dict[str, Any]:
        with self._lock:
            return {
                "objects": [asdict(item) for item in self._objects],
                "imports": [asdict(item) for item in self._imports],
                "flips": [asdict(item) for item in self._flips],
            }
