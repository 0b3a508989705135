"""The asked-for address is free, and the subnet has enough for all (AMP-01)."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.base.domain import Severity
from wavelift.base.names import TAG_SERVER, TAG_WAVE
from wavelift.rules.preflight import check_server
from wavelift.rules.preflight_addresses import address_problem, check_room
from wavelift.rules.wave_cutover import CutoverPlan

SUBNET = "subnet-aaaa0001"
LAUNCHING = {"launch": "running", "source_power": "require_off"}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.0.1.0", "that AWS reserves"),
        ("10.0.1.3", "that AWS reserves"),
        ("10.0.1.255", "that AWS reserves"),
        ("10.0.1.4", ""),
        ("10.0.1.254", ""),
        ("10.0.2.1", "is not in the subnet's range 10.0.1.0/24"),
    ],
)
def test_amp_01_addresses_of_a_subnet(stubs: Any, address: str, words: str) -> None:
    problem = address_problem(address, stubs.subnet())
    assert words in problem
    assert bool(problem) is bool(words)


@pytest.mark.parametrize(
    ("launch", "taken", "unknown", "code", "severity"),
    [
        (LAUNCHING, {(SUBNET, "10.0.1.20"): "instance i-1 (eni-1)"}, "", "network.address_taken", Severity.ERROR),
        ({}, {(SUBNET, "10.0.1.20"): "instance i-1 (eni-1)"}, "", "network.address_taken", Severity.WARNING),
        (LAUNCHING, {("subnet-other", "10.0.1.20"): "eni-2"}, "", "", None),
        (LAUNCHING, {(SUBNET, "10.0.1.21"): "eni-3"}, "", "", None),
        (LAUNCHING, {}, "denied", "network.address_unknown", Severity.WARNING),
        (LAUNCHING, {}, "", "", None),
    ],
    ids=["taken", "taken-without-launch", "elsewhere", "another", "denied", "free"],
)
def test_amp_01_an_address_that_somebody_has_is_refused_before_the_transfer(
    facts: Any, plan: Any, source: Any, stubs: Any, launch: Any, taken: Any, unknown: str, code: str, severity: Any
) -> None:
    holders = {place: stubs.holder(words) for place, words in taken.items()}
    account = stubs.account(network=stubs.network(taken=holders, addresses_unknown=unknown))
    findings = check_server(facts(), plan(private_ip="10.0.1.20", **launch), source=source, account=account)
    about = [one for one in findings if one.code.startswith("network.address")]
    assert [(one.code, one.severity) for one in about] == ([(code, severity)] if code else [])
    assert all("10.0.1.20" in one.what and one.next_action for one in about)
    if "taken" in code:
        assert "instance i-1 (eni-1) has it" in about[0].what


OWN = {TAG_WAVE: "erp", TAG_SERVER: "web01"}


@pytest.mark.parametrize(
    ("tags", "attached", "as_what", "severity"),
    [
        (OWN, False, "cutover", None),
        (OWN, False, "replication", None),
        (OWN, False, "migration", Severity.ERROR),
        (OWN, True, "cutover", Severity.ERROR),
        ({**OWN, TAG_SERVER: "db01"}, False, "cutover", Severity.ERROR),
        ({**OWN, TAG_WAVE: "crm"}, False, "cutover", Severity.ERROR),
        ({}, False, "cutover", Severity.ERROR),
    ],
)
def test_amp_01_the_interface_that_was_prepared_for_this_server_is_in_no_cutover_s_way(
    facts: Any, plan: Any, source: Any, stubs: Any, tags: Any, attached: bool, as_what: str, severity: Any
) -> None:
    """Nor is a subnet that is full otherwise. Only a cutover launches on it; an instance that has it keeps it."""
    own = plan(private_ip="10.0.1.20", security_groups=["sg-aaaa0001"], **LAUNCHING).model_copy(
        update={"cutover": CutoverPlan()}
    )
    server = {"cutover": own.cutting_over(), "replication": own.replicating(), "migration": own}[as_what]
    taken = {(SUBNET, "10.0.1.20"): stubs.holder(attached=attached, tags=tags)}
    subnets = {SUBNET: stubs.subnet(free_addresses=0)}
    account = stubs.account(network=stubs.network(taken=taken, subnets=subnets))
    found = [one for one in check_server(facts(), server, source=source, account=account) if "network." in one.code]
    wanted = [("network.address_taken", severity), ("network.full", severity)] if severity else []
    assert [(one.code, one.severity) for one in found] == wanted
    if attached:
        assert "a cutover that was reverted" in found[0].next_action
    subnets = {SUBNET: stubs.subnet(free_addresses=1)}
    other = plan(name="db01", **LAUNCHING)
    room = check_room([server, other], stubs.account(network=stubs.network(taken=taken, subnets=subnets)))
    assert [one.code for one in room] == (["network.room"] if severity else [])


def test_amp_01_no_address_no_question(facts: Any, plan: Any, source: Any, stubs: Any) -> None:
    account = stubs.account(network=stubs.network(addresses_unknown="denied"))
    assert not [one for one in check_server(facts(), plan(), source=source, account=account) if "address" in one.code]


@pytest.mark.parametrize(
    ("free", "launching", "idle", "refused"), [(2, 3, 0, True), (3, 3, 0, False), (2, 2, 5, False), (0, 3, 0, False)]
)
def test_amp_01_a_subnet_with_too_few_addresses_stops_the_wave(
    plan: Any, stubs: Any, free: int, launching: int, idle: int, refused: bool
) -> None:
    """Which launches would fail is chance. One without any address is told of each server."""
    plans = [plan(**LAUNCHING)] * launching + [plan()] * idle
    account = stubs.account(network=stubs.network(subnets={SUBNET: stubs.subnet(free_addresses=free)}))
    found = check_room(plans, account)
    assert [(one.code, one.severity) for one in found] == ([("network.room", Severity.ERROR)] if refused else [])
    if refused:
        assert found[0].subject == f"*/{SUBNET}"
        assert "has 2 free addresses, and the wave launches 3 instances" in found[0].what
