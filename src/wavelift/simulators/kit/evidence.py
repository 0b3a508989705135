"""Evidence: copies of what passed through the simulator, for a checker that does not trust the product."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path
from typing import Any


class Evidence:
    """Records by kind, and files. A file is kept as a hard link, so keeping it copies no data."""

    def __init__(self, folder: Path, kinds: tuple[str, ...]) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._records: dict[str, list[Any]] = {kind: [] for kind in kinds}

    def path(self, kind: str, name: str) -> Path:
        """Where :meth:`keep_file` keeps a file."""
        return self._folder / kind / name

    def keep_file(self, source: Path, kind: str, name: str) -> Path:
        target = self.path(kind, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
        return target

    def keep(self, kind: str, record: Any) -> None:
        """``record`` is a dataclass whose fields can be written as JSON."""
        with self._lock:
            self._records[kind].append(record)

    def listing(self) -> dict[str, Any]:
        with self._lock:
            return {kind: [dataclasses.asdict(each) for each in records] for kind, records in self._records.items()}
