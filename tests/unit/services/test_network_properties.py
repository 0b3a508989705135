"""A network's cutover under any order of tasks, deaths, clears, cancels and reverts, at the level of the ledger.

Here the queue does what an order says and reads nothing beside: what keeps both sides from routing at once is the
ledger, and the fence against clears. (The queue's own look at the other side is tested where the queue is.)
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.depth import depth
from tests.ledgers import fresh_ledger, memory_folder
from tests.network_world import Sides, World, spec

from wavelift.base.errors import PermanentError, UnreachableError, WaveliftError
from wavelift.rules.network_cutover import OFF, ON, NetworkState
from wavelift.services.dataplane.network_messages import Acted, NetworkOrder, Probed
from wavelift.services.network import settle
from wavelift.services.network.orders import AsksPerson

pytestmark = pytest.mark.unit

FORWARD: Final = (("disconnect", "source"), ("unextend", "extension"), ("connect", "destination"))
BACK: Final = (("isolate", "destination"), ("extend", "extension"), ("reconnect", "source"))
BEGINS: Final = {"cutover": ("admit", "record"), "revert": ("admit",)}
ENDS: Final = {"cutover": "settle", "revert": "reverted"}
FAULTS: Final = ("", "", "", "before", "after")
"""Mostly none; the task fails before its write, or dies after it."""
SMALL: Final = st.integers(0, 30)


@dataclass
class Run:
    """A DAG run: what its tasks returned, as Airflow keeps it."""

    id: str
    mode: str
    conf: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    failed: str = ""
    alone: str = ""
    """The only task that was cleared."""

    @property
    def acts(self) -> tuple[tuple[str, str], ...]:
        return FORWARD if self.mode == "cutover" else BACK

    @property
    def tasks(self) -> tuple[str, ...]:
        pairs = (name for task, _ in self.acts for name in (f"order_{task}", task))
        return (*BEGINS[self.mode], *pairs, ENDS[self.mode])

    @property
    def next(self) -> str:
        if self.alone:
            return self.alone
        return next((name for name in self.tasks if name not in self.done), "")


class Cutover(RuleBasedStateMachine):
    by: str = "nsx"

    @initialize(stops=st.booleans())
    def open(self, stops: bool) -> None:
        self.folder = memory_folder()
        self.keys = tempfile.TemporaryDirectory()
        ledger = fresh_ledger(Path(self.folder.name) / "ledger.db")
        source = {"network": "VLAN-12", "disconnect": {"by": self.by}}
        if self.by == "nsx":
            source["segment"] = "/infra/segments/vlan12"
        file = spec(source=source, on_failure="stop" if stops else "revert", soak_hours=0)
        self.world = World(ledger, Path(self.keys.name), sides=Sides(guarded=False), spec=file)
        self.runs: list[Run] = []
        self.asked: AsksPerson | None = None

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.ledger.close()
            self.folder.cleanup()
            self.keys.cleanup()

    # What people and Airflow do

    @rule(mode=st.sampled_from(["cutover", "revert"]))
    def trigger(self, mode: str) -> None:
        self._begin(Run(f"run{len(self.runs)}", mode))

    @rule(which=SMALL, fault=st.sampled_from(FAULTS))
    def step(self, which: int, fault: str) -> None:
        """The next task of a run that lives."""
        living = [run for run in self.runs if run.id in self.world.alive]
        if living:
            self._work(living[which % len(living)], fault)

    @rule(which=SMALL)
    def all_the_way(self, which: int) -> None:
        """One run goes on until it ends, or waits for a person."""
        living = [run for run in self.runs if run.id in self.world.alive]
        if living:
            run = living[which % len(living)]
            for _ in range(len(run.tasks) + 1):
                if run.id in self.world.alive and not self._work(run, ""):
                    return

    @rule(which=SMALL, task=SMALL, alone=st.booleans())
    def clear(self, which: int, task: int, alone: bool) -> None:
        """Any task of a run, with all that comes after it or alone."""
        if not self.runs:
            return
        run = self.runs[which % len(self.runs)]
        name = run.tasks[task % len(run.tasks)]
        self.world.clear(run.id)
        run.failed, run.alone = "", name if alone and name in run.done else ""
        if not run.alone:
            for each in run.tasks[run.tasks.index(name) :]:
                run.done.pop(each, None)

    @rule(stops=st.sampled_from([0, 1, 2, 3]), task=st.sampled_from([task for task, _ in FORWARD]))
    def revert_then_clear_one_alone(self, stops: int, task: str) -> None:
        """What only the fence against clears refuses: the order of before the way back is still there.

        :param stops: how many steps go forward before it breaks.
        """
        if self.world.alive or self._open():
            return
        run = Run(f"run{len(self.runs)}", "cutover")
        self._begin(run)
        for _ in range(len(BEGINS["cutover"]) + 2 * stops - 1):
            if run.id in self.world.alive and not self._work(run, ""):
                break
        if run.id in self.world.alive:
            self._end(run, "marked failed")
        self._back()
        self.world.clear(run.id)
        run.failed, run.alone = "", task if task in run.done else ""
        if run.alone:
            self._work(run, "")
        if run.id in self.world.alive:
            self._end(run, "marked failed")

    def _open(self) -> bool:
        known = self._known()
        return known is not None and not known.state.terminal

    def _back(self) -> None:
        """The way back that began by itself, or that somebody begins, to its end; a person does as asked."""
        known = self._known()
        if known is None or known.state.terminal:
            return
        living = [run for run in self.runs if run.id in self.world.alive and run.mode == "revert"]
        if not living:
            self._begin(Run(f"run{len(self.runs)}", "revert"))
            living = self.runs[-1:]
        for _ in range(len(living[0].tasks) + 2):
            if living[0].id in self.world.alive and not self._work(living[0], ""):
                self.person(obeys=True)

    @rule(which=SMALL)
    def mark_failed(self, which: int) -> None:
        living = [run for run in self.runs if run.id in self.world.alive]
        if living:
            self._end(living[which % len(living)], "marked failed")

    @rule()
    def cancel(self) -> None:
        with_cutover = self._known()
        if with_cutover is not None:
            try:
                self.world.cancel()
            except WaveliftError:
                return

    @rule(obeys=st.booleans())
    def person(self, obeys: bool) -> None:
        """Does what was asked last, and says so; or does it and says nothing."""
        if self.asked is None:
            return
        asked, self.asked = self.asked, None
        known = self._known()
        row = self.world.rows().get("source") if known is not None else ""
        if row not in ("intended", "undoing"):
            return
        back = row == "undoing"
        if back is not (asked.direction == "back"):
            with pytest.raises(PermanentError, match="opposite"):  # what was asked last is not asked any more
                self.world.confirm(said="done" if back else "undone")
            return
        self.world.sides.source = ON if back else OFF
        self.world.sides.see()
        if obeys:
            self.world.confirm(said="undone" if back else "done")
        else:
            self.asked = asked

    @rule(hours=st.sampled_from([0.1, 30.0]))
    def time_passes(self, hours: float) -> None:
        self.world.clock.sleep(hours * 3600)

    # Always

    @invariant()
    def never_both(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.sides.both

    @invariant()
    def one_side_routes_or_somebody_is_told(self) -> None:
        if not hasattr(self, "world") or self.world.alive:
            return
        known = self._known()
        if known is None or not self.world.sides.routed_by:
            assert known is None or known.alert, known
            return
        assert len(self.world.sides.routed_by) == 1
        if known.state in (NetworkState.ENDED, NetworkState.REVERTED):
            assert self.world.sides.routed_by == ("source",)
            assert self.world.sides.extension is not None
        if known.state is NetworkState.SWITCHED:
            assert self.world.sides.routed_by == ("destination",)

    # Tasks

    def _known(self) -> Any:
        try:
            return self.world.known()
        except IndexError:
            return None

    def _begin(self, run: Run) -> None:
        self.runs.append(run)
        self.world.alive.add(run.id)
        self._work(run, "")

    def _work(self, run: Run, fault: str) -> bool:
        """One task. Whether the run goes on at once."""
        name, world = run.next, self.world
        world.clock.sleep(5)

        def fails(order: NetworkOrder, moment: str) -> None:
            if moment == fault:
                raise UnreachableError(f"dies {moment} its write")

        world.sides.fails = fails
        try:
            found = self._call(run, name) if name else None
        except WaveliftError as error:
            run.done.pop(name, None)
            self._end(run, f"{name}: {error}")
            return False
        if isinstance(found, AsksPerson):
            self.asked = found
            return False
        if name:
            run.done[name] = found
        if run.alone or not run.next:
            run.alone = ""
            if not run.next:
                self._end(run, "")
        return True

    def _call(self, run: Run, name: str) -> Any:
        world = self.world
        if name == "admit":
            world.admit(run.id, run.mode, **run.conf)
            return True
        if name == "record":
            world.record(run.id)
            return True
        place = [task for task, _ in run.acts]
        direction = "forward" if run.mode == "cutover" else "back"
        if name.startswith("order_"):
            at = place.index(name.removeprefix("order_"))
            acted = run.done.get(place[at - 1]) if at else None
            if at and acted is None:
                raise UnreachableError("upstream failed")
            return world.order(run.acts[at][1], direction, run.id, acted)
        if name in place:
            return world.act(run.done[f"order_{name}"], run.id)
        last: Acted | None = run.done.get(place[-1])
        if last is None:
            raise UnreachableError("upstream failed")
        if name == "settle":
            probed = Probed(cutover=last.cutover, passed=(), at=world.clock.now())
            return settle.settle(world.ledger, last, probed, world.ctx(run.id))
        return settle.reverted(world.ledger, last, world.ctx(run.id))

    def _end(self, run: Run, words: str) -> None:
        """Report, and the way back that it starts."""
        acted = [run.done[task] for task, _ in run.acts if isinstance(run.done.get(task), Acted)]
        self.world.report(run.id, words=words, acted=acted)
        asked = self.world.starts
        if asked is not None and all(each.id != asked.run.dag_run_id for each in self.runs):
            self._begin(Run(asked.run.dag_run_id, "revert", {"cutover": asked.conf["cutover"]}))


class ByPerson(Cutover):
    by = "person"


@pytest.mark.parametrize("machine", [Cutover, ByPerson])
def test_never_both_and_somebody_is_told_when_none(machine: type[Cutover]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=depth(10, 60),
            stateful_step_count=depth(20, 40),
            deadline=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
