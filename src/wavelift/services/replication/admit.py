"""The admit task of a replicate run: which servers may run, frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Collection

from wavelift.base.domain import Refusal
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, ReplicationJob, Tx, cutovers
from wavelift.ledger.events import Subject
from wavelift.ledger.replication_runs import dag_runs_of
from wavelift.rules.authority import Action, priority_action
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.cutover import is_presync
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.replication import Rule
from wavelift.services.common.admit import RunRequest, freeze, frozen_spec, lost_of
from wavelift.services.common.authority import Bench, Rights, authoriser, require_run, require_where, tell
from wavelift.services.dataplane.replication_messages import AdmittedRuns
from wavelift.services.replication.admission import Asked, Denies, admit_runs
from wavelift.services.replication.jobs import TermNotice, warn_terms
from wavelift.services.replication.requests import jobs_to_delete, runs_to_verify


def admit(
    ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave], ctx: RunContext, *, rights: Rights
) -> AdmittedRuns:
    """Check the conf, freeze the spec for the run, and decide which servers may run.

    A repeated call keeps the spec that was frozen first and goes on with the same runs. A run that deletes or verifies
    replicas admits no server. A warning about a term is given once, to the run that comes first (SMS-10).

    :raises SpecError: for an unknown key or value, or if the present files allow no run.
    :raises PermanentError: for a backfill.
    :raises DeniedError: whoever asked may not. A scheduled run asks for each job whether its authoriser may.
    """
    conf = ReplicateConf.read(request.conf, wave=request.wave)
    known = frozen_spec(ledger, request, lost_of(load), ctx)
    wave = ResolvedWave.load(known) if known else load(request.wave)
    environment = wave.environment.environment
    presyncs = conf.mode == "replicate" and is_presync(ctx.run)
    reads_back = _reads_back_a_cutover(ledger, request.wave, conf, ctx)
    if presyncs or reads_back:
        require_run(ledger, environment, Action.CUT_OVER, ctx, rights=rights)
    elif conf.mode != "replicate" or not request.scheduled_for:
        require_run(ledger, environment, priority_action(conf.priority), ctx, rights=rights)
    if conf.mode != "replicate":
        with ledger.read() as tx:
            ran = dag_runs_of(tx, jobs=conf.jobs or (), ids=conf.runs or ())
        require_where(ledger, ran, Action.CUT_OVER if reads_back else Action.MIGRATE, ctx, rights=rights)
        admitted = AdmittedRuns(
            wave=wave.model_copy(update={"servers": ()}),
            dag_id=ctx.run.dag_id,
            run_id=ctx.run.dag_run_id,
            requested_by=ctx.requester,
            scheduled=False,
            mode=conf.mode,
            jobs=jobs_to_delete(ledger, request.wave, conf) if conf.mode == "delete" else (),
            recorded=runs_to_verify(ledger, request.wave, conf) if conf.mode == "verify" else (),
        )
        freeze(ledger, request, ctx, mode=conf.mode, spec=wave.dump())
        return admitted
    asked = Asked(
        scheduled_for=request.scheduled_for,
        servers=conf.servers,
        backfill=request.backfill,
        connector=wave.connector,
        cutover=presyncs,
        denies=_denies(rights.at(environment), ctx) if request.scheduled_for else None,
    )
    found = admit_runs(ledger, request.wave, asked, ctx)
    freeze(ledger, request, ctx, mode=conf.mode, spec=wave.dump())
    granted = tuple(each.server for each in found.granted)
    return AdmittedRuns(
        wave=_narrowed(wave, granted),
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        requested_by=ctx.requester,
        scheduled=request.scheduled_for is not None,
        granted=granted,
        refused=found.refused,
        skipped=found.skipped,
        finished=tuple(each.server for each in found.finished),
        warnings=tuple(_warning(each) for each in warn_terms(ledger, request.wave, clock=ctx.clock)),
    )


def _reads_back_a_cutover(ledger: Ledger, wave: str, conf: ReplicateConf, ctx: RunContext) -> bool:
    """Whether a cutover started this run, and it does what that asked for: whoever may cut over may finalize, too,
    which needs it. An id that somebody chose is in no row."""
    if conf.mode != "verify" or conf.jobs or conf.priority != "normal":
        return False
    with ledger.read() as tx:
        return bool(conf.runs) and set(conf.runs or ()) <= cutovers.read_back_by(tx, ctx.run, wave)


def _denies(bench: Bench, ctx: RunContext) -> Denies:
    """A scheduled run has the right of whoever last made, changed or resumed each job."""

    def denies(tx: Tx, job: ReplicationJob) -> Refusal | None:
        requester, now = authoriser(job.authorised_by), ctx.clock.now()
        denial = bench.decide(tx, requester, Action.MIGRATE, now=now)
        if denial is None:
            return None
        subject = Subject("replication_job", job.id, ctx.run)
        where = bench.environment
        tell(tx, denial, requester, where, Action.MIGRATE, at=now, subject=subject, server=job.server)
        way_out = f"{denial.way_out}; or a user who may resumes the job with `wavelift jobs resume {job.id}`"
        return Refusal(server=job.server, rule=Rule.AUTHORITY, reason=f"{denial.why}. {way_out}")

    return denies


def _warning(notice: TermNotice) -> str:
    soon = "a day" if notice.days == 1 else f"{notice.days} days"
    ends = f" ({notice.job.term_ends_at:%Y-%m-%d %H:%M} UTC)" if notice.job.term_ends_at else ""
    return (
        f"{notice.job.server}: the term of its replication ends in less than {soon}{ends}: cut over, or extend it by "
        f"`wavelift jobs extend {notice.job.id}`"
    )


def _narrowed(wave: ResolvedWave, granted: Collection[str]) -> ResolvedWave:
    """The entries that may hold a granted server."""
    kept = [plan for plan in wave.servers if plan.server in granted]
    if len(kept) < len(granted):  # the others come by folder or tag, whose names are known only to the vCenter
        kept += [plan for plan in wave.servers if plan.selector.many]
    return wave.model_copy(update={"servers": tuple(plan.replicating() for plan in kept)})
