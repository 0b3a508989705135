"""Test instances: an AMI of any finished run, launched where it can reach nothing else, checked, and ended.

The ledger says which image a server's test has. What comes by XCom only names the server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, Instance
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.base.domain import Message, Refusal, ServerFacts
from wavelift.base.errors import PermanentError, SpecError, located
from wavelift.base.names import TAG_RUN, client_token, instant_of, run_hash, run_key
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import (
    Ledger,
    ReplicationJob,
    ReplicationRun,
    Tx,
    WaveRunState,
    replication_runs,
    servers,
    trials,
    waves,
)
from wavelift.ledger import jobs as job_rows
from wavelift.ledger.cutover_records import TargetPlace, TestInstance
from wavelift.ledger.replication_records import AmiState
from wavelift.rules.authority import Action
from wavelift.rules.conf import TestConf, TestMode
from wavelift.rules.cutover import TrialState
from wavelift.rules.environment import Isolation
from wavelift.rules.frozen import entries_of
from wavelift.rules.guests import guest
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.rules.wave_cutover import CutoverPlan
from wavelift.services.common.admit import RunRequest, freeze, frozen_spec, frozen_wave, lost_of
from wavelift.services.common.authority import Rights, require_run
from wavelift.services.dataplane.checks import CheckedInstance, CheckOrder, CheckOutcome, CheckReport

NO_RESULT = "its checks did not end"
WAITING_STATES = frozenset({TrialState.LAUNCHING, TrialState.CHECKING})
OVER = frozenset({TrialState.ENDING, TrialState.ENDED})


class AdmittedTest(Message):
    """What ``admit`` decided for a run of ``<wave>.test``."""

    wave: ResolvedWave
    """Without servers: which there are, the ledger says."""
    mode: TestMode
    servers: tuple[str, ...] = ()
    """Names of the servers whose images are launched; in mode ``end``, nothing."""
    refused: tuple[Refusal, ...] = ()
    """Asked for by name, or all there are, and they can't be tried: the run fails."""
    left: tuple[Refusal, ...] = ()
    """Nobody named them, and they can't be tried: they have no image, or no cutover section."""
    ending: tuple[str, ...] = ()
    """In mode ``end``: ids of test instances."""


class TestOutcome(Message):
    """One line of the report."""

    server: str
    test: str = ""
    state: str
    instance_id: str = ""
    private_ip: str = ""
    image_id: str = ""
    ends_at: str = ""
    error: str = ""


class TestReport(Message):
    """How the tests of a run ended."""

    wave: str
    mode: str
    outcomes: tuple[TestOutcome, ...]
    stopped: str = ""

    @property
    def failed(self) -> tuple[TestOutcome, ...]:
        return tuple(one for one in self.outcomes if one.error)


@dataclass(frozen=True, slots=True)
class TierWaits:
    """Earlier tiers are not checked yet."""

    words: str


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A server and the run whose image is tried."""

    name: str
    plan: ServerPlan
    facts: ServerFacts
    run: ReplicationRun


def admit(
    ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave], ctx: RunContext, *, rights: Rights
) -> AdmittedTest:
    """Check the conf, freeze the spec, and write a row for each test instance that the run will launch.

    A repeated call keeps what was decided first.

    :raises SpecError: for an unknown key or value, an unknown server, or an environment without isolation.
    :raises DeniedError: whoever asked may not migrate into the environment.
    """
    conf = TestConf.read(request.conf, wave=request.wave)
    known = frozen_spec(ledger, request, lost_of(load), ctx)
    wave = ResolvedWave.load(known) if known else load(request.wave)
    require_run(ledger, wave.environment.environment, Action.MIGRATE, ctx, rights=rights)
    if conf.mode == "test":
        require_isolation(wave)
    freeze(ledger, request, ctx, mode=conf.mode, spec=wave.dump())
    bare = wave.model_copy(update={"servers": ()})
    with ledger.write(job_rows.lock_name(request.wave)) as tx:
        if conf.mode == "end":
            return AdmittedTest(wave=bare, mode=conf.mode, ending=_to_end(tx, request.wave, conf))
        chosen, refused = _choose(tx, wave, conf)
        named = conf.servers or conf.runs
        left: tuple[Refusal, ...] = ()
        if chosen and not named:
            left, refused = refused, ()
        mine = {each.server: each for each in trials.of_dag_run(tx, ctx.run)}
        for each in chosen:
            if each.name not in mine:
                _insert(tx, each, wave, ctx, hours=conf.hours)
    names = (*mine, *(each.name for each in chosen if each.name not in mine))
    return AdmittedTest(wave=bare, mode=conf.mode, servers=tuple(sorted(names)), refused=refused, left=left)


def require_isolation(wave: ResolvedWave) -> None:
    """:raises SpecError: there is no place where a test instance can reach nothing else."""
    if wave.environment.isolation is None:
        raise SpecError(
            "The environment has no isolation: nothing can be tested there",
            environment=wave.environment.environment,
            next_step="Let an administrator add 'isolation' with subnets and security groups to the environment's file",
        )


def _choose(tx: Tx, wave: ResolvedWave, conf: TestConf) -> tuple[list[_Chosen], tuple[Refusal, ...]]:
    standing = {job.server: job for job in job_rows.standing(tx, wave.wave)}
    by_job = _runs_by_job(tx, wave, conf)
    asked = conf.servers or sorted(run.server for run in by_job.values()) or sorted(standing)
    unknown = [name for name in asked if name not in standing]
    if unknown:
        raise SpecError(
            f"The wave has no replicated server {', '.join(unknown)}",
            wave=wave.wave,
            next_step=f"Choose other servers; known: {', '.join(sorted(standing)) or 'none'}",
        )
    used = {standing[name].id for name in asked}
    unused = [run.id for job, run in by_job.items() if job not in used]
    if unused:
        raise SpecError(
            f"Not of the present job of a chosen server: {', '.join(unused)}",
            wave=wave.wave,
            next_step="Choose its server too, or another run",
        )
    chosen, refused = [], []
    for name in asked:
        found = _image_of(tx, wave, standing[name], by_job)
        if isinstance(found, Refusal):
            refused.append(found)
        else:
            chosen.append(found)
    return chosen, tuple(refused)


def _runs_by_job(tx: Tx, wave: ResolvedWave, conf: TestConf) -> dict[str, ReplicationRun]:
    """Job → the run that was asked for by its id.

    :raises NotFoundError: there is none of this id. :raises SpecError: it is another wave's, or two are of one server.
    """
    found: dict[str, ReplicationRun] = {}
    for run in (replication_runs.get(tx, id) for id in dict.fromkeys(conf.runs or ())):
        if run.wave != wave.wave:
            raise SpecError(
                f"Run {run.id} belongs to wave {run.wave}", wave=wave.wave, next_step="Ask for its own wave"
            )
        other = found.setdefault(run.job_id, run)
        if other is not run:
            raise SpecError(
                f"{other.id} and {run.id} are both of {run.server}",
                wave=wave.wave,
                next_step="Choose one of them: a server has one test instance in a run",
            )
    return found


def _image_of(
    tx: Tx, wave: ResolvedWave, job: ReplicationJob, by_job: Mapping[str, ReplicationRun]
) -> _Chosen | Refusal:
    run = by_job.get(job.id) or next(iter(replication_runs.available_amis(tx, job.id)), None)
    if run is None or run.ami_state is not AmiState.AVAILABLE:
        reason = f"run {run.id} has no AMI any more" if run else "no run of it has an AMI yet"
        return Refusal(server=job.server, rule="no_image", reason=reason)
    seen = servers.find(tx, source=job.source, identity=job.identity)
    if seen is None or seen.facts is None:
        return Refusal(server=job.server, rule="no_image", reason="the ledger does not know the server")
    facts = ServerFacts.load(seen.facts)
    plan = next((each for each in entries_of(facts.path, wave.servers) if each.cutover is not None), None)
    if plan is None:
        reason = "no entry of the wave with a cutover section selects it"
        return Refusal(server=job.server, rule="no_cutover", reason=reason)
    return _Chosen(job.server, plan.bind(job.server, facts.path), facts, run)


def _insert(tx: Tx, each: _Chosen, wave: ResolvedWave, ctx: RunContext, *, hours: float | None) -> None:
    """It has an end from the beginning: an instance whose launch nobody noted must not stand for ever."""
    target, now = each.plan.target, ctx.clock.now()
    assert each.plan.cutover is not None  # it was chosen for that
    trials.insert(
        tx,
        at=now,
        ends_at=now + timedelta(hours=hours or each.plan.cutover.test_hours),
        by=ctx.requester,
        run=ctx.run,
        run_key=run_key(ctx.run.dag_id, ctx.run.dag_run_id, each.name),
        wave=wave.wave,
        server=each.name,
        environment=target.environment,
        requested_by=ctx.requester,
        run_id=each.run.id,
        image_id=each.run.ami_id,
        target=TargetPlace(aws_conn_id=target.aws_conn_id, region=target.region, account=target.account).dump(),
    )


def _to_end(tx: Tx, wave: str, conf: TestConf) -> tuple[str, ...]:
    """:raises NotFoundError: there is no test instance of an id. :raises SpecError: it is another wave's."""
    if conf.tests:
        found = [trials.get(tx, id) for id in conf.tests]
        foreign = [each.id for each in found if each.wave != wave]
        if foreign:
            raise SpecError(f"Not of this wave: {', '.join(foreign)}", wave=wave, next_step="Ask for its own wave")
    else:
        found = [each for each in trials.standing(tx, wave) if not conf.servers or each.server in conf.servers]
    return tuple(each.id for each in found)


# Of one server


def launch(
    ledger: Ledger, open_aws: Callable[[TargetPlace], AwsAccess], ctx: RunContext, *, hours: float | None
) -> CheckOrder | TierWaits:
    """Launch the server's test instance once earlier tiers are checked; the checks that it must pass.

    :param hours: until it is terminated; None: as the plan says.
    :raises PermanentError: it was ended.
    """
    with ledger.read() as tx:
        row = trials.get(tx, trials.trial_id(ctx.run_key))
        wave = frozen_wave(waves.get(tx, ctx.run))
        chosen = _chosen(tx, wave, row)
        waits = _earlier(tx, wave, chosen.plan, ctx)
    place = TargetPlace.load(row.target)
    if row.state in OVER:
        _refuse(Ec2(open_aws(place)), row)
    if waits:
        return TierWaits(waits)
    isolation, cutover = wave.environment.isolation, chosen.plan.cutover
    assert isolation is not None
    assert cutover is not None  # `admit` refused the others
    ctx.cancel.check()
    ec2 = Ec2(open_aws(place))
    with located(server=row.server):
        instance = ec2.launch(_request(chosen.plan, isolation, row))
    row = _record(ledger, row, instance, ctx, hours=hours or cutover.test_hours)
    if row.state in OVER:  # somebody ended it meanwhile, and perhaps did not see the instance
        _refuse(ec2, row)
    checked = CheckedInstance(
        server=row.server,
        instance_id=instance.instance_id,
        private_ip=instance.private_ip,
        region=place.region,
        windows=guest(chosen.facts.guest_id).windows,
    )
    return CheckOrder(instance=checked, aws_conn_id=place.aws_conn_id, checks=cutover.checks)


def _record(ledger: Ledger, row: TestInstance, instance: Instance, ctx: RunContext, *, hours: float) -> TestInstance:
    now = ctx.clock.now()
    with ledger.write(job_rows.lock_name(row.wave)) as tx:
        row = trials.get(tx, row.id, lock=True)
        if row.state in OVER:
            return row
        first = row.instance_id != instance.instance_id
        times: dict[str, Any] = {"launched_at": now, "ends_at": now + timedelta(hours=hours)} if first else {}
        return trials.apply(
            tx,
            row,
            "launched",
            at=now,
            by=ctx.run,
            state=TrialState.CHECKING,
            instance_id=instance.instance_id,
            private_ip=instance.private_ip,
            passed=None,
            error="",
            **times,
        )


def _refuse(ec2: Ec2, row: TestInstance) -> NoReturn:
    """:raises PermanentError: always. What a launch made of it, though it was over, goes."""
    _gone(ec2, row)
    raise PermanentError(
        f"The test instance is {row.state}", test=row.id, server=row.server, next_step="Start another test run"
    )


def _chosen(tx: Tx, wave: ResolvedWave, row: TestInstance) -> _Chosen:
    run = replication_runs.get(tx, row.run_id)
    found = _image_of(tx, wave, _job(tx, run), {run.job_id: run})
    if isinstance(found, Refusal):
        raise PermanentError(f"The image can't be launched: {found.reason}", server=row.server, image=row.image_id)
    return found


def _job(tx: Tx, run: ReplicationRun) -> ReplicationJob:
    return job_rows.get(tx, run.job_id)


def _earlier(tx: Tx, wave: ResolvedWave, plan: ServerPlan, ctx: RunContext) -> str:
    """Which servers of earlier tiers are still to be checked; empty: none. A test goes on after one that failed."""
    mine = plan.cutover.tier_index if plan.cutover else 0
    if mine == 0:
        return ""
    open_rows = [each for each in trials.of_dag_run(tx, ctx.run) if each.state in WAITING_STATES]
    before = [each.server for each in open_rows if _tier_of(tx, wave, each) < mine]
    return f"earlier tiers are not checked yet: {', '.join(before[:5])}" if before else ""


def _tier_of(tx: Tx, wave: ResolvedWave, row: TestInstance) -> int:
    plan: CutoverPlan | None = _chosen(tx, wave, row).plan.cutover
    return plan.tier_index if plan else 0


def _request(plan: ServerPlan, isolation: Isolation, row: TestInstance) -> LaunchRequest:
    """Never on an address of the plan, and never where migrated servers are."""
    cutover = plan.cutover
    return LaunchRequest(
        image_id=row.image_id,
        instance_type=plan.instance_type or "",
        subnet_id=isolation.subnets[0],
        client_token=client_token(row.run_key, "test", instant=instant_of(row.image_id)),
        security_groups=isolation.security_groups,
        tags=plan.made_with(row.run_key),
        key_name=plan.key_name or "",
        instance_profile=plan.instance_profile or "",
        volume_initialization_mib_s=(cutover.volume_initialization_mib_s if cutover else None) or 0,
    )


def record_result(ledger: Ledger, ctx: RunContext, report: CheckReport | None, words: str) -> TestInstance:
    """Record what the checks found.

    :param report: of this server's instance; None: they did not pass, ``words`` say why.
    :raises PermanentError: the report is of another instance.
    """
    with ledger.read() as tx:
        row = trials.get(tx, trials.trial_id(ctx.run_key))
    if report is not None and (report.server, report.instance_id) != (row.server, row.instance_id):
        raise PermanentError(
            "The checks were made of another instance",
            server=row.server,
            expected=row.instance_id,
            found=report.instance_id,
            next_step="Clear the server's check task",
        )
    if row.state in OVER:
        return row
    passed = report is not None and report.passed
    outcomes: Sequence[CheckOutcome] = report.outcomes if report is not None else ()
    with ledger.write(job_rows.lock_name(row.wave)) as tx:
        row = trials.get(tx, row.id, lock=True)
        return trials.apply(
            tx,
            row,
            "passed" if passed else "failed",
            at=ctx.clock.now(),
            by=ctx.run,
            state=TrialState.PASSED if passed else TrialState.FAILED,
            passed=passed,
            checks=[each.dump() for each in outcomes],
            error="" if passed else words or NO_RESULT,
        )


# The end


def end(
    ledger: Ledger, ids: Collection[str], open_aws: Callable[[TargetPlace], AwsAccess], *, by: str, clock: Clock
) -> tuple[str, ...]:
    """Terminate test instances; the ids of those that are still terminating. Repeat it until there are none.

    An instance is terminated only if it carries the tag of its test's run and was made of its image: an id in a row
    alone is no proof of what stands there now.
    """
    left = []
    for id in ids:
        with ledger.read() as tx:
            row = trials.get(tx, id)
        if row.state is TrialState.ENDED:
            continue
        row = _mark(ledger, row, TrialState.ENDING, "ending", by=by, clock=clock)
        if _gone(Ec2(open_aws(TargetPlace.load(row.target))), row):
            _mark(ledger, row, TrialState.ENDED, "ended", by=by, clock=clock)
        else:
            left.append(row.id)
    return tuple(left)


def _gone(ec2: Ec2, row: TestInstance) -> bool:
    """Whether nothing of the test stands. What its launch made without telling the ledger is found by its tag."""
    tag = run_hash(row.run_key)
    standing = [each.instance_id for each in ec2.instances_of([row.image_id]) if each.tags.get(TAG_RUN) == tag]
    ec2.terminate(standing)
    return not standing


def _mark(ledger: Ledger, row: TestInstance, to: TrialState, action: str, *, by: str, clock: Clock) -> TestInstance:
    if row.state is to:
        return row
    with ledger.write(job_rows.lock_name(row.wave)) as tx:
        known = trials.get(tx, row.id, lock=True)
        return known if known.state is to else trials.apply(tx, known, action, at=clock.now(), by=by, state=to)


def end_due(ledger: Ledger, open_aws: Callable[[TargetPlace], AwsAccess], *, by: str, clock: Clock) -> tuple[str, ...]:
    """End the test instances whose time is over; the ids of those that are still terminating."""
    with ledger.read() as tx:
        over = [each.id for each in trials.due(tx, clock.now())]
    return end(ledger, over, open_aws, by=by, clock=clock)


# The report


def finish(ledger: Ledger, admitted: AdmittedTest | None, ctx: RunContext, *, stopped: str) -> TestReport:
    """How each test of the run stands. A server whose launch failed is recorded as failed."""
    with ledger.read() as tx:
        run = waves.find(tx, ctx.run)
        ids = admitted.ending if admitted else ()
        rows = [*trials.of_dag_run(tx, ctx.run), *(trials.get(tx, id) for id in ids)]
    for row in rows:
        if row.state in WAITING_STATES:
            with ledger.write(job_rows.lock_name(row.wave)) as tx:
                known = trials.get(tx, row.id, lock=True)
                trials.apply(
                    tx,
                    known,
                    "failed",
                    at=ctx.clock.now(),
                    by=ctx.run,
                    state=TrialState.FAILED,
                    passed=False,
                    error=known.error or NO_RESULT,
                )
    report = TestReport(
        wave=admitted.wave.wave if admitted else (run.wave if run else ""),
        mode=admitted.mode if admitted else (run.mode if run else ""),
        outcomes=(*_outcomes(ledger, rows), *_refusals(admitted)),
        stopped=stopped,
    )
    if run is not None:
        ended = WaveRunState.FAILED if report.failed or stopped else WaveRunState.COMPLETED
        with ledger.write(waves.LOCK) as tx:
            waves.finish_wave_run(tx, ctx.run, ended, clock=ctx.clock)
    return report


def _outcomes(ledger: Ledger, rows: Sequence[TestInstance]) -> Iterator[TestOutcome]:
    with ledger.read() as tx:
        fresh = [trials.get(tx, each.id) for each in rows]
    for row in fresh:
        still = "is still terminating" if row.state is TrialState.ENDING else ""
        yield TestOutcome(
            server=row.server,
            test=row.id,
            state=str(row.state),
            instance_id=row.instance_id,
            private_ip=row.private_ip,
            image_id=row.image_id,
            ends_at=row.ends_at.isoformat() if row.ends_at else "",
            error=still or ("" if row.state is TrialState.ENDED else row.error),
        )


def _refusals(admitted: AdmittedTest | None) -> list[TestOutcome]:
    return [
        TestOutcome(server=each.server, state="refused", error=each.reason)
        for each in (admitted.refused if admitted else ())
    ]


def raise_when_failed(report: TestReport) -> None:
    """:raises PermanentError: a test failed, or the run was stopped."""
    if not report.failed and not report.stopped:
        return
    told: Any = "; ".join(f"{one.server}: {one.error}" for one in report.failed[:5])
    raise PermanentError(
        f"{report.stopped or f'{len(report.failed)} of {len(report.outcomes)} tests failed'}: {told}",
        next_step="Instances stand until their time is over: look at them; a run with mode 'end' terminates them",
        wave=report.wave,
    )
