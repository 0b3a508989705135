"""Doubts about change tracking, which disk is which, and areas as blocks: everything that needs no vCenter."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.adapters.vsphere.ranges import folder_path
from wavelift.base.domain import DiskFacts, DiskLineage, ReplicatedDisk
from wavelift.base.units import BLOCK, GIB, KIB
from wavelift.rules.lineage import (
    DOUBTFUL,
    EventKind,
    EventMemory,
    TrackingEvent,
    lineage_doubts,
    match_disks,
    memory_doubt,
    stray_child,
)
from wavelift.transfer.extents import coalesce, round_to_blocks
from wavelift.transfer.protocols import Extent

pytestmark = pytest.mark.unit

LINEAGE = "52de0bd0-0000-4000-8000-000000000001"
NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)


def disk(**changes: Any) -> DiskFacts:
    values: dict[str, Any] = {
        "key": 2000,
        "label": "Hard disk 1",
        "capacity": 8 * GIB,
        "controller": "SCSI",
        "controller_class": "ParaVirtualSCSIController",
        "bus": 0,
        "unit": 0,
        "backing": "VirtualDiskFlatVer2BackingInfo",
        "file": "[ds1] web01/web01.vmdk",
        "uuid": "6000C29a",
        "change_id": f"{LINEAGE}/8",
    }
    return DiskFacts(**(values | changes))


def lineage(**changes: Any) -> DiskLineage:
    values: dict[str, Any] = {
        "key": 2000,
        "address": "SCSI 0:0",
        "uuid": "6000C29a",
        "file": "[ds1] web01/web01.vmdk",
        "capacity": 8 * GIB,
        "change_id": f"{LINEAGE}/7",
        "snapshot_id": "snap-1",
        "bucket": "b",
        "manifest_key": "m",
        "manifest_digest": "d",
        "hardware_version": "vmx-19",
    }
    return DiskLineage(**(values | changes))


def doubts(previous: DiskLineage, now: DiskFacts, *, hardware: str = "vmx-19", kind: EventKind | None = None) -> str:
    events = [TrackingEvent(kind, NOW, "source")] if kind else []
    return lineage_doubts(previous, now, hardware_version=hardware, events=events)


def test_inv_3_nothing_unusual_is_no_doubt() -> None:
    assert doubts(lineage(), disk()) == ""
    assert doubts(lineage(hardware_version=""), disk()) == "", "an old record says nothing of it"
    head = disk(file="[ds1] web01/web01-000003.vmdk", base="[ds1] web01/web01.vmdk")
    assert doubts(lineage(), head) == "", "snapshots of others stand"
    assert doubts(lineage(), disk(), kind="move") == "", "the map goes with the VM"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"quarantine": "an audit found a difference"}, {}, "an audit found a difference"),
        ({"change_id": None}, {}, "the last run had no change id"),
        ({}, {"change_id": None}, "tracking is off"),
        ({}, {"change_id": "52de0bd0-ffff-4000-8000-000000000001/8"}, "was restarted"),
        ({}, {"change_id": f"{LINEAGE}/6"}, "decreased from 7 to 6"),
        ({}, {"key": 2001}, "key changed from 2000 to 2001"),
        ({}, {"uuid": "6000C29b"}, "uuid changed"),
        ({}, {"file": "[ds2] web01/web01.vmdk"}, r"file changed from \[ds1\]"),
        ({}, {"capacity": 9 * GIB}, "size in bytes changed"),
    ],
)
def test_inv_3_every_change_of_the_disk_is_a_doubt(before: Any, after: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(doubts(lineage(**before), disk(**after)))


def test_inv_3_hardware_and_events_are_doubts() -> None:
    assert "from vmx-19 to vmx-21" in doubts(lineage(), disk(), hardware="vmx-21")
    for kind in DOUBTFUL:
        assert f"since the last run: {kind} at 2026-11-26 03:00:00 UTC (source)" == doubts(lineage(), disk(), kind=kind)


def test_change_ids_of_another_form_are_compared_whole() -> None:
    assert doubts(lineage(change_id="opaque"), disk(change_id="opaque")) == ""
    assert "was restarted" in doubts(lineage(change_id="opaque"), disk(change_id="other"))
    assert doubts(lineage(change_id="a/x"), disk(change_id="a/y")) == ""


def test_a_name_that_looks_like_a_deltas_is_a_name() -> None:
    """``srv-100234.vmdk`` is a base file, and not the same as ``srv.vmdk`` (issue 11, 21)."""
    named = lineage(file="[ds1] srv/srv-100234.vmdk")
    assert doubts(named, disk(file="[ds1] srv/srv-100234.vmdk")) == ""
    head = disk(file="[ds1] srv/srv-100234-000001.vmdk", base="[ds1] srv/srv-100234.vmdk")
    assert doubts(named, head) == ""
    assert "file changed" in doubts(named, disk(file="[ds1] srv/srv-100235.vmdk"))


def memory(days: float, *, kept: int | None = 30, reaches: bool = True) -> str:
    return memory_doubt(EventMemory(timedelta(days=days), kept, reaches))


def test_inv_3_events_say_nothing_of_what_they_do_not_reach() -> None:
    assert memory(1) == memory(13.9, kept=None) == memory(6.9, kept=7) == ""
    assert memory(7, kept=7) == "vCenter keeps events for 7 days, but the last run is 7 days old"
    assert "for at most 14 days" in memory(14, kept=None)
    assert "no event of the VM" in memory(0.1, reaches=False)
    assert memory(0, kept=0), "kept for no time at all"
    why = lineage_doubts(lineage(), disk(), hardware_version="vmx-19", forgotten="forgotten")
    assert why == "forgotten"


# --- which disk is which ----------------------------------------------------------------------------------------


def test_disks_are_known_by_uuid_wherever_they_hang() -> None:
    found = match_disks([lineage()], [disk(key=2005, unit=5)])
    assert [(one.fate, one.reason) for one in found.disks] == [("same", "")]
    assert found.gone == ()


def child(of: DiskFacts, parent: str) -> ReplicatedDisk:
    return ReplicatedDisk(
        index=0,
        boot=False,
        label="",
        kind="delta" if parent else "seed",
        reader="nfc",
        parent_snapshot_id=parent,
        lineage=lineage(uuid=of.uuid, key=of.key, snapshot_id=f"new-{of.key}"),
        content_digest="",
        data_bytes=0,
        bytes_read=0,
        bytes_sent=0,
        blocks_sent=0,
    )


def test_another_disk_at_the_old_address_is_new() -> None:
    found = match_disks([lineage()], [disk(uuid="other")])
    assert [one.fate for one in found.disks] == ["new"]
    assert found.disks[0].previous is None
    assert found.gone == (lineage(),)


def test_growth_needs_a_seed_and_is_named() -> None:
    found = match_disks([lineage()], [disk(capacity=16 * GIB)])
    assert found.disks[0].fate == "grown"
    assert found.disks[0].reason == "the disk grew from 8.0 GiB to 16.0 GiB"
    shrunk = match_disks([lineage()], [disk(capacity=4 * GIB)]).disks[0]
    assert (shrunk.fate, shrunk.previous) == ("new", None)


def test_copies_that_share_a_uuid_are_told_apart_by_key() -> None:
    old = [lineage(), lineage(key=2001, snapshot_id="snap-2")]
    found = match_disks(old, [disk(key=2001), disk()])
    assert [one.previous.snapshot_id for one in found.disks if one.previous] == ["snap-2", "snap-1"]
    unnamed = match_disks([lineage(uuid="")], [disk(uuid="")])
    assert unnamed.disks[0].fate == "same"


PLACES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", ""]), st.integers(2000, 2006)), max_size=6, unique_by=lambda at: at[1]
)


@given(PLACES, PLACES)
def test_inv_4_whatever_moves_each_disk_is_a_child_of_its_own_parent_or_a_seed(
    before: list[tuple[str, int]], now: list[tuple[str, int]]
) -> None:
    """Copies of one file, which share its uuid, among them: what is paired may be recorded."""
    old = [lineage(uuid=uuid, key=key, snapshot_id=f"snap-{key}") for uuid, key in before]
    matched = match_disks(old, [disk(uuid=uuid, key=key) for uuid, key in now]).disks
    sent = [child(each.disk, each.previous.snapshot_id if each.previous else "") for each in matched]
    assert stray_child(sent, old) is None
    for each in matched:
        assert each.previous is None or each.previous.uuid == each.disk.uuid
        unique = each.disk.uuid and all(
            [uuid for uuid, _ in places].count(each.disk.uuid) == 1 for places in (before, now)
        )
        assert not unique or each.previous is not None


# --- areas and blocks --------------------------------------------------------------------------------------------

AREAS = st.lists(st.builds(Extent, st.integers(0, 40 * BLOCK), st.integers(0, 4 * BLOCK)), max_size=40)


def covered(extents: tuple[Extent, ...]) -> set[int]:
    """By the unit that the strategies below use."""
    return {at for area in extents for at in range(area.offset, area.offset + area.length)}


@given(st.lists(st.builds(Extent, st.integers(0, 200), st.integers(0, 20)), max_size=20), st.integers(0, 10))
def test_coalescing_covers_the_same_and_leaves_gaps_wider_than_the_limit(areas: list[Extent], gap: int) -> None:
    joined = coalesce(areas, gap=gap)
    assert covered(tuple(areas)) <= covered(joined)
    assert all(b.offset - (a.offset + a.length) > gap for a, b in itertools.pairwise(joined))
    if gap == 0:
        assert covered(tuple(areas)) == covered(joined)


@given(AREAS, st.integers(1, 40 * BLOCK))
def test_blocks_are_exactly_those_that_areas_touch(areas: list[Extent], capacity: int) -> None:
    blocks = round_to_blocks(areas, capacity)
    touched = {
        index
        for area in areas
        if area.length and area.offset < capacity
        for index in range(area.offset // BLOCK, (min(area.offset + area.length, capacity) - 1) // BLOCK + 1)
    }
    made = {at // BLOCK for one in blocks for at in range(one.offset, one.offset + one.length, BLOCK)}
    assert made == touched
    assert all(one.offset % BLOCK == 0 for one in blocks)
    assert all((one.offset + one.length) % BLOCK == 0 or one.offset + one.length == capacity for one in blocks)
    assert all(a.offset + a.length < b.offset for a, b in itertools.pairwise(blocks))


def test_an_area_before_the_disk_is_an_error() -> None:
    with pytest.raises(ValueError, match="an area at -1"):
        round_to_blocks([Extent(-1, 5)], BLOCK)


def test_ten_thousand_areas_in_any_order() -> None:
    areas = [Extent(index * 800 * KIB, 64 * KIB) for index in range(10_000)]
    blocks = round_to_blocks(reversed(areas), 8 * GIB)
    assert sum(one.length for one in blocks) >= 10_000 * 64 * KIB


def test_paths_below_folder() -> None:
    assert folder_path("[ds 1] web#01/web#01-flat.vmdk") == "/folder/web%2301/web%2301-flat.vmdk?dsName=ds%201"
    assert folder_path("[ds1] a/a-flat.vmdk", datacenter="eu/dc1").endswith("?dcPath=eu%2Fdc1&dsName=ds1")
