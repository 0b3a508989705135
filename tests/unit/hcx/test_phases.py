"""Where a migration is, by HCX's flags: complete needs a positive sign, unknown names decide nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.phases import OVER, Phase, read_progress

pytestmark = pytest.mark.unit

KNOWN = (
    *guesses.COMPLETE_NAMES.value,
    *guesses.FAILED_NAMES.value,
    *guesses.CANCELLED_NAMES.value,
    *guesses.RUNNING_NAMES.value,
)
OF_PROGRESS = ("isDone", "didFail", "isCancelled", "isRescheduleAllowed")
OF_STATE = (
    *("isDone", "isError", "isCanceled", "isAborted", "isParked", "isWaitingForMaintWindow"),
    *("isVMotionBaseSyncInProgress", "isTransfer", "isTransferProgress", "isTransferCompleted", "isTransferError"),
    *("isSwitchover", "isSwitchoverStarted", "isSwitchoverProgress", "isSwitchoverCompleted", "isSwitchoverError"),
)
FLAGS: st.SearchStrategy[Any] = st.sampled_from(
    (True, False, 0, 1, 2, "1", "0", "true", "false", None, "", [], {}, float("nan"))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.one_of(
    st.sampled_from(KNOWN),
    st.from_regex(r"[A-Z_]{3,20}", fullmatch=True),
    st.just("SWITCHOVER_FAILED"),
    st.none(),
)


def yes(value: Any) -> bool:
    return value in (True, 1, 2, "1", "true") and not isinstance(value, float)


@st.composite
def items(draw: Any) -> dict[str, Any]:
    progress = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(OF_PROGRESS, FLAGS)))
    state = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(OF_STATE, FLAGS)))
    name = draw(NAMES)
    found = {"migrationId": "m-1", "progress": {**progress, "state": state}}
    return found | ({"state": name} if name is not None else {})


@given(items())
def test_complete_needs_a_positive_sign(item: dict[str, Any]) -> None:
    progress, state = item["progress"], item["progress"]["state"]
    done = yes(progress.get("isDone")) or yes(state.get("isDone"))
    named = item.get("state") in guesses.COMPLETE_NAMES.value
    found = read_progress(item)
    if found.phase is Phase.COMPLETE:
        assert named or (done and yes(state.get("isSwitchoverCompleted")))
        assert not yes(progress.get("didFail"))
        assert not yes(state.get("isError"))
        assert not yes(progress.get("isCancelled"))
        assert not yes(state.get("isCanceled"))


@given(items(), st.from_regex(r"[A-Z_]{3,20}", fullmatch=True))
def test_an_unknown_name_changes_nothing(item: dict[str, Any], name: str) -> None:
    if name in KNOWN or name.endswith("_FAILED"):
        return
    bare = read_progress({key: value for key, value in item.items() if key != "state"})
    found = read_progress(item | {"state": name})
    assert found.phase is bare.phase
    assert not found.known
    assert found.state == name


@given(items(), st.from_regex(r"[A-Z_]{0,12}_FAILED", fullmatch=True))
def test_a_name_that_ends_in_failed_stops(item: dict[str, Any], name: str) -> None:
    found = read_progress(item | {"state": name})
    assert found.phase is Phase.FAILED
    assert found.phase.over
    if name not in guesses.FAILED_NAMES.value:
        assert name in found.words


@given(st.dictionaries(st.sampled_from(("state", "progress", "entity", "version", "migrationId")), JSON))
def test_any_answer_can_be_read(item: dict[str, Any]) -> None:
    found = read_progress(item)
    assert found.percent is None or 0 <= found.percent <= 100
    assert found.words.isprintable()


@pytest.mark.parametrize(
    ("name", "progress", "state", "phase"),
    [
        ("MIGRATING", {}, {}, Phase.RUNNING),
        ("", {}, {}, Phase.RUNNING),
        ("", {"isDone": False, "didFail": False}, {"isTransferProgress": 1}, Phase.REPLICATING),
        ("", {}, {"isVMotionBaseSyncInProgress": True}, Phase.REPLICATING),
        ("", {}, {"isTransferProgress": 1, "isWaitingForMaintWindow": 1}, Phase.WAITING_FOR_WINDOW),
        ("", {}, {"isWaitingForMaintWindow": 1, "isSwitchoverStarted": 1}, Phase.SWITCHOVER),
        ("", {}, {"isSwitchoverProgress": 1}, Phase.SWITCHOVER),
        ("", {}, {"isSwitchoverCompleted": 1}, Phase.RUNNING),
        ("", {"isDone": True}, {"isSwitchoverCompleted": 1}, Phase.COMPLETE),
        ("", {}, {"isDone": True, "isSwitchoverCompleted": 1}, Phase.COMPLETE),
        ("", {"isDone": False}, {"isDone": True, "isTransferProgress": 1}, Phase.REPLICATING),
        ("", {"isDone": True}, {}, Phase.ENDED),
        ("", {"isDone": True, "didFail": True}, {"isSwitchoverCompleted": 1}, Phase.FAILED),
        ("MIGRATION_COMPLETE", {"didFail": True}, {}, Phase.FAILED),
        ("MIGRATION_COMPLETE", {}, {}, Phase.COMPLETE),
        ("MIGRATED", {}, {}, Phase.COMPLETE),
        ("MIGRATE_CANCELED", {}, {}, Phase.CANCELLED),
        ("MIGRATION_CANCELLED", {"isDone": True}, {}, Phase.CANCELLED),
        ("", {"isCancelled": 1}, {}, Phase.CANCELLED),
        ("", {}, {"isCanceled": 1, "isError": 1}, Phase.FAILED),
        ("TRANSFER_FAILED", {}, {}, Phase.FAILED),
    ],
)
def test_the_order_of_the_questions(name: str, progress: dict[str, Any], state: dict[str, Any], phase: Phase) -> None:
    found = read_progress({"state": name, "progress": {**progress, "state": state}})
    assert found.phase is phase
    assert found.phase.over == (phase in OVER)


@pytest.mark.parametrize(
    ("version", "progress", "percent"),
    [
        (2, {"percentComplete": 90, "total": {"bytesTransferred": 1, "value": 4}}, 25),
        (2, {"percentComplete": 90, "total": '{"bytesTransferred": 1, "value": 3}'}, 33),
        (2, {"percentComplete": 90, "total": {"bytesTransferred": 0, "value": 0}}, 0),
        (2, {"percentComplete": 90, "total": "4 GB"}, 90),
        (2, {"total": {"bytesTransferred": 9, "value": 4}}, 100),
        (1, {"percentComplete": 40, "total": {"bytesTransferred": 1, "value": 4}}, 40),
        (None, {"percentComplete": "40"}, 40),
        (2, {}, None),
    ],
)
def test_percent_by_bytes_in_version_2_else_as_told(version: Any, progress: dict[str, Any], percent: int) -> None:
    assert read_progress({"version": version, "progress": progress}).percent == percent


def test_the_words_say_where_it_is_and_what_is_wrong() -> None:
    going = {"percentComplete": 40, "message": "Initial sync", "state": {"isTransferProgress": 1}}
    assert read_progress({"progress": going}).words == "replicating, 40 %: Initial sync"
    bad = {"error": {"message": "no space"}, "state": {"errorMessage": "no space"}}
    assert read_progress({"state": "TRANSFER_FAILED", "progress": bad}).words == "failed: no space"
    strange = read_progress({"state": "SWITCHOVER_FAILED"}).words
    assert strange == "failed (SWITCHOVER_FAILED, a name that wavelift does not know)"
