"""Who serves while a server is cut over, and for how long nobody does. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

from wavelift.rules.cutover import CutoverState

Serves = Literal["source", "instance", "nobody"]

_SOURCE: Final = frozenset(
    {
        CutoverState.RESERVED,
        CutoverState.WAITING,
        CutoverState.GOING,
        CutoverState.REVERTED,
        CutoverState.ENDED,
        CutoverState.EXPIRED,
    }
)
_INSTANCE: Final = frozenset({CutoverState.SWITCHED, CutoverState.FINALIZING, CutoverState.FINALIZED})


def serves(state: CutoverState, times: Mapping[str, str] | None) -> Serves:
    """Who serves, as far as the ledger knows. ``nobody`` from the order to stop the source on, while it may still run:
    nobody may rely on it."""
    if state in _SOURCE:
        return "source"
    if state in _INSTANCE:
        return "instance"
    known = times or {}
    if state is CutoverState.REVERTING and "source_up" in known:
        return "source"
    return "nobody" if "stopping" in known or state is CutoverState.REVERTING else "source"


def downtime_s(state: CutoverState, times: Mapping[str, str] | None, now: datetime) -> float | None:
    """Seconds in which nobody served, so far: on the way to the instance, and on the way back. None: it never was so.

    Forward it begins with the order to stop the source, and ends when the network leads to the instance.
    """
    at = {name: datetime.fromisoformat(text) for name, text in (times or {}).items()}
    stopped = at.get("stopping")
    if stopped is None:
        return None
    up = at.get("source_up")
    going_back, switched = at.get("reverting"), at.get("switched")
    is_open = serves(state, times) == "nobody"
    end = now if is_open else None
    if switched is None or switched < stopped:
        return _between(stopped, _after(up, stopped) or end)
    forward = _between(stopped, switched)
    if going_back is None or going_back < switched:
        return forward
    return (forward or 0.0) + (_between(going_back, _after(up, going_back) or end) or 0.0)


def _after(moment: datetime | None, other: datetime) -> datetime | None:
    return moment if moment is not None and moment >= other else None


def _between(begin: datetime, end: datetime | None) -> float | None:
    return max((end - begin).total_seconds(), 0.0) if end is not None else None
