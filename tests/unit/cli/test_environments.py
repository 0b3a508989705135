"""``wavelift whoami`` and ``wavelift environments`` against an API of the test's own."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.unit.cli.test_catalog import Api, run_of
from typer.testing import CliRunner, Result

from wavelift.airflow.rest import ApiError
from wavelift.cli import environments
from wavelift.cli.main import app

pytestmark = pytest.mark.unit

LAB: dict[str, Any] = {
    "name": "lab",
    "description": "The laboratory",
    "account": "123456789012",
    "region": "eu-central-1",
    "vpc": "vpc-0aaaaaaaaaaaaaaaa",
    "actions": ["migrate", "cut_over"],
}
SPEC: dict[str, Any] = {"environment": "lab", "may": {"migrate": ["user:ana"]}, "subnets": ["subnet-1"]}
ME: dict[str, Any] = {
    "name": "ana",
    "roles": ["role/Op"],
    "groups": ["erp-team"],
    "vcenter_principal": "CORP\\ana",
    "environments": [LAB],
    "problem": "",
}


def ask(monkeypatch: pytest.MonkeyPatch, api: Api, *words: str) -> Result:
    monkeypatch.setattr(environments, "client", lambda: api)
    return CliRunner().invoke(app, words)


def test_whoami_tells_names_as_environments_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ask(monkeypatch, Api({"GET /wavelift/me": ME}), "whoami").stdout
    for words in ("You are ana", "group:role/Op", "group:erp-team", "CORP\\ana", "lab", "migrate, cut_over"):
        assert words in said, words


def test_whoami_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "environments/principals.yaml:1: a second ': '"
    nobody = {**ME, "roles": [], "groups": [], "vcenter_principal": None, "environments": [], "problem": broken}
    done = ask(monkeypatch, Api({"GET /wavelift/me": nobody}), "whoami")
    assert broken in done.output
    assert "nothing new starts" in done.output
    assert "docs/authorisation.md" in done.output


def test_environments_are_listed_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(
        {
            "GET /wavelift/environments": {"environments": [LAB]},
            "GET /wavelift/environments/lab": {**LAB, "spec": SPEC},
            "GET /wavelift/environments/prod": ApiError("No environment of this name is granted to you", status=404),
        }
    )
    assert "123456789012" in ask(monkeypatch, api, "environments", "list").stdout
    shown = ask(monkeypatch, api, "environments", "show", "lab").stdout
    assert "lab: you may migrate, cut_over" in shown
    assert yaml.safe_load(shown.partition("\n")[2]) == SPEC, "lines of YAML, to copy from"
    refused = ask(monkeypatch, api, "environments", "show", "prod")
    assert (refused.exit_code, "granted to you" in refused.output) == (1, True)


def test_an_environment_without_an_account_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    vmc = {"name": "vmc", "description": "", "kind": "hcx", "actions": ["migrate"]}
    said = ask(monkeypatch, Api({"GET /wavelift/environments": {"environments": [vmc]}}), "environments", "list").stdout
    assert "none (hcx)" in said


@pytest.mark.parametrize(("severity", "status"), [("error", 1), ("warning", 0)])
def test_a_check_prints_findings_and_free_addresses(
    monkeypatch: pytest.MonkeyPatch, severity: str, status: int
) -> None:
    finding = {
        "severity": severity,
        "code": "role.missing",
        "subject": "*/role vmimport",
        "what": "the service role vmimport does not exist",
        "why": "VM Import assumes it",
        "next_action": "Create it",
    }
    room = {"subnet": "subnet-1", "zone": "eu-central-1a", "cidr": "10.0.0.0/24", "free_addresses": 250}
    gone = {**room, "subnet": "subnet-2", "free_addresses": None}
    found = {"environment": "lab", "account": "123456789012", "findings": [finding], "subnets": [room, gone]}
    api = Api(run_of("environment_check", "/wavelift/environments/lab/check"), xcom=found)
    done = ask(monkeypatch, api, "environments", "check", "lab")
    assert done.exit_code == status, done.output
    for words in ("vmimport does not exist", "Create it", "250", "unknown", "Account 123456789012"):
        assert words in done.stdout, words
