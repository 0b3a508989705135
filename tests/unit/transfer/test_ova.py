"""An OVA in one pass: what is in it, where its parts are cut, what is held, and that it repeats."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import Cancelled, PermanentError, ThrottledError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB, MIB, SECTOR, TIB
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.ova import MAX_OBJECT, OvaAssembly, OvaPlan
from wavelift.transfer.ova_image import open_ova
from wavelift.transfer.ovf import DESCRIPTOR_SIZE, Machine
from wavelift.transfer.parts import HELD_PART, MAX_PARTS, MIN_PART
from wavelift.transfer.pipeline import copy
from wavelift.transfer.protocols import PartSink
from wavelift.transfer.vmdk import prepare_block

pytestmark = pytest.mark.unit

MACHINE = Machine(name="web01", cpus=2, memory_mib=4096)
SMALL_PART = 300_000
NOISE = random.Random(1).randbytes(64 * BLOCK)


def disk_of(kinds: str, tail: int = 0, seed: int = 0) -> bytes:
    """A block for each letter (z: zeros, t: text, n: noise), and ``tail`` bytes more."""
    made = bytearray()
    for number, kind in enumerate(kinds):
        start = (seed * 7 + number) % 60 * BLOCK
        made += {"z": bytes(BLOCK), "t": b"text %3d" % number * (BLOCK // 8), "n": NOISE[start : start + BLOCK]}[kind]
    return bytes(made) + (b"t" * tail)


def members(file: bytes) -> dict[str, bytes]:
    """By a reader that is not ours, in their order."""
    with tarfile.open(fileobj=io.BytesIO(file)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]


disks_of_many_kinds = st.lists(
    st.builds(
        disk_of, st.text("ztn", min_size=1, max_size=9), st.sampled_from([0, 1, SECTOR, 70_000]), st.integers(0, 3)
    ),
    min_size=1,
    max_size=5,
)


@examples(25, 300)
@given(disks=disks_of_many_kinds, part_size=st.integers(20_000, 2_000_000))
def test_every_disk_comes_back_whatever_the_cuts(box: Any, disks: list[bytes], part_size: int) -> None:
    sink, plan = box.Sink(), box.ova_plan(disks)
    result, manifests = box.write_ova(sink, plan, disks, part_size=part_size)
    files = members(sink.object)
    assert list(files) == ["exp-1.ovf", "exp-1.mf", *(f"exp-1-disk{n}.vmdk" for n in range(1, len(disks) + 1))]
    digests = [(name, hashlib.sha256(data).hexdigest()) for name, data in files.items() if not name.endswith(".mf")]
    assert files["exp-1.mf"].decode() == "".join(f"SHA256({name})= {digest}\n" for name, digest in digests)
    assert [(file.name, file.sha256) for file in result.files] == digests
    assert [file.size for file in result.files] == [len(files[name]) for name, _ in digests]
    assert (result.object_bytes, result.parts) == (len(sink.object), len(sink.parts))
    for number, (content, manifest) in enumerate(zip(disks, manifests, strict=True), start=1):
        decoded, _ = box.decode(files[f"exp-1-disk{number}.vmdk"])
        assert decoded == content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0")
        assert manifest.to_bytes() == box.manifest_of(content).to_bytes()
    assert sink.object[-2 * SECTOR :] == bytes(2 * SECTOR)
    sizes = [len(sink.parts[number]) for number in sorted(sink.parts)]
    assert all(size >= min(part_size, HELD_PART) for size in sizes[:-1])
    image = open_ova(lambda offset, length: sink.object[offset : offset + length], len(sink.object))
    assert [disk.capacity for disk in image.disks] == [len(content) for content in disks]


@examples(8, 60)
@given(disks=disks_of_many_kinds, changed=st.integers(0, 4))
def test_the_same_disks_give_the_same_parts(box: Any, disks: list[bytes], changed: int) -> None:
    """Invariant 6; and up to the first difference also other disks do, but for the held parts."""
    made = []
    other = list(disks)
    at = changed % len(disks)
    other[at] = bytes(byte ^ 1 for byte in disks[at][:BLOCK]) + disks[at][BLOCK:]
    for each in (disks, disks, other):
        sink = box.Sink()
        box.write_ova(sink, box.ova_plan(each), each, part_size=SMALL_PART, uploads=random.choice((1, 3)))
        made.append(sink)
    assert made[0].parts == made[1].parts
    assert made[0].parts[1] != made[2].parts[1], "the manifest must differ"


class Order:
    """A sink that notes in which order parts came."""

    def __init__(self, inner: PartSink) -> None:
        self.numbers: list[int] = []
        self._inner = inner

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        self.numbers.append(number)
        self._inner.put_part(number, data, sha256)

    def complete(self) -> None:
        self._inner.complete()


def test_parts_with_a_head_go_out_when_their_disk_has_ended_and_the_first_one_last(box: Any) -> None:
    disks = [disk_of("n" * 45, seed=number) for number in range(3)]
    sink = box.Sink()
    order = Order(sink)
    box.write_ova(order, box.ova_plan(disks), disks, uploads=1)
    heads = [
        number
        for number, part in sorted(sink.parts.items())
        if any(b"exp-1-disk%d.vmdk\0" % disk in part for disk in (2, 3))
    ]
    assert len(heads) == 2
    for head in heads:
        assert sink.parts[head].index(b"exp-1-disk") < HELD_PART, "the one before was long enough to end"
        assert HELD_PART <= len(sink.parts[head]) <= HELD_PART + 2 * MIB, "a held part is short"
        assert order.numbers.index(head) > order.numbers.index(head + 1), "its successor did not wait"
    assert order.numbers[-2:].count(1) == 1, "the first part waits for all disks"
    assert len(members(sink.object)) == 5


def test_several_small_disks_lie_in_one_part(box: Any) -> None:
    disks = [bytes(BLOCK), bytes(SECTOR), disk_of("t"), bytes(1), disk_of("n")]
    sink = box.Sink()
    result, _ = box.write_ova(sink, box.ova_plan(disks), disks)
    assert list(sink.parts) == [1]
    assert len(result.files) == 6
    assert [len(data) for name, data in members(sink.object).items() if name.endswith("disk2.vmdk")] == [
        128 * 512 + 2560
    ]


def test_what_is_held_does_not_grow_with_the_disks(box: Any) -> None:
    disks = [disk_of("n" * 16, seed=number) for number in range(6)]
    most = 0

    class Watching(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            nonlocal most
            most = max(most, sum(len(held.data) for held in list(assembly._stream._held.values())))
            super().put_part(number, data, sha256)

    plan = box.ova_plan(disks)
    with closing(OvaAssembly(Watching(), plan)) as assembly:
        for number, content in enumerate(disks):
            with closing(box.Disk(content).stream()) as stream:
                copy(stream, assembly.disk(number), Manifest.empty(len(content)), cancel=CancelFlag())
        assembly.finish()
    assert HELD_PART < most <= 2 * (HELD_PART + 2 * MIB)


def test_a_part_that_fails_stops_the_copy_with_its_own_error(box: Any) -> None:
    class Failing(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            if number == 3:
                raise ThrottledError("S3 says slow down")
            super().put_part(number, data, sha256)

    disks = [disk_of("n" * 60), disk_of("n")]
    sink = Failing()
    with pytest.raises(ThrottledError):
        box.write_ova(sink, box.ova_plan(disks), disks, part_size=SMALL_PART)
    assert not sink.completed


def test_a_retry_after_a_kill_repeats_what_was_stored(box: Any) -> None:
    """Whatever was unsent when the process died: what S3 has keeps its digest."""
    disks = [disk_of("n" * 30), disk_of("tz" * 9), disk_of("n" * 20, seed=1)]
    plan, whole = box.ova_plan(disks), box.Sink()
    box.write_ova(whole, plan, disks, part_size=SMALL_PART)
    for dies_at in (1, 9, 23):
        died = box.Sink()

        class Dying:
            def __init__(self, sink: Any, at: int) -> None:
                self._sink = sink
                self._at = at

            def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
                if len(self._sink.parts) >= self._at:
                    raise ThrottledError("no more")
                self._sink.put_part(number, data, sha256)

            def complete(self) -> None:
                raise AssertionError("it died")

        with pytest.raises(ThrottledError):
            box.write_ova(Dying(died, dies_at), plan, disks, part_size=SMALL_PART, uploads=1)
        assert len(died.parts) == dies_at
        assert all(whole.parts[number] == data for number, data in died.parts.items())


def test_a_cancel_ends_a_copy_that_waits_for_the_sink(box: Any) -> None:
    release, inside = threading.Event(), threading.Event()

    class Slow(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            inside.set()
            assert release.wait(120)

    content = disk_of("n" * 60)
    cancel, raised = CancelFlag(), []
    assembly = OvaAssembly(Slow(), box.ova_plan([content]), part_size=SMALL_PART)

    def run() -> None:
        with closing(box.Disk(content).stream()) as stream:
            try:
                copy(stream, assembly.disk(0), Manifest.empty(len(content)), cancel=cancel)
            except Cancelled as error:
                raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(60)
    cancel.set("the operator")
    thread.join(60)
    assert raised
    release.set()
    assembly.close()
    assembly.close()


def test_disks_come_in_order_and_all_of_them(box: Any) -> None:
    disks = [disk_of("t"), disk_of("t")]
    with closing(OvaAssembly(box.Sink(), box.ova_plan(disks))) as assembly:
        with pytest.raises(ValueError, match="disk 0 comes next"):
            assembly.disk(1)
        writer = assembly.disk(0)
        writer.write(0, prepare_block(0, memoryview(disks[0])))
        with pytest.raises(ValueError, match="a manifest of"):
            writer.finish(Manifest.empty(2 * BLOCK))
        writer.finish(Manifest.empty(BLOCK))
        with pytest.raises(ValueError, match="disk 1 comes next"):
            assembly.disk(0)
        with pytest.raises(ValueError, match="only 1 of 2"):
            assembly.finish()


@pytest.mark.parametrize(
    ("capacities", "machine", "words"),
    [
        ((), {}, "no disk"),
        ((2 * TIB + SECTOR,), {}, "2 TiB"),
        ((GIB, 0), {}, "does not fit"),
        ((GIB,) * 61, {}, "takes 60 disks"),
        ((GIB,) * 121, {"controller": "sata"}, "takes 120 disks"),
        ((GIB,), {"networks": ("\U0001f600" * 80,) * 150}, "were set aside"),
    ],
)
def test_what_no_ova_can_hold_is_refused_before_anything_is_sent(
    capacities: tuple[int, ...], machine: Any, words: str
) -> None:
    told = {"name": "web01", "cpus": 2, "memory_mib": 4096, **machine}
    plan = OvaPlan(name="exp-1", machine=Machine(**told), capacities=capacities, mtime=0)
    with pytest.raises(PermanentError, match=words) as caught:
        plan.check()
    assert caught.value.next_step


def test_sixty_disks_of_any_size_find_room_in_the_descriptor() -> None:
    plan = OvaPlan(
        name="e" * 80,
        machine=Machine(name="&" * 200, cpus=448, memory_mib=24 << 20, networks=("&" * 80,) * 15, note="&" * 4096),
        capacities=(2 * TIB,) * 60,
        mtime=0,
    )
    with pytest.raises(PermanentError, match="set aside"):
        plan.check()  # the longest of everything at once does not
    sensible = Machine(name="w" * 80, cpus=448, memory_mib=24 << 20, networks=("subnet-0123456789abcdef0",) * 15)
    OvaPlan(name="e" * 80, machine=sensible, capacities=(2 * TIB,) * 40, mtime=0).check()


def test_an_object_that_outgrows_s3_is_a_clear_error(box: Any) -> None:
    content = disk_of("tt")
    with closing(OvaAssembly(box.Sink(), box.ova_plan([content]))) as assembly:
        writer = assembly.disk(0)
        writer.write(0, prepare_block(0, memoryview(content)[:BLOCK]))
        assembly._size = MAX_OBJECT - 100
        with pytest.raises(PermanentError, match="5 TiB") as caught:
            writer.write(1, prepare_block(1, memoryview(content)[BLOCK:]))
        assert "fewer" in caught.value.next_step


def test_a_vmdk_that_outgrows_its_format_names_a_way_out_of_this_export(box: Any) -> None:
    content = disk_of("n")
    with closing(OvaAssembly(box.Sink(), box.ova_plan([content]))) as assembly:
        writer = assembly.disk(0)
        writer._encoder._sector = 0xFFFFFFFF - 1000
        with pytest.raises(PermanentError, match="2 TiB") as caught:
            writer.write(0, prepare_block(0, memoryview(content)))
        assert "Export" in caught.value.next_step


@examples(40, 300)
@given(capacities=st.lists(st.integers(1, 2 * TIB), min_size=1, max_size=60))
def test_the_worst_disks_fit_into_ten_thousand_parts(capacities: list[int]) -> None:
    plan = OvaPlan(name="exp-1", machine=MACHINE, capacities=tuple(capacities), mtime=0)
    largest = min(plan.most_bytes, MAX_OBJECT)
    assert plan.part_size >= MIN_PART
    assert -(-largest // plan.part_size) + 2 * (len(capacities) + 1) + 1 <= MAX_PARTS


def test_the_worst_size_is_the_true_one(box: Any) -> None:
    disks = [NOISE[: 20 * BLOCK], NOISE[20 * BLOCK : 27 * BLOCK]]
    sink, plan = box.Sink(), box.ova_plan(disks)
    box.write_ova(sink, plan, disks)
    assert plan.most_bytes * 0.99 < len(sink.object) <= plan.most_bytes


def test_a_small_ova_has_the_smallest_parts_and_four_buffers(box: Any) -> None:
    assert box.ova_plan([bytes(1)]).part_size == MIN_PART
    plan = OvaPlan(name="exp-1", machine=MACHINE, capacities=(4 * GIB,), mtime=0)
    with closing(OvaAssembly(box.Sink(), plan)) as assembly:
        assert assembly._stream._spare + 1 == 4


def test_names_that_tar_or_a_shell_would_stumble_over_are_refused(box: Any) -> None:
    for name in ("../x", "a/b", "", "-rf", "ä", "x" * 101, "a b"):
        with pytest.raises(ValueError, match="no name"):
            OvaAssembly(box.Sink(), box.ova_plan([b"1"], stem=name))


def test_times_are_those_of_the_plan(box: Any) -> None:
    sink = box.Sink()
    box.write_ova(sink, box.ova_plan([b"1"], mtime=1_234_567_890), [b"1"])
    with tarfile.open(fileobj=io.BytesIO(sink.object)) as tar:
        assert {one.mtime for one in tar.getmembers()} == {1_234_567_890}
        assert {(one.mode, one.uid, one.gid) for one in tar.getmembers()} == {(0o644, 0, 0)}
    assert sink.object[SECTOR : SECTOR + DESCRIPTOR_SIZE].rstrip(b" ").endswith(b"</Envelope>\n")
