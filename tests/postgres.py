"""A PostgreSQL server of the tests' own: Debian's binaries, a folder of its own, a Unix socket, ended by its pid."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BINARIES: Final = Path("/usr/lib/postgresql")
START_SECONDS: Final = 60
NOBODY: Final = "nobody"


@dataclass(frozen=True)
class Postgres:
    """A running server.

    :param folder: of the socket; data lies under it.
    """

    folder: Path
    binaries: Path
    prefix: tuple[str, ...]
    user: str = "wavelift"

    def create(self, template: str = "template1") -> str:
        """A new database like ``template`` (a name or URL), empty by default; its URL."""
        name = f"wavelift_{uuid.uuid4().hex[:12]}"
        like = template.split("?")[0].rsplit("/", 1)[-1]
        self._run("createdb", "-h", str(self.folder), "-U", self.user, "-T", like, name)
        return f"postgresql://{self.user}@/{name}?host={self.folder}"

    def restart(self) -> None:
        """As after a crash of the machine: no time to finish anything."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses='' -k {self.folder} -c fsync=off -c max_connections=200"
        log = str(self.folder / "log")
        wait = str(START_SECONDS)
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-o", options, "-w", "-t", wait, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")

    def init(self) -> None:
        self._run("initdb", "-D", str(self.folder / "data"), "-U", self.user, "-A", "trust", "-E", "UTF8", "-N")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self.prefix, str(self.binaries / program), *arguments]
        # Not captured by pipes: the server would inherit and hold them.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd="/", check=False)
            output.seek(0)
            assert done.returncode == 0, f"{program}: {output.read().decode(errors='replace')}"


def find_binaries(root: Path = BINARIES) -> Path | None:
    """The newest version that is installed whole."""
    found = [path for path in root.glob("*/bin") if all((path / name).exists() for name in ("initdb", "pg_ctl"))]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def _user() -> tuple[Sequence[str], pwd.struct_passwd | None]:
    """PostgreSQL refuses to run as root: then it runs as ``postgres``, else as whoever runs the tests."""
    if os.getuid() != 0:
        return (), None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names[NOBODY]
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"), user


@contextmanager
def running(binaries: Path, *, superuser: str = "wavelift") -> Iterator[Postgres]:
    """A server for as long as the block lasts."""
    prefix, user = _user()
    # Short: a socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="wl-pg-"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = Postgres(folder, binaries, tuple(prefix), superuser)
    try:
        server.init()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
