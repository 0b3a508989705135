"""A cutover run from its admission until its servers go: who may, once per server, with an approved plan, in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN, open_to
from tests.unit.rules.conftest import _disk, facts, resolved
from tests.unit.services.test_replication import Desk

from wavelift.base.domain import ServerFacts
from wavelift.base.errors import DeniedError, NotApprovedError, PermanentError, RefusedError, SpecError, TamperedError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import PRESYNC_PREFIX, CutoverState, StepState
from wavelift.rules.cutover_places import Places, RecordPlace
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.replication import JobState, RunState, RunType
from wavelift.services.common.admit import RunRequest
from wavelift.services.cutover import moving, presync
from wavelift.services.cutover.admit import admit
from wavelift.services.cutover.approvals import plan_question
from wavelift.services.cutover.go import Gone, go, wait_for_window
from wavelift.services.cutover.plan import Planner, make_plan, require_some
from wavelift.services.dataplane.cutover_messages import AdmittedCutover, PlannedCutover
from wavelift.services.dataplane.messages import PreflightReport, ServerTask

__all__ = ["facts", "resolved"]

pytestmark = pytest.mark.unit

HOUR = timedelta(hours=1)
LANDING = {"instance_type": "m6i.large", "subnet": "subnet-aaaa0001", "security_groups": ["sg-aaaa0001"]}
GROUP = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/web/0123456789abcdef"


@dataclass(frozen=True)
class Step:
    name: str
    kind: str = "dns"
    words: str = "Point app01 to the instance"
    undo_words: str = "Put the old content of app01 back"
    spec: dict[str, Any] = field(default_factory=dict)


PLANNER = Planner(steps=lambda plan: [Step(f"dns {plan.server}")], prepared=lambda plan: [])


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


class Cutovers:
    """The wave ``erp`` with the servers a and b, whose cutovers a test asks for."""

    def __init__(self, ledger: Ledger, clock: HandClock, resolved: Any, facts: Any) -> None:
        self.ledger, self.clock, self.resolved, self.facts = ledger, clock, resolved, facts
        self.replication = Desk(ledger, clock)
        self.spec: dict[str, Any] = {"replication": {}, "cutover": {}, "defaults": LANDING}
        self.servers: tuple[Any, ...] = ("a", "b")
        self.dead: set[str] = set()
        self.rights = OPEN

    def wave(self, _: str = "erp") -> ResolvedWave:
        found: ResolvedWave = self.resolved(*self.servers, **self.spec)
        return found

    def ctx(self, id: str = "r1", requester: str = "ana") -> RunContext:
        alive = Alive(lambda run: run.dag_run_id not in self.dead)
        return run_context(DagRun("erp.cutover", id), requester=requester, clock=self.clock, liveness=alive)

    def admit(self, id: str = "r1", *, by: str = "ana", **conf: Any) -> AdmittedCutover:
        request = RunRequest("erp", {"mode": "cutover", **conf})
        return admit(self.ledger, request, self.wave, self.ctx(id, by), rights=self.rights)

    def report(self, *names: str, **changes: Any) -> PreflightReport:
        plans = {plan.server: plan for plan in self.wave().servers}
        tasks = []
        for name in names or ("a", "b"):
            seen: ServerFacts = self.facts(name=name, path=f"/DC0/vm/{name}", disks=(_disk(capacity=8),), **changes)
            plan = plans[name].cutting_over().bind(name, seen.path)
            tasks.append(ServerTask(name=name, plan=plan, facts=seen))
        return PreflightReport(wave="erp", findings=(), servers=tuple(tasks))

    def plan(self, admitted: AdmittedCutover, report: PreflightReport | None = None, **more: Any) -> PlannedCutover:
        planner = Planner(**{"steps": PLANNER.steps, "prepared": PLANNER.prepared, **more})
        return make_plan(
            self.ledger, admitted, report or self.report(*admitted.servers), planner, self.ctx(admitted.run_id)
        )

    def approve(self, planned: PlannedCutover, id: str = "r1", by: str = "ben", valid: timedelta = HOUR) -> None:
        run = DagRun("erp.cutover", id)
        about = (cutovers.RUN_KIND, cutovers.run_subject(run), planned.digest)
        said: dict[str, Any] = {"answer": "approve", "by": by, "requested_by": "ana", "valid": valid}
        within(self.ledger.write(), cutovers.approve, *about, **said, clock=self.clock)

    def go(self, id: str = "r1") -> Gone:
        return go(self.ledger, self.ctx(id), rights=self.rights)

    def gone(self, **conf: Any) -> Gone:
        self.approve(self.plan(self.admit(**conf)))
        return self.go()

    def rows(self, id: str = "r1") -> dict[str, Cutover]:
        found = within(self.ledger.read(), cutovers.of_dag_run, DagRun("erp.cutover", id))
        return {each.server: each for each in found}

    def states(self, id: str = "r1") -> dict[str, str]:
        return {server: str(row.state) for server, row in self.rows(id).items()}

    def set(self, server: str, state: CutoverState, id: str = "r1", **columns: Any) -> Cutover:
        with self.ledger.write(jobs.lock_name("erp")) as tx:
            row = next(each for each in cutovers.of_dag_run(tx, DagRun("erp.cutover", id)) if each.server == server)
            return cutovers.apply(tx, row, "test", at=self.clock.now(), by="test", state=state, **columns)


@pytest.fixture
def world(
    tmp_path: Path, clock: HandClock, resolved: Callable[..., ResolvedWave], facts: Callable[..., ServerFacts]
) -> Cutovers:
    made = Cutovers(fresh_ledger(tmp_path / "ledger.db"), clock, resolved, facts)
    for server in ("a", "b"):
        made.replication.create(server, pause_after_failures=1)
    for run in made.replication.admit().granted:
        clock.sleep(600)
        made.replication.complete(run, ami="ami-1")
    return made


# Admission


def test_a_run_opens_a_cutover_of_each_server_and_a_retry_none_more(world: Cutovers) -> None:
    found = world.admit(note="tonight")
    assert found.servers == ("a", "b")
    assert {plan.launch for plan in found.wave.servers} == {"running"}
    assert world.admit(note="tonight") == found
    rows = world.rows()
    assert {server: row.id for server, row in rows.items()} == dict(found.cutovers)
    assert {(row.state, row.requested_by, row.note, row.tier) for row in rows.values()} == {
        (CutoverState.WAITING, "ana", "tonight", "all")
    }


@pytest.mark.parametrize("mode", ["plan", "prepare"])
def test_a_plan_opens_none(world: Cutovers, mode: str) -> None:
    assert world.admit(mode=mode).cutovers == {}
    assert world.rows() == {}


def test_the_default_is_a_plan(world: Cutovers) -> None:
    request = RunRequest("erp", {"servers": None, "note": None})
    assert admit(world.ledger, request, world.wave, world.ctx(), rights=OPEN).mode == "plan"


def test_a_second_open_cutover_is_refused_and_the_other_run_is_named(world: Cutovers) -> None:
    first = world.admit(servers=["a"])
    with pytest.raises(RefusedError, match=f"a: cutover {first.cutovers['a']} of erp.cutover r1 is waiting"):
        world.admit("r2")
    assert world.states("r2") == {}, "all of them or none"
    assert world.admit("r2", servers=["b"]).servers == ("b",)


def test_an_open_cutover_whose_run_has_ended_is_ended_unless_its_source_was_touched(world: Cutovers) -> None:
    world.admit()
    world.set("b", CutoverState.GOING)
    world.set("b", CutoverState.MOVING)
    world.dead.add("r1")
    assert world.admit("r2", servers=["a"]).servers == ("a",)
    assert world.states() == {"a": "ended", "b": "moving"}
    with pytest.raises(RefusedError, match="is moving"):
        world.admit("r3", servers=["b"])


def test_a_cleared_run_begins_again_unless_another_has_the_server(world: Cutovers) -> None:
    planned = world.plan(world.admit())
    world.approve(planned)
    world.set("a", CutoverState.ENDED)
    world.admit()
    row = world.rows()["a"]
    assert (row.state, row.plan_digest, row.error, row.finished_at) == (CutoverState.WAITING, "", "", None)
    world.set("a", CutoverState.ENDED)
    world.admit("r2", servers=["a"])
    with pytest.raises(RefusedError, match=r"of erp\.cutover r2"):
        world.admit()


def test_an_approval_does_not_outlive_the_cutover_that_it_was_given_for(world: Cutovers, clock: HandClock) -> None:
    """Cancelled, then cleared, with its approval marked a success: nobody has said yes to this one."""
    planned = world.plan(world.admit())
    world.approve(planned, valid=24 * HOUR)
    for server in ("a", "b"):
        world.set(server, CutoverState.ENDED)
    clock.sleep(60)
    again = world.plan(world.admit())
    assert again.digest != planned.digest
    with pytest.raises(NotApprovedError, match="Nobody has approved this plan"):
        world.go()
    world.approve(again)
    assert world.go().servers == ("a", "b")


def test_a_reservation_is_taken_by_its_run_and_lapses_for_another(world: Cutovers, clock: HandClock) -> None:
    world.admit(servers=["a"])
    reserved = world.rows()["a"]
    with world.ledger.write(jobs.lock_name("erp")) as tx:
        tx.execute(cutovers.ROWS.table.update().values(state=CutoverState.RESERVED))
    with pytest.raises(RefusedError, match="is reserved"):
        world.admit("r2", servers=["a"])
    clock.sleep(121)
    world.admit("r2", servers=["a"])
    assert world.states() == {"a": "expired"}
    world.set("a", CutoverState.ENDED, "r2")
    assert world.admit(servers=["a"]).cutovers == {"a": reserved.id}, "a run that comes late is not lost"


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"servers": ["a", "nobody"]}, "no server 'nobody'"),
        ({"server": ["a"]}, "unknown key 'server'"),
        ({"window_end": "2026-11-22T09:00:00Z"}, "was over at"),
        ({"window_start": "soon"}, "not a time with an offset"),
        ({"window_start": "2026-11-23T09:00:00Z", "window_end": "2026-11-23T08:00:00Z"}, "and begins only at"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_opened(world: Cutovers, conf: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        world.admit(**conf)
    assert world.rows() == {}


def test_a_server_without_section_or_without_job_is_refused(world: Cutovers) -> None:
    del world.spec["cutover"]
    world.servers = ({"name": "a", "cutover": {}}, "b", {"name": "c", "cutover": {}})
    with pytest.raises(SpecError, match="b: no cutover section"):
        world.admit(servers=["a", "b"])
    with pytest.raises(RefusedError, match="c: wave 'erp' has no replication job"):
        world.admit()
    assert world.admit(servers=["a"]).servers == ("a",)


def test_more_than_fifty_servers_are_refused(world: Cutovers) -> None:
    world.servers = tuple(f"s{number:02d}" for number in range(51))
    with pytest.raises(SpecError, match="51 servers are chosen; a run cuts over 50 at most"):
        world.admit(mode="plan")


def test_who_may_only_migrate_may_not_cut_over(world: Cutovers) -> None:
    with pytest.raises(DeniedError):
        world.admit(by="eve")
    assert world.rows() == {}


def test_the_servers_of_a_folder_are_those_with_jobs(world: Cutovers) -> None:
    world.servers = ({"folder": "/DC0/vm/shop"},)
    found = world.admit()
    assert found.servers == ("a", "b")
    assert [plan.selector.kind for plan in found.wave.servers] == ["folder"]


# Ending


def _switched(world: Cutovers, *servers: str) -> None:
    world.admit(servers=list(servers))
    for server in servers:
        for state in (CutoverState.GOING, CutoverState.MOVING, CutoverState.SWITCHED):
            world.set(server, state)
    world.dead.add("r1")


def test_a_revert_takes_what_it_may_go_back_from_by_the_spec_of_then(world: Cutovers) -> None:
    _switched(world, "a")
    world.spec, world.servers = {}, ("other",)
    found = world.admit("back", mode="revert")
    assert (found.servers, found.mode) == (("a",), "revert")
    assert [plan.server for plan in found.wave.servers] == ["a"]
    assert world.rows()["a"].revert_run == "back"
    assert world.admit("back", mode="revert") == found


def test_two_runs_never_end_one_cutover_together(world: Cutovers) -> None:
    _switched(world, "a")
    world.admit("back", mode="revert", servers=["a"])
    with pytest.raises(RefusedError, match="run back is about"):
        world.admit("again", mode="revert", servers=["a"])
    world.dead.add("back")
    assert world.admit("again", mode="revert", servers=["a"]).servers == ("a",)


@pytest.mark.parametrize(
    ("states", "mode", "words"),
    [
        ([], "revert", "its source was not touched"),
        ([CutoverState.GOING, CutoverState.MOVING, CutoverState.FAILED], "finalize", "only one that was switched"),
    ],
)
def test_states_that_cannot_be_ended_so(world: Cutovers, states: list[CutoverState], mode: str, words: str) -> None:
    found = world.admit(servers=["a"])
    for state in states:
        world.set("a", state)
    with pytest.raises(RefusedError, match=words):
        world.admit("end", mode=mode, cutovers=[found.cutovers["a"]])
    with pytest.raises(SpecError, match=f"mode {mode} could end"):
        world.admit("end", mode=mode)


def test_what_moves_in_a_run_that_lives_is_not_reverted_beside_it(world: Cutovers) -> None:
    _switched(world, "a")
    world.dead.clear()
    with world.ledger.write(jobs.lock_name("erp")) as tx:
        tx.execute(cutovers.ROWS.table.update().values(state=CutoverState.MOVING))
    with pytest.raises(RefusedError, match="mark that run failed first"):
        world.admit("back", mode="revert", servers=["a"])


# The plan


def test_the_plan_says_each_step_with_its_undo_and_is_stored(world: Cutovers) -> None:
    planned = world.plan(world.admit())
    assert planned.going == ("a", "b")
    (a, _) = planned.servers
    assert [step.name for step in a.steps] == ["stop_source", "image", "launch", "check", "dns a"]
    assert all(step.undo_words for step in a.steps)
    assert a.forecast is not None
    rows = world.rows()
    assert {row.plan_digest for row in rows.values()} == {planned.digest}
    assert rows["a"].forecast == a.forecast.dump()
    lines = "\n".join(planned.lines())
    assert "Put the old content of app01 back" in lines
    assert PlannedCutover.load(planned.dump()) == planned


def test_the_digest_stays_while_nothing_of_the_plan_changes(world: Cutovers, clock: HandClock) -> None:
    admitted = world.admit()
    first = world.plan(admitted)
    clock.sleep(3600)
    assert world.plan(admitted).digest == first.digest
    assert world.plan(admitted, steps=lambda plan: [Step("dns other")]).digest != first.digest
    assert world.plan(admitted, world.report(instance_uuid="other")).digest != first.digest


def test_a_plan_that_changed_voids_its_approval(world: Cutovers) -> None:
    admitted = world.admit()
    world.approve(world.plan(admitted))
    world.plan(admitted, steps=lambda plan: [Step("dns other")])
    with pytest.raises(NotApprovedError, match="Nobody has approved this plan"):
        world.go()
    assert world.states() == {"a": "waiting", "b": "waiting"}


def test_a_server_with_something_in_its_way_is_left_alone(world: Cutovers) -> None:
    step = {"target_group": {"arn": GROUP}}
    world.servers = ({"name": "a", "cutover": {"steps": [{"person": {"ask": "x", "undo": "y"}}]}}, "b")
    admitted = world.admit()
    planned = world.plan(admitted, world.report("b"))
    assert planned.going == ("b",)
    assert world.states() == {"a": "ended", "b": "waiting"}
    assert "pre-flight did not find it" in world.rows()["a"].error
    assert step["target_group"]["arn"] == GROUP


def test_a_run_whose_servers_are_all_left_alone_ends(world: Cutovers) -> None:
    planned = world.plan(world.admit(), PreflightReport(wave="erp", findings=(), servers=()))
    with pytest.raises(PermanentError, match="No server can be cut over: a: pre-flight did not find it"):
        require_some(planned)
    assert world.states() == {"a": "ended", "b": "ended"}


def test_a_window_that_is_too_short_is_an_error_of_the_plan(world: Cutovers, clock: HandClock) -> None:
    end = (clock.now() + timedelta(minutes=5)).isoformat()
    planned = world.plan(world.admit(window_end=end))
    assert planned.going == ()
    assert [one.code for one in planned.servers[0].findings if one.severity == "error"] == ["cutover.window"]


def test_the_runs_before_a_cutover_count_in_its_window(world: Cutovers, clock: HandClock) -> None:
    forecast = world.plan(world.admit(mode="plan")).servers[0].forecast
    assert forecast is not None
    assert forecast.before_s > 0
    assert "after runs before it of" in forecast.words()
    end = clock.now() + timedelta(seconds=forecast.reachable_p90_s + forecast.before_s / 2)
    planned = world.plan(world.admit("r2", mode="plan", window_end=end.isoformat()))
    assert planned.going == ("a", "b")
    assert "cutover.window_short" in [one.code for one in planned.servers[0].findings]


def test_the_plan_of_mode_prepare_tells_what_that_does(world: Cutovers) -> None:
    record = {"name": "app01", "type": "A", "set_identifier": ""}
    spec = {"zone": "Z1", "ttl": 60, "records": [record]}
    ttl = Step("ttl Z1 app01", kind="ttl", words="Lower the TTL of app01 to 60 s", spec=spec)
    admitted = world.admit(mode="prepare")
    planned = world.plan(admitted, prepared=lambda task: [ttl] if task.name == "a" else [])
    assert [[step.name for step in each.steps] for each in planned.servers] == [["ttl Z1 app01"], []]
    lines = "\n".join(planned.lines())
    assert "1. Lower the TTL of app01 to 60 s" in lines
    assert "nothing to prepare" in lines
    assert "Shut the guest down" not in lines


def test_a_watch_that_does_not_run_is_told(world: Cutovers) -> None:
    planned = world.plan(world.admit(mode="plan"), asleep={"cutover_upkeep", "cutover_watch.elsewhere"})
    told = [one.what for one in planned.servers[0].findings if one.code == "cutover.watch_asleep"]
    assert told == ["the DAG cutover_upkeep is paused, or Airflow does not have it"]


def test_a_ttl_that_was_lowered_too_late_says_when_caches_have_the_new_one(world: Cutovers, clock: HandClock) -> None:
    record = {"name": "app01", "type": "A", "set_identifier": ""}
    ttl = Step("ttl Z1 app01", kind="ttl", spec={"zone": "Z1", "ttl": 60, "records": [record]})
    admitted = world.admit(mode="plan")
    before = world.plan(admitted, prepared=lambda plan: [ttl])
    assert "cutover.ttl" in [one.code for one in before.servers[0].findings]
    row = {"name": ttl.name, "kind": "ttl", "words": "", "undo_words": "", "spec": {}}
    with world.ledger.write() as tx:
        cutovers.plan_steps(tx, cutovers.PREPARED_KIND, "erp/a", [row], at=clock.now())
        (known,) = cutovers.steps_of(tx, cutovers.PREPARED_KIND, "erp/a")
        changes: dict[str, Any] = {"before": {"app01 A": 7200}, "changed_at": clock.now()}
        cutovers.change_step(tx, known, to=StepState.INTENDED, at=clock.now(), by="test", **changes)
    codes = [one.code for one in world.plan(admitted, prepared=lambda plan: [ttl]).servers[0].findings]
    assert "cutover.ttl_late" in codes
    assert "cutover.ttl" not in codes
    clock.sleep(7201)
    assert "cutover.ttl_late" not in [
        one.code for one in world.plan(admitted, prepared=lambda plan: [ttl]).servers[0].findings
    ]


@pytest.mark.parametrize(("seconds", "told"), [(None, False), (60, False), (61, True), (3600, True)])
def test_the_present_ttl_counts_whatever_prepare_did(world: Cutovers, seconds: int | None, told: bool) -> None:
    """A low one needs no prepare; one that somebody raised again does."""
    record = {"name": "app01", "type": "A", "set_identifier": ""}
    ttl = Step("ttl Z1 app01", kind="ttl", spec={"zone": "Z1", "ttl": 60, "records": [record]})
    shown = {"a": Places(ttls={RecordPlace("Z1", "app01", "A", ""): seconds})}
    found = world.plan(world.admit(mode="plan"), prepared=lambda plan: [ttl], places=shown)
    warned = {each.server: "cutover.ttl" in [one.code for one in each.findings] for each in found.servers}
    assert warned == {"a": told, "b": True}, "of b nothing could be read"


@pytest.mark.parametrize("state", [CutoverState.WAITING, CutoverState.MOVING])
def test_a_place_that_is_taken_keeps_a_server_back_until_it_went(world: Cutovers, state: CutoverState) -> None:
    """What its own cutover has changed since is in nobody's way when the plan's task is cleared."""
    admitted = world.admit()
    if state is CutoverState.MOVING:
        world.set("a", CutoverState.GOING)
        world.set("a", state)
    shown = {"a": Places(elastic_ips={"eipalloc-1": "eni-1 has it"})}
    planned = world.plan(admitted, places=shown)
    assert planned.going == (("b",) if state is CutoverState.WAITING else ("a", "b"))
    assert world.states()["a"] == ("ended" if state is CutoverState.WAITING else "moving")


def test_a_plan_that_came_changed_by_xcom_is_refused(world: Cutovers) -> None:
    admitted, report = world.admit(), world.report()
    task = report.servers[0]
    forged = task.model_copy(update={"plan": task.plan.model_copy(update={"subnet": "subnet-bbbb0001"})})
    with pytest.raises(TamperedError):
        world.plan(admitted, report.model_copy(update={"servers": (forged, report.servers[1])}))


def test_the_question_asks_as_the_wave_says(world: Cutovers, clock: HandClock) -> None:
    world.spec["cutover"] = {"approval": "four_eyes", "approval_hours": 2}
    end = clock.now() + 24 * HOUR
    planned = world.plan(world.admit(window_end=end.isoformat()))
    question = plan_question(world.ledger, world.ctx())
    assert (question.mode, question.hours, question.id) == ("four_eyes", 2, "erp.cutover/r1")
    assert (question.digest, question.not_after) == (planned.digest, end)
    world.approve(planned, by="ben")
    world.go()
    assert plan_question(world.ledger, world.ctx()).mode == "none", "what went is not asked again"


# Go


def test_who_was_approved_goes_once(world: Cutovers) -> None:
    assert world.gone() == Gone(("a", "b"), {})
    rows = world.rows()
    assert {row.state for row in rows.values()} == {CutoverState.GOING}
    assert all(row.moment("going") for row in rows.values())
    assert world.go().servers == ("a", "b")
    assert world.rows() == rows, "a repeated call writes nothing"


def test_an_unapproved_plan_does_not_go(world: Cutovers, clock: HandClock) -> None:
    planned = world.plan(world.admit())
    with pytest.raises(NotApprovedError, match="marked a success has approved nothing"):
        world.go()
    world.approve(planned)
    clock.sleep(3601)
    with pytest.raises(NotApprovedError, match="counted until"):
        world.go()
    assert world.states() == {"a": "waiting", "b": "waiting"}


def test_four_eyes_wants_another_person(world: Cutovers) -> None:
    world.spec["cutover"] = {"approval": "four_eyes"}
    planned = world.plan(world.admit())
    world.approve(planned, by="ana")
    with pytest.raises(NotApprovedError, match="another person"):
        world.go()
    world.approve(planned, by="ben")
    assert world.go().servers == ("a", "b")


def test_without_approval_nobody_is_asked(world: Cutovers) -> None:
    world.spec["cutover"] = {"approval": "none"}
    world.plan(world.admit())
    assert world.go().servers == ("a", "b")


def test_a_server_that_was_never_planned_does_not_go(world: Cutovers) -> None:
    world.admit()
    with pytest.raises(PermanentError, match="no common plan"):
        world.go()


def test_a_right_that_was_taken_away_meanwhile_counts(world: Cutovers) -> None:
    world.approve(world.plan(world.admit()))
    world.rights = open_to("ben")
    with pytest.raises(DeniedError):
        world.go()


def test_what_would_end_outside_the_window_is_left_alone(world: Cutovers, clock: HandClock) -> None:
    end = (clock.now() + 24 * HOUR).isoformat()
    world.approve(world.plan(world.admit(window_end=end)), valid=48 * HOUR)
    with world.ledger.write(jobs.lock_name("erp")) as tx:
        row = world.rows()["a"]
        slow: Mapping[str, Any] = {**(row.forecast or {}), "reachable_p90_s": 25 * 3600.0}
        cutovers.apply(tx, row, "test", at=clock.now(), by="test", forecast=slow)
    found = world.go()
    assert found.servers == ("b",)
    assert "the window ends at" in found.left["a"]
    assert world.states() == {"a": "ended", "b": "going"}


def test_the_window_is_waited_for_and_refused_when_it_is_over(world: Cutovers, clock: HandClock) -> None:
    start, end = clock.now() + HOUR, clock.now() + 24 * HOUR
    world.approve(world.plan(world.admit(window_start=start.isoformat(), window_end=end.isoformat())), valid=48 * HOUR)
    assert wait_for_window(world.ledger, world.ctx()) == start
    clock.sleep(3600)
    assert wait_for_window(world.ledger, world.ctx()) is None
    clock.sleep(24 * 3600)
    with pytest.raises(PermanentError, match="was over at"):
        wait_for_window(world.ledger, world.ctx())
    with pytest.raises(PermanentError, match="was over at"):
        world.go()
    assert world.states() == {"a": "waiting", "b": "waiting"}


# Replication from go on


def test_from_go_on_only_its_own_runs_are_admitted(world: Cutovers) -> None:
    world.gone(servers=["a"])
    admission = world.replication.admit(servers=["a", "b"])
    assert [one.rule for one in admission.refused] == ["cutover"]
    assert [one.server for one in admission.granted] == ["b"]
    with pytest.raises(RefusedError, match="revert or finalize it"):
        world.replication.reserve("a")


def test_a_reservation_of_before_is_not_taken_up_after_go(world: Cutovers) -> None:
    (reserved,) = world.replication.reserve("a")
    world.gone(servers=["a"])
    admission = world.replication.admit(reserved.dag_run_id, servers=["a"])
    assert [one.rule for one in admission.refused] == ["cutover"]
    assert admission.granted == ()


def test_the_id_of_a_run_alone_admits_nothing(world: Cutovers) -> None:
    world.gone(servers=["a"])
    admission = world.replication.admit(f"{PRESYNC_PREFIX}r1_1", servers=["a"], cutover=True)
    assert [one.rule for one in admission.refused] == ["cutover"]


def test_a_presync_is_written_first_admitted_and_never_counted(world: Cutovers, clock: HandClock) -> None:
    world.gone(servers=["a"])
    asked = presync.begin(world.ledger, 1, world.ctx())
    assert (asked.servers, asked.busy) == (("a",), "")
    assert asked.run.dag_run_id.startswith(PRESYNC_PREFIX)
    assert world.rows()["a"].presync_runs == (asked.run.dag_run_id,)
    assert presync.begin(world.ledger, 1, world.ctx()) == asked, "killed and repeated: the same run"
    for _ in range(3):  # cleared and repeated: never counted as on demand
        (run,) = world.replication.admit(asked.run.dag_run_id, servers=["a"], cutover=True).granted
    assert (run.type, run.counted_at) == (RunType.CUTOVER, None)
    clock.sleep(60)
    world.replication.complete(run, ami="ami-2")
    told = presync.settle(world.ledger, asked, world.ctx())
    assert "reachable after" in told["a"]
    second = presync.begin(world.ledger, 2, world.ctx())
    assert second.servers == ("a",), "without a limit both runs are made"
    assert second.run != asked.run


def test_a_presync_waits_for_a_run_of_before(world: Cutovers) -> None:
    (run,) = world.replication.admit(servers=["a"]).granted
    world.gone(servers=["a"])
    assert presync.begin(world.ledger, 1, world.ctx()).busy == run.id
    assert world.rows()["a"].presync_runs == ()
    world.replication.complete(run)
    assert presync.begin(world.ledger, 1, world.ctx()).servers == ("a",)


def test_no_presync_once_the_forecast_fits(world: Cutovers) -> None:
    world.spec["cutover"] = {"downtime_minutes": 10_000}
    world.gone(servers=["a"])
    found = presync.begin(world.ledger, 1, world.ctx())
    assert (found.servers, list(found.fits)) == ((), ["a"])
    assert world.rows()["a"].presync_runs == ()


@pytest.mark.parametrize("spec", [{"downtime_minutes": 10_000}, {}], ids=["it fits", "it was sent once more"])
def test_the_stop_of_a_source_asks_the_newest_forecast(world: Cutovers, clock: HandClock, spec: dict[str, Any]) -> None:
    """Not that of the plan, which may be days old."""
    world.spec["cutover"] = spec
    end = clock.now() + 48 * HOUR
    world.gone(servers=["a"], window_end=end.isoformat())
    world.set("a", CutoverState.GOING, forecast={**(world.rows()["a"].forecast or {}), "reachable_p90_s": 1.0})
    clock.sleep(3600)
    asked = presync.begin(world.ledger, 1, world.ctx())
    if asked.servers:
        (run,) = world.replication.admit(asked.run.dag_run_id, servers=["a"], cutover=True).granted
        clock.sleep(600)
        world.replication.complete(run, ami="ami-2")
        presync.settle(world.ledger, asked, world.ctx())
    row = world.rows()["a"]
    p90 = (row.forecast or {})["reachable_p90_s"]
    assert p90 > 60, "the last changes, the image, the launch"
    assert moving.last_start(row) == end - timedelta(seconds=p90)


def test_a_failed_presync_stops_nobody_and_pauses_no_job(world: Cutovers) -> None:
    world.gone()
    asked = presync.begin(world.ledger, 1, world.ctx())
    found = world.replication.admit(asked.run.dag_run_id, servers=["a", "b"], cutover=True)
    first, second = found.granted
    world.replication.fail(first)
    world.replication.complete(second)
    told = presync.settle(world.ledger, asked, world.ctx())
    assert f"the run is {RunState.FAILED}" in told[first.server]
    assert world.states() == {"a": "going", "b": "going"}
    for job in within(world.ledger.read(), jobs.standing, "erp"):
        assert (job.state, job.failures) == (JobState.ACTIVE, 0)


def test_after_a_revert_the_schedule_goes_on(world: Cutovers) -> None:
    world.gone(servers=["a"])
    for state in (CutoverState.MOVING, CutoverState.REVERTING, CutoverState.REVERTED):
        world.set("a", state)
    assert [one.server for one in world.replication.admit(servers=["a"]).granted] == ["a"]
