"""What all operators share, without a running Airflow: errors, the fence, and whether other runs live."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunState
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from wavelift.base.errors import (
    BusyError,
    Cancelled,
    FencedError,
    PermanentError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.rates import PROGRESS_KEY
from wavelift.base.run import CancelFlag, DagRun, Progress
from wavelift.base.tries import Backoff
from wavelift.operators import _base
from wavelift.operators._base import Heartbeat, ServerOperator, StateStore, WaveliftOperator
from wavelift.operators._keys import FAILURE_KEY
from wavelift.operators._liveness import AirflowLiveness
from wavelift.services.dataplane import messages

pytestmark = pytest.mark.airflow


def refusal(status: int | None) -> AirflowRuntimeError:
    """What Airflow's SDK raises when its execution API refuses, or does not answer."""
    return AirflowRuntimeError(
        ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status, "message": "not found"})
    )


class Store:
    """``context["task_state_store"]``."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.errors: list[Exception] = []
        self.writes = 0

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.writes += 1
        if self.errors:
            raise self.errors.pop(0)
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key)


class Context(dict[str, Any]):
    """A task's context with what was pushed to XCom."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        ti = SimpleNamespace(
            dag_id="w.migrate",
            task_id="failing",
            run_id="r",
            map_index=3,
            try_number=1,
            max_tries=2,
            xcom_push=lambda key, value: self.pushed.update({key: value}),
        )
        super().__init__(ti=ti, task_state_store=Store(), dag_run=SimpleNamespace(logical_date=None))


class Failing(WaveliftOperator):
    """Raises what it is given."""

    def __init__(self, *, error: Exception, **kwargs: Any) -> None:
        super().__init__(task_id="failing", **kwargs)
        self.error = error

    def work(self, context: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "told"),
    [
        (BusyError("VM consolidates", next_step="Wait"), BusyError, True),
        (PermanentError("No such VM", next_step="Look"), AirflowFailException, True),
        # A worker that shuts down kills its tasks: they are tried again elsewhere. What a person failed stays failed.
        (Cancelled("the task was killed"), Cancelled, True),
        # Another try owns the work: not even an XCom may be touched.
        (FencedError("another try"), FencedError, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_inv_9_what_a_retry_can_cure_is_retried_and_nothing_else(
    error: WaveliftError, raised: type[Exception], told: bool
) -> None:
    context: Any = Context()
    with pytest.raises(raised, match=error.what):
        Failing(error=error).execute(context)
    assert (FAILURE_KEY in context.pushed) == told
    if told:
        left = context.pushed[FAILURE_KEY]
        again = left.pop("next_try_at")
        words = {"task": "failing", "what": str(error), "next_step": error.next_step}
        assert left == {**words, "try": 1, "of": 3}
        assert (again is not None) == (raised is not AirflowFailException)


def test_the_last_try_promises_no_other() -> None:
    context: Any = Context()
    context["ti"].try_number = 3
    with pytest.raises(BusyError):
        Failing(error=BusyError("VM consolidates")).execute(context)
    assert context.pushed[FAILURE_KEY]["next_try_at"] is None


@pytest.mark.parametrize("backoff", [True, 2.0])
def test_the_next_try_is_told_by_the_task_s_own_settings(backoff: bool | float) -> None:
    context: Any = Context()
    delay = {"retry_delay": timedelta(seconds=10), "max_retry_delay": 60, "retry_exponential_backoff": backoff}
    before = datetime.now(UTC)
    with pytest.raises(BusyError):
        Failing(error=BusyError("VM consolidates"), **delay).execute(context)
    again = datetime.fromisoformat(context.pushed[FAILURE_KEY]["next_try_at"])
    expected = Backoff(delay=timedelta(seconds=10), multiplier=2, longest=timedelta(seconds=60))
    least = expected.after("w.migrate#failing#None", 1)
    assert before + least <= again <= datetime.now(UTC) + least


def test_an_xcom_that_is_refused_does_not_hide_the_failure() -> None:
    context: Any = Context()

    def refuse(key: str, value: Any) -> None:
        raise refusal(500)

    context["ti"].xcom_push = refuse
    with pytest.raises(UnreachableError, match="no route"):
        Failing(error=UnreachableError("no route")).execute(context)


@pytest.mark.parametrize("status", [404, 410])
def test_an_outlived_try_is_fenced(status: int) -> None:
    store = Store()
    store.errors = [refusal(status)]
    with pytest.raises(FencedError):
        StateStore(store).set("key", 1)


@pytest.mark.parametrize("status", [500, None])
def test_an_airflow_that_does_not_answer_is_no_fence(status: int | None) -> None:
    store = Store()
    store.errors = [refusal(status)]
    with pytest.raises(WaveliftError, match="did not answer") as caught:
        StateStore(store).set("key", 1)
    assert not isinstance(caught.value, FencedError)
    assert caught.value.retryable


def _until(ready: Any) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_progress_is_written_by_itself_and_outlasts_a_blip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_base, "BEAT_SECONDS", 0.02)
    store, cancel = Store(), CancelFlag()
    store.errors = [refusal(None), refusal(503), ValueError("a broken answer")]
    with Heartbeat(StateStore(store), cancel) as heartbeat:
        heartbeat.progress(Progress(server="a", disk="0", phase="export", done=7, total=10, data=3, sent=2))
        _until(lambda: store.values)
        written = {"phase": "export", "done": 7, "total": 10, "data": 3, "sent": 2}
        assert store.values == {PROGRESS_KEY: {"disks": {"0": written}, "rate": 0}}
        assert not cancel.is_set()


def test_the_rate_is_zero_once_the_transfer_is_over() -> None:
    store = Store()
    with Heartbeat(StateStore(store), CancelFlag()) as heartbeat:
        for done in (0, 7 << 20):
            heartbeat.progress(Progress(server="a", disk="0", phase="export", done=done, total=10 << 20))
            heartbeat.beat()
            time.sleep(0.01)
        assert store.values[PROGRESS_KEY]["rate"] > 0
    assert store.values[PROGRESS_KEY]["rate"] == 0
    assert store.values[PROGRESS_KEY]["disks"]["0"]["done"] == 7 << 20


def test_after_an_error_a_heartbeat_writes_no_more() -> None:
    """The next try may own the store; the rate of the last beat expires by its age."""
    store = Store()
    with pytest.raises(BusyError):
        with Heartbeat(StateStore(store), CancelFlag()) as heartbeat:
            heartbeat.beat()
            raise BusyError("later")
    assert store.writes == 1


def test_a_heartbeat_that_is_fenced_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_base, "BEAT_SECONDS", 0.02)
    store, cancel = Store(), CancelFlag()
    store.errors = [refusal(404), refusal(404)]
    with pytest.raises(FencedError):
        with Heartbeat(StateStore(store), cancel):
            _until(cancel.is_set)
            cancel.check()
    assert cancel.fenced


def test_a_killed_operator_stops_its_work() -> None:
    operator = Failing(error=BusyError("never"))
    context: Any = Context()
    run = operator.server_context(context, "web01")
    assert run.run_key == "w.migrate/r/web01"
    operator.on_kill()
    with pytest.raises(Cancelled):
        run.cancel.check()


@pytest.mark.parametrize(
    ("state", "alive"),
    [
        (DagRunState.RUNNING, True),
        (DagRunState.QUEUED, True),
        (DagRunState.SUCCESS, False),
        (DagRunState.FAILED, False),
        ("running", True),
    ],
)
def test_inv_8_living_runs_are_told_from_ended_ones(state: Any, alive: bool) -> None:
    """Airflow's states are enums whose ``str()`` is not their value."""
    context: Any = Context()
    context["ti"].get_dagrun_state = lambda dag_id, run_id: state
    assert AirflowLiveness(context).run(DagRun("other.migrate", "other")) is alive


def test_a_deleted_run_is_dead_and_silence_is_no_death() -> None:
    context: Any = Context()
    asked: list[int | None] = [404, None]

    def state(dag_id: str, run_id: str) -> str:
        raise refusal(asked.pop(0))

    context["ti"].get_dagrun_state = state
    assert AirflowLiveness(context).run(DagRun("other.migrate", "deleted")) is False
    with pytest.raises(WaveliftError, match=r"whether other\.migrate unknown still runs") as caught:
        AirflowLiveness(context).run(DagRun("other.migrate", "unknown"))
    assert caught.value.retryable
    assert AirflowLiveness(context).run(DagRun("w.migrate", "r")) is True, "itself"


class Handed(Context):
    """A pre-flight's context, then that of a task of the mapped group."""

    def __init__(self) -> None:
        super().__init__()
        self["ti"].task_id = "preflight"
        self["ti"].try_number = 2
        self["ti"].xcom_pull = lambda task_ids, key, map_indexes: self.pushed.get(key)


def _planned(name: str) -> Any:
    def dump() -> dict[str, Any]:
        return {"name": name, "plan": "a long one"}

    return SimpleNamespace(name=name, facts=SimpleNamespace(capacity=512), dump=dump)


def test_each_server_s_plan_is_fetched_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task of a mapped group reads the whole list that it was expanded over."""
    monkeypatch.setattr(messages.ServerTask, "load", lambda value: value)
    context: Any = Handed()
    operator = Failing(error=BusyError("never"))
    listed = operator.hand_out(context, [_planned("web01"), _planned("db01")])
    assert listed == [
        {"name": "web01", "bytes": 512, "task": "preflight", "place": 0, "try": 2},
        {"name": "db01", "bytes": 512, "task": "preflight", "place": 1, "try": 2},
    ]
    for server in listed:
        found: Any = operator.server_task(context, server)
        assert found == {"name": server["name"], "plan": "a long one"}
    whole = _planned("web09").dump()
    found = operator.server_task(context, whole)
    assert found == whole, "a DAG of a user's own may hand over all of it"


def test_another_server_s_plan_is_never_taken() -> None:
    context: Any = Handed()
    operator = Failing(error=BusyError("never"))
    server, _ = operator.hand_out(context, [_planned("web01"), _planned("db01")])
    context.pushed["server_0"] = _planned("db01").dump()
    with pytest.raises(WaveliftError, match="preflight found of this server is gone") as caught:
        operator.server_task(context, server)
    assert caught.value.retryable, "the removal of a snapshot is not given up for it"
    context.pushed.clear()
    with pytest.raises(WaveliftError, match="gone"):
        operator.server_task(context, server)


HANDED = {"name": "web01", "bytes": 512, "task": "preflight", "place": 0, "try": 2}


class Handled(ServerOperator):
    """Reads what the pre-flight left of its server."""

    def work_on(self, task: Any, context: Any) -> None:
        raise AssertionError("nothing could be read")


@pytest.mark.parametrize(
    ("handed", "left", "field"),
    [
        (HANDED, '{"name": "web01"}', "all of it"),
        (HANDED, ["web01"], "all of it"),
        (HANDED, {"name": "web01", "token": "eyJ-a-secret"}, "plan"),
        (HANDED | {"plan": {"server": "eyJ-a-secret"}}, None, "plan.selector"),
        ("web01", None, "all of it"),
        ({"name": "web01"}, None, "plan"),
    ],
    ids=["text", "list", "half", "half in place", "no mapping", "without place"],
)
def test_what_was_edited_into_another_form_is_said_at_once_and_not_quoted(handed: Any, left: Any, field: str) -> None:
    """Whoever may edit XComs can write anything there. A removal would be tried again for an hour, for nothing."""
    context: Any = Handed()
    context.pushed["server_0"] = left
    with pytest.raises(AirflowFailException) as caught:
        Handled(task_id="remove_snapshot", server=handed).execute(context)
    words = context.pushed[FAILURE_KEY]
    assert words["what"] == str(caught.value)
    assert words["next_try_at"] is None
    assert "is no ServerTask of this version" in words["what"]
    assert f"{field}: " in words["what"]
    assert "edited the run's XComs" in words["next_step"]
    assert "eyJ" not in str(caught.value)
    assert caught.value.__suppress_context__, "pydantic's own text quotes the value"
