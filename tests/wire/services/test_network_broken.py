"""A network cutover where HCX, NSX or people do what nobody expects: never both, and nothing of others is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.gateways import GatewayAlarm
from tests.network_journey import Journey, opened, place
from tests.wire.simulators_hcx.conftest import HERE, PREFIX, Sites, running, sites

from wavelift.base.errors import PermanentError, WaveliftError

__all__ = ["running", "sites"]
pytestmark = pytest.mark.wire


@pytest.fixture
def journey(sites: Sites) -> Iterator[Journey]:
    def tick(seconds: float) -> None:
        for each in (sites.hcx, sites.here, sites.there):
            each.advance(seconds)

    with opened(sites.hcx, sites.there, sites.here) as both:
        yield Journey(both, place(), tick)


def routing(sites: Sites) -> list[str]:
    return GatewayAlarm([sites.here, sites.hcx], [sites.there]).routing(PREFIX)


def go_back(journey: Journey) -> None:
    """In another run; and whatever might come late has come."""
    journey.tasks.clear()
    journey.back()
    journey.tick(3600.0)


def test_a_refusal_of_the_second_question_says_nothing_of_the_first(sites: Sites, journey: Journey) -> None:
    """The first answer was lost, and HCX is slow: asked again, it refuses because it is at it."""
    sites.hcx.settings(unextend_seconds=900.0)
    journey.look()
    journey.act("source", "forward")
    sites.hcx.rule(operation="Unextend*", cut_response_after=0, count=1)
    for _ in range(2):
        with pytest.raises(WaveliftError):
            journey.act("extension", "forward")
    journey.ended_ordered = journey.clock.now()  # what the ledger says of a run that failed now
    go_back(journey)
    assert routing(sites) == [HERE]


def test_a_refusal_while_somebody_else_ends_the_extension_is_waited_for(sites: Sites, journey: Journey) -> None:
    """In HCX's own page, a moment before."""
    looked = journey.look()
    journey.act("source", "forward")
    sites.hcx.settings(unextend_seconds=600.0)
    status, _ = sites.call("DELETE", f"/l2Extensions/{looked.extension_id}?connectToLocalRouter=true")
    assert status == 200
    with pytest.raises(WaveliftError):
        journey.act("extension", "forward")
    journey.ended_ordered = journey.clock.now()
    go_back(journey)
    assert routing(sites) == [HERE]


def test_a_plain_refusal_is_not_waited_for(sites: Sites, journey: Journey) -> None:
    journey.look()
    journey.act("source", "forward")
    sites.hcx.rule(operation="Unextend*", status=400, message="no licence")
    with pytest.raises(WaveliftError, match="no licence"):
        journey.act("extension", "forward")
    journey.ended_ordered = began = journey.clock.now()
    go_back(journey)
    assert routing(sites) == [HERE]
    assert (journey.clock.now() - began).total_seconds() < 120


def test_finish_does_not_delete_a_segment_that_somebody_made_anew_under_the_same_path(
    sites: Sites, journey: Journey
) -> None:
    """The cutover's own was deleted by hand; this one is for another network, and not in use yet."""
    journey.look()
    journey.forward()
    for port in sites.here.control("GET", f"ports?segment={HERE}"):
        sites.here.remove_port(HERE, port["id"])
    sites.here.delete_segment(HERE)
    sites.here.put_segment(
        HERE,
        display_name="VLAN-100",
        gateway="192.168.7.1/24",
        connectivity_path="/infra/tier-1s/cgw",
        advanced_config={"connectivity": "OFF"},
    )
    with pytest.raises(PermanentError, match="another one"):
        journey.finish()
    assert sites.here.segment(HERE)["display_name"] == "VLAN-100"
