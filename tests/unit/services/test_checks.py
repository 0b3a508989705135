"""Checks of an instance: what passes, what is awaited, and when it is over."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from tests.contexts import HandClock, run_context

from wavelift.adapters.aws.instances import Health
from wavelift.adapters.aws.ssm import Invocation
from wavelift.base.errors import BusyError
from wavelift.base.run import DagRun, RunContext
from wavelift.rules.wave_cutover import Check
from wavelift.services.dataplane import checks
from wavelift.services.dataplane.checks import CheckedInstance, ChecksFailedError, make_checks

ACCESS: Any = None
"""The services answer by :class:`Answers`."""
INSTANCE = CheckedInstance(server="web01", instance_id="i-0a1b2c3d", private_ip="127.0.0.1", region="eu-central-1")


def context(clock: HandClock | None = None) -> RunContext:
    return run_context(DagRun("erp.cutover", "run1"), "web01", clock=clock or HandClock())


class Answers:
    """EC2 and Systems Manager, as the test says."""

    def __init__(self) -> None:
        self.health = Health("i-0a1b2c3d", "running", "ok", "ok")
        self.sent: list[str] = []
        self.invocations: list[Invocation] = []
        self.busy = False

    def send(self, instance_id: str, document: str, parameters: Any, *, token: str, timeout_s: int = 600) -> str:
        if self.busy:
            raise BusyError("the instance does not report to Systems Manager")
        if token not in self.sent:
            self.sent.append(token)
        return f"command-{self.sent.index(token)}"

    def invocation(self, command_id: str, instance_id: str) -> Invocation:
        return self.invocations.pop(0)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    found = Answers()

    class Instances:
        def __init__(self, access: Any) -> None: ...

        def health(self, ids: list[str]) -> dict[str, Health]:
            return {found.health.instance_id: found.health}

    monkeypatch.setattr(checks, "Instances", Instances)
    monkeypatch.setattr(checks, "Ssm", lambda access: found)
    return found


@pytest.fixture
def site() -> Iterator[int]:
    """A web site that answers 503 on /sick and 200 elsewhere; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/sick" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_all_pass_and_the_status_is_always_checked(answers: Answers, site: int) -> None:
    asked = (Check(kind="tcp", port=site), Check(kind="http", port=site, path="/"))
    report = make_checks(ACCESS, INSTANCE, asked, context())
    assert report.passed
    assert [each.kind for each in report.outcomes] == ["status", "tcp", "http"]


def test_a_closed_port_is_awaited_and_then_fails(answers: Answers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    clock = HandClock()
    ctx = context(clock)
    asked = (Check(kind="tcp", port=port, within_minutes=2),)
    assert f"tcp {port}" in make_checks(ACCESS, INSTANCE, asked, ctx).waits()
    clock.sleep(120)
    with pytest.raises(ChecksFailedError, match=f"tcp {port}: .*refused"):
        make_checks(ACCESS, INSTANCE, asked, ctx)
    # whoever clears the task has the whole time again
    assert not make_checks(ACCESS, INSTANCE, asked, ctx).passed


def test_a_status_that_is_not_expected_is_named(answers: Answers, site: int) -> None:
    sick = make_checks(ACCESS, INSTANCE, (Check(kind="http", port=site, path="/sick"),), context())
    assert "answers 503, expected a status from 200 to 399" in sick.waits()
    wanted = (Check(kind="http", port=site, path="/sick", status=503),)
    assert make_checks(ACCESS, INSTANCE, wanted, context()).passed


def test_what_has_passed_is_not_asked_again_for_the_same_instance(answers: Answers) -> None:
    ctx = context()
    answers.invocations = [Invocation("InProgress"), Invocation("Success", exit_code=0)]
    asked = (Check(kind="ssm", command="systemctl is-active app"),)
    make_checks(ACCESS, INSTANCE, asked, ctx)  # sends
    make_checks(ACCESS, INSTANCE, asked, ctx)  # still runs
    answers.health = Health("i-0a1b2c3d", "running", "ok", "impaired")  # the status had passed
    assert make_checks(ACCESS, INSTANCE, asked, ctx).passed
    assert len(answers.sent) == 1
    assert "impaired" in make_checks(ACCESS, INSTANCE, (), ctx).waits()  # cleared: all is looked at again


def test_a_command_that_failed_is_sent_anew_under_another_token(answers: Answers) -> None:
    ctx = context()
    answers.invocations = [Invocation("Failed", exit_code=3, error="inactive"), Invocation("Success", exit_code=0)]
    asked = (Check(kind="ssm", command="systemctl is-active app"),)
    make_checks(ACCESS, INSTANCE, asked, ctx)
    failed = make_checks(ACCESS, INSTANCE, asked, ctx)
    assert "exit status 3: inactive" in failed.waits()
    make_checks(ACCESS, INSTANCE, asked, ctx)
    assert make_checks(ACCESS, INSTANCE, asked, ctx).passed
    assert len(answers.sent) == 2


def test_a_lost_answer_finds_the_command_again(answers: Answers) -> None:
    """The try is killed after the command was sent: nothing was kept."""
    asked = (Check(kind="ssm", command="true"),)
    make_checks(ACCESS, INSTANCE, asked, context())
    make_checks(ACCESS, INSTANCE, asked, context())
    assert len(answers.sent) == 1


def test_an_agent_that_does_not_report_yet_is_awaited(answers: Answers) -> None:
    answers.busy = True
    report = make_checks(ACCESS, INSTANCE, (Check(kind="ssm", command="true"),), context())
    assert "does not report" in report.waits()


def test_an_instance_that_is_gone_fails_at_once(answers: Answers) -> None:
    answers.health = Health("i-0a1b2c3d", "terminated")
    with pytest.raises(ChecksFailedError, match="terminated"):
        make_checks(ACCESS, INSTANCE, (), context())


class TestInstalled:
    @staticmethod
    def install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        found = {"ledger-open": EntryPoint("ledger-open", f"{__name__}:{name}", "wavelift.checks")}
        monkeypatch.setattr(checks, "installed_checks", lambda: found)

    def test_is_called_with_the_arguments_of_the_file(self, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.install(monkeypatch, "open_for")
        asked = (Check(kind="ledger-open", arguments={"who": "web01"}),)
        assert make_checks(ACCESS, INSTANCE, asked, context()).passed
        asked = (Check(kind="ledger-open", arguments={"who": "db01"}),)
        assert "closed for web01" in make_checks(ACCESS, INSTANCE, asked, context()).waits()

    def test_one_that_raises_has_not_passed(self, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.install(monkeypatch, "broken")
        report = make_checks(ACCESS, INSTANCE, (Check(kind="ledger-open"),), context())
        assert "raised ZeroDivisionError" in report.waits()

    def test_one_that_is_missing_here_fails_at_once(self, answers: Answers) -> None:
        with pytest.raises(ChecksFailedError, match="no installed package has a check 'ledger-open'"):
            make_checks(ACCESS, INSTANCE, (Check(kind="ledger-open"),), context())


def open_for(instance: CheckedInstance, arguments: dict[str, str]) -> str | None:
    return None if arguments["who"] == instance.server else f"closed for {instance.server}"


def broken(instance: CheckedInstance, arguments: dict[str, str]) -> str | None:
    raise ZeroDivisionError
