"""Looks for secrets in bytes, in each form in which one may have been written."""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

__test__ = False

TOKEN: Final = re.compile(rb"eyJ[\w-]{16,}\.eyJ[\w-]{16,}\.[\w-]{16,}")
"""A signed token of Airflow, whoever's."""
SIGNED: Final = "a signed token"
EVERY_S: Final = 0.1


def forms(secret: str) -> set[bytes]:
    """Plain, escaped for JSON, HTML and URLs, in hexadecimal, in UTF-16, and within any base64."""
    plain = secret.encode()
    quoted = quote(secret, safe="")
    found = {
        plain,
        json.dumps(secret)[1:-1].encode(),
        html.escape(secret).encode(),
        quoted.encode(),
        re.sub("%..", lambda match: match[0].lower(), quoted).encode(),
        plain.hex().encode(),
        plain.hex().upper().encode(),
        secret.encode("utf-16-le"),
    }
    for before in range(3):  # where it may begin in a group of three bytes
        whole = base64.b64encode(bytes(before) + plain)
        inner = whole[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6]  # what neighbours do not change
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


class Scan:
    """The secrets to look for, each with a name. A name that is found tells which, and never its value."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        assert all(len(secret) >= 12 for secret in secrets.values()), "too short to be found only where it stands"
        self._needles = {needle: name for name, secret in secrets.items() for needle in forms(secret)}
        self._pattern = re.compile(b"|".join(re.escape(needle) for needle in self._needles))

    def of(self, content: bytes, *, tokens: bool = True) -> set[str]:
        """Names of the secrets in it."""
        found = {self._needles[match[0]] for match in self._pattern.finditer(content)}
        return found | ({SIGNED} if tokens and TOKEN.search(content) else set())

    def of_files(self, *folders: Path) -> dict[str, set[str]]:
        """Path → names, for each file below the folders; names of files are content, too."""
        found = {}
        for path in sorted(one for folder in folders for one in folder.rglob("*")):
            content = str(path).encode() + (b"\n" + path.read_bytes() if path.is_file() else b"")
            if names := self.of(content):
                found[str(path)] = names
        return found


class Processes:
    """Looks at all processes of the machine again and again, until the block ends."""

    def __init__(self, scan: Scan, home: Path) -> None:
        """:param home: working directory of Airflow's own processes."""
        self._scan, self._home = scan, home
        self.in_command_lines: dict[str, set[str]] = {}
        self.in_environments: dict[str, set[str]] = {}
        """Of processes that are none of Airflow's."""
        self.in_airflow: set[str] = set()
        """In the environment of any of Airflow's."""
        self.seen: set[str] = set()
        """Every command line that was looked at."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        for line, environment, ours in self._all():
            words = line.replace(b"\0", b" ").decode(errors="replace")
            self.seen.add(words)
            if names := self._scan.of(line):
                self.in_command_lines.setdefault(words.split(" ")[0], set()).update(names)
            names = self._scan.of(environment)
            if ours:
                self.in_airflow |= names
            elif names:
                self.in_environments.setdefault(words, set()).update(names)

    def _all(self) -> Iterator[tuple[bytes, bytes, bool]]:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                ours = (entry / "cwd").readlink().is_relative_to(self._home)
                yield (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes(), ours
            except OSError:
                continue  # ended meanwhile, or another user's
