"""Sizes, offsets and times in texts for people."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest

from wavelift.base.domain import Refusal
from wavelift.base.errors import RefusedError, WaveliftError
from wavelift.base.units import exact_bytes, human_offset, human_seconds

pytestmark = pytest.mark.unit

UNTIL = datetime(2026, 12, 2, 9, 0, 0, 123456, timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (90, "90 s"), (600, "10 min"), (9104, "2.5 h"), (35999, "10.0 h"), (86400, "24 h")],
)
def test_durations_are_rounded(seconds: float, words: str) -> None:
    assert human_seconds(seconds) == words


def test_sizes_and_offsets_have_units_and_the_exact_number() -> None:
    assert exact_bytes(1572864) == "1.5 MiB (1572864 bytes)"
    assert exact_bytes(512) == "512 bytes"
    assert human_offset(1572864) == "1.5 MiB (offset 1572864)"
    assert str(WaveliftError("It differs", offset=1572864, disk=7)) == "It differs [offset=1572864 (1.5 MiB), disk=7]"
    assert str(WaveliftError("It differs", offset=0)) == "It differs [offset=0]"
    assert str(WaveliftError("It differs", offset="everywhere")) == "It differs [offset=everywhere]"


def refused(*untils: datetime | None, next_step: str = "") -> RefusedError:
    refusals = tuple(Refusal(server="web01", rule="quota", reason="2 runs", until=until) for until in untils)
    return RefusedError("It is refused", refusals=refusals, next_step=next_step, wave="erp")


def test_air_04_a_refusal_says_its_end_once_rounded_up_in_utc_and_keeps_the_exact_one() -> None:
    error = refused(UNTIL - timedelta(hours=1), UNTIL)
    assert str(error) == "It is refused [wave=erp, rule=quota]. Ask again at 2026-12-02 08:01 UTC"
    assert error.where["until"] == UNTIL.isoformat(), "for programs"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.refusals) == (str(error), error.where, error.refusals)
    whole = datetime(2026, 12, 2, 8, 0, tzinfo=UTC)
    assert str(refused(whole)).endswith("Ask again at 2026-12-02 08:00 UTC")


def test_a_refusal_without_an_end_names_none() -> None:
    assert str(refused(UNTIL, None)) == "It is refused [wave=erp, rule=quota]"
    assert str(refused(None, next_step="Resume it")) == "It is refused [wave=erp, rule=quota]. Resume it"
