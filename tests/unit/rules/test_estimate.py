"""What ``wave plan`` shows before anything is made."""

from __future__ import annotations

import math
from typing import Any

import pytest

from wavelift.base.units import GIB
from wavelift.rules.estimate import Estimate, estimate, prices, table
from wavelift.rules.limits import limits
from wavelift.rules.preflight_time import LineFacts

pytestmark = pytest.mark.unit


def test_an_empty_wave_makes_nothing() -> None:
    assert estimate([]) == Estimate(notes=("no server is ready, so nothing would be made",))
    assert table(estimate([])) == [("note", "no server is ready, so nothing would be made")]


def test_one_server_in_numbers(facts: Any, disk: Any, plan: Any) -> None:
    server = facts(disks=(disk(capacity=100 * GIB), disk(key=2001, unit=1, capacity=20 * GIB, boot=False)))
    found = estimate([(plan(verify="sample:5"), server)])
    assert (found.servers, found.disks, found.capacity, found.snapshots) == (1, 2, 120 * GIB, 1)
    assert found.read_back == 6 * GIB
    assert found.creates == (
        "1 vSphere snapshot, removed after the transfer",
        "2 disk objects, removed after the import, and 2 manifests in s3://staging-bucket/waves",
        "1 import task, 1 AMI, 2 EBS snapshots",
        "no instance",
    )
    assert found.costs["conversion report"] == pytest.approx(120 * 2048 / 1000 * 0.003 + 246 / 1000 * 0.0006, abs=1e-3)
    assert found.costs["reading back (verify)"] == pytest.approx(120 * 2048 * 0.05 / 1000 * 0.0004, abs=1e-3)
    assert found.costs["volumes of launched instances per month"] == 0
    assert Estimate.load(found.dump()) == found


@pytest.mark.parametrize("count", [1, 4, 5, 6, 23])
def test_amp_04_rounds_follow_the_slots(facts: Any, resolved: Any, count: int) -> None:
    wave = resolved(*[f"s{n}" for n in range(count)])
    servers = [(one, facts(name=one.server)) for one in wave.servers]
    found = estimate(servers)
    assert (found.transfer_rounds, found.import_rounds) == (math.ceil(count / 4), math.ceil(count / 5))
    raised = estimate(servers, limits=limits({"transfers_per_connector": 10}))
    assert raised.transfer_rounds == math.ceil(count / 10)
    rounds = math.ceil(count / 10)
    assert raised.limits[0] == f"10 transfers at a time per connector: {rounds} round{'s' * (rounds > 1)}"


@pytest.mark.parametrize(("verify", "share"), [("full", 1.0), ("sample:1", 0.01), ("off", 0.0)])
def test_the_read_back_has_its_price(facts: Any, plan: Any, verify: str, share: float) -> None:
    found = estimate([(plan(verify=verify), facts())])
    assert found.read_back == round(20 * GIB * share)
    assert (found.costs["reading back (verify)"] > 0) is (share > 0)


def test_instances_are_counted_by_type(facts: Any, resolved: Any) -> None:
    off = {"source_power": "require_off", "launch": "running"}
    wave = resolved({"name": "a", **off}, {"name": "b", **off, "instance_type": "t2.small"}, "c")
    found = estimate([(one, facts()) for one in wave.servers])
    assert found.creates[-1] == "2 instances: 1 m6i.large, 1 t2.small"
    assert found.costs["volumes of launched instances per month"] == pytest.approx(40 * GIB / 10**9 * 0.08, abs=1e-3)


def test_prices_say_that_they_are_an_estimate(facts: Any, plan: Any) -> None:
    known = prices()
    assert known.date
    assert "not an offer" in known.source
    found = estimate([(plan(), facts())])
    assert any(known.date in note for note in found.notes)
    rows = table(found)
    assert ("moves", "1 server, 1 disk, 20.0 GiB") in rows
    assert ("time", "not known: nothing has been read on this connector yet") in rows
    told = dict(rows)
    assert told["costs once"].startswith("up to US$0.15: conversion report US$0.12, staging for a day US$0.02, ")
    assert told["costs monthly"] == "up to US$1.07: AMI snapshots US$1.07"


def test_the_time_follows_the_largest_server_the_places_and_the_line(facts: Any, disk: Any, resolved: Any) -> None:
    wave = resolved(*"abcde")
    servers = [(plan, facts(name=plan.server, disks=(disk(capacity=24 * GIB),))) for plan in wave.servers]
    rate = 24 * GIB / 1800

    def told(line: LineFacts, *, count: int = 5) -> tuple[float | None, str]:
        found = estimate(servers[:count], line=line)
        return found.seconds, dict(table(found))["time"]

    assert told(LineFacts(measured=rate), count=1)[0] == pytest.approx(1800)
    seconds, words = told(LineFacts(measured=rate * 0.94))
    assert seconds == pytest.approx(2250 / 0.94)
    assert words == "about 40 min for the transfers; then AWS converts the disks"
    assert told(LineFacts(limit=rate))[0] == pytest.approx(9000), "the limit is that of all transfers together"
    assert told(LineFacts())[0] is None
