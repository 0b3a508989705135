"""Stream-optimised VMDK to a sparse raw file, compared with ``qemu-img convert``.

``ours`` does what qemu-img does and checks more (tables against markers). The variant ``with_manifest`` also hashes
every block, as each transfer does. Floor: the grains inflated and, for the variant, the blocks hashed. The kernel's
cost to store the output is part of every contender, but of no floor. There is no network, so no server counts bytes:
the output is compared with the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import floor, harness


def job(kind: str, source: Path, target: Path) -> None:
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.conveyor import Conveyor, Scratch
    from wavelift.transfer.file import FileWriter
    from wavelift.transfer.manifest import Manifest, block_length
    from wavelift.transfer.pipeline import copy
    from wavelift.transfer.protocols import Piece
    from wavelift.transfer.vmdk import StreamVmdkSource

    def nothing(*_: object) -> None: ...

    idle = harness.peak_mib()
    with source.open("rb", buffering=0) as raw:
        stream = StreamVmdkSource(raw)
        # qemu-img does not force its output to disk either.
        writer = FileWriter(target, stream.size, sync=False)
        if kind == "with_manifest":
            copy(stream, writer, Manifest.empty(stream.size), cancel=CancelFlag())
        else:
            scratch = Scratch()

            def work(piece: Piece) -> None:
                data = scratch.view[: block_length(stream.size, piece.index)]
                piece.load(data)
                writer.write(piece.index, data)

            conveyor: Conveyor[None] = Conveyor(name="bench", workers=2, cancel=CancelFlag())
            conveyor.run(stream.pieces(), work=work, drain=nothing, finish=nothing, tick=nothing, interrupt=nothing)
    harness.report_job(added_mib=harness.peak_mib() - idle)


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        kind, source, target = options.job
        job(kind, Path(source), Path(target))
        return
    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw, vmdk = folder / "corpus.raw", folder / "corpus.vmdk"
        data = corpus.make(raw)
        harness.must_run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk)
        ours, theirs = folder / "ours.raw", folder / "theirs.raw"

        def contender(kind: str, *parts: str) -> harness.Contender:
            return harness.Contender(
                kind,
                harness.job_command("benchmarks.vmdk_read", kind, vmdk, ours),
                output=ours,
                check=lambda: harness.must_run("cmp", raw, ours),
                needs=dict.fromkeys(parts, data),
            )

        harness.compare(
            "vmdk_read",
            ours=contender("decode", "inflate"),
            variants=[contender("with_manifest", "inflate", "sha256")],
            peers=[
                harness.Contender(
                    "qemu-img", ["qemu-img", "convert", "-O", "raw", str(vmdk), str(theirs)], output=theirs
                )
            ],
            data_bytes=data,
            params=corpus.params,
            runs=options.runs,
            floor=harness.Floor(
                floor.contender(raw, ["inflate", "sha256"], data, stream=vmdk), needs={"inflate": data}
            ),
            limits=_limits,
        )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    return [harness.Limit("CPU / qemu-img", result["ours"]["ratio_to_peer"]["qemu-img"], at_most=0.5)]


if __name__ == "__main__":
    main()
