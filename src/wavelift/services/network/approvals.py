"""What a person is asked to approve in a network's run, and whether somebody has.

Both are read in the ledger: nothing that came by XCom says what is asked, or that it was approved.
"""

from __future__ import annotations

from wavelift.base.errors import NotApprovedError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Tx, cutovers, network_cutovers, waves
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.rules.approval import Question
from wavelift.rules.cutover_plan import Answered, refuse_unapproved
from wavelift.rules.network_cutover import NetworkState
from wavelift.services.dataplane.network_messages import NetworkPlace, digest_of
from wavelift.services.network.runs import frozen_place

RUN_KIND = "network_run"
"""Subject of an approval: ``dag_id/dag_run_id``."""
ASKED = frozenset({NetworkState.WAITING, NetworkState.FAILED})
"""States in which the plan waits for a yes: one that failed may go on with another."""


def plan_question(ledger: Ledger, ctx: RunContext) -> Question:
    """Whether the run's plan may go. Nobody is asked while it goes."""
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        known = network_cutovers.of_dag_run(tx, ctx.run)
    asks = known is not None and known.state in ASKED
    return _question(frozen_place(run), known.plan_digest if known is not None and asks else "", ctx)


def finish_question(ledger: Ledger, ctx: RunContext) -> Question:
    """Whether the way back may be given up."""
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        known = network_cutovers.ended_by(tx, ctx.run)
    asks = known is not None and known.state is NetworkState.SWITCHED
    return _question(frozen_place(run), finish_digest(known) if known is not None and asks else "", ctx)


def finish_digest(known: NetworkCutover) -> str:
    """Of what is given up; the same as long as the cutover stays as it was switched."""
    return digest_of({"finish": known.id, "plan": known.plan_digest, "switched": (known.times or {}).get("switched")})


def require_approved(tx: Tx, digest: str, ctx: RunContext) -> None:
    """:raises NotApprovedError: nobody has approved what has this digest, or not any more."""
    run = waves.get(tx, ctx.run)
    newest = cutovers.newest_approval(tx, RUN_KIND, cutovers.run_subject(ctx.run), digest)
    answered = Answered(newest.answer, newest.answered_by, newest.valid_until) if newest is not None else None
    refusal = refuse_unapproved(
        answered,
        approval=frozen_place(run).network.approve,
        requested_by=run.requested_by,
        now=ctx.clock.now(),
    )
    if refusal is not None:
        raise NotApprovedError(refusal[0], next_step=refusal[1], run=ctx.run)


def _question(place: NetworkPlace, digest: str, ctx: RunContext) -> Question:
    return Question(
        kind=RUN_KIND,
        id=cutovers.run_subject(ctx.run),
        digest=digest,
        environment=place.environment.environment,
        mode=place.network.approve if digest else "none",
        hours=place.network.approval_hours,
    )
