"""The context that a service function runs in: checkpoints, progress, clock and the wish to stop.

Operators build it over Airflow's task state store; tests build it over a dict.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from wavelift.base.errors import Cancelled, FencedError
from wavelift.base.names import run_key


@dataclass(frozen=True, slots=True, order=True)
class DagRun:
    """One run of one DAG: what Airflow is asked about."""

    dag_id: str
    dag_run_id: str

    def __str__(self) -> str:
        return f"{self.dag_id} {self.dag_run_id}"


class Liveness(Protocol):
    """What Airflow says of others: what a dead one holds is free.

    When Airflow does not answer, its error goes on to the caller, which then frees nothing.
    """

    def run(self, run: DagRun) -> bool:
        """Whether the DAG run is queued or running. A run that was deleted is dead."""

    def ended(self, run: DagRun, holders: Collection[str], kind: str) -> Collection[str]:
        """Those of ``holders`` whose tasks have ended, so that nobody gives their slots back, though their run lives.

        :param holders: run keys. :param kind: of the slots.
        """


class NobodyDies:
    """A :class:`Liveness` for callers that free nothing."""

    def run(self, run: DagRun) -> bool:
        return True

    def ended(self, run: DagRun, holders: Collection[str], kind: str) -> Collection[str]:
        return ()


class CheckpointStore(Protocol):
    """A small JSON store that outlives a try and a clear.

    Every call of an outlived try raises :class:`~wavelift.base.errors.FencedError`. Values are a few KB at most.
    """

    def get(self, key: str) -> Any | None: ...

    def set(self, key: str, value: Any) -> None: ...

    def delete(self, key: str) -> None: ...


class MemoryCheckpoints:
    """A :class:`CheckpointStore` in a dict."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any | None:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Clock(Protocol):
    """Time, so that tests own it."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's time; ``now`` is in UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class CancelFlag:
    """Set once by ``on_kill`` or by the first failing worker; every loop polls it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason = "the task was asked to stop"
        self._children: list[CancelFlag] = []
        self._listeners: list[Callable[[], None]] = []
        self.fenced = False
        """Another try owns the work: stop and clean up nothing."""

    def child(self) -> CancelFlag:
        """A flag for a part of the work: set with this one, and on its own without setting this one."""
        part = CancelFlag()
        self._children.append(part)
        if self._event.is_set():
            part.set(self._reason, fenced=self.fenced)
        return part

    def set(self, reason: str = "the task was asked to stop", *, fenced: bool = False) -> None:
        self._reason = reason
        self.fenced = self.fenced or fenced
        self._event.set()
        for part in self._children:
            part.set(reason, fenced=fenced)
        for call in tuple(self._listeners):
            call()

    def tell(self, call: Callable[[], None]) -> None:
        """Call it when the flag is set, from the thread that sets it: it wakes what can't poll. Short, and it raises
        nothing. A flag that is set already tells nobody: look first, or afterwards."""
        self._listeners.append(call)

    def tell_no_more(self, call: Callable[[], None]) -> None:
        """Take back a :meth:`tell`."""
        self._listeners.remove(call)

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to ``seconds``; True when the flag was set meanwhile."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """:raises Cancelled: when the flag is set; :raises FencedError: when another try owns the work."""
        if self._event.is_set():
            raise FencedError(self._reason) if self.fenced else Cancelled(self._reason)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one disk is. Bytes are of the disk's virtual size unless named otherwise."""

    server: str
    disk: str
    phase: str
    done: int
    total: int
    data: int = 0
    """Non-zero bytes seen so far."""
    sent: int = 0
    """Bytes put on the wire to the target so far."""


def ignore_progress(progress: Progress) -> None:
    """The default listener."""


@dataclass
class RunContext:
    """What a service function needs to know about the run that called it.

    :param run: the DAG run that the work belongs to.
    :param server: what the work is about; empty: the run as a whole.
    :param map_index: of the task in its mapped group; -1 outside any.
    :param requester: the person who asked for the run, or what else did.
    :param liveness: asked before anything of another run is freed.
    """

    run: DagRun
    server: str = ""
    checkpoints: CheckpointStore = field(default_factory=MemoryCheckpoints)
    progress: Callable[[Progress], None] = ignore_progress
    clock: Clock = field(default_factory=SystemClock)
    cancel: CancelFlag = field(default_factory=CancelFlag)
    map_index: int = -1
    requester: str = ""
    liveness: Liveness = field(default_factory=NobodyDies)

    @property
    def run_key(self) -> str:
        """Names the piece of work and survives retries and clears: names, tags and client tokens derive from it
        (invariant 5)."""
        return run_key(self.run.dag_id, self.run.dag_run_id, self.server)
