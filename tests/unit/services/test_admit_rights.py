"""A new run of any flow and mode needs what the present files allow; an admitted one goes on with what it froze."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN, open_to
from tests.unit.specs.conftest import ENVIRONMENT, WAVE

from wavelift.base.errors import DeniedError, SpecError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, WaveRunState, jobs, migrations, waves
from wavelift.rules.conf import MigrateMode, ReplicateMode
from wavelift.rules.environment import Environment, May
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.principals import Principals
from wavelift.rules.replication import JobState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common.admit import RunRequest, lost_of, reopen
from wavelift.services.common.authority import Rights
from wavelift.services.migration import admit as migration
from wavelift.services.replication import admit as replication
from wavelift.services.replication.jobs import JobOrder, create_jobs
from wavelift.specs import Granting, resolved_wave, usable_waves

pytestmark = pytest.mark.unit

FLOWS: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    **{f"migrate {mode}": (migration.admit, "erp.migrate", {"mode": mode}) for mode in get_args(MigrateMode)},
    **{f"replicate {mode}": (replication.admit, "erp.replicate", {"mode": mode}) for mode in get_args(ReplicateMode)},
}
BROKEN = "a: b: c"
NAMED = {
    "migrate launch": {"migrations": ["mig-0"]},
    "migrate verify": {"migrations": ["mig-0"]},
    "replicate delete": {"jobs": ["job-0"]},
    "replicate verify": {"jobs": ["job-0"]},
}


@dataclass(frozen=True)
class Site:
    folder: Path
    ledger: Ledger

    def write(self, wave: str = WAVE, environment: str = ENVIRONMENT) -> None:
        for name, text in (("waves/erp.yaml", wave), ("environments/prod.yaml", environment)):
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        usable_waves(self.folder / "waves", self.folder / "environments", self.folder / "kept")

    def load(self, name: str) -> ResolvedWave:
        return resolved_wave(name, self.folder / "waves", self.folder / "environments")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path, fresh_ledger(tmp_path / "ledger.db"))
    made.write()
    return made


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize(
    ("wave", "environment", "said"),
    [
        (BROKEN, ENVIRONMENT, "waves/erp.yaml:1: a second ': '"),
        (WAVE, ENVIRONMENT.replace("connection: vc1", "connection: vc2"), "waves/erp.yaml:3: source.connection: "),
        (WAVE, "", "environments/prod.yaml:1: the file is empty"),
    ],
    ids=["broken on purpose", "source taken away", "environment emptied"],
)
def test_a_right_that_was_taken_away_serves_no_new_run(
    site: Site, flow: str, wave: str, environment: str, said: str
) -> None:
    admit, dag, conf = FLOWS[flow]
    run = DagRun(dag, "manual__1")
    site.write(wave, environment)
    with pytest.raises(SpecError) as caught:
        admit(
            site.ledger,
            RunRequest("erp", conf | NAMED.get(flow, {})),
            site.load,
            run_context(run, requester="ana"),
            rights=OPEN,
        )
    assert said in str(caught.value)
    assert within(site.ledger.read(), waves.find, run) is None, "nothing was admitted"


@pytest.mark.parametrize("flow", ["migrate migrate", "migrate cleanup", "replicate replicate"])
def test_an_admitted_run_goes_on_with_what_it_froze(site: Site, flow: str) -> None:
    admit, dag, conf = FLOWS[flow]
    ctx = run_context(DagRun(dag, "manual__1"), requester="ana")
    first = admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=OPEN)
    site.write(BROKEN)
    assert admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=OPEN) == first


@pytest.mark.parametrize("flow", ["migrate migrate", "replicate replicate"])
def test_an_ended_run_that_is_cleared_begins_anew(site: Site, flow: str) -> None:
    admit, dag, conf = FLOWS[flow]
    ctx = run_context(DagRun(dag, "manual__1"), requester="ana")
    first = admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=OPEN)
    with site.ledger.write(waves.LOCK) as tx:
        waves.finish_wave_run(tx, ctx.run, WaveRunState.FAILED, clock=ctx.clock)
    site.write(BROKEN)
    with pytest.raises(SpecError, match=r"waves/erp.yaml:1: a second ': '"):
        admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=OPEN)
    site.write()
    assert admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=OPEN) == first


@pytest.mark.parametrize("flow", ["migrate migrate", "replicate replicate"])
@pytest.mark.parametrize(
    ("wave", "environment", "said"),
    [
        (BROKEN, ENVIRONMENT, "waves/erp.yaml:1: a second ': '"),
        (WAVE.replace("vc1", "vc2"), ENVIRONMENT.replace("vc1", "vc2"), "takes no servers of connection 'vc1'"),
        (
            WAVE.replace("subnet-aaaa0002", "subnet-bbbb0003"),
            ENVIRONMENT.replace("subnet-aaaa0002", "subnet-bbbb0003"),
            "subnet: environment 'prod' does not allow 'subnet-aaaa0002'",
        ),
        (WAVE, ENVIRONMENT.replace("staging-bucket", "other-bucket"), "bucket: the run uses 'staging-bucket', the "),
    ],
    ids=["broken", "source taken away", "subnet taken away", "bucket replaced"],
)
def test_a_cleared_server_of_an_ended_run_needs_what_the_run_froze(
    site: Site, flow: str, wave: str, environment: str, said: str
) -> None:
    admit, dag, conf = FLOWS[flow]
    ctx = run_context(DagRun(dag, "manual__1"), requester="ana")
    admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=OPEN)
    site.write(wave, environment)
    reopen(site.ledger, lost_of(site.load), ctx)  # the run has not ended: it goes on
    with site.ledger.write(waves.LOCK) as tx:
        waves.finish_wave_run(tx, ctx.run, WaveRunState.FAILED, clock=ctx.clock)
    for again in (
        lambda: reopen(site.ledger, lost_of(site.load), ctx),
        lambda: admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=OPEN),
    ):
        with pytest.raises(SpecError) as caught:
            again()
        assert said in str(caught.value)
    assert within(site.ledger.read(), waves.get, ctx.run).state is WaveRunState.FAILED
    renamed = ENVIRONMENT.replace("queue: near-aws", "queue: beside-aws")
    site.write(environment=f"{renamed}limits: {{imports_per_region: 7}}\n")
    reopen(site.ledger, lost_of(site.load), ctx)
    assert within(site.ledger.read(), waves.get, ctx.run).state is WaveRunState.RUNNING


class _Reached(Exception):
    """The task went on to its work."""


@pytest.mark.parametrize("operator", ["LaunchInstanceOperator", "LaunchImportedOperator"])
def test_no_task_of_an_ended_run_works_without_its_rights(
    site: Site, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``launch`` alone was cleared."""
    from wavelift.operators.control import launch
    from wavelift.services.common import frozen

    def reached(*_: Any, **__: Any) -> Any:
        raise _Reached

    given_rights = OPEN
    ctx = run_context(DagRun("erp.migrate", "manual__1"), requester="ana")
    mode = {"mode": "migrate"} if operator == "LaunchInstanceOperator" else {"mode": "preflight"}
    admitted = migration.admit(site.ledger, RunRequest("erp", mode), site.load, ctx, rights=OPEN)
    kind: Any = getattr(launch, operator)
    given = (
        {"server": {}, "image": {}} if mode["mode"] == "migrate" else {"admitted": admitted.dump() | {"mode": "launch"}}
    )
    task = kind(task_id="launch", **given)
    monkeypatch.setattr(kind, "ledger", lambda _: nullcontext(site.ledger))
    monkeypatch.setattr(kind, "rights", lambda _: given_rights)
    monkeypatch.setattr(kind, "server_context", lambda *_: ctx)
    monkeypatch.setattr(kind, "server_task", lambda *_: SimpleNamespace(name="web01"), raising=False)
    monkeypatch.setattr(kind, "resolved", lambda _, name: site.load(name))
    monkeypatch.setattr(kind, "aws_of", reached)
    monkeypatch.setattr(frozen, "checked", reached)
    monkeypatch.setattr(frozen, "admitted", lambda _, came, __: came)
    site.write(BROKEN)
    with pytest.raises(_Reached):  # it has not ended
        task.work({})
    with site.ledger.write(waves.LOCK) as tx:
        waves.finish_wave_run(tx, ctx.run, WaveRunState.COMPLETED, clock=ctx.clock)
    with pytest.raises(SpecError, match=r"waves/erp.yaml:1: a second ': '"):
        task.work({})
    site.write()
    with pytest.raises(_Reached):
        task.work({})
    given_rights = open_to("bo")
    with pytest.raises(DeniedError, match="'ana' may not migrate"):
        task.work({})


def test_a_scheduled_run_of_broken_files_fails_and_the_next_one_replicates(site: Site) -> None:
    clock = HandClock()
    (job,) = create_jobs(site.ledger, "erp", [JobOrder(server="web01", plan=ReplicationPlan())], by="ana", clock=clock)
    site.write(BROKEN)

    def scheduled(number: int) -> Any:
        at = job.seed_at + number * timedelta(hours=24)
        clock.time = at + timedelta(minutes=1)
        ctx = run_context(DagRun("erp.replicate", f"scheduled__{number}"), clock=clock)
        request = RunRequest("erp", {}, source="schedule", scheduled_for=at)
        return replication.admit(site.ledger, request, site.load, ctx, rights=OPEN)

    with pytest.raises(SpecError, match=r"waves/erp.yaml:1: a second ': '"):
        scheduled(0)
    known = within(site.ledger.read(), jobs.get, job.id)
    assert (known.state, known.failures) == (JobState.ACTIVE, 0)
    site.write()
    assert scheduled(1).granted == ("web01",)


def test_the_operator_and_the_console_read_the_present_files(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from wavelift.airflow import config
    from wavelift.console.deps import Specs
    from wavelift.operators.control.admit import AdmitOperator

    monkeypatch.setattr(config, "waves_folder", lambda: site.folder / "waves")
    monkeypatch.setattr(config, "environments_folder", lambda: site.folder / "environments")
    monkeypatch.setattr(config, "last_valid_folder", lambda: site.folder / "kept")
    for load in (AdmitOperator(task_id="admit", wave="erp").resolved, Specs().wave):
        site.write()
        assert load("erp").wave == "erp"
        site.write(BROKEN)
        with pytest.raises(SpecError, match=r"waves/erp.yaml:1: a second ': '"):
            load("erp")


def test_the_console_tells_why_a_wave_s_files_allow_no_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from wavelift.airflow import config
    from wavelift.console.deps import Specs

    monkeypatch.setattr(config, "waves_folder", lambda: site.folder / "waves")
    monkeypatch.setattr(config, "environments_folder", lambda: site.folder / "environments")
    site.write()
    assert Specs().problem_of("erp") == ""
    site.write(BROKEN)
    assert "waves/erp.yaml:1: a second ': '" in Specs().problem_of("erp")
    for name in ("shop", "x" * 300, "..", "erp.yaml"):
        assert Specs().problem_of(name) == f"There is no file {name}.yaml in the folder of the waves"


def only(**lists: Sequence[str]) -> Rights:
    """In environment ``prod``; everybody may do everything in all others."""
    may = May(**{name: tuple(f"user:{user}" for user in users) for name, users in lists.items()})

    def load(name: str) -> Granting:
        if name != "prod":
            return OPEN.load(name)
        return Granting(Environment.model_construct(environment=name, may=may), Principals())

    return Rights(load)


@pytest.mark.parametrize("flow", ["migrate migrate", "replicate replicate"])
def test_going_before_all_others_needs_the_right_to_administer(site: Site, flow: str) -> None:
    admit, dag, conf = FLOWS[flow]
    rights = only(migrate=["ana", "bo"], administer=["bo"])
    for user, priority in (("ana", "normal"), ("ana", "later"), ("bo", "next")):
        ctx = run_context(DagRun(dag, f"manual__{user}_{priority}"), requester=user)
        admit(site.ledger, RunRequest("erp", conf | {"priority": priority}), site.load, ctx, rights=rights)
    ctx = run_context(DagRun(dag, "manual__next"), requester="ana")
    with pytest.raises(DeniedError, match="'ana' may not administer"):
        admit(site.ledger, RunRequest("erp", conf | {"priority": "next"}), site.load, ctx, rights=rights)


def test_what_earlier_runs_made_needs_the_right_where_it_lies(site: Site) -> None:
    """The wave landed in `prod` once, and its file names another environment now."""
    run = run_context(DagRun("erp.migrate", "manual__1"), requester="tester")
    migration.admit(site.ledger, RunRequest("erp", {"mode": "migrate"}), site.load, run, rights=OPEN)
    made = within(site.ledger.read(), migrations.of_dag_run, run.run)[0].id
    site.write(WAVE.replace("environment: prod", "environment: test"), ENVIRONMENT)
    (site.folder / "environments" / "test.yaml").write_text(ENVIRONMENT.replace(": prod", ": test", 1))
    asked = RunRequest("erp", {"mode": "launch", "migrations": [made]})
    for user, may in (("ana", False), ("tester", True)):
        ctx = run_context(DagRun("erp.migrate", f"manual__{user}"), requester=user)
        with (
            nullcontext() if may else pytest.raises(DeniedError, match="'ana' may not migrate into environment 'prod'")
        ):
            migration.admit(site.ledger, asked, site.load, ctx, rights=only(migrate=["tester"]))


def test_what_earlier_replications_made_needs_the_right_where_it_lies(site: Site) -> None:
    order = JobOrder(server="web01", plan=ReplicationPlan())
    (job,) = create_jobs(site.ledger, "erp", [order], by="tester", clock=HandClock())
    run = run_context(DagRun("erp.replicate", "manual__1"), requester="tester")
    replication.admit(site.ledger, RunRequest("erp", {"mode": "replicate"}), site.load, run, rights=OPEN)
    site.write(WAVE.replace("environment: prod", "environment: test"), ENVIRONMENT)
    (site.folder / "environments" / "test.yaml").write_text(ENVIRONMENT.replace(": prod", ": test", 1))
    ctx = run_context(DagRun("erp.replicate", "manual__ana"), requester="ana")
    for conf in ({"mode": "verify", "jobs": [job.id]}, {"mode": "delete", "jobs": [job.id]}):
        with pytest.raises(DeniedError, match="'ana' may not migrate into environment 'prod'"):
            replication.admit(site.ledger, RunRequest("erp", conf), site.load, ctx, rights=only(migrate=["tester"]))
