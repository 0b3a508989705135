"""The command line over the wave that ``make demo`` has done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.xdist_group("demo")]

Wavelift = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def wavelift(staying_demo: Any) -> Wavelift:
    """Run the command line as ``admin`` (or with other variables) against the demo's Airflow."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "wavelift"), *arguments],
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith(("WAVELIFT_", "AIRFLOW"))},
                "WAVELIFT_URL": staying_demo.url,
                "WAVELIFT_USER": "admin",
                "WAVELIFT_PASSWORD": staying_demo.password,
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_amp_07_the_list_has_ids_states_progress_and_results(wavelift: Wavelift) -> None:
    listed = wavelift("migrations", "list")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(wavelift("migrations", "list", "--json", "--wave", "demo").stdout)["migrations"]
    assert {row["server"]: row["state"] for row in rows} == dict.fromkeys(("web01", "db01", "win01"), "completed")
    for row in rows:
        assert row["progress_pct"] == 100
        assert bool(row["instance_id"]) == (row["server"] != "db01")
        for value in (row["id"], f"demo/{row['server']}", row["image_id"], row["instance_id"]):
            assert value in listed.stdout, "cut short"
    shown = json.loads(wavelift("migrations", "show", rows[0]["id"], "--json").stdout)
    assert shown["image_id"] == rows[0]["image_id"]
    told = wavelift("migrations", "show", rows[0]["id"]).stdout
    for words in (f"{rows[0]['id']}  demo/{rows[0]['server']}", "read by: stream, because ", "proven: ", "completed"):
        assert words in told
    assert json.loads(wavelift("migrations", "list", "--json", "--state", "failed").stdout)["total"] == 0


def test_preflight_and_plan_print_findings_and_what_would_be_made(wavelift: Wavelift) -> None:
    checked = wavelift("preflight", "demo")
    assert checked.returncode == 0, checked.stderr
    assert "the instance will run at the same time as its source" in checked.stdout
    assert checked.stdout.splitlines()[-1] == "0 errors, 2 warnings: ready"
    assert "-v shows them" in checked.stdout.splitlines()[-2]
    assert "US English" not in checked.stdout
    noted = wavelift("preflight", "demo", "-v")
    assert "note     db01" in noted.stdout
    assert "-v shows" not in noted.stdout

    planned = wavelift("wave", "plan", "demo", "--server", "db01")
    assert planned.returncode == 0, planned.stderr
    assert "Plan (nothing was created)" in planned.stdout
    assert "2 disk objects" in planned.stdout
    assert "web01" not in planned.stdout

    report = json.loads(wavelift("wave", "plan", "demo", "--json").stdout)
    assert [server["name"] for server in report["servers"]] == ["web01", "db01", "win01"]
    assert {finding["severity"] for finding in report["findings"]} <= {"warning", "info"}


def test_cleanup_finds_nothing_after_a_wave_that_went_well(wavelift: Wavelift) -> None:
    swept = wavelift("cleanup", "demo", "--dry-run")
    assert (swept.returncode, swept.stdout) == (0, "Nothing of ours is left around demo\n")


def test_verify_reads_an_image_back_again(wavelift: Wavelift) -> None:
    rows = json.loads(wavelift("migrations", "list", "--json").stdout)["migrations"]
    [db01] = [row["id"] for row in rows if row["server"] == "db01"]
    again = wavelift("verify", db01)
    assert again.returncode == 0, again.stderr
    boot, data = again.stdout.splitlines()
    assert re.match(r"db01 disk 0 \(snap-\w+\): 640 blocks compared, changed by the conversion: [\d.]+ \w+ at ", boot)
    assert data.endswith("512 blocks compared, changed by the conversion: nothing")


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["migrations", "list"], {"WAVELIFT_PASSWORD": "wrong"}, "Airflow refused the login of admin (401)"),
        (["migrations", "list"], {"WAVELIFT_PASSWORD": ""}, "set WAVELIFT_USER and WAVELIFT_PASSWORD"),
        (["migrations", "list"], {"WAVELIFT_TOKEN": "stale"}, "not logged in: set WAVELIFT_USER"),
        (["migrations", "list"], {"WAVELIFT_URL": "http://127.0.0.1:9"}, "No answer from http://127.0.0.1:9"),
        (["migrations", "list", "--state", "odd"], {}, "state: must be 'queued', 'transferring'"),
        (["migrations", "show", "mig-0"], {}, "The ledger knows no such migration"),
        (["migrations", "cancel", "mig-0"], {}, "The ledger knows no such migration"),
        (["migrations", "launch", "mig-0"], {}, "The ledger knows no such migration"),
        (["verify", "mig-0"], {}, "The ledger knows no such migration"),
        (["preflight", "nowave"], {}, "No wave nowave: Airflow has no DAG nowave.migrate"),
        (["wave", "plan", "nowave"], {}, "No wave nowave: Airflow has no DAG nowave.migrate"),
        (["cleanup", "nowave"], {}, "No wave nowave: Airflow has no DAG nowave.migrate"),
        (["preflight", "demo", "--server", "web9"], {}, "The wave has no server 'web9'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_goes_wrong_is_one_line_and_status_1(
    wavelift: Wavelift, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    done = wavelift(*arguments, **variables)
    assert (done.returncode, done.stdout) == (1, "")
    *waited, line = done.stderr.splitlines()
    assert words in line
    assert not waited or waited[0].startswith("demo.migrate, run ")
