"""What ``wavelift export …`` asks of the REST API, what it prints, and when it ends with status 1 (AMP-10)."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.unit.cli.export_samples import DETAILS, DONE, ENVIRONMENTS, EXP, FINDING, INSTANCE, PLAN, READS, export
from tests.unit.cli.test_cutover import Api, call

from wavelift.airflow.rest import ApiError
from wavelift.base.tries import FAILURE_KEY
from wavelift.cli import export as commands
from wavelift.cli import family

pytestmark = pytest.mark.unit

RUN: Final = {"dag_id": "instance_export.lab", "dag_run_id": "on_demand__1", "dag_paused": False}
ASK: Final = "POST /exports"
BODY: Final = {"environment": "lab", "instance": INSTANCE}


class Exports(Api):
    """Keeps the queries of lists, too."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[dict[str, list[str]]] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.queries.append(parse_qs(urlsplit(path).query))
        return super().call(method, path, body)


def started(mode: str = "export", **changes: Any) -> dict[str, Any]:
    row = export(state="queued", phase="", percent=0) if mode == "export" else None
    return {**RUN, "mode": mode, "export": row, "made_before": False, **changes}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Exports:
    made = Exports()
    monkeypatch.setattr(commands, "client", lambda: made)
    monkeypatch.setenv("TZ", "UTC")
    return made


def test_start_sends_what_was_given_and_tells_the_id(api: Exports) -> None:
    api.answers[ASK] = started()
    given = (
        *("--environment", "lab", "--method", "direct", "--target", "vmware", "--format", "ova", "--prefix", "out/"),
        *("--may-reboot", "--controller", "pvscsi", "--verify", "full", "--note", "n", "--request-id", "k1"),
    )
    done = call("export", "start", INSTANCE, *given, "--no-wait")
    assert done.exit_code == 0, done.output
    wishes = {"method": "direct", "target": "vmware", "format": "ova", "prefix": "out/", "may_reboot": True}
    more = {"controller": "pvscsi", "verify": "full", "note": "n", "request_id": "k1"}
    assert api.asked == [(ASK, {**BODY, **wishes, **more})]
    assert f"{EXP} {INSTANCE}" in done.stderr
    assert f"`wavelift export show {EXP}`" in done.stderr
    api.answers[ASK] = started(made_before=True)
    again = call("export", "start", INSTANCE, "--environment", "lab", "--no-wait")
    assert api.asked[-1] == (ASK, BODY), "what was not given is not sent: the environment's file and the API have it"
    assert "nothing was started" in again.stderr


def test_start_shows_progress_and_ends_with_address_size_and_method(
    api: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"total": 1, "limit": 500, "offset": 0, "exports": [READS]}
    api.answers = {ASK: started(), "GET /exports": page, f"GET /exports/{EXP}": DONE}
    done = call("export", "start", INSTANCE, "--environment", "lab")
    assert done.exit_code == 0, done.output
    assert f"{INSTANCE} active: 25 % (reads the snapshots and writes the OVA)" in done.stdout
    assert "10.0 GiB of 40.0 GiB" in done.stdout
    assert "s3://export-to-s3-acme-eu-central-1/out/exp-0b6f9c1d2e3a.ova" in done.stdout
    assert "12.5 GiB" in done.stdout
    assert "direct: method instance takes one disk, and there are 2" in done.stdout
    followed = next(query for query in api.queries if "dag_run_id" in query)
    assert (followed["environment"], followed["dag_run_id"]) == (["lab"], ["on_demand__1"])
    monkeypatch.setattr(family, "LOOK_SECONDS", 0.0)
    shown = call("export", "start", INSTANCE, "--environment", "lab", "--json")
    told = json.loads(shown.stdout)
    assert (told["state"], told["export"]["location"]) == ("success", DONE["location"])


def test_start_tells_in_one_line_why_it_went_wrong(api: Exports) -> None:
    page = {"total": 0, "limit": 500, "offset": 0, "exports": []}
    failed = {**DONE, "state": "failed", "location": ""}
    api.answers = {ASK: started(), "GET /exports": page, f"GET /exports/{EXP}": failed}
    api.state = "failed"
    api.left["report", FAILURE_KEY] = {"what": f"{INSTANCE} is terminated"}
    done = call("export", "start", INSTANCE, "--environment", "lab")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].endswith(f"ended as failed: {INSTANCE} is terminated")


@pytest.mark.parametrize("command", [("start", INSTANCE), ("check", INSTANCE), ("setup",)])
def test_the_only_environment_with_exports_may_be_left_out(api: Exports, command: tuple[str, ...]) -> None:
    api.answers = {
        "GET /environments": ENVIRONMENTS,
        ASK: started("check") if command[0] == "check" else started(),
        "POST /exports/setup": started("setup"),
    }
    call("export", *command, *(("--no-wait",) if command[0] == "start" else ()))
    [(_, body)] = [asked for asked in api.asked if asked[0].startswith("POST")]
    assert body["environment"] == "lab"


def test_which_environment_is_asked_for_when_there_are_several_or_none(api: Exports) -> None:
    one = ENVIRONMENTS["environments"][0]
    api.answers["GET /environments"] = {"environments": [one, {**one, "name": "prod"}]}
    done = call("export", "start", INSTANCE)
    assert (done.exit_code, "--environment lab | prod" in done.stderr) == (1, True)
    for row in ({**one, "exports_bucket": ""}, {**one, "actions": ["migrate"]}):
        api.answers["GET /environments"] = {"environments": [row]}
        done = call("export", "start", INSTANCE)
        assert (done.exit_code, "administer no environment that has exports" in done.stderr) == (1, True)


def test_an_environment_without_a_dag_is_told(api: Exports) -> None:
    api.paused = None
    done = call("export", "start", INSTANCE, "--environment", "lab")
    assert done.exit_code == 1
    assert "Airflow has no DAG instance_export.lab" in done.stderr
    assert "`wavelift environments show lab`" in done.stderr
    assert api.asked == []


def test_a_refusal_is_one_line(api: Exports) -> None:
    api.answers[ASK] = ApiError("prefix: '../x' is not an S3 prefix: no '..'", status=422)
    done = call("export", "start", INSTANCE, "--environment", "lab", "--prefix", "../x")
    assert (done.exit_code, done.stderr) == (1, "prefix: '../x' is not an S3 prefix: no '..'\n")


def test_check_prints_findings_and_the_method(api: Exports) -> None:
    api.answers[ASK] = started("check")
    warning = {**FINDING, "severity": "warning", "what": "it is restarted"}
    found = {"environment": "lab", "instance_id": INSTANCE, "bucket": "b", "findings": [warning], "plan": PLAN}
    api.left["check", "report"] = found
    done = call("export", "check", INSTANCE, "--environment", "lab", "--method", "instance", "--may-reboot")
    assert done.exit_code == 0, done.output
    assert api.asked == [(ASK, {**BODY, "mode": "check", "method": "instance", "may_reboot": True})]
    assert f"{INSTANCE}: it is restarted" in done.stdout
    assert "0 errors, 1 warning: ready" in done.stdout
    assert f"{INSTANCE}: method instance (nothing forbids it); ova to s3://b/out/" in done.stdout
    assert json.loads(call("export", "check", INSTANCE, "--environment", "lab", "--json").stdout) == found


@pytest.mark.parametrize("plan", [None, PLAN])
def test_check_ends_with_status_1_when_something_forbids_the_export(api: Exports, plan: Any) -> None:
    """Also when it is the bucket, which no method can do without."""
    api.answers[ASK] = started("check")
    api.state = "failed"
    finding = {**FINDING, "subject": "bucket b", "what": "the bucket is not there"}
    found = {"environment": "lab", "instance_id": INSTANCE, "bucket": "b", "findings": [finding], "plan": plan}
    api.left["check", "report"] = found
    done = call("export", "check", INSTANCE, "--environment", "lab")
    assert done.exit_code == 1
    assert "the bucket is not there" in done.stdout
    assert "1 error: not ready" in done.stdout
    assert call("export", "check", INSTANCE, "--environment", "lab", "--json").exit_code == 1


def test_check_of_an_unknown_instance_says_why(api: Exports) -> None:
    api.answers[ASK] = started("check")
    api.state = "failed"
    api.left["report", FAILURE_KEY] = {"what": "eu-central-1 has no such instance"}
    done = call("export", "check", INSTANCE, "--environment", "lab")
    assert (done.exit_code, "eu-central-1 has no such instance" in done.stderr) == (1, True)


def test_setup_tells_what_was_changed_and_what_is_wrong(api: Exports) -> None:
    api.answers["POST /exports/setup"] = started("setup")
    bucket = {"environment": "lab", "bucket": "export-to-s3-acme-eu-central-1", "region": "eu-central-1"}
    api.left["setup", "report"] = {**bucket, "changed": ["the bucket was made"], "findings": []}
    done = call("export", "setup", "--environment", "lab")
    assert done.exit_code == 0, done.output
    assert done.stdout == "export-to-s3-acme-eu-central-1: the bucket was made\n"
    assert api.asked == [("POST /exports/setup", {"environment": "lab"})]
    api.left["setup", "report"] = {**bucket, "changed": [], "findings": [{**FINDING, "what": "ACLs are off"}]}
    api.left["report", FAILURE_KEY] = {"what": "the bucket is not right"}
    api.state = "failed"
    done = call("export", "setup", "--environment", "lab", "--grant")
    assert done.exit_code == 1
    assert "nothing was changed" in done.stdout
    assert "ACLs are off" in done.stdout
    assert "the bucket is not right" in done.stderr
    assert api.asked[-1] == ("POST /exports/setup", {"environment": "lab", "grant": True})


def test_the_list_asks_for_the_last_seven_days_unless_told_otherwise(api: Exports) -> None:
    api.answers["GET /exports"] = {"total": 0, "limit": 50, "offset": 0, "exports": []}
    done = call("export", "list")
    assert api.queries[-1] == {"limit": ["50"]}
    assert done.stdout.startswith("No instance exports of the last 7 days yet. `wavelift export start INSTANCE`")
    done = call("export", "list", "--all")
    assert api.queries[-1] == {"limit": ["50"], "all": ["true"]}
    assert done.stdout.startswith("No instance exports yet.")
    given = ("--environment", "lab", "--state", "active", "--instance", INSTANCE, "--offset", "3")
    done = call("export", "list", *given, "--since", "2026-12-01 08:00")
    assert done.stdout.startswith("No instance exports match --environment lab --state active")
    asked = {name: values[0] for name, values in api.queries[-1].items()}
    assert asked == {
        "environment": "lab",
        "state": "active",
        "instance": INSTANCE,
        "limit": "50",
        "offset": "3",
        "since": "2026-12-01T08:00:00+00:00",
    }


def test_cancel_asks_first_and_says_what_comes(api: Exports) -> None:
    cancelling = {**READS, "state": "cancelling", "cancel_requested": True, "stopped_tasks": ["read"]}
    api.answers = {f"GET /exports/{EXP}": DETAILS, f"POST /exports/{EXP}/cancel": cancelling}
    done = call("export", "cancel", EXP)
    assert (done.exit_code, "say it again with --yes" in done.stderr) == (1, True)
    assert [name for name, _ in api.asked] == [f"GET /exports/{EXP}"], "nothing was sent"
    done = call("export", "cancel", EXP, "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{EXP} ({INSTANCE}) is being cancelled; `wavelift export show {EXP}`")
    api.answers[f"POST /exports/{EXP}/cancel"] = {**cancelling, "state": "cancelled"}
    assert "is cancelled: nothing was made" in call("export", "cancel", EXP, "--yes").stdout
    late = "It is too late: the final image is being written"
    api.answers[f"POST /exports/{EXP}/cancel"] = ApiError(late, status=409)
    done = call("export", "cancel", EXP, "--yes")
    assert (done.exit_code, done.stderr) == (1, f"{late}\n")
