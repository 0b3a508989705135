"""Sparse raw file to stream-optimised VMDK, compared with ``qemu-img convert``.

``ours`` does what qemu-img does. The variant ``as_uploaded`` does what an upload does, without the network: blocks and
parts are hashed and a manifest is made. ``zlib1_mib`` is the size of the grains at zlib level 1, for comparison with
the size of the output. Floor: the grains deflated and, for the variant, blocks and parts hashed. There is no network,
so no server counts bytes: the output is compared with the corpus.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import floor, harness
from wavelift.base.run import CancelFlag
from wavelift.base.units import MIB
from wavelift.transfer.conveyor import Conveyor, Scratch
from wavelift.transfer.file import FileReader
from wavelift.transfer.manifest import Manifest, block_length
from wavelift.transfer.pipeline import copy, is_zero
from wavelift.transfer.protocols import BlockStream, Piece
from wavelift.transfer.vmdk import PreparedBlock, StreamVmdkEncoder, prepare_block
from wavelift.transfer.vmdk_writer import VmdkPartWriter


class FileSink:
    """Parts, sent by one thread and so in order, into one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        self._file.write(data)

    def complete(self) -> None:
        self._file.close()


def encode(stream: BlockStream, target: Path) -> None:
    """Read, deflate, write: no digest."""

    def nothing(*_: object) -> None: ...

    with target.open("wb", buffering=1 * MIB) as file:
        encoder = StreamVmdkEncoder(stream.size, lambda chunks, size: file.writelines(chunks))
        scratch = Scratch()

        def work(piece: Piece) -> PreparedBlock | None:
            length = block_length(stream.size, piece.index)
            data = scratch.view[:length]
            piece.load(data)
            return None if is_zero(scratch, length) else prepare_block(piece.index, data)

        def drain(piece: Piece, block: PreparedBlock | None) -> None:
            if block is not None:
                encoder.append(block)

        encoder.begin()
        conveyor: Conveyor[PreparedBlock | None] = Conveyor(name="bench", workers=2, cancel=CancelFlag())
        conveyor.run(stream.pieces(), work=work, drain=drain, finish=encoder.finish, tick=nothing, interrupt=nothing)


def job(kind: str, source: Path, target: Path) -> None:
    idle = harness.peak_mib()
    stream = FileReader(source).stream()
    if kind == "as_uploaded":
        writer = VmdkPartWriter(FileSink(target), stream.size, uploads=1)
        copy(stream, writer, Manifest.empty(stream.size), cancel=CancelFlag())
    else:
        encode(stream, target)
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
        kind, source, target = options.job
        job(kind, Path(source), Path(target))
        return
    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw = folder / "corpus.raw"
        data = corpus.make(raw)
        ours, theirs = folder / "ours.vmdk", folder / "theirs.vmdk"
        convert = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(theirs)]

        def contender(kind: str, *parts: str) -> harness.Contender:
            return harness.Contender(
                kind,
                harness.job_command("benchmarks.vmdk_write", kind, raw, ours),
                output=ours,
                check=lambda: harness.must_run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, ours),
                needs=dict.fromkeys(parts, data),
            )

        harness.compare(
            "vmdk_write",
            ours=contender("encode", "deflate"),
            variants=[contender("as_uploaded", "deflate", "sha256", "sha256_packed")],
            peers=[harness.Contender("qemu-img", convert, output=theirs)],
            data_bytes=data,
            params={**corpus.params, "zlib1_mib": round(zlib1_size(raw) / MIB, 2)},
            runs=options.runs,
            floor=harness.Floor(
                floor.contender(raw, ["deflate", "sha256", "sha256_packed"], data), needs={"deflate": data}
            ),
            limits=_limits,
        )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ours, uploaded = result["ours"], result["variants"]["as_uploaded"]
    return [
        harness.Limit("CPU / qemu-img", ours["ratio_to_peer"]["qemu-img"], at_most=0.15),
        harness.Limit("CPU / floor", ours["ratio_to_floor"], at_most=1.5),
        harness.Limit("as_uploaded: CPU / floor", uploaded["ratio_to_floor"], at_most=1.5),
    ]


if __name__ == "__main__":
    main()
