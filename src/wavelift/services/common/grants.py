"""The control plane signs grants. Whatever is granted here was admitted, and has won its slots, before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.base.printable import printable
from wavelift.base.run import RunContext
from wavelift.base.tries import REASON_LONGEST
from wavelift.ledger import Ledger, events
from wavelift.ledger.events import Subject
from wavelift.rules.authority import Link
from wavelift.rules.flows import CONTINUE_FROM, PREFLIGHT
from wavelift.rules.frozen import FrozenPlan, digest_of
from wavelift.rules.grants import (
    ALL_SERVERS,
    LOOK_LIFETIME,
    Grant,
    MovingScope,
    Work,
    digest_of_wave,
    lifetime_of_move,
    sign,
)
from wavelift.rules.hcx_environment import AnyEnvironment
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.rules.preflight_requester import CODES
from wavelift.rules.principals import Principals
from wavelift.services.common.authority import REFUSED, Allowed
from wavelift.services.common.grant_keys import private_key
from wavelift.services.dataplane.messages import ServerTask

LATER: Final = tuple(link.value for link in Link if link not in (Link.REQUESTER, Link.ENVIRONMENT))
MOST_TOLD: Final = 500
"""Events of one run that are looked at."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A user of Airflow, as vCenter names them.

    :param name: empty: nobody said who that is. :param mapped: ``principals.yaml`` names this user; else the name comes
        from its pattern.
    """

    name: str
    mapped: bool


PrincipalOf = Callable[[str], Principal]
"""The principal of an Airflow user."""


def principals_by(known: Principals) -> PrincipalOf:
    """As ``principals.yaml`` says. A user whom it gives none has an empty name: vCenter can't be asked."""
    return lambda user: Principal(known.vcenter_principal(user) or "", mapped=user in known.vcenter.users)


@dataclass(frozen=True, slots=True)
class Requesters:
    """Who stands behind a run.

    :param everyone: the user, of every server. :param by_server: others, of some servers: a scheduled run has the right
        of whoever ordered each.
    """

    everyone: str
    by_server: Mapping[str, str]
    principal_of: PrincipalOf

    def principals(self, environment: AnyEnvironment) -> dict[str, str]:
        """Server, or all → the user in vCenter who is asked for; as the environment's ``vcenter_check`` says."""
        if environment.vcenter_check == "off":
            return {}
        users = {**self.by_server} or {ALL_SERVERS: self.everyone}
        found = {server: self.principal_of(user) for server, user in users.items()}
        kept = {
            server: one.name for server, one in found.items() if one.mapped or environment.vcenter_check != "mapped"
        }
        if len(kept) == len(found) and len(set(kept.values())) == 1:
            return {ALL_SERVERS: next(iter(kept.values()))}
        return kept


def look(key_file: Path, wave: ResolvedWave, ctx: RunContext, *, action: Work, requesters: Requesters) -> str:
    """The token of pre-flight, for the whole wave as ``admit`` froze it.

    :raises PermanentError: the private key is missing, or others can read it.
    """
    grant = Grant(
        scope="look",
        user=ctx.requester,
        action=action,
        environment=wave.environment.environment,
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        server=ALL_SERVERS,
        vcenter=wave.connection,
        connector=wave.connector,
        plan=digest_of_wave(wave),
        principals=requesters.principals(wave.environment),
        vcenter_check=wave.environment.vcenter_check,
    )
    return sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=LOOK_LIFETIME)


def move(  # noqa: PLR0913  # what a server moves with, and by whose right
    key_file: Path,
    task: ServerTask,
    came: ServerPlan,
    ctx: RunContext,
    *,
    action: Work,
    frozen: FrozenPlan,
    by: Allowed,
    scope: MovingScope = "move",
    before: timedelta = timedelta(),
) -> str:
    """The token of one server's snapshot and transfer; only once its slots are won.

    :param task: with the plan that the run froze. :param came: the plan as it came by XCom, which was compared with it:
        the connector will get the same.
    :param frozen: what it was compared with. :param by: whose right it is: vCenter is asked about them again before
        the snapshot, since what pre-flight let pass came by XCom.
    :param scope: ``stop``: the source may be stopped, too. :param before: how long that may take.
    :raises PermanentError: the private key is missing, or others can read it.
    """
    plan, environment = task.plan, by.by.environment
    grant = Grant(
        scope=scope,
        user=ctx.requester,
        action=action,
        environment=plan.target.environment,
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        server=task.name,
        vm=task.facts.instance_uuid,
        vcenter=plan.connection,
        connector=plan.connector,
        plan=digest_of(came),
        entry=frozen.digest,
        tags=frozen.tags,
        principals=Requesters(by.requester.name, {}, principals_by(by.by.principals)).principals(environment),
        vcenter_check=environment.vcenter_check,
    )
    lifetime = lifetime_of_move(plan.guards.max_snapshot_hours, before=before)
    return sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=lifetime)


@dataclass(frozen=True, slots=True)
class RefusedLink:
    """That a link of the chain of rights said no on a connector, as it left it for the control plane.

    :param server: empty: the run as a whole. :param task: the task that refused.
    """

    link: Link
    task: str
    server: str
    why: str
    field: str = ""


def in_words(task: str, left: Any) -> Iterator[RefusedLink]:
    """Of what a failed task left. A connector wrote it: another form than ours is nothing. The first two links are
    events already: the control plane itself refused."""
    if not isinstance(left, dict) or left.get("link") not in LATER:
        return
    said = {name: printable(left.get(name) or "", REASON_LONGEST) for name in ("what", "server", "field")}
    yield RefusedLink(Link(left["link"]), task, said["server"], said["what"], said["field"])


def in_preflight(found: Any) -> Iterator[RefusedLink]:
    """Of the report of a pre-flight: whom the person behind the run may not export."""
    findings = found.get("findings") if isinstance(found, dict) else None
    for each in findings if isinstance(findings, list) else ():
        if isinstance(each, dict) and each.get("code") in CODES:
            server = printable(str(each.get("subject") or "").partition("/")[0], REASON_LONGEST)
            why = printable(each.get("what") or "", REASON_LONGEST)
            yield RefusedLink(Link.REQUESTER_IN_VCENTER, PREFLIGHT, server, why)


def tell_refused(ledger: Ledger, refused: Iterable[RefusedLink], ctx: RunContext) -> None:
    """Write each to the audit trail, once however often the report is cleared."""
    wanted = [_details(each) for each in refused]
    if not wanted:
        return
    subject = Subject("wave_run", f"{ctx.run.dag_id}/{ctx.run.dag_run_id}", ctx.run)
    with ledger.write() as tx:
        told = events.list_events(tx, object_kind=subject.kind, object_id=subject.id, limit=MOST_TOLD)
        known = [each.details for each in told if each.action == REFUSED]
        for details in wanted:
            if details not in known:
                events.append(tx, subject, REFUSED, at=ctx.clock.now(), actor=str(ctx.asker), details=details)


def raise_when_refused(refused: Collection[RefusedLink]) -> None:
    """Of a run whose servers all got through. One that had, and of which a task was cleared alone and then refused,
    counts as through for the ledger: yet nobody may read a refusal as a success.

    :raises PermanentError: naming each.
    """
    if refused:
        raise PermanentError(
            "; ".join(f"{each.task} of {each.server or 'the run'} was refused: {each.why}" for each in refused),
            next_step=f"What the servers have stays. To move one again, clear its {CONTINUE_FROM}",
        )


def _details(each: RefusedLink) -> dict[str, Any]:
    said = {"link": each.link.value, "why": each.why, "task": each.task, "server": each.server, "field": each.field}
    return {name: value for name, value in said.items() if value}
