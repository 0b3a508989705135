"""What HCX tells late of what it started: nothing that runs may be taken for refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.contexts import HandClock, context_of
from tests.unit.services.live import Live

from wavelift.adapters.hcx.mobility import Started as StartedVm
from wavelift.adapters.hcx.phases import Phase, Progress
from wavelift.base.errors import UnreachableError
from wavelift.base.run import CancelFlag
from wavelift.services.dataplane import hcx_migrate
from wavelift.services.dataplane.hcx_migrate import migration_orders, start
from wavelift.services.dataplane.live_messages import LiveOrder

pytestmark = pytest.mark.unit


class Flag(CancelFlag):
    """Waits take no time."""

    waits = 0

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        return False


class Fake:
    """HCX as it answers a start: ``answer``, and one of ``rows`` for each look afterwards."""

    answer: tuple[StartedVm, ...] = ()
    rows: list[tuple[Progress, ...]] = []

    def __init__(self, client: Any) -> None: ...

    def find_group(self, name: str) -> None:
        """There is none yet."""

    def make_group(self, name: str, orders: Any) -> str:
        return "g-1"

    def start_group(self, group: str) -> tuple[StartedVm, ...]:
        return self.answer

    def query_group(self, group: str) -> tuple[Progress, ...]:
        return self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]


def row(entity: str, id: str) -> Progress:
    return Progress(migration_id=id, entity_id=entity, phase=Phase.RUNNING)


@pytest.fixture
def order() -> LiveOrder:
    live = Live(None, HandClock())  # type: ignore[arg-type]
    tasks = (live.task("a"), live.task("b"))
    return LiveOrder(wave="erp", manager="hcx_dc1", group_name="wavelift-x", tasks=tasks)


def begin(
    monkeypatch: pytest.MonkeyPatch, order: LiveOrder, answer: list[StartedVm], *rows: tuple[Progress, ...]
) -> tuple[dict[str, tuple[str, tuple[str, ...]]], int]:
    """Server → its id and errors; and how often it waited."""
    fake = type("Now", (Fake,), {"answer": tuple(answer), "rows": list(rows)})
    monkeypatch.setattr(hcx_migrate, "Mobility", fake)
    monkeypatch.setattr(hcx_migrate, "refuse_other_ids", lambda hcx, tasks: None)
    flag = Flag()
    found = start(order, hcx=None, ctx=context_of("erp.live/r/*", cancel=flag))  # type: ignore[arg-type]
    return {one.server: (one.migration_id, one.errors) for one in found.servers}, flag.waits


def test_an_answer_that_names_all_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, order: LiveOrder) -> None:
    said = [
        StartedVm(migration_id="m-a", entity_id="vm-a"),
        StartedVm(migration_id="", entity_id="vm-b", errors=("no",)),
    ]
    assert begin(monkeypatch, order, said) == ({"a": ("m-a", ()), "b": ("", ("no",))}, 0)


def test_vms_that_hcx_names_later_are_waited_for(monkeypatch: pytest.MonkeyPatch, order: LiveOrder) -> None:
    said = [StartedVm(migration_id="m-a"), StartedVm(migration_id="m-b")]
    rows = (row("vm-a", "m-a"), row("vm-b", "m-b"))
    found, waits = begin(monkeypatch, order, said, (), rows[:1], rows)
    assert found == {"a": ("m-a", ()), "b": ("m-b", ())}
    assert waits == 3


def test_migrations_of_nobody_are_no_end(monkeypatch: pytest.MonkeyPatch, order: LiveOrder) -> None:
    """They run: to say that these servers were not started would let them be started again."""
    with pytest.raises(UnreachableError, match="does not say of which VMs: m-a"):
        begin(monkeypatch, order, [StartedVm(migration_id="m-a")], ())


def test_a_server_that_hcx_never_names_was_not_started(monkeypatch: pytest.MonkeyPatch, order: LiveOrder) -> None:
    found, waits = begin(monkeypatch, order, [StartedVm(migration_id="m-a", entity_id="vm-a")], (row("vm-a", "m-a"),))
    assert found == {"a": ("m-a", ()), "b": ("", ())}
    assert waits == hcx_migrate.LOOKS


def test_the_window_goes_in_milliseconds_and_only_where_hcx_can_hold_back(order: LiveOrder) -> None:
    times = {"window_start": datetime(2026, 12, 1, 20, tzinfo=UTC), "window_end": datetime(2026, 12, 1, 22, tzinfo=UTC)}
    windowed = order.model_copy(update=times)
    (one, _) = migration_orders(windowed)
    assert one.window is not None
    assert (one.window.start_ms, one.window.end_ms) == (1_796_155_200_000, 1_796_162_400_000)
    cold = windowed.model_copy(update={"tasks": tuple(t.model_copy(update={"type": "cold"}) for t in order.tasks)})
    assert [each.window for each in migration_orders(cold)] == [None, None]


def test_a_place_that_is_named_by_its_path_is_sent_by_its_name(order: LiveOrder) -> None:
    task = order.tasks[0]
    placement = tuple(
        place.model_copy(update={"name": f"/DC0/vm/a%2fb/{place.name}"}) if place.type == "folder" else place
        for place in task.placement
    )
    named = order.model_copy(update={"tasks": (task.model_copy(update={"placement": placement}),)})
    (one,) = migration_orders(named)
    assert [place.name for place in one.placement] == [place.name for place in task.placement]
