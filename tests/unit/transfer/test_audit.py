"""The sample that checks change tracking: its required content, and how often it detects a wrong change map."""

from __future__ import annotations

import hashlib
import math
import random
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import Cancelled
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK
from wavelift.transfer import audit as audit_module
from wavelift.transfer.audit import AUDIT_MINIMUM, AUDIT_PCT, ZONE, Audit, audit, audit_indices
from wavelift.transfer.manifest import Manifest

pytestmark = pytest.mark.unit


@given(st.data())
@examples(40, 300)
def test_inv_3_the_sample_is_unchanged_blocks_enough_of_them_and_repeatable(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 3000))
    changed = data.draw(st.sets(st.integers(0, count - 1), max_size=count))
    chosen = audit_indices(count, changed, chance=random.Random("run"), cancel=CancelFlag())
    assert chosen == audit_indices(count, changed, chance=random.Random("run"), cancel=CancelFlag())
    assert chosen == sorted(set(chosen))
    assert not set(chosen) & changed
    assert all(0 <= index < count for index in chosen)
    unchanged = count - len(changed)
    assert len(chosen) == min(unchanged, max(AUDIT_MINIMUM, math.ceil(unchanged * AUDIT_PCT / 100)))


def test_inv_3_every_zone_and_neighbours_are_in_it() -> None:
    zones = 5
    count = zones * ZONE // BLOCK
    changed = set(range(1000, 2000)) | set(range(ZONE // BLOCK, 2 * ZONE // BLOCK))
    chosen = audit_indices(count, changed, chance=random.Random(1), cancel=CancelFlag())
    assert {index * BLOCK // ZONE for index in chosen} == {0, 2, 3, 4}, "the second is read anyway"
    assert {999, 2000} <= set(chosen)


@given(st.data())
@examples(60, 500)
def test_the_sample_is_what_the_definition_says(data: st.DataObject) -> None:
    """Against the definition written down block by block, as it was computed before it was made linear."""
    with patch.object(audit_module, "ZONE", 64 * BLOCK):
        zone = 64
        count = data.draw(st.integers(1, 700))
        kept = data.draw(st.sets(st.integers(0, count - 1), max_size=count))
        changed = set(range(count)) - kept if data.draw(st.booleans()) else kept
        pct = data.draw(st.sampled_from([0.5, 5.0, 50.0, 100.0]))
        chance = random.Random(data.draw(st.integers()))
        chosen = set(audit_indices(count, changed, chance=chance, cancel=CancelFlag(), pct=pct))
    unchanged = set(range(count)) - changed
    assert chosen <= unchanged
    zones = {index // zone for index in unchanged}
    assert {index // zone for index in chosen} == zones, "one of every zone that has one"
    budget = min(len(unchanged), max(AUDIT_MINIMUM, math.ceil(len(unchanged) * pct / 100)))
    assert len(chosen) == max(budget, len(zones))
    beside = {near for index in changed for near in (index - 1, index + 1)} & unchanged
    enough = min(max(0, (budget - len(zones)) // 2), max(0, len(beside) - len(zones)))
    assert len(chosen & beside) >= enough, "half of the rest are neighbours of changed areas"


def test_nearly_all_of_a_zone_changed_is_no_more_work_than_half_of_it() -> None:
    """128 GiB of which one block is unchanged took 20 minutes."""
    zone = ZONE // BLOCK
    changed = set(range(2 * zone)) - {77, zone + 5}
    assert audit_indices(2 * zone, changed, chance=random.Random(3), cancel=CancelFlag()) == [77, zone + 5]
    assert audit_indices(zone, range(zone), chance=random.Random(3), cancel=CancelFlag()) == []


def test_a_wish_to_stop_is_seen_while_blocks_are_chosen() -> None:
    cancel = CancelFlag()
    cancel.set("killed")
    with pytest.raises(Cancelled, match="killed"):
        audit_indices(1000, (), chance=random.Random(1), cancel=cancel)


def test_inv_3_a_lie_is_caught_as_often_as_the_formula_says() -> None:
    count, lies, trials = 2000, 60, 600
    chance = random.Random(5)
    caught = 0
    size = 0
    for trial in range(trials):
        hidden = set(chance.sample(range(count), lies))
        chosen = audit_indices(count, (), chance=random.Random(trial), cancel=CancelFlag())
        size = len(chosen)
        caught += bool(hidden & set(chosen))
    expected = 1 - math.comb(count - lies, size) / math.comb(count, size)
    # Four standard deviations of the count of catches.
    assert abs(caught / trials - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


def test_the_audit_reads_and_compares_zero_and_short_blocks() -> None:
    capacity = 3 * BLOCK + 512
    content = bytearray(capacity)
    content[BLOCK : 2 * BLOCK] = b"x" * BLOCK
    content[3 * BLOCK :] = b"y" * 512
    base = Manifest.empty(capacity)
    base.set(1, hashlib.sha256(content[BLOCK : 2 * BLOCK]).digest())
    base.set(3, hashlib.sha256(content[3 * BLOCK :]).digest())

    class Reader:
        size = capacity

        def read_into(self, offset: int, buffer: memoryview) -> None:
            buffer[:] = content[offset : offset + len(buffer)]

    reader: object = Reader()
    assert audit(reader, base, range(4), CancelFlag()) == Audit(4, ())  # type: ignore[arg-type]
    content[BLOCK] ^= 1
    content[2 * BLOCK] = 1
    assert audit(reader, base, range(4), CancelFlag()).differing == (1, 2)  # type: ignore[arg-type]


def test_nobody_can_compute_an_audit_beforehand() -> None:
    first, second = (audit_indices(100_000, (), cancel=CancelFlag()) for _ in range(2))
    assert first != second
