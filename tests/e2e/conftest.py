"""``wavelift demo`` as a person starts it, in a temporary folder and home of its own, and what it leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from wavelift.airflow.rest import ApiClient

ROOT: Final = Path(__file__).parents[2]
WAVELIFT: Final = Path(sys.executable).parent / "wavelift"
DEMO_SECONDS: Final = 600.0
"""A demo takes two minutes on two idle cores."""
STOP_SECONDS: Final = 60.0
LISTEN: Final = "0A"


@dataclass
class DemoProcess:
    """A running demo. Everything of it has ``folder`` in its environment, command line or working directory."""

    folder: Path
    process: subprocess.Popen[bytes]
    ports: set[int] = field(default_factory=set)
    """Every port that it was seen to listen on."""
    untracked: set[str] = field(default_factory=set)
    """Files in the working tree that git did not know when it began."""

    @property
    def url(self) -> str:
        """Where the web UI of a demo that stays up answers."""
        return self._said()[0]

    @property
    def password(self) -> str:
        """The password of its user ``admin``."""
        return self._said()[1]

    def _said(self) -> tuple[str, str]:
        found = re.search(r"Airflow stays up: (\S+)  user admin  password (\S+)", self.stderr)
        assert found, self.stderr
        return found[1], found[2]

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def api(self) -> ApiClient:
        """Airflow's REST API, as ``admin``."""

        def login() -> str:
            body = {"username": "admin", "password": self.password}
            return str(client.raw("POST", "/auth/token", body)[1]["access_token"])

        client = ApiClient(self.url, login)
        return client

    def wait_for(self, pattern: str, *, timeout: float = DEMO_SECONDS) -> re.Match[str]:
        """Return when standard error matches ``pattern``; fail at the end of the process or of the time."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.stderr)):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.stderr}"
            assert time.monotonic() < deadline, f"no {pattern!r} in {timeout:.0f} s:\n{self.stderr}"
            self.ports |= listening(self.processes())
            time.sleep(0.3)
        return match

    def wait(self, *, timeout: float = DEMO_SECONDS) -> int:
        """The exit status."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running after {timeout:.0f} s:\n{self.stderr}"
            self.ports |= listening(self.processes())
            time.sleep(0.3)
        return self.process.returncode

    def ctrl_c(self) -> int:
        """As a terminal does it: SIGINT to the whole process group. The exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait(timeout=STOP_SECONDS)

    def processes(self) -> list[int]:
        """Every process of this demo, orphans included."""
        mark = str(self.folder)
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in _words_of(entry)
        ]

    def assert_nothing_left(self) -> None:
        """No process, port, temporary file or file in the home folder."""
        assert [f"{pid} {_words_of(Path(f'/proc/{pid}'))[:300]}" for pid in self.processes()] == []
        assert self.ports, "the demo was never seen to listen: this check proves nothing"
        assert self.ports & _all_listening() == set()
        assert list((self.folder / "tmp").iterdir()) == []
        assert list((self.folder / "home").iterdir()) == []

    def kill(self) -> None:
        """What a failing test leaves behind."""
        while remaining := self.processes():
            for pid in remaining:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()


StartDemo = Callable[..., DemoProcess]


def start_demo(folder: Path, *arguments: str, command: tuple[str, ...] = (str(WAVELIFT), "demo")) -> DemoProcess:
    for name in ("tmp", "home"):
        (folder / name).mkdir()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DEMO_", "MAKE", "MFLAGS"))}
    caches = {
        name: os.environ.get(name) or str(Path.home() / folder)
        for name, folder in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config"), ("GOPATH", "go"))
    }
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env={**inherited, "TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home"), **caches},
        stdin=subprocess.DEVNULL,
        stdout=(folder / "stdout").open("wb"),
        stderr=(folder / "stderr").open("wb"),
        start_new_session=True,
    )
    return DemoProcess(folder, process)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[StartDemo]:
    """Start a demo; whatever of it is left at the end of the test is killed."""
    started: list[DemoProcess] = []

    def start(*arguments: str, command: tuple[str, ...] = (str(WAVELIFT), "demo")) -> DemoProcess:
        started.append(start_demo(tmp_path, *arguments, command=command))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="session")
def staying_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    """``make demo``, its wave done: it stays up until Ctrl-C, which is for ``test_demo`` to press."""
    # What make sets up (a new lock, a changed simulator) is not the demo's: caches of pip and Go stay by intent.
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "setup"], cwd=ROOT, env=variables, check=True, capture_output=True)
    before = untracked()
    running = start_demo(tmp_path_factory.mktemp("demo"), command=("make", "demo"))
    running.untracked = before
    try:
        running.wait_for("Ctrl-C stops everything")
        yield running
    finally:
        running.kill()


def untracked() -> set[str]:
    """Files in this working tree that git neither tracks nor ignores."""
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def until(ready: Callable[[], bool], what: str, *, timeout: float = DEMO_SECONDS) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}"
        time.sleep(0.2)


def listening(pids: list[int]) -> set[int]:
    """TCP ports on which these processes listen."""
    sockets: set[str] = set()
    for pid in pids:
        try:
            sockets.update(str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue  # ended meanwhile
    return {port for port, inode in _listeners() if f"socket:[{inode}]" in sockets}


def _all_listening() -> set[int]:
    return {port for port, _ in _listeners()}


def _listeners() -> Iterator[tuple[int, str]]:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _words_of(process: Path) -> str:
    """Command line, environment and working directory; of what ended or is a zombie, nothing."""
    try:
        words = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
        return words.decode(errors="replace") + str((process / "cwd").readlink())
    except OSError:
        return ""
