"""The engine of undoable steps: whatever happens in whatever order, nobody's change is overwritten and no ``before`` is
lost (invariant 12)."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import BusyError, PermanentError, UnreachableError
from wavelift.services.dataplane.steps import step as step_module
from wavelift.services.dataplane.steps.person import Answer, Person
from wavelift.services.dataplane.steps.poll import answered, in_sync, poll
from wavelift.services.dataplane.steps.step import (
    ChangedElsewhere,
    Outcome,
    Settled,
    State,
    Step,
    Waiting,
    apply,
    look,
    undo,
    verify,
)

pytestmark = pytest.mark.unit

OLD, HALF, NEW = "old", "half", "new"


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Place:
    """Something outside that several people write to."""

    value: str = OLD
    settles_after: int = 0
    writes: list[tuple[str, str]] = field(default_factory=list)
    """Of the step: what was there, and what it wrote."""
    trouble: list[str] = field(default_factory=list)
    """What happens at the next writes of the step."""
    receipts: int = 0
    late: int = 0
    """Reads after a write that still show the state before it."""


@dataclass
class Memory(Step):
    """A step over :class:`Place`. ``hops`` are the values it writes one after the other."""

    kind = "memory"
    place: Place
    middle: bool = False

    @property
    def name(self) -> str:
        return "memory:place"

    @property
    def words(self) -> str:
        return "Write"

    @property
    def undo_words(self) -> str:
        return "Write the old value"

    def read(self) -> State:
        if self.place.writes and self.place.late:
            self.place.late -= 1
            return self.place.writes[-1][0]
        return self.place.value

    def wanted(self, before: State) -> State:
        if before == "impossible":
            raise PermanentError("that can't be")
        return NEW

    def between(self, before: State) -> Sequence[State]:
        return (HALF,) if self.middle else ()

    def change(self, now: State, to: State) -> str:
        hops = [HALF, to] if self.middle and now != HALF else [to]
        for hop in hops:
            self._write(now, hop)
            now = hop
        self.place.receipts += 1
        return f"r{self.place.receipts}"

    def _write(self, now: State, to: State) -> None:
        trouble = self.place.trouble.pop(0) if self.place.trouble else "none"
        if trouble == "killed before":
            raise Killed
        if trouble == "refused":
            raise UnreachableError("no answer")
        if trouble.startswith("race "):
            self.place.value = trouble.removeprefix("race ")
        if self.place.value != now:
            raise PermanentError("AWS says that it is not as it was")
        self.place.writes.append((self.place.value, to))
        self.place.value = to
        if trouble == "killed after":
            raise Killed
        if trouble == "answer lost":
            raise UnreachableError("the line was cut")

    def renew(self, to: State) -> str:
        self.place.receipts += 1
        return f"r{self.place.receipts}"

    def settled(self, to: State, receipt: str = "") -> Outcome:
        if self.place.settles_after:
            self.place.settles_after -= 1
            return Waiting("for the place", "memory|place")
        return Settled()


acts = st.one_of(
    st.sampled_from(["apply", "undo", "verify"]),
    st.sampled_from([OLD, HALF, NEW, "theirs", "others"]).map("outside ".__add__),
    st.sampled_from(["killed before", "killed after", "answer lost", "refused", "race theirs", f"race {OLD}", "none"]),
)


CALLS = {"apply": (apply, NEW), "undo": (undo, OLD), "verify": (verify, NEW)}


def _act(place: Place, middle: bool, before: str, act: str) -> ChangedElsewhere | None:
    """One event of a story. Each try is another process."""
    if act not in CALLS:
        if act.startswith("outside "):
            place.value = act.removeprefix("outside ")
        else:
            place.trouble.append(act)
        return None
    call, aim = CALLS[act]
    try:
        assert call(Memory(place, middle), before) == Settled()
    except ChangedElsewhere as error:
        return error
    except (Killed, PermanentError, UnreachableError):
        return None
    assert place.value == aim
    return None


@given(st.lists(acts, max_size=30), st.booleans())
@examples(200, 3000)
def test_inv_12_no_order_overwrites_a_change_or_loses_before(story: list[str], middle: bool) -> None:
    place = Place()
    before = json.loads(json.dumps(look(Memory(place, middle))))
    known = {before, NEW, *([HALF] if middle else [])}
    for act in story:
        found, written = place.value, len(place.writes)
        error = _act(place, middle, before, act)
        if error is not None:
            assert (error.before, error.wanted, error.now) == (before, NEW, place.value)
            assert act == "verify" or error.now not in known
        if act == "verify" or found not in known:
            assert len(place.writes) == written
        assert all(value in known for value, _ in place.writes)
    place.trouble.clear()
    if place.value in known:
        assert apply(Memory(place, middle), before) == undo(Memory(place, middle), before) == Settled()
        assert place.value == before


def test_a_lost_answer_is_found_and_asked_for_again() -> None:
    place = Place(trouble=["answer lost"], settles_after=2)
    step = Memory(place)
    assert apply(step, OLD) == Waiting("for the place", "memory|place", "r1")
    assert apply(step, OLD, "r1") == Waiting("for the place", "memory|place", "r1")
    assert apply(step, OLD, "r1") == Settled()
    assert place.writes == [(OLD, NEW)]
    assert place.receipts == 1, "a receipt that is known is not renewed"


def test_somebody_elses_change_is_shown_with_all_three() -> None:
    place = Place(value="theirs")
    for call in (apply, undo, verify):
        with pytest.raises(ChangedElsewhere) as raised:
            call(Memory(place), OLD)
        text = str(raised.value)
        assert all(word in text for word in ("memory:place", "before=old", "wanted=new", "now=theirs"))
        again = pickle.loads(pickle.dumps(raised.value))
        assert (str(again), again.before, again.wanted, again.now) == (text, OLD, NEW, "theirs")
        assert not again.retryable
    assert place.writes == []


def test_what_came_between_reading_and_writing_is_somebodys_change() -> None:
    place = Place(trouble=["race theirs"])
    with pytest.raises(ChangedElsewhere, match="now=theirs"):
        apply(Memory(place), OLD)
    assert (place.value, place.writes) == ("theirs", [])


def test_verify_writes_nothing_and_says_that_a_step_was_undone() -> None:
    place = Place()
    with pytest.raises(ChangedElsewhere, match="is not as the step left it"):
        verify(Memory(place), OLD)
    place.value, place.settles_after = NEW, 1
    assert verify(Memory(place), OLD) == Waiting("for the place", "memory|place")
    assert place.writes == []


def test_what_was_written_is_waited_for_until_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """EC2 is consistent in the end."""
    monkeypatch.setattr(step_module, "SEEN_POLL_S", 0.0)
    place = Place(late=3)
    assert apply(Memory(place), OLD) == Settled()
    assert (place.late, place.writes) == (0, [(OLD, NEW)])
    monkeypatch.setattr(step_module, "SEEN_WAIT_S", 0.0)
    place = Place(late=9)
    with pytest.raises(BusyError, match="still shows the old state"):
        apply(Memory(place), OLD)


def test_an_impossible_step_is_refused_by_the_look() -> None:
    with pytest.raises(PermanentError, match="can't be"):
        look(Memory(Place("impossible")))


def test_a_person_is_waited_for_in_both_directions() -> None:
    answers: dict[str, Answer] = {}
    step = Person(
        key="router", what="Move the route", undo_what="Move it back", last_answer=lambda name: answers.get(name, "")
    )
    before = look(step)
    asked = apply(step, before)
    assert asked == Waiting("until somebody confirms: Move the route", "person|person:router")
    with pytest.raises(ChangedElsewhere):
        verify(step, before)
    assert undo(step, before) == Settled(), "nobody did it"
    answers[step.name] = "done"
    assert apply(step, before) == verify(step, before) == Settled()
    assert undo(step, before) == Waiting("until somebody confirms: Move it back", "person|person:router")
    answers[step.name] = "undone"
    assert undo(step, before) == Settled()


def test_what_no_aws_call_tells_is_not_polled() -> None:
    with pytest.raises(PermanentError, match="nothing here can poll"):
        poll(None, [answered("person:router")])  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="no id has"):
        in_sync("a|b")
