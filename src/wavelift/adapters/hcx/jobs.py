"""Jobs: done says only that it ended. Whether it did what it should is in the other flags (HCX-06)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.loose import flag, text, whole
from wavelift.base.rest import Ask, RestClient, segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """None: HCX did not say."""

    id: str
    done: bool | None = None
    failed: bool | None = None
    cancelled: bool | None = None
    rolled_back: bool | None = None
    percent: int | None = None
    message: str = ""

    @property
    def bad(self) -> bool:
        """It did not do its work, whether or not it is done."""
        return bool(self.failed or self.cancelled or self.rolled_back)

    @property
    def over(self) -> bool:
        return bool(self.done) or self.bad

    @property
    def words(self) -> str:
        told = {"failed": self.failed, "cancelled": self.cancelled, "rolled back": self.rolled_back}
        ends = [name for name, value in told.items() if value]
        state = " and ".join(ends) if ends else "done" if self.done else "running"
        share = f", {self.percent} %" if self.percent is not None and not self.over else ""
        return f"{state}{share}{f': {self.message}' if self.message else ''}"


class Jobs:
    """The jobs of one manager."""

    def __init__(self, client: RestClient) -> None:
        self._client = client

    def read(self, job_id: str) -> Job:
        """:raises NotFoundError: HCX does not know it (any more)."""
        answer = self._client.send(Ask("GET", f"{guesses.JOBS.value}/{segment(job_id)}"), job=job_id)
        return read_job(job_id, answer.object())


def read_job(job_id: str, fields: Mapping[str, Any]) -> Job:
    return Job(
        id=job_id,
        done=flag(fields.get("isDone")),
        failed=flag(fields.get("didFail")),
        cancelled=flag(fields.get("isCancelled")),
        rolled_back=flag(fields.get("isRolledBack")),
        percent=whole(fields.get("percentComplete")),
        message=text(fields.get("message")) or text(fields.get("errorMessage")),
    )
