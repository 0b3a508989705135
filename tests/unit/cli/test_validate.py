"""``wavelift wave validate``: files, folders and DAGs folders, with what is wrong in them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from tests.specs import HCX_ENVIRONMENT, HCX_WAVE, NETWORK
from typer.testing import CliRunner, Result

from wavelift.cli.dag_files import dags_source
from wavelift.cli.main import app
from wavelift.specs import check_file, format_errors

pytestmark = pytest.mark.unit
DAGS: Final = dags_source()


def validate(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["wave", "validate", *map(str, arguments)])


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    """A DAGs folder with the demo's wave and environment."""
    return Path(shutil.copytree(DAGS, tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__")))


def copy_of_the_wave(dags: Path, name: str) -> Path:
    path = dags / "waves" / f"{name}.yaml"
    path.write_text((DAGS / "waves" / "demo.yaml").read_text().replace("wave: demo", f"wave: {name}"))
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["waves/demo.yaml"], "1 wave valid"),
        (["environments/demo.yaml"], "1 environment valid"),
        (["."], "2 waves and 1 groups file and 1 environment valid"),
        (["waves"], "2 waves valid"),
        (["environments"], "1 groups file and 1 environment valid"),
        (["waves", "environments"], "2 waves and 1 groups file and 1 environment valid"),
        ([".", "waves/demo.yaml", "waves"], "2 waves and 1 groups file and 1 environment valid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_files_and_folders_are_counted(dags: Path, arguments: list[str], said: str) -> None:
    copy_of_the_wave(dags, "other")
    done = validate(*(dags / one for one in arguments))
    assert (done.exit_code, done.stdout) == (0, f"{said}\n"), done.stdout


def test_a_relative_path_is_the_same(dags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dags / "waves")
    assert validate("demo.yaml").stdout == "1 wave valid\n"
    assert validate(".").stdout == "1 wave valid\n"
    assert validate("..").stdout == "1 wave and 1 groups file and 1 environment valid\n"
    assert validate("../environments").stdout == "1 groups file and 1 environment valid\n"


def test_it_prints_what_the_dag_import_error_says(tmp_path: Path) -> None:
    """The text is ``format_errors``'s, which ``wave_errors.py`` raises too: file, line and allowed values."""
    wave = tmp_path / "waves" / "demo.yaml"
    wave.parent.mkdir()
    text = (DAGS / "waves" / "demo.yaml").read_text()
    wave.write_text(text.replace("launch: running", "launch: maybe", 1).replace("retries: 3", "retrys: 3"))
    environments = DAGS / "environments"

    done = validate(wave, "--environments", environments)
    assert done.exit_code == 1
    assert done.stdout == format_errors(check_file(wave, environments)) + "\n"
    lines = wave.read_text().splitlines()
    line, retries = (next(at for at, words in enumerate(lines, 1) if word in words) for word in ("maybe", "retrys"))
    assert f"waves/demo.yaml:{line}: servers[0].launch: 'maybe'" in done.stdout
    assert "allowed: none, running" in done.stdout
    assert f"waves/demo.yaml:{retries}: retrys: unknown key 'retrys' (did you mean 'retries'?)" in done.stdout


def test_all_files_of_a_folder_are_checked_whatever_one_of_them_has(dags: Path) -> None:
    copy_of_the_wave(dags, "other").write_text("wave: other\n  environment: demo\n")
    done = validate(dags)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "waves/other.yaml:2: the indentation is wrong: 'environment' is 2 spaces further right than 'wave' on line 1; "
        "what belongs together begins in the same column",
        "      environment: demo",
        "      ^",
    ]
    assert done.stderr == "1 of 2 waves and 1 of 1 groups files and 1 of 1 environments valid\n"


def test_a_broken_environment_is_told_once_and_its_waves_name_it(dags: Path) -> None:
    (dags / "environments" / "demo.yaml").write_text("environment: demo\n")
    done = validate(dags)
    assert done.exit_code == 1
    assert done.stdout.count("environments/demo.yaml:1: region: is missing") == 1
    assert "environments/demo.yaml has errors; correct them first" in done.stdout


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no.yaml", "there is no such file or folder"),
        ("no/such/folder", "there is no such file or folder"),
        ("empty", "there is no spec here: no file *.yaml in it, and no folder waves"),
        ("both", "there is no spec here: no file *.yaml in its folders waves and environments"),
    ],
)
def test_a_path_without_a_spec_is_told(tmp_path: Path, path: str, said: str) -> None:
    for folder in ("empty", "both/waves", "both/environments"):
        (tmp_path / folder).mkdir(parents=True)
    done = validate(tmp_path / path)
    assert (done.exit_code, done.stdout) == (1, f"{tmp_path / path}: {said}\n")
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_file_that_airflow_would_not_read_is_told(dags: Path) -> None:
    (dags / "waves" / "demo.yaml").rename(dags / "waves" / "demo.yml")
    said = "waves/demo.yml: wavelift does not read this file: rename it to 'demo.yaml'\n"
    for path in (dags, dags / "waves", dags / "waves" / "demo.yml"):
        done = validate(path)
        assert (done.exit_code, done.stdout) == (1, said), path


def test_what_is_no_regular_file_is_told_and_does_not_block(dags: Path) -> None:
    os.mkfifo(dags / "waves" / "pipe.yaml")
    (dags / "waves" / "loose.yaml").symlink_to("nowhere")
    done = validate(dags)
    assert done.exit_code == 1
    assert "waves/pipe.yaml: can't be read: it is not a regular file" in done.stdout
    assert "waves/loose.yaml: can't be read: No such file or directory" in done.stdout


def test_names_and_lines_of_files_cannot_steer_the_terminal(tmp_path: Path) -> None:
    bad = tmp_path / "a\x1b[2Jb.yaml"
    bad.write_text("a: 'x' \u202ey\n")
    done = validate(bad, tmp_path / "no\x1b[2J")
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "\\u202e" in done.stdout, "the wrong line is shown, with escapes"


def test_a_loop_of_links_and_an_impossible_name_hide_no_other_file(dags: Path) -> None:
    """Each was an error of Python, and nothing else was told."""
    (dags / "waves" / "one.yaml").symlink_to("two.yaml")
    (dags / "waves" / "two.yaml").symlink_to("one.yaml")
    done = validate(dags, dags / ("a" * 300), dags / "waves" / "demo.yaml" / "x")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    told = done.stdout.splitlines()
    assert f"{dags}/{'a' * 300}: can't be read: File name too long" in told
    assert f"{dags}/waves/demo.yaml/x: there is no such file or folder" in told
    assert [line for line in told if line.startswith(("waves/one", "waves/two"))] == [
        f"waves/{name}.yaml: can't be read: Too many levels of symbolic links" for name in ("one", "two")
    ]
    assert "1 of 3 waves and 1 of 1 groups files and 1 of 1 environments valid" in done.stderr


@pytest.fixture
def hcx(dags: Path) -> Path:
    """The same with an environment, a wave and a network of HCX."""
    (dags / "networks").mkdir()
    (dags / "environments" / "vmc.yaml").write_text(HCX_ENVIRONMENT.replace("administer: []", "administer: ['user:a']"))
    (dags / "waves" / "live1.yaml").write_text(HCX_WAVE)
    (dags / "networks" / "web.yaml").write_text(NETWORK)
    return dags


def test_networks_are_checked_too(hcx: Path) -> None:
    assert validate(hcx).stdout == "2 waves and 1 network and 1 groups file and 2 environments valid\n"
    assert validate(hcx / "networks").stdout == "1 network valid\n"
    assert validate(hcx / "networks" / "web.yaml").stdout == "1 network valid\n"
    (hcx / "networks" / "web.yaml").write_text(NETWORK.replace("  queue: office\n", ""))
    done = validate(hcx)
    assert done.exit_code == 1
    assert done.stdout.startswith("networks/web.yaml:11: probes.queue: is missing")
    assert done.stderr == "2 of 2 waves and 0 of 1 networks and 1 of 1 groups files and 2 of 2 environments valid\n"


def test_networks_may_be_elsewhere(hcx: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "routed"
    (hcx / "networks").rename(elsewhere)
    file = elsewhere / "web.yaml"
    done = validate(file, "--networks", elsewhere, "--environments", hcx / "environments")
    assert done.stdout == "1 network valid\n"


def test_a_window_that_is_over_is_a_warning(hcx: Path) -> None:
    wave = hcx / "waves" / "live1.yaml"
    assert validate(wave).stderr == ""
    wave.write_text(HCX_WAVE.replace("2030-", "2020-"))
    done = validate(wave)
    assert (done.exit_code, done.stdout) == (0, "1 wave valid\n")
    assert done.stderr.startswith("warning: waves/live1.yaml:11: window.end: the window is over")
