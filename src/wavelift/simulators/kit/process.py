"""Starts and stops one simulator process: readiness line, log file, end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY_SECONDS = 60.0
"""A thousand virtual machines take a few seconds on a busy machine; a minute means an error."""

STOP_SECONDS = 10.0
"""How long a process may take to clean up after SIGTERM before it is killed."""

LOG_TAIL_BYTES = 4096


class SimulatorError(RuntimeError):
    """A simulator did not start, died, or refused a control call. The text holds the end of its log."""


class SimulatorProcess:
    """A child that prints one JSON object as its first line and ends when its standard input does.

    If this process is killed, the pipe to the child's standard input closes, and the child ends.
    """

    def __init__(self, argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [os.fspath(a) for a in argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # Ctrl-C in a terminal must reach our own clean-up first
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def ready(self, timeout: float = READY_SECONDS) -> dict[str, Any]:
        """Wait for the first line; `timeout` in seconds. Raises SimulatorError with the end of the log."""
        out = self._process.stdout
        assert out is not None
        deadline = time.monotonic() + timeout
        line = b""
        while not line.endswith(b"\n"):
            waiting = deadline - time.monotonic()
            if waiting <= 0 or not select.select([out], [], [], waiting)[0]:
                self.stop()
                raise SimulatorError(f"no readiness line within {timeout:.0f} s\n{self.log_tail()}")
            chunk = os.read(out.fileno(), 65536)
            if not chunk:
                self.stop()
                raise SimulatorError(f"the process ended at once\n{self.log_tail()}")
            line += chunk
        answer: dict[str, Any] = json.loads(line)
        return answer

    def log_tail(self) -> str:
        try:
            data = self._log_path.read_bytes()
        except FileNotFoundError:
            return ""
        return data[-LOG_TAIL_BYTES:].decode(errors="replace")

    def wait(self, timeout: float) -> int | None:
        """The exit status, or None if it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Send SIGKILL, as in a crash: nothing is cleaned up."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
        self._reap(STOP_SECONDS)

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL. Safe to call twice."""
        if self.alive():
            self._process.terminate()
            self._reap(STOP_SECONDS)
        if self.alive():
            self._process.kill()
        self._reap(STOP_SECONDS)

    def _reap(self, timeout: float) -> None:
        self.wait(timeout)
        if not self.alive():
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
