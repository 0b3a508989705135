"""The report of a cutover run, the runs that it starts, and giving the way back up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.unit.rules.conftest import facts, resolved

from wavelift.base.domain import ServerFacts
from wavelift.base.errors import DeniedError, PermanentError, UnreachableError
from wavelift.base.run import DagRun
from wavelift.ledger import WaveRunState, jobs, replication_runs, waves
from wavelift.ledger.waves import NewWaveRun
from wavelift.rules.cutover import CutoverState
from wavelift.rules.environment import Environment, May
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.principals import Principals
from wavelift.rules.replication import JobState
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.authority import Rights
from wavelift.services.common.report import TaskOutcome
from wavelift.services.cutover import finalize as ending
from wavelift.services.cutover import report as reports
from wavelift.services.cutover.finalize import FinalizedServer, finalize
from wavelift.services.cutover.report import CutoverReport, EndedCutover, ToTrigger, finish, reverts
from wavelift.services.cutover.steps import Waits
from wavelift.services.dataplane.replication_messages import AdmittedRuns
from wavelift.services.replication import admit as replicate
from wavelift.services.replication.report import Ended, ServerEnd
from wavelift.specs import Granting

from .test_cutover_forward import Cutovers

__all__ = ["facts", "resolved"]

pytestmark = pytest.mark.unit

NOTHING: Any = lambda *_: ""  # noqa: E731


@pytest.fixture
def world(tmp_path: Path, resolved: Callable[..., ResolvedWave], facts: Callable[..., ServerFacts]) -> Cutovers:
    clock = HandClock()
    made = Cutovers(fresh_ledger(tmp_path / "ledger.db"), clock, resolved, facts)
    for server in ("a", "b"):
        made.replication.create(server, pause_after_failures=1)
    for run in made.replication.admit().granted:
        clock.sleep(600)
        made.replication.complete(run, ami="ami-1")
    return made


def moved(world: Cutovers, *servers: str) -> None:
    """A run in mode cutover, in which these servers' sources were touched."""
    world.gone()
    for server in servers:
        world.set(server, CutoverState.MOVING, source={"path": f"/DC0/vm/{server}"})


def switched(world: Cutovers, *servers: str) -> None:
    moved(world, *servers)
    runs = within(world.ledger.read(), jobs.standing, "erp")
    for server in servers:
        job = next(each for each in runs if each.server == server)
        world.set(
            server,
            CutoverState.SWITCHED,
            run_id=f"run-{server}",
            instance_id=f"i-{server}",
            job_id=job.id,
            target={"aws_conn_id": "aws", "region": "eu-central-1"},
        )


def report(
    world: Cutovers, *ends: ServerEnd, id: str = "r1", start: Any = NOTHING, others: Any = (), stopped: str = ""
) -> CutoverReport:
    ended = EndedCutover(Ended(None, None, ends, stopped=stopped), others)
    return finish(world.ledger, ended, world.ctx(id), tidy=NOTHING, start=start)


def end_of(server: str, words: str) -> ServerEnd:
    return ServerEnd(TaskOutcome(server=server, failed_tasks=("server.check",), words=words))


# The report


def test_what_was_touched_is_failed_and_what_was_not_is_over(world: Cutovers) -> None:
    moved(world, "a")
    found = report(world, end_of("a", "it does not answer"), end_of("b", "the window is over"))
    assert world.states() == {"a": "failed", "b": "ended"}
    assert [(one.server, one.error, one.clearable) for one in found.outcomes] == [
        ("a", "it does not answer", True),
        ("b", "the window is over", False),
    ]
    assert within(world.ledger.read(), waves.get, DagRun("erp.cutover", "r1")).state is WaveRunState.FAILED
    with pytest.raises(PermanentError, match="a failed: it does not answer"):
        reports.raise_when_failed(found)
    assert report(world, end_of("a", "it does not answer")).outcomes[0].error == "it does not answer"


def test_a_run_that_was_marked_failed_says_so_of_each_server(world: Cutovers) -> None:
    moved(world, "a")
    found = report(world, stopped="approve: it was rejected")
    assert {one.error for one in found.outcomes} == {"approve: it was rejected"}


def test_a_switched_server_is_a_success_and_is_read_back_once(world: Cutovers) -> None:
    switched(world, "a", "b")
    started: list[ToTrigger] = []
    seen = []

    def start(asked: ToTrigger) -> None:
        started.append(asked)
        seen.append(world.rows()["a"].verify_run)

    found = report(world, start=start)
    assert found.succeeded
    assert world.states() == {"a": "switched", "b": "switched"}
    (asked,) = started
    assert asked.run.dag_id == "erp.replicate"
    assert asked.conf == {"mode": "verify", "runs": ["run-a", "run-b"]}
    assert seen == [asked.run.dag_run_id], "its id is in the ledger before it is triggered"
    report(world, start=start)
    assert started[1] == asked, "a report that is cleared starts no second run"


@pytest.mark.parametrize(
    ("id", "more", "words"),
    [
        ("", {}, ""),
        ("verify__chosen", {}, "'ana' may not migrate"),
        ("", {"jobs": ["job-1"]}, "'ana' may not migrate"),
        ("", {"runs": ["run-a", "run-other"]}, "'ana' may not migrate"),
    ],
    ids=["as it was asked for", "another id", "more than that", "runs of nobody"],
)
def test_who_may_cut_over_may_have_the_last_run_read_back(
    world: Cutovers, monkeypatch: pytest.MonkeyPatch, id: str, more: dict[str, Any], words: str
) -> None:
    """Finalize wants it. The right is that of the cutover, which started the run, for what it asked for alone."""
    switched(world, "a")
    started: list[ToTrigger] = []
    report(world, start=started.append)
    (asked,) = started
    may = May(cut_over=("user:ana",), migrate=("user:ben",))
    granting = Granting(Environment.model_construct(environment="prod", may=may), Principals())
    monkeypatch.setattr(replicate, "dag_runs_of", lambda *_, **__: [DagRun("erp.cutover", "r1")])
    monkeypatch.setattr(replicate, "runs_to_verify", lambda *_: ())
    run = DagRun(asked.run.dag_id, id or asked.run.dag_run_id)
    ctx = run_context(run, requester="ana", clock=world.clock)
    request, rights = RunRequest("erp", {**asked.conf, **more}), Rights(lambda _: granting)

    def admitted() -> AdmittedRuns:
        return replicate.admit(world.ledger, request, world.wave, ctx, rights=rights)

    if words:
        with pytest.raises(DeniedError, match=words):
            admitted()
    else:
        assert admitted().mode == "verify"


def test_a_server_that_is_switched_later_is_read_back_by_a_run_of_its_own(world: Cutovers) -> None:
    switched(world, "a")
    world.set("b", CutoverState.MOVING)
    started: list[ToTrigger] = []
    report(world, start=started.append)
    world.set("b", CutoverState.MOVING)
    world.set("b", CutoverState.SWITCHED, run_id="run-b")
    report(world, start=started.append)
    assert [asked.conf["runs"] for asked in started] == [["run-a"], ["run-a"], ["run-b"]]
    assert started[0] == started[1]
    assert started[2].run != started[1].run


def test_a_run_that_could_not_be_started_fails_the_report(world: Cutovers) -> None:
    switched(world, "a")

    def start(asked: ToTrigger) -> None:
        raise UnreachableError("Airflow does not answer")

    found = report(world, start=start)
    assert not found.succeeded
    assert "not read back yet" in found.unclean[0]


def test_a_revert_that_stopped_half_way_is_no_success_though_its_last_task_never_ran(world: Cutovers) -> None:
    switched(world, "a", "b")
    freeze(world, "erp.cutover", "back", "revert")
    world.set("a", CutoverState.REVERTING, revert_run="back")
    world.set("b", CutoverState.REVERTING, revert_run="back")
    world.set("b", CutoverState.REVERTED, phase="The source serves again")
    found = report(world, id="back", stopped="start_sources: vCenter does not answer")
    assert [(one.server, one.state, bool(one.error)) for one in found.outcomes] == [
        ("a", "reverting", True),
        ("b", "reverted", False),
    ]
    assert not found.succeeded
    world.set("a", CutoverState.REVERTED)
    assert report(world, id="back").succeeded


def test_a_server_that_was_not_prepared_fails_the_report(world: Cutovers) -> None:
    freeze(world, "erp.cutover", "r1", "prepare")
    others = [{"server": "a", "address": "10.0.0.5"}, {"server": "b", "error": "the address is taken"}]
    found = report(world, others=others, stopped="prepare: Not prepared")
    assert [(one.server, one.state, one.error) for one in found.outcomes] == [
        ("a", "prepared", ""),
        ("b", "failed", "the address is taken"),
    ]
    assert not found.stopped, "it is said once"


def freeze(world: Cutovers, dag_id: str, id: str, mode: str, state: WaveRunState | None = None) -> None:
    run = DagRun(dag_id, id)
    asked = NewWaveRun(
        run=run, wave="erp", mode=mode, requested_by="ana", source="api", spec={"wave": world.wave().dump()}
    )
    with world.ledger.write(waves.LOCK) as tx:
        waves.freeze_wave_run(tx, asked, clock=world.clock)
        if state is not None:
            waves.finish_wave_run(tx, run, state, clock=world.clock)


# The revert that a failure starts


def test_what_failed_is_reverted_by_a_run_whose_id_is_written_first(world: Cutovers) -> None:
    moved(world, "a")
    report(world)
    asked = reverts(world.ledger, world.ctx())
    assert asked is not None
    row = world.rows()["a"]
    assert asked.run == DagRun("erp.cutover", row.revert_run)
    assert asked.conf == {"mode": "revert", "cutovers": [row.id]}
    assert reverts(world.ledger, world.ctx()) is None, "it is under way"
    world.dead.add(row.revert_run)
    again = reverts(world.ledger, world.ctx())
    assert again is not None, "it is over, and the server still failed"
    assert again.run != asked.run


def test_a_server_whose_file_says_stop_is_left_as_it_is(world: Cutovers) -> None:
    world.spec["cutover"] = {"on_failure": "stop"}
    moved(world, "a")
    report(world)
    assert reverts(world.ledger, world.ctx()) is None
    assert world.rows()["a"].revert_run == ""


@pytest.mark.parametrize(
    ("choice", "hours", "goes"), [("revert", 2, True), ("revert", 0, False), ("continue", 2, False)]
)
def test_the_window_s_end_reverts_also_what_a_failure_would_not(
    world: Cutovers, choice: str, hours: int, goes: bool
) -> None:
    world.spec["cutover"] = {"on_failure": "stop", "on_window_end": choice}
    moved(world, "a")
    world.set("a", CutoverState.MOVING, window_end=world.clock.now() + timedelta(hours=1))
    report(world)
    world.clock.sleep(hours * 3600)
    assert (reverts(world.ledger, world.ctx()) is not None) is goes


def test_what_was_not_touched_needs_no_revert(world: Cutovers) -> None:
    moved(world)
    report(world)
    assert reverts(world.ledger, world.ctx()) is None


# Finalize


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a deletion removed outside."""
    removed: list[str] = []

    def delete_outside(ledger: Any, access: Any, job: str, ctx: Any) -> None:
        removed.append(job)

    monkeypatch.setattr(ending, "delete_outside", delete_outside)
    return removed


def give_up(world: Cutovers, *servers: str, id: str = "end", **more: Any) -> tuple[FinalizedServer, ...]:
    ids = [row.id for server, row in world.rows().items() if server in servers]
    access: Any = lambda place: None  # noqa: E731
    found = finalize(world.ledger, access, ids, world.ctx(id), **more)
    assert isinstance(found, tuple)
    return found


def verified(world: Cutovers, *servers: str, state: WaveRunState | None = WaveRunState.COMPLETED) -> None:
    switched(world, *servers)
    report(world)
    freeze(world, "erp.replicate", world.rows()[servers[0]].verify_run, "verify", state)


def test_the_way_back_is_given_up_once_the_last_run_was_read_back(world: Cutovers, outside: list[str]) -> None:
    verified(world, "a")
    (found,) = give_up(world, "a")
    assert (found.state, found.error) == ("finalized", "")
    assert "The source stays" in found.words
    row = world.rows()["a"]
    assert outside == [row.job_id]
    assert within(world.ledger.read(), jobs.get, row.job_id).state is JobState.DELETING
    assert give_up(world, "a") == (found,), "repeated, it does nothing"
    assert outside == [row.job_id]


@pytest.mark.parametrize(
    ("state", "words"), [(None, "not read back yet"), (WaveRunState.FAILED, "failed"), ("never", "nobody has read")]
)
def test_nothing_is_given_up_before(world: Cutovers, outside: list[str], state: Any, words: str) -> None:
    if state == "never":
        switched(world, "a")
    else:
        verified(world, "a", state=state)
    (found,) = give_up(world, "a")
    assert words in found.error
    assert (found.state, outside) == ("switched", [])
    with pytest.raises(PermanentError, match="Not finalized"):
        ending.raise_when_failed([found])


def test_what_differs_from_its_source_is_never_final(
    world: Cutovers, outside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verified(world, "a")
    bad = type("Run", (), {"quarantine": "block 7 differs"})
    monkeypatch.setattr(replication_runs, "find", lambda tx, id: bad)
    (found,) = give_up(world, "a")
    assert "block 7 differs" in found.error
    assert found.state == "switched"


def test_one_that_cannot_be_finalized_does_not_stop_the_others(world: Cutovers, outside: list[str]) -> None:
    switched(world, "a", "b")
    report(world)
    freeze(world, "erp.replicate", world.rows()["a"].verify_run, "verify", WaveRunState.COMPLETED)
    world.set("b", CutoverState.REVERTING)
    found = {one.server: one for one in give_up(world, "a", "b")}
    assert found["a"].state == "finalized"
    assert "only one that is switched" in found["b"].error


def test_a_job_is_paused_where_the_file_says_so(world: Cutovers, outside: list[str]) -> None:
    world.spec["cutover"] = {"after_finalize": "pause_job"}
    verified(world, "a")
    (found,) = give_up(world, "a")
    assert "paused" in found.words
    assert within(world.ledger.read(), jobs.get, world.rows()["a"].job_id).state is JobState.PAUSED
    assert outside == []


def test_a_backup_comes_before_the_way_back_is_gone(world: Cutovers, outside: list[str]) -> None:
    verified(world, "a")
    ids = [world.rows()["a"].id]
    access: Any = lambda place: None  # noqa: E731
    made = finalize(
        world.ledger, access, ids, world.ctx("end"), backup=lambda known, plan: Waits(("image|ami-9",), "the backup")
    )
    assert not isinstance(made, tuple)
    assert world.states()["a"] == "switched", "it can be reverted meanwhile"
    assert outside == []
    assert give_up(world, "a")[0].state == "finalized"


@pytest.mark.parametrize("breaks", ["backup", "ttl"])
def test_the_way_back_stays_if_it_fails_before_anything_is_given_up(
    world: Cutovers, outside: list[str], monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermanentError("CreateImage is refused")

    verified(world, "a")
    with monkeypatch.context() as patch:
        if breaks == "ttl":
            patch.setattr(ending, "go_back", fail)
        more: Any = {"backup": fail} if breaks == "backup" else {}
        (found,) = give_up(world, "a", **more)
    assert "CreateImage is refused" in found.error
    assert (world.states()["a"], outside) == ("switched", [])
    world.set("a", CutoverState.REVERTING)
    assert "only one that is switched" in give_up(world, "a", id="later")[0].error
