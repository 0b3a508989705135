"""A TLS server for EBS direct that serves the blocks of a raw disk as one snapshot: it serves to measure the reader.

What it has read and hashed once, it hands out from memory. ``GET /_bench`` reports the bytes of blocks.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from benchmarks import harness
from benchmarks.floor import data_places
from benchmarks.servers import PlainHandler, running, told_by
from wavelift.base.units import BLOCK, GIB

SNAPSHOT: Final = "snap-0123456789abcdef0"


class EbsSourceHandler(PlainHandler):
    """Takes any snapshot for the one that there is."""

    path_to_file: ClassVar[Path]
    places: ClassVar[list[int]] = []
    """Indices of the blocks that are not zero, ascending."""
    blocks: ClassVar[dict[int, tuple[bytes, str]]] = {}

    def get(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        folder, _, index = parts.path.rpartition("/")
        if index == "blocks":
            self._list(query)
        elif folder.endswith("/blocks"):
            data, checksum = self._block(int(index))
            self.answer(data, headers={"x-amz-Checksum": checksum, "x-amz-Checksum-Algorithm": "SHA256",
                                       "x-amz-Data-Length": str(BLOCK)})  # fmt: skip
            self.count(len(data))
        else:
            self.answer(status=404)

    def _list(self, query: dict[str, list[str]]) -> None:
        with self.lock:
            if not self.places:
                self.places.extend(data_places(self.path_to_file))
        start = int(query.get("pageToken", query.get("nextToken", ["0"]))[0])
        page = self.places[start : start + int(query.get("maxResults", ["10000"])[0])]
        more = start + len(page) < len(self.places)
        body = {
            "Blocks": [{"BlockIndex": index, "BlockToken": f"token-{index}"} for index in page],
            "VolumeSize": -(-self.path_to_file.stat().st_size // GIB),
            "BlockSize": BLOCK,
            **({"NextToken": str(start + len(page))} if more else {}),
        }
        self.answer(json.dumps(body).encode(), headers={"Content-Type": "application/json"})

    def _block(self, index: int) -> tuple[bytes, str]:
        if index not in self.blocks:
            with self.path_to_file.open("rb") as file:
                file.seek(index * BLOCK)
                data = file.read(BLOCK).ljust(BLOCK, b"\0")
            self.blocks[index] = data, base64.b64encode(hashlib.sha256(data).digest()).decode()
        return self.blocks[index]


class EbsSource:
    """A running one."""

    def __init__(self, url: str, ca: str) -> None:
        self.url = url
        self.ca = ca

    def wire(self, due: int) -> harness.Wire:
        """Blocks' bytes, as they left it."""

        def counted() -> int:
            told: dict[str, Any] = told_by(self.url, self.ca)
            return int(told["bytes"])

        return harness.Wire(counted, due, "source_bytes")


@contextmanager
def ebs_source(folder: Path, raw: Path) -> Iterator[EbsSource]:
    """:param raw: a disk of whole GiB; its blocks of zeros are not in the snapshot."""
    with running(EbsSourceHandler, folder, path_to_file=raw) as (url, ca):
        yield EbsSource(url, ca)
