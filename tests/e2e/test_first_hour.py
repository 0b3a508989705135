"""The first hour of a new user, by the commands that wavelift prints itself: real Airflow, simulated vCenter and AWS.

Each mistake on the way is one that a new user makes: no connection, a server that may not go, a new file that Airflow
has not read yet.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from tests.e2e.conftest import WAVELIFT, StartDemo, until

from wavelift.cli.local_airflow import end_processes_in

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(1500), pytest.mark.xdist_group("first_wave")]
SHOP: Final = """\
wave: shop
source: {{connection: {connection}, connector: default}}
environment: demo
defaults: {{instance_type: t3.small}}
retry_delay_s: 2
servers:
  - {{name: web01, source_power: {power}}}
  - db01
"""
REPLICATION: Final = "replication: {{seed_time: '{seed}', frequency_hours: 12}}\n"


class Terminal:
    """A shell that has read the written ``env``, as the printed commands do."""

    def __init__(self, folder: Path, enter: str) -> None:
        self._folder, self._enter = folder, enter
        self._inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "WAVELIFT"))}

    def start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                ["bash", "-c", command],
                env=self._inherited,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"{self._enter} && {command}"],
            env={**self._inherited, "COLUMNS": "80"},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def works(self, command: str) -> str:
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def migrations(self, wave: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.works(f"wavelift migrations list --wave {wave} --json"))[
            "migrations"
        ]
        return found

    def states(self, dag_id: str) -> dict[str, str]:
        """Run id → state."""
        told = self.works(f"airflow dags list-runs {dag_id} --output json")
        runs = json.loads(told.splitlines()[-1])  # Airflow logs to standard output, too
        return {run["run_id"]: str(run["state"]) for run in runs}


def healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:
            told = json.load(answer)
    except (URLError, TimeoutError, ValueError, ConnectionError):
        return False
    return all(told[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))


def ended(terminal: Terminal, wave: str, number: int) -> Callable[[], bool]:
    def look() -> bool:
        rows = terminal.migrations(wave)
        over = ("completed", "failed", "refused", "cancelled")
        return len(rows) >= number and all(row["state"] in over for row in rows)

    return look


def test_from_the_simulators_to_an_own_wave_and_back_from_every_mistake(demo: StartDemo, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    running = demo("--write", str(folder), command=(str(WAVELIFT), "simulators", "up"))
    running.wait_for("Ctrl-C stops")
    start, enter, *steps = [line.strip() for line in running.stderr.splitlines() if line.startswith("  ")]
    assert len(steps) == 4
    terminal = Terminal(tmp_path, enter)
    airflow = terminal.start(start, tmp_path / "airflow.log")
    try:
        _first_wave(terminal, steps, airflow, tmp_path / "airflow.log")
        _own_wave(terminal, folder)
        # At Ctrl-C Airflow waits for tasks, and theirs can no longer end. `wavelift replicate` returns before its run.
        until(lambda: not _at_work(terminal), "the end of all runs")
    finally:
        os.killpg(airflow.pid, signal.SIGINT)  # Ctrl-C in its terminal
    assert running.ctrl_c() == 0
    # Airflow 3.3.2's standalone sends SIGTERM right behind the SIGINT of Ctrl-C, to a scheduler that may just be ending
    # its LocalExecutor: then it waits for ever for idle workers that nobody told. That is not ours to prove.
    end_processes_in(tmp_path)
    until(lambda: airflow.poll() is not None and not running.processes(), "everything else to end", timeout=60)


def _at_work(terminal: Terminal) -> list[str]:
    dags = ("demo.migrate", "shop.migrate", "shop.replicate")
    return [run for dag in dags for run, state in terminal.states(dag).items() if state in ("queued", "running")]


def _first_wave(terminal: Terminal, steps: list[str], airflow: subprocess.Popen[bytes], log: Path) -> None:
    url = terminal.works('printf %s "$WAVELIFT_URL"')
    until(lambda: airflow.poll() is not None or healthy(url), "Airflow")
    assert airflow.poll() is None, log.read_text()[-5000:]
    assert "all settings are as wavelift needs them" in log.read_text()
    validate, plan, trigger, list_ = steps
    assert terminal.works(validate) == "1 wave and 1 groups file and 1 environment valid\n"
    assert terminal.works(plan).splitlines()[-1] == "0 errors, 2 warnings: ready"
    terminal.works(trigger)
    until(ended(terminal, "demo", 3), "the first wave")
    assert {row["server"]: row["state"] for row in terminal.migrations("demo")} == dict.fromkeys(
        ("web01", "db01", "win01"), "completed"
    )
    assert terminal.works(list_).count("completed") == 3


def _own_wave(terminal: Terminal, folder: Path) -> None:
    file = folder / "dags" / "waves" / "shop.yaml"
    environment = folder / "dags" / "environments" / "demo.yaml"
    other = "sources:\n- connection: vsphere_dc1\n  connectors: [default]\n"
    environment.write_text(environment.read_text().replace("sources:\n", other))

    file.write_text(SHOP.format(connection="vsphere_dc1", power="require_off"))
    planned = terminal.run("wavelift wave plan shop")
    assert planned.returncode == 1
    waited, unpaused, run, *_ = planned.stderr.splitlines()  # its tasks may be too quick to be seen
    assert waited == "The file of shop is valid; Airflow has not loaded it yet, it does so every 30 s"
    assert unpaused == "shop.migrate was paused; it is unpaused now"
    assert run.startswith("shop.migrate, run manual__")
    assert "whole wave: Airflow has no connection 'vsphere_dc1'" in planned.stdout
    assert planned.stdout.splitlines()[-1] == "1 error: not ready"
    assert terminal.migrations("shop") == []

    file.write_text(SHOP.format(connection="vsphere_demo", power="require_off"))
    checked = terminal.run("wavelift preflight shop")
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (
        1,
        "1 error, 1 warning: db01 ready; web01 not ready",
    )
    terminal.works("airflow dags trigger shop.migrate --run-id first")
    until(ended(terminal, "shop", 2), "the wave with a refused server")
    until(lambda: terminal.states("shop.migrate")["first"] == "failed", "the end of its run")
    states = {row["server"]: (row["state"], row["error"][:14]) for row in terminal.migrations("shop")}
    assert states == {"web01": ("refused", "the VM is powe"), "db01": ("completed", "")}
    listed = terminal.works("wavelift migrations list --wave shop --state refused")
    assert "web01: the VM is poweredOn and the wave has 'source_power: require_off'" in listed
    [refused] = [row["id"] for row in terminal.migrations("shop") if row["server"] == "web01"]
    shown = " ".join(terminal.works(f"wavelift migrations show {refused}").split())
    assert "next remove the cause, then trigger shop.migrate again with servers: web01" in shown

    file.write_text(SHOP.format(connection="vsphere_demo", power="leave_running"))
    conf = shlex.quote(json.dumps({"servers": ["web01"]}))
    terminal.works(f"airflow dags trigger shop.migrate --run-id again --conf {conf}")
    until(ended(terminal, "shop", 3), "the server that was refused before")
    rows = [(row["dag_run_id"], row["server"], row["state"]) for row in terminal.migrations("shop")]
    assert sorted(rows) == [
        ("again", "web01", "completed"),
        ("first", "db01", "completed"),
        ("first", "web01", "refused"),
    ]

    seed = (datetime.now(UTC) + timedelta(days=20)).isoformat(timespec="seconds")
    with file.open("a") as out:
        out.write(REPLICATION.format(seed=seed))
    applied = terminal.run("wavelift wave apply shop --unpause")
    assert applied.returncode == 0, applied.stderr
    assert "shop.replicate was paused; it is unpaused now" in applied.stderr
    assert terminal.works("wavelift jobs list").count("shop/") == 2
    replicated = terminal.run("wavelift replicate shop --server web01")
    assert replicated.returncode == 0, replicated.stdout + replicated.stderr
    assert " of 0" not in replicated.stdout, "a server has a name"
    assert "web01    Completed" in replicated.stdout
