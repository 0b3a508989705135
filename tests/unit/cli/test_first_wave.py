"""The files of a first wave: valid, complete, private, and never written over what a person changed."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from wavelift.cli import first_wave
from wavelift.cli.main import app
from wavelift.cli.simulated_sites import Sites
from wavelift.cli.simulators import Stage
from wavelift.specs import check_file, format_errors

pytestmark = pytest.mark.unit
SECRETS: Final = ('vcenter\'s $(pass) "word"', "aws'secret")


def stage(vpc: str = "vpc-0123456789abcdef0") -> Stage:
    """What the running simulators tell of themselves."""
    return Stage(
        vcenter=SimpleNamespace(
            host="127.0.0.1", port=4430, username="admin", password=SECRETS[0], ca_file="/ca 1.pem"
        ),
        aws=SimpleNamespace(
            access_key="AKIA",
            secret_key=SECRETS[1],
            region="eu-central-1",
            endpoint_url="https://127.0.0.1:4431",
            verify="/ca.pem",
            ca_file="/ca.pem",
        ),
        network=SimpleNamespace(
            bucket="wavelift-demo",
            vpc_id=vpc,
            subnet_ids=["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
            security_group_id="sg-0123456789abcdef0",
            isolated_group_id="sg-0123456789abcdef1",
        ),
    )


def between_sites() -> Stage:
    """What runs with ``--only hcx,nsx``."""
    one = stage().vcenter
    return Stage(vcenter=one, sites=Sites(destination=one, nsx=(one, one), hcx=one))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "first wave"


def written(folder: Path, running: Stage | None = None) -> str:
    return "\n".join(first_wave.write(folder, running or stage()))


def sourced(folder: Path) -> Mapping[str, str]:
    """The variables that a shell has after it read ``env``."""
    script = f". {shlex.quote(str(folder / 'env'))} && env -0"
    done = subprocess.run(["bash", "-euc", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    return dict(line.partition("=")[::2] for line in done.stdout.decode().split("\0") if line)


def run(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env=sourced(folder))


def test_the_files_are_valid_and_name_what_runs(folder: Path) -> None:
    written(folder)
    done = run(folder, "wave", "validate", str(folder / "dags"))
    assert (done.exit_code, done.stdout) == (0, "1 wave and 1 groups file and 1 environment valid\n")
    environment = (folder / "dags" / "environments" / "demo.yaml").read_text()
    for name in ("vpc-0123456789abcdef0", "subnet-0123456789abcdef0", "sg-0123456789abcdef0", "wavelift-demo"):
        assert name in environment
    wave = (folder / "dags" / "waves" / "demo.yaml").read_text()
    assert all(f"- name: {name}" in wave for name in ("web01", "db01", "win01"))
    assert "$schema" not in wave, "its path would lead nowhere"


def test_of_hcx_a_wave_and_its_network_are_written(folder: Path) -> None:
    told = written(folder, between_sites())
    done = run(folder, "wave", "validate", str(folder / "dags"))
    assert (done.exit_code, done.stdout) == (
        0,
        "1 wave and 1 network and 1 groups file and 1 environment valid\n",
    )
    variables = sourced(folder)
    for name in ("HCX_DEMO", "NSX_DEMO", "NSX_DEMO_DESTINATION", "VSPHERE_DEMO", "VSPHERE_DEMO_DESTINATION"):
        assert f"AIRFLOW_CONN_{name}" in variables
    assert "AIRFLOW_CONN_AWS_DEMO" not in variables
    assert "method: hcx" in (folder / "dags" / "waves" / "sites.yaml").read_text()
    commands = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    for command in ("wavelift live plan sites", "wavelift network plan sites", "wavelift network cutover sites"):
        assert command in commands
    assert subprocess.run(["bash", "-n"], input="\n".join(commands), text=True, check=False).returncode == 0


def test_the_example_of_a_replication_is_valid(folder: Path) -> None:
    written(folder)
    wave = folder / "dags" / "waves" / "demo.yaml"
    text = wave.read_text()
    _, _, example = text.partition("docs/replication.md).\n")
    assert example.startswith("# replication:\n")
    wave.write_text(text.replace(example, "".join(line[2:] for line in example.splitlines(keepends=True))))
    assert "\nreplication:\n  seed_time: now\n" in wave.read_text()
    assert format_errors(check_file(wave, folder / "dags" / "environments")) == ""


def test_the_shell_gets_the_connections_and_an_airflow_that_needs_no_change(folder: Path) -> None:
    running = stage()
    written(folder, running)
    variables = sourced(folder)
    assert {name: variables[name] for name in running.connections()} == running.connections()
    assert variables["AIRFLOW_HOME"] == str(folder / "airflow")
    passwords = json.loads(Path(variables["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).read_text())
    assert passwords == {"admin": variables["WAVELIFT_PASSWORD"]}
    assert variables["PATH"].endswith(os.environ["PATH"])
    done = run(folder, "init")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "all settings are as wavelift needs them"


def test_secrets_are_in_files_of_their_user_only_and_nowhere_else(folder: Path) -> None:
    told = written(folder)
    password = sourced(folder)["WAVELIFT_PASSWORD"]
    holders = {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(one in path.read_text() for one in (password, "pass) ", SECRETS[1].partition("'")[2]))
    }
    assert holders == {"env", "passwords.json"}
    for path in (folder / "env", folder / "airflow" / "passwords.json"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(one in told for one in (*SECRETS, password))


def test_it_tells_the_next_commands(folder: Path) -> None:
    told = written(folder).splitlines()
    env = shlex.quote(str(folder / "env"))
    commands = [line.strip() for line in told if line.startswith("  ")]
    assert commands == [
        f". {env} && wavelift init && airflow standalone",
        f". {env}",
        f"wavelift wave validate {shlex.quote(str(folder / 'dags'))}",
        "wavelift wave plan demo",
        "wavelift migrate demo",
        "wavelift migrations list",
    ]
    assert subprocess.run(["bash", "-n"], input="\n".join(commands), text=True, check=False).returncode == 0
    assert "The files stay when the simulators stop" in told[-1]


def test_what_nobody_changed_is_written_again(folder: Path) -> None:
    written(folder)
    password = sourced(folder)["WAVELIFT_PASSWORD"]
    told = written(folder, stage(vpc="vpc-0fedcba9876543210"))
    assert "kept" not in told
    assert "vpc-0fedcba9876543210" in (folder / "dags" / "environments" / "demo.yaml").read_text()
    assert sourced(folder)["WAVELIFT_PASSWORD"] == password, "Airflow keeps its user"


@pytest.mark.parametrize("name", ["dags/waves/demo.yaml", "dags/environments/demo.yaml", "env"])
@pytest.mark.parametrize("whose", ["changed", "of somebody else", "a link", "not text"])
def test_what_somebody_changed_stays(folder: Path, tmp_path: Path, name: str, whose: str) -> None:
    written(folder)
    path = folder / name
    if whose == "changed":
        path.write_text(path.read_text() + "# mine\n")
    elif whose == "not text":
        path.write_bytes(b"\xff\xfe")
    else:
        path.unlink()
        if whose == "a link":
            path.symlink_to(tmp_path / "elsewhere")
        else:
            path.write_text("# mine\n")
    before = path.readlink() if path.is_symlink() else path.read_bytes()
    told = written(folder, stage(vpc="vpc-0fedcba9876543210"))
    assert (path.readlink() if path.is_symlink() else path.read_bytes()) == before
    assert not (tmp_path / "elsewhere").exists()
    assert f"kept {path}: it was changed" in told
    assert ("remove it to have it written again" in told) == (name == "env")


@given(before=st.text(max_size=40), after=st.text(max_size=40), edit=st.text(max_size=10), at=st.integers(0, 200))
def test_a_file_is_ours_as_long_as_nobody_changes_it(
    tmp_path_factory: pytest.TempPathFactory, before: str, after: str, edit: str, at: int
) -> None:
    path = tmp_path_factory.mktemp("put") / "file"
    before, after, edit = (text.replace("\r", "") for text in (before, after, edit))  # text mode would change them
    assert first_wave.put(path, before)
    text = path.read_text()
    changed = text[:at] + edit + text[at:]
    path.write_text(changed)
    assert first_wave.put(path, after) == (changed == text)
    assert path.read_text() == changed if changed != text else path.read_text().endswith(f"\n{after}")


def test_airflow_s_own_port_is_used_if_it_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(first_wave, "PORT", port)
        written(folder)
        other = sourced(folder)["AIRFLOW__API__PORT"]
        assert other != str(port)
        assert sourced(folder)["WAVELIFT_URL"] == f"http://127.0.0.1:{other}"
    written(folder)
    assert sourced(folder)["AIRFLOW__API__PORT"] == str(port)


def test_the_settings_file_of_somebody_else_stays(folder: Path) -> None:
    """It may hold the policies of a cluster."""
    theirs = folder / "airflow" / "config" / "airflow_local_settings.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("def task_policy(task): ...\n")
    written(folder)
    assert theirs.read_text() == "def task_policy(task): ...\n"


def test_the_home_of_another_airflow_is_left_alone(folder: Path) -> None:
    """As of ``--write ~``: ``airflow standalone`` would migrate and use the database that its settings name."""
    home = folder / "airflow"
    home.mkdir(parents=True)
    (home / "airflow.cfg").write_text("[database]\nsql_alchemy_conn = postgresql://production/airflow\n")
    with pytest.raises(OSError, match="is the home of another Airflow: name another folder"):
        written(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["airflow", "airflow.cfg"]


def test_the_settings_that_the_first_airflow_wrote_do_not_stop_the_next_start(folder: Path) -> None:
    written(folder)
    (folder / "airflow" / "airflow.cfg").touch()
    assert "wrote" in written(folder)


def test_a_start_that_was_killed_leaves_no_half_password(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file stopped each later start."""

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            first_wave._password(folder.parent / first_wave.PASSWORDS)
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"ana": "x"}'])
def test_a_password_file_of_another_form_is_named(folder: Path, content: str) -> None:
    (folder / "airflow").mkdir(parents=True)
    (folder / "airflow" / first_wave.PASSWORDS).write_text(content)
    with pytest.raises(ValueError, match=r"passwords\.json has no password of the user admin; remove it"):
        written(folder)
