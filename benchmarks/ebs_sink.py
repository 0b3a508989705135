"""A TLS server for EBS direct that stores nothing and only counts: it serves to measure the sender.

``GET /_bench`` reports on the last snapshot: puts, distinct blocks, and the arguments of CompleteSnapshot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from benchmarks import harness
from benchmarks.servers import PlainHandler, running, told_by
from wavelift.base.units import BLOCK

NO_SNAPSHOTS: Final = (
    b'<DescribeSnapshotsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><snapshotSet/>'
    b"</DescribeSnapshotsResponse>"
)


class EbsHandler(PlainHandler):
    """Takes any snapshot for the last one that was started."""

    latency_s: ClassVar[float] = 0.0
    """Of every put, from its last byte to the answer."""
    puts: ClassVar[int] = 0
    indices: ClassVar[set[str]] = set()
    completed: ClassVar[dict[str, str]] = {}

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        self.drop(length)
        self.count(length)
        with self.lock:
            EbsHandler.puts += 1
            self.indices.add(self.path.rpartition("/")[2])
        if self.latency_s:
            time.sleep(self.latency_s)
        checksum = {"x-amz-Checksum": self.headers["x-amz-Checksum"], "x-amz-Checksum-Algorithm": "SHA256"}
        self.answer(status=201, headers=checksum)

    def do_POST(self) -> None:
        body = self.drop(int(self.headers.get("Content-Length") or 0))
        if "/completion/" in self.path:
            EbsHandler.completed = {
                "count": self.headers["x-amz-ChangedBlocksCount"],
                "checksum": self.headers.get("x-amz-Checksum", ""),
            }
            self._json({"Status": "completed"}, 202)
            return
        if body.startswith(b"Action=DescribeSnapshots"):
            self.answer(NO_SNAPSHOTS, headers={"Content-Type": "text/xml"})  # EC2 does not show the new snapshot yet
            return
        EbsHandler.puts, EbsHandler.completed = 0, {}
        self.indices.clear()
        size = json.loads(body)["VolumeSize"]
        self._json({"SnapshotId": "snap-0123456789abcdef0", "Status": "pending", "VolumeSize": size,
                    "BlockSize": BLOCK, "OwnerId": "123456789012"}, 201)  # fmt: skip

    @classmethod
    def told(cls) -> dict[str, Any]:
        return {**super().told(), "puts": cls.puts, "distinct": len(cls.indices), **cls.completed}

    def _json(self, values: dict[str, Any], status: int) -> None:
        self.answer(json.dumps(values).encode(), status=status, headers={"Content-Type": "application/json"})


class EbsSink:
    """A running one."""

    def __init__(self, url: str, ca: str) -> None:
        self.url = url
        self.ca = ca

    def told(self) -> dict[str, Any]:
        return told_by(self.url, self.ca)

    def wire(self, due: int) -> harness.Wire:
        """Blocks' bytes, as they came here."""
        return harness.Wire(lambda: int(self.told()["bytes"]), due)

    def check(self, blocks: int, checksum: str = "") -> None:
        """:param checksum: the LINEAR one, base64; empty: not looked at."""
        told = self.told()
        assert (told["puts"], told["distinct"], told["count"]) == (blocks, blocks, str(blocks)), (told, blocks)
        assert not checksum or told["checksum"] == checksum, "other blocks were sent"


@contextmanager
def ebs_sink(folder: Path, *, latency_ms: int = 0) -> Iterator[EbsSink]:
    with running(EbsHandler, folder, latency_s=latency_ms / 1000) as (url, ca):
        yield EbsSink(url, ca)
