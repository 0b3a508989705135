"""The forecast of a cutover's downtime: honest with few samples, monotone, and near what comes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wavelift.base.units import GIB
from wavelift.rules.forecast import Forecast, PastCutover, PastRun, Subject, forecast, quantile

pytestmark = pytest.mark.unit

SECONDS = st.floats(0, 1e5)
RUNS = st.lists(st.builds(PastRun, st.floats(1, 1e6), SECONDS, st.none() | SECONDS), max_size=12)
CUTOVERS = st.lists(
    st.builds(PastCutover, st.none() | SECONDS, st.none() | SECONDS, st.none() | SECONDS, st.none() | SECONDS),
    max_size=12,
)
SUBJECTS = st.builds(
    Subject,
    disks=st.lists(st.integers(1, 2**42), min_size=1, max_size=4),
    since_s=st.none() | st.floats(0, 1e6),
    registers=st.booleans(),
    steps=st.integers(0, 5),
    initialization_mib_s=st.none() | st.integers(100, 300),
)
SERVER = Subject(disks=(100 * GIB,), since_s=600.0, registers=True)


@given(SUBJECTS, RUNS, CUTOVERS)
def test_a_p90_is_never_below_the_p50_and_full_speed_never_before_reachable(
    subject: Subject, runs: list[PastRun], cutovers: list[PastCutover]
) -> None:
    found = forecast(subject, runs, cutovers)
    assert 0 <= found.reachable_p50_s <= found.reachable_p90_s
    assert 0 <= found.full_speed_p50_s <= found.full_speed_p90_s
    assert found.reachable_p50_s <= found.full_speed_p50_s
    assert found.reachable_p90_s <= found.full_speed_p90_s
    assert Forecast.load(found.dump()) == found


@given(SUBJECTS, RUNS, CUTOVERS, st.floats(1, 1e5))
@example(Subject(disks=(1,), since_s=None), [PastRun(1.0, 12248.0), PastRun(1.0, 12595.0)], [], 1.0)
def test_more_time_since_the_last_run_is_never_a_shorter_downtime(
    subject: Subject, runs: list[PastRun], cutovers: list[PastCutover], more: float
) -> None:
    soon = replace(subject, since_s=subject.since_s or 0.0)
    later = replace(soon, since_s=(soon.since_s or 0.0) + more)
    one, other = forecast(soon, runs, cutovers), forecast(later, runs, cutovers)
    assert one.reachable_p90_s <= other.reachable_p90_s + 1e-6 * other.reachable_p90_s


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_lie_among_the_samples_and_rise(values: list[float], one: float, other: float) -> None:
    low, high = sorted((quantile(values, one), quantile(values, other)))
    assert min(values) <= low <= high <= max(values)
    assert quantile(values, max(one, other)) == high


def test_without_any_record_it_says_that_all_is_assumed() -> None:
    found = forecast(SERVER, (), ())
    assert (found.runs, found.cutovers) == (0, 0)
    assert "all of it is assumed" in found.basis


def test_records_replace_what_is_assumed_and_are_counted() -> None:
    runs = [PastRun(3600, 100, 40)] * 3
    found = forecast(SERVER, runs, [PastCutover(30, 40, 100, 20)] * 2)
    assert (found.runs, found.cutovers) == (3, 2)
    assert found.reachable_p50_s == pytest.approx(100 + 40 + 30 + 40 + 100 + 20, rel=0.2)
    assert "assumed" not in found.basis


def test_fewer_samples_give_a_larger_p90_of_the_same_times() -> None:
    run, cutover = PastRun(3600, 100, 40), PastCutover(30, 40, 100, 20)
    few = forecast(SERVER, [run], [cutover])
    many = forecast(SERVER, [run] * 10, [cutover] * 10)
    assert few.reachable_p90_s > many.reachable_p90_s


def test_a_seed_is_a_whole_read() -> None:
    never = forecast(replace(SERVER, since_s=None), (), ())
    assert never.reachable_p50_s > 100 * GIB / (40 * 2**20)


def test_an_initialization_rate_says_when_it_is_at_full_speed() -> None:
    slow, fast = (forecast(replace(SERVER, initialization_mib_s=rate), (), ()) for rate in (None, 300))
    assert slow.reachable_p90_s == fast.reachable_p90_s
    assert slow.full_speed_p90_s > fast.full_speed_p90_s


def test_the_p90_of_ten_records_is_near_that_of_what_comes() -> None:
    """Times that scatter by a fifth: on average over many histories, the P90 is within 15 % of the true one."""
    chance = random.Random(16)

    def drawn(mean: float) -> float:
        return max(0.0, chance.gauss(mean, mean / 5))

    truth = sorted(sum(drawn(mean) for mean in (30, 100, 40, 40, 100, 20)) for _ in range(4000))
    p90 = truth[3600]
    errors = []
    for _ in range(30):
        runs = [PastRun(600, drawn(100), drawn(40)) for _ in range(10)]
        past = [PastCutover(drawn(30), drawn(40), drawn(100), drawn(20)) for _ in range(10)]
        errors.append(forecast(SERVER, runs, past).reachable_p90_s / p90 - 1)
    assert abs(sum(errors) / len(errors)) <= 0.15
