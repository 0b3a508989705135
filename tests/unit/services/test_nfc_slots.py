"""The NFC sessions of hosts and vCenters, which `reserve` takes together with the connector's slot (invariant 8)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import within
from tests.unit.services.test_replication import Desk, clock, desk, made_once

from wavelift.base.domain import DiskFacts, ServerFacts
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger.slots import standing
from wavelift.rules.flows import SlotKind
from wavelift.services.common.slots import InQueue
from wavelift.services.common.wanted import DEFAULT_TERMS, Terms
from wavelift.services.dataplane.messages import NfcShare, ServerTask
from wavelift.services.dataplane.replication_messages import ReservedRun
from wavelift.services.replication.reserve import Finished, release, reserve

__all__ = ["clock", "desk", "made_once"]

pytestmark = pytest.mark.unit

RUN = DagRun("erp.replicate", "r1")
HALL = 4


def _task(server: str, host: str = "host-1", *, connector: str = "hall-a", vddk: bool = True) -> ServerTask:
    share = NfcShare(vcenter="vc.lab:443", host=host, per_host=1, per_vcenter=2) if vddk else None
    target = SimpleNamespace(account="111122223333", aws_conn_id="aws", migrations_per_account=None)
    plan = SimpleNamespace(connector=connector, connection="vc-1", target=target)
    facts = ServerFacts.model_construct(
        name=server, moref=f"vm-{server}", instance_uuid=f"uuid-{server}", path="", host_moref=host
    )
    return ServerTask.model_construct(name=server, plan=plan, facts=facts, nfc=share, vcenter="vc.lab:443")


class Hall:
    """Servers of one DAG run that ask for what their transfers need."""

    def __init__(self, desk: Desk, clock: HandClock, *servers: str) -> None:
        self.desk, self.clock = desk, clock
        for server in servers:
            desk.create(server)
        desk.admit(RUN.dag_run_id)

    def context(self, task: ServerTask) -> RunContext:
        return run_context(RUN, task.name, clock=self.clock)

    def ask(
        self, task: ServerTask, limit: int = HALL, terms: Terms = DEFAULT_TERMS
    ) -> ReservedRun | InQueue | Finished:
        return reserve(self.desk.ledger, task, self.context(task), limit=limit, terms=terms)

    def end(self, task: ServerTask) -> None:
        release(self.desk.ledger, self.context(task), removed=True)

    def held(self) -> list[tuple[str, str, str]]:
        granted = [each for each in within(self.desk.ledger.read(), standing) if each.granted_at]
        granted = [each for each in granted if each.kind is not SlotKind.ACCOUNT]
        return sorted((each.holder.rpartition("/")[2], str(each.kind), each.scope) for each in granted)


def test_a_host_a_vcenter_and_a_connector_are_taken_and_given_back(desk: Desk, clock: HandClock) -> None:
    hall = Hall(desk, clock, "web01")
    assert isinstance(hall.ask(_task("web01")), ReservedRun)
    assert hall.held() == [
        ("web01", "nfc_host", "vc.lab:443/host-1"),
        ("web01", "nfc_vcenter", "vc.lab:443"),
        ("web01", "transfer", "hall-a"),
    ]
    assert isinstance(hall.ask(_task("web01")), ReservedRun), "asking again changes nothing"
    hall.end(_task("web01"))
    assert hall.held() == []


def test_the_reads_of_a_host_count_without_vddk_too(desk: Desk, clock: HandClock) -> None:
    hall = Hall(desk, clock, "web01", "web02")
    few = Terms(per_host=1)
    assert isinstance(hall.ask(_task("web01", vddk=False), terms=few), ReservedRun)
    assert hall.held() == [("web01", "nfc_host", "vc.lab:443/host-1"), ("web01", "transfer", "hall-a")]
    waiting = hall.ask(_task("web02", vddk=False), terms=few)
    assert isinstance(waiting, InQueue)
    assert waiting.words == "1st in line for ESXi host vc.lab:443/host-1: 1 of 1 in use"


def test_every_datastore_of_the_server_counts_and_another_vcenter_s_does_not(desk: Desk, clock: HandClock) -> None:
    hall = Hall(desk, clock, "web01", "web02", "web03", "web04")
    few = Terms(per_datastore=1)
    assert isinstance(
        hall.ask(_on(_task("web01"), "datastore-2", "datastore-1", "datastore-1"), terms=few), ReservedRun
    )
    waiting = hall.ask(_on(_task("web02", "host-2"), "datastore-0", "datastore-2"), terms=few)
    assert isinstance(waiting, InQueue)
    assert waiting.words == "1st in line for datastore vc.lab:443/datastore-2: 1 of 1 in use"
    assert not [each for each in hall.held() if each[0] == "web02"], "who waits for one of them holds none"
    waiting = hall.ask(_on(_task("web03", "host-3", vddk=False), "datastore-0"), terms=few)
    assert isinstance(waiting, InQueue), "the only place of datastore-0 is kept for web02, which was there before"
    elsewhere = _on(_task("web04", "host-4", vddk=False), "datastore-1").model_copy(update={"vcenter": "other:443"})
    assert isinstance(hall.ask(elsewhere, terms=few), ReservedRun)
    hall.end(_task("web01"))
    assert isinstance(hall.ask(_on(_task("web02", "host-2"), "datastore-0", "datastore-2"), terms=few), ReservedRun)


def _on(task: ServerTask, *datastores: str) -> ServerTask:
    disks = tuple(DiskFacts.model_construct(datastore_moref=name, datastore="ds") for name in datastores)
    return task.model_copy(update={"facts": task.facts.model_copy(update={"disks": disks})})


def test_a_full_host_makes_its_servers_wait_and_no_others(desk: Desk, clock: HandClock) -> None:
    hall = Hall(desk, clock, "web01", "web02", "web03")
    assert isinstance(hall.ask(_task("web01")), ReservedRun)
    waiting = hall.ask(_task("web02"))
    assert isinstance(waiting, InQueue)
    asked = waiting.request
    assert (asked.kind, asked.scope, asked.limit) == (SlotKind.NFC_HOST, "vc.lab:443/host-1", 1)
    assert waiting.words == "1st in line for ESXi host vc.lab:443/host-1: 1 of 1 in use"
    assert isinstance(hall.ask(_task("web03", "host-2")), ReservedRun)
    assert not [each for each in hall.held() if each[0] == "web02"], "who waits for a host holds nothing"
    hall.end(_task("web01"))
    assert isinstance(hall.ask(_task("web02")), ReservedRun)


def test_the_sessions_of_a_vcenter_hold_across_connectors(desk: Desk, clock: HandClock) -> None:
    hall = Hall(desk, clock, "web01", "web02", "web03")
    assert isinstance(hall.ask(_task("web01", "host-1")), ReservedRun)
    assert isinstance(hall.ask(_task("web02", "host-2", connector="hall-b")), ReservedRun)
    waiting = hall.ask(_task("web03", "host-3", connector="hall-c"))
    assert isinstance(waiting, InQueue)
    assert (waiting.request.kind, waiting.request.limit) == (SlotKind.NFC_VCENTER, 2)


def test_the_slots_of_a_host_that_the_vm_left_are_given_back(desk: Desk, clock: HandClock) -> None:
    """Cleared from the pre-flight on, which saw it elsewhere."""
    hall = Hall(desk, clock, "web01", "web02")
    assert isinstance(hall.ask(_task("web01", "host-1")), ReservedRun)
    assert isinstance(hall.ask(_task("web01", "host-2")), ReservedRun)
    assert ("web01", "nfc_host", "vc.lab:443/host-1") not in hall.held()
    assert isinstance(hall.ask(_task("web02", "host-1")), ReservedRun)
