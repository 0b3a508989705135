"""``make demo``: a complete wave through Airflow's REST API, with proof; nothing of it remains, however it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

import pytest
from tests.e2e.conftest import until, untracked

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.xdist_group("demo")]
MIB: Final = 1 << 20
CUTOVER_SECONDS: Final = 840.0
"""A replication, a cutover and a revert, on two busy cores."""
StartDemo = Callable[..., Any]
"""conftest.py's ``demo``: gives a DemoProcess."""
VIRTUAL_BYTES: Final = (512 + 320 + 256 + 256) * MIB
"""web01; db01's two disks; win01: what ``bytes_verified`` must be."""


def test_make_demo_proves_every_byte_and_ctrl_c_in_mid_wave_leaves_nothing(staying_demo: Any) -> None:
    """The last test of the demo that stays up: what it told, and its end while another wave runs."""
    told = staying_demo.stderr
    assert "triggered demo.migrate through Airflow's REST API" in told
    assert len(re.findall(r"\bami-[0-9a-f]{17}\b", told)) == 3
    assert len(re.findall(r"\bi-[0-9a-f]{17}\b", told)) == 2  # db01 is an image only
    assert len(re.findall(r"\b[0-9a-f]{64}\b", told)) == 4
    assert re.search(r" s  db01 +export .* of 576\.0 MiB", told), told

    api = staying_demo.api()
    run_id = api.trigger("demo.migrate", {"servers": ["web01"], "note": "cut short"})
    until(lambda: _exports(api, run_id), "web01's export to run")
    staying_demo.ctrl_c()

    _assert_proven(staying_demo)
    assert "Traceback" not in staying_demo.stderr
    staying_demo.assert_nothing_left()
    assert untracked() - staying_demo.untracked == set()


def _exports(api: Any, run_id: str) -> bool:
    rows = api.task_instances("demo.migrate", run_id)
    return any((row["task_id"], row["state"]) == ("server.export", "running") for row in rows)


def _assert_proven(demo: Any) -> None:
    """The line for programs."""
    result = json.loads(demo.stdout.splitlines()[-1])
    assert set(result) == {"wave", "servers", "disks", "bytes_verified", "bytes_read_back", "mismatches", "seconds"}
    assert (result["wave"], result["servers"], result["disks"]) == ("demo", 3, 4)
    assert (result["bytes_verified"], result["mismatches"]) == (VIRTUAL_BYTES, 0)
    assert 0 < result["bytes_read_back"] <= VIRTUAL_BYTES


@pytest.mark.proof
def test_make_demo_exit_ends_by_itself_with_status_0(demo: StartDemo) -> None:
    running = demo(command=("make", "demo", "DEMO_EXIT=1"))
    assert running.wait() == 0, running.stderr
    _assert_proven(running)
    running.assert_nothing_left()


@pytest.mark.proof
def test_ctrl_c_in_mid_wave_leaves_nothing(demo: StartDemo) -> None:
    running = demo()
    running.wait_for(r" s  \w+ +export ")

    assert running.ctrl_c() == 130, running.stderr
    assert running.stderr.rstrip().endswith("stopped")
    assert "Traceback" not in running.stderr
    running.assert_nothing_left()


@pytest.mark.proof
def test_a_flipped_byte_is_found_and_named(demo: StartDemo) -> None:
    """The demo's fault changes one byte inside a grain's compressed data after the upload, before ``verify``."""
    running = demo("--exit", "--fault", "flip")

    assert running.wait() == 1, running.stderr
    place = r"changed one byte of \S*db01/\w+/disk-1\.vmdk, in the grain at disk offset (\d+)"
    flipped = re.search(place, running.stderr)
    assert flipped, running.stderr
    [line] = [line for line in running.stderr.splitlines() if line.startswith("db01 failed: ")]
    assert "server=db01" in line
    assert "disk=disk 1 (SCSI 1:0)" in line
    assert f"offset={flipped[1]} (" in line
    result = json.loads(running.stdout.splitlines()[-1])
    assert (result["servers"], result["mismatches"]) == (2, 1)
    assert result["bytes_verified"] == VIRTUAL_BYTES - (320 + 256) * MIB
    running.assert_nothing_left()


@pytest.mark.proof
def test_the_act_cutover_switches_a_server_proves_it_and_goes_back(demo: StartDemo) -> None:
    running = demo(command=("make", "demo", "DEMO_EXIT=1", "DEMO_ACT=cutover"))
    assert running.wait(timeout=CUTOVER_SECONDS) == 0, running.stderr
    told = running.stderr
    assert "approved by admin" in told
    assert re.search(r"web01\.corp\.example is 10\.20\.\d+\.\d+ now", told), told
    for words in ("shut down and fence the source", "switch the record", "Forecast: P50"):
        assert words in told
    result = json.loads(running.stdout.splitlines()[-1])
    assert (result["act"], result["proven"], result["written_last"], result["mismatches"]) == ("cutover", True, True, 0)
    assert result["bytes_verified"] == 512 * MIB
    before, after, back = result["answers"]
    assert before == back == "192.0.2.11" != after
    assert sum(result["steps_s"].values()) == pytest.approx(result["downtime_s"], abs=1)
    running.assert_nothing_left()
