"""The states of a migration: no transition leaves the order, and no migration ends twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import PermanentError
from wavelift.rules.lifecycle import TERMINAL, MigrationState, allowed, require

pytestmark = pytest.mark.unit
S = MigrationState
ORDER = [S.QUEUED, S.TRANSFERRING, S.VERIFYING, S.IMPORTING, S.LAUNCHING, S.COMPLETED]
states = st.sampled_from(list(S))


@pytest.mark.parametrize(
    "path",
    [
        ORDER,
        [S.QUEUED, S.TRANSFERRING, S.IMPORTING, S.COMPLETED],
        [S.QUEUED, S.TRANSFERRING, S.VERIFYING, S.IMPORTING, S.COMPLETED],
        [S.QUEUED, S.CANCELLED],
        [S.QUEUED, S.REFUSED, S.QUEUED, S.TRANSFERRING],
        [S.QUEUED, S.TRANSFERRING, S.FAILED, S.QUEUED, S.TRANSFERRING],
        [S.QUEUED, S.TRANSFERRING, S.FAILED, S.REFUSED, S.QUEUED],
        [S.REFUSED, S.FAILED, S.QUEUED],
        [S.REFUSED, S.QUEUED, S.CANCELLED, S.REFUSED, S.REFUSED],
    ],
)
def test_the_ways_that_migrations_go(path: list[MigrationState]) -> None:
    assert all(allowed(before, after) for before, after in pairwise(path))


@given(states, states)
def test_steps_that_matter_are_never_skipped(before: MigrationState, after: MigrationState) -> None:
    """No image without a transfer, no completion without an import."""
    if before in ORDER and after in ORDER and ORDER.index(after) > ORDER.index(before):
        skipped = set(ORDER[ORDER.index(before) + 1 : ORDER.index(after)])
        assert allowed(before, after) == (skipped <= {S.VERIFYING, S.LAUNCHING})


@given(states)
def test_every_living_migration_can_be_cancelled_or_fail(state: MigrationState) -> None:
    for end in (S.CANCELLED, S.FAILED):
        reserve_refused_it = (state, end) == (S.REFUSED, S.FAILED)
        assert allowed(state, end) == (not state.terminal or state is end or reserve_refused_it)


@given(states)
def test_only_what_waits_or_has_ended_without_success_is_refused(state: MigrationState) -> None:
    """Pre-flight looks at a server before its tasks begin, and takes no result back."""
    assert allowed(state, S.REFUSED) == (state is S.QUEUED or (state.terminal and state is not S.COMPLETED))


@given(st.lists(states, max_size=30))
def test_what_was_refused_does_nothing_until_it_is_queued_again(targets: list[MigrationState]) -> None:
    state, path = S.REFUSED, [S.REFUSED]
    for target in targets:
        if allowed(state, target):
            state = target
            path.append(target)
    for place, step in enumerate(path):
        if step is S.REFUSED:
            after = next((each for each in path[place:] if each is not S.REFUSED), S.QUEUED)
            assert after in (S.QUEUED, S.FAILED)


@given(st.lists(states, max_size=30))
def test_a_walk_of_allowed_steps_completes_only_after_an_import(targets: list[MigrationState]) -> None:
    state, since_queued = S.QUEUED, [S.QUEUED]
    for target in targets:
        if allowed(state, target):
            state = target
            since_queued.append(target)
    if S.COMPLETED in since_queued:
        assert S.IMPORTING in since_queued[: since_queued.index(S.COMPLETED)] or S.LAUNCHING in since_queued


@given(states, states)
def test_require_says_what_is_wrong(before: MigrationState, after: MigrationState) -> None:
    if allowed(before, after):
        require(before, after, migration="mig-1")
    else:
        with pytest.raises(PermanentError, match=f"from {before} to {after}") as caught:
            require(before, after, migration="mig-1")
        assert caught.value.next_step


def test_ends() -> None:
    assert {state for state in S if state.terminal} == TERMINAL == {S.COMPLETED, S.FAILED, S.CANCELLED, S.REFUSED}
