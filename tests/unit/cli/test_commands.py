"""The commands that act without Airflow: the rights to grant; and the help of all commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from wavelift.cli.findings import print_findings
from wavelift.cli.main import app
from wavelift.rules.calls import OFFERED
from wavelift.rules.policies import Staging, bucket_policy, identity_policy, role_policy, trust_policy, vsphere_role

pytestmark = pytest.mark.unit
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
        *("demo", "simulators up", "init", "wave validate", "wave plan", "preflight", "migrate", "verify", "iam show"),
        *("iam check", "iam apply"),
        *("migrations list", "migrations show", "migrations cancel", "migrations launch", "vsphere role", "cleanup"),
        *("catalog import", "catalog list", "catalog clear"),
        *(f"connectors {verb}" for verb in ("register", "list", "check", "maintenance", "disassociate")),
    }


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


def test_sms_13_iam_show_prints_only_what_a_feature_needs() -> None:
    def actions(*options: str) -> set[str]:
        shown = json.loads(call("iam", "show", "connector", *options).stdout)
        return {action for statement in shown["Statement"] for action in statement["Action"]}

    assert actions() == actions("--feature", "migrate", "--feature", "replicate")
    assert actions() - actions("--feature", "migrate") >= {"ebs:StartSnapshot", "ebs:PutSnapshotBlock"}
    for wrong in ("network", "everything"):  # the first one has no calls in this version
        done = call("iam", "show", "connector", "--feature", wrong)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr == f"--feature is '{wrong}'; allowed are {', '.join(OFFERED)}\n"


def test_amp_10_iam_show_of_exports_names_their_bucket() -> None:
    def resources(*options: str) -> set[str]:
        shown = json.loads(call("iam", "show", *options).stdout)
        return {one["Resource"] for one in shown["Statement"] if ":s3:::" in one["Resource"]}

    bucket = "export-to-s3-acme-eu-central-1"
    own = {f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"}
    assert resources("caller", "--feature", "export", "--exports", bucket) == own
    assert resources("caller", "--feature", "export-setup", "--exports", bucket) == {f"arn:aws:s3:::{bucket}"}
    assert resources("vmimport", "--exports", bucket) > own
    assert "arn:aws:s3:::YOUR-EXPORTS-BUCKET" in resources("caller", "--feature", "export")
    assert not [one for one in resources("vmimport") | resources("caller") if "EXPORTS" in one]
    refused = call("iam", "show", "caller", "--feature", "export", "--exports", "Not_A_Bucket")
    assert (refused.exit_code, refused.stderr) == (1, "--exports is 'Not_A_Bucket', which is no name of a bucket\n")


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


def test_sms_12_an_account_of_hcx_only_reads_but_everywhere() -> None:
    assert call("vsphere", "role", "--hcx", "--ids").stdout.split() == ["System.Read", "System.View"]
    words = " ".join(call("vsphere", "role", "--hcx").stdout.split())
    assert "Read-only is enough" in words
    assert "root folder of both vCenters, with propagation" in words
    refused = call("vsphere", "role", "--hcx", "--cutover")
    assert (refused.exit_code, "stops no source" in refused.output) == (1, True)


def test_the_role_for_a_cutover_is_asked_for() -> None:
    more = set(call("vsphere", "role", "--ids", "--cutover").stdout.split())
    assert more - set(call("vsphere", "role", "--ids").stdout.split()) == {
        "VirtualMachine.Config.EditDevice",
        "VirtualMachine.Interact.DeviceConnection",
        "VirtualMachine.Interact.PowerOff",
        "VirtualMachine.Interact.PowerOn",
    }
    assert "cutover only" in call("vsphere", "role", "--cutover").stdout


def test_demo_and_simulators_refuse_what_they_do_not_know() -> None:
    assert "flip" in call("demo", "--fault", "flop").stderr
    refused = call("simulators", "up", "--only", "hcx,azure")
    assert refused.exit_code == 1
    assert "'azure'; allowed are vcenter, aws, hcx, nsx" in refused.stderr
    assert "leave out --only" in call("simulators", "up", "--only", "aws", "--write", "x").stderr


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


def test_findings_are_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings({"wave": "w", "findings": [finding("c", "error", "no [tools] here")]})
    shown = capsys.readouterr().out
    assert "no [tools] here" in shown
    assert "lib[x] says so" in shown
