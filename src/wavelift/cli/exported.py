"""Exported files of the audit trail: written, continued and read, a line at a time."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from wavelift.airflow.rest import ApiClient
from wavelift.base.errors import PermanentError
from wavelift.base.private import private_file
from wavelift.cli.connect import fail
from wavelift.console.audit_answers import SealedPage
from wavelift.rules.seals import LONGEST_LINE, Difference, Kind, Seal, SealedFile

FIRST_BYTES: Final = b'{"seal":{'
"""Of every exported file: the line of its first seal."""


@dataclass(slots=True)
class SealedFiles:
    """What is kept of an exported file that was read.

    :param with_digests: also the digest of each seal, to compare them with the ledger's.
    """

    with_digests: bool
    file: SealedFile = field(default_factory=SealedFile)
    _digests: dict[int, str] = field(default_factory=dict)

    def keep(self, seal: Seal) -> None:
        if self.with_digests:
            self._digests[seal.last_event_id] = seal.digest

    def compare(self, last_event_id: int, digest: str) -> Difference | None:
        """With a seal of the ledger. One that the file does not have is no difference."""
        kept = self._digests.pop(last_event_id, digest)
        if kept == digest:
            return None
        what = f"The seal that ends with event {last_event_id} has another digest in the ledger: it was sealed anew"
        return Difference(kind=Kind.SEAL, event_id=None, what=what)

    def missing(self) -> Difference | None:
        """Seals of the file that the ledger did not show."""
        if not self._digests:
            return None
        what = f"The seal that ends with event {min(self._digests)} is in the file and not in the ledger"
        return Difference(kind=Kind.SEAL, event_id=None, what=what)

    def told(self) -> dict[str, Any]:
        last = self.file.last
        told = {"events": self.file.events, "seals": self.file.seals}
        return {**told, "last_event_id": last.last_event_id if last else 0, "digest": last.digest if last else ""}


def read_file(name: str, kept: SealedFiles) -> None:
    """Check a whole file. What is wrong with it ends the command."""
    kept.file.tell = kept.keep
    with _told(name):
        try:
            with Path(name).open("rb") as file:
                for line in _lines(file):
                    kept.file.take(line)
                kept.file.end()
        except OSError as error:
            fail(f"{name} can't be read: {error.strerror}")


def to_stdout(api: ApiClient, after: int) -> SealedFile:
    done = SealedFile()
    with _told("The ledger"):
        for line in _sealed(api, after, done):
            sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    return done


def to_file(api: ApiClient, name: str) -> SealedFile:
    """Continue a file after its last whole seal; what a kill left after that is written anew.

    Only its user may read it. It ends with a whole seal, unless the process is killed.
    """
    path = Path(name)
    try:
        _require_ours(path, name)
        private_file(path)
        with path.open("r+b") as file:
            _lock(file, name)
            with _told(name):
                done = _continued(file)
            try:
                with _told("The ledger"):
                    for line in _sealed(api, done.last.last_event_id if done.last else 0, done):
                        file.write(line)
            finally:
                file.truncate(done.whole_bytes)
            file.flush()
            os.fsync(file.fileno())
            return done
    except OSError as error:
        fail(f"{name} can't be written: {error.strerror}")


def _require_ours(path: Path, name: str) -> None:
    """What an export was killed in is cut off, so it must be a file of an export: another one would be lost."""
    if path.exists():
        with path.open("rb") as file:
            first = file.readline(LONGEST_LINE)
        if first.endswith(b"\n"):
            with _told(name):
                SealedFile().take(first)
        elif not FIRST_BYTES.startswith(first[: len(FIRST_BYTES)]):
            fail(f"{name} is no exported audit trail, and stays as it is: name another file")


def _continued(file: BinaryIO) -> SealedFile:
    """The file as it is, checked; positioned after its last whole seal."""
    done = SealedFile()
    for line in _lines(file):
        if not line.endswith(b"\n"):
            break
        done.take(line)
    done.forget_open_seal()
    file.seek(done.whole_bytes)
    file.truncate()
    return done


def _sealed(api: ApiClient, after: int, done: SealedFile) -> Iterator[bytes]:
    """The lines after this seal, each checked by ``done`` before it is given; a page in memory at a time."""
    more = True
    while more:
        page = SealedPage.model_validate(api.call("GET", f"/wavelift/audit/sealed?after={after}"))
        for group in page.groups:
            for text in (group.seal, *group.events):
                line = f"{text}\n".encode()
                done.take(line)
                yield line
            done.end()
            after = group.last_event_id
        more = page.more


def _lock(file: IO[Any], name: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"Another export writes to {name}; wait for it")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE):
        yield line


@contextmanager
def _told(place: str) -> Iterator[None]:
    try:
        yield
    except PermanentError as error:
        fail(f"{place}: {error}")
