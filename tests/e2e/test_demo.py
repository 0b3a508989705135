"""``make demo``: the main job through Airflow's REST API, proven; and nothing of it left, however it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROOT: Final = Path(__file__).parents[2]
MIB: Final = 1 << 20
StartDemo = Callable[..., Any]
"""conftest.py's ``demo``: gives a DemoProcess."""
VIRTUAL_BYTES: Final = (512 + 320 + 256 + 256) * MIB
"""web01; db01's two disks; win01: what ``bytes_verified`` must be."""


def untracked() -> set[str]:
    """Files in this working tree that git neither tracks nor ignores."""
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def test_make_demo_proves_every_byte_and_leaves_nothing(demo: StartDemo) -> None:
    # What make sets up (a new lock, a changed simulator) is not the demo's: caches of pip and Go stay by intent.
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "setup"], cwd=ROOT, env=variables, check=True, capture_output=True)
    before = untracked()
    running = demo(command=("make", "demo", "DEMO_EXIT=1"))

    assert running.wait() == 0, running.stderr
    result = json.loads(running.stdout.splitlines()[-1])
    assert set(result) == {"wave", "servers", "disks", "bytes_verified", "bytes_read_back", "mismatches", "seconds"}
    assert (result["wave"], result["servers"], result["disks"]) == ("demo", 3, 4)
    assert (result["bytes_verified"], result["mismatches"]) == (VIRTUAL_BYTES, 0)
    assert 0 < result["bytes_read_back"] <= VIRTUAL_BYTES
    assert "triggered demo.migrate through Airflow's REST API" in running.stderr
    assert len(re.findall(r"\bami-[0-9a-f]{17}\b", running.stderr)) == 3
    assert len(re.findall(r"\bi-[0-9a-f]{17}\b", running.stderr)) == 2  # db01 is an image only
    assert len(re.findall(r"\b[0-9a-f]{64}\b", running.stderr)) == 4
    assert re.search(r" s  db01 +export .* of 576\.0 MiB", running.stderr), running.stderr

    running.assert_nothing_left()
    assert untracked() - before == set()


def test_ctrl_c_in_mid_wave_leaves_nothing(demo: StartDemo) -> None:
    running = demo()
    running.wait_for(r" s  \w+ +export ")

    assert running.ctrl_c() == 130, running.stderr
    assert running.stderr.rstrip().endswith("stopped")
    assert "Traceback" not in running.stderr
    running.assert_nothing_left()


def test_a_flipped_byte_is_found_and_named(demo: StartDemo) -> None:
    """The demo's fault changes one byte inside a grain's compressed data after the upload, before ``verify``."""
    running = demo("--exit", "--fault", "flip")

    assert running.wait() == 1, running.stderr
    flipped = re.search(r"changed one byte of \S*db01/disk-1\.vmdk, in the grain at disk offset (\d+)", running.stderr)
    assert flipped, running.stderr
    [line] = [line for line in running.stderr.splitlines() if line.startswith("db01 failed: ")]
    assert "server=db01" in line
    assert "disk=disk 1 (SCSI 1:0)" in line
    assert f"offset={flipped[1]}," in line
    result = json.loads(running.stdout.splitlines()[-1])
    assert (result["servers"], result["mismatches"]) == (2, 1)
    assert result["bytes_verified"] == VIRTUAL_BYTES - (320 + 256) * MIB
    running.assert_nothing_left()
