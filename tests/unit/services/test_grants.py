"""What a connector refused for want of a right reaches the audit trail, once, and only as far as it can be believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from tests.contexts import run_context
from tests.ledgers import fresh_ledger

from wavelift.base.errors import GrantError, PermanentError
from wavelift.base.run import DagRun
from wavelift.ledger import Event, Ledger, events
from wavelift.rules.authority import Link
from wavelift.services.common.authority import REFUSED
from wavelift.services.common.grants import RefusedLink, in_preflight, in_words, raise_when_refused, tell_refused

pytestmark = pytest.mark.unit

RUN: Final = DagRun("erp.migrate", "manual__1")
OTHER: Final = DagRun("erp.migrate", "manual__2")
VM: Final = RefusedLink(Link.GRANT_VERIFIED, "server.snapshot", "web01", "The grant is for another VM", "vm")
MAY_NOT: Final = RefusedLink(Link.REQUESTER_IN_VCENTER, "preflight", "db01", "ana lacks VApp.Export on the VM")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(tmp_path / "ledger.db") as opened:
        yield opened


def told(ledger: Ledger, run: DagRun = RUN) -> list[Event]:
    with ledger.read() as tx:
        found = events.list_events(tx, object_kind="wave_run", object_id=f"{run.dag_id}/{run.dag_run_id}")
        return [event for event in found if event.action == REFUSED]


def left_by(error: PermanentError) -> dict[str, Any]:
    """As an operator leaves it."""
    where: dict[str, Any] = {
        name: str(error.where[name]) for name in ("link", "field", "server") if name in error.where
    }
    return {"task": "server.snapshot", "what": str(error), "next_step": error.next_step, **where}


def test_each_refusal_is_an_event_of_the_run_with_link_and_field(ledger: Ledger) -> None:
    tell_refused(ledger, [VM, MAY_NOT], run_context(RUN))
    found = sorted((dict(event.details) for event in told(ledger)), key=lambda one: one["server"])
    assert found == [
        {
            "link": "requester_in_vcenter",
            "why": "ana lacks VApp.Export on the VM",
            "task": "preflight",
            "server": "db01",
        },
        {
            "link": "grant_verified",
            "why": "The grant is for another VM",
            "task": "server.snapshot",
            "server": "web01",
            "field": "vm",
        },
    ]
    assert {event.actor for event in told(ledger)} == {str(run_context(RUN).asker)}


def test_a_report_that_is_cleared_tells_nothing_twice_but_another_run_or_field_is_news(ledger: Ledger) -> None:
    for _ in range(3):
        tell_refused(ledger, [VM], run_context(RUN))
    assert len(told(ledger)) == 1
    tell_refused(
        ledger,
        [VM, RefusedLink(VM.link, VM.task, VM.server, "The grant is for another plan", "plan")],
        run_context(RUN),
    )
    assert sorted(event.details["field"] for event in told(ledger)) == ["plan", "vm"]
    tell_refused(ledger, [VM], run_context(OTHER))
    assert len(told(ledger, OTHER)) == 1


def test_nothing_refused_opens_no_transaction() -> None:
    tell_refused(None, iter(()), run_context(RUN))  # type: ignore[arg-type]


def test_what_a_failed_task_left_is_read_as_it_was_raised() -> None:
    error = GrantError("The grant is for another VM", field="vm", server="web01", next_step="Look")
    (found,) = in_words("server.snapshot", left_by(error))
    assert (found.link, found.task, found.server, found.field) == (VM.link, VM.task, VM.server, VM.field)
    assert found.why == str(error)


@pytest.mark.parametrize(
    "left",
    [
        None,
        "grant_verified",
        ["grant_verified"],
        {},
        {"what": "The disk is full"},
        {"link": "requester", "what": "the control plane told it already"},
        {"link": "environment", "what": "the control plane told it already"},
        {"link": "no such link", "what": "forged"},
        {"link": ["grant_verified"], "what": "forged"},
    ],
    ids=str,
)
def test_another_form_than_ours_is_nothing(left: Any) -> None:
    assert list(in_words("server.snapshot", left)) == []


def test_a_connector_s_words_are_printable_and_short() -> None:
    long = {"link": "grant_verified", "what": "a\nforged line " + "x" * 10_000, "server": "web\x1b[31m", "field": 7}
    (found,) = in_words("server.snapshot", long)
    assert found.why.isprintable()
    assert len(found.why) < 5_000
    assert (found.server, found.field) == ("web\\x1b[31m", "7")


def test_of_a_preflight_only_whom_the_requester_may_not_export_is_refused() -> None:
    findings = [
        {"code": "requester.may_not_export", "subject": "db01", "what": "ana lacks VApp.Export on the VM"},
        {"code": "requester.not_checked", "subject": "db02", "what": "nobody was asked"},
        {"code": "disk.rdm", "subject": "db03/SCSI 0:1", "what": "is a raw device"},
        "no finding",
    ]
    assert list(in_preflight({"findings": findings})) == [MAY_NOT]


@pytest.mark.parametrize("found", [None, "text", [], {"findings": None}, {"findings": "text"}], ids=str)
def test_a_report_of_another_form_refuses_nobody(found: Any) -> None:
    assert list(in_preflight(found)) == []


def test_a_run_with_a_refusal_is_no_success_even_if_its_servers_got_through_before() -> None:
    raise_when_refused(())
    with pytest.raises(PermanentError) as caught:
        raise_when_refused([VM, replace(VM, server="", task="preflight", why="The grant is for another plan")])
    assert caught.value.what == (
        "server.snapshot of web01 was refused: The grant is for another VM; "
        "preflight of the run was refused: The grant is for another plan"
    )
    assert "clear its server.reserve" in caught.value.next_step
