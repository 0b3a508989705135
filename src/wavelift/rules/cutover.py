"""The states of a cutover, of its steps and of test instances, and the transitions between them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from wavelift.base.domain import Message, NicFacts
from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun
from wavelift.rules.flows import REPLICATE

PRESYNC_PREFIX: Final = "cutover__"
"""Of the ids of replicate runs that a cutover starts. A run of such an id is admitted only if its cutover's row has it,
so that whoever chooses the id wins nothing."""


def is_presync(run: DagRun) -> bool:
    """Whether a DAG run says that a cutover started it. Admission believes that only if a cutover's row has its id."""
    return bool(REPLICATE.wave_of(run.dag_id)) and run.dag_run_id.startswith(PRESYNC_PREFIX)


class CutoverState(StrEnum):
    """The state of one server's cutover.

    The ledger keeps the way back, not a DAG run: a cutover stays open until it is reverted or finalized.
    """

    RESERVED = "reserved"
    """Granted to a caller that has not created the DAG run yet."""
    WAITING = "waiting"
    """Admitted: pre-flight, the plan, approval and window come first. Nothing is touched."""
    GOING = "going"
    """``go`` was given: from here on, only replication runs of the cutover itself are admitted. The source runs."""
    MOVING = "moving"
    """The source is being stopped, or was; last changes, image, instance, checks and network steps follow."""
    SWITCHED = "switched"
    """The instance serves. The way back is open."""
    FAILED = "failed"
    """It stopped after the source was touched: somebody must continue or revert it."""
    REVERTING = "reverting"
    REVERTED = "reverted"
    """The source serves again, the instance is stopped."""
    FINALIZING = "finalizing"
    FINALIZED = "finalized"
    """The way back was given up."""
    ENDED = "ended"
    """It ended before its source was touched: refused, rejected, too late, cancelled."""
    EXPIRED = "expired"
    """Reserved, but the DAG run did not start in time."""

    @property
    def terminal(self) -> bool:
        return self not in OPEN

    @property
    def withholds(self) -> bool:
        """Whether only replication runs of the cutover itself are admitted."""
        return self in WITHHOLDING

    @property
    def touched(self) -> bool:
        """Whether the source may be stopped or fenced."""
        return self in TOUCHED


OPEN: Final = frozenset(
    {
        CutoverState.RESERVED,
        CutoverState.WAITING,
        CutoverState.GOING,
        CutoverState.MOVING,
        CutoverState.SWITCHED,
        CutoverState.FAILED,
        CutoverState.REVERTING,
        CutoverState.FINALIZING,
    }
)
"""At most one cutover of a server in a wave is in one of these states."""
TOUCHED: Final = frozenset(
    {
        CutoverState.MOVING,
        CutoverState.SWITCHED,
        CutoverState.FAILED,
        CutoverState.REVERTING,
        CutoverState.FINALIZING,
    }
)
WITHHOLDING: Final = TOUCHED | {CutoverState.GOING}
SYNCING: Final = frozenset({CutoverState.GOING, CutoverState.MOVING, CutoverState.FAILED})
"""States in which runs of the cutover itself may replicate."""
REVERTIBLE: Final = frozenset({CutoverState.MOVING, CutoverState.SWITCHED, CutoverState.FAILED, CutoverState.REVERTING})
"""States from which a revert may begin, or go on."""
_WAYS: Final[Mapping[CutoverState, frozenset[CutoverState]]] = {
    CutoverState.RESERVED: frozenset({CutoverState.WAITING, CutoverState.EXPIRED, CutoverState.ENDED}),
    # Its DAG run could not be made, and the same request was made again; or it was late.
    CutoverState.EXPIRED: frozenset({CutoverState.RESERVED, CutoverState.WAITING, CutoverState.ENDED}),
    CutoverState.WAITING: frozenset({CutoverState.GOING, CutoverState.ENDED}),
    CutoverState.GOING: frozenset({CutoverState.MOVING, CutoverState.ENDED}),
    # Its DAG run was cleared: everything that was found and approved is asked again.
    CutoverState.ENDED: frozenset({CutoverState.WAITING}),
    CutoverState.MOVING: frozenset({CutoverState.SWITCHED, CutoverState.FAILED, CutoverState.REVERTING}),
    CutoverState.FAILED: frozenset({CutoverState.MOVING, CutoverState.REVERTING}),
    CutoverState.SWITCHED: frozenset({CutoverState.REVERTING, CutoverState.FINALIZING}),
    CutoverState.REVERTING: frozenset({CutoverState.REVERTED}),
    CutoverState.FINALIZING: frozenset({CutoverState.FINALIZED, CutoverState.SWITCHED}),
}


def require_way(current: CutoverState, target: CutoverState, *, cutover: str) -> None:
    """:raises PermanentError: a cutover cannot go from ``current`` to ``target``. Staying in a state is allowed."""
    if current is not target and target not in _WAYS.get(current, frozenset()):
        raise PermanentError(
            f"A cutover cannot go from {current} to {target}",
            next_step="Run `wavelift cutover list` to see its current state.",
            cutover=cutover,
        )


class SourceBefore(Message):
    """What a cutover changes of its source, as it was before: what a revert restores. ``reserve`` stores it in the
    ledger before anything is touched; it never changes until the cutover is over."""

    connection: str
    connector: str
    vm: str
    """Managed object id."""
    instance_uuid: str
    path: str
    powered_on: bool
    addresses: tuple[str, ...] = ()
    cards: tuple[NicFacts, ...] = ()


def kept_address(private_ip: str | None, addresses: Sequence[str], *, server: str) -> str:
    """The address that a target keeps of its source.

    :param private_ip: of the plan: it chooses among several, and is one of them.
    :param addresses: of the source, as its guest told.
    :raises PermanentError: nobody can tell which it is.
    """
    found = [
        one for one in addresses if (ip := ip_address(one)).version == 4 and not (ip.is_link_local or ip.is_loopback)
    ]
    if private_ip is not None and private_ip in found:
        return private_ip
    if private_ip is None and len(found) == 1:
        return found[0]
    which = f" as private_ip says, {private_ip}" if private_ip is not None else ""
    raise PermanentError(
        f"The source's own address is to be kept{which}, and it has {', '.join(found) or 'none that its guest tells'}",
        server=server,
        next_step="Set private_ip of this server to the one that it keeps"
        if found
        else "Start VMware Tools in the guest, or set 'address: new'",
    )


class StepState(StrEnum):
    """The state of one undoable step of a cutover."""

    PLANNED = "planned"
    """Nothing was changed."""
    INTENDED = "intended"
    """What was there before is stored; the change may have been made."""
    APPLIED = "applied"
    """The change was made; what it needs to take effect may still be awaited."""
    SETTLED = "settled"
    """It has taken effect."""
    UNDOING = "undoing"
    UNDONE = "undone"
    """What was there before is there again, or nothing was ever changed."""


STEP_ORDER: Final = tuple(StepState)
TO_UNDO: Final = frozenset({StepState.INTENDED, StepState.APPLIED, StepState.SETTLED, StepState.UNDOING})
"""States of a step that may have changed something."""
_STEP_WAYS: Final[Mapping[StepState, frozenset[StepState]]] = {
    StepState.PLANNED: frozenset({StepState.INTENDED, StepState.UNDONE}),
    StepState.INTENDED: frozenset({StepState.APPLIED, StepState.UNDOING, StepState.UNDONE}),
    StepState.APPLIED: frozenset({StepState.SETTLED, StepState.UNDOING}),
    # Its place was set back to what it was before, while the cutover still goes forward; or what a person said long ago
    # is asked again.
    StepState.SETTLED: frozenset({StepState.INTENDED, StepState.UNDOING}),
    StepState.UNDOING: frozenset({StepState.UNDONE}),
    # A cutover that goes on after a part of it was undone applies its steps again.
    StepState.UNDONE: frozenset({StepState.INTENDED}),
}


def require_step_way(current: StepState, target: StepState, *, step: str) -> None:
    """:raises PermanentError: a step cannot go from ``current`` to ``target``. Staying in a state is allowed."""
    if current is not target and target not in _STEP_WAYS.get(current, frozenset()):
        raise PermanentError(f"A step of a cutover cannot go from {current} to {target}", step=step)


class TrialState(StrEnum):
    """The state of a test instance."""

    LAUNCHING = "launching"
    CHECKING = "checking"
    PASSED = "passed"
    FAILED = "failed"
    ENDING = "ending"
    ENDED = "ended"
    """Terminated. Whether it had passed stays in its row."""

    @property
    def terminal(self) -> bool:
        return self is TrialState.ENDED


_TRIAL_WAYS: Final[Mapping[TrialState, frozenset[TrialState]]] = {
    TrialState.LAUNCHING: frozenset({TrialState.CHECKING, TrialState.FAILED, TrialState.ENDING}),
    TrialState.CHECKING: frozenset({TrialState.PASSED, TrialState.FAILED, TrialState.ENDING}),
    # Its checks, or its launch, were cleared.
    TrialState.PASSED: frozenset({TrialState.CHECKING, TrialState.FAILED, TrialState.ENDING}),
    TrialState.FAILED: frozenset({TrialState.LAUNCHING, TrialState.CHECKING, TrialState.PASSED, TrialState.ENDING}),
    TrialState.ENDING: frozenset({TrialState.ENDED}),
}


def require_trial_way(current: TrialState, target: TrialState, *, test: str) -> None:
    """:raises PermanentError: a test instance cannot go from ``current`` to ``target``. Staying is allowed."""
    if current is not target and target not in _TRIAL_WAYS.get(current, frozenset()):
        raise PermanentError(
            f"A test instance cannot go from {current} to {target}",
            next_step="Start another test run; `wavelift cutover tests` lists those that stand.",
            test=test,
        )


class BackupState(StrEnum):
    """The state of a backup of an instance."""

    MAKING = "making"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self is not BackupState.MAKING


_BACKUP_WAYS: Final[Mapping[BackupState, frozenset[BackupState]]] = {
    BackupState.MAKING: frozenset({BackupState.COMPLETED, BackupState.FAILED}),
    BackupState.FAILED: frozenset({BackupState.MAKING}),
}


def require_backup_way(current: BackupState, target: BackupState, *, backup: str) -> None:
    """:raises PermanentError: a backup cannot go from ``current`` to ``target``. Staying is allowed."""
    if current is not target and target not in _BACKUP_WAYS.get(current, frozenset()):
        raise PermanentError(
            f"A backup cannot go from {current} to {target}", next_step="Make another one.", backup=backup
        )
