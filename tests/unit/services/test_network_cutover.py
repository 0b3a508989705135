"""The control plane of a network's cutover: one cutover at a time, orders that ask the ledger, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.ledgers import fresh_ledger, within
from tests.network_world import DAG, NETWORK, SEGMENT, World, blocked, environment, spec

from wavelift.base.domain import Severity
from wavelift.base.errors import (
    DeniedError,
    GrantError,
    NotApprovedError,
    NotFoundError,
    PermanentError,
    RefusedError,
    SpecError,
)
from wavelift.base.run import DagRun
from wavelift.ledger import WaveRunState, cutovers, events, network_cutovers, waves
from wavelift.rules.approval import Given
from wavelift.rules.conf import NetworkConf
from wavelift.rules.grants import Intent, kid_in, read, require
from wavelift.rules.network_cutover import DESTINATION, EXTENSION, OFF, ON, SOURCE, NetworkState
from wavelift.services.common.approval import Verdict, take
from wavelift.services.common.grant_keys import known_keys
from wavelift.services.dataplane import grants as connector
from wavelift.services.dataplane.network_messages import NetworkOrder, Probed
from wavelift.services.network import alerts, approvals, requests, settle
from wavelift.services.network import finish as ending
from wavelift.services.network import report as reports
from wavelift.services.network.admit import has_arrived
from wavelift.services.network.messages import NetworkReport
from wavelift.services.network.orders import AsksPerson

pytestmark = pytest.mark.unit

BY_PERSON: Any = {"source": {"network": "VLAN-12", "disconnect": {"by": "person", "hours": 2}}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        yield World(ledger, tmp_path)


def going(world: World) -> None:
    world.admit()
    world.record()


def failed(world: World, words: str = "unextend: HCX refused") -> NetworkReport:
    """A run whose end of the extension failed."""
    going(world)
    acted = world.act(world.order(SOURCE))
    world.order(EXTENSION, acted=acted)
    return world.report(words=words)


# The whole way


def test_the_gateway_moves_and_the_ledger_tells_every_step(world: World) -> None:
    known = world.switched()
    assert known.state is NetworkState.SWITCHED
    assert world.sides.routed_by == (DESTINATION,)
    assert world.rows() == {SOURCE: "settled", EXTENSION: "settled", DESTINATION: "settled"}
    assert known.prefix == "10.1.2.0/24"
    assert known.before is not None
    assert known.before[SOURCE]["connectivity"] == ON
    assert known.after is not None
    assert known.after["destination"]["connectivity"] == ON
    assert known.soak_until == known.moment("switched") + timedelta(hours=24)  # type: ignore[operator]
    assert {"going", "disconnected", "unextended", "connected", "probed", "switched"} <= set(known.times or {})


def test_it_goes_back_in_reverse_order_and_the_destination_is_off_first(world: World) -> None:
    known = world.switched()
    world.admit("back", "revert", cutover=known.id)
    world.back("back")
    assert world.sides.routed_by == (SOURCE,)
    assert world.sides.extension == "ext-2"
    assert set(world.rows().values()) == {"undone"}
    known = world.known()
    assert known.state is NetworkState.REVERTED
    assert known.after is not None
    assert known.after["extension_made_again"] == "ext-2"
    times = [known.moment(name) for name in ("isolated", "extended", "reconnected")]
    assert times == sorted(times)  # type: ignore[type-var]
    assert world.report("back").succeeded


def test_it_is_finished_after_the_soak_time_alone(world: World) -> None:
    known = world.switched()
    with pytest.raises(RefusedError, match="soaks until"):
        world.admit("end", "finish")
    world.soaked()
    world.admit("end", "finish", cutover=known.id)
    assert world.finish("end").state is NetworkState.FINISHED
    assert world.report("end").succeeded
    with pytest.raises(RefusedError, match="its way back was given up"):
        world.admit("back", "revert", cutover=known.id)


def test_every_token_is_for_its_own_order_alone(world: World) -> None:
    going(world)
    made = world.order(SOURCE)
    assert isinstance(made, NetworkOrder)
    [key] = known_keys(world.keys)
    public = connector.public_key(world.keys.public, key.kid)
    grant = read(made.token, public, now=world.clock.now())
    assert kid_in(made.token, "network") == key.kid
    said: dict[str, Any] = {
        "scope": "network",
        "user": "alice",
        "action": "network",
        "environment": "cloud",
        "dag_id": DAG,
        "run_id": "r1",
        "server": NETWORK,
        "vm": made.cutover,
        "vcenter": "hcx1",
        "connector": "dc1",
        "plan": made.bound,
    }
    require(grant, Intent(**said))
    other = made.model_copy(update={"step": "destination"})
    with pytest.raises(GrantError, match="another plan"):
        require(grant, Intent(**{**said, "plan": other.bound}))
    assert set(grant.connections) == {"vc1", "vc2", "nsx1", "nsx2"}
    assert grant.clear_number == 0


# Admission


def test_one_cutover_of_a_network_is_open_at_a_time(world: World) -> None:
    going(world)
    with pytest.raises(RefusedError, match="is waiting"):
        world.admit("r2")
    world.alive.discard("r1")  # its run has ended, and touched nothing
    world.admit("r2")
    found = within(world.ledger.read(), network_cutovers.list_cutovers).items
    states = {each.run.dag_run_id: each.state for each in found}
    assert states == {"r1": NetworkState.ENDED, "r2": NetworkState.WAITING}


def test_one_that_touched_something_holds_the_network_though_its_run_is_dead(world: World) -> None:
    failed(world)
    with pytest.raises(RefusedError, match="is failed"):
        world.admit("r2")


def test_two_requests_at_once_make_one_cutover_and_a_named_one_is_the_same_again(world: World) -> None:
    conf = NetworkConf(mode="cutover")
    run = requests.named_run(NETWORK, conf, "job-7")
    ctx = world.ctx(run.dag_run_id)
    first = requests.reserve(world.ledger, world.place, conf, ctx, request_id="job-7")
    again = requests.reserve(world.ledger, world.place, conf, ctx, request_id="job-7")
    assert first is not None
    assert again is not None
    assert (first.id, first.version) == (again.id, again.version)
    with pytest.raises(RefusedError, match="is reserved"):
        requests.reserve(world.ledger, world.place, conf, world.ctx("other"))
    assert requests.made_before(world.ledger, run) is None  # the run is not there yet
    world.admit(run.dag_run_id)
    made = requests.made_before(world.ledger, run)
    assert made is not None
    assert made.id == first.id


def test_a_reservation_ends_when_its_run_cannot_be_made_or_does_not_come(world: World) -> None:
    conf = NetworkConf(mode="cutover")
    requests.reserve(world.ledger, world.place, conf, world.ctx("a"))
    requests.give_back(world.ledger, DagRun(DAG, "a"), world.clock)
    assert world.known().state is NetworkState.EXPIRED
    world.clock.sleep(1)
    requests.reserve(world.ledger, world.place, conf, world.ctx("b"))
    world.clock.sleep(3600)
    world.admit("c")
    states = [each.state for each in within(world.ledger.read(), network_cutovers.list_cutovers).items]
    assert states == [NetworkState.WAITING, NetworkState.EXPIRED, NetworkState.EXPIRED]


def test_mode_plan_opens_nothing_and_its_report_tells_what_is_in_the_way(world: World) -> None:
    world.admit(mode="plan")
    planned = world.record("r1", blocked())
    with pytest.raises(NotFoundError):
        world.order(SOURCE)
    made = world.report(planned=planned)
    assert "app01" in made.error
    assert not within(world.ledger.read(), network_cutovers.list_cutovers).items


def test_who_may_not_cut_over_is_refused_at_each_order(world: World) -> None:
    with pytest.raises(DeniedError):
        World(world.ledger, world.folder, asker="mallory").admit()
    going(world)
    acted = world.act(world.order(SOURCE))
    world.environment = environment(cut_over=("user:bob",))
    with pytest.raises(DeniedError):
        world.order(EXTENSION, acted=acted)


@pytest.mark.parametrize("conf", [{"mode": "switch"}, {"servers": ["a"]}, {"mode": "revert", "cutover": ""}])
def test_a_wrong_conf_is_refused(world: World, conf: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        world.admit(**{"mode": "plan", **conf})


def test_a_cleared_run_goes_forward_only_as_its_files_said(world: World) -> None:
    failed(world)
    world.spec = spec(soak_hours=1)
    world.clear("r1")
    with pytest.raises(SpecError, match="have changed"):
        world.order(SOURCE)
    world.alive.discard("r1")
    world.admit("back", "revert")  # the way back needs no file
    world.back("back")
    assert world.sides.routed_by == (SOURCE,)


# The plan, and the state before


def test_nothing_begins_while_something_is_in_the_way(world: World) -> None:
    world.admit()
    planned = world.record("r1", blocked())
    assert "nothing begins" in planned.lines()[-1]
    with pytest.raises(PermanentError, match="app01"):
        world.order(SOURCE)
    assert world.report(words="record: app01").state == "ended"
    assert world.sides.routed_by == (SOURCE,)


def test_the_plan_tells_each_undo_and_that_finishing_has_none(world: World) -> None:
    world.admit()
    lines = "\n".join(world.record().lines())
    assert lines.count("     back:") == 3
    assert "Once it is finished, there is no way back" in lines
    assert SEGMENT in lines


def test_a_later_look_never_changes_the_state_before(world: World) -> None:
    failed(world)
    before = world.known().before
    world.clear("r1")
    world.admit()
    world.record("r1", blocked())  # the source is off now, and a finding says so
    assert world.known().before == before
    assert world.known().plan_digest == network_digest(world)
    acted = world.act(world.order(SOURCE))
    made = world.order(EXTENSION, acted=acted)
    assert made.befores[SOURCE]["connectivity"] == ON


def network_digest(world: World) -> str:
    return str((world.known().plan or {})["digest"])


def test_a_look_that_was_made_again_before_the_first_write_counts(world: World) -> None:
    world.admit()
    world.record("r1", blocked())
    world.record("r1")
    assert isinstance(world.order(SOURCE), NetworkOrder)


# Approval


def approve(world: World, by: str = "bob", id: str = "r1", *, finish: bool = False) -> Verdict:
    ask = approvals.finish_question if finish else approvals.plan_question
    question = ask(world.ledger, world.ctx(id))
    given = Given(user=by, approves=True, at=world.clock.now())
    return take(world.ledger, question, given, world.ctx(id), rights=world.rights).verdict


@pytest.fixture
def asking(world: World) -> World:
    world.spec = spec(approve="four_eyes", approval_hours=3)
    going(world)
    return world


def test_a_yes_does_not_count_for_a_plan_with_another_warning(world: World) -> None:
    """Somebody cleared the look after the yes, and now a machine stays without a gateway that nobody was told of."""
    world.spec = spec(approve="required")
    going(world)
    assert approve(world) is Verdict.APPROVED
    staying = blocked().model_copy(update={"severity": Severity.WARNING, "code": "network.exceptions"})
    world.record("r1", staying)
    with pytest.raises(NotApprovedError):
        world.order(SOURCE)
    world.record()
    assert isinstance(world.order(SOURCE), NetworkOrder)


def test_no_order_without_approval_of_this_very_plan(asking: World) -> None:
    with pytest.raises(NotApprovedError, match="Nobody has approved"):
        asking.order(SOURCE)
    assert approve(asking, "alice") is Verdict.NOT_COUNTED
    assert approve(asking, "mallory") is Verdict.NOT_COUNTED
    assert approve(asking) is Verdict.APPROVED
    asking.sides.extension = "ext-9"
    asking.record()  # another plan
    with pytest.raises(NotApprovedError):
        asking.order(SOURCE)
    assert approve(asking) is Verdict.APPROVED
    assert isinstance(asking.order(SOURCE), NetworkOrder)


def test_an_approval_ends_and_one_that_goes_is_not_asked_again(asking: World) -> None:
    approve(asking)
    asking.clock.sleep(4 * 3600)
    with pytest.raises(NotApprovedError, match="counted until"):
        asking.order(SOURCE)
    approve(asking)
    acted = asking.act(asking.order(SOURCE))
    assert approvals.plan_question(asking.ledger, asking.ctx()).mode == "none"
    asking.clock.sleep(4 * 3600)
    assert isinstance(asking.order(EXTENSION, acted=acted), NetworkOrder)


def test_one_that_failed_goes_on_only_with_an_approval_that_counts(asking: World) -> None:
    approve(asking)
    acted = asking.act(asking.order(SOURCE))
    asking.order(EXTENSION, acted=acted)
    asking.report(words="unextend: HCX refused")
    asking.clock.sleep(4 * 3600)
    asking.clear("r1")
    with pytest.raises(NotApprovedError):
        asking.order(SOURCE)
    assert approve(asking) is Verdict.APPROVED
    assert isinstance(asking.order(SOURCE), NetworkOrder)


def test_finishing_has_an_approval_of_its_own(asking: World) -> None:
    approve(asking)
    asking.forward()
    asking.report()
    asking.soaked()
    asking.admit("end", "finish")
    with pytest.raises(NotApprovedError):
        asking.finish("end")
    approve(asking, id="end", finish=True)
    assert asking.finish("end").state is NetworkState.FINISHED


# Orders


@pytest.mark.parametrize("step", [EXTENSION, DESTINATION])
def test_only_the_first_step_lets_a_cutover_begin(world: World, step: str) -> None:
    going(world)
    with pytest.raises(PermanentError, match="is waiting"):
        world.order(step)


def test_an_acting_task_that_is_cleared_alone_after_a_revert_never_acts(world: World) -> None:
    going(world)
    orders = {SOURCE: world.order(SOURCE)}
    orders[EXTENSION] = world.order(EXTENSION, acted=world.act(orders[SOURCE]))
    orders[DESTINATION] = world.order(DESTINATION, acted=world.act(orders[EXTENSION]))
    world.act(orders[DESTINATION])
    world.report(words="probe: no answer")
    world.admit("back", "revert")
    world.back("back")
    world.report("back")
    world.clear("r1")
    for each in orders.values():
        with pytest.raises(GrantError, match="cleared"):
            world.act(each)
    for step in (SOURCE, EXTENSION, DESTINATION):  # and whoever clears the order's task is refused by the ledger
        with pytest.raises(PermanentError, match="is reverted"):
            world.order(step)
    assert world.sides.routed_by == (SOURCE,)


def test_an_order_is_given_again_as_often_as_needed(world: World) -> None:
    going(world)
    first, again = world.order(SOURCE), world.order(SOURCE)
    assert first.bound == again.bound
    acted = world.act(again)
    world.order(EXTENSION, acted=acted)
    second = world.order(EXTENSION, acted=acted)
    assert world.act(second).state is None
    assert world.rows() == {SOURCE: "settled", EXTENSION: "intended", DESTINATION: "intended"}


def test_the_end_of_the_extension_intends_the_destination_too(world: World) -> None:
    """HCX connects it in the same call."""
    failed(world)
    assert world.rows()[DESTINATION] == "intended"
    assert world.known().moment("unextending") is not None


@pytest.mark.parametrize(
    "lie",
    [
        {"step": "destination"},
        {"direction": "back"},
        {"cutover": "net-other"},
        {"state": {"connectivity": ON}},
        {"state": {}},
    ],
)
def test_what_was_done_must_be_what_was_ordered(world: World, lie: dict[str, Any]) -> None:
    going(world)
    acted = world.act(world.order(SOURCE))
    with pytest.raises(PermanentError, match=r"What was done is|is not as it was ordered"):
        world.order(EXTENSION, acted=acted.model_copy(update=lie))
    assert world.rows()[SOURCE] == "intended"


def test_settling_needs_every_step_and_the_probes(world: World) -> None:
    going(world)
    acted = world.act(world.order(SOURCE))
    acted = world.act(world.order(EXTENSION, acted=acted))
    acted = world.act(world.order(DESTINATION, acted=acted))
    probes = settle.probe_order(world.ledger, world.ctx())
    other = Probed(cutover="net-other", passed=(), at=world.clock.now())
    with pytest.raises(PermanentError, match="not probed"):
        settle.settle(world.ledger, acted, other, world.ctx())
    mine = other.model_copy(update={"cutover": probes.cutover})
    assert settle.settle(world.ledger, acted, mine, world.ctx()).state is NetworkState.SWITCHED
    assert settle.settle(world.ledger, acted, mine, world.ctx()).state is NetworkState.SWITCHED  # may be repeated


# Cancel


def test_cancel_before_anything_is_touched(world: World) -> None:
    going(world)
    world.cancel()
    with pytest.raises(PermanentError, match="cancelled"):
        world.order(SOURCE)
    assert world.report(words="order_disconnect: cancelled").state == "ended"
    with pytest.raises(PermanentError, match="nothing to cancel"):
        world.cancel()


def test_cancel_of_a_run_that_is_not_there_ends_it_at_once(world: World) -> None:
    going(world)
    assert world.cancel(over=True).state is NetworkState.ENDED


def _next(world: World, steps: int, acted: Any) -> None:
    """The next task of the control plane after so many steps."""
    if steps < 3:
        world.order((EXTENSION, DESTINATION)[steps - 1], acted=acted)
        return
    probed = Probed(cutover=acted.cutover, passed=(), at=world.clock.now())
    settle.settle(world.ledger, acted, probed, world.ctx())


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_cancel_on_the_way_stops_at_the_next_order_and_starts_the_way_back(world: World, steps: int) -> None:
    going(world)
    acted = None
    for step in (SOURCE, EXTENSION, DESTINATION)[:steps]:
        acted = world.act(world.order(step, acted=acted))
    world.cancel()
    with pytest.raises(PermanentError, match="cancelled"):
        _next(world, steps, acted)
    assert world.report(words="cancelled").error
    assert world.known().error == "cancelled on request"
    assert world.starts is not None
    world.admit(world.starts.run.dag_run_id, **world.starts.conf)
    world.back(world.starts.run.dag_run_id)
    assert world.sides.routed_by == (SOURCE,)


@pytest.mark.parametrize("phase", ["switched", "failed", "reverting", "finishing", "dead"])
def test_there_is_nothing_to_cancel_later(world: World, phase: str) -> None:
    if phase in ("switched", "finishing"):
        world.switched()
    elif phase == "dead":
        going(world)
        world.order(SOURCE)
    else:
        failed(world)
    if phase == "reverting":
        world.admit("back", "revert")
        world.order(DESTINATION, "back", "back")
    if phase == "finishing":
        world.soaked()
        world.admit("end", "finish")

        ending.order_finish(world.ledger, world.sides.looked(world.clock.now()), world.ctx("end"), world.desk("end"))
    with pytest.raises(PermanentError, match="nothing to cancel"):
        world.cancel(over=phase == "dead")


# The way back


def test_a_failed_cutover_starts_its_way_back_once(world: World) -> None:
    made = failed(world)
    assert made.state == "failed"
    assert "HCX refused" in made.error
    first = world.starts
    assert first is not None
    assert first.conf == {"mode": "revert", "cutover": world.known().id}
    world.alive.add("r1")
    world.report(words="unextend: HCX refused")  # its report was cleared
    assert world.starts is not None
    assert world.starts.run == first.run
    world.alive.add(first.run.dag_run_id)
    assert reports.reverts(world.ledger, world.ctx()) is None  # it lives
    world.admit(first.run.dag_run_id, **first.conf)
    world.back(first.run.dag_run_id)
    world.alive.discard(first.run.dag_run_id)
    assert reports.reverts(world.ledger, world.ctx()) is None


def test_the_way_back_of_a_failed_cutover_needs_no_right_nor_file(world: World) -> None:
    """The environment's file was broken, or the right was taken away, while the source was disconnected."""
    going(world)
    acted = world.act(world.order(SOURCE))
    given, world.environment = world.environment, environment(cut_over=("user:bob",))
    with pytest.raises(DeniedError):
        world.order(EXTENSION, acted=acted)
    world.report(words="order_unextend: alice may not cut over")
    started = world.starts
    assert started is not None
    with pytest.raises(DeniedError):
        world.admit("mine", "revert")
    world.admit(started.run.dag_run_id, "revert", cutover=world.known().id)
    assert world.back(started.run.dag_run_id).state is NetworkState.REVERTED
    assert world.sides.routed_by == (SOURCE,)
    assert given != world.environment


def test_a_way_back_that_did_not_even_begin_is_told(world: World) -> None:
    failed(world)
    assert world.starts is not None
    id = world.starts.run.dag_run_id
    made = world.report(id, words="admit: the database is away")
    assert made.alert == "perhaps nobody routes 10.1.2.0/24"
    assert made.stopped
    assert made.next_steps[0].startswith("Go back with `wavelift network revert")


def test_a_run_that_was_only_reserved_and_never_admitted_tells_so(world: World) -> None:
    requests.reserve(world.ledger, world.place, NetworkConf(mode="cutover"), world.ctx())
    made = world.report(words="admit: the files are broken")
    assert (made.stopped, made.alert) == ("admit: the files are broken", "")


def test_who_gives_the_way_back_up_reads_what_is_deleted(world: World) -> None:
    by = {"by": "webhook", "connection": "gate"}
    world.spec = spec(source={"network": "VLAN-12", "segment": "/infra/segments/vlan12", "disconnect": by})
    world.switched()
    world.soaked()
    world.admit("end", "finish")
    lines = ending.finish_lines(world.ledger, world.sides.looked(world.clock.now()), world.ctx("end"))
    assert "leaves VLAN-12 to a person" in lines[1]


def test_a_file_may_leave_it_to_a_person(world: World) -> None:
    world.spec = spec(on_failure="stop")
    failed(world)
    assert world.starts is None
    world.clear("r1")
    assert world.forward().state is NetworkState.SWITCHED  # the person goes on


def test_a_revert_is_refused_while_tasks_of_the_cutover_may_act(world: World) -> None:
    going(world)
    acted = world.act(world.order(SOURCE))
    with pytest.raises(RefusedError, match="under way"):
        world.admit("back", "revert")
    world.alive.discard("r1")
    world.admit("back", "revert")
    world.clear("r1")  # somebody clears the cutover's run at the same moment
    with pytest.raises(PermanentError, match="forward and back at once"):
        world.order(DESTINATION, "back", "back")
    with pytest.raises(PermanentError, match="Run back reverts"):
        world.order(EXTENSION, acted=acted)
    world.alive.discard("r1")
    world.back("back")
    assert world.sides.routed_by == (SOURCE,)


def test_no_step_goes_forward_once_the_way_back_has_begun(world: World) -> None:
    failed(world)
    world.admit("back", "revert")
    world.order(DESTINATION, "back", "back")
    world.alive.discard("back")
    world.clear("r1")
    with pytest.raises(PermanentError, match="is reverting"):
        world.order(SOURCE)


def test_a_revert_that_fails_is_cleared_and_goes_on(world: World) -> None:
    world.switched()
    world.admit("back", "revert")
    acted = world.act(world.order(DESTINATION, "back", "back"), "back")
    world.order(EXTENSION, "back", "back", acted)
    made = world.report("back", words="extend: HCX is away")
    assert made.alert == "nobody routes 10.1.2.0/24"
    assert any(SEGMENT in step and "only then" in step for step in made.next_steps)
    world.clear("back")
    world.back("back")
    made = world.report("back")
    assert made.succeeded
    assert made.alert == ""
    assert world.known().alert == ""


def test_another_run_takes_over_a_revert_whose_run_is_dead(world: World) -> None:
    world.switched()
    world.admit("back", "revert")
    acted = world.act(world.order(DESTINATION, "back", "back"), "back")
    with pytest.raises(RefusedError, match="run back is about"):
        world.admit("again", "revert")
    world.alive.discard("back")
    world.admit("again", "revert")
    world.back("again")
    assert world.sides.routed_by == (SOURCE,)
    world.clear("back")
    with pytest.raises(NotFoundError):
        world.order(EXTENSION, "back", "back", acted)


@pytest.mark.parametrize("step", [EXTENSION, SOURCE])
def test_the_way_back_begins_with_the_destination(world: World, step: str) -> None:
    failed(world)
    world.admit("back", "revert")
    with pytest.raises(PermanentError, match="does not go back now"):
        world.order(step, "back", "back")


def test_the_way_back_knows_what_hcx_may_still_be_doing(world: World) -> None:
    failed(world)
    world.remember("job-1")
    world.admit("back", "revert")
    made = world.order(DESTINATION, "back", "back")
    assert made.job == "job-1"
    assert made.asked_at == world.known().moment("failed")
    acted = world.act(made, "back")
    acted = world.act(world.order(EXTENSION, "back", "back", acted), "back").model_copy(update={"job": "job-of-making"})
    assert world.order(SOURCE, "back", "back", acted).job == "job-1"


def test_what_hcx_may_do_late_counts_from_when_it_may_have_been_asked_last(world: World) -> None:
    """The order lay 20 minutes before a worker took it, HCX's answer was lost, and the task died: were it counted from
    the order on, the source would route again while HCX still connects the destination."""
    going(world)
    acted = world.act(world.order(SOURCE))
    world.order(EXTENSION, acted=acted)
    world.clock.sleep(1200)
    asked = world.clock.now()
    world.report(words="unextend: it was stopped")
    world.admit("back", "revert")
    assert world.order(DESTINATION, "back", "back").asked_at >= asked


def test_what_hcx_may_do_late_counts_from_when_the_extension_was_seen_gone(world: World) -> None:
    going(world)
    asked = world.order(EXTENSION, acted=world.act(world.order(SOURCE)))
    world.clock.sleep(1200)
    gone = world.clock.now()
    world.order(DESTINATION, acted=world.act(asked))
    world.clock.sleep(3600)
    world.report(words="probe: it was stopped")
    world.admit("back", "revert")
    assert world.order(DESTINATION, "back", "back").asked_at == gone


def test_a_revert_of_what_never_ended_the_extension_looks_at_all_three(world: World) -> None:
    going(world)
    world.act(world.order(SOURCE))
    world.report(words="order_unextend: the database is away")
    world.admit("back", "revert")
    made = world.order(DESTINATION, "back", "back")
    assert made.asked_at is None
    world.back("back")
    assert world.sides.extension == "ext-1"
    assert set(world.rows().values()) == {"undone"}


def test_admitting_a_run_that_has_arrived_leaves_only_its_report(world: World) -> None:
    world.switched()
    world.clear("r1")
    world.admit()
    assert has_arrived(world.ledger, "cutover", world.ctx())
    assert world.report().succeeded
    world.admit("back", "revert")
    assert not has_arrived(world.ledger, "revert", world.ctx("back"))
    world.back("back")
    world.admit("back", "revert", cutover=world.known().id)
    assert has_arrived(world.ledger, "revert", world.ctx("back"))


# A person


def test_a_person_is_asked_and_the_word_is_recorded_as_such(world: World) -> None:
    world.spec = spec(**BY_PERSON)
    going(world)
    asks = world.order(SOURCE)
    assert isinstance(asks, AsksPerson)
    assert "VLAN-12" in asks.words
    world.confirm(by="bob")
    made = world.order(SOURCE)
    assert made.answered == "bob"
    acted = world.act(made)
    assert not acted.read_back
    assert world.order(EXTENSION, acted=acted).source_word.startswith("bob at ")


def test_a_persons_word_counts_for_the_present_direction_alone(world: World) -> None:
    world.spec = spec(**BY_PERSON)
    world.switched()
    world.admit("back", "revert")
    acted = world.act(world.order(DESTINATION, "back", "back"), "back")
    with pytest.raises(PermanentError, match="Nothing is asked"):
        world.confirm()
    acted = world.act(world.order(EXTENSION, "back", "back", acted), "back")
    asks = world.order(SOURCE, "back", "back", acted)
    assert isinstance(asks, AsksPerson)
    assert "Nobody routes the network until then" in asks.words
    assert f"confirm {asks.cutover} source --undone`" in asks.words
    with pytest.raises(PermanentError, match="the opposite now: Connect VLAN-12"):
        world.confirm()  # somebody who was asked to disconnect it, and comes late
    world.clock.sleep(30 * 24 * 3600)  # nobody routes: no time is too late
    assert isinstance(world.order(SOURCE, "back", "back", acted), AsksPerson)
    world.confirm(said="undone")
    assert world.order(SOURCE, "back", "back", acted).answered == "bob"


def test_nobody_confirms_in_time(world: World) -> None:
    world.spec = spec(**BY_PERSON)
    going(world)
    world.order(SOURCE)
    world.clock.sleep(3 * 3600)
    with pytest.raises(PermanentError, match="Nobody confirmed within 2 h"):
        world.order(SOURCE)
    made = world.report(words="order_disconnect: nobody confirmed")
    assert made.alert == "perhaps nobody routes 10.1.2.0/24"


def test_a_word_of_before_the_failure_is_asked_again(world: World) -> None:
    world.spec = spec(**BY_PERSON, on_failure="stop")
    going(world)
    world.order(SOURCE)
    world.confirm()
    acted = world.act(world.order(SOURCE))
    world.order(EXTENSION, acted=acted)
    world.report(words="unextend: HCX refused")
    world.clock.sleep(30 * 24 * 3600)
    world.clear("r1")
    assert isinstance(world.order(SOURCE), AsksPerson)
    with pytest.raises(PermanentError, match="What was done is"):
        # the old word does not let the next step go
        world.order(EXTENSION, acted=acted.model_copy(update={"direction": "back"}))


# The report


def test_the_alert_is_told_as_long_as_nobody_routes(world: World) -> None:
    world.spec = spec(on_failure="stop")
    made = failed(world)
    assert made.alert == "perhaps nobody routes 10.1.2.0/24"  # HCX may have connected the destination
    said = within(world.ledger.read(), events.list_events, object_id=world.known().id, limit=50)
    assert "network_cutover.alert" in [each.action for each in said]
    with pytest.raises(PermanentError, match="perhaps nobody routes"):
        reports.raise_when_failed(made)


def test_a_run_that_was_never_admitted_has_a_report_too(world: World) -> None:
    made = world.report(words="admit: unknown key")
    assert made.stopped == "admit: unknown key"
    assert not made.succeeded


def test_a_probe_that_fails_is_no_alert_because_the_destination_routes(world: World) -> None:
    going(world)
    acted = world.act(world.order(SOURCE))
    acted = world.act(world.order(EXTENSION, acted=acted))
    last = world.act(world.order(DESTINATION, acted=acted))
    made = world.report(words="probe: no answer", acted=(last,))
    assert made.state == "failed"
    assert made.alert == ""
    assert world.rows()[DESTINATION] == "settled"


def test_a_finish_that_never_acted_can_still_be_reverted(world: World) -> None:
    world.switched()
    world.soaked()
    world.admit("end", "finish")

    looked = world.sides.looked(world.clock.now())
    ending.order_finish(world.ledger, looked, world.ctx("end"), world.desk("end"))
    world.report("end", words="finish: its queue is away", began=False)
    assert world.known().state is NetworkState.SWITCHED
    world.admit("back", "revert")
    world.back("back")


def test_a_finish_that_acted_goes_on_only_forward(world: World) -> None:
    world.switched()
    world.soaked()
    world.admit("end", "finish")

    looked = world.sides.looked(world.clock.now())
    ending.order_finish(world.ledger, looked, world.ctx("end"), world.desk("end"))
    made = world.report("end", words="finish: ports linger")
    assert made.state == "finishing"
    with pytest.raises(RefusedError, match="given up"):
        world.admit("back", "revert")
    world.clear("end")
    assert world.finish("end", blocked()).state is NetworkState.FINISHED  # a finding holds nothing back any more


def test_a_finish_is_refused_while_something_is_in_the_way(world: World) -> None:
    world.switched()
    world.soaked()
    world.admit("end", "finish")
    with pytest.raises(PermanentError, match="app01"):
        world.finish("end", blocked())
    assert world.known().state is NetworkState.SWITCHED


def test_the_run_in_the_ledger_ends_and_goes_on(world: World) -> None:
    failed(world)
    run = DagRun(DAG, "r1")
    assert within(world.ledger.read(), waves.get, run).state is WaveRunState.FAILED
    world.clear("r1")
    world.order(SOURCE)
    assert within(world.ledger.read(), waves.get, run).state is WaveRunState.RUNNING


def test_the_steps_and_approvals_have_a_trail(world: World) -> None:
    known = world.switched()
    found = within(world.ledger.read(), events.list_events, object_kind="network_cutover_step", limit=50)
    assert {each.object_id for each in found} == {f"{known.id}/{name}" for name in (SOURCE, EXTENSION, DESTINATION)}
    rows = within(world.ledger.read(), cutovers.steps_of, "network_cutover", known.id)
    assert all(row.before is not None for row in rows)


@pytest.mark.parametrize("reported", [True, False])
def test_a_finish_that_may_have_acted_before_a_clear_never_goes_back(world: World, reported: bool) -> None:
    """The source was deleted; then the run was cleared, and its order was refused: nothing was begun by this try, and
    yet nothing is there to go back to."""
    world.switched()
    world.soaked()
    world.admit("end", "finish")
    looked = world.sides.looked(world.clock.now())
    ending.order_finish(world.ledger, looked, world.ctx("end"), world.desk("end"))
    if reported:
        world.report("end", words="finish: the rename was refused")
    world.clear("end")
    world.report("end", words="order_finish: alice may not cut over any more", began=False, clears=1)
    assert world.known().state is NetworkState.FINISHING
    with pytest.raises(RefusedError, match="given up"):
        world.admit("back", "revert")


def test_a_second_run_that_finishes_does_not_open_the_way_back_that_the_first_gave_up(world: World) -> None:
    world.switched()
    world.soaked()
    for run, began in (("end", True), ("again", False)):
        world.admit(run, "finish")
        looked = world.sides.looked(world.clock.now())
        ending.order_finish(world.ledger, looked, world.ctx(run), world.desk(run))
        world.report(run, words="finish: it was stopped", began=began)
    assert world.known().state is NetworkState.FINISHING


# Runs that end without a word


def upkeep(world: World) -> list[str]:
    """What the next run of ``cutover_upkeep`` tells."""
    ctx = replace(world.ctx(), run=DagRun("cutover_upkeep", "u1"))
    return [f"{each.since.isoformat()} {each.words}. {each.next_steps[0]}" for each in alerts.alarm(world.ledger, ctx)]


def alerted(world: World) -> int:
    page = within(world.ledger.read(), events.list_events, object_id=world.known().id)
    return sum(each.action == alerts.ALERT for each in page)


@pytest.mark.parametrize("on_failure", ["revert", "stop"])
def test_a_run_that_dies_without_its_report_is_an_alert_once(world: World, on_failure: str) -> None:
    world.spec = spec(on_failure=on_failure)
    going(world)
    world.act(world.order(SOURCE))
    assert upkeep(world) == []
    world.alive.clear()
    [told] = upkeep(world)
    assert "perhaps nobody routes 10.1.2.0/24" in told
    assert f"Go back with `wavelift network revert {world.known().id}`" in told
    assert world.known().alert == "perhaps nobody routes 10.1.2.0/24"
    world.clock.sleep(900)
    assert upkeep(world) == [told]
    assert alerted(world) == 1
    world.admit("back", "revert")
    world.back("back")
    world.report("back")
    assert upkeep(world) == []
    assert world.known().alert == ""


def test_what_the_report_told_is_not_told_again(world: World) -> None:
    world.spec = spec(on_failure="stop")
    assert "nobody routes" in failed(world).alert
    assert upkeep(world) == []
    assert alerted(world) == 1


def test_a_way_back_that_never_began_is_an_alert_though_the_report_promised_it(world: World) -> None:
    failed(world)
    assert world.starts is not None
    [told] = upkeep(world)
    assert "Go back with" in told
    assert upkeep(world) == [told]


def test_a_way_back_that_goes_on_is_none_and_one_that_died_is_one(world: World) -> None:
    failed(world)
    assert world.starts is not None
    id = world.starts.run.dag_run_id
    world.admit(id, "revert", cutover=world.known().id)
    world.order(DESTINATION, "back", id)
    assert upkeep(world) == []
    world.alive.clear()
    [told] = upkeep(world)
    assert f"order_isolate of run {id}" in told
    assert upkeep(world) == [told]
    world.clear(id)
    world.act(world.order(DESTINATION, "back", id), id)
    world.report(id, words="isolate: NSX refused")
    assert alerted(world) == 3  # it was tried again, and failed again
    assert upkeep(world) == []


def test_who_routes_is_no_alert_though_the_run_is_dead(world: World) -> None:
    world.admit()
    world.alive.clear()
    assert upkeep(world) == []
    world.switched("r2")
    assert upkeep(world) == []
    world.alive.clear()
    assert upkeep(world) == []


def test_a_destination_that_was_seen_to_route_before_a_failure_is_doubted_when_the_run_goes_on(world: World) -> None:
    """Somebody isolated it meanwhile, and the run that goes on fails before it looks there."""
    world.spec = spec(on_failure="stop")
    going(world)
    acted = world.act(world.order(SOURCE))
    acted = world.act(world.order(EXTENSION, acted=acted))
    last = world.act(world.order(DESTINATION, acted=acted))
    assert world.report(words="probe: no answer", acted=(last,)).alert == ""
    world.sides.destination = OFF
    world.clear("r1")
    world.act(world.order(SOURCE))
    assert world.report(words="connect: NSX is away").alert == "perhaps nobody routes 10.1.2.0/24"
    world.clear("r1")
    world.forward()
    assert world.known().state is NetworkState.SWITCHED
