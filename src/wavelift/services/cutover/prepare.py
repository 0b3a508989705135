"""Days before a cutover: TTLs are lowered, and the network interfaces of fixed addresses are made.

What was there before is kept under the server, not under a cutover: it outlives one that is reverted, and ``finalize``
restores the TTLs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Interface
from wavelift.base.domain import Instant, Message
from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, cutovers
from wavelift.ledger.cutover_records import StepRow, TargetPlace
from wavelift.rules.cutover import StepState, kept_address
from wavelift.rules.plans import ServerPlan
from wavelift.services.cutover.back import Access, Waiting
from wavelift.services.cutover.step_kinds import build, is_for
from wavelift.services.cutover.steps import Planned, Waits, advance, go_back, prepared_of, prepared_subject, write_plan
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.steps.addresses import PrepareAddress
from wavelift.services.dataplane.steps.records import LowerTtl

ADDRESS: Final = "address"
TTL: Final = "ttl"
_FAILED: Final = "failed"


class PreparedServer(Message):
    """What was prepared for one server."""

    server: str
    interface: str = ""
    address: str = ""
    switch_after: Instant | None = None
    """From then on, no cache has the old TTL any more."""
    undone: bool = False
    """What had been prepared was taken back."""
    words: str = ""
    """What stays, when it was taken back."""
    error: str = ""


class Prepared(Message):
    """What ``prepare`` returns."""

    servers: tuple[PreparedServer, ...] = ()


def fixed_address(task: ServerTask) -> str:
    """The address that the server's instance must have; empty: any.

    :raises PermanentError: the source's own is to be kept, and nobody can tell which that is.
    """
    plan = task.plan
    if plan.cutover is not None and plan.cutover.address == "keep":
        return kept_address(plan.private_ip, task.facts.ip_addresses, server=task.name)
    return plan.private_ip or ""


def planned_for(task: ServerTask) -> list[Planned]:
    """What ``prepare`` does for a server, for its plan. An address that nobody can tell is in the way of ``prepare``
    itself, which says so."""
    try:
        address = fixed_address(task)
    except PermanentError:
        address = ""
    return prepared_of(task.plan, address)


def planned_back(task: ServerTask) -> list[Planned]:
    """What taking that back does."""
    swapped = [replace(each, words=each.undo_words, undo_words=each.words) for each in planned_for(task)]
    return [replace(each, words=f"{each.words}: {each.name}") for each in reversed(swapped)]


def prepare_server(ledger: Ledger, aws: AwsAccess, plan: ServerPlan, address: str, ctx: RunContext) -> Waits | None:
    """Prepare one server, as far as possible. Repeated: only what is left. None: all has taken effect.

    :param address: as :func:`fixed_address` says.
    """
    subject = prepared_subject(plan.wave, plan.server)
    planned = prepared_of(plan, address)
    write_plan(ledger, subject, planned, clock=ctx.clock)
    found = advance(ledger, aws, subject, ctx, names=[each.name for each in planned])
    return found if isinstance(found, Waits) else None


def prepare(
    ledger: Ledger, access: Access, tasks: Sequence[ServerTask], ctx: RunContext, *, undo: bool = False
) -> Prepared | Waiting:
    """Prepare servers; one that fails does not stop the others. Call it again when a wait is over.

    :param tasks: with the plans that the run froze. :param undo: take back what was prepared instead.
    """
    failed: dict[str, str] = dict(ctx.checkpoints.get(_FAILED) or {})
    waits: dict[tuple[str, str], list[str]] = {}
    words: list[str] = []
    ready: list[PreparedServer] = []
    for task in tasks:
        ctx.cancel.check()
        if task.name in failed:
            continue
        target = task.plan.target
        aws = access(TargetPlace(aws_conn_id=target.aws_conn_id, region=target.region))
        try:
            found = _take_back(ledger, aws, task, ctx) if undo else _prepared(ledger, aws, task, ctx)
        except PermanentError as error:
            failed[task.name] = str(error)
            ctx.checkpoints.set(_FAILED, failed)
            continue
        if isinstance(found, PreparedServer):
            ready.append(found)
            continue
        waits.setdefault((target.aws_conn_id, target.region), []).extend(found.waits)
        words.append(f"{task.name}: {found.words}")
    if waits:
        return Waiting({where: tuple(each) for where, each in waits.items()}, tuple(words))
    ctx.checkpoints.delete(_FAILED)
    wrong = [PreparedServer(server=server, error=why) for server, why in failed.items()]
    return Prepared(servers=tuple(sorted([*ready, *wrong], key=lambda each: each.server)))


def _prepared(ledger: Ledger, aws: AwsAccess, task: ServerTask, ctx: RunContext) -> PreparedServer | Waits:
    waits = prepare_server(ledger, aws, task.plan, fixed_address(task), ctx)
    return waits if waits is not None else _told(ledger, aws, task)


def _take_back(ledger: Ledger, aws: AwsAccess, task: ServerTask, ctx: RunContext) -> PreparedServer | Waits:
    """The TTLs as they were; the interface is deleted, unless an instance has it. A later ``prepare`` begins anew."""
    found = go_back(ledger, aws, prepared_subject(task.plan.wave, task.plan.server), ctx)
    if isinstance(found, Waits):
        return found
    return PreparedServer(server=task.plan.server, undone=True, words="; ".join(found.notes))


def _told(ledger: Ledger, aws: AwsAccess, task: ServerTask) -> PreparedServer:
    plan = task.plan
    interface = interface_of(ledger, aws, plan, fixed_address(task))
    return PreparedServer(
        server=plan.server,
        interface=interface.interface_id if interface else "",
        address=interface.address if interface else "",
        switch_after=switch_after(rows_of(ledger, plan.wave, plan.server)),
    )


def rows_of(ledger: Ledger, wave: str, server: str) -> tuple[StepRow, ...]:
    """What was prepared for a server."""
    with ledger.read() as tx:
        return cutovers.steps_of(tx, cutovers.PREPARED_KIND, cutovers.prepared_id(wave, server))


def switch_after(rows: Sequence[StepRow]) -> datetime | None:
    """When no cache holds the old TTL any more: the change was in sync, and the old TTL has passed. None: no TTL was
    lowered, or one is not in sync yet."""
    lowered = [row for row in rows if row.kind == TTL and row.state is not StepState.UNDONE]
    if not lowered or any(row.state is not StepState.SETTLED or row.changed_at is None for row in lowered):
        return None
    return max(row.changed_at + timedelta(seconds=LowerTtl.old_ttl_s(row.before)) for row in lowered if row.changed_at)


def interface_of(ledger: Ledger, aws: AwsAccess, plan: ServerPlan, address: str) -> Interface | None:
    """The network interface with this address that was made for a server's instance. None: none was, or it is gone."""
    for row in rows_of(ledger, plan.wave, plan.server):
        standing = row.state in (StepState.INTENDED, StepState.APPLIED, StepState.SETTLED)
        if row.kind == ADDRESS and standing and is_for(row.spec, plan.subnet or "", address):
            step = build(aws, row.kind, row.name, row.spec or {})
            assert isinstance(step, PrepareAddress)
            return step.interface()
    return None


def raise_when_failed(prepared: Prepared) -> None:
    """:raises PermanentError: naming each server that was not prepared."""
    wrong = [each for each in prepared.servers if each.error]
    if wrong:
        raise PermanentError(
            "Not prepared: " + "; ".join(f"{each.server}: {each.error}" for each in wrong),
            next_step="Do what each says, then clear this task",
        )
