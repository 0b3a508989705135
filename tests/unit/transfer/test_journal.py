"""The journal: acknowledged blocks survive kills at any byte; entries of other transfers are refused."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import CorruptStreamError, FencedError
from wavelift.base.units import BLOCK
from wavelift.transfer.journal import (
    RECORD,
    UNKNOWN_DIGEST,
    Journal,
    JournalIdentity,
    Segments,
    SegmentStore,
    most_segment_bytes,
    read_segment,
)

pytestmark = pytest.mark.unit

BLOCKS = 64
IDENTITY = JournalIdentity("snap-0123456789abcdef0", "snapshot-7/disk-2000", BLOCKS * BLOCK - 1)


def digest(number: int) -> bytes:
    return hashlib.sha256(bytes([number % 251])).digest()


class Bucket:
    """Where segments go, and the checkpoint; time is set by the test."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.segments: Segments = {}
        self.fetched: list[str] = []
        self.now = 0.0

    def open(self, folder: Path, identity: JournalIdentity = IDENTITY) -> Journal:
        return Journal(
            folder,
            identity,
            SegmentStore(self.objects.__setitem__, self._checkpoint, self.segments, self._fetch),
            clock=lambda: self.now,
        )

    def _checkpoint(self, segments: Segments) -> None:
        self.segments = segments

    def _fetch(self, name: str) -> bytes:
        self.fetched.append(name)
        return self.objects[name]


def known(journal: Journal) -> dict[int, bytes | None]:
    return {index: journal.digest(index) for index in journal.indices()}


Acks = st.lists(st.tuples(st.integers(0, BLOCKS - 1), st.integers(0, 250)), max_size=20)


@examples(20, 100)
@given(acks=Acks, cut=st.integers(0, 1000), flush_at=st.integers(0, 20))
def test_inv_6_a_file_torn_at_any_byte_gives_what_was_written_before(
    acks: list[tuple[int, int]], cut: int, flush_at: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, bucket = Path(name), Bucket()
        journal = bucket.open(folder)
        whole = [journal.path.stat().st_size]
        for number, (index, value) in enumerate(acks):
            if number == flush_at:
                journal.flush()
            journal.append(index, digest(value))
            whole.append(journal.path.stat().st_size)
        journal._close_file()  # killed: nothing is stored any more
        size = max(0, whole[-1] - cut)
        with journal.path.open("r+b") as file:
            file.truncate(size)
        bucket.segments = {}
        again = bucket.open(folder)
        kept = [ack for ack, end in zip(acks, whole[1:], strict=True) if end <= size] if size >= whole[0] else []
        assert known(again) == {index: digest(value) for index, value in kept}
        again.append(3, digest(9))
        again.close()
        assert bucket.open(folder).digest(3) == digest(9)


@examples(15, 100)
@given(tries=st.lists(st.tuples(Acks, st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_inv_6_resuming_here_or_elsewhere_equals_one_run(tries: list[tuple[list[tuple[int, int]], bool, bool]]) -> None:
    bucket = Bucket()
    expected: dict[int, bytes | None] = {}
    with tempfile.TemporaryDirectory() as name:
        for acks, elsewhere, tail in tries:
            with bucket.open(Path(name) / str(elsewhere)) as journal:
                assert known(journal) == expected
                for index, value in acks:
                    journal.append(index, digest(value))
                    expected[index] = digest(value)
                if tail:
                    journal.flush()
            assert len(journal) == len(expected)
    linear = hashlib.sha256(b"".join(expected[index] or b"" for index in sorted(expected)))
    assert journal.linear_checksum() == linear.digest()


def test_inv_6_a_segment_is_stored_before_30_s_are_over(tmp_path: Path) -> None:
    bucket = Bucket()
    journal = bucket.open(tmp_path)
    assert not journal.tick()
    journal.append(1, digest(1))
    bucket.now = 24.0
    assert not journal.tick()
    bucket.now = 26.0
    assert journal.tick()
    assert not journal.tick()
    ((nonce, count),) = bucket.segments.items()
    assert count == 1
    (body,) = bucket.objects.values()
    assert dict(read_segment(body, IDENTITY)) == {1: digest(1)}
    assert body.count(b"\n") >= 2
    journal.append(2, digest(2))
    journal.close()
    assert bucket.segments == {nonce: 2}
    with bucket.open(tmp_path) as again:
        assert known(again) == {1: digest(1), 2: digest(2)}
    assert bucket.fetched == [], "this machine's file knew it all"


def test_a_segment_is_no_larger_than_its_disk_allows(tmp_path: Path) -> None:
    """However often its blocks were sent while the bucket could not be reached; the last word on each counts."""
    bucket = Bucket()
    journal = bucket.open(tmp_path)
    for turn in range(9):
        for index in range(BLOCKS):
            journal.doubt(index)
            journal.append(index, digest(index + turn))
    journal.close()
    (body,) = bucket.objects.values()
    assert len(body) <= most_segment_bytes(IDENTITY.capacity)
    assert dict(read_segment(body, IDENTITY)) == {index: digest(index + 8) for index in range(BLOCKS)}
    with bucket.open(tmp_path / "elsewhere") as again:
        assert known(again) == {index: digest(index + 8) for index in range(BLOCKS)}
    with bucket.open(tmp_path) as same:
        assert known(same) == known(again)


def test_what_no_segment_has_is_stored_by_the_next_try(tmp_path: Path) -> None:
    bucket = Bucket()
    journal = bucket.open(tmp_path)
    journal.append(1, digest(1))
    journal.flush()
    journal.append(2, digest(2))
    journal._close_file()
    with bucket.open(tmp_path):
        pass
    assert [dict(read_segment(body, IDENTITY)) for body in bucket.objects.values()] == [{1: digest(1)}, {2: digest(2)}]


def test_another_transfer_never_gets_in(tmp_path: Path) -> None:
    bucket = Bucket()
    with bucket.open(tmp_path) as journal:
        journal.append(1, digest(1))
    other = JournalIdentity(IDENTITY.target, "snapshot-8/disk-2000", IDENTITY.capacity)
    (segment,) = bucket.objects.values()
    with pytest.raises(CorruptStreamError, match="belongs to"):
        read_segment(segment, other)
    with pytest.raises(CorruptStreamError, match="checksum"):
        read_segment(segment[:-40] + b"x" + segment[-39:], IDENTITY)
    bucket.segments = {}
    copied = tmp_path / other.file_name()
    copied.write_bytes(journal.path.read_bytes())
    with bucket.open(tmp_path, other) as fresh:
        assert known(fresh) == {}


def test_records_of_zeros_are_no_acknowledgements(tmp_path: Path) -> None:
    with Bucket().open(tmp_path) as journal:
        journal.append(5, digest(5))
    with journal.path.open("ab") as file:
        file.write(bytes(RECORD.size * 3) + RECORD.pack(BLOCKS, digest(1)))
    with Bucket().open(tmp_path) as again:
        assert known(again) == {5: digest(5)}


def test_a_fence_reaches_the_caller_and_loses_nothing(tmp_path: Path) -> None:
    bucket = Bucket()

    def fence(segments: Segments) -> None:
        raise FencedError("another try")

    journal = Journal(tmp_path, IDENTITY, SegmentStore(bucket.objects.__setitem__, fence))
    journal.append(1, digest(1))
    with pytest.raises(FencedError):
        journal.close()
    with bucket.open(tmp_path) as again:
        assert known(again) == {1: digest(1)}
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_inv_6_a_journal_inherits_what_lies_there_of_another_instant(tmp_path: Path) -> None:
    bucket = Bucket()
    earlier = JournalIdentity(IDENTITY.target, "snapshot-6/disk-2000", IDENTITY.capacity)
    old = bucket.open(tmp_path, earlier)
    for index in (3, 5, 9):
        old.append(index, digest(index))
    old.doubt(9)
    old.doubt(11)
    bucket.segments = {}
    new = bucket.open(tmp_path)
    new.append(3, digest(100))
    new.inherit(old)
    old.discard()
    new.close()
    expected = {3: digest(100), 5: digest(5), 9: UNKNOWN_DIGEST, 11: UNKNOWN_DIGEST}
    for folder in (tmp_path, tmp_path / "another machine"):
        with bucket.open(folder) as again:
            assert known(again) == expected, "from the file, and from the segments"
    bucket.segments = {}
    other = JournalIdentity("snap-of-another", IDENTITY.source, IDENTITY.capacity)
    with bucket.open(tmp_path / "more", other) as stranger, pytest.raises(ValueError, match="no journal of"):
        stranger.inherit(again)
