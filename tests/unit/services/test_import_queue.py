"""Places for imports: one queue for both flows, and nothing that ended keeps one (AMP-04, invariant 8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contexts import Alive
from tests.ledgers import fresh_ledger, within

from wavelift.base.errors import FencedError, MissingPrivilegeError, UnreachableError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, SlotKind
from wavelift.ledger.slots import standing
from wavelift.services.common.import_queue import ImportPlace
from wavelift.services.common.slots import InQueue, SlotRequest
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting

pytestmark = pytest.mark.unit

MIGRATE, REPLICATE = DagRun("erp.migrate", "run-a"), DagRun("erp.replicate", "run-b")
TASK: Any = SimpleNamespace(plan=SimpleNamespace(target=SimpleNamespace(aws_conn_id="aws", region="eu-west-1")))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "wavelift.db")


def _place(
    ledger: Ledger, run: DagRun, server: str, *, limit: int = 2, alive: Callable[[str], bool] = lambda holder: True
) -> ImportPlace:
    return ImportPlace(ledger, TASK, RunContext(run, server, liveness=Alive(holder=alive)), limit)


def _started() -> ImportRunning:
    return ImportRunning("import-ami-1", "submitted")


def _holders(ledger: Ledger) -> list[str]:
    return [
        slot.holder.rpartition("/")[2] for slot in within(ledger.read(), standing, SlotKind.IMPORT) if slot.granted_at
    ]


def _raises(error: Exception) -> Callable[[], ImportRunning]:
    def start() -> ImportRunning:
        raise error

    return start


@pytest.mark.parametrize("run", [MIGRATE, REPLICATE], ids=["migrations", "replicas"])
@pytest.mark.parametrize("error", [MissingPrivilegeError("refused"), UnreachableError("cut")], ids=["final", "retried"])
def test_inv_8_as_many_as_there_are_places_fail_in_submit_and_the_next_gets_one(
    ledger: Ledger, run: DagRun, error: Exception
) -> None:
    for server in ("web01", "web02"):
        with pytest.raises(type(error)):
            _place(ledger, run, server).submit(_raises(error))
    assert not _holders(ledger)
    assert _place(ledger, run, "web03").submit(_started) == _started()


def test_inv_8_an_outlived_try_does_not_give_away_the_place_of_the_one_that_owns_the_work(ledger: Ledger) -> None:
    _place(ledger, REPLICATE, "web01").submit(_started)
    with pytest.raises(FencedError):
        _place(ledger, REPLICATE, "web01").submit(_raises(FencedError("another try")))
    assert _holders(ledger) == ["web01"]


@pytest.mark.parametrize("waiter", [MIGRATE, REPLICATE], ids=["a migration waits", "a replica waits"])
def test_inv_8_the_place_of_a_dead_task_in_a_living_run_is_freed(ledger: Ledger, waiter: DagRun) -> None:
    _place(ledger, MIGRATE, "web01").submit(_started)
    _place(ledger, REPLICATE, "web02").submit(_started)
    dead: set[str] = set()

    def alive(holder: str) -> bool:
        return holder.rpartition("/")[2] not in dead

    found = _place(ledger, waiter, "web03", alive=alive).submit(_started)
    request = SlotRequest(SlotKind.IMPORT, "aws/eu-west-1", f"{waiter.dag_id}/{waiter.dag_run_id}/web03", 2)
    assert found == InQueue(request, "place 1 among our own imports")
    for holder in ("web01", "web02"):
        dead.add(holder)
        server = "web03" if holder == "web01" else "web04"
        assert _place(ledger, waiter, server, alive=alive).submit(_started) == _started()
        assert holder not in _holders(ledger)


def test_inv_8_a_waiting_place_of_aws_keeps_ours(ledger: Ledger) -> None:
    """AWS is full: whoever waits for it is the next, and not behind those who asked later."""
    full = ImportWaiting("5 imports are active in the account", below=5)
    assert _place(ledger, REPLICATE, "web01", limit=1).submit(lambda: full) == full
    assert _holders(ledger) == ["web01"]
