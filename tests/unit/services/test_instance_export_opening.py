"""One open export of an instance: who asks first has it, the dead give it free, and what a person may still stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.export_world import ACCOUNT, DAG, INSTANCE, OTHER, REGION, ExportWorld, environment
from tests.ledgers import fresh_ledger, within

from wavelift.base.errors import BusyError, DeniedError, NotFoundError, PermanentError, RefusedError, SpecError
from wavelift.base.run import DagRun
from wavelift.ledger import WaveRunState, events, exports, waves
from wavelift.ledger.cutover_records import TargetPlace
from wavelift.rules.conf import ExportConf
from wavelift.rules.instance_export import ExportState
from wavelift.services.common.instances import Instance
from wavelift.services.common.report import NOT_FINISHED
from wavelift.services.common.reserve import NOT_MADE
from wavelift.services.instance_export import opening, requests, upkeep
from wavelift.services.instance_export.admit import has_arrived
from wavelift.services.instance_export.report import raise_when_failed
from wavelift.services.instance_export.requests import TooLateError
from wavelift.services.instance_export.work import ASKING, Work

pytestmark = pytest.mark.unit

CONF = ExportConf(instance=INSTANCE)


def no_aws(place: Any) -> Any:
    pytest.fail("nothing is outside")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ExportWorld]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        yield ExportWorld(ledger)


def states(world: ExportWorld) -> dict[str, ExportState]:
    found = within(world.ledger.read(), exports.list_exports).items
    return {each.dag_run_id: each.state for each in found}


# Opening


def test_an_export_is_written_down_as_it_was_asked_for(world: ExportWorld) -> None:
    made = world.admit(method="direct", prefix="vms/", may_reboot=True, note="for Ben")
    known = world.known()
    assert made is not None
    assert (made.id, known.state, known.choice, known.prefix) == (known.id, ExportState.QUEUED, "direct", "out/vms/")
    assert (known.account, known.region, known.instance_id, known.subject) == (ACCOUNT, REGION, INSTANCE, INSTANCE)
    assert (known.bucket, known.may_reboot, known.note) == ("export-to-s3-acme-eu-central-1", True, "for Ben")
    assert known.run_key == f"{DAG}/r1/{INSTANCE}"
    assert known.requested_by == "alice"
    run = within(world.ledger.read(), waves.get, known.run)
    assert (run.wave, run.mode, run.state) == ("export/lab", "export", WaveRunState.RUNNING)


def test_a_repeated_admission_finds_its_own_export(world: ExportWorld) -> None:
    first, again = world.admit(), world.admit()
    assert first is not None
    assert again is not None
    assert (first.id, first.version) == (again.id, again.version)


def test_one_export_of_an_instance_is_open_at_a_time(world: ExportWorld) -> None:
    first = world.admit()
    assert first is not None
    with pytest.raises(RefusedError, match=f"{first.id} of {DAG} r1 is queued") as refused:
        world.admit("r2")
    assert refused.value.refusals[0].server == INSTANCE
    world.admit("r3", OTHER)
    assert states(world) == {"r1": ExportState.QUEUED, "r3": ExportState.QUEUED}


def test_a_dead_run_that_made_nothing_frees_its_instance(world: ExportWorld) -> None:
    world.admit()
    world.alive.discard("r1")
    world.admit("r2")
    assert states(world) == {"r1": ExportState.FAILED, "r2": ExportState.QUEUED}
    assert world.known().error == opening.RUN_ENDED


def test_a_dead_run_that_may_have_made_something_holds_its_instance(world: ExportWorld) -> None:
    world.admit()
    world.put(state=ExportState.ACTIVE, made={"attempt": 1, "method": "instance"})
    world.alive.discard("r1")
    with pytest.raises(RefusedError, match="is active"):
        world.admit("r2")


def test_a_failed_export_begins_anew_with_the_next_attempt(world: ExportWorld) -> None:
    world.admit()
    world.put(
        state=ExportState.ACTIVE, made={"attempt": 1, "method": "instance"}, task_id="export-i-1", times={"a": "b"}
    )
    world.put(state=ExportState.FAILED, error="AWS failed", made={"attempt": 1, "method": "instance", "tidy": True})
    known = world.admit()
    assert known is not None
    assert (known.state, known.error, known.task_id, known.made) == (ExportState.QUEUED, "", "", {"attempt": 2})


def test_a_cancelled_one_that_is_cleared_is_not_cancelled_any_more(world: ExportWorld) -> None:
    world.admit()
    world.cancel(over=True)
    known = world.admit()
    assert known is not None
    assert (known.state, known.cancel_requested) == (ExportState.QUEUED, False)


def test_a_clear_waits_until_what_was_made_is_removed(world: ExportWorld) -> None:
    world.admit()
    world.put(state=ExportState.ACTIVE, made={"attempt": 1, "method": "direct"})
    world.cancel()
    with pytest.raises(BusyError, match="being removed"):
        world.admit()


def test_a_run_that_was_cancelled_before_its_first_task_does_not_begin(world: ExportWorld) -> None:
    """Nothing is to be removed, so no retry waits for that."""
    requests.reserve(world.ledger, world.environment, CONF, world.ctx())
    world.cancel()
    with pytest.raises(PermanentError, match="cancelled on request"):
        world.admit()
    made = world.report(words="admit: it was cancelled")
    assert made.stopped
    assert (world.known().state, world.known().error) == (ExportState.CANCELLED, "cancelled on request")


def test_a_completed_export_that_is_cleared_has_nothing_left_to_do(world: ExportWorld) -> None:
    world.admit()
    for state in (ExportState.ACTIVE, ExportState.VERIFYING, ExportState.COMPLETED):
        world.put(state=state)
    assert has_arrived(world.admit())
    assert not has_arrived(None)


# Who may, and what


@pytest.mark.parametrize("asker", ["bob", "mallory"])
def test_vie_only_who_administers_the_environment_may_export(world: ExportWorld, asker: str) -> None:
    world.asker = asker  # bob may cut over
    with pytest.raises(DeniedError):
        world.admit()
    with pytest.raises(DeniedError):
        world.admit("r2", mode="check")
    with pytest.raises(DeniedError):
        world.admit("r3", mode="setup")
    assert states(world) == {}
    told = [one.action for one in within(world.ledger.read(), events.list_events)]
    assert told.count("authority.refused") == 3


def test_an_environment_without_exports_is_refused(world: ExportWorld) -> None:
    world.environment = environment(exports=None)
    with pytest.raises(SpecError, match="has no 'exports'"):
        world.admit()


@pytest.mark.parametrize("mode", ["check", "setup"])
def test_the_other_modes_open_no_export(world: ExportWorld, mode: str) -> None:
    assert world.admit(mode=mode) is None
    assert states(world) == {}


@pytest.mark.parametrize(
    "conf", [{"mode": "move"}, {"method": "rsync"}, {"prefix": "../a"}, {"grant": True}, {"servers": ["a"]}]
)
def test_a_wrong_conf_is_refused_before_anything_is_written(world: ExportWorld, conf: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        world.admit(**conf)
    assert states(world) == {}


def test_a_migration_that_nobody_knows_is_refused(world: ExportWorld) -> None:
    with pytest.raises(NotFoundError):
        world.admit(instance="mig-0123456789ab")


def found(environment: str = "lab", region: str = REGION, account: str = ACCOUNT) -> Instance:
    place = TargetPlace(aws_conn_id="aws_lab", region=region, account=account)
    return Instance("cut-0123456789ab", "erp", "web01", environment, OTHER, place)


@pytest.mark.parametrize("account", [ACCOUNT, ""], ids=["its account", "an older version froze no account"])
def test_a_migration_or_cutover_stands_for_the_instance_that_it_made(
    world: ExportWorld, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    monkeypatch.setattr(opening, "instance_of", lambda tx, subject: found(account=account))
    world.admit(instance="cut-0123456789ab")
    assert (world.known().instance_id, world.known().subject) == (OTHER, "cut-0123456789ab")
    with pytest.raises(RefusedError):
        world.admit("r2", OTHER)


@pytest.mark.parametrize("other", [found("prod"), found(region="eu-west-1"), found(account="210987654321")])
def test_an_instance_of_another_environment_is_refused(
    world: ExportWorld, monkeypatch: pytest.MonkeyPatch, other: Instance
) -> None:
    monkeypatch.setattr(opening, "instance_of", lambda tx, subject: other)
    with pytest.raises(PermanentError, match=f"is of environment {other.environment}"):
        world.admit(instance="cut-0123456789ab")
    assert states(world) == {}


def test_a_cleared_run_begins_anew_only_as_its_environment_said(world: ExportWorld) -> None:
    world.admit()
    world.report(words="check: refused")
    world.environment = environment(exports={"name": "other"})
    with pytest.raises(SpecError, match="has changed since"):
        world.admit()
    world.environment = environment(limits={"exports_per_region": 20})
    assert world.admit() is not None


def test_a_run_that_goes_on_does_not_ask_its_files_again(world: ExportWorld) -> None:
    world.admit()
    world.read = lambda: pytest.fail("the run has frozen its environment")
    world.admit()


# Requests from outside


def test_a_reservation_is_the_run_s_export_and_the_same_when_it_is_asked_again(world: ExportWorld) -> None:
    run = requests.named_run("lab", CONF, "job-7")
    ctx = world.ctx(run.dag_run_id)
    first = requests.reserve(world.ledger, world.environment, CONF, ctx, request_id="job-7")
    again = requests.reserve(world.ledger, world.environment, CONF, ctx, request_id="job-7")
    assert first is not None
    assert again is not None
    assert (first.id, first.version, first.request_id) == (again.id, again.version, "job-7")
    assert requests.made_before(world.ledger, run) is None  # the run is not there yet
    made = world.admit(run.dag_run_id)
    assert made is not None
    assert made.id == first.id
    found = requests.made_before(world.ledger, run)
    assert found is not None
    assert found.id == first.id
    with pytest.raises(RefusedError, match="is queued"):
        requests.reserve(world.ledger, world.environment, CONF, world.ctx("other"))


def test_a_reservation_whose_run_could_not_be_made_is_given_back(world: ExportWorld) -> None:
    requests.reserve(world.ledger, world.environment, CONF, world.ctx("a"))
    requests.give_back(world.ledger, DagRun(DAG, "a"), world.ctx("a"))
    assert (world.known("a").state, world.known("a").error) == (ExportState.FAILED, NOT_MADE)
    assert requests.made_before(world.ledger, DagRun(DAG, "a")) is None
    requests.give_back(world.ledger, DagRun(DAG, "nobody"), world.ctx("nobody"))


def test_a_reservation_holds_its_instance_only_while_its_run_may_still_come(world: ExportWorld) -> None:
    requests.reserve(world.ledger, world.environment, CONF, world.ctx("a"))
    with pytest.raises(RefusedError):
        world.admit("b")
    world.clock.sleep(121)
    world.admit("b")
    assert (world.known("a").state, world.known("a").error) == (ExportState.FAILED, opening.TOO_LATE)


def test_the_other_modes_reserve_nothing_but_are_refused_for_what_they_would_be(world: ExportWorld) -> None:
    for mode in ("check", "setup"):
        conf = ExportConf.read({"mode": mode, **({"instance": INSTANCE} if mode == "check" else {})})
        assert requests.reserve(world.ledger, world.environment, conf, world.ctx()) is None
        with pytest.raises(SpecError):
            requests.reserve(world.ledger, environment(exports=None), conf, world.ctx())
    assert states(world) == {}


# Cancelling


def test_vie_06_an_export_that_made_nothing_and_whose_run_is_over_is_cancelled_at_once(world: ExportWorld) -> None:
    world.admit()
    assert world.cancel(over=True).state is ExportState.CANCELLED
    with pytest.raises(PermanentError, match="nothing to cancel"):
        world.cancel()


@pytest.mark.parametrize("state", [ExportState.QUEUED, ExportState.CHECKING, ExportState.ACTIVE])
def test_vie_06_what_goes_on_is_cancelling_until_its_run_has_removed_it(world: ExportWorld, state: ExportState) -> None:
    world.admit()
    if state is not ExportState.QUEUED:
        world.put(state=state, made={"method": "direct"} if state is ExportState.ACTIVE else None)
    known = world.cancel()
    assert (known.state, known.cancel_requested) == (ExportState.CANCELLING, True)
    assert world.cancel().version == known.version
    with pytest.raises(PermanentError, match="cancelled on request"):
        world.reserve()


def test_vie_06_what_was_cancelled_meanwhile_asks_aws_for_nothing(world: ExportWorld) -> None:
    """Nor does it say that it did: its removal would wait for what never comes."""
    world.admit()
    never: Any = None
    work = Work(world.ledger, never, world.put(state=ExportState.ACTIVE, made={"method": "direct"}), world.ctx())
    world.cancel()
    with pytest.raises(PermanentError, match="cancelled on request"), work.asking():
        pytest.fail("it asks")
    assert ASKING not in (world.known().times or {})


@pytest.mark.parametrize("end", [ExportState.VERIFYING, ExportState.COMPLETED])
def test_vie_06_once_the_object_stands_it_is_too_late(world: ExportWorld, end: ExportState) -> None:
    world.admit()
    for state in (ExportState.ACTIVE, ExportState.VERIFYING, ExportState.COMPLETED):
        world.put(state=state, object_key="out/export-i-1.ova")
        if state is end:
            break
    with pytest.raises(TooLateError, match="too late: the final image is being written"):
        world.cancel()


# Slots


def test_vie_04_an_export_waits_for_a_place_in_account_and_region(world: ExportWorld) -> None:
    world.environment = environment(limits={"exports_per_region": 2})
    runs = [f"r{number}" for number in range(3)]
    for number, run in enumerate(runs):
        world.admit(run, f"i-0123456789abcde{number:02d}")
    assert [world.reserve(run) for run in runs[:2]] == [None, None]
    queued = world.reserve("r2")
    assert queued is not None
    assert "2 of 2 in use" in queued.words
    assert world.known("r2").phase == f"waits: {queued.words}"
    world.release("r0")
    assert world.reserve("r2") is None


def test_a_right_that_was_taken_away_while_it_waited_grants_nothing(world: ExportWorld) -> None:
    world.admit()
    world.environment = environment(may={"administer": ("user:carol",)})
    with pytest.raises(DeniedError):
        world.reserve()


def test_a_run_without_an_export_has_no_slot_to_give_back(world: ExportWorld) -> None:
    world.admit(mode="check")
    world.release()


# The end


def test_the_report_closes_what_made_nothing(world: ExportWorld) -> None:
    world.admit()
    made = world.report(words="check: the bucket is missing")
    assert (made.state, made.error, made.succeeded) == ("failed", "check: the bucket is missing", False)
    with pytest.raises(PermanentError, match="the bucket is missing") as failed:
        raise_when_failed(made)
    assert "admit" in failed.value.next_step
    run = within(world.ledger.read(), waves.get, DagRun(DAG, "r1"))
    assert run.state is WaveRunState.FAILED


def test_the_report_of_a_cancelled_one_says_so(world: ExportWorld) -> None:
    world.admit()
    world.cancel()
    made = world.report()
    assert (made.state, made.error) == ("cancelled", "cancelled on request")


def test_the_report_says_that_something_still_stands(world: ExportWorld) -> None:
    world.admit()
    world.put(state=ExportState.ACTIVE, made={"method": "image", "image_id": "ami-1"})
    made = world.report(words="begin: AWS refused")
    assert made.state == "active"
    assert any("upkeep" in line for line in made.unclean)


def test_a_run_that_was_never_admitted_says_why(world: ExportWorld) -> None:
    made = world.report("r9", words="admit: not allowed")
    assert (made.environment, made.stopped, made.export) == ("lab", "admit: not allowed", "")
    assert world.report("r8").stopped == NOT_FINISHED


# Runs that were killed


def test_the_upkeep_ends_what_made_nothing_and_whose_run_is_dead(world: ExportWorld) -> None:
    world.admit()
    world.admit("r2", OTHER)
    world.alive.discard("r1")
    told = upkeep.end_dead(world.ledger, no_aws, world.ctx("upkeep"), fence=_free)
    assert len(told) == 1
    assert states(world) == {"r1": ExportState.FAILED, "r2": ExportState.QUEUED}


def test_the_upkeep_leaves_a_reservation_alone_while_its_run_is_being_made(world: ExportWorld) -> None:
    requests.reserve(world.ledger, world.environment, CONF, world.ctx("a"))
    assert upkeep.end_dead(world.ledger, no_aws, world.ctx("upkeep"), fence=_free) == ()
    world.clock.sleep(121)
    upkeep.end_dead(world.ledger, no_aws, world.ctx("upkeep"), fence=_free)
    assert world.known("a").error == opening.TOO_LATE


def test_the_upkeep_gives_the_slot_of_a_dead_run_back(world: ExportWorld) -> None:
    world.environment = environment(limits={"exports_per_region": 1})
    world.admit()
    assert world.reserve() is None
    world.admit("r2", OTHER)
    assert world.reserve("r2") is not None
    world.alive.discard("r1")
    upkeep.end_dead(world.ledger, no_aws, world.ctx("upkeep"), fence=_free)
    assert world.reserve("r2") is None


def _free() -> None:
    pass
