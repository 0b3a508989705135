"""The commands that act without Airflow: validate, init, the rights to grant; and the help of all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.base.settings import AIRFLOW
from wavelift.cli.dag_files import dags_source
from wavelift.cli.main import app
from wavelift.cli.wave import grouped, print_findings
from wavelift.rules.policies import Staging, bucket_policy, identity_policy, role_policy, trust_policy, vsphere_role
from wavelift.specs import check_file, format_errors

pytestmark = pytest.mark.unit
DAGS: Final = dags_source()
KEY: Final = "arn:aws:kms:eu-central-1:111122223333:key/k"
ROLES: Final = "arn:aws:iam::111122223333:role"


def call(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", **variables})


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, as words."""
    command = command or get_command(app)
    yield path
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    shown = call(*words, "--help")
    assert shown.exit_code == 0, shown.output
    assert "Usage: " in shown.output


def test_the_commands_of_the_issue_are_all_there() -> None:
    assert {" ".join(words) for words in commands()} >= {
        *("demo", "simulators up", "init", "wave validate", "wave plan", "preflight", "verify", "iam show"),
        *("migrations list", "migrations show", "migrations cancel", "migrations launch", "vsphere role", "cleanup"),
        *("catalog import", "catalog list", "catalog clear"),
        *(f"connectors {verb}" for verb in ("register", "list", "check", "maintenance", "disassociate")),
    }


def test_validate_accepts_the_demo_s_wave() -> None:
    done = call("wave", "validate", str(DAGS / "waves" / "demo.yaml"))
    assert (done.exit_code, done.stdout) == (0, "1 file valid\n")


def test_validate_prints_what_the_dag_import_error_says(tmp_path: Path) -> None:
    """The text is ``format_errors``'s, which ``wave_errors.py`` raises too: file, line and allowed values."""
    wave = tmp_path / "waves" / "demo.yaml"
    wave.parent.mkdir()
    text = (DAGS / "waves" / "demo.yaml").read_text()
    wave.write_text(text.replace("launch: running", "launch: maybe", 1).replace("retries: 3", "retrys: 3"))
    environments = DAGS / "environments"

    done = call("wave", "validate", str(wave), "--environments", str(environments))
    assert done.exit_code == 1
    assert done.stdout == format_errors(check_file(wave, environments)) + "\n"
    line = next(number for number, words in enumerate(wave.read_text().splitlines(), 1) if "maybe" in words)
    assert f"waves/demo.yaml:{line}: servers[0].launch: 'maybe'" in done.stdout
    assert "allowed: none, running" in done.stdout
    assert "retrys" in done.stdout


def test_validate_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = call("wave", "validate", str(tmp_path / "waves" / "no.yaml"))
    assert done.exit_code == 1
    assert "no.yaml" in done.stdout
    assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        ((), role_policy(Staging("b", "waves", KEY))),
        (("vmimport", "--trust", "--account", "111122223333"), trust_policy("111122223333")),
        (("connector",), identity_policy("connector", Staging("b", "waves", KEY))),
        (
            ("caller", "--role-arn", "arn:aws:iam::111122223333:role/vmimport"),
            identity_policy("caller", Staging("b", "waves", KEY), role_arn="arn:aws:iam::111122223333:role/vmimport"),
        ),
        (
            ("bucket", "--connector-arn", f"{ROLES}/c", "--connector-arn", f"{ROLES}/d", "--caller-arn", f"{ROLES}/a"),
            bucket_policy(Staging("b", "waves", KEY), connectors=[f"{ROLES}/c", f"{ROLES}/d"], callers=[f"{ROLES}/a"]),
        ),
        (
            ("bucket", "--account", "111122223333"),
            bucket_policy(
                Staging("b", "waves", KEY), connectors=[f"{ROLES}/YOUR-CONNECTOR"], callers=[f"{ROLES}/YOUR-CALLER"]
            ),
        ),
    ],
    ids=["service role", "trust", "connector", "caller", "bucket", "bucket, not filled in"],
)
def test_sms_13_iam_show_prints_each_identity_s_document(arguments: tuple[str, ...], document: dict[str, Any]) -> None:
    done = call("iam", "show", *arguments, "--bucket", "b", "--prefix", "waves", "--kms-key", KEY)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == document


def test_sms_13_the_caller_may_hand_on_one_role_only() -> None:
    shown = json.loads(call("iam", "show", "caller", "--account", "111122223333").stdout)
    [statement] = [one for one in shown["Statement"] if one["Action"] == ["iam:PassRole"]]
    assert statement["Resource"] == "arn:aws:iam::111122223333:role/vmimport"


@pytest.mark.parametrize(
    ("arguments", "partition"),
    [
        (("--region", "eusc-de-east-1"), "aws-eusc"),
        (("--partition", "aws-us-gov"), "aws-us-gov"),
        (("--role-arn", "arn:aws-cn:iam::111122223333:role/vmimport"), "aws-cn"),
    ],
)
def test_iam_show_writes_the_arns_of_a_partition(arguments: tuple[str, ...], partition: str) -> None:
    shown = json.loads(call("iam", "show", "caller", "--account", "111122223333", *arguments).stdout)
    arns = {one["Resource"] for one in shown["Statement"]} - {"*"}
    assert {arn.split(":")[1] for arn in arns} == {partition}


@pytest.mark.parametrize(
    "arguments", [("root",), ("connector", "--trust"), ("--region", "frankfurt"), ("--partition", "amazon")]
)
def test_iam_show_refuses_in_one_line(arguments: tuple[str, ...]) -> None:
    done = call("iam", "show", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_sms_12_vsphere_role_names_every_privilege_of_the_flows_that_exist() -> None:
    wanted = {one.id for one in vsphere_role(("migrate", "sms", "replicate"))}
    assert wanted >= {
        *("Datastore.Browse", "Datastore.FileManagement", "VApp.Export"),
        *("VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot"),
    }
    assert set(call("vsphere", "role", "--ids").stdout.split()) == wanted
    table = call("vsphere", "role").stdout
    assert all(name in table for name in wanted)
    assert "No access elsewhere" in table


def test_init_makes_the_ledger_and_says_what_is_worth_setting(tmp_path: Path) -> None:
    home = tmp_path / "fresh" / "airflow"
    variables = {"AIRFLOW_HOME": str(home), "AIRFLOW__WAVELIFT__LEDGER_URL": ""}
    first = call("init", **variables)
    assert first.exit_code == 0, first.output
    assert (home / "wavelift" / "wavelift.db").exists()
    assert "ledger ready at" in first.stderr
    assert "private" not in first.stderr, "made by wavelift: for its user only"
    assert "set AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT=30" in first.stderr
    for one in AIRFLOW:
        assert (f"set {one.variable}={one.value}: otherwise {one.otherwise}" in first.stderr) == one.checked
    settings = home / "config" / "airflow_local_settings.py"
    assert f"copy {LOCAL_SETTINGS} to {settings}" in first.stderr

    (home / "wavelift").chmod(0o755)
    assert f"make {home / 'wavelift'} private (chmod 700)" in call("init", **variables).stderr
    settings.parent.mkdir()
    settings.write_text("SOMETHING = 'of their own'\n")
    assert f"call wavelift.airflow.preload.preload() in {settings}" in call("init", **variables).stderr
    settings.write_bytes(b"# Gr\xf6\xdfe; wavelift.airflow.preload is not called here\n")
    assert f"call wavelift.airflow.preload.preload() in {settings}" in call("init", **variables).stderr
    settings.unlink()
    settings.mkdir()
    assert f"copy {LOCAL_SETTINGS} to {settings}" in call("init", **variables).stderr
    settings.rmdir()
    settings.write_bytes(LOCAL_SETTINGS.read_bytes())
    set_now = {**variables, "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30"}
    again = call("init", **set_now)
    assert again.exit_code == 0, again.output
    assert "EXECUTION_API_TIMEOUT" not in again.stderr
    assert "airflow_local_settings" not in again.stderr


def init_under(home: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: Airflow reads its file once."""
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
def test_init_prepares_the_ledger_that_airflow_cfg_names(tmp_path: Path, option: str) -> None:
    """As tasks read it (``airflow.config``), not only from the environment."""
    url, home = f"sqlite:///{tmp_path}/named.db", tmp_path / "airflow"
    done = init_under(home, "[wavelift]", option.format(url), "[workers]", "execution_api_timeout = 30.0")
    assert done.returncode == 0, done.stderr
    assert f"ledger ready at {url}" in done.stderr
    assert (tmp_path / "named.db").exists()
    assert not (home / "wavelift" / "wavelift.db").exists()
    assert "EXECUTION_API_TIMEOUT" not in done.stderr, "set in the file"
    assert "set AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW=75" in done.stderr


def test_init_tells_in_one_line_that_the_ledger_s_command_fails(tmp_path: Path) -> None:
    done = init_under(tmp_path / "airflow", "[wavelift]", "ledger_url_cmd = ls /secret-place")
    assert done.returncode == 1
    assert "The command of [wavelift] ledger_url_cmd failed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "secret-place" not in done.stderr


def test_init_with_a_ledger_out_of_reach_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = call("init", AIRFLOW_HOME=str(tmp_path), AIRFLOW__WAVELIFT__LEDGER_URL=f"sqlite:///{tmp_path}/file/x.db")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "File exists" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_demo_and_simulators_refuse_what_they_do_not_know() -> None:
    assert "flip" in call("demo", "--fault", "flop").stderr
    refused = call("simulators", "up", "--only", "hcx")
    assert refused.exit_code == 1
    assert "vcenter and aws" in refused.stderr


def finding(subject: str, severity: str = "info", what: str = "the disk is an RDM") -> dict[str, Any]:
    return {
        "severity": severity,
        "code": "disk.rdm",
        "subject": subject,
        "what": what,
        "why": "lib[x] says so",
        "next_action": "Do nothing",
        "requirement": "SMS-11",
    }


def test_findings_that_differ_in_their_subject_only_are_told_once() -> None:
    found = [finding("b"), finding("a"), finding("c", "error", "no [tools]"), finding("d", "warning")]
    assert [(one["severity"], subjects) for one, subjects in grouped(found)] == [
        ("error", ["c"]),
        ("warning", ["d"]),
        ("info", ["a", "b"]),
    ]


def test_findings_are_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings({"wave": "w", "findings": [finding("c", "error", "no [tools] here")]})
    shown = capsys.readouterr().out
    assert "no [tools] here" in shown
    assert "lib[x] says so" in shown
