"""Servers that a migrate run refused: they are listed with their reason, and the report tells each one's way out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN
from tests.unit.services.test_frozen import task_of, wave

from wavelift.base.domain import Finding, Severity
from wavelift.base.errors import BusyError, PermanentError
from wavelift.base.printable import LONGEST
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, Migration, connectors, migrations
from wavelift.ledger.events import list_events
from wavelift.rules.findings import subject_of
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.plans import unique_names
from wavelift.services.common import frozen
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.report import TaskOutcome
from wavelift.services.common.slots import look
from wavelift.services.dataplane.messages import Admitted, PreflightReport, ServerTask
from wavelift.services.migration import admit as migration
from wavelift.services.migration.report import Ended, WaveReport, finish, raise_when_failed
from wavelift.services.migration.reserve import reserve
from wavelift.services.migration.unbegun import FORGOTTEN, NEVER_BEGUN

pytestmark = pytest.mark.unit

RUN, NEXT = DagRun("erp.migrate", "r1"), DagRun("erp.migrate", "r2")
S = MigrationState
RDM = "Hard disk 2 is a raw device mapping"
ROLE = "the service role vmimport does not exist"


def wrong(subject: str, what: str, do: str = "Change it") -> Finding:
    return Finding(severity=Severity.ERROR, code="x.y", subject=subject, what=what, why="so", next_action=do)


def note(subject: str) -> Finding:
    return wrong(subject, "a note").model_copy(update={"severity": Severity.WARNING})


class Story:
    """A run of the wave ``erp`` as its control plane sees it, from admission to report."""

    def __init__(self, ledger: Ledger, *entries: Any, run: DagRun = RUN) -> None:
        self.ledger, self.run, self.clock = ledger, run, HandClock()
        self.entries = entries or ("web01", "db01", "win01")
        request = RunRequest("erp", {})
        migration.admit(ledger, request, lambda _: wave(*self.entries), self.ctx(), rights=OPEN)

    def ctx(self, server: str = "", **more: Any) -> RunContext:
        return run_context(self.run, server, clock=self.clock, **{"map_index": 0, **more})

    def task(self, name: str, folder: str = "shop") -> ServerTask:
        made = task_of(name, folder=folder)
        plans = wave(*self.entries).servers
        entry = next((plan for plan in plans if plan.server == name), plans[-1])
        return made.model_copy(update={"plan": entry.bind(name, f"/DC0/vm/{folder}/{name}")})

    def looked(self, *findings: Finding, found: tuple[str, ...] = (), folder: str = "shop") -> PreflightReport:
        names = found or tuple(str(each) for each in self.entries)
        return PreflightReport(wave="erp", findings=findings, servers=tuple(self.task(each, folder) for each in names))

    def completes(self, *names: str) -> None:
        for name in names:
            self.reserves(name)
            id = self.row(name).id
            with self.ledger.write() as tx:
                migrations.record_import_started(tx, id, "import-ami-1", clock=self.clock)
                migrations.record_snapshot_removed(tx, id, clock=self.clock)
                migrations.complete(tx, id, clock=self.clock)

    def reserves(self, name: str, **more: Any) -> None:
        """As ``server.reserve`` does it."""
        task, ctx = self.task(name), self.ctx(name, **more)
        reserve(self.ledger, frozen.checked(self.ledger, task, ctx, reserves=True), ctx, limit=9)
        frozen.bind(self.ledger, task, ctx)

    def report(self, preflight: PreflightReport | None, said: Mapping[str, str] | None = None) -> WaveReport:
        """:param said: server → what its failed ``reserve`` said."""
        tasks = [TaskOutcome(name, (CONTINUE_FROM,), words) for name, words in (said or {}).items()]
        return finish(self.ledger, Ended(preflight, tasks), self.ctx())

    def rows(self) -> dict[str, Migration]:
        return {each.server: each for each in within(self.ledger.read(), migrations.of_dag_run, self.run)}

    def row(self, name: str) -> Migration:
        return self.rows()[name]

    def ends(self) -> dict[str, tuple[str, str]]:
        return {name: (str(row.state), row.error) for name, row in self.rows().items()}

    def actions(self, name: str) -> list[str]:
        found = within(self.ledger.read(), list_events, object_id=self.row(name).id)
        return [each.action.removeprefix("migration.") for each in found]


def told(report: WaveReport) -> str:
    with pytest.raises(PermanentError) as caught:
        raise_when_failed(report)
    return str(caught.value)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "ledger.db")


@pytest.fixture
def story(ledger: Ledger) -> Story:
    return Story(ledger)


def test_a_server_that_pre_flight_refuses_is_listed_with_all_its_reasons(story: Story) -> None:
    story.completes("web01", "db01")
    looked = story.looked(
        wrong("win01/disk 2", RDM, "Convert it"), note("win01"), wrong("win01", "the VM is suspended", "Resume it")
    )
    report = story.report(looked)
    assert story.ends()["win01"] == ("refused", f"{RDM}. Convert it; the VM is suspended. Resume it")
    row = story.row("win01")
    assert (row.wave, row.connector, row.region) == ("erp", "default", "eu-central-1")
    assert (row.server_id, row.finished_at) == (None, story.clock.now())
    assert story.actions("win01") == ["admitted", "refused"]
    assert {one.server: one.state for one in report.outcomes} == {
        "web01": "completed",
        "db01": "completed",
        "win01": "refused",
    }
    assert told(report) == (
        "1 of 3 servers did not get through\n"
        f"win01 refused by the pre-flight: {RDM}. Convert it; the VM is suspended. Resume it [wave=erp]. "
        'Remove the cause, then trigger erp.migrate again with servers: win01 (as conf: {"servers": ["win01"]})'
    )


def test_the_report_can_be_told_again(story: Story) -> None:
    looked = story.looked(wrong("win01", RDM))
    said = {"web01": "The connector is in maintenance: patching"}
    first, rows = story.report(looked, said), story.rows()
    story.clock.sleep(60)
    assert story.report(looked, said) == first
    assert story.rows() == rows
    assert story.actions("win01") == ["admitted", "refused"]


def test_a_failed_and_a_refused_server_have_different_ways_out(story: Story) -> None:
    report = story.report(story.looked(wrong("win01", RDM)), {"web01": "the connector is in maintenance"})
    assert story.ends() == {
        "web01": ("failed", "the connector is in maintenance"),
        "db01": ("failed", NEVER_BEGUN),
        "win01": ("refused", f"{RDM}. Change it"),
    }
    assert told(report).partition(" [wave=erp]. ")[2].splitlines() == [
        'Remove the cause, then trigger erp.migrate again with servers: win01 (as conf: {"servers": ["win01"]})',
        f"To continue db01, web01: remove the cause, then clear the task {CONTINUE_FROM} of each, with downstream",
    ]


def test_when_every_server_was_refused_the_report_says_so(story: Story) -> None:
    """An error of the whole wave is a reason of each server, and no server of its own."""
    looked = story.looked(wrong("*/role vmimport", ROLE, "Create it"), wrong("win01", RDM))
    words = told(story.report(looked))
    assert story.ends() == {
        "web01": ("refused", f"{ROLE}. Create it"),
        "db01": ("refused", f"{ROLE}. Create it"),
        "win01": ("refused", f"{RDM}. Change it; {ROLE}. Create it"),
    }
    assert words.splitlines()[:2] == [
        "The pre-flight refused every server of this run",
        f"db01, web01 refused by the pre-flight: {ROLE}. Create it",
    ]
    assert "*" not in words
    assert CONTINUE_FROM not in words, "nobody has that task"
    assert json.loads(words.partition("(as conf: ")[2].rstrip(")")) == {"servers": ["db01", "web01", "win01"]}


def test_a_wave_that_is_refused_without_any_server_is_no_success(ledger: Ledger) -> None:
    story = Story(ledger, {"folder": "/DC0/vm/empty"})
    looked = PreflightReport(wave="erp", findings=(wrong("*/role", ROLE),), servers=())
    assert told(story.report(looked)).startswith(f"The run was stopped: {ROLE}. Change it")
    assert story.rows() == {}


def test_an_entry_that_found_no_vm_is_listed_by_its_own_name(ledger: Ledger) -> None:
    """By the name that a new run takes: findings have no '/' in it."""
    story = Story(ledger, "web01", "lost01", {"folder": "/DC0/vm/gone"})
    looked = story.looked(
        wrong("lost01", "no VM has this name"), wrong("DC0:vm:gone", "there is no such folder"), found=("web01",)
    )
    story.completes("web01")
    words = told(story.report(looked))
    assert story.ends()["/DC0/vm/gone"] == ("refused", "there is no such folder. Change it")
    assert story.ends()["lost01"] == ("refused", "no VM has this name. Change it")
    assert "again with servers: /DC0/vm/gone, lost01" in words


def test_a_refused_vm_of_a_folder_is_to_be_listed_first(ledger: Ledger) -> None:
    """A new run of the folder's entry would migrate the others of the folder again."""
    story = Story(ledger, {"folder": "/DC0/vm/farm"})
    looked = story.looked(wrong("farm02", RDM), found=("farm01", "farm02"), folder="farm")
    words = told(story.report(looked, {"farm01": "no"}))
    assert "as conf" not in words
    assert (
        "Only a folder or a tag selects farm02: remove the cause, add each by name to the file of wave erp, "
        "then trigger erp.migrate again with servers: farm02"
    ) in words


# Pre-flight is cleared, and says something else


def test_a_refused_server_that_is_accepted_then_goes_on_under_its_id(story: Story) -> None:
    story.report(story.looked(wrong("win01", RDM)))
    refused = story.row("win01")
    story.reserves("win01", map_index=2)
    row = story.row("win01")
    assert (row.id, row.state, row.error, row.finished_at) == (refused.id, S.TRANSFERRING, "", None)
    assert (row.map_index, row.server_id is None) == (2, False)
    story.completes("win01", "web01", "db01")
    report = story.report(story.looked())
    assert report.succeeded
    assert story.actions("win01")[:3] == ["admitted", "refused", "queued"]


def test_a_server_is_refused_for_another_reason(story: Story) -> None:
    story.report(story.looked(wrong("win01", RDM)))
    report = story.report(story.looked(wrong("win01", "the VM is suspended")))
    assert story.ends()["win01"] == ("refused", "the VM is suspended. Change it")
    assert story.actions("win01") == ["admitted", "refused", "refused"]
    assert RDM not in told(report)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_server_that_failed_and_is_refused_then_has_no_task_to_clear(story: Story, cancelled: bool) -> None:
    story.completes("web01", "db01")
    story.reserves("win01")
    with story.ledger.write() as tx:
        if cancelled:
            migrations.request_cancel(tx, story.row("win01").id, by="bob", clock=story.clock)
    assert story.report(story.looked()).failed[0].state == ("cancelled" if cancelled else "failed")
    report = story.report(story.looked(wrong("win01", RDM)))
    assert story.ends()["win01"] == ("refused", f"{RDM}. Change it")
    assert "win01: snapshot" in " ".join(report.unclean), "what it left is still looked after"
    assert CONTINUE_FROM not in told(report)


def test_a_completed_server_stays_completed(story: Story) -> None:
    story.completes("web01", "db01", "win01")
    done = story.row("win01")
    assert story.report(story.looked(wrong("win01", RDM))).succeeded
    assert story.row("win01") == done


def test_a_refusal_that_no_longer_holds_for_anything_stops_no_run(ledger: Ledger) -> None:
    """The folder has VMs now: its entry is no server. Its row tells so, and the report is about the VMs."""
    story = Story(ledger, {"folder": "/DC0/vm/shop"})
    story.report(
        story.looked(wrong("DC0:vm:shop", "there is no such folder"), found=()).model_copy(update={"servers": ()})
    )
    story.completes("web01")
    looked = story.looked(found=("web01",))
    assert story.report(looked).succeeded
    assert story.report(looked).succeeded
    assert story.ends()["/DC0/vm/shop"] == ("refused", FORGOTTEN)
    assert story.actions("/DC0/vm/shop") == ["refused", "refused"]


def test_a_report_without_a_pre_flight_keeps_what_was_refused(story: Story) -> None:
    story.report(story.looked(wrong("win01", RDM)))
    assert "win01" in told(story.report(None))
    assert story.ends()["win01"] == ("refused", f"{RDM}. Change it")


# Refused by reserve, before it had a row


def test_a_server_that_another_run_migrates_has_failed_and_continues_under_its_id(ledger: Ledger) -> None:
    first, second = Story(ledger, "web01"), Story(ledger, "web01", run=NEXT)
    first.reserves("web01")
    with pytest.raises(BusyError) as busy:
        second.reserves("web01")
    words = told(second.report(second.looked(), {"web01": str(busy.value)}))
    row = second.row("web01")
    assert (row.state, row.error, row.server_id) == (S.FAILED, str(busy.value), None)
    assert f"To continue web01: remove the cause, then clear the task {CONTINUE_FROM}" in words
    assert "trigger" not in words

    with pytest.raises(BusyError):
        second.reserves("web01")
    second.report(second.looked(), {"web01": "busy, still"})
    assert second.ends()["web01"] == ("failed", "busy, still"), "the reason of the last try"

    first.completes("web01")
    second.reserves("web01")
    assert (second.row("web01").id, second.row("web01").state) == (row.id, S.TRANSFERRING)


def test_amp_05_on_a_connector_in_maintenance_every_server_waits_that_has_not_begun_to_move(story: Story) -> None:
    """Its row of a refusal is no beginning, nor is a queued one. What moves is not stopped, also if it is cleared."""
    clock = story.clock
    story.reserves("win01")
    with story.ledger.write(connectors.lock_name("default")) as tx:
        said = connectors.Registration(connection="vsphere_lab", aws_conn_id="aws_lab", region="eu-central-1")
        connectors.register(tx, "default", said, by="ana", clock=clock)
        connectors.set_maintenance(tx, "default", on=True, reason="patching", by="ana", clock=clock)
    for _ in range(2):
        story.reserves("web01")
        known = story.row("web01")
        assert (known.state, known.snapshot_state, known.error) == (MigrationState.QUEUED, None, "")
        assert known.phase == "1st in line for connector default, which is in maintenance: patching"
        story.reserves("win01")
        assert story.row("win01").state is MigrationState.TRANSFERRING
    assert look(story.ledger, [known.run_key])[known.run_key] is not None
    with story.ledger.write(connectors.lock_name("default")) as tx:
        connectors.set_maintenance(tx, "default", on=False, by="ana", clock=clock)
    assert look(story.ledger, [known.run_key])[known.run_key] is None, "its trigger wakes it"
    story.reserves("web01")
    assert story.row("web01").state is MigrationState.TRANSFERRING


def test_a_refused_server_that_reserve_refuses_then_has_failed(story: Story) -> None:
    story.report(story.looked(wrong("win01", RDM)))
    story.report(story.looked(), {"win01": "another run migrates it"})
    assert story.ends()["win01"] == ("failed", "another run migrates it")
    assert story.actions("win01") == ["admitted", "refused", "failed"]


def test_what_began_keeps_the_words_of_the_task_that_failed(story: Story) -> None:
    """The tries of a later step are not those of ``reserve``; its words are in the row already."""
    story.reserves("web01")
    with story.ledger.write() as tx:
        migrations.fail(tx, story.row("web01").id, "the disk is gone", clock=story.clock)
    finish(story.ledger, Ended(story.looked(), [TaskOutcome("web01", ("server.export",), "later words")]), story.ctx())
    assert story.ends()["web01"] == ("failed", "the disk is gone")


# The next run


def test_a_new_run_of_the_refused_server_is_not_in_the_way_of_the_old_row(story: Story) -> None:
    story.report(story.looked(wrong("win01", RDM)))
    old = story.row("win01")
    again = Story(story.ledger, run=NEXT)
    again.completes("win01")
    assert again.row("win01").state is S.COMPLETED
    assert story.row("win01") == old


def test_a_refused_row_is_neither_launched_nor_verified(story: Story) -> None:
    story.report(story.looked(wrong("win01", RDM)))
    id = story.row("win01").id
    conf = {"mode": "verify", "migrations": [id]}
    with pytest.raises(PermanentError, match=f"{id} has no image to verify: it is refused"):
        migration.admit(story.ledger, RunRequest("erp", conf), lambda _: wave(), run_context(NEXT), rights=OPEN)


def test_a_clean_up_knows_no_run_that_only_refused(story: Story) -> None:
    story.report(story.looked(*(wrong(name, RDM) for name in story.entries)))
    conf = {"mode": "cleanup"}
    admitted: Admitted = migration.admit(
        story.ledger, RunRequest("erp", conf), lambda _: wave(), run_context(NEXT), rights=OPEN
    )
    assert (admitted.runs, admitted.standing) == ((), ())


# Cancel, then clear


def test_amp_07_a_cancelled_server_that_is_cleared_goes_on(ledger: Ledger) -> None:
    story = Story(ledger, "web01")
    story.reserves("web01")
    id = story.row("web01").id
    within(ledger.write(), migrations.request_cancel, id, by="bob", clock=story.clock)
    with pytest.raises(PermanentError) as stopped:
        story.reserves("web01")
    assert str(stopped.value) == (
        f"The migration was cancelled on request [server=web01, migration={id}]. "
        "To go on with it after all, wait for its run to end and clear its server.reserve task"
    )
    words = told(story.report(story.looked(), {"web01": str(stopped.value)}))
    assert "web01 cancelled: cancelled on request" in words
    assert "To continue web01: remove the cause, then clear the task server.reserve of each, with downstream" in words
    story.reserves("web01")
    row = story.row("web01")
    assert (row.id, row.state, row.cancel_requested) == (id, S.TRANSFERRING, False)


def test_names_of_outside_are_printed_whole_and_in_one_line(ledger: Ledger) -> None:
    """A list of names is to be pasted: it is not cut, and a name forges no line."""
    names = tuple(f"{'server-with-a-long-name-' * 3}{number:03}" for number in range(60))
    story = Story(ledger, *names)
    words = told(story.report(story.looked(*(wrong(name, "no\nway") for name in names))))
    assert len(", ".join(names)) > LONGEST
    assert f"servers: {', '.join(names)} (as conf:" in words
    assert len(words.splitlines()) == 2
    assert "no\\nway" in words


def test_no_name_is_taken_for_the_whole_wave(ledger: Ledger) -> None:
    """Whoever may name a VM of a folder could stop every other server."""
    names = unique_names([("web01", "/DC0/vm/shop/web01"), ("*", "/DC0/vm/shop/*")])
    assert names == ["web01", "*@DC0:vm:shop"]
    story = Story(ledger, "web01", "*")
    entry = wave("web01", "*").servers[1].server
    looked = story.looked(wrong(subject_of(entry), "there is no such VM"), found=("web01",))
    assert [task.name for task in looked.passed] == ["web01"]
    story.completes("web01")
    report = story.report(looked)
    assert story.ends() == {"web01": ("completed", ""), "*@": ("refused", "there is no such VM. Change it")}
    assert "servers: *@ (as conf" in told(report), "a new run takes the entry by this name"
