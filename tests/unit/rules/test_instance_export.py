"""The states of an instance export: every way, and what no walk of allowed ways can do."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import PermanentError
from wavelift.rules.instance_export import CANCELLABLE, OPEN, ExportState, require_export_way

pytestmark = pytest.mark.unit
S = ExportState
states = st.sampled_from(list(S))


def allowed(before: ExportState, after: ExportState) -> bool:
    try:
        require_export_way(before, after, export="exp-0123456789ab")
    except PermanentError:
        return False
    return True


def walk(targets: list[ExportState]) -> list[ExportState]:
    """The states of a walk from QUEUED that leaves out what is not allowed."""
    path = [S.QUEUED]
    for target in targets:
        if allowed(path[-1], target):
            path.append(target)
    return path


@pytest.mark.parametrize(
    "path",
    [
        (S.QUEUED, S.CHECKING, S.ACTIVE, S.VERIFYING, S.COMPLETED),
        (S.QUEUED, S.CHECKING, S.FAILED),
        (S.QUEUED, S.CANCELLED),
        (S.CHECKING, S.QUEUED, S.ACTIVE),
        (S.ACTIVE, S.CANCELLING, S.CANCELLED),
        (S.ACTIVE, S.CANCELLING, S.FAILED),
        (S.VERIFYING, S.FAILED, S.QUEUED, S.CHECKING, S.ACTIVE),
        (S.CANCELLED, S.CHECKING),
    ],
    ids=lambda path: "-".join(path),
)
def test_the_ways_of_an_export(path: tuple[ExportState, ...]) -> None:
    assert all(allowed(before, after) for before, after in itertools.pairwise(path))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (S.QUEUED, S.VERIFYING),
        (S.QUEUED, S.COMPLETED),
        (S.CHECKING, S.COMPLETED),
        (S.ACTIVE, S.COMPLETED),
        (S.VERIFYING, S.CANCELLING),
        (S.VERIFYING, S.CANCELLED),
        (S.CANCELLING, S.ACTIVE),
        (S.CANCELLING, S.QUEUED),
        (S.CANCELLING, S.VERIFYING),
        (S.FAILED, S.COMPLETED),
        (S.CANCELLED, S.ACTIVE),
    ],
)
def test_what_no_export_does(before: ExportState, after: ExportState) -> None:
    assert not allowed(before, after)


@given(states, states)
def test_the_refusal_says_both_states_and_where_to_look(before: ExportState, after: ExportState) -> None:
    if allowed(before, after):
        return
    with pytest.raises(PermanentError, match=f"from {before} to {after}") as refused:
        require_export_way(before, after, export="exp-0123456789ab")
    assert refused.value.next_step
    assert refused.value.where == {"export": "exp-0123456789ab"}


@given(states)
def test_a_repeated_write_is_allowed(state: ExportState) -> None:
    assert allowed(state, state)


@given(st.lists(states, max_size=40))
def test_a_completed_export_was_verified_and_stays_completed(targets: list[ExportState]) -> None:
    path = walk(targets)
    if S.COMPLETED in path:
        done = path.index(S.COMPLETED)
        assert set(path[done:]) == {S.COMPLETED}
        assert path[done - 1] is S.VERIFYING


@given(st.lists(states, max_size=40))
def test_what_is_verified_has_begun(targets: list[ExportState]) -> None:
    path = walk(targets)
    for before, after in itertools.pairwise(path):
        if after is S.VERIFYING:
            assert before in (S.ACTIVE, S.VERIFYING)


@given(st.lists(states, max_size=40))
def test_a_cancellation_ends_and_only_a_cleared_run_begins_again(targets: list[ExportState]) -> None:
    path = walk(targets)
    for before, after in itertools.pairwise(path):
        if before is S.CANCELLING:
            assert after in (S.CANCELLING, S.CANCELLED, S.FAILED)
        if before.terminal and after is not before:
            assert before is not S.COMPLETED
            assert after in (S.QUEUED, S.CHECKING)


def test_which_states_are_open_and_which_can_be_cancelled() -> None:
    assert {state for state in S if state.terminal} == {S.COMPLETED, S.CANCELLED, S.FAILED} == set(S) - OPEN
    assert OPEN - {S.VERIFYING} == CANCELLABLE
    assert {state for state in S if allowed(state, S.CANCELLING)} == CANCELLABLE
    assert {state for state in S if allowed(state, S.FAILED)} == OPEN | {S.FAILED}


def test_every_state_is_reached() -> None:
    reached, todo = {S.QUEUED}, [S.QUEUED]
    while todo:
        here = todo.pop()
        new = {each for each in S if allowed(here, each)} - reached
        reached |= new
        todo += new
    assert reached == set(S)
