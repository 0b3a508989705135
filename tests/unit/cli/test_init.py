"""``wavelift init``: the ledger, the DAGs folder, and advice that a shell takes as it is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.base.settings import AIRFLOW, airflow_environment
from wavelift.cli import init as command
from wavelift.cli.dag_files import FILES, dags_source
from wavelift.cli.main import app

pytestmark = pytest.mark.unit
CORES: Final = 2


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "fresh air" / "airflow"


def init(home: Path, *arguments: str, **variables: str) -> Result:
    given = {"AIRFLOW_HOME": str(home), "AIRFLOW__WAVELIFT__LEDGER_URL": "", **variables}
    done = CliRunner().invoke(app, ["init", *arguments], env=given)
    assert done.exit_code == 0, done.output
    return done


def commands(done: Result) -> list[str]:
    """What a shell would run of the output."""
    return [line for line in done.stdout.splitlines() if not line.startswith("#")]


def test_it_makes_the_ledger_and_says_what_is_worth_setting(home: Path) -> None:
    first = init(home)
    assert (home / "wavelift" / "wavelift.db").exists()
    assert "ledger ready at" in first.stderr
    settings = home / "config" / LOCAL_SETTINGS.name
    needed = airflow_environment(cores=CORES)
    assert commands(first) == [
        *(f"export {one.variable}={needed[one.variable]}" for one in AIRFLOW),
        f"mkdir -p {shlex.quote(str(settings.parent))} && cp {LOCAL_SETTINGS} {shlex.quote(str(settings))}",
        "export AIRFLOW__CORE__TEST_CONNECTION=Enabled",
    ]
    for one in AIRFLOW:
        assert f"# [{one.section}] {one.option} is {one.default}: {one.otherwise}" in first.stdout
    assert first.stderr.splitlines()[-1] == f"{len(AIRFLOW) + 1} settings to change"


def test_a_shell_that_runs_the_advice_leaves_nothing_to_change(home: Path, tmp_path: Path) -> None:
    dags = tmp_path / "dags of mine"
    advice = init(home, "--dags", str(dags)).stdout
    (home / "wavelift").chmod(0o755)
    advice += init(home).stdout
    done = subprocess.run(["bash", "-eu"], input=f"{advice}\nenv -0", capture_output=True, text=True, check=True)
    variables = dict(line.partition("=")[::2] for line in done.stdout.split("\0") if line.startswith("AIRFLOW__"))
    again = init(home, "--dags", str(dags), **variables)
    assert again.stdout == ""
    assert again.stderr.splitlines()[-1] == "all settings are as wavelift needs them"
    assert (home / "wavelift").stat().st_mode & 0o777 == 0o700


def test_one_setting_is_not_plural(home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / LOCAL_SETTINGS.name).write_bytes(LOCAL_SETTINGS.read_bytes())
    found = airflow_environment(cores=CORES) | {"AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "5"}
    done = init(home, **found, AIRFLOW__CORE__TEST_CONNECTION="Enabled")
    assert commands(done) == ["export AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT=30"]
    assert done.stderr.splitlines()[-1] == "1 setting to change"


def test_a_folder_of_the_ledger_that_others_may_read_is_told(home: Path) -> None:
    init(home)
    (home / "wavelift").chmod(0o755)
    assert f"chmod 700 {shlex.quote(str(home / 'wavelift'))}" in commands(init(home))


@pytest.mark.parametrize(
    "own", [b"SOMETHING = 'of their own'\n", b"# Gr\xf6\xdfe; wavelift.airflow.preload is not called here\n"]
)
def test_local_settings_of_ones_own_are_told_to_call_the_preload(home: Path, own: bytes) -> None:
    settings = home / "config" / LOCAL_SETTINGS.name
    settings.parent.mkdir(parents=True)
    settings.write_bytes(own)
    assert f"cat {LOCAL_SETTINGS} >> {shlex.quote(str(settings))}" in commands(init(home))
    settings.write_bytes(own + LOCAL_SETTINGS.read_bytes())
    assert LOCAL_SETTINGS.name not in init(home).stdout
    settings.unlink()
    settings.mkdir()
    assert any(line.startswith("mkdir -p ") for line in commands(init(home)))


# Tasks at a time


@given(st.integers(1, 256), st.integers(-1, 2000))
def test_parallelism_is_the_most_for_the_cores_and_less_is_no_mistake(cores: int, found: int) -> None:
    parallelism = AIRFLOW[0]
    assert parallelism.option == "parallelism"
    assert parallelism.is_met_by(found, cores=cores) == (1 <= found <= 4 * cores)
    assert str(parallelism.needed(cores=cores)) == airflow_environment(cores=cores)[parallelism.variable]


def test_local_executor_is_compared_with_this_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = init(home, AIRFLOW__CORE__EXECUTOR="LocalExecutor").stdout
    assert "LocalExecutor runs the tasks on the scheduler's machine; this one has 2 cores" in said
    assert "export AIRFLOW__CORE__PARALLELISM=8" in said
    assert "PARALLELISM" not in init(home, AIRFLOW__CORE__PARALLELISM="3").stdout
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert "PARALLELISM" not in init(home).stdout, "Airflow's own 32 are fewer than 64"


@pytest.mark.parametrize(
    ("executor", "local", "worker"),
    [
        ("CeleryExecutor", False, "# CeleryExecutor runs the tasks on its workers' machines"),
        ("airflow.providers.edge3.executors.EdgeExecutor", False, "# EdgeExecutor runs the tasks on its workers'"),
        ("LocalExecutor,CeleryExecutor", True, "# CeleryExecutor runs the tasks on its workers' machines"),
        ("KubernetesExecutor", False, ""),
    ],
)
def test_an_executor_with_machines_of_its_own_is_not_compared(
    home: Path, executor: str, local: bool, worker: str
) -> None:
    said = init(home, AIRFLOW__CORE__EXECUTOR=executor).stdout
    assert ("AIRFLOW__CORE__PARALLELISM" in said) == local
    assert ("LocalExecutor runs the tasks" in said) == local
    assert worker in said
    if worker:
        name = "edge" if "Edge" in worker else "celery"
        assert f"at most 4 tasks per core of its machine, with `airflow {name} worker --concurrency`" in said
    else:
        assert "per core" not in said


# The DAGs folder


def test_dags_lays_out_a_folder_and_says_that_airflow_reads_another(home: Path, tmp_path: Path) -> None:
    dags = tmp_path / "my dags"
    done = init(home, "--dags", str(dags))
    assert {path.name for path in dags.iterdir()} == {*FILES, "waves", "environments", "networks"}
    for name in FILES:
        assert (dags / name).read_bytes() == (dags_source() / name).read_bytes()
        assert f"copied {dags / name}" in done.stderr
    assert f"export AIRFLOW__CORE__DAGS_FOLDER={shlex.quote(str(dags))}" in commands(done)
    assert "DAGS_FOLDER" not in init(home, "--dags", str(dags), AIRFLOW__CORE__DAGS_FOLDER=str(dags)).stdout
    assert "DAGS_FOLDER" not in init(home).stdout


def test_a_changed_dag_file_is_never_overwritten(home: Path, tmp_path: Path) -> None:
    init(home, "--dags", str(tmp_path))
    (tmp_path / "waves.py").write_text("# mine\n")
    (tmp_path / "catalog.py").unlink()
    (tmp_path / "waves" / "shop.yaml").write_text("wave: shop\n")
    again = init(home, "--dags", str(tmp_path))
    assert f"kept {tmp_path / 'waves.py'}: it differs from this version's" in again.stderr
    assert f"{tmp_path / 'wave_errors.py'} is up to date" in again.stderr
    assert f"copied {tmp_path / 'catalog.py'}" in again.stderr
    assert (tmp_path / "waves.py").read_text() == "# mine\n"
    assert (tmp_path / "waves" / "shop.yaml").read_text() == "wave: shop\n"


def test_a_folder_that_cannot_be_made_is_one_message(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    variables = {"AIRFLOW_HOME": str(home), "AIRFLOW__WAVELIFT__LEDGER_URL": ""}
    done = CliRunner().invoke(app, ["init", "--dags", str(tmp_path / "file")], env=variables)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "Not a directory" in done.stderr


# In a process of its own: Airflow reads its file once


def init_under(home: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    home.mkdir()
    (home / "airflow.cfg").write_text("\n".join(settings))
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return subprocess.run(
        [sys.executable, "-c", "from wavelift.cli.main import app; app(['init'])"],
        env={**variables, "AIRFLOW_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("option", ["ledger_url = {}", "ledger_url_cmd = echo {}"])
def test_it_prepares_the_ledger_that_airflow_cfg_names(tmp_path: Path, option: str) -> None:
    """As tasks read it (``airflow.config``), not only from the environment."""
    url, home = f"sqlite:///{tmp_path}/named.db", tmp_path / "airflow"
    done = init_under(home, "[wavelift]", option.format(url), "[workers]", "execution_api_timeout = 30.0")
    assert done.returncode == 0, done.stderr
    assert f"ledger ready at {url}" in done.stderr
    assert (tmp_path / "named.db").exists()
    assert not (home / "wavelift" / "wavelift.db").exists()
    assert "EXECUTION_API_TIMEOUT" not in done.stdout, "set in the file"
    assert "export AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW=75" in done.stdout.splitlines()
    others = [line for line in done.stdout.splitlines() if not line.startswith(("#", "export ", "mkdir ", "chmod "))]
    assert others == [], "Airflow writes its log to standard output, and a shell must be able to read ours"


def test_it_tells_in_one_line_that_the_ledger_s_command_fails(tmp_path: Path) -> None:
    done = init_under(tmp_path / "airflow", "[wavelift]", "ledger_url_cmd = ls /secret-place")
    assert done.returncode == 1
    assert "The command of [wavelift] ledger_url_cmd failed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "secret-place" not in done.stderr


def test_a_ledger_out_of_reach_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    variables = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__WAVELIFT__LEDGER_URL": f"sqlite:///{tmp_path}/file/x.db"}
    done = CliRunner().invoke(app, ["init"], env=variables)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "File exists" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_words_from_the_configuration_cannot_leave_their_comment() -> None:
    change = command.Change("[core] dags_folder is x\nrm -rf y", "true")
    assert str(change).splitlines() == ["# [core] dags_folder is x\\nrm -rf y", "true"]
