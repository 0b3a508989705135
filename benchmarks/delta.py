"""A delta run: 1 % of a disk was written since the seed, in random pieces of 64 KiB. The disk is read by ranges of the
datastore's file (``ours``), by the stream of an export lease (``nfc``), and by NBD with a stand-in for VDDK (``nbd``).

Each contender is the whole run, as the connector's task does it, against the simulators, over TLS on both sides. There
is no peer, because no public tool does this. The content digest of every result must equal that of the data that the
simulator froze, and the AWS simulator must have counted as many bytes as were reported as sent. Floor: the touched
blocks are received by the same method, hashed and sent; for ``nfc``, the whole disk is received compressed, inflated
and hashed. ``cpu_s`` and ``wall_s`` include Python's start and, for ``nbd``, the stand-in, which forks for every read;
``running_cpu_s`` and ``running_s`` exclude both. ``plan_10000_s`` is the cost of 10,000 changed areas: round them to
blocks, choose the audit's sample, cut them into work (``plan_1000_s``: for 1,000 areas). ``query_10000_s`` is the
answer of the vCenter simulator and its parsing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.vddk import VddkStandIn
from tests.wire.services.replica import Try

from benchmarks import floor, harness
from benchmarks.lab import SERVER, Lab, lab
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB, KIB
from wavelift.transfer.audit import audit_indices
from wavelift.transfer.extents import block_ranges, round_to_blocks
from wavelift.transfer.manifest import block_count
from wavelift.transfer.protocols import Extent

PIECE: Final = 64 * KIB
SECTORS: Final = 4 * KIB
"""Where pieces may begin: a guest's file systems know nothing of 512 KiB."""
AREAS: Final = 10_000
FEW: Final = 1_000
PARTS: Final = ("tls_receive", "tls_receive_packed", "unix_receive", "inflate", "sha256", "tls_send")


def places(size: int, count: int, *, seed: int, length: int, apart: int) -> list[int]:
    """Random offsets, ascending, of pieces with at least half of ``apart`` between them."""
    chance = random.Random(seed)
    slots = sorted(chance.sample(range(size // (length + apart)), count))
    return [slot * (length + apart) + chance.randrange(apart // 2 // SECTORS) * SECTORS for slot in slots]


def plan_seconds(size: int, seed: int, count: int) -> float:
    """What our part of planning takes."""
    areas = [Extent(offset, SECTORS) for offset in places(size, count, seed=seed, length=SECTORS, apart=4 * PIECE)]
    taken = []
    for _ in range(harness.RUNS):
        began = time.perf_counter()
        whole = round_to_blocks(areas, size)
        blocks = {index for index, _ in block_ranges(iter(whole), size)}
        audit_indices(block_count(size), blocks, chance=random.Random(seed), cancel=CancelFlag())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def query_seconds(at: Lab, seed: int) -> float:
    """How long vCenter's list of as many areas takes to ask for and to read."""
    from wavelift.adapters.vsphere.devices import FrozenVm
    from wavelift.adapters.vsphere.tracking import changed_areas

    earlier = at.replica.begin()
    at.replica.end(earlier, None)
    (disk,) = earlier.snapshot.disks
    assert disk.change_id
    for offset in places(disk.capacity, AREAS, seed=seed, length=SECTORS, apart=4 * PIECE):
        at.stage.vc.guest_write(SERVER, 0, offset, b"x" * SECTORS)
    one = at.replica.begin()
    with at.stage.connect() as session:
        began = time.perf_counter()
        found = changed_areas(
            session,
            FrozenVm(one.task.facts.moref, one.snapshot.ref.moref, SERVER),
            one.snapshot.disks[0],
            change_id=disk.change_id,
            cancel=CancelFlag(),
        )
        took = time.perf_counter() - began
    at.replica.end(one, None)
    assert len(found.areas) == AREAS, f"{len(found.areas)} areas"
    return took


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.set_defaults(size_mib=8192, data_pct=20)
    options = parser.parse_args()
    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw = folder / "disk.raw"
        corpus.make(raw)
        with lab(folder, raw) as at:
            planning = {
                "plan_10000_s": round(plan_seconds(corpus.size, options.seed, AREAS), 4),
                "plan_1000_s": round(plan_seconds(corpus.size, options.seed, FEW), 4),
                "query_10000_s": round(query_seconds(at, options.seed), 4),
            }
            at.serve_ranges()
            at.replica.run(check=False)
            count = corpus.size // 100 // PIECE
            chance = random.Random(options.seed)
            offsets = places(corpus.size, count, seed=options.seed, length=PIECE, apart=PIECE)
            for offset in offsets:
                at.stage.vc.guest_write(SERVER, 0, offset, chance.randbytes(PIECE))
            touched = {index for offset in offsets for index in (offset // BLOCK, (offset + PIECE - 1) // BLOCK)}
            one = at.replica.begin()
            try:
                params = {**corpus.params, "pieces": count, "piece": PIECE, "blocks_touched": len(touched), **planning}
                _compare(options, at, one, params)
            finally:
                at.replica.end(one, None)


def _compare(options: argparse.Namespace, at: Lab, one: Try, params: Mapping[str, Any]) -> None:
    frozen = at.frozen(one)
    expected, data = frozen.content_digest(), frozen.data_bytes
    touched = params["blocks_touched"] * BLOCK
    needs = {
        "datastore": {"tls_receive": touched, "sha256": touched, "tls_send": touched},
        "nfc": {"tls_receive_packed": data, "inflate": data, "sha256": data, "tls_send": touched},
        "nbd": {"unix_receive": touched, "sha256": touched, "tls_send": touched},
    }

    def contender(reader: str, before: Callable[[], None], vddk: VddkStandIn | None = None) -> harness.Contender:
        order = at.order(one, vddk=vddk)

        def check() -> None:
            disk = at.disk_of(order)
            at.delete(disk)
            assert (disk.reader, disk.kind) == (reader, "delta"), (disk.reader, disk.reader_reason, disk.kind_reason)
            assert disk.content_digest == expected, f"{reader} made another disk"

        command = harness.job_command("benchmarks.order", order)
        return harness.Contender(reader, command, check=check, before=before, wires=[at.wire()], needs=needs[reader])

    harness.compare(
        "delta",
        ours=contender("datastore", at.serve_ranges),
        variants=[contender("nfc", at.stage.vc.clear_rules), contender("nbd", at.stage.vc.clear_rules, at.vddk())],
        peers=[],
        data_bytes=touched,
        params=params,
        runs=options.runs,
        limits=_limits,
        floor=harness.Floor(floor.contender(at.frozen_disk(one), PARTS, min(data, GIB)), needs["datastore"]),
        cpu="running_cpu_s",
    )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    params, touched = result["params"], result["params"]["blocks_touched"]
    ways = {"ranges": result["ours"], **result["variants"]}
    sent = [
        harness.Limit(f"{name}: blocks sent, of those touched", way["blocks_sent"], at_most=touched)
        for name, way in ways.items()
    ]
    read = [
        harness.Limit(f"{name}: bytes read / bytes touched", ways[name]["bytes_read"] / (touched * BLOCK), at_most=1.2)
        for name in ("ranges", "nbd")
    ]
    planned = [
        harness.Limit("planning 10,000 areas / 1,000", params["plan_10000_s"] / params["plan_1000_s"], at_most=20),
        harness.Limit("planning / asking for them", params["plan_10000_s"] / params["query_10000_s"], at_most=1),
    ]
    return [*sent, *read, *planned]


if __name__ == "__main__":
    main()
