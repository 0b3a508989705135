"""Servers have a row from the first second of a run: until ``reserve`` takes them, it is listed, cancelled, closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contexts import Alive, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN
from tests.unit.services.test_frozen import wave
from tests.unit.services.test_refused import NEXT, RDM, RUN, Story, told, wrong

from wavelift.base.errors import BusyError, PermanentError, SpecError, UnreachableError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, WaveRunState, migrations, waves
from wavelift.ledger.slots import standing
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.common import frozen
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.leftovers import known_runs
from wavelift.services.common.report import TaskOutcome
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.migration import admit as migration
from wavelift.services.migration.report import Ended, finish
from wavelift.services.migration.reserve import release
from wavelift.services.migration.unbegun import NEVER_BEGUN, OTHER_NAME
from wavelift.services.migration.waiting import (
    MAKING,
    NOT_MADE,
    RUN_ENDED,
    WAITS,
    close_abandoned,
    end_cancelled,
    give_back,
    write_rows,
)

pytestmark = pytest.mark.unit

S = MigrationState


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "ledger.db")


@pytest.fixture
def story(ledger: Ledger) -> Story:
    return Story(ledger)


def cancel(story: Story, *names: str) -> None:
    for name in names:
        with story.ledger.write() as tx:
            migrations.request_cancel(tx, story.row(name).id, by="bob", clock=story.clock)


def refused(story: Story, name: str) -> str:
    """As ``server.reserve`` and the ``server.release`` after it do it; the words of the first."""
    with pytest.raises(PermanentError) as caught:
        story.reserves(name, map_index=9)
    own = frozen.server_at(story.ledger, name, story.ctx(name, map_index=9))
    assert own == name
    release(story.ledger, story.ctx(own, map_index=9), removed=True, exported=False)
    return str(caught.value)


# Admission


def test_amp_04_every_named_server_has_its_id_before_pre_flight(ledger: Ledger) -> None:
    story = Story(ledger, "web01", "db01", {"folder": "/DC0/vm/farm"}, {"tag": "wave:erp"})
    assert sorted(story.rows()) == ["db01", "web01"], "which VMs a folder or a tag means only vCenter knows"
    row = story.row("web01")
    assert row.id == migrations.migration_id(story.ctx("web01").run_key)
    assert (row.state, row.phase, row.waits) == (S.QUEUED, WAITS, True)
    assert (row.server_id, row.map_index, row.connector, row.region) == (None, -1, "default", "eu-central-1")
    story.reserves("web01", map_index=2)
    begun = story.row("web01")
    assert (begun.id, begun.waits, begun.map_index, begun.created_at) == (row.id, False, 2, row.created_at)
    assert story.actions("web01")[:2] == ["admitted", "queued"]


@pytest.mark.parametrize("mode", ["plan", "preflight", "cleanup"])
def test_a_run_that_moves_nothing_has_no_rows(ledger: Ledger, mode: str) -> None:
    migration.admit(ledger, RunRequest("erp", {"mode": mode}), lambda _: wave(), run_context(RUN), rights=OPEN)
    assert within(ledger.read(), migrations.of_dag_run, RUN) == ()


def test_what_admission_refuses_has_no_rows(ledger: Ledger) -> None:
    with pytest.raises(SpecError):
        migration.admit(
            ledger, RunRequest("erp", {"servers": ["nobody"]}), lambda _: wave(), run_context(RUN), rights=OPEN
        )
    assert within(ledger.read(), migrations.of_dag_run, RUN) == ()


def test_a_repeated_admission_makes_nothing_twice_and_reopens_nothing(story: Story) -> None:
    story.completes("web01")
    cancel(story, "db01")
    story.report(story.looked(wrong("win01", RDM)))
    before = story.rows()
    assert {name: row.state for name, row in before.items()} == {
        "web01": S.COMPLETED,
        "db01": S.CANCELLED,
        "win01": S.REFUSED,
    }
    migration.admit(story.ledger, RunRequest("erp", {}), lambda _: wave(*story.entries), story.ctx(), rights=OPEN)
    assert story.rows() == before


def test_two_runs_may_be_admitted_for_a_server_and_the_second_reserve_is_refused(ledger: Ledger) -> None:
    first, second = Story(ledger, "web01"), Story(ledger, "web01", run=NEXT)
    assert first.row("web01").id != second.row("web01").id
    first.reserves("web01")
    with pytest.raises(BusyError):
        second.reserves("web01")
    assert second.row("web01").waits, "the retry, or the report, says what becomes of it"


def test_what_only_waits_may_have_left_nothing_outside(story: Story) -> None:
    assert list(known_runs(story.ledger, "erp")) == []
    story.reserves("web01")
    assert [each.servers for each in known_runs(story.ledger, "erp")] == [("web01",)]


# Pre-flight


def test_a_run_that_stops_before_its_servers_says_so_at_each_and_tells_the_way_out(story: Story) -> None:
    ended = Ended(None, (), stopped="preflight: vCenter did not answer")
    words = told(finish(story.ledger, ended, story.ctx()))
    assert story.ends() == dict.fromkeys(story.entries, ("failed", f"{NEVER_BEGUN}: preflight: vCenter did not answer"))
    assert words.splitlines() == [
        "The run was stopped: preflight: vCenter did not answer [wave=erp]. Remove the cause, then trigger erp.migrate "
        'again with servers: db01, web01, win01 (as conf: {"servers": ["db01", "web01", "win01"]})'
    ]
    assert CONTINUE_FROM not in words, "nobody has that task"


def test_two_entries_that_mean_one_vm_are_refused_once(ledger: Ledger) -> None:
    """Pre-flight knows the VM by its name; the entries are told apart by their paths."""
    story = Story(ledger, "web01", {"path": "/DC0/vm/shop/web01"})
    assert sorted(story.rows()) == ["web01@", "web01@DC0:vm:shop"]
    report = story.report(
        story.looked(wrong("web01", "Two entries select the same VM")).model_copy(update={"servers": ()})
    )
    assert [(one.server, one.state) for one in report.outcomes] == [("web01", "refused")]
    ends = story.ends()
    assert ends["web01@"] == ends["web01@DC0:vm:shop"] == ("refused", OTHER_NAME)
    assert story.report(None).outcomes, "it may be told again"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_server_that_pre_flight_lists_under_another_name_goes_on_as_that(ledger: Ledger, cancelled: bool) -> None:
    """A VM of the folder has the same name: both are called by their folders now."""
    story = Story(ledger, {"path": "/DC0/vm/shop/web01"}, {"folder": "/DC0/vm/farm"})
    name = "web01@DC0:vm:shop"
    asked = story.row("web01")
    if cancelled:
        cancel(story, "web01")
    task = story.task("web01")
    plan = wave(*story.entries).servers[0].bind(name, "/DC0/vm/shop/web01")
    story.task = lambda *_: task.model_copy(update={"name": name, "plan": plan})  # type: ignore[method-assign]
    if cancelled:
        assert "was cancelled on request" in refused(story, name)
    else:
        story.reserves(name)
    row = story.row(name)
    assert story.ends()["web01"] == ("cancelled", f"goes on as {name}: {row.id}")
    assert row.state is (S.CANCELLED if cancelled else S.TRANSFERRING)
    assert not [each for each in story.rows().values() if each.waits]
    looked = story.looked(found=(name,))
    report = story.report(looked)
    assert [(one.server, one.migration) for one in report.outcomes] == [(name, row.id)]
    assert asked.id != row.id


# Cancel before pre-flight


def test_amp_07_what_is_cancelled_before_pre_flight_does_not_begin_and_the_others_go_on(story: Story) -> None:
    cancel(story, "db01")
    row = story.row("db01")
    assert (row.state, row.cancel_requested) == (S.QUEUED, True)
    story.completes("web01")
    words = refused(story, "db01")
    assert words.startswith(f"The migration was cancelled on request [server=db01, migration={row.id}]")
    assert story.ends()["db01"] == ("cancelled", CANCELLED)
    assert (story.row("db01").server_id, story.row("db01").snapshot_state) == (None, None)
    asked = {each.holder for each in within(story.ledger.read(), standing)}
    assert asked == {story.ctx("web01").run_key}, "it asked for no slot"
    story.completes("win01")
    said = told(story.report(story.looked(), {"db01": words}))
    assert "db01 cancelled: cancelled on request" in said
    assert "refused" not in said
    assert "db01 failed" not in said
    assert f"To continue db01: remove the cause, then clear the task {CONTINUE_FROM}" in said
    assert story.actions("db01") == ["admitted", "cancel_requested", "cancelled"]


def test_a_retry_of_reserve_does_not_lift_a_cancel(story: Story) -> None:
    """It was killed before it could fail: only what has ended is continued by a clear."""
    cancel(story, "db01")
    for _ in range(2):
        with pytest.raises(PermanentError, match="cancelled on request"):
            story.reserves("db01")


def test_a_cleared_reserve_goes_on_with_what_was_cancelled(story: Story) -> None:
    cancel(story, "db01")
    refused(story, "db01")
    story.report(story.looked())
    story.reserves("db01")
    row = story.row("db01")
    assert (row.state, row.cancel_requested, row.error) == (S.TRANSFERRING, False, "")


def test_amp_07_cancelling_every_server_ends_the_run_without_a_snapshot(story: Story) -> None:
    cancel(story, *story.entries)
    said = {name: refused(story, name) for name in story.entries}
    report = story.report(story.looked(), said)
    assert {one.state for one in report.outcomes} == {"cancelled"}
    assert {row.snapshot_state for row in story.rows().values()} == {None}
    assert within(story.ledger.read(), waves.get, RUN).state is WaveRunState.FAILED
    assert within(story.ledger.read(), standing) == ()


@pytest.mark.parametrize("clears", [False, True])
def test_what_pre_flight_says_of_a_cancelled_server_does_not_matter(story: Story, clears: bool) -> None:
    cancel(story, "win01")
    story.completes("web01", "db01")
    looked = story.looked(*(() if clears else (wrong("win01", RDM),)))
    for _ in range(2):
        report = story.report(looked)
        assert story.ends()["win01"] == ("cancelled", CANCELLED)
    words = told(report)
    assert "win01 cancelled: cancelled on request" in words
    assert "refused" not in words
    assert (CONTINUE_FROM in words) == clears, "what pre-flight did not pass has no such task"
    assert ("trigger erp.migrate again with servers: win01" in words) != clears


def test_a_cancel_outlives_a_run_that_stopped_before(story: Story) -> None:
    cancel(story, "web01")
    finish(story.ledger, Ended(None, [TaskOutcome("web01", (), "")], stopped="preflight: no"), story.ctx())
    assert story.ends()["web01"] == ("cancelled", CANCELLED)
    assert story.ends()["db01"][0] == "failed"


def test_a_cancel_after_the_run_ends_at_once(story: Story) -> None:
    cancel(story, "web01")
    assert end_cancelled(story.ledger, story.row("web01").id, clock=story.clock).state is S.CANCELLED
    with pytest.raises(PermanentError, match="already ended: it is cancelled"):
        cancel(story, "web01")


# The DAG run never came


def test_what_has_no_dag_run_is_given_back_and_taken_up_should_it_come_after_all(story: Story) -> None:
    give_back(story.ledger, RUN, story.clock)
    assert set(story.ends().values()) == {("cancelled", NOT_MADE)}
    assert within(story.ledger.read(), waves.get, RUN).state is WaveRunState.FAILED
    give_back(story.ledger, RUN, story.clock)
    migration.admit(story.ledger, RunRequest("erp", {}), lambda _: wave(*story.entries), story.ctx(), rights=OPEN)
    assert {(row.state, row.error, row.waits) for row in story.rows().values()} == {(S.QUEUED, "", True)}
    assert within(story.ledger.read(), waves.get, RUN).state is WaveRunState.RUNNING
    story.reserves("web01")


def test_giving_back_leaves_alone_what_has_begun(story: Story) -> None:
    story.reserves("web01")
    give_back(story.ledger, RUN, story.clock)
    assert story.row("web01").state is S.TRANSFERRING


def other(story: Story, *dead: DagRun) -> Any:
    """The context of another run; ``dead`` are over, or deleted."""
    return run_context(NEXT, clock=story.clock, liveness=Alive(lambda run: run not in dead))


def test_rows_of_a_run_that_is_over_do_not_wait_for_ever(story: Story) -> None:
    cancel(story, "db01")
    story.reserves("web01")
    assert close_abandoned(story.ledger, other(story, RUN)) == [], "its DAG run may be about to be made"
    story.clock.sleep(MAKING.total_seconds())
    assert close_abandoned(story.ledger, other(story)) == [], "a run that no scheduler took is queued, and alive"
    assert close_abandoned(story.ledger, other(story, RUN), wave="other") == []
    assert close_abandoned(story.ledger, other(story, RUN), connector="hall-b") == []
    closed = close_abandoned(story.ledger, other(story, RUN), wave="erp", connector="default")
    assert sorted(row.server for row in closed) == ["db01", "win01"]
    ends = story.ends()
    assert ends["db01"] == ("cancelled", CANCELLED)
    assert ends["win01"] == ("failed", RUN_ENDED)
    assert ends["web01"][0] == "transferring", "the next run of this server displaces it"
    assert close_abandoned(story.ledger, other(story, RUN)) == []


def test_the_next_admission_of_the_wave_closes_them(story: Story) -> None:
    story.clock.sleep(MAKING.total_seconds())
    request = RunRequest("erp", {"servers": ["web01"]})
    migration.admit(story.ledger, request, lambda _: wave(*story.entries), other(story, RUN), rights=OPEN)
    assert set(story.ends().values()) == {("failed", RUN_ENDED)}
    assert [row.waits for row in within(story.ledger.read(), migrations.of_dag_run, NEXT)] == [True]


def test_nothing_is_closed_when_airflow_does_not_answer(story: Story) -> None:
    def silent(run: DagRun) -> bool:
        raise UnreachableError("Airflow did not tell")

    story.clock.sleep(MAKING.total_seconds())
    assert not close_abandoned(story.ledger, run_context(NEXT, clock=story.clock, liveness=Alive(silent)))
    assert all(row.waits for row in story.rows().values())


def test_what_was_closed_as_abandoned_goes_on_when_its_reserve_runs(story: Story) -> None:
    """Somebody cleared the run: the ledger was told too early that it is over."""
    story.clock.sleep(MAKING.total_seconds())
    close_abandoned(story.ledger, other(story, RUN))
    story.reserves("web01")
    assert story.row("web01").state is S.TRANSFERRING


# Whatever happens, in whatever order

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "cancel", "reserve", "report", "refuse", "stop", "abandon", "give back"]),
        st.sampled_from(["web01", "db01"]),
    ),
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_amp_07_no_server_that_was_cancelled_while_it_waited_begins_before_it_has_ended(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    """And every report leaves no row waiting, and one row per server."""
    with fresh_ledger(tmp_path_factory.mktemp("walk") / "ledger.db") as ledger:
        story = Story(ledger, "web01", "db01")
        ids = {name: row.id for name, row in story.rows().items()}
        for step, name in steps:
            before = story.row(name)
            _take(story, step, name)
            after = story.row(name)
            if before.waits and before.cancel_requested:
                assert after.server_id is None, (step, name)
                assert after.state in (S.QUEUED, S.CANCELLED)
            if step in ("report", "refuse", "stop"):
                assert not [row for row in story.rows().values() if row.waits]
        assert {name: row.id for name, row in story.rows().items()} == ids


def _take(story: Story, step: str, name: str) -> None:
    if step == "admit":
        write_rows(
            story.ledger,
            migration.admit(
                story.ledger, RunRequest("erp", {}), lambda _: wave(*story.entries), story.ctx(), rights=OPEN
            ),
            story.ctx(),
        )
    elif step == "cancel" and not story.row(name).state.terminal:
        cancel(story, name)
    elif step == "reserve":
        try:
            story.reserves(name)
        except PermanentError:
            release(story.ledger, story.ctx(name), removed=True, exported=False)
    elif step == "report":
        story.report(story.looked())
    elif step == "refuse":
        story.report(story.looked(wrong(name, RDM)))
    elif step == "stop":
        finish(story.ledger, Ended(None, (), stopped="preflight: no"), story.ctx())
    elif step == "abandon":
        story.clock.sleep(MAKING.total_seconds())
        close_abandoned(story.ledger, other(story, RUN))
    elif step == "give back":
        give_back(story.ledger, RUN, story.clock)
