"""Places for imports: one queue for both flows, and nothing that ended keeps one (AMP-04, invariant 8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import fresh_ledger, within

from wavelift.base.errors import FencedError, MissingPrivilegeError, UnreachableError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger
from wavelift.ledger.slots import standing
from wavelift.rules.flows import SlotKind
from wavelift.services.common import import_queue
from wavelift.services.common.import_queue import ImportQueue, WantedImport
from wavelift.services.common.slots import ASK_EVERY, InQueue, SlotRequest
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting

pytestmark = pytest.mark.unit

MIGRATE, REPLICATE = DagRun("erp.migrate", "run-a"), DagRun("erp.replicate", "run-b")
TARGET = SimpleNamespace(
    aws_conn_id="aws",
    account="111122223333",
    migrations_per_account=None,
    region="eu-west-1",
    role="vmimport",
    encrypt=True,
    kms_key="key-1",
)
FULL = "in line for imports into account 111122223333 in eu-west-1"
PLAN = SimpleNamespace(target=TARGET, wave="erp", made_with=lambda run_key: {"wavelift:run": run_key})
TASK: Any = SimpleNamespace(name="web01", plan=PLAN, boot_mode="uefi")
WANTED = WantedImport(task=TASK, disks=[], instant="one", license_type="byol", platform="Linux")
RUNNING = ImportRunning("import-ami-1", "submitted")


class Queue:
    """The queue of one account and region; AWS and the flows that use it are stood in for."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger = ledger
        self.clock = HandClock()
        self.dead: set[str] = set()
        self.answer: Callable[[], ImportRunning | ImportWaiting] = lambda: RUNNING
        self.told: list[str] = []
        """What the flow was told."""
        self.requests: list[Any] = []
        monkeypatch.setattr(import_queue, "ImportTask", lambda *_, **__: self)

    # The import's task, as AWS knows it

    def look(self) -> None:
        return None

    def submit_import(self, request: Callable[[str], Any], *, limit: int) -> ImportRunning | ImportWaiting:
        self.requests.append(request("token-1"))
        return self.answer()

    # The flow

    def before_submit(self) -> None:
        self.told.append("before submit")

    def ended(self, status: Any) -> None:
        raise AssertionError("nothing ends")

    def submitted(self, task_id: str) -> None:
        self.told.append(task_id)

    def running(self, status: Any) -> None:
        raise AssertionError("nothing runs")

    def waiting(self, words: str) -> None:
        self.told.append(words)

    def advance(self, run: DagRun, server: str, *, limit: int = 2) -> Any:
        alive = Alive(holder=lambda holder: holder.rpartition("/")[2] not in self.dead)
        ctx = run_context(run, server, clock=self.clock, liveness=alive)
        access: Any = None
        return ImportQueue(self.ledger, access, ctx, limit).advance(WANTED, self)

    def holders(self) -> list[str]:
        queue = within(self.ledger.read(), standing, SlotKind.IMPORT)
        return [slot.holder.rpartition("/")[2] for slot in queue if slot.granted_at]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(fresh_ledger(tmp_path / "wavelift.db"), monkeypatch)


def _raises(error: Exception) -> Callable[[], ImportRunning]:
    def start() -> ImportRunning:
        raise error

    return start


@pytest.mark.parametrize("run", [MIGRATE, REPLICATE], ids=["migrations", "replicas"])
@pytest.mark.parametrize("error", [MissingPrivilegeError("refused"), UnreachableError("cut")], ids=["final", "retried"])
def test_inv_8_as_many_as_there_are_places_fail_in_submit_and_the_next_gets_one(
    queue: Queue, run: DagRun, error: Exception
) -> None:
    queue.answer = _raises(error)
    for server in ("web01", "web02"):
        with pytest.raises(type(error)):
            queue.advance(run, server)
    assert not queue.holders()
    queue.answer = lambda: RUNNING
    assert queue.advance(run, "web03") == RUNNING


def test_inv_8_an_outlived_try_does_not_give_away_the_place_of_the_one_that_owns_the_work(queue: Queue) -> None:
    queue.advance(REPLICATE, "web01")
    queue.answer = _raises(FencedError("another try"))
    with pytest.raises(FencedError):
        queue.advance(REPLICATE, "web01")
    assert queue.holders() == ["web01"]


@pytest.mark.parametrize("waiter", [MIGRATE, REPLICATE], ids=["a migration waits", "a replica waits"])
def test_inv_8_the_place_of_a_dead_task_in_a_living_run_is_freed(queue: Queue, waiter: DagRun) -> None:
    queue.advance(MIGRATE, "web01")
    queue.advance(REPLICATE, "web02")
    found = queue.advance(waiter, "web03")
    request = SlotRequest(SlotKind.IMPORT, "111122223333/eu-west-1", f"{waiter.dag_id}/{waiter.dag_run_id}/web03", 2)
    assert found == InQueue(request, f"1st {FULL}: 2 of 2 in use")
    for holder in ("web01", "web02"):
        queue.dead.add(holder)
        queue.clock.sleep(ASK_EVERY.total_seconds())
        server = "web03" if holder == "web01" else "web04"
        assert queue.advance(waiter, server) == RUNNING
        assert holder not in queue.holders()


def test_inv_8_a_waiting_place_of_aws_keeps_ours(queue: Queue) -> None:
    """AWS is full: whoever waits for it is the next, and not behind those who asked later."""
    full = ImportWaiting("5 imports are active in the account", below=5)
    queue.answer = lambda: full
    assert queue.advance(REPLICATE, "web01", limit=1) == full
    assert queue.holders() == ["web01"]


def test_amp_07_the_flow_is_told_how_its_import_stands(queue: Queue) -> None:
    queue.advance(MIGRATE, "web01", limit=1)
    queue.advance(MIGRATE, "web02", limit=1)
    queue.answer = lambda: ImportWaiting("AWS is full")
    queue.advance(MIGRATE, "web01", limit=1)
    assert queue.told == [
        "before submit",
        "import-ami-1",
        f"1st {FULL}: 1 of 1 in use",
        "before submit",
        "AWS is full",
    ]


def test_the_request_says_what_plan_and_task_say(queue: Queue) -> None:
    queue.advance(MIGRATE, "web01")
    (request,) = queue.requests
    assert (request.client_token, request.role_name, request.boot_mode) == ("token-1", "vmimport", "uefi")
    assert (request.license_type, request.platform) == ("BYOL", "Linux")
    assert (request.encrypted, request.kms_key, request.description) == (True, "key-1", "erp/web01")
    assert request.tags == {"wavelift:run": "erp.migrate/run-a/web01"}
