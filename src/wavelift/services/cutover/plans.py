"""The plan of a cutover's server, as the run that opened it froze it: for what is done days later."""

from __future__ import annotations

from wavelift.base.errors import PermanentError
from wavelift.ledger import Bound, Ledger, WaveRun, replication_runs, waves
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import SourceBefore
from wavelift.rules.frozen import digest_of, entries_of
from wavelift.rules.plans import ServerPlan
from wavelift.services.common.admit import frozen_wave


def plan_of_cutover(ledger: Ledger, known: Cutover) -> ServerPlan:
    """The plan with which a server was cut over.

    :raises PermanentError: its run froze none.
    """
    with ledger.read() as tx:
        run = waves.get(tx, known.run)
        replicated = replication_runs.find(tx, replication_runs.ROWS.id_of(known.run_key))
    bound = replicated.bound if replicated is not None else None
    found = plan_in(run, known, digest=Bound.load(bound).plan if bound else "")
    if found is None:
        raise PermanentError(
            "The run that cut this server over has no plan for it",
            next_step="Trigger the run from the wave's file as it is now",
            cutover=known.id,
            server=known.server,
        )
    return found


def plan_in(run: WaveRun, known: Cutover, *, digest: str = "") -> ServerPlan | None:
    """The entry of a run's frozen wave that a cutover's server came from, under the server's name.

    :param digest: of the entry that ``reserve`` bound, if it came so far.
    """
    plans = frozen_wave(run).servers
    named = [plan for plan in plans if plan.server == known.server]
    if not named and digest:
        named = [plan for plan in plans if digest in (digest_of(plan), digest_of(plan.cutting_over()))]
    if not named and known.source:
        named = entries_of(SourceBefore.load(known.source).path, plans)
    many = [plan for plan in plans if plan.selector.many]
    if not named and len(many) == 1:
        named = many
    return named[0].model_copy(update={"server": known.server}) if named else None
