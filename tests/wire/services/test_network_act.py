"""A network cutover on the queue, against HCX between two NSX: forward, back, finished; killed, lost, changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.gateways import GatewayAlarm
from tests.network_journey import Journey, opened, place
from tests.wire.simulators_hcx.conftest import HERE, PREFIX, Sites, running, sites

from wavelift.adapters.hcx.extensions import Extensions
from wavelift.base.errors import PermanentError, WaveliftError
from wavelift.base.placement import CardOnNetwork, NetworkUse, SiteNetwork
from wavelift.services.dataplane.steps.step import ChangedElsewhere

__all__ = ["running", "sites"]
pytestmark = pytest.mark.wire
THERE = "/infra/segments/L2E_VLAN-100"


@pytest.fixture
def journey(sites: Sites) -> Iterator[Journey]:
    def tick(seconds: float) -> None:
        for each in (sites.hcx, sites.here, sites.there):
            each.advance(seconds)

    with opened(sites.hcx, sites.there, sites.here) as both:
        yield Journey(both, place(), tick)


def routing(sites: Sites) -> list[str]:
    return GatewayAlarm([sites.here, sites.hcx], [sites.there]).routing(PREFIX)


def test_hcx_06_the_gateway_moves_and_every_place_is_read_back(sites: Sites, journey: Journey) -> None:
    looked = journey.look()
    assert [each for each in looked.findings if each.severity == "error"] == []
    assert (looked.source["connectivity"], looked.destination["connectivity"]) == ("ON", "OFF")
    assert routing(sites) == [HERE]
    source, extension, destination = journey.forward()
    assert (source.state["connectivity"], source.changed, source.read_back) == ("OFF", True, True)
    assert extension.state is None
    assert extension.job
    assert (destination.state["connectivity"], destination.changed, destination.note) == ("ON", False, "")
    assert routing(sites) == [THERE]


def test_hcx_07_the_way_back_restores_all_three(sites: Sites, journey: Journey) -> None:
    looked = journey.look()
    journey.forward()
    destination, extension, source = journey.back()
    assert destination.state == looked.destination
    assert extension.state == looked.extension
    assert extension.extension_id not in ("", looked.extension_id)
    assert source.state == looked.source
    assert routing(sites) == [HERE]


def test_each_order_may_be_repeated(sites: Sites, journey: Journey) -> None:
    journey.look()
    journey.forward()
    calls = {each: sites.hcx.counters().get(each, {}).get("calls", 0) for each in sites.hcx.counters()}
    journey.tasks.clear()  # as after a clear
    assert [each.changed for each in journey.forward()] == [False, False, False]
    assert sites.hcx.counters()["hcx.Unextend"]["calls"] == calls["hcx.Unextend"] == 1
    journey.back()
    journey.tasks.clear()
    assert [each.changed for each in journey.back()] == [False, False, False]
    assert routing(sites) == [HERE]


def test_a_destination_that_hcx_left_off_is_connected_and_told(sites: Sites, journey: Journey) -> None:
    sites.hcx.settings(destination_stays_off=True)
    journey.look()
    *_, destination = journey.forward()
    assert destination.changed
    assert "HCX left the destination disconnected" in destination.note
    assert routing(sites) == [THERE]


@pytest.mark.parametrize("end", ["didFail", "isCancelled", "isRolledBack"])
def test_a_job_that_fails_and_keeps_the_extension_stops_and_can_be_undone(
    sites: Sites, journey: Journey, end: str
) -> None:
    sites.hcx.settings(unextend_fails="kept", job_end=end)
    journey.look()
    journey.act("source", "forward")
    with pytest.raises(PermanentError, match="to end the extension ended"):
        journey.act("extension", "forward")
    assert routing(sites) == []
    journey.back()
    assert routing(sites) == [HERE]


def test_a_job_that_fails_although_the_extension_is_gone_goes_on(sites: Sites, journey: Journey) -> None:
    sites.hcx.settings(unextend_fails="gone")
    journey.look()
    _, extension, destination = journey.forward()
    assert "failed" in extension.note
    assert destination.changed
    assert routing(sites) == [THERE]


@pytest.mark.parametrize("generation", ["l2", "network"])
def test_both_generations_and_an_extension_that_lingers(sites: Sites, journey: Journey, generation: str) -> None:
    sites.hcx.settings(extensions=generation, extension_lingers_seconds=90.0)
    journey.look()
    journey.forward()
    journey.back()
    assert routing(sites) == [HERE]


def test_a_segment_that_somebody_changed_since_is_left_alone(sites: Sites, journey: Journey) -> None:
    journey.look()
    sites.here.put_segment(HERE, gateway="10.1.2.254/24")
    with pytest.raises(ChangedElsewhere):
        journey.act("source", "forward")
    assert sites.here.segment(HERE)["advanced_config"]["connectivity"] == "ON"


def test_the_destination_is_never_connected_while_the_source_routes(sites: Sites, journey: Journey) -> None:
    journey.look()
    for step in ("extension", "destination"):
        with pytest.raises(PermanentError, match="Both sides would route"):
            journey.act(step, "forward")
    assert routing(sites) == [HERE]


def test_the_source_is_never_connected_while_the_destination_routes(sites: Sites, journey: Journey) -> None:
    """Its order alone isolates the destination first, and makes the extension no condition."""
    journey.look()
    journey.forward()
    acted = journey.act("source", "back")
    assert acted.state["connectivity"] == "ON"
    assert routing(sites) == [HERE]


def test_hcx_08_a_person_s_word_stands_where_nothing_reads_the_source(sites: Sites) -> None:
    """The source's router is known to nobody here: the tests' world is told what the person does."""

    def tick(seconds: float) -> None:
        for each in (sites.hcx, sites.there):
            each.advance(seconds)

    sites.here.put_segment(HERE, advanced_config={"connectivity": "OFF"})
    sites.hcx.route(PREFIX, routed=True)
    with opened(sites.hcx, sites.there) as both:
        journey = Journey(both, place("person", segment=None), tick)
        journey.look()
        with pytest.raises(PermanentError, match="nobody has confirmed"):
            journey.act("extension", "forward")
        sites.hcx.route(PREFIX, routed=False)
        journey.word = "ana"
        source, *_ = journey.forward()
        assert not source.read_back
        assert routing(sites) == [THERE]
        journey.act("destination", "back")
        journey.act("extension", "back")
        assert routing(sites) == []
        sites.hcx.route(PREFIX, routed=True)
        journey.act("source", "back")
    assert routing(sites) == ["router"]


def test_finish_waits_for_ports_and_deletes_and_renames(sites: Sites, journey: Journey) -> None:
    journey.place = place(rename_to="web")
    journey.look()
    journey.forward()
    for port in sites.here.control("GET", f"ports?segment={HERE}"):
        sites.here.remove_port(HERE, port["id"])
    sites.here.settings(port_linger_seconds=120.0)
    done = journey.finish()
    assert done.deleted
    assert done.renamed == "web"
    assert [each["path"] for each in sites.here.segments()] == []
    assert sites.there.segment(THERE)["display_name"] == "web"


def test_finish_deletes_nothing_while_the_destination_does_not_route(sites: Sites, journey: Journey) -> None:
    journey.look()
    with pytest.raises(PermanentError, match="does not route"):
        journey.finish()
    assert sites.here.segment(HERE)


@pytest.mark.parametrize("turn", range(2))
def test_a_lost_answer_asks_hcx_once_and_the_way_back_waits_for_what_may_come(
    sites: Sites, journey: Journey, turn: int
) -> None:
    """The DELETE did its work, its answer was cut; or its task died before the answer. Then somebody reverts."""
    sites.hcx.settings(unextend_seconds=300.0)
    journey.look()
    journey.act("source", "forward")
    sites.hcx.rule(operation="Unextend*", cut_response_after=0, count=1)
    journey.ended_ordered = journey.clock.now()
    with pytest.raises(WaveliftError):
        journey.act("extension", "forward")
    assert journey.job == ""
    if turn:
        journey.back()
        assert routing(sites) == [HERE]
        return
    journey.forward()
    assert routing(sites) == [THERE]


def occupied(*names: str, ids: tuple[str, ...] = ()) -> tuple[NetworkUse, ...]:
    """Powered-off VMs on the source network."""
    cards = tuple(
        CardOnNetwork(
            vm=f"vm-{number}",
            name=name,
            path=f"/dc/vm/{number}/{name}",
            power="poweredOff",
            template=False,
            key=4000,
            label="n",
            mac="",
            connected=False,
            start_connected=True,
        )
        for number, name in enumerate(names)
    )
    network = SiteNetwork(
        moref="network-o1", name="VLAN-100", path="/dc/network/VLAN-100", kind="OpaqueNetwork", ids=ids
    )
    return (NetworkUse(network=network, cards=cards),)


@pytest.fixture
def used() -> list[NetworkUse]:
    return []


@pytest.fixture
def watched(sites: Sites, used: list[NetworkUse]) -> Iterator[Journey]:
    """A journey that sees what is on the source network."""

    def tick(seconds: float) -> None:
        for each in (sites.hcx, sites.here, sites.there):
            each.advance(seconds)

    with opened(sites.hcx, sites.there, sites.here, uses=lambda: tuple(used)) as both:
        yield Journey(both, place(), tick)


def codes(journey: Journey) -> set[str]:
    return {each.code for each in journey.look().findings if each.severity == "error"}


def test_finish_deletes_nothing_while_a_machine_is_on_the_source_network(
    sites: Sites, watched: Journey, used: list[NetworkUse]
) -> None:
    """One that is off need have no port in NSX, and came after the look that was approved."""
    watched.look()
    watched.forward()
    for port in sites.here.control("GET", f"ports?segment={HERE}"):
        sites.here.remove_port(HERE, port["id"])
    used += occupied("late")
    with pytest.raises(PermanentError, match="late"):
        watched.finish()
    assert sites.here.segment(HERE)


def test_a_name_under_exceptions_lets_only_one_machine_stay(watched: Journey, used: list[NetworkUse]) -> None:
    used += occupied("router", "router")
    watched.place = place(exceptions=["router"])
    assert codes(watched) == {"network.exception_unclear"}
    watched.place = place(exceptions=["/dc/vm/0/router"])
    assert codes(watched) == {"network.occupied"}
    watched.place = place(exceptions=["/dc/vm/0/router", "/dc/vm/1/router"])
    assert codes(watched) == set()


def test_an_extension_of_another_network_of_the_same_name_is_not_taken_for_it(
    sites: Sites, watched: Journey, used: list[NetworkUse]
) -> None:
    """Two data centres of one vCenter may each have a port group of the name; HCX names the one that it extends."""
    sites.source.add_network("VLAN-101", kind="distributed")
    other = sites.hcx.extend("VLAN-101", gateway="10.1.3.1/24", tier="/infra/tier-1s/cgw")
    extension = next(each for each in Extensions(watched.sites.hcx).list() if each.id == other)
    assert extension.source_id.startswith("dvportgroup-")
    watched.place = place(source={"network": "VLAN-101", "segment": HERE, "disconnect": {"by": "nsx"}})
    used += occupied(ids=("dvportgroup-999999",))
    assert "network.not_extended" in codes(watched)
    used[:] = occupied(ids=(extension.source_id,))
    assert "network.not_extended" not in codes(watched)


def test_a_run_goes_on_after_its_extension_was_ended_where_a_person_disconnects(sites: Sites, watched: Journey) -> None:
    """The probe failed, say: who clears the first order is asked again, and nothing that has happened is in the way."""
    watched.place, watched.word = place("person"), "ana"
    watched.look()
    sites.here.put_segment(HERE, advanced_config={"connectivity": "OFF"})
    watched.forward()
    watched.clear_number = 1
    watched.forward()
    assert routing(sites) == [THERE]


@pytest.mark.parametrize("step", ["source", "extension"])
def test_a_machine_that_came_onto_the_network_since_stops_the_next_write(sites: Sites, step: str) -> None:
    """The plan is approved, and then somebody switches a VM on there; all vCenters of the site are asked again."""
    used: list[Any] = []

    def tick(seconds: float) -> None:
        for each in (sites.hcx, sites.here, sites.there):
            each.advance(seconds)

    with opened(sites.hcx, sites.there, sites.here, uses=lambda: tuple(used)) as both:
        journey = Journey(both, place(), tick)
        journey.look()
        if step == "extension":
            journey.act("source", "forward")
        network = SiteNetwork(
            moref="network-o1", name="VLAN-100", path="/dc/network/VLAN-100", kind="OpaqueNetwork", ids=()
        )
        card = CardOnNetwork(
            vm="vm-1",
            name="late",
            path="/dc/vm/late",
            power="poweredOn",
            template=False,
            key=4000,
            label="n",
            mac="",
            connected=True,
            start_connected=True,
        )
        used.append(NetworkUse(network=network, cards=(card,)))
        with pytest.raises(PermanentError, match="late"):
            journey.act(step, "forward")  # type: ignore[arg-type]
        assert sites.hcx.counters().get("hcx.Unextend", {}).get("calls", 0) == 0
        journey.back()
    assert routing(sites) == [HERE]


def test_the_look_finds_everything_that_is_in_the_way(sites: Sites, journey: Journey) -> None:
    """Each finding says what, why and what to do."""
    sites.hcx.set_mon(journey.look().extension_id, on=True)
    sites.here.put_segment(HERE, display_name="VLAN-100", advanced_config={"connectivity": "OFF"})
    sites.there.put_segment("/infra/segments/other", gateway="10.1.2.129/25", connectivity_path="/infra/tier-1s/mgw")
    sites.there.put_segment(THERE, display_name="web", gateway="10.1.2.254/24", connectivity_path="/infra/tier-1s/cgw")
    found = {each.code for each in journey.look().findings if each.severity == "error"}
    assert found >= {"network.mon", "network.routed", "network.gateway", "network.name", "network.source_off"}
    sites.hcx.settings(extensions="network")
    sites.here.delete_segment(HERE)
    sites.there.delete_segment(THERE)
    found = {each.code for each in journey.look().findings if each.severity == "error"}
    assert found >= {"network.destination_missing", "network.source_missing"}
