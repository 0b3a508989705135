"""``wavelift environments …`` and ``whoami`` from the command line to the task, in a running Airflow; and what a user
meets to whom nothing is granted (AMP-02)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow


def wavelift(world: Any, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user of that Airflow."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "wavelift"), *arguments],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith(("WAVELIFT_", "AIRFLOW"))},
            "WAVELIFT_URL": world.airflow.url,
            "WAVELIFT_USER": user,
            "WAVELIFT_PASSWORD": world.airflow.password_of(user),
            "COLUMNS": "120",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_amp_02_an_environment_is_checked_by_a_run_of_its_dag(world: Any) -> None:
    world.airflow.wait_for_dag("environment_check")
    done = wavelift(world, "op", "environments", "check", "lab")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "environment_check was paused; it is unpaused now" in done.stderr
    assert "Account 123456789012" in done.stdout
    [subnet] = world.stage.network.subnet_ids[:1]
    [line] = [line for line in done.stdout.splitlines() if subnet in line]
    assert int(line.split()[-1]) > 0, line
    runs = world.api.call("GET", "/api/v2/dags/environment_check/dagRuns")["dag_runs"]
    assert [(run["state"], run["triggering_user_name"]) for run in runs] == [("success", "op")]


def test_amp_02_nothing_begins_for_a_user_whom_no_environment_lists(world: Any) -> None:
    """``guest`` may trigger every DAG of this Airflow."""
    who = wavelift(world, "guest", "whoami")
    assert who.returncode == 0, who.stderr
    assert "You are guest" in who.stdout
    assert "No environments granted to you yet" in who.stdout + who.stderr

    told = wavelift(world, "guest", "environments", "check", "lab")
    assert (told.returncode, told.stdout) == (1, "")
    assert "No environment of this name is granted to you" in told.stderr

    refused = wavelift(world, "guest", "migrate", "full")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "'guest' may not migrate into environment 'lab'" in refused.stderr
    assert "An administrator adds 'user:guest' there" in refused.stderr


@pytest.mark.parametrize(
    ("dag_id", "conf", "task"),
    [("full.migrate", {"mode": "preflight"}, "admit"), ("environment_check", {"environment": "lab"}, "check")],
)
def test_amp_03_the_form_of_the_web_ui_gives_no_right(world: Any, dag_id: str, conf: dict[str, str], task: str) -> None:
    """Airflow's own route, which knows no environment: the run fails, with the words in its log."""
    world.airflow.wait_for_dag(dag_id)
    world.api.unpause(dag_id)
    client = world.airflow.client("guest")
    run = world.known_run(dag_id, client.trigger(dag_id, conf))
    assert run.wait() == "failed"
    assert "'guest' may not migrate into environment 'lab'" in run.words(task), run.log(task)
    assert "An administrator adds 'user:guest' there" in run.log(task)
    assert run.row(task)["try_number"] == 1, "a retry gives no right"
