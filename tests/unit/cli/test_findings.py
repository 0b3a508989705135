"""What pre-flight and plan print: every finding with its way out in one pass, readable at 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from wavelift.cli import findings
from wavelift.cli.findings import print_report

pytestmark = pytest.mark.unit


def finding(subject: str, severity: str, what: str, do: str = "Correct it") -> dict[str, Any]:
    return {
        "severity": severity,
        "code": "x.y",
        "subject": subject,
        "what": what,
        "why": "the import would fail after the whole transfer",
        "next_action": do,
        "requirement": "SMS-11",
    }


REPORT: dict[str, Any] = {
    "wave": "shop",
    "servers": [{"name": "web01"}, {"name": "db01"}, {"name": "win01"}],
    "findings": [
        finding("web01", "info", "changed block tracking is possible", "Nothing"),
        finding("db01", "info", "the VM boots with UEFI"),
        finding("db01/SCSI 0:0", "warning", "Hard disk 1 has snapshots"),
        finding("web01/SCSI 0:0", "warning", "Hard disk 1 has snapshots"),
        finding("win01/SCSI 1:0", "error", "Hard disk 2 is a raw device mapping", "Convert it to a VMDK"),
    ],
    "estimate": {"servers": 2, "disks": 3, "capacity": 13 << 30, "seconds": 2400.0, "costs": {"uploads": 0.0101}},
}

SHORT = """\
Pre-flight of shop

error    win01: Hard disk 2 is a raw device mapping
         Why: the import would fail after the whole transfer
         Do: Convert it to a VMDK

warning  db01, web01: Hard disk 1 has snapshots
         Why: the import would fail after the whole transfer
         Do: Correct it

2 more notes: -v shows them
1 error, 1 warning: web01, db01 ready; win01 not ready
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist sets COLUMNS for its workers."""
    monkeypatch.delenv("COLUMNS", raising=False)


def shown(capsys: pytest.CaptureFixture[str], report: dict[str, Any], **options: bool) -> str:
    print_report(report, **{"plan": False, "verbose": False, **options})
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 200])
def test_findings_are_blocks_with_their_way_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(findings, "stdout_console", lambda: Console(width=width, emoji=False))
    assert shown(capsys, REPORT) == SHORT


def test_notes_are_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, REPORT, verbose=True)
    assert "note     web01: changed block tracking is possible\n         Why: " in said
    assert "Nothing" not in said
    assert "-v shows" not in said
    assert said.endswith("1 error, 1 warning: web01, db01 ready; win01 not ready\n")
    one = {**REPORT, "findings": REPORT["findings"][:1]}
    assert shown(capsys, one).endswith("1 more note: -v shows it\n0 errors: ready\n")


@pytest.mark.parametrize("width", [80, 200])
def test_long_words_stay_inside_their_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(findings, "stdout_console", lambda: Console(width=width, emoji=False))
    what = "the role lacks " + ", ".join(["ec2:DescribeImportSnapshotTasks"] * 9) + " " + "x" * 130
    lines = shown(capsys, {**REPORT, "findings": [finding("*/role vmimport", "error", what)]}).splitlines()
    assert lines[2].startswith("error    whole wave: the role lacks ec2:")
    assert all(line.startswith("         ") for line in lines[3:-2] if line)
    assert max(map(len, lines)) <= min(width, 100)
    assert "".join(line.strip() for line in lines).count("x" * 130) == 1
    assert lines[-1] == "1 error: not ready"


def test_a_plan_ends_with_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, REPORT, plan=True)
    assert "moves          2 servers, 3 disks, 13.0 GiB\n" in said
    assert "time           about 40 min for the transfers; then AWS converts the disks\n" in said
    assert "costs once     up to US$0.01: uploads US$0.01\n" in said
    assert said.endswith("1 error, 1 warning: web01, db01 ready; win01 not ready\n")


def test_every_connection_that_is_wrong_stands_in_one_report(capsys: pytest.CaptureFixture[str]) -> None:
    """The words come from the rules; no server was seen."""
    from wavelift.base.errors import LoginError, NoConnectionError
    from wavelift.rules.preflight_connections import check_aws, check_vcenter

    missing = NoConnectionError(
        "Airflow has no connection 'vsphere_dc1'",
        next_step="Make it under Admin → Connections (type VMware vCenter (wavelift)), or name another one in the spec",
    )
    refused = LoginError("could not log in to AWS: AWS says InvalidClientTokenId", next_step="Renew the keys")
    found = [check_vcenter("vsphere_dc1", missing), check_aws("aws_production", refused)]
    said = shown(capsys, {"wave": "shop", "servers": [], "findings": [one.dump() for one in found]})
    assert said == (
        "Pre-flight of shop\n\n"
        "error    whole wave: could not log in to AWS: AWS says InvalidClientTokenId (connection\n"
        "         aws_production)\n"
        "         Why: without AWS, neither the environment nor what a server needs there can be checked\n"
        "         Do: Renew the keys\n\n"
        "error    whole wave: Airflow has no connection 'vsphere_dc1'\n"
        "         Why: without vCenter, no server of the wave can be found and checked\n"
        "         Do: Make it under Admin → Connections (type VMware vCenter (wavelift)), or name another one\n"
        "         in the spec\n\n"
        "2 errors: not ready\n"
    )
