"""The Redis of the compose file, with exactly its command and environment, on a free port."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from tests.compose import command, environment
from tests.eventually import eventually

needs_redis: Final = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server here; make programs installs it"
)


@dataclass(frozen=True)
class Redis:
    port: int
    pid: int

    def ask(self, *words: str, **variables: str) -> str:
        """What ``redis-cli`` prints."""
        return subprocess.run(
            ["redis-cli", "-p", str(self.port), *words],
            env={"PATH": "/usr/bin:/bin", **variables},
            capture_output=True,
            text=True,
            check=False,
        ).stdout


@contextmanager
def running(service: dict[str, Any], folder: Path) -> Iterator[Redis]:
    """Only the port and the address are added to its configuration."""
    port = free_port()
    here = f"<<END\nport {port}\nbind 127.0.0.1\n"
    words = [word.replace("<<END\n", here) for word in command(service)]
    assert here in words[-1]
    given = environment(service)
    with subprocess.Popen(
        words, cwd=folder, env={"PATH": "/usr/bin:/bin", **given}, stdout=subprocess.DEVNULL
    ) as server:
        try:
            made = Redis(port, server.pid)
            assert eventually(lambda: made.ask("ping", **given) == "PONG\n")
            yield made
        finally:
            server.terminate()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
