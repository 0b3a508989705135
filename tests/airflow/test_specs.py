"""Invalid specs in a running Airflow: they are reported, and do not affect other waves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.airflow.aside import aside

from wavelift.cli.local_airflow import wait_for

pytestmark = pytest.mark.airflow

BROKEN = "wave: fragile\nservers: [\n"


def _validate(world: Any, name: str) -> str:
    """What ``wavelift wave validate`` prints of a wave's file."""
    done = subprocess.run(
        [Path(sys.executable).with_name("wavelift"), "wave", "validate", world.wave_of(name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done
    return done.stdout.strip()


def _import_errors(world: Any) -> list[dict[str, Any]]:
    return list(world.api.call("GET", "/api/v2/importErrors")["import_errors"])


def test_a_bad_file_is_told_in_the_words_of_validate_and_stops_no_other_wave(world: Any) -> None:
    wait_for(lambda: bool(_import_errors(world)), timeout=400, what="the import error")
    errors = _import_errors(world)
    assert [Path(error["filename"]).name for error in errors] == ["wave_errors.py"]
    said = _validate(world, "bad")
    assert "bad.yaml:6: servers[0].lanch: unknown key 'lanch'" in said
    assert "bad.yaml:7: retries: must be greater than or equal to 2" in said
    assert said in errors[0]["stack_trace"]
    assert world.api.request("GET", "/api/v2/dags/bad.migrate")[0] == 404
    dag = world.api.call("GET", "/api/v2/dags/full.migrate")
    assert not dag["is_stale"]
    assert Path(dag["fileloc"]).name == "waves.py"
    others = world.early["full"]
    others.until("the other waves to run", lambda: others.row("admit")["state"] is not None)


@aside("fragile")
def test_breaking_the_file_of_a_running_wave_stops_its_new_runs_alone(world: Any) -> None:
    run = world.trigger("fragile")
    run.until_state("export", 0, "running")
    path = world.wave_of("fragile")
    whole = path.read_text()
    path.write_text(BROKEN)
    try:
        run.until(
            "the dag-processor to see the broken file",
            lambda: any("fragile.yaml" in error["stack_trace"] for error in _import_errors(world)),
        )
        assert run.row("export", 0)["state"] == "running", "the transfer was still going on"
        late = world.trigger("fragile", {"mode": "cleanup"})
        run.ends("success")
        late.ends("failed")
        assert late.row("admit")["try_number"] == 1
        assert "waves/fragile.yaml:2: a '[' or '{' is not closed" in late.report()["stopped"], (
            "a new run needs a valid file"
        )
        assert run.outcome("fragile-a")["state"] == "completed"
        assert not world.api.call("GET", "/api/v2/dags/fragile.migrate")["is_stale"]
        assert "fragile.yaml" in _validate(world, "fragile")
    finally:
        path.write_text(whole)
    run.until(
        "the corrected file to be accepted",
        lambda: not any("fragile.yaml" in error["stack_trace"] for error in _import_errors(world)),
    )
