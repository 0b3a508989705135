"""Whatever fails, is killed, lost, repeated or cleared: never do both sides route the prefix, and a way back that ends
leaves exactly the source routing it (HCX-07).
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from tests.depth import examples
from tests.gateways import GatewayAlarm
from tests.network_journey import Journey, opened, place
from tests.wire.simulators_hcx.conftest import HERE, PREFIX, TIER, Sites, running

from wavelift.base.errors import WaveliftError

__all__ = ["running"]
pytestmark = [pytest.mark.wire, pytest.mark.timeout(900)]
THERE = "/infra/segments/L2E_VLAN-100"


class Killed(Exception):
    """The process died at this call."""


WRITES = [("hcx", "Unextend*"), ("hcx", "Extend*"), ("here", "Patch*"), ("there", "Patch*")]
READS = [("hcx", "ReadJob"), ("hcx", "ListExtensions"), ("here", "Read*"), ("there", "Read*"), ("hcx", "*")]
calls = st.tuples(
    st.one_of(st.sampled_from(WRITES), st.sampled_from(WRITES + READS)),
    st.sampled_from(["lost", "refuse", "cut"]),
    st.integers(0, 2),
)
settings = st.fixed_dictionaries(
    {
        "unextend_seconds": st.sampled_from([0.0, 40.0, 400.0, 800.0]),
        "extend_seconds": st.sampled_from([0.0, 100.0]),
        "unextend_fails": st.sampled_from(["", "", "kept", "gone"]),
        "destination_stays_off": st.booleans(),
        "extension_lingers_seconds": st.sampled_from([0.0, 0.0, 120.0]),
        "extensions": st.sampled_from(["both", "l2", "network"]),
    }
)
steps = st.sampled_from(["source", "extension", "destination"])
actions = st.lists(
    st.one_of(
        st.tuples(st.just("act"), steps, st.just("forward")),
        st.tuples(st.just("act"), steps, st.sampled_from(["forward", "back"])),
        st.tuples(st.just("clear"), st.just(""), st.just("")),
        st.tuples(st.just("kill"), st.integers(0, 12), st.just("")),
    ),
    max_size=6,
)
begun = st.lists(st.integers(0, 12) | st.none(), max_size=3)
"""How far a run comes: for each step, in its order, after how many calls its process is killed, or that it is not."""


def fault(sites: Sites, call: tuple[str, str], how: str, skip: int) -> None:
    where, operation = call
    simulator: Any = getattr(sites, where)
    effect = {"refuse": {"status": 503}, "lost": {"cut_response_after": 0}, "cut": {"cut_request_after": 0}}[how]
    simulator.rule(operation=operation, skip=skip, count=1, **effect)


def begin(running: Sites) -> None:
    for each in (running.here, running.there, running.hcx):
        each.reset()
    running.source.reset([], task_seconds=0.01)
    running.destination.reset([], task_seconds=0.01)
    running.source.add_network("VLAN-100", kind="nsx")
    running.here.put_segment(HERE, display_name="VLAN-100", gateway="10.1.2.1/24", connectivity_path=TIER)
    running.hcx.extend("VLAN-100", gateway="10.1.2.1/24", tier=TIER)


SLOW = {
    "unextend_seconds": 400.0,
    "extend_seconds": 0.0,
    "unextend_fails": "",
    "destination_stays_off": False,
    "extension_lingers_seconds": 0.0,
    "extensions": "both",
}


@example(SLOW, [None, None], [], [(("hcx", "Unextend*"), "lost", 0)])
@given(settings, begun, actions, st.lists(calls, max_size=2))
@examples(sample=12, proof=100, allow=[HealthCheck.function_scoped_fixture])
def test_hcx_07_never_both_and_the_way_back_ends_at_the_source(
    running: Sites,
    behaviour: dict[str, Any],
    begins: list[int | None],
    planned: list[tuple[str, Any, str]],
    faults: list[tuple[tuple[str, str], str, int]],
) -> None:
    begin(running)
    running.hcx.settings(**behaviour)
    alarm = GatewayAlarm([running.here, running.hcx], [running.there])

    def tick(seconds: float) -> None:
        for each in (running.hcx, running.here, running.there):
            each.advance(seconds)

    with opened(running.hcx, running.there, running.here) as both:
        journey = Journey(both, place(), tick)
        journey.look()
        for one in faults:
            fault(running, *one)
        first = [
            each
            for step, kill in zip(("source", "extension", "destination"), begins, strict=False)
            for each in (*([("kill", kill, "")] if kill is not None else []), ("act", step, "forward"))
        ]
        for what, argument, direction in (*first, *planned):
            if what == "clear":
                journey.tasks.clear()
                journey.clear_number += 1
            elif what == "kill":
                _kill(journey, int(argument))
            else:
                try:
                    journey.act(cast(Any, argument), cast(Any, direction))
                except (WaveliftError, Killed):
                    pass
                _survive(journey)
            alarm.check()
        for each in (running.here, running.there, running.hcx):
            each.clear_rules()
        _survive(journey)
        journey.tasks.clear()  # the tasks of another run
        journey.back()
        tick(3600.0)  # whatever might come late has come
        alarm.check()
        assert alarm.routing(PREFIX) == [HERE]


def _kill(journey: Journey, after: int) -> None:
    """From the call ``after`` on, the process is dead: in the middle of a step, before or after a write."""
    left = [after]

    def dying(send: Any) -> Any:
        def wrapped(*args: Any, **more: Any) -> Any:
            if left[0] <= 0:
                raise Killed
            left[0] -= 1
            return send(*args, **more)

        return wrapped

    for client in (journey.sites.hcx, journey.sites.destination, journey.sites.source_nsx):
        if client is not None and "send" not in vars(client):
            client.send = dying(client.send)  # type: ignore[method-assign]


def _survive(journey: Journey) -> None:
    """Another process goes on."""
    for client in (journey.sites.hcx, journey.sites.destination, journey.sites.source_nsx):
        if client is not None:
            vars(client).pop("send", None)
