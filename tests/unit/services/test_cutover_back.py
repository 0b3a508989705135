"""The way back of a cutover: no order of requests, failures, restarts and repeats gives both sides one address, neither
side without an alert, or a lost ``before`` (invariant 12).

Source, instance and the place of the network step are in memory; engine, ledger and rules are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contexts import Alive, HandClock, run_context
from tests.depth import examples
from tests.ledgers import fresh_ledger, memory_folder, within

from wavelift.adapters.aws.ec2 import Instance
from wavelift.base.domain import NicFacts, PowerFacts
from wavelift.base.errors import PermanentError, UnreachableError, WaveliftError
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.base.run import CancelFlag, DagRun, MemoryCheckpoints, RunContext
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.events import list_events
from wavelift.rules.cutover import CutoverState, SourceBefore, StepState
from wavelift.rules.wave_cutover import CutoverPlan
from wavelift.services.common.grant_keys import KeyFiles, keygen
from wavelift.services.cutover import back, step_kinds, watch
from wavelift.services.cutover.back import Undone, Waiting
from wavelift.services.cutover.step_kinds import Facts
from wavelift.services.cutover.steps import Planned, Waits, advance, cutover_subject, write_plan
from wavelift.services.dataplane import source_return, source_watch
from wavelift.services.dataplane.cutover_messages import SeenSource, SourceToStart, StartedSource
from wavelift.services.dataplane.source_return import start_source
from wavelift.services.dataplane.source_watch import look_at
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Step
from wavelift.services.dataplane.steps.step import Waiting as StepWaits

pytestmark = pytest.mark.unit

MOVING = DagRun("erp.cutover", "manual__1")
REVERT = DagRun("erp.cutover", "revert__1")
KEY = f"{MOVING.dag_id}/{MOVING.dag_run_id}/web01"
CARD = NicFacts(key=4000, mac="00:50:56:00:00:01", start_connected=True, connected=True, allow_guest_control=True)
FENCED = CARD.model_copy(update={"start_connected": False, "connected": False, "allow_guest_control": False})
BEFORE = SourceBefore(
    connection="vc",
    connector="dc1",
    vm="vm-1",
    instance_uuid="u-1",
    path="/DC/vm/web01",
    powered_on=True,
    cards=(CARD,),
)
TARGET = {"aws_conn_id": "aws", "region": "eu-central-1", "account": ""}


RETURN: Any = source_return
"""Whose adapter a story replaces."""


class Killed(BaseException):
    """The process ends here."""


@dataclass
class World:
    """One server: its source, its instance, and the record that leads to one of them."""

    on: bool = True
    card: NicFacts = CARD
    instance: str = ""
    """State; empty: there is none."""
    stubborn: bool = False
    """The instance does not stop."""
    record: str = "source"
    settles_after: int = 0
    die: Callable[[str], None] = lambda moment: None

    @property
    def source_reachable(self) -> bool:
        return self.on and self.card.connected

    def check(self) -> None:
        assert not (self.source_reachable and self.instance in ("pending", "running", "stopping")), (
            "both hold the address"
        )

    def act(self, moment: str, change: Callable[[], None]) -> None:
        self.die(f"before {moment}")
        change()
        self.check()
        self.die(f"after {moment}")


class Vcenter:
    """What :mod:`source_return` calls of the adapter."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read_cards(self, session: Any, vm: str, *, server: str = "") -> tuple[NicFacts, ...]:
        return (self.world.card,)

    def power_state(self, session: Any, vm: str, *, server: str = "") -> PowerFacts:
        return PowerFacts(power="poweredOn" if self.world.on else "poweredOff")

    def unfence(self, session: Any, vm: str, before: Sequence[NicFacts], *, server: str, cancel: CancelFlag) -> bool:
        def change() -> None:
            self.world.card = before[0].model_copy(update={"connected": before[0].connected and self.world.on})

        self.world.act("unfence", change)
        return True

    def power_on(self, session: Any, vm: str, *, server: str, cancel: CancelFlag) -> bool:
        def change() -> None:
            self.world.on = True
            start = self.world.card.start_connected
            self.world.card = self.world.card.model_copy(update={"connected": start})

        self.world.act("power on", change)
        return True


class Aws:
    """Both :class:`Ec2` and :class:`Instances`, over the world that was given as the access."""

    def __init__(self, world: Any) -> None:
        self.world: World = world

    def _all(self) -> list[Instance]:
        return [Instance("i-1", self.world.instance)] if self.world.instance else []

    def find_ours(self, tags: Any) -> Any:
        assert tags == {TAG_RUN: run_hash(KEY)}
        self.world.die("before describing")
        return type("Found", (), {"instances": self._all()})

    def describe_instances(self, ids: Any) -> dict[str, Instance]:
        return {one.instance_id: one for one in self._all() if one.instance_id in ids}

    def stop(self, instance: str, *, force: bool = False) -> str:
        def change() -> None:
            if not self.world.stubborn:
                self.world.instance = "stopped" if self.world.instance == "stopping" else "stopping"

        self.world.act("stop", change)
        return self.world.instance


@dataclass
class Lead(Step):
    """Lets the record lead to the instance."""

    kind = "lead"
    world: World

    name = words = undo_words = "lead"

    def read(self) -> State:
        self.world.die("before looking at the record")
        return self.world.record

    def wanted(self, before: State) -> State:
        return "instance"

    def change(self, now: State, to: State) -> str:
        def write() -> None:
            self.world.record = to

        self.world.act(f"record to {to}", write)
        return "r1"

    def settled(self, to: State, receipt: str = "") -> Outcome:
        if self.world.settles_after:
            self.world.settles_after -= 1
            return StepWaits("until it is in sync", "in sync|r1", receipt)
        return Settled()


@dataclass
class Story:
    """A world, a ledger, and the processes that act on them."""

    ledger: Ledger
    folder: Path
    world: World = field(default_factory=World)
    clock: HandClock = field(default_factory=HandClock)
    checkpoints: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)
    moving_alive: bool = False
    undone: Undone | None = None
    started: list[StartedSource] = field(default_factory=list)

    def ctx(self, run: DagRun) -> RunContext:
        alive = Alive(run=lambda asked: asked != MOVING or self.moving_alive)
        return run_context(run, "web01", clock=self.clock, liveness=alive, checkpoints=self.checkpoints)

    @property
    def known(self) -> Cutover:
        return within(self.ledger.read(), cutovers.get, cutovers.cutover_id(KEY))

    def change(self, **columns: Any) -> None:
        with self.ledger.write(jobs.lock_name("erp")) as tx:
            cutovers.apply(tx, cutovers.get(tx, self.known.id), "test", at=self.clock.now(), by="test", **columns)

    # Forward: what other modules do, as short as it can be

    def open(self) -> None:
        with self.ledger.write(jobs.lock_name("erp")) as tx:
            cutovers.insert(
                tx,
                at=self.clock.now(),
                by="ann",
                run=MOVING,
                run_key=KEY,
                wave="erp",
                server="web01",
                environment="prod",
                state=CutoverState.GOING,
                target=TARGET,
            )
        planned = Planned("lead", "lead", "Lead to the instance", "Lead back", {})
        write_plan(self.ledger, cutover_subject(self.known), [planned], clock=self.clock)

    def reserve(self) -> None:
        if self.known.state in (CutoverState.GOING, CutoverState.FAILED):
            self.change(state=CutoverState.MOVING, source=BEFORE.dump())

    def _moves(self) -> bool:
        return self.known.state is CutoverState.MOVING

    def stop_source(self) -> None:
        if self._moves():
            self.world.act("shut down", lambda: setattr(self.world, "on", False))
            self.world.act("fence", lambda: setattr(self.world, "card", FENCED))

    def launch(self) -> None:
        if self._moves() and not self.world.on and self.world.card.fenced:
            if self.world.instance in ("", "stopped"):
                self.world.act("launch", lambda: setattr(self.world, "instance", "running"))
            self.change(instance_id="i-1")

    def switch(self) -> None:
        if not self._moves() or self.world.instance != "running":
            return
        facts = Facts(instance_id="i-1")
        subject = cutover_subject(self.known)
        found = advance(self.ledger, self.world, subject, self.ctx(MOVING), facts=facts)  # type: ignore[arg-type]
        if not isinstance(found, Waits):
            with self.ledger.write(jobs.lock_name("erp")) as tx:
                now, state = self.clock.now(), CutoverState.SWITCHED
                cutovers.note_time(tx, cutovers.get(tx, self.known.id), "switched", at=now, by="test", state=state)

    def report(self) -> None:
        if self._moves():
            self.change(state=CutoverState.FAILED, error="it broke")

    # Back: the real thing

    def undo(self) -> None:
        ctx = self.ctx(REVERT)
        found = back.undo(
            self.ledger,
            lambda place: self.world,  # type: ignore[arg-type, return-value]
            [self.known.id],
            ctx,
            key_file=self.folder / "keys" / "key",
        )
        self.undone = None if isinstance(found, Waiting) else found

    def start_sources(self) -> None:
        if self.undone is not None:
            self.started = [start_source(None, one, CancelFlag()) for one in self.undone.sources]  # type: ignore[arg-type]

    def reverted(self) -> None:
        if self.undone is not None:
            ctx = self.ctx(REVERT)
            access: Any = lambda place: self.world  # noqa: E731
            ended = back.reverted(self.ledger, access, [self.known.id], self.undone, self.started, ctx)
            back.raise_when_failed(ended)

    # Others

    def wait(self) -> None:
        self.clock.sleep(timedelta(minutes=25).total_seconds())

    def act(self, name: str) -> None:
        """One event. Whatever fails, the world must be safe and the ledger must remember."""
        try:
            getattr(self, name)()
        except (Killed, WaveliftError):
            pass
        self.check()

    def check(self) -> None:
        self.world.check()
        known = self.known
        (row,) = within(self.ledger.read(), cutovers.steps_of, cutovers.CUTOVER_KIND, known.id)
        if self.world.record == "instance":
            assert row.before == "source", "the way back of the record is lost"
        if self.world.card.fenced or not self.world.on:
            assert known.source == BEFORE.dump(), "what the source was is lost"
        serves = self.world.source_reachable or (
            self.world.instance == "running" and known.state is CutoverState.SWITCHED
        )
        if known.state is CutoverState.REVERTED:
            assert self.world.source_reachable
            assert self.world.card == CARD
            assert self.world.record == "source"
            assert self.world.instance in ("", "stopped")
            assert row.state in (StepState.PLANNED, StepState.UNDONE)
        elif not serves:
            # Open and told as such: `cutover_upkeep` alarms once its run is over.
            assert known.state in (
                CutoverState.MOVING,
                CutoverState.FAILED,
                CutoverState.REVERTING,
                CutoverState.SWITCHED,
            )

    def alerts(self) -> list[str]:
        found = within(self.ledger.read(), list_events, object_id=self.known.id)
        return [each.details["kind"] for each in found if each.action == back.ALERT]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back, "Ec2", Aws)
    monkeypatch.setattr(back, "Instances", Aws)
    build: Any = lambda aws, name, spec, facts: Lead(aws)  # noqa: E731
    monkeypatch.setitem(step_kinds._BUILDERS, "lead", build)


def _story(folder: Path) -> Story:
    keygen(KeyFiles(folder / "keys" / "key", folder / "public"))
    story = Story(fresh_ledger(folder / "ledger.db"), folder)
    RETURN.switch = Vcenter(story.world)
    story.open()
    return story


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setattr(source_return, "switch", RETURN.switch)  # and put back
    made = _story(tmp_path)
    yield made
    made.ledger.close()


FORWARD = ("reserve", "stop_source", "launch", "switch")


def go_all_the_way_back(story: Story) -> None:
    for _ in range(6):
        story.undo()
        if story.undone is not None:
            break
    story.start_sources()
    story.reverted()


def test_the_way_back_ends_where_it_began(story: Story) -> None:
    for name in FORWARD:
        getattr(story, name)()
    assert (story.world.record, story.world.instance, story.world.on) == ("instance", "running", False)
    go_all_the_way_back(story)
    known = story.known
    assert known.state is CutoverState.REVERTED
    assert "i-1, stopped, keeps what was written since" in known.phase
    story.check()
    assert known.moment("source_up") is not None
    story.undo()
    story.reverted()
    assert story.known.version == known.version, "repeated, it changes nothing"


@pytest.mark.parametrize("done", range(1, len(FORWARD)))
@pytest.mark.parametrize("broke", [True, False], ids=["failed", "moving"])
def test_a_cutover_that_broke_anywhere_goes_back(story: Story, done: int, broke: bool) -> None:
    """Also one whose source was never really stopped, or that never launched anything."""
    for name in FORWARD[:done]:
        getattr(story, name)()
    if broke:
        story.report()
    go_all_the_way_back(story)
    assert story.known.state is CutoverState.REVERTED
    story.check()


def test_an_instance_that_nobody_could_note_is_found(story: Story) -> None:
    story.reserve()
    story.stop_source()
    story.world.instance = "running"  # killed between the launch and the note
    go_all_the_way_back(story)
    assert (story.known.state, story.world.instance) == (CutoverState.REVERTED, "stopped")


def test_an_instance_that_does_not_stop_keeps_its_source_off_and_alarms(story: Story) -> None:
    for name in FORWARD:
        getattr(story, name)()
    story.world.stubborn = True
    story.undo()
    assert story.undone is None
    story.wait()
    story.undo()
    assert story.undone is not None
    assert "has not stopped" in story.undone.failed[story.known.id]
    assert story.undone.sources == ()
    assert story.alerts() == ["instance_runs"]
    with pytest.raises(PermanentError, match="not done"):
        story.reverted()
    assert story.known.state is CutoverState.REVERTING
    assert not story.world.on
    story.world.stubborn = False  # a person stops it, and clears the task
    go_all_the_way_back(story)
    assert story.known.state is CutoverState.REVERTED


def test_somebody_elses_record_stops_the_way_back_before_the_instance(story: Story) -> None:
    for name in FORWARD:
        getattr(story, name)()
    story.world.record = "theirs"
    story.undo()
    assert story.undone is not None
    assert "now=theirs" in story.undone.failed[story.known.id]
    assert (story.world.instance, story.world.record) == ("running", "theirs")


def test_a_call_of_the_run_that_moves_gets_time_to_end(story: Story) -> None:
    story.moving_alive = True
    for name in FORWARD:
        getattr(story, name)()
    story.undo()
    assert story.undone is None
    assert story.world.record == "instance"
    story.clock.sleep(60)
    story.undo()
    assert story.world.record == "source"


def test_a_launch_of_which_nobody_knows_the_end_gets_time_to_show(story: Story) -> None:
    """Also when its run was ended: its task may be in the middle of the call."""
    for name in ("reserve", "stop_source"):
        getattr(story, name)()
    story.change(times={**(story.known.times or {}), "launching": story.clock.now().isoformat()})
    story.undo()
    assert story.undone is None
    story.world.instance = "running"  # EC2's answer reached nobody
    story.clock.sleep(60)
    story.undo()
    assert (story.undone, story.world.instance) == (None, "stopping")
    while story.undone is None:
        story.undo()
    story.start_sources()
    story.world.card = FENCED  # so that the world does not call it a twin
    story.world.instance = "running"
    with pytest.raises(PermanentError, match="was started while its source came back"):
        story.reverted()


def test_an_instance_that_was_started_while_its_source_came_back_is_stopped_and_told(story: Story) -> None:
    for name in FORWARD:
        getattr(story, name)()
    while story.undone is None:
        story.undo()
    story.start_sources()
    story.world.card = FENCED  # so that the world does not call it a twin
    story.world.instance = "running"
    with pytest.raises(PermanentError, match="was started while its source came back"):
        story.reverted()
    assert story.alerts() == ["both_run"]
    assert story.world.instance == "stopping"


def test_an_instance_that_nobody_noted_and_that_comes_late_is_stopped_and_told(story: Story) -> None:
    """The launch was under way when its task was killed: EC2 shows the instance only after the look."""
    story.reserve()
    story.stop_source()
    while story.undone is None:
        story.undo()
    story.start_sources()
    story.world.card = FENCED  # so that the world does not call it a twin
    story.world.instance = "running"
    assert not story.known.instance_id
    with pytest.raises(PermanentError, match="was started while its source came back"):
        story.reverted()
    assert story.alerts() == ["both_run"]
    assert story.world.instance == "stopping"


def test_a_source_that_did_not_start_is_no_success(story: Story) -> None:
    for name in FORWARD:
        getattr(story, name)()
    while story.undone is None:
        story.undo()
    story.started = [StartedSource(server="web01", cutover=story.known.id, error="no host has room")]
    with pytest.raises(PermanentError, match="no host has room"):
        story.reverted()
    assert (story.known.state, story.known.error) == (CutoverState.REVERTING, "no host has room")
    story.started = []
    with pytest.raises(PermanentError, match="was not started"):
        story.reverted()


def test_a_source_that_was_off_stays_off(story: Story) -> None:
    off = BEFORE.model_copy(update={"powered_on": False, "cards": (CARD.model_copy(update={"connected": False}),)})
    story.world.on, story.world.card = False, FENCED
    source = SourceToStart(server="web01", cutover="cut-1", environment="prod", before=off)
    assert start_source(None, source, CancelFlag()).powered_on is False  # type: ignore[arg-type]
    assert not story.world.on
    assert story.world.card == off.cards[0]


def test_a_fenced_source_without_stored_cards_is_left_to_people(story: Story) -> None:
    story.world.on, story.world.card = False, FENCED
    source = SourceToStart(
        server="web01", cutover="cut-1", environment="prod", before=BEFORE.model_copy(update={"cards": ()})
    )
    with pytest.raises(PermanentError, match="not stored"):
        start_source(None, source, CancelFlag())  # type: ignore[arg-type]
    assert not story.world.on


def test_another_run_that_reverts_is_left_alone(story: Story) -> None:
    for name in FORWARD:
        getattr(story, name)()
    story.change(state=CutoverState.REVERTING, revert_run="revert__2")
    story.undo()
    assert story.undone is not None
    assert "Another run reverts" in story.undone.failed[story.known.id]
    assert story.world.record == "instance"


POINTS = [
    f"{when} {what}" for what in ("record to source", "stop", "unfence", "power on") for when in ("before", "after")
]


@pytest.mark.parametrize("point", [*POINTS, "before describing", "before looking at the record"])
@pytest.mark.parametrize("lost", [Killed, UnreachableError])
def test_a_revert_that_is_killed_between_any_two_steps_goes_on(
    story: Story, point: str, lost: type[BaseException]
) -> None:
    for name in FORWARD:
        getattr(story, name)()
    left = [point]

    def die(moment: str) -> None:
        if moment in left:
            left.remove(moment)
            raise lost("killed")

    story.world.die = die
    for _ in range(12):
        for name in ("undo", "start_sources", "reverted"):
            story.act(name)
    assert not left
    assert story.known.state is CutoverState.REVERTED
    story.check()


ACTS = st.sampled_from(
    [*FORWARD, "report", "undo", "start_sources", "reverted", "wait", "kill", "lose", "slow", "stubborn", "willing"]
)


@pytest.mark.timeout(1800)
@given(st.integers(0, len(FORWARD)), st.lists(ACTS, max_size=20))
@examples(25, 200)
def test_inv_12_no_order_gives_both_an_address_nobody_without_an_alert_or_loses_before(
    begun: int, acts: list[str]
) -> None:
    kept = RETURN.switch
    with memory_folder() as folder:
        story = _story(Path(folder))
        try:
            _play(story, [*FORWARD[:begun], *acts])
        finally:
            RETURN.switch = kept
            story.ledger.close()


def _play(story: Story, acts: Sequence[str]) -> None:
    armed: list[type[BaseException]] = []

    def die(moment: str) -> None:
        if armed:
            raise armed.pop()("killed")

    story.world.die = die
    for act in acts:
        if act in ("kill", "lose"):
            armed.append(Killed if act == "kill" else UnreachableError)
        elif act == "slow":
            story.world.settles_after = 1
        elif act in ("stubborn", "willing"):
            story.world.stubborn = act == "stubborn"
        else:
            story.act(act)
    # In the end somebody reverts what was touched: it always comes back.
    armed.clear()
    story.world.stubborn = False
    story.report()
    if story.known.state.touched:
        story.checkpoints.values.clear()
        for _ in range(8):
            for name in ("undo", "start_sources", "reverted"):
                story.act(name)
        assert story.known.state is CutoverState.REVERTED
        story.check()


# The watch, and servers that nobody serves


class OpenRights:
    """Everybody may, or nobody."""

    def __init__(self, denial: Any = None) -> None:
        self.denial = denial

    def at(self, environment: str) -> Any:
        denial = self.denial
        return type("Bench", (), {"decide": lambda self, tx, requester, action, *, now: denial})()


def look(story: Story, connector: str = "dc1") -> list[SeenSource]:
    return [look_at(None, one) for one in watch.watched(story.ledger, connector)]  # type: ignore[arg-type]


def judged(story: Story, fence: str = "alert", rights: Any = None, seen: Any = None) -> watch.Judged:
    plan = type("Plan", (), {"cutover": CutoverPlan(fence=fence)})  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "plan_of_cutover", lambda ledger, known: plan)
        ctx = story.ctx(DagRun("cutover_watch", "scheduled__1"))
        may: Any = rights or OpenRights()
        key = story.folder / "keys" / "key"
        return watch.judge(story.ledger, look(story) if seen is None else seen, ctx, rights=may, key_file=key)


@pytest.fixture
def switched(story: Story, monkeypatch: pytest.MonkeyPatch) -> Story:
    monkeypatch.setattr(source_watch, "switch", RETURN.switch)
    for name in FORWARD:
        getattr(story, name)()
    story.change(times={**(story.known.times or {}), "down": story.clock.now().isoformat()})
    return story


def test_a_fenced_source_that_is_off_is_no_alert(switched: Story) -> None:
    (seen,) = look(switched)
    assert seen.wrong == ""
    assert judged(switched) == watch.Judged()
    assert look(switched, "other") == [], "another connector cannot reach it"
    assert switched.alerts() == []


def test_a_source_that_is_on_or_connected_is_told_once_for_each_change(switched: Story) -> None:
    switched.world.on = True
    first = judged(switched).wrong
    assert len(first) == 1
    switched.clock.sleep(900)
    assert judged(switched).wrong == first, "as the same alert"
    assert switched.alerts() == ["fence"]
    switched.world.instance = "stopped"  # so that the world does not call it a twin
    switched.world.card = CARD
    assert "on and its network cards 4000" in judged(switched).wrong[0].words
    assert switched.alerts() == ["fence", "fence"]


def test_only_a_file_that_says_so_fences_again_and_only_by_right(switched: Story) -> None:
    switched.world.on = True
    assert judged(switched).fence == ()
    denied = OpenRights("no")
    assert judged(switched, "enforce", denied).fence == ()
    (granted,) = judged(switched, "enforce").fence
    assert granted.token
    assert granted.before == BEFORE
    assert switched.known.moment(watch.FENCE_GRANTED) is not None


def test_a_revert_waits_until_no_fence_can_come_any_more(switched: Story) -> None:
    switched.world.on = True
    judged(switched, "enforce")
    switched.undo()
    assert switched.undone is None
    assert switched.world.record == "instance"
    switched.clock.sleep(back.FENCE_GRACE.total_seconds())
    go_all_the_way_back(switched)
    assert switched.known.state is CutoverState.REVERTED


def test_what_is_reverted_meanwhile_is_neither_told_nor_fenced(switched: Story) -> None:
    switched.world.on = True
    seen = look(switched)
    switched.change(state=CutoverState.REVERTING)
    assert judged(switched, "enforce", seen=seen) == watch.Judged()


def test_a_source_that_nobody_can_look_at_is_told_once_a_day(switched: Story) -> None:
    (one,) = watch.watched(switched.ledger, "dc1")
    unseen = [SeenSource.unseen(one, PermanentError("vCenter does not answer"))]
    (first,) = judged(switched, "enforce", seen=unseen).wrong
    assert "nobody can tell" in first.words
    switched.clock.sleep(900)
    found = judged(switched, "enforce", seen=unseen)
    assert (found.wrong, found.fence) == ((first,), ())
    switched.clock.sleep(86_400)
    assert judged(switched, seen=unseen).wrong != (first,)
    assert switched.alerts() == ["fence", "fence"]


@pytest.mark.parametrize(("budget", "minutes"), [(None, 60), (15, 15)])
def test_a_server_that_is_down_for_too_long_is_an_alarm_though_its_run_goes_on(
    story: Story, monkeypatch: pytest.MonkeyPatch, budget: float | None, minutes: int
) -> None:
    plan = type("Plan", (), {"cutover": CutoverPlan(downtime_minutes=budget)})
    monkeypatch.setattr(watch, "plan_of_cutover", lambda ledger, known: plan)
    story.reserve()
    story.moving_alive = True
    ctx = story.ctx(DagRun("cutover_upkeep", "scheduled__1"))
    story.clock.sleep(7200)
    assert watch.alarm(story.ledger, ctx) == (), "its source still runs"
    story.change(times={**(story.known.times or {}), "down": story.clock.now().isoformat()})
    story.clock.sleep(minutes * 60)
    assert watch.alarm(story.ledger, ctx) == ()
    story.clock.sleep(1)
    (told,) = watch.alarm(story.ledger, ctx)
    assert f"longer than {minutes} minutes" in told.words
    assert "its run goes on" in told.words
    story.clock.sleep(900)
    assert watch.alarm(story.ledger, ctx) == (told,)
    assert story.alerts() == ["nobody_serves"], "told once"


def test_a_way_back_of_what_was_switched_counts_from_when_it_began(
    switched: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_downtime", lambda ledger, known: watch.LONGEST_DOWN)
    switched.clock.sleep(86_400)
    now = switched.clock.now().isoformat()
    switched.change(state=CutoverState.REVERTING, times={**(switched.known.times or {}), "reverting": now})
    switched.moving_alive = True
    ctx = switched.ctx(DagRun("cutover_upkeep", "scheduled__1"))
    assert watch.alarm(switched.ledger, ctx) == ()
    switched.clock.sleep(3601)
    assert len(watch.alarm(switched.ledger, ctx)) == 1


def test_a_server_that_nobody_serves_is_an_alarm_once_its_runs_are_over(story: Story) -> None:
    story.reserve()
    story.moving_alive = True
    ctx = story.ctx(DagRun("cutover_upkeep", "scheduled__1"))
    assert watch.alarm(story.ledger, ctx) == ()
    story.moving_alive = False
    story.report()
    assert len(watch.alarm(story.ledger, ctx)) == 1
    watch.alarm(story.ledger, ctx)
    assert story.alerts() == ["nobody_serves"], "told once"
    go_all_the_way_back(story)
    assert watch.alarm(story.ledger, ctx) == ()
