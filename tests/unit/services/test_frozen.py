"""Edited XComs do not leave what the run froze: checked with the ledger, as each task of the control plane does.

The attack: whoever may edit the XComs of a wave changes what pre-flight returned, clears ``server.reserve``, and has
another VM, of another vCenter, exported into another bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN
from tests.unit.rules.conftest import _environment, _facts, _wave

from wavelift.base.errors import NotFoundError, PermanentError, TamperedError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, events, jobs, migrations, replication_runs
from wavelift.ledger.slots import standing
from wavelift.rules.flows import SlotKind
from wavelift.rules.plans import ResolvedWave, resolve
from wavelift.rules.replication import JobState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common import frozen
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.messages import Admitted, ServerTask
from wavelift.services.migration import admit as migration
from wavelift.services.migration.reserve import Reserved, release, reserve
from wavelift.services.replication import admit as replication
from wavelift.services.replication.jobs import JobOrder, create_jobs
from wavelift.services.replication.report import Ended, finish
from wavelift.services.replication.reserve import reserve as reserve_run
from wavelift.services.replication.upkeep import check_ordered

pytestmark = pytest.mark.unit

RUN, REPLICATION = DagRun("erp.migrate", "r1"), DagRun("erp.replicate", "r1")
SERVERS = ("web01", "web02", {"folder": "/DC0/vm/farm"})


def wave(*servers: Any, **changes: Any) -> ResolvedWave:
    return resolve(_wave(*(servers or SERVERS), **changes), _environment())


def task_of(server: str, *, folder: str = "shop", entry: int = 0, replicates: bool = False, **facts: Any) -> ServerTask:
    """What pre-flight hands out."""
    path = f"/DC0/vm/{folder}/{server}"
    plan = wave().servers[entry].bind(server, path)
    known = {"name": server, "path": path, "moref": f"vm-{server}", "instance_uuid": f"uuid-{server}"}
    plan = plan.replicating() if replicates else plan
    return ServerTask(name=server, plan=plan, facts=_facts(**(known | facts)))


def planned(task: ServerTask, **changes: Any) -> ServerTask:
    return task.model_copy(update={"plan": task.plan.model_copy(update=changes)})


def targeted(task: ServerTask, **changes: Any) -> ServerTask:
    return planned(task, target=task.plan.target.model_copy(update=changes))


def seen(task: ServerTask, **changes: Any) -> ServerTask:
    return task.model_copy(update={"facts": task.facts.model_copy(update=changes)})


class Desk:
    """One run of the wave ``erp`` as its tasks of the control plane work on it."""

    def __init__(self, ledger: Ledger, run: DagRun = RUN) -> None:
        self.ledger = ledger
        self.run = run

    def admit(self, **conf: Any) -> Admitted:
        request = RunRequest("erp", conf)
        return migration.admit(self.ledger, request, lambda _: wave(), run_context(self.run), rights=OPEN)

    def ctx(self, server: str = "", index: int = 0) -> RunContext:
        return run_context(self.run, server, map_index=index)

    def checked(self, task: ServerTask, index: int = 0, *, reserves: bool = False) -> ServerTask:
        return frozen.checked(self.ledger, task, self.ctx(task.name, index), reserves=reserves)

    def reserve(self, task: ServerTask, index: int = 0) -> None:
        """As ``server.reserve`` does it."""
        task = self.checked(task, index, reserves=True)
        found = reserve(self.ledger, task, self.ctx(task.name, index), limit=4)
        assert isinstance(found, Reserved)
        frozen.bind(self.ledger, task, self.ctx(task.name, index))

    def refused(self, task: ServerTask, index: int = 0, *, reserves: bool = False) -> str:
        with pytest.raises(TamperedError) as caught:
            self.checked(task, index, reserves=reserves)
        return caught.value.field

    def released(self, named: str, index: int = 0) -> str:
        """As ``server.release`` does it, with the server that came by XCom; whose slot it gave back."""
        own = frozen.server_at(self.ledger, named, self.ctx(named, index))
        if own:
            release(self.ledger, self.ctx(own, index), removed=True, exported=False)
        return own

    def holders(self) -> set[str]:
        return {each.holder.rpartition("/")[2] for each in within(self.ledger.read(), standing)}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(fresh_ledger(tmp_path / "ledger.db"))
    made.admit()
    return made


# --- the attack -------------------------------------------------------------------------------------------------------

EDITS: dict[str, Callable[[ServerTask], ServerTask]] = {
    "connection": lambda task: planned(task, connection="vc-of-others"),
    "connector": lambda task: planned(task, connector="hall-of-others"),
    "wave": lambda task: planned(task, wave="crm"),
    "target.bucket": lambda task: targeted(task, bucket="mine"),
    "target.aws_conn_id": lambda task: targeted(task, aws_conn_id="aws-of-others"),
    "target.kms_key": lambda task: targeted(task, kms_key="arn:aws:kms:eu-central-1:999999999999:key/1"),
    "verify": lambda task: planned(task, verify="off"),
    "launch": lambda task: planned(task, launch="running"),
    "tags": lambda task: planned(task, tags={"wavelift:x": "y"}),
    "facts.path": lambda task: seen(task, path="/DC0/vm/payroll/db01"),
}


@pytest.mark.parametrize("field", EDITS)
@pytest.mark.parametrize("reserves", [True, False], ids=["reserve", "later"])
def test_an_edited_plan_is_refused_before_anything_is_reserved_and_after(
    desk: Desk, field: str, reserves: bool
) -> None:
    task = task_of("web01")
    edited = EDITS[field](task)
    assert desk.refused(edited, reserves=True) == field
    assert not desk.holders()
    desk.reserve(task)
    assert desk.refused(edited, reserves=reserves) == field


@pytest.mark.parametrize(
    ("field", "changes"),
    [("vm", {"moref": "vm-payroll"}), ("instance_uuid", {"instance_uuid": "uuid-payroll"})],
)
def test_a_cleared_reservation_takes_no_other_vm(desk: Desk, field: str, changes: dict[str, str]) -> None:
    """Also of the same name and path: who renames VMs, or edits the facts, gets no other one into the run."""
    desk.reserve(task_of("web01"))
    other = seen(task_of("web01"), **changes)
    assert desk.refused(other, reserves=True) == field
    assert desk.refused(other) == field
    known = within(desk.ledger.read(), migrations.get, migrations.migration_id(desk.ctx("web01").run_key))
    assert known.snapshot_vm == "vm-web01"


@pytest.mark.parametrize(
    ("field", "changes"), [("guest_id", {"guest_id": "rhel8_64Guest"}), ("firmware", {"firmware": "efi"})]
)
def test_what_an_image_is_made_by_changes_only_with_a_reservation(
    desk: Desk, field: str, changes: dict[str, str]
) -> None:
    desk.reserve(task_of("web01"))
    upgraded = seen(task_of("web01"), **changes)
    assert desk.refused(upgraded) == field
    desk.reserve(upgraded)
    assert desk.checked(upgraded).facts == upgraded.facts


def test_a_server_that_the_wave_does_not_list_is_refused(desk: Desk) -> None:
    assert desk.refused(task_of("db01", folder="payroll"), reserves=True) == "selector.value"
    desk.reserve(task_of("node1", folder="farm", entry=2))


def test_a_run_without_servers_works_for_none(tmp_path: Path) -> None:
    """A plan is a run without tasks for servers, which anybody may look at."""
    desk = Desk(fresh_ledger(tmp_path / "ledger.db"))
    desk.admit(mode="plan")
    assert desk.refused(task_of("web01"), reserves=True) == "mode"


def test_a_run_that_was_never_admitted_is_unknown(tmp_path: Path) -> None:
    desk = Desk(fresh_ledger(tmp_path / "ledger.db"))
    with pytest.raises(NotFoundError, match="does not know this run"):
        desk.checked(task_of("web01"), reserves=True)


def test_only_what_was_reserved_goes_on(desk: Desk) -> None:
    assert desk.refused(task_of("web01")) == "server"


def test_what_an_older_version_reserved_is_no_edit(desk: Desk) -> None:
    """The upgrade of the ledger cannot know which VM it was: the server is reserved anew."""
    task = task_of("web01")
    assert isinstance(reserve(desk.ledger, task, desk.ctx("web01"), limit=4), Reserved)
    with pytest.raises(PermanentError, match="An older version of wavelift reserved this server") as caught:
        desk.checked(task)
    assert not isinstance(caught.value, TamperedError)
    desk.reserve(task)
    assert desk.checked(task) == task


# --- what may happen --------------------------------------------------------------------------------------------------


def test_a_cleared_preflight_and_reserve_go_on(desk: Desk) -> None:
    """The VM was started, got an address, and is listed at another place."""
    desk.reserve(task_of("web01"))
    again = seen(task_of("web01"), power="poweredOff", ip_addresses=("192.0.2.9",), host="esx9")
    desk.reserve(again, index=1)
    assert desk.checked(again, 1) == again
    assert desk.refused(again, 0) == "map_index"


def test_the_steps_take_the_plan_of_the_ledger(desk: Desk) -> None:
    """What pre-flight looks up of the bucket is the connector's: no step of the control plane stores an object."""
    desk.reserve(task_of("web01"))
    settled = targeted(task_of("web01"), staging_sse="aws:kms", staging_key="arn:aws:kms:eu-central-1:1:key/any")
    assert desk.checked(settled).plan == task_of("web01").plan


def test_a_replication_run_is_checked_with_what_it_may_launch(tmp_path: Path) -> None:
    desk = Desk(fresh_ledger(tmp_path / "ledger.db"), REPLICATION)
    clock = desk.ctx().clock
    create_jobs(desk.ledger, "erp", [JobOrder(server="web01", plan=ReplicationPlan())], by="ana", clock=clock)
    request = RunRequest("erp", {})
    assert replication.admit(desk.ledger, request, lambda _: wave(), desk.ctx(), rights=OPEN).granted == ("web01",)
    task = task_of("web01", replicates=True)
    assert desk.refused(planned(task, connection="vc-of-others"), reserves=True) == "connection"
    assert desk.refused(planned(task, allow_twin=True), reserves=True) == "allow_twin"
    task = desk.checked(task, reserves=True)
    assert not isinstance(reserve_run(desk.ledger, task, desk.ctx("web01"), limit=4), InQueue)
    frozen.bind(desk.ledger, task, desk.ctx("web01"))
    assert desk.checked(task) == task
    assert desk.refused(seen(task, moref="vm-payroll"), reserves=True) == "vm"
    known = within(desk.ledger.read(), replication_runs.get, replication_runs.run_id(desk.ctx("web01").run_key))
    assert known.bound is not None


# --- teardowns --------------------------------------------------------------------------------------------------------


def test_a_release_gives_back_its_own_slot_whatever_came(desk: Desk) -> None:
    """An edited XCom neither frees another's slot nor keeps its own for ever."""
    desk.reserve(task_of("web01"), 0)
    desk.reserve(task_of("web02", entry=1), 1)
    assert desk.released("web02", 0) == "web01"
    assert desk.holders() == {"web02"}
    assert desk.released("web02", 1) == "web02"
    assert not desk.holders()


def test_a_release_of_a_shorter_list_frees_no_other_server(desk: Desk) -> None:
    """The pre-flight alone was cleared, and lists web02 in the place of web01: a retry of the release reads web02."""
    desk.reserve(task_of("web01"), 0)
    desk.reserve(task_of("web02", entry=1), 1)
    assert desk.refused(task_of("web02", entry=1), 0) == "map_index"
    assert desk.released("web02", 0) == "web01"
    desk.reserve(task_of("web02", entry=1), 0)
    assert desk.released("web02", 0) == "web02"


def test_a_release_of_what_was_never_reserved(desk: Desk) -> None:
    desk.reserve(task_of("web02", entry=1), 1)
    assert desk.released("web01", 0) == "web01", (
        "its reservation failed: there is nothing to give back, and nothing wrong"
    )
    assert desk.released("web02", 0) == ""
    assert desk.holders() == {"web02"}


# --- what the whole run gets ------------------------------------------------------------------------------------------


def test_another_admission_than_the_frozen_one_is_refused(desk: Desk) -> None:
    came = desk.admit()
    assert frozen.admitted(desk.ledger, came, desk.ctx()) == came
    for field, edited in {
        "mode": came.model_copy(update={"mode": "launch"}),
        "migrations": came.model_copy(update={"migrations": ("mig-0",)}),
        "wave": came.model_copy(update={"wave": wave("web09")}),
    }.items():
        with pytest.raises(TamperedError) as caught:
            frozen.admitted(desk.ledger, edited, desk.ctx())
        assert caught.value.field == field


def test_only_jobs_whose_deletion_was_ordered_are_deleted(tmp_path: Path) -> None:
    desk = Desk(fresh_ledger(tmp_path / "ledger.db"), REPLICATION)
    clock = desk.ctx().clock
    made = {
        name: create_jobs(desk.ledger, name, [JobOrder(server="web01", plan=ReplicationPlan())], by="a", clock=clock)[0]
        for name in ("erp", "crm")
    }
    for name, job in made.items():
        with desk.ledger.write(jobs.lock_name(name)) as tx:
            jobs.apply(tx, job, "deleting", at=clock.now(), by="a", state=JobState.DELETING)
    conf = {"mode": "delete", "jobs": [made["erp"].id]}
    admitted = replication.admit(desk.ledger, RunRequest("erp", conf), lambda _: wave(), desk.ctx(), rights=OPEN)
    check_ordered(desk.ledger, admitted.jobs, desk.ctx())
    with pytest.raises(TamperedError, match=f"{made['crm'].id} of wave crm"):
        check_ordered(desk.ledger, [made["crm"].id], desk.ctx())
    active = create_jobs(desk.ledger, "erp", [JobOrder(server="w2", plan=ReplicationPlan())], by="a", clock=clock)[0]
    with pytest.raises(TamperedError, match=f"{active.id} of wave erp, active"):
        check_ordered(desk.ledger, [active.id], desk.ctx())


def test_an_edited_proof_quarantines_no_run_of_another_wave(tmp_path: Path) -> None:
    desk = Desk(fresh_ledger(tmp_path / "ledger.db"), DagRun("crm.replicate", "r1"))
    clock = desk.ctx().clock
    create_jobs(desk.ledger, "crm", [JobOrder(server="web01", plan=ReplicationPlan())], by="ana", clock=clock)
    crm = lambda _: wave(wave="crm")  # noqa: E731
    replication.admit(desk.ledger, RunRequest("crm", {}), crm, desk.ctx(), rights=OPEN)
    (known,) = within(desk.ledger.read(), replication_runs.of_dag_run, desk.run)
    desk.run = REPLICATION
    replication.admit(desk.ledger, RunRequest("erp", {}), lambda _: wave(), desk.ctx(), rights=OPEN)
    with pytest.raises(TamperedError, match=known.id):
        finish(desk.ledger, Ended(None, None, wrong={known.id: "forged"}), desk.ctx(), tidy=lambda *_: "")
    assert not within(desk.ledger.read(), replication_runs.get, known.id).quarantine


# --- the audit trail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["web01", "somebody"])
def test_a_refusal_is_an_event_of_its_server(desk: Desk, named: str) -> None:
    desk.reserve(task_of("web01"))
    with pytest.raises(TamperedError) as caught:
        desk.checked(planned(task_of("web01"), connection="vc-of-others"))
    frozen.tell(desk.ledger, caught.value, desk.ctx(named), task="server.record")
    known = within(desk.ledger.read(), migrations.get, migrations.migration_id(desk.ctx("web01").run_key))
    *_, told = within(desk.ledger.read(), events.list_events, object_kind="migration", object_id=known.id)
    assert (told.action, told.dag_id, told.dag_run_id) == ("run.tampered", *vars_of(RUN))
    assert told.details == {
        "task": "server.record",
        "what": "What came by XCom is not what this run froze",
        "server": "web01",
        "field": "connection",
        "expected": "vc",
        "found": "vc-of-others",
    }


@pytest.mark.parametrize(
    ("server", "folder", "entry", "kind"),
    [
        ("farm01", "farm", 2, "wave_run"),  # of a folder: no row yet
        ("web01", "shop", 0, "migration"),  # admitted: it has its row, and so its own trail
    ],
)
def test_a_refusal_before_any_reservation_is_an_event_of_what_is_known(
    desk: Desk, server: str, folder: str, entry: int, kind: str
) -> None:
    with pytest.raises(TamperedError) as caught:
        desk.checked(planned(task_of(server, folder=folder, entry=entry), connection="vc-of-others"), reserves=True)
    frozen.tell(desk.ledger, caught.value, desk.ctx(server), task="server.reserve")
    *_, told = within(desk.ledger.read(), events.list_events, object_kind=kind)
    assert (told.action, told.details["field"]) == ("run.tampered", "connection")


def vars_of(run: DagRun) -> tuple[str, str]:
    return run.dag_id, run.dag_run_id


def test_the_slots_of_a_server_are_those_of_transfers(desk: Desk) -> None:
    """Or the tests above would say nothing."""
    desk.reserve(task_of("web01"))
    assert {each.kind for each in within(desk.ledger.read(), standing)} == {
        SlotKind.ACCOUNT,
        SlotKind.DATASTORE,
        SlotKind.TRANSFER,
    }
