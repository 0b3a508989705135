"""The states of a network cutover, and the transitions between them. Pure.

Its steps are rows of ``cutover_step``, as those of a cutover to EC2: see
:class:`wavelift.rules.cutover.StepState`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.rules.cutover import TO_UNDO, StepState

SOURCE: Final = "source"
EXTENSION: Final = "extension"
DESTINATION: Final = "destination"
STEPS: Final = (SOURCE, EXTENSION, DESTINATION)
"""The three places that a cutover changes, in its order; each is the name of a step. The way back is the reverse."""


class NetworkState(StrEnum):
    """The state of one cutover of a network. The ledger keeps the way back, not a DAG run."""

    RESERVED = "reserved"
    """Granted to a caller that has not created the DAG run yet."""
    WAITING = "waiting"
    """Admitted: it looks, records and asks for approval. Nothing is touched."""
    GOING = "going"
    """The first write may have come: source, extension and destination are changed one after the other."""
    SWITCHED = "switched"
    """The destination routes the network. The way back is open; the soak time runs."""
    FAILED = "failed"
    """It stopped after something was touched: somebody must continue or revert it."""
    REVERTING = "reverting"
    REVERTED = "reverted"
    """The source routes the network again, and it is extended again."""
    FINISHING = "finishing"
    """The way back was given up: the source network may be deleted."""
    FINISHED = "finished"
    ENDED = "ended"
    """It ended before anything was touched: refused, rejected, cancelled."""
    EXPIRED = "expired"
    """Reserved, but the DAG run did not start in time."""

    @property
    def terminal(self) -> bool:
        return self not in OPEN

    @property
    def touched(self) -> bool:
        """Whether something may be changed."""
        return self in TOUCHED


OPEN: Final = frozenset(
    {
        NetworkState.RESERVED,
        NetworkState.WAITING,
        NetworkState.GOING,
        NetworkState.SWITCHED,
        NetworkState.FAILED,
        NetworkState.REVERTING,
        NetworkState.FINISHING,
    }
)
"""At most one cutover of a network is in one of these states."""
TOUCHED: Final = OPEN - {NetworkState.RESERVED, NetworkState.WAITING}
REVERTIBLE: Final = frozenset({NetworkState.GOING, NetworkState.SWITCHED, NetworkState.FAILED, NetworkState.REVERTING})
_WAYS: Final[Mapping[NetworkState, frozenset[NetworkState]]] = {
    NetworkState.RESERVED: frozenset({NetworkState.WAITING, NetworkState.EXPIRED, NetworkState.ENDED}),
    NetworkState.EXPIRED: frozenset({NetworkState.RESERVED, NetworkState.WAITING, NetworkState.ENDED}),
    NetworkState.WAITING: frozenset({NetworkState.GOING, NetworkState.ENDED}),
    # Its DAG run was cleared: it looks, records and asks again.
    NetworkState.ENDED: frozenset({NetworkState.WAITING}),
    NetworkState.GOING: frozenset({NetworkState.SWITCHED, NetworkState.FAILED, NetworkState.REVERTING}),
    NetworkState.FAILED: frozenset({NetworkState.GOING, NetworkState.REVERTING}),
    NetworkState.SWITCHED: frozenset({NetworkState.REVERTING, NetworkState.FINISHING}),
    NetworkState.REVERTING: frozenset({NetworkState.REVERTED}),
    NetworkState.FINISHING: frozenset({NetworkState.FINISHED, NetworkState.SWITCHED}),
}


def require_network_way(current: NetworkState, target: NetworkState, *, cutover: str) -> None:
    """:raises PermanentError: it cannot go from ``current`` to ``target``. Staying in a state is allowed."""
    if current is not target and target not in _WAYS.get(current, frozenset()):
        raise PermanentError(
            f"A network cutover cannot go from {current} to {target}",
            next_step="Run `wavelift network list` to see its current state.",
            cutover=cutover,
        )


# What the steps make of the places


CONNECTIVITY: Final = "connectivity"
"""Key of a side's state: :data:`ON`, :data:`OFF`, or another word where nobody can tell."""
ON: Final = "ON"
OFF: Final = "OFF"
_MADE: Final = {SOURCE: OFF, DESTINATION: ON}


def wanted(step: str, before: Any) -> Any:
    """The state that a step makes of the state before."""
    return None if step == EXTENSION else {**(before or {}), CONNECTIVITY: _MADE[step]}


def is_made(step: str, state: Any, *, back: bool) -> bool:
    """Whether a place is as the step, or its undo, leaves it: by what counts for the routing alone."""
    if step == EXTENSION:
        return (state is not None) is back
    found = state.get(CONNECTIVITY) if isinstance(state, Mapping) else None
    return bool(found == _MADE[step]) is not back and found in (ON, OFF)


def may_route_nobody(rows: Mapping[str, StepState]) -> bool:
    """Whether perhaps neither side routes the network: the source may be disconnected, and nothing shows that the
    destination is connected.

    :param rows: step → its state. A step of which nothing is known is planned.
    """
    source_off = rows.get(SOURCE, StepState.PLANNED) in TO_UNDO
    return source_off and rows.get(DESTINATION, StepState.PLANNED) is not StepState.SETTLED


def undone(rows: Collection[StepState]) -> bool:
    """Whether every step that may have changed something was undone."""
    return not TO_UNDO.intersection(rows)
