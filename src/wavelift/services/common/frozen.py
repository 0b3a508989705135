"""What came by XCom is compared with what the ledger froze, before a step of the control plane uses it.

Whoever may edit the XComs of one run can say which server a task is for, where it stands and where it goes. So each
step takes the plan from the ledger, and the VM that the run's first ``reserve`` saw. What a connector returned is
compared with its manifests in :mod:`wavelift.services.common.returned`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from wavelift.base.errors import PermanentError, TamperedError
from wavelift.base.run import RunContext
from wavelift.ledger import Bound, Ledger, ServerRun, Tx, events, migrations, replication_runs, waves
from wavelift.ledger.server_runs import SERVER_RUNS
from wavelift.ledger.spine import ServerRuns
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.frozen import FrozenPlan, check_plan
from wavelift.services.common.admit import frozen_wave
from wavelift.services.dataplane.messages import Admitted, ServerTask

TAMPERED: Final = "run.tampered"
"""The event of a refusal."""
NEVER_CHANGES: Final = ("connection", "vm", "instance_uuid", "plan")
"""Fields of :class:`Bound` that a later reservation must not change either."""
REPLICATING: Final = ("replicate", "cutover")
"""Modes whose servers have replication runs."""
MODES: Final = ("migrate", *REPLICATING)
"""Modes of a run that have tasks for servers."""


def checked(ledger: Ledger, task: ServerTask, ctx: RunContext, *, reserves: bool = False) -> ServerTask:
    """The server's task with the plan that the run froze for it: nothing of the plan that came is used.

    :param reserves: this task reserves the server: it may be the first, or may do it at another map index.
    :raises TamperedError: server, plan or VM are not those of the run, or this map index is another server's.
    :raises PermanentError: the server was reserved before the ledger noted what it is.
    """
    frozen, known, _ = _look(ledger, task, ctx)
    found = _bound(task, frozen, ctx)
    kept = Bound.load(known.bound) if known is not None and known.bound else None
    if kept is None and not reserves:
        if known is not None and known.snapshot_state is not None:
            raise PermanentError(
                "An older version of wavelift reserved this server, and did not note which VM it is",
                server=task.name,
                next_step=f"Clear the server's {CONTINUE_FROM} task",
            )
        raise TamperedError(
            "This run never reserved the server that came by XCom",
            field="server",
            expected=f"a server after its {CONTINUE_FROM}",
            found=task.name,
            server=task.name,
            next_step=f"Clear the server's {CONTINUE_FROM} task; find out who edited the run's XComs",
        )
    if kept is not None:
        _compare(kept, found, task.name, reserves=reserves)
    return task.model_copy(update={"plan": frozen.plan})


def bind(ledger: Ledger, task: ServerTask, ctx: RunContext) -> FrozenPlan:
    """Bind the server's row to its VM, its frozen plan and this map index, for all later steps.

    Called by ``reserve`` once the row exists, with what :func:`checked` returned.

    :returns: that plan.
    """
    frozen, known, rows = _look(ledger, task, ctx)
    assert known is not None  # `reserve` made it
    with ledger.write(*rows.locks(known)) as tx:
        rows.bind(tx, known.id, _bound(task, frozen, ctx), clock=ctx.clock)
    return frozen


def admitted(ledger: Ledger, came: Admitted, ctx: RunContext) -> Admitted:
    """What the admission of a migrate run froze.

    :raises TamperedError: something else came by XCom.
    """
    with ledger.read() as tx:
        kept = Admitted.load(waves.get(tx, ctx.run).spec)
    for field in Admitted.model_fields.keys() - {"token", "account_use"}:  # which the ledger does not keep
        expected, found = getattr(kept, field), getattr(came, field)
        if expected != found:
            raise TamperedError(
                "The admission that came by XCom is not the frozen one", **_pair(field, expected, found)
            )
    return kept


def server_at(ledger: Ledger, named: str, ctx: RunContext) -> str:
    """The server that the task at this map index works for, whatever came by XCom: for teardowns, which must give back
    what their own server has, and nothing of another.

    :param named: the server's name as it came. It is believed if the ledger has bound no server to this index, and
        this one to no other.
    :returns: empty: nothing was reserved at this index.
    """
    with ledger.read() as tx:
        bound = {known.server: Bound.load(known.bound) for known in _bound_rows(tx, ctx)}
    here = [server for server, each in bound.items() if each.map_index == ctx.map_index]
    if named in here or (not here and named not in bound):
        return named
    return here[0] if len(here) == 1 else ""


def other_server(own: str, named: str) -> TamperedError:
    """What a teardown says that was told of another server than its own."""
    return TamperedError(
        "Another server than the one of this map index came by XCom",
        field="server",
        expected=own or "none",
        found=named,
        server=own,
        next_step=f"Nothing: only what {own or 'no server'} held was given back. If the pre-flight was cleared alone, "
        f"clear each server's {CONTINUE_FROM} task too; else find out who edited the run's XComs",
    )


def tell(ledger: Ledger, error: TamperedError, ctx: RunContext, *, task: str) -> None:
    """Write a refusal to the audit trail, at the row of its server if there is one.

    :param task: the id of the task that refused.
    """
    details = {"task": task, "what": error.what, **{key: str(value) for key, value in error.where.items()}}
    with ledger.write() as tx:
        subject = events.Subject("wave_run", f"{ctx.run.dag_id}/{ctx.run.dag_run_id}", ctx.run)
        for rows in SERVER_RUNS:
            known = rows.find(tx, rows.id_of(ctx.run_key))
            at_index = (each for each in rows.of_dag_run(tx, ctx.run) if _index(each) == ctx.map_index >= 0)
            if (row := known or next(at_index, None)) is not None:
                subject = events.Subject(rows.words.kind, row.id, ctx.run)
                break
        events.append(tx, subject, TAMPERED, at=ctx.clock.now(), actor=str(ctx.run), details=details)


def _look(
    ledger: Ledger, task: ServerTask, ctx: RunContext
) -> tuple[FrozenPlan, ServerRun[Any] | None, ServerRuns[Any]]:
    """The plan that the run froze for the server, the server's row, and the rows among which it is."""
    if (task.name, task.name) != (ctx.server, task.plan.server):
        raise TamperedError("The names of the server differ", **_pair("name", task.plan.server, task.name))
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        rows: ServerRuns[Any] = replication_runs.ROWS if run.mode in REPLICATING else migrations.ROWS
        known = rows.find(tx, rows.id_of(ctx.run_key))
    if run.mode not in MODES:
        raise TamperedError(
            "This run has no tasks for servers", **_pair("mode", " or ".join(MODES), run.mode), server=task.name
        )
    plans = frozen_wave(run).servers
    if run.mode == "replicate":
        plans = tuple(plan.replicating() for plan in plans)
    return check_plan(task.plan, task.facts, plans), known, rows


def _bound(task: ServerTask, frozen: FrozenPlan, ctx: RunContext) -> Bound:
    facts = task.facts
    return Bound(
        connection=frozen.plan.connection,
        vm=facts.moref,
        instance_uuid=facts.instance_uuid,
        plan=frozen.digest,
        guest_id=facts.guest_id,
        firmware=facts.firmware,
        map_index=ctx.map_index,
    )


def _compare(kept: Bound, found: Bound, server: str, *, reserves: bool) -> None:
    if not reserves and found.map_index != kept.map_index:
        raise TamperedError(
            "The server that came by XCom is reserved at another map index",
            **_pair("map_index", kept.map_index, found.map_index),
            server=server,
            next_step=f"Clear the server's {CONTINUE_FROM} task: the pre-flight lists it at another place now",
        )
    for field in NEVER_CHANGES if reserves else Bound.model_fields:
        expected, came = getattr(kept, field), getattr(found, field)
        if expected != came:
            raise TamperedError(
                "The server is not the one that this run reserved",
                **_pair(field, expected, came),
                server=server,
                next_step="If the VM was replaced, trigger a new run of the wave; else find out who edited the XComs",
            )


def _bound_rows(tx: Tx, ctx: RunContext) -> Iterator[ServerRun[Any]]:
    for rows in SERVER_RUNS:
        yield from (known for known in rows.of_dag_run(tx, ctx.run) if known.bound)


def _index(known: ServerRun[Any]) -> int:
    return int(known.bound["map_index"]) if known.bound else -1


def _pair(field: str, expected: object, found: object) -> dict[str, Any]:
    return {"field": field, "expected": expected, "found": found}
