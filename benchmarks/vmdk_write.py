"""Sparse raw file to stream-optimised VMDK, beside ``qemu-img convert``.

Ours is what an upload does but for the network: blocks and parts hashed, manifest made. ``zlib1_mib`` is what the
grains take at zlib level 1, for a like-for-like view of the output.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from benchmarks import harness
from wavelift.base.units import MIB


class FileSink:
    """Parts, sent by one thread and so in order, into one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        self._file.write(data)

    def complete(self) -> None:
        self._file.close()

    def abort(self) -> None:
        self._file.close()


def job(source: Path, target: Path) -> None:
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.file import FileReader
    from wavelift.transfer.manifest import Manifest
    from wavelift.transfer.pipeline import as_stream, copy
    from wavelift.transfer.vmdk_writer import VmdkPartWriter

    idle = harness.peak_mib()
    stream = as_stream(FileReader(source))
    writer = VmdkPartWriter(FileSink(target), stream.size, uploads=1)
    copy(stream, writer, Manifest.empty(stream.size), cancel=CancelFlag())
    stream.close()
    harness.report_job(added_mib=harness.peak_mib() - idle)


def zlib1_size(raw: Path) -> int:
    """Bytes that zlib level 1 makes of the grains that are not zero, each padded as the format wants."""
    grain = 64 * 1024
    total = 0
    with raw.open("rb") as file:
        while data := file.read(grain):
            if data != bytes(len(data)):
                total += -(-(len(zlib.compress(data, 1)) + 12) // 512) * 512
    return total


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*map(Path, options.job))
        return
    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw = folder / "corpus.raw"
        data = corpus.make(raw)
        ours, theirs = folder / "ours.vmdk", folder / "theirs.vmdk"
        convert = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(theirs)]
        harness.compare(
            "vmdk_write",
            ours=harness.Contender(
                "wavelift",
                harness.job_command("benchmarks.vmdk_write", raw, ours),
                output=ours,
                check=lambda: harness.must_run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, ours),
            ),
            peers=[harness.Contender("qemu-img", convert, output=theirs)],
            data_bytes=data,
            params={**corpus.params, "zlib1_mib": round(zlib1_size(raw) / MIB, 2)},
            runs=options.runs,
        )


if __name__ == "__main__":
    main()
