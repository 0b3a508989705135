"""A source is stopped for its cutover, against the simulator: what guests, HA, people and dead tasks do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.unit.services.test_frozen import task_of
from tests.vcenters import Take

from wavelift.adapters.vsphere import switch
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.errors import GuardError, PermanentError, TamperedError
from wavelift.base.run import CancelFlag, DagRun, MemoryCheckpoints
from wavelift.rules.cutover import SourceBefore
from wavelift.rules.wave_cutover import CutoverPlan, Shutdown
from wavelift.services.dataplane import source_switch
from wavelift.services.dataplane.cutover_messages import SourceToStart
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import ReservedRun, StopOrder, StoppedSource
from wavelift.services.dataplane.source_return import start_source
from wavelift.services.dataplane.source_switch import Stopping, stop_source
from wavelift.simulators.vcenter import ADMIN, SimNic, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]

SERVER = "web01"
CARDS = (SimNic(("10.0.0.5",)), SimNic(("10.1.0.5",), start_connected=False, connected=True))
AS_MADE = [(True, True, True), (False, True, True)]
FENCED = [(False, False, False)] * 2
VMS = [
    SimVm(SERVER, nics=CARDS),
    SimVm("mute01", nics=CARDS, tools="not_running"),
    SimVm("off01", nics=CARDS, power="poweredOff"),
    SimVm("asleep01", nics=CARDS, power="suspended"),
]


class Killed(BaseException):
    """SIGKILL, as far as a thread can get it."""


class Ticking(HandClock):
    """Every look at it costs some seconds."""

    tick = 4.0

    def now(self) -> datetime:
        self.sleep(self.tick)
        return super().now()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "POLL_S", 0.01)
    monkeypatch.setattr(source_switch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(source_switch, "OFF_SECONDS", 0.2)


@pytest.fixture
def vc(start_vc: Take) -> VCenterSimulator:
    return start_vc(VMS, users=(ADMIN,), task_seconds=0.01)


@pytest.fixture
def session(vc: VCenterSimulator, config_of: Configure) -> Iterator[VsphereSession]:
    with connect(config_of(vc)) as opened:
        yield opened


class Source:
    """One server whose stop was ordered, by all tries of its task."""

    def __init__(self, vc: VCenterSimulator, session: VsphereSession, name: str = SERVER, **shutdown: Any) -> None:
        self.vc, self.session, self.name = vc, session, name
        self.clock, self.checkpoints = Ticking(), MemoryCheckpoints()
        cards = switch.read_cards(session, self.shown["moref"], server=name)
        plan = CutoverPlan(shutdown=Shutdown(**shutdown))
        found = {"moref": self.shown["moref"], "power": self.shown["power"], "nics": cards}
        task = task_of(SERVER).model_copy(update={"name": name})
        facts = task.facts.model_copy(update=found)
        self.task: ServerTask = task.model_copy(
            update={"plan": task.plan.model_copy(update={"cutover": plan}), "facts": facts}
        )
        self.before = SourceBefore(
            connection="vc",
            connector="hall-a",
            vm=facts.moref,
            instance_uuid=facts.instance_uuid,
            path=facts.path,
            powered_on=facts.power == "poweredOn",
            cards=cards,
        )
        self.not_after: datetime | None = None
        self.ordered_at = self.clock.time

    @property
    def shown(self) -> dict[str, Any]:
        return next(vm for vm in self.vc.state()["vms"] if vm["name"] == self.name)

    @property
    def connections(self) -> list[tuple[bool, bool, bool]]:
        return [(nic["start_connected"], nic["connected"], nic["allow_guest_control"]) for nic in self.shown["nics"]]

    def calls(self, method: str) -> int:
        return int(self.vc.counters()["methods"].get(method, 0))

    def one_try(self) -> StoppedSource | Stopping:
        stop = StopOrder(cutover="cut-1", before=self.before, not_after=self.not_after, ordered_at=self.ordered_at)
        ctx = run_context(DagRun("erp.cutover", "r"), self.name, clock=self.clock, checkpoints=self.checkpoints)
        return stop_source(self.session, self.task, ReservedRun(server=self.name, run="run-1", stop=stop), ctx)

    def stop(self, most: int = 60) -> StoppedSource:
        """As Airflow reschedules it."""
        for _ in range(most):
            found = self.one_try()
            if isinstance(found, StoppedSource):
                assert (self.shown["power"], self.connections) == ("poweredOff", FENCED)
                return found
        raise AssertionError("it is not stopped")


def test_the_guest_shuts_down_and_the_source_is_fenced(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session)
    began = source.clock.time
    stopped = source.stop()
    assert (stopped.server, stopped.vm, stopped.how) == (SERVER, source.task.facts.moref, "its guest shut down")
    assert began < stopped.down_at < source.clock.time
    assert (source.calls("ShutdownGuest"), source.calls("PowerOffVM_Task"), source.calls("ReconfigVM_Task")) == (
        1,
        0,
        1,
    )
    assert source.stop().down_at == stopped.down_at, "asked again, it is the same stop"
    assert source.calls("ReconfigVM_Task") == 1


def test_a_guest_that_ignores_it_is_powered_off_in_the_end(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session, timeout_minutes=5)
    vc.set_vm(SERVER, shutdown={"how": "ignore"})
    found = source.one_try()
    assert isinstance(found, Stopping), "it holds no worker for so long"
    assert "minutes left to shut down" in found.words
    assert source.connections == AS_MADE, "a guest that still works keeps its network"
    stopped = source.stop()
    assert stopped.how == "powered off: its guest did not shut down in 5 minutes"
    assert source.calls("PowerOffVM_Task") == 1
    assert source.calls("ShutdownGuest") >= 2, "it may have been starting when it was asked first"


def test_a_guest_that_ignores_it_stays_on_where_the_plan_says_so(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session, timeout_minutes=2, then="abort")
    vc.set_vm(SERVER, shutdown={"how": "ignore"})
    with pytest.raises(PermanentError, match="did not shut down in 2 minutes") as caught:
        source.stop()
    assert "then clear the server's" in caught.value.next_step
    assert (source.shown["power"], source.connections) == ("poweredOn", AS_MADE)
    assert (source.calls("PowerOffVM_Task"), source.calls("ReconfigVM_Task")) == (0, 0)
    vc.set_vm(SERVER, shutdown={"how": "off"})
    assert source.stop().how == "its guest shut down", "cleared, the guest has its whole time again"


def test_a_wait_that_was_broken_off_gives_the_guest_its_whole_time(
    vc: VCenterSimulator, session: VsphereSession
) -> None:
    source = Source(vc, session, timeout_minutes=5)
    vc.set_vm(SERVER, shutdown={"how": "ignore"})
    source.one_try()
    source.clock.sleep(source_switch.LAPSE.total_seconds())
    assert isinstance(source.one_try(), Stopping)
    assert source.calls("PowerOffVM_Task") == 0


@pytest.mark.parametrize("then", ["power_off", "abort"])
def test_without_tools_nobody_is_asked(vc: VCenterSimulator, session: VsphereSession, then: str) -> None:
    source = Source(vc, session, "mute01", then=then)
    if then == "abort":
        with pytest.raises(PermanentError, match="VMware Tools do not run"):
            source.stop()
        assert source.connections == AS_MADE
    else:
        assert "VMware Tools do not run" in source.stop().how
    assert source.calls("ShutdownGuest") == 0


def test_a_guest_that_starts_again_by_itself_is_stopped_again(
    vc: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(vc, session)
    vc.set_vm(SERVER, shutdown={"how": "reboot", "back": 0.05})
    fence = switch.fence

    def fenced(*args: Any, **more: Any) -> Any:
        found = fence(*args, **more)
        vc.set_vm(SERVER, shutdown={"how": "off"})
        return found

    monkeypatch.setattr(switch, "fence", fenced)
    first = source.clock.time
    stopped = source.stop()
    assert source.calls("ShutdownGuest") >= 2
    assert stopped.down_at - first > source_switch.ASK_AGAIN, "it is the second stop that counts"


def test_a_source_that_ha_powers_on_is_stopped_again(
    vc: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(vc, session)
    fence, times = switch.fence, iter((True, False, False))

    def fenced(*args: Any, **more: Any) -> Any:
        found = fence(*args, **more)
        if next(times):
            vc.set_vm(SERVER, start_by="ha")
            assert source.connections == FENCED, "it comes up without its networks"
        return found

    monkeypatch.setattr(switch, "fence", fenced)
    source.stop()
    assert (source.calls("ShutdownGuest"), source.calls("ReconfigVM_Task")) == (2, 1)


@pytest.mark.parametrize("keeps", [True, False], ids=["with its checkpoint", "without"])
def test_a_task_that_dies_after_the_fence_is_repeated_by_the_stored_state(
    vc: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    source = Source(vc, session)
    fence = switch.fence

    def killed(*args: Any, **more: Any) -> Any:
        fence(*args, **more)
        raise Killed

    monkeypatch.setattr(switch, "fence", killed)
    with pytest.raises(Killed):
        source.stop()
    assert source.connections == FENCED
    monkeypatch.setattr(switch, "fence", fence)
    if not keeps:
        source.checkpoints = MemoryCheckpoints()
    source.stop()
    assert [card.connection for card in source.before.cards] == AS_MADE, "what a revert restores did not change"
    assert source.calls("ReconfigVM_Task") == 1


def test_cards_that_somebody_changed_since_the_pre_flight_stop_everything(
    vc: VCenterSimulator, session: VsphereSession
) -> None:
    source = Source(vc, session)
    first, second = source.before.cards
    other = first.model_copy(update={"start_connected": False})
    source.before = source.before.model_copy(update={"cards": (other, second)})
    with pytest.raises(PermanentError, match="somebody changed them") as caught:
        source.stop()
    assert "at power-on False" in str(caught.value.where["before"])
    assert source.calls("ShutdownGuest") == 0


def test_a_card_more_than_was_stored_stops_everything(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session, "off01")
    source.before = source.before.model_copy(update={"cards": source.before.cards[:1]})
    with pytest.raises(PermanentError, match="somebody changed them"):
        source.stop()
    assert source.calls("ReconfigVM_Task") == 0


def test_no_source_that_runs_is_stopped_after_the_window(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session)
    source.not_after = source.clock.time - timedelta(minutes=1)
    with pytest.raises(PermanentError, match="The window of the cutover is over"):
        source.stop()
    assert (source.calls("ShutdownGuest"), source.connections) == (0, AS_MADE)


def test_a_source_that_a_revert_brought_back_is_not_stopped_by_its_old_order(
    vc: VCenterSimulator, session: VsphereSession
) -> None:
    """Somebody clears the task alone. Only the ledger knows that the cutover is over, and it cannot be asked here."""
    source = Source(vc, session)
    source.stop()
    vc.set_vm(SERVER, start_by="ha")
    source.stop()
    asked = source.calls("ShutdownGuest")
    assert asked == 2, "one that is on and fenced serves nobody"
    start_source(
        session,
        SourceToStart(server=SERVER, cutover="cut-1", environment="prod", before=source.before),
        CancelFlag(),
    )
    with pytest.raises(PermanentError, match="it was stopped, and somebody brought it back"):
        source.one_try()
    assert (source.calls("ShutdownGuest"), source.shown["power"]) == (asked, "poweredOn")
    source.ordered_at = source.clock.time
    source.stop()


def test_an_old_order_does_not_begin_a_stop(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session)
    source.clock.sleep(source_switch.ORDER_COUNTS.total_seconds())
    with pytest.raises(PermanentError, match="The source serves, and is not stopped: that was ordered at"):
        source.one_try()
    assert (source.calls("ShutdownGuest"), source.connections) == (0, AS_MADE)


def test_one_that_was_asked_in_time_is_fenced_whenever_it_is_off(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session)
    source.not_after = source.clock.time + timedelta(seconds=30)
    vc.set_vm(SERVER, shutdown={"how": "ignore"})
    source.one_try()
    assert source.clock.time > source.not_after
    vc.set_vm(SERVER, shutdown={"how": "off"})
    source.stop()


def test_a_source_that_is_off_already_is_fenced(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session, "off01")
    source.not_after = source.clock.time - timedelta(minutes=1)
    assert source.stop().how == "it was off already"


def test_a_suspended_source_keeps_its_memory(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session, "asleep01")
    with pytest.raises(GuardError, match="suspended"):
        source.stop()
    assert source.calls("PowerOffVM_Task") == 0


def test_an_order_for_another_vm_stops_none(vc: VCenterSimulator, session: VsphereSession) -> None:
    source = Source(vc, session)
    source.before = source.before.model_copy(update={"vm": "vm-other"})
    with pytest.raises(TamperedError, match="does not order this source"):
        source.stop()
    assert source.calls("ShutdownGuest") == 0
