"""The right is asked at admission and again at each grant, by the files of that moment; each refusal is an event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.unit.services.test_admit_rights import Site
from tests.unit.specs.conftest import ENVIRONMENT, WAVE

from wavelift.base.errors import DeniedError
from wavelift.base.run import DagRun, Requester, RunContext
from wavelift.ledger import Event, WaveRunState, events, groups, jobs, replication_runs, waves
from wavelift.ledger.jobs import lock_name
from wavelift.rules.authority import Action
from wavelift.rules.replication import RunState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.authority import REFUSED, Rights, require_again
from wavelift.services.migration import admit as migration
from wavelift.services.replication import admit as replication
from wavelift.services.replication.jobs import JobOrder, create_jobs, resume_job, update_job
from wavelift.specs import Granting, load_granting

pytestmark = pytest.mark.unit

NOBODY = ENVIRONMENT.replace("user:admin", "user:nobody-else")
MIGRATE = DagRun("erp.migrate", "manual__1")


def listing(*entries: str, action: str = "migrate") -> str:
    names = ", ".join(f"'{entry}'" for entry in entries)
    return ENVIRONMENT.replace(
        next(line for line in ENVIRONMENT.splitlines() if line.startswith("may:")), f"may: {{{action}: [{names}]}}"
    )


class Office(Site):
    """The files, and what reads them at each question."""

    def granting(self, name: str) -> Granting:
        return load_granting(name, self.folder / "environments")

    @property
    def rights(self) -> Rights:
        return Rights(self.granting)

    def grant(self, *entries: str, action: str = "migrate", groups: str | None = None) -> None:
        path = self.folder / "environments" / "principals.yaml"
        path.unlink(missing_ok=True)
        self.write(WAVE, listing(*entries, action=action))
        if groups is not None:
            path.write_text(groups)

    def admit(self, ctx: RunContext, **conf: Any) -> Any:
        return migration.admit(self.ledger, RunRequest("erp", conf), self.load, ctx, rights=self.rights)

    def refusals(self) -> list[Event]:
        with self.ledger.read() as tx:
            return [event for event in events.list_events(tx) if event.action == REFUSED]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    made = Office(tmp_path, fresh_ledger(tmp_path / "ledger.db"))
    made.grant("user:ana")
    return made


def asked(name: str, run_type: str = "manual", *, run: DagRun = MIGRATE, server: str = "", **more: Any) -> RunContext:
    requester = Requester(name, run_type)
    return run_context(run, server, requester=str(requester), asked_by=requester, **more)


def test_a_listed_user_is_admitted_and_nothing_is_told(office: Office) -> None:
    assert office.admit(asked("ana")).requested_by == "ana"
    assert office.refusals() == []


@pytest.mark.parametrize(
    ("ctx", "link", "said"),
    [
        (asked("bo"), "environment", "'bo' may not migrate into environment 'prod'"),
        (asked("Anonymous"), "environment", "'Anonymous' may not migrate"),
        (asked(""), "requester", "does not know which user asked"),
        (asked("", "backfill"), "requester", "kind 'backfill'"),
        (asked("ana", "asset_triggered"), "requester", "kind 'asset_triggered'"),
        (asked("ana", "scheduled"), "requester", "kind 'scheduled'"),
        (asked("ana", "unknown"), "requester", "kind 'unknown'"),
    ],
    ids=["not listed", "anonymous", "no user", "backfill", "asset", "a schedule that migrates", "no run type"],
)
def test_whoever_is_not_listed_is_refused_and_told(office: Office, ctx: RunContext, link: str, said: str) -> None:
    with pytest.raises(DeniedError) as caught:
        office.admit(ctx)
    assert said in str(caught.value)
    assert (caught.value.link, bool(caught.value.next_step), caught.value.retryable) == (link, True, False)
    assert within(office.ledger.read(), waves.find, ctx.run) is None, "nothing was admitted"
    (told,) = office.refusals()
    assert (told.object_kind, told.object_id) == ("wave_run", "erp.migrate/manual__1")
    assert (told.actor, told.dag_run_id) == (ctx.requester, "manual__1")
    assert told.details["link"] == link
    assert (told.details["action"], told.details["environment"]) == ("migrate", "prod")
    assert said in told.details["why"]


def test_anonymous_may_where_it_is_listed(office: Office) -> None:
    office.grant("user:Anonymous")
    assert office.admit(asked("Anonymous")).mode == "migrate"


def test_operator_triggered_runs_have_the_right_of_the_name_that_they_inherit(office: Office) -> None:
    assert office.admit(asked("ana", "operator_triggered")).mode == "migrate"
    with pytest.raises(DeniedError):
        office.admit(asked("bo", "operator_triggered", run=DagRun("erp.migrate", "manual__2")))


@pytest.mark.parametrize("mode", ["migrate", "plan", "preflight", "cleanup"])
def test_every_mode_asks(office: Office, mode: str) -> None:
    with pytest.raises(DeniedError):
        office.admit(asked("bo"), mode=mode)
    assert office.admit(asked("ana"), mode=mode).mode == mode


def test_a_cleanup_that_removes_needs_an_administrator(office: Office) -> None:
    with pytest.raises(DeniedError, match="may not administer"):
        office.admit(asked("ana"), mode="cleanup", dry_run=False)
    office.grant("user:ana", action="administer")
    assert not office.admit(asked("ana"), mode="cleanup", dry_run=False).dry_run


@pytest.mark.parametrize("mode", ["delete", "verify", "replicate"])
def test_replication_on_demand_asks_in_every_mode(office: Office, mode: str) -> None:
    conf = {"mode": mode, "jobs": ["job-0"]} if mode != "replicate" else {}
    for name in ("bo", ""):
        ctx = asked(name, run=DagRun("erp.replicate", "manual__1"))
        with pytest.raises(DeniedError):
            replication.admit(office.ledger, RunRequest("erp", conf), office.load, ctx, rights=office.rights)


def test_groups_count_from_the_file_and_roles_for_as_long_as_they_are_believed(office: Office) -> None:
    clock = HandClock()
    office.grant("group:erp-team", "group:role/Op", groups="groups: {erp-team: [ana]}\n")
    assert office.admit(asked("ana", clock=clock)).mode == "migrate"
    bo = asked("bo", run=DagRun("erp.migrate", "manual__2"), clock=clock)
    with pytest.raises(DeniedError, match="`wavelift whoami`"):
        office.admit(bo)
    groups.remember(office.ledger, "bo", ["role/Op"], at=clock.now())
    assert office.admit(bo).mode == "migrate"
    clock.time += timedelta(hours=25)
    with pytest.raises(DeniedError, match=r"was last seen .* with role/Op"):
        office.admit(bo)


def test_roles_are_written_once_in_five_minutes_and_at_once_when_they_change(office: Office) -> None:
    clock = HandClock()

    def remember(*names: str) -> bool:
        return groups.remember(office.ledger, "bo", names, at=clock.now())

    def seen() -> set[str]:
        return set(within(office.ledger.read(), groups.seen, "bo"))

    assert (remember(), remember("role/Op"), seen()) == (False, True, {"role/Op"})
    clock.time += timedelta(minutes=4)
    assert not remember("role/Op")
    clock.time += timedelta(minutes=2)
    assert remember("role/Op")
    assert (remember("role/Viewer"), seen()) == (True, {"role/Viewer"})
    assert (remember(), seen()) == (True, set())
    assert within(office.ledger.read(), groups.seen, "ana") == {}


# Again at each grant


def test_a_right_that_is_revoked_while_the_server_waits_grants_nothing(office: Office) -> None:
    office.admit(asked("ana"))
    waiting = asked("ana", server="web01")
    require_again(office.ledger, waiting, Action.MIGRATE, rights=office.rights)
    office.grant("user:bo")
    with pytest.raises(DeniedError, match="'ana' may not migrate"):
        require_again(office.ledger, waiting, Action.MIGRATE, rights=office.rights)
    (told,) = office.refusals()
    assert (told.details["server"], told.actor) == ("web01", "ana")


@pytest.mark.parametrize(
    ("file", "text"), [("prod", "a: b: c"), ("prod", ""), ("principals", "groups: [ana]"), ("prod", None)]
)
def test_while_the_files_are_broken_nothing_is_granted(office: Office, file: str, text: str | None) -> None:
    """Also if somebody broke them on purpose after a revocation."""
    office.admit(asked("ana"))
    path = office.folder / "environments" / f"{file}.yaml"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(DeniedError) as caught:
        require_again(office.ledger, asked("ana", server="web01"), Action.MIGRATE, rights=office.rights)
    assert f"environments/{file}.yaml" in str(caught.value)
    assert "wavelift wave validate" in caught.value.next_step
    assert office.refusals()[0].details["link"] == "environment"


def test_the_wave_s_own_file_may_be_broken_or_gone_the_environment_decides(office: Office) -> None:
    office.admit(asked("ana"))
    (office.folder / "waves" / "erp.yaml").unlink()
    require_again(office.ledger, asked("ana", server="web01"), Action.MIGRATE, rights=office.rights)


@pytest.fixture(params=["ReserveOperator", "ReserveRunOperator"])
def reservation(
    office: Office, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[], Any], list[str]]:
    """The task that reserves web01 in a run of ana, and for what it asked the ledger."""
    from wavelift.airflow import config
    from wavelift.operators.control import slots
    from wavelift.services.common import frozen

    asked_for: list[str] = []
    office.admit(asked("ana"))
    kind: Any = getattr(slots, request.param)
    server: Any = SimpleNamespace(name="web01")
    ctx = asked("ana", server="web01")
    monkeypatch.setattr(config, "environments_folder", lambda: office.folder / "environments")
    monkeypatch.setattr(config, "integer", lambda option: 24)
    monkeypatch.setattr(frozen, "checked", lambda *_, **__: server)
    monkeypatch.setattr(frozen, "bind", lambda *_: None)
    given: dict[str, Any] = {
        "ledger": nullcontext(office.ledger),
        "server_context": ctx,
        "server_task": server,
        "resolved": office.load("erp"),
        "_note": None,
        "_grant": "signed",
    }
    for name, value in given.items():
        monkeypatch.setattr(kind, name, lambda *_, _value=value: _value)

    def reserve(*_: Any, **__: Any) -> dict[str, str]:
        asked_for.append("slot")
        return {"server": "web01"}

    monkeypatch.setattr(kind, "reserve", reserve)
    task = kind(task_id="reserve", server={})
    return lambda: task.work({"dag_run": SimpleNamespace(conf={})}), asked_for


def test_a_reservation_asks_before_it_asks_for_a_slot(
    office: Office, reservation: tuple[Callable[[], Any], list[str]]
) -> None:
    reserve, asked_for = reservation
    assert reserve() == {"server": "web01", "token": "signed"}
    office.grant("user:bo")
    with pytest.raises(DeniedError):
        reserve()
    assert asked_for == ["slot"]


def test_a_run_that_has_ended_is_opened_again_only_for_one_who_may(
    office: Office, reservation: tuple[Callable[[], Any], list[str]]
) -> None:
    """Cleared from its reservation, perhaps without the report, which would close it again."""
    reserve, asked_for = reservation

    def state() -> str:
        return str(within(office.ledger.read(), waves.get, MIGRATE).state)

    with office.ledger.write(waves.LOCK) as tx:
        waves.finish_wave_run(tx, MIGRATE, WaveRunState.FAILED, clock=HandClock())
    office.grant("user:bo")
    with pytest.raises(DeniedError, match="'ana' may not migrate"):
        reserve()
    assert (state(), asked_for) == ("failed", [])
    assert office.refusals()[0].details["server"] == "web01"
    office.grant("user:ana")
    reserve()
    assert (state(), asked_for) == ("running", ["slot"])


# Scheduled runs


Scheduled = Callable[[int], Any]


@pytest.fixture
def scheduled(office: Office) -> tuple[Office, HandClock, Scheduled, dict[str, str]]:
    """Two jobs, of ana and of bo, and the runs of the timetable."""
    clock = HandClock()
    office.grant("user:ana", "user:bo")
    ids: dict[str, str] = {}
    for server, by in (("web01", "ana"), ("db01", "bo")):
        order = JobOrder(server=server, plan=ReplicationPlan(frequency_hours=12))
        (made,) = create_jobs(office.ledger, "erp", [order], by=by, clock=clock)
        ids[server] = made.id
    first = within(office.ledger.read(), jobs.get, ids["web01"]).seed_at

    def run(number: int) -> Any:
        at = first + number * timedelta(hours=12)
        clock.time = at + timedelta(minutes=1)
        ctx = asked("", "scheduled", run=DagRun("erp.replicate", f"scheduled__{number}"), clock=clock)
        request = RunRequest("erp", {}, source="schedule", scheduled_for=at)
        return replication.admit(office.ledger, request, office.load, ctx, rights=office.rights)

    return office, clock, run, ids


def test_a_job_whose_authoriser_lost_the_right_is_refused_and_the_others_go_on(
    scheduled: tuple[Office, HandClock, Scheduled, dict[str, str]],
) -> None:
    office, clock, run, ids = scheduled
    assert set(run(1).granted) == {"web01", "db01"}
    for server in ids:
        _complete(office, server, 1, clock)
    office.grant("user:ana")
    admitted = run(2)
    assert admitted.granted == ("web01",)
    (skipped,) = admitted.skipped
    assert (skipped.server, skipped.rule) == ("db01", "authority")
    assert "'bo' may not migrate" in skipped.reason
    assert f"wavelift jobs resume {ids['db01']}" in skipped.reason
    (told,) = office.refusals()
    assert (told.object_kind, told.object_id, told.actor) == ("replication_job", ids["db01"], "bo")
    _complete(office, "web01", 2, clock)
    resumed = resume_job(office.ledger, ids["db01"], by="ana", clock=clock)
    assert (resumed.authorised_by, resumed.created_by) == ("ana", "bo")
    assert set(run(3).granted) == {"web01", "db01"}


def test_a_scheduled_server_is_asked_for_its_own_authoriser_at_its_grant(
    scheduled: tuple[Office, HandClock, Scheduled, dict[str, str]],
) -> None:
    office, clock, run, _ = scheduled
    run(1)
    office.grant("user:ana")

    def grant(server: str) -> None:
        ctx = asked("", "scheduled", run=DagRun("erp.replicate", "scheduled__1"), server=server, clock=clock)
        require_again(office.ledger, ctx, Action.MIGRATE, rights=office.rights)

    grant("web01")
    with pytest.raises(DeniedError, match="'bo' may not migrate"):
        grant("db01")


def test_whoever_changes_or_resumes_a_job_stands_behind_it(
    scheduled: tuple[Office, HandClock, Scheduled, dict[str, str]],
) -> None:
    office, clock, _, ids = scheduled
    id = ids["web01"]

    def behind() -> str:
        return within(office.ledger.read(), jobs.get, id).authorised_by

    assert behind() == "ana"
    update_job(office.ledger, id, by="bo", clock=clock, keep_amis=2)
    assert behind() == "bo"
    update_job(office.ledger, id, by="cy", clock=clock, keep_amis=2)
    assert behind() == "bo", "nothing was changed"
    resume_job(office.ledger, id, by="ana", clock=clock)
    assert behind() == "ana", "also of an active job"


def _complete(office: Office, server: str, number: int, clock: HandClock) -> None:
    with office.ledger.write(lock_name("erp")) as tx:
        for known in replication_runs.of_dag_run(tx, DagRun("erp.replicate", f"scheduled__{number}")):
            if known.server == server and known.state is RunState.ACTIVE:
                replication_runs.apply(
                    tx, known, "completed", at=clock.now(), by="test", state=RunState.COMPLETED, finished_at=clock.now()
                )


def test_a_clear_changes_no_requester() -> None:
    from wavelift.operators._base import asker_of, requester_of

    def seen(**run: Any) -> Requester:
        context: Any = {"dag_run": SimpleNamespace(**run)}
        assert requester_of(context) == str(asker_of(context))
        return asker_of(context)

    first = seen(run_type="manual", triggering_user_name="ana", clear_number=0)
    assert seen(run_type="manual", triggering_user_name="ana", clear_number=3) == first == Requester("ana")
    assert seen(run_type="manual", triggering_user_name=None) == Requester("")
    assert seen(run_type="scheduled", triggering_user_name=None) == Requester("", "scheduled")
    assert replace(first, run_type="backfill") == seen(run_type="backfill", triggering_user_name="ana")
