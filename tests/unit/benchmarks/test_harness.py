"""The benchmarks' arithmetic: what is told as a ratio, a limit, a count."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

import pytest
from benchmarks import floor, harness
from isal import isal_zlib

from wavelift.base.units import BLOCK, GIB

pytestmark = pytest.mark.unit
NOWHERE: Final = harness.Contender("floor", [])


def test_a_floor_is_the_sum_of_the_parts_that_a_path_needs() -> None:
    one = harness.Floor(NOWHERE, {"sha256": GIB, "tls_send": GIB // 2})
    costs = {"sha256": 0.8, "tls_send": 0.6, "inflate": 5.0}
    assert one.cpu_s(costs) == pytest.approx(1.1)
    assert one.cpu_s(costs, {"inflate": 2 * GIB}) == pytest.approx(10)


def test_a_part_that_was_not_measured_is_no_part_for_nothing() -> None:
    with pytest.raises(KeyError):
        harness.Floor(NOWHERE, {"sha256": GIB}).cpu_s({"tls_send": 1.0})


def test_ratios_are_of_the_figure_that_both_report() -> None:
    ours, peer = {"cpu_s": 3.0, "moving_cpu_s": 1.0}, {"cpu_s": 6.0}
    assert harness.ratio(ours, peer, "moving_cpu_s") == 0.5, "the peer knows only the whole"
    assert harness.ratio(ours, {**peer, "moving_cpu_s": 4.0}, "moving_cpu_s") == 0.25


def test_a_line_of_words_is_of_the_figure_that_the_ratio_is_of() -> None:
    figures = {"cpu_s": 3.0, "moving_cpu_s": 1.5, "floor_cpu_s": 1.0, "ratio_to_floor": 1.5}
    told = harness.in_words("ours", {**figures, "ratio_to_peer": {"other": 0.5}}, "moving_cpu_s")
    assert told == "ours: 1.50 CPU-s, 1.50 x the floor of 1.00, 0.50 x other"
    assert harness.in_words("ours", {"cpu_s": 3.0}, "moving_cpu_s") == "ours: 3.00 CPU-s"


def test_beside_the_floor() -> None:
    told = harness.beside_floor({"cpu_s": 3.0, "moving_cpu_s": 1.5}, 1.0, GIB // 2, "moving_cpu_s")
    assert told == {"floor_cpu_s": 1.0, "ratio_to_floor": 1.5, "floor_cpu_s_per_gib": 2.0}
    assert "floor_cpu_s_per_gib" not in harness.beside_floor({"cpu_s": 3.0}, 1.0, 0, "cpu_s")


@pytest.mark.parametrize(
    ("value", "bounds", "met"),
    [
        (0.5, {"at_most": 0.5}, True),
        (0.51, {"at_most": 0.5}, False),
        (0.5, {"at_least": 0.5}, True),
        (0.49, {"at_least": 0.5}, False),
    ],
)
def test_a_limit_is_told_as_met_or_not(value: float, bounds: dict[str, float], met: bool) -> None:
    assert harness.Limit("CPU / floor", value, **bounds).told() == {
        "limit": "CPU / floor",
        "value": value,
        **bounds,
        "met": met,
    }


def test_what_the_server_did_not_count_fails_the_run() -> None:
    wire = harness.Wire(lambda: 150, 100)
    assert harness.arrived("one", wire, 50, {}) == 100
    with pytest.raises(RuntimeError, match="one: the other end counted 90 server_bytes of 100"):
        harness.arrived("one", wire, 60, {})


def test_what_is_due_may_be_known_after_the_run_only() -> None:
    wire = harness.Wire(lambda: 3 * BLOCK, lambda figures: int(figures["blocks_sent"]) * BLOCK, "sent_bytes")
    assert harness.arrived("one", wire, BLOCK, {"blocks_sent": 2.0}) == 2 * BLOCK


def test_everybody_is_told_beside_the_floor_and_ours_beside_the_peers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {
        "floor": {"peak_mib": 1.0, "sha256": 2.0, "inflate": 1.0},
        "ours": {"work_cpu_s": 4.0},
        "more": {"work_cpu_s": 6.0},
        "peer": {"work_cpu_s": 8.0},
    }
    order: list[str] = []

    def run_once(contender: harness.Contender) -> harness.Measure:
        order.append(contender.name)
        return harness.Measure(9.0, 9.0, 1.0, extra=dict(figures[contender.name]))

    monkeypatch.setattr(harness, "run_once", run_once)
    result = harness.compare(
        "test",
        ours=harness.Contender("ours", []),
        variants=[harness.Contender("more", [], needs={"sha256": GIB, "inflate": GIB})],
        peers=[harness.Contender("peer", [])],
        data_bytes=GIB,
        params={},
        runs=2,
        limits=lambda result: [harness.Limit("CPU / floor", result["ours"]["ratio_to_floor"], at_most=3)],
        floor=harness.Floor(NOWHERE, {"sha256": GIB}),
        cpu="work_cpu_s",
    )
    assert order == ["floor", "ours", "more", "peer"] * 2, "all take their turns"
    assert result["floor"] == {"sha256": 2.0, "inflate": 1.0}
    ours, more, peer = result["ours"], result["variants"]["more"], result["peers"]["peer"]
    assert (ours["floor_cpu_s_per_gib"], ours["ratio_to_floor"], ours["ratio_to_peer"]) == (2.0, 2.0, {"peer": 0.5})
    assert (more["floor_cpu_s_per_gib"], more["ratio_to_floor"], more["ratio_to_peer"]) == (3.0, 2.0, {"peer": 0.75})
    assert peer["ratio_to_floor"] == 4.0
    assert result["limits"] == [{"limit": "CPU / floor", "value": 2.0, "at_most": 3, "met": True}]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


class TestFloor:
    def test_it_takes_the_blocks_that_are_not_zero_and_begins_again(self, tmp_path: Path) -> None:
        raw = tmp_path / "disk.raw"
        with raw.open("wb") as file:
            file.truncate(8 * BLOCK)
            for index in (1, 6):
                file.seek(index * BLOCK)
                file.write(bytes([index]) * BLOCK)
            file.write(bytes(BLOCK))
        found = [block[0] for block in floor.data_blocks(raw)]
        assert found == [1, 6]
        cycled = floor.up_to(lambda: floor.data_blocks(raw), 3 * BLOCK)
        assert [block[0] for block in cycled] == [1, 6, 1]

    def test_what_was_packed_is_the_block_without_its_zero_grains(self) -> None:
        block = hashlib.sha256(b"x").digest() * (floor.GRAIN // 32) + bytes(BLOCK - floor.GRAIN)
        packed = floor.pack(block)
        assert [isal_zlib.decompress(grain) for grain in packed] == [block[: floor.GRAIN]]

    def test_cpu_is_told_per_gib_of_the_disk(self) -> None:
        parts = floor.Parts(["sha256", "deflate"], {})
        parts.measure(["sha256"], bytes(BLOCK), [], BLOCK)
        parts.cpu_s["sha256"] = 0.5
        assert parts.told() == {"sha256": 0.5 * GIB / BLOCK, "deflate": 0.0}

    def test_a_part_that_nobody_measures_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no parts of a floor: \\['gzip'\\]"):
            floor.contender(Path("disk.raw"), ["gzip"], GIB)
