"""Whether the tasks behind a slot may still go on, as Airflow tells it; and what the list of imports shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contexts import run_context
from tests.ledgers import within

from wavelift.airflow.triggers.owned_imports import tell_list
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import Ledger, replication_runs
from wavelift.operators._keys import PLACE_KEY
from wavelift.operators._liveness import ENDED_STATES, AirflowLiveness, Entry, MappedGroup
from wavelift.operators.control.slots import ReserveOperator
from wavelift.rules.flows import EXPORT, FLOWS, LIVE, SlotKind
from wavelift.rules.queue import Priority
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common import frozen
from wavelift.services.replication.admission import Asked, admit_runs
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

TRANSFER: Final = {step.task_id for flow in FLOWS for step in flow.steps if SlotKind.TRANSFER in step.holds}
STATES = {
    ("erp.migrate", "server.import_image", 0): "deferred",
    ("erp.migrate", "server.import_image", 1): "failed",
    ("erp.replicate", "server.ami", 0): "failed",
    ("erp.replicate", "server.ami", 1): "up_for_retry",
    ("erp.migrate", "server.reserve", 0): "success",
    ("erp.migrate", "server.reserve", 1): "success",
    ("erp.migrate", "server.release", 1): "failed",
    ("crm.migrate", "server.reserve", 0): "success",
    ("crm.migrate", "server.export", 0): None,
    ("crm.migrate", "server.release", 0): "success",
    ("crm.migrate", "server.reserve", 1): None,
    ("crm.migrate", "server.release", 1): None,
    ("erp.replicate", "server.reserve", 0): "running",
    ("erp.replicate", "server.release", 0): "success",
    ("erp.replicate", "server.reserve", 1): "failed",
    ("erp.replicate", "server.release", 1): "upstream_failed",
}


class Ti:
    """Of a task instance what is asked: other runs' XComs and states."""

    def xcom_pull(self, *, task_ids: Any, dag_id: str, run_id: str, map_indexes: Any = None, key: str = "") -> Any:
        servers = [{"name": name, "try": 1} for name in ("web01", "shop/web02")] if run_id == "run" else None
        if task_ids == ["server.reserve"]:
            assert (key, map_indexes) == (PLACE_KEY, None)
            return [one | {"map_index": index} for index, one in enumerate(servers or [])] or [None]
        assert (task_ids, map_indexes) == ("preflight", -1)
        return servers

    def get_task_states(self, *, dag_id: str, run_ids: list[str], task_ids: list[str]) -> Any:
        found = {f"{id}_{at}": state for (dag, id, at), state in STATES.items() if dag == dag_id and id in task_ids}
        return {run_ids[0]: found}


@pytest.mark.parametrize(
    ("dag", "run", "server", "expected"),
    [
        ("erp.migrate", "run", "web01", True),
        ("erp.migrate", "run", "shop/web02", False),
        ("erp.replicate", "run", "web01", False),
        ("erp.replicate", "run", "shop/web02", True),
        ("erp.replicate", "run", "new", True),
        ("erp.replicate", "cleared just now", "web01", True),
    ],
)
def test_inv_8_a_failed_task_of_either_flow_is_no_holder(dag: str, run: str, server: str, expected: bool) -> None:
    context: Any = {"ti": Ti()}
    held = f"{dag}/{run}/{server}"
    assert AirflowLiveness(context).ended(DagRun(dag, run), [held], SlotKind.IMPORT) == ([] if expected else [held])


@pytest.mark.parametrize("kind", [SlotKind.TRANSFER, SlotKind.NFC_HOST, SlotKind.NFC_VCENTER])
@pytest.mark.parametrize(
    ("dag", "run", "server", "expected"),
    [
        ("erp.migrate", "run", "web01", True),
        ("erp.migrate", "run", "shop/web02", False),
        ("erp.replicate", "run", "web01", True),
        ("erp.replicate", "run", "shop/web02", False),
        ("erp.replicate", "cleared just now", "web01", True),
        ("crm.migrate", "run", "web01", True),
        ("crm.migrate", "run", "shop/web02", True),
    ],
    ids=[
        "it transfers",
        "its release failed",
        "it was cleared and reserves",
        "it never got the slot",
        "no pre-flight",
        "its export alone was cleared",
        "nothing began",
    ],
)
def test_inv_8_a_transfer_slot_that_nobody_gives_back_has_no_holder(
    dag: str, run: str, server: str, kind: SlotKind, expected: bool
) -> None:
    context: Any = {"ti": Ti()}
    held = f"{dag}/{run}/{server}"
    assert AirflowLiveness(context).ended(DagRun(dag, run), [held], kind) == ([] if expected else [held])


FREED: Final = {
    "reserve": "success",
    "snapshot": "success",
    "export": "failed",
    "remove_snapshot": "success",
    "release": "failed",
}
"""A server's tasks of which nobody gives the slot back."""
AB: Final = {0: ("a", 1), 1: ("b", 1)}


def states(*of: Mapping[str, str | None]) -> dict[str, str | None]:
    return {f"server.{task}_{index}": state for index, one in enumerate(of) for task, state in one.items()}


def group(listed: Mapping[int, Entry], noted: Mapping[int, Entry], *of: Mapping[str, str | None]) -> MappedGroup:
    return MappedGroup.of(
        [{"name": name, "try": tried} for name, tried in listed.values()],
        [{"map_index": index, "name": name, "try": tried} for index, (name, tried) in noted.items()],
        states(*of),
    )


@pytest.mark.parametrize(
    ("listed", "noted", "of_0", "of_1", "gone"),
    [
        (AB, AB, FREED | {"export": "running"}, FREED, {"b"}),
        ({0: ("b", 2)}, AB, FREED, FREED | {"export": "running"}, set()),
        ({0: ("b", 2)}, AB, FREED, FREED, set()),
        ({0: ("b", 2)}, {0: ("b", 2), 1: ("b", 1)}, FREED, FREED, {"b"}),
        ({0: ("b", 2)}, {0: ("b", 2), 1: ("b", 1)}, FREED, FREED | {"export": "running"}, set()),
        ({0: ("b", 2)}, {0: ("b", 2), 1: ("b", 1)}, FREED, FREED | {"export": "up_for_retry"}, set()),
        ({0: ("b", 2)}, {0: ("b", 2), 1: ("b", 1)}, FREED, FREED | {"reserve": "deferred"}, set()),
        ({0: ("a", 2), 1: ("b", 2)}, AB, FREED, FREED, set()),
        ({0: ("a", 2), 1: ("b", 2)}, {0: ("a", 1), 1: ("b", 2)}, FREED | {"export": "running"}, FREED, set()),
        ({0: ("a", 2), 1: ("b", 2)}, {0: ("a", 1), 1: ("b", 2)}, FREED, FREED, {"b"}),
        (AB, AB, FREED | {"export": "restarting"}, FREED, set()),
        (AB, {1: ("b", 1)}, {"reserve": "running", "release": None}, FREED, {"b"}),
        (AB, AB, FREED, FREED | {"export": "up_for_retry"}, {"a"}),
        (AB, AB, FREED, {"reserve": "success", "export": "success"}, {"a"}),
        (AB, {}, FREED, FREED, set()),
    ],
    ids=[
        "as it should be",
        "the list became shorter, b transfers at its old index",
        "the list became shorter, b was not cleared",
        "b was cleared and failed again",
        "b was cleared and failed again, its old transfer goes on",
        "b was cleared and failed again, its old transfer is tried again",
        "b was cleared and failed again, its old reservation waits",
        "listed again, nothing cleared",
        "listed again, the other's transfer may be b's",
        "listed again, b was cleared and failed again",
        "a cleared task still ends",
        "a reservation begins",
        "between two tries",
        "the group is being expanded",
        "a run from before the notes",
    ],
)
def test_inv_8_a_map_index_belongs_to_a_server_for_certain(
    listed: Mapping[int, Entry],
    noted: Mapping[int, Entry],
    of_0: Mapping[str, str | None],
    of_1: Mapping[str, str | None],
    gone: set[str],
) -> None:
    found = group(listed, noted, of_0, of_1)
    assert {one for one in "ab" if found.ended(one, tasks=TRANSFER, last={"server.release"})} == gone


def test_a_group_of_which_a_task_is_not_expanded_is_alive() -> None:
    found = MappedGroup.of(
        [{"name": "a", "try": 1}],
        [{"map_index": 0, "name": "a", "try": 1}],
        states(FREED) | {"server.transfer": None},
    )
    assert not found.ended("a", tasks=TRANSFER, last={"server.release"})


def test_when_airflow_does_not_answer_nothing_has_ended() -> None:
    """The task that asks for a slot goes on: one may be free all the same."""

    def refuse(**_: Any) -> Any:
        detail = {"status_code": 503, "message": "busy"}
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))

    held = "erp.migrate/run/shop/web02"
    for broken in ("xcom_pull", "get_task_states"):
        ti = Ti()
        setattr(ti, broken, refuse)
        context: Any = {"ti": ti}
        assert not AirflowLiveness(context).ended(DagRun("erp.migrate", "run"), [held], SlotKind.TRANSFER)


class Notes:
    """The context of a ``reserve``."""

    def __init__(self, refused: bool = False) -> None:
        self.refused = refused
        self.left: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        if self.refused:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 503}))
        self.left[key] = value


@pytest.mark.parametrize("refused", [False, True])
def test_a_reservation_notes_its_server_before_it_asks(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(refused)
    seen: list[Any] = []
    ti: Any = SimpleNamespace(map_index=4, xcom_push=notes.xcom_push)
    kind: Any = ReserveOperator
    task = kind(task_id="reserve", server={"name": "web01", "try": 3})
    monkeypatch.setattr(task, "ledger", lambda: nullcontext())
    monkeypatch.setattr(task, "server_context", lambda *_: None)
    monkeypatch.setattr(task, "_grant", lambda *_: "signed")
    monkeypatch.setattr(frozen, "bind", lambda *_: seen.append("bound"))

    def reserve(*_: Any, **__: Any) -> dict[str, Any]:
        seen.append(dict(notes.left))
        return {}

    monkeypatch.setattr(task, "reserve", reserve)
    run = SimpleNamespace(conf={"priority": "later"})
    context: Any = {"ti": ti, "dag_run": run}
    task.work_on(SimpleNamespace(name="web01"), context)
    assert task.terms(context).priority is Priority.LATER
    assert seen == [{} if refused else {PLACE_KEY: {"name": "web01", "try": 3, "map_index": 4}}, "bound"]


class Play:
    """A run whose pre-flight lists other servers from time to time, and who each task really works for.

    A server is cleared from its ``reserve`` with what comes after it, as the documents say.
    """

    def __init__(self) -> None:
        self.tries = 0
        self.listed: dict[int, Entry] = {}
        self.noted: dict[int, Entry] = {}
        self.states: dict[int, dict[str, str | None]] = {}
        self.real: dict[tuple[int, str], Entry] = {}

    def list(self, names: Sequence[str]) -> None:
        self.tries += 1
        self.listed = {index: (name, self.tries) for index, name in enumerate(names)}
        for index in self.listed:
            self.states.setdefault(index, dict.fromkeys(FREED))

    def clear(self, index: int) -> None:
        for task, state in self.states.get(index, {}).items():
            ends = task != "reserve" and state in ("running", "deferred", "restarting")
            self.states[index][task] = "restarting" if ends else None
            if not ends:
                self.real.pop((index, task), None)

    def begin(self, index: int, task: str) -> None:
        mine = self.states.get(index, {})
        may = index in self.listed and mine[task] in (None, "scheduled", "up_for_retry", "restarting")
        if may and (task == "reserve" or mine["reserve"] in ENDED_STATES):
            mine[task] = "running"
            self.real[index, task] = self.listed[index]
            if task == "reserve":
                self.noted.pop(index, None)

    def note(self, index: int) -> None:
        if self.states.get(index, {}).get("reserve") == "running":
            self.noted[index] = self.real[index, "reserve"]

    def end(self, index: int, task: str, state: str) -> None:
        if self.states.get(index, {}).get(task) in ("running", "deferred"):
            if task == "reserve" and state == "success":
                self.note(index)
            self.states[index][task] = state

    def living(self) -> set[str]:
        """Those for whom some task goes on, is tried again, or will begin."""
        found = set()
        for index, mine in self.states.items():
            for task, state in mine.items():
                if state in ENDED_STATES:
                    continue
                if (index, task) in self.real:
                    found.add(self.real[index, task][0])
                if index in self.listed and state != "running":
                    found.add(self.listed[index][0])
        return found


NAMES: Final = st.sampled_from([["a", "b"], ["b"], ["b", "a"], ["a"]])
INDEX: Final = st.integers(0, 1)
TASK: Final = st.sampled_from(["reserve", "export", "export", "release"])
END: Final = st.sampled_from(["success", "failed", "up_for_retry", "deferred"])
STEP: Final = st.one_of(
    st.tuples(st.just("list"), NAMES),
    st.tuples(st.just("clear"), INDEX),
    st.tuples(st.just("begin"), INDEX, TASK),
    st.tuples(st.just("note"), INDEX),
    st.tuples(st.just("end"), INDEX, TASK, END),
    st.tuples(st.just("run"), INDEX, st.sampled_from([1, 2, len(FREED)])),
)
"""Few servers and tasks: what goes wrong between them needs no more, and is met more often."""


def played(steps: Iterable[tuple[Any, ...]]) -> Iterator[Play]:
    """The play after each step; ``run`` brings so many tasks of a server to their end."""
    play = Play()
    for name, *rest in steps:
        if name == "run":
            for task in list(FREED)[: rest[1]]:
                play.begin(rest[0], task)
                play.end(rest[0], task, FREED[task])
        else:
            getattr(play, name)(*rest)
        yield play


@given(st.lists(STEP, min_size=4, max_size=25))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_inv_8_no_server_that_any_task_works_for_ever_loses_its_slot(steps: list[tuple[Any, ...]]) -> None:
    for play in played([("list", ["a", "b"]), ("run", 0, 2), ("run", 1, 2), *steps]):
        known = group(play.listed, play.noted, *(play.states.get(index, {}) for index in range(2)))
        gone = {one for one in "ab" if known.ended(one, tasks=TRANSFER, last={"server.release"})}
        assert not gone & play.living()


def test_the_play_knows_servers_that_lost_theirs() -> None:
    """Or the property would say nothing."""
    steps = [("run", 0, 5), ("run", 1, 5), ("list", ["b"]), ("clear", 0), ("run", 0, 5)]
    seen = []
    for play in played([("list", ["a", "b"]), *steps]):
        known = group(play.listed, play.noted, *play.states.values())
        seen.append({one for one in "ab" if known.ended(one, tasks=TRANSFER, last={"server.release"})})
    assert seen == [set(), {"a"}, {"a", "b"}, set(), set(), {"b"}]


def test_amp_07_a_replica_s_conversion_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("AIRFLOW__WAVELIFT__LEDGER_URL", url)
    with Ledger.open(url) as ledger:
        create_jobs(ledger, "erp", [JobOrder(server="web01", plan=ReplicationPlan())], by="ana", clock=SystemClock())
        run = DagRun("erp.replicate", "manual__1")
        (known,) = admit_runs(ledger, "erp", Asked(), run_context(run, requester="ana")).granted
        tags = {"wavelift:run": known.id.removeprefix("run-")}
        tell_list(
            {
                "import-ami-1": SimpleNamespace(phase="converting", progress=28, tags=tags),
                "import-ami-2": SimpleNamespace(phase="booting", progress=70, tags={}),
            }
        )
        shown = within(ledger.read(), replication_runs.get, known.id)
    assert (shown.status, shown.progress_pct) == ("Converting: converting", 28)


class LiveTi:
    """Of a task that asks about a live run: its tasks hold the slots of all servers together."""

    def __init__(self, **states: str | None) -> None:
        self.states = states

    def get_task_states(self, *, dag_id: str, run_ids: list[str], task_ids: list[str]) -> Any:
        found = {step.task_id: "success" for step in LIVE.steps if step.holds} | self.states
        return {run_ids[0]: {name: state for name, state in found.items() if name in task_ids}}


@pytest.mark.parametrize("kind", [SlotKind.HCX_MANAGER, SlotKind.HCX_MESH, SlotKind.HCX_SERIAL])
@pytest.mark.parametrize(
    ("states", "freed"),
    [
        ({}, True),
        ({"follow": "failed", "moved": "upstream_failed"}, True),
        ({"follow": "deferred", "moved": None}, False),
        ({"reserve": None}, False),
        ({"start": "up_for_retry"}, False),
        ({"follow": "restarting"}, False),
    ],
    ids=["all ended", "it failed", "HCX is followed", "it was cleared", "it is tried again", "cleared while it ran"],
)
def test_inv_8_a_live_run_holds_its_slots_until_all_its_tasks_have_ended(
    kind: SlotKind, states: dict[str, str | None], freed: bool
) -> None:
    context: Any = {"ti": LiveTi(**states)}
    held = ["erp.live/run/a", "erp.live/run/b", "erp.live/run/"]
    assert list(AirflowLiveness(context).ended(DagRun("erp.live", "run"), held, kind)) == (held if freed else [])


def test_inv_8_a_live_run_of_which_airflow_does_not_tell_all_holds_its_slots() -> None:
    ti = LiveTi()
    ti.get_task_states = lambda **_: {"run": {"reserve": "success"}}  # type: ignore[method-assign]
    context: Any = {"ti": ti}
    assert AirflowLiveness(context).ended(DagRun("erp.live", "run"), ["erp.live/run/a"], SlotKind.HCX_MESH) == ()


@pytest.mark.parametrize(
    ("states", "freed"),
    [({}, True), ({"begin": "deferred"}, False), ({"remove": "up_for_retry"}, False), ({"reserve": None}, False)],
    ids=["all ended", "AWS is followed", "the removal is tried again", "it was cleared"],
)
def test_inv_8_an_export_holds_its_slot_until_what_it_made_is_removed(
    states: dict[str, str | None], freed: bool
) -> None:
    ti = LiveTi(
        **states, **{step.task_id: "success" for step in EXPORT.steps if step.holds and step.name not in states}
    )
    context: Any = {"ti": ti}
    run, held = DagRun("instance_export.lab", "run"), ["instance_export.lab/run/i-1"]
    assert list(AirflowLiveness(context).ended(run, held, SlotKind.EXPORT)) == (held if freed else [])
