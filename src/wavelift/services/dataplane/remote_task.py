"""One task of a remote service over retries, deferrals and clears: submitted once, found again, never two at a time.

The remote id is stored in the checkpoint store, which survives a clear. Therefore the id is checked against the remote
before use, and against the instant that the task is about: after a clear the source has been read again, and a result
of the older instant is not the one that is asked for. A task that somebody else cancelled is submitted again under a
new client token. The trigger of a cleared task does that: its ``on_kill`` cancels seconds after the new try began to
watch.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Generic, Protocol, TypeVar

from wavelift.base.errors import WaveliftError
from wavelift.base.names import client_token
from wavelift.base.run import RunContext

MAX_RESUBMITS: Final = 3
"""How often a task that somebody else cancelled is submitted again."""
MAX_UNSEEN: Final = 10
"""Looks at which the remote does not know the task before it counts as gone: a young task may not be visible yet."""

S = TypeVar("S")


class Verdict(Enum):
    """What a remote task's status means."""

    ALIVE = "alive"
    """It runs, or it has completed."""
    CANCELLED = "cancelled"
    FAILED = "failed"


class Remote(Protocol[S]):
    """The service that runs tasks of one kind.

    ``kind``: a short word for the kind. It is the checkpoint's key, a part of the client token, and shown to people.
    """

    kind: str

    def find(self, task_id: str) -> S | None:
        """The task's status; None when the service does not know it."""

    def cancel(self, task_id: str, reason: str) -> None:
        """Cancel the task if it still runs."""

    def judge(self, status: S) -> Verdict: ...

    def failure(self, status: S) -> WaveliftError:
        """The error of a failed task, with the service's words."""


class RemoteTask(Generic[S]):
    """The remote task of one piece of work (``ctx.run_key``).

    :param instant: of what the task is about (:func:`wavelift.base.names.instant_of`). A stored task of another instant
        is cancelled if it still runs, and its client token is not used again.
    """

    def __init__(self, remote: Remote[S], ctx: RunContext, *, instant: str) -> None:
        self._remote = remote
        self._ctx = ctx
        self._instant = instant
        stored: dict[str, Any] = ctx.checkpoints.get(remote.kind) or {}
        self._outdated = ""
        if stored.get("instant") != instant:
            self._outdated, stored = stored.get("task_id", ""), {}
        self.task_id: str = stored.get("task_id", "")
        self._attempt: int = stored.get("attempt", 0)
        self._cancelled: int = stored.get("cancelled", 0)
        self._unseen: int = stored.get("unseen", 0)

    def look(self) -> S | None:
        """The task that runs or is completed; None when one must be submitted.

        :raises WaveliftError: when it failed. The next look returns None, and a new task may be submitted.
        """
        self._end_outdated()
        if not self.task_id:
            return None
        status = self._remote.find(self.task_id)
        if status is None:
            self._submit_again()
            return None
        verdict = self._remote.judge(status)
        if verdict is Verdict.ALIVE:
            return status
        self._forget(cancelled=verdict is Verdict.CANCELLED)
        if verdict is Verdict.FAILED:
            raise self._remote.failure(status)
        if self._cancelled > MAX_RESUBMITS:
            raise WaveliftError(
                f"The {self._remote.kind} was cancelled again and again",
                next_step=f"Find out who cancels {self._remote.kind} tasks in this account, then clear this task",
            )
        return None

    def submit(self, start: Callable[[str], str]) -> str:
        """Start the task and store its id.

        :param start: client token → id of the remote task.
        """
        token = client_token(self._ctx.run_key, self._remote.kind, self._attempt, instant=self._instant)
        self.task_id = start(token)
        self._store()
        return self.task_id

    def cancel(self, reason: str) -> None:
        """Cancel the task if it still runs."""
        for task_id in filter(None, (self.task_id, self._outdated)):
            self._remote.cancel(task_id, reason)

    def _end_outdated(self) -> None:
        """No one else may name a running task of an older instant: its task instance, which is this one, has begun
        another. What a completed one made is left to the caller."""
        if self._outdated:
            self._remote.cancel(self._outdated, "wavelift: the source was read again")
            self._outdated = ""
            self._store()

    def _submit_again(self) -> None:
        """The remote does not know the task: too young to be visible, or forgotten. The same client token tells which:
        the remote answers it with the task that it started for it. Only if there is none it starts one (invariant 5).
        """
        self._unseen += 1
        if self._unseen > MAX_UNSEEN:
            self._forget(cancelled=False)
            return
        self.task_id = ""
        self._store()

    def _forget(self, *, cancelled: bool) -> None:
        """The remote end is final and bad: the next submission needs a new client token."""
        self.task_id = ""
        self._attempt += 1
        self._unseen = 0
        self._cancelled = self._cancelled + 1 if cancelled else 0
        self._store()

    def _store(self) -> None:
        self._ctx.checkpoints.set(
            self._remote.kind,
            {
                "instant": self._instant,
                "task_id": self.task_id,
                "attempt": self._attempt,
                "cancelled": self._cancelled,
                "unseen": self._unseen,
            },
        )
