"""The context in which a service function runs: checkpoints, progress, clock and cancellation.

Operators build it with Airflow's task state store. Tests build it with a dict.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from wavelift.base.errors import Cancelled, FencedError
from wavelift.base.names import run_key


@dataclass(frozen=True, slots=True, order=True)
class DagRun:
    """Identifies one run of one DAG."""

    dag_id: str
    dag_run_id: str

    def __str__(self) -> str:
        return f"{self.dag_id} {self.dag_run_id}"


class Liveness(Protocol):
    """Asks Airflow whether other runs and tasks are alive. What a dead one holds can be freed.

    If Airflow does not answer, its error is passed to the caller, which then frees nothing.
    """

    def run(self, run: DagRun) -> bool:
        """Whether the DAG run is queued or running. A deleted run counts as dead."""

    def ended(self, run: DagRun, holders: Collection[str], kind: str) -> Collection[str]:
        """Those of ``holders`` whose tasks have ended while their DAG run is still alive. No task of theirs is left to
        release the slots.

        :param holders: run keys.
        :param kind: of the slots.
        """


class CheckpointStore(Protocol):
    """A small JSON store that survives retries and clears of a task.

    If a newer try of the task exists, every call raises :class:`~wavelift.base.errors.FencedError`. Values have a few
    KB at most.
    """

    def get(self, key: str) -> Any | None: ...

    def set(self, key: str, value: Any) -> None: ...

    def delete(self, key: str) -> None: ...


class MemoryCheckpoints:
    """A :class:`CheckpointStore` in a dict, for callers that no retry continues."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any | None:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Clock(Protocol):
    """The time. Tests replace it."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The system's time. ``now`` is in UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class CancelFlag:
    """A flag that ``on_kill`` or the first failing worker sets. Every loop polls it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason = "the task was asked to stop"
        self._children: list[CancelFlag] = []
        self._listeners: list[Callable[[], None]] = []
        self.fenced = False
        """Another try owns the work: stop and do not clean up."""

    def child(self) -> CancelFlag:
        """A flag for a part of the work. Setting this flag sets the child; setting the child does not set this flag."""
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
        """Register ``call``, which the thread that sets the flag runs. This wakes code that can't poll.

        ``call`` must be short and must not raise. It is not called if the flag is already set, so check the flag
        before or afterwards.
        """
        self._listeners.append(call)

    def tell_no_more(self, call: Callable[[], None]) -> None:
        """Remove a callback that :meth:`tell` registered."""
        self._listeners.remove(call)

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds``. True if the flag is set."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """Raise an error if the flag is set.

        :raises FencedError: another try owns the work.
        :raises Cancelled: the flag was set for another reason.
        """
        if self._event.is_set():
            raise FencedError(self._reason) if self.fenced else Cancelled(self._reason)


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one disk. Bytes refer to the disk's virtual size unless stated otherwise."""

    server: str
    disk: str
    phase: str
    done: int
    total: int
    data: int = 0
    """Non-zero bytes seen so far."""
    sent: int = 0
    """Bytes sent to the target so far."""


def ignore_progress(progress: Progress) -> None:
    """The default listener, which does nothing."""


SCHEDULE: Final = "schedule"
"""Who asked for a run that Airflow's scheduler made, as it is recorded."""


@dataclass(frozen=True, slots=True)
class Requester:
    """Who stands behind a run.

    :param name: of the user, as Airflow's auth manager says it. Empty: nobody is known.
    :param run_type: how the DAG run came about, in Airflow's word: ``manual``, ``scheduled``, ``backfill`` …
    """

    name: str
    run_type: str = "manual"

    def __str__(self) -> str:
        """What the ledger keeps."""
        if self.name:
            return self.name
        return SCHEDULE if self.run_type == "scheduled" else f"nobody ({self.run_type} run)"


@dataclass
class RunContext:
    """What a service function needs to know about the run that calls it.

    :param run: the DAG run that the work belongs to.
    :param server: the server that the work is for. Empty: the whole run.
    :param map_index: of the task in its mapped group; -1 if it is not mapped.
    :param requester: the person or component that requested the run, as it is recorded.
    :param asked_by: the same for decisions about rights. None: ``requester`` is a user.
    :param liveness: must be asked before anything that another run holds is freed.
    :param checkpoints: what a retry needs to continue, for example the id of a remote task.
    """

    run: DagRun
    server: str = ""
    _: KW_ONLY
    requester: str
    liveness: Liveness
    checkpoints: CheckpointStore
    progress: Callable[[Progress], None] = ignore_progress
    clock: Clock = field(default_factory=SystemClock)
    cancel: CancelFlag = field(default_factory=CancelFlag)
    map_index: int = -1
    asked_by: Requester | None = None

    @property
    def asker(self) -> Requester:
        """Whose right counts."""
        return self.asked_by or Requester(self.requester)

    @property
    def run_key(self) -> str:
        """Key of this work. It stays the same after retries and clears. Names, tags and client tokens derive from it
        (invariant 5)."""
        return run_key(self.run.dag_id, self.run.dag_run_id, self.server)
