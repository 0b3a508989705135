"""The words of ``wavelift queue`` for one server that waits."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wavelift.base.run import DagRun
from wavelift.rules.flows import SlotKind
from wavelift.rules.queue import Place, Priority
from wavelift.services.common.line import Line, Moving

pytestmark = pytest.mark.unit

RUN = DagRun("erp.migrate", "manual__1")
OTHER = Moving(DagRun("hr.migrate", "manual__2"), "mig-2", "hr", "pay01")


@pytest.mark.parametrize(
    ("position", "taken", "by", "words"),
    [
        (3, 2, ("web01", "db01"), "3rd in line for connector dc1: 2 of 2 in use by erp/web01, erp/db01"),
        (2, 1, ("web01",), "2nd in line for connector dc1: 1 of 2 in use by erp/web01; the rest is for those before"),
        (1, 1, ("web01",), "1st in line for connector dc1: 1 of 2 in use by erp/web01; it goes on in a moment"),
        (1, 0, (), "1st in line for connector dc1: 0 of 2 in use; it goes on in a moment"),
        (1, 2, ("web01", None), "1st in line for connector dc1: 2 of 2 in use by erp/web01, another wave"),
    ],
)
def test_who_has_the_slots_stands_beside_their_number(
    position: int, taken: int, by: tuple[str | None, ...], words: str
) -> None:
    line = Line(
        moving=Moving(RUN, "mig-1", "erp", "app01"),
        priority=Priority.NORMAL,
        since=datetime(2026, 12, 1, tzinfo=UTC),
        place=Place(SlotKind.TRANSFER, "dc1"),
        position=position,
        limit=2,
        taken=taken,
        by=tuple(OTHER if server is None else Moving(RUN, f"mig-{server}", "erp", server) for server in by),
        maintenance=None,
    )
    assert line.words(lambda dag_id: dag_id == RUN.dag_id) == words
