"""The pair of keys of grants: made, rotated, listed. The private one is a file of the control plane and nothing else:
an Airflow Variable or Connection could be read by every worker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from wavelift.base.errors import PermanentError
from wavelift.base.private import FILE, is_open_to_others, private_folder
from wavelift.rules.authority import Link
from wavelift.rules.grants import KID, LEEWAY, LONGEST_LIFETIME, SUFFIX, kid_of, public_from

SETTING: Final = "[wavelift] grant_key_file"
NEXT: Final = ".next"
"""Beside the private key: the next one, made in advance."""
READABLE: Final = 0o644
FOLDER: Final = 0o755
"""Of the public keys."""
_RETIRED: Final = re.compile(r"^# not needed after (\S+)$", re.MULTILINE)
"""In a public key's file, before the key."""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where the keys lie.

    :param private: the key that signs. :param public: folder of the keys that connectors need.
    """

    private: Path
    public: Path

    @property
    def next(self) -> Path:
        return self.private.with_name(self.private.name + NEXT)

    def public_of(self, kid: str) -> Path:
        return self.public / f"{kid}{SUFFIX}"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One public key.

    :param state: ``signs``, ``next`` or ``retired``. :param until: of a retired one: when the last grant that it signed
        has ended. None: of another control plane, or made by hand.
    """

    kid: str
    path: Path
    state: str
    until: datetime | None = None

    def is_over(self, now: datetime) -> bool:
        return self.state == "retired" and self.until is not None and self.until <= now


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs.

    :raises PermanentError: it is missing, others can read it, or it is no such key.
    """
    try:
        open_to_others = is_open_to_others(path)
        data = path.read_bytes()
    except FileNotFoundError:
        raise PermanentError(
            f"There is no private key {path} that signs grants ({SETTING})",
            next_step="Run 'wavelift grants keygen' on the control plane, as the user that runs Airflow",
            link=Link.GRANT.value,
        ) from None
    except OSError as error:
        raise PermanentError(
            f"The private key {path} can't be read: {error.strerror}",
            next_step=f"Give it to the user that runs Airflow's tasks ({SETTING})",
            link=Link.GRANT.value,
        ) from error
    if open_to_others:
        raise PermanentError(
            f"Other users of this machine can use the private key {path}",
            next_step=f"Run 'chmod 600 {path}'; if somebody may have read it, 'wavelift grants rotate' too ({SETTING})",
            link=Link.GRANT.value,
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise PermanentError(
            f"{path} is no Ed25519 private key without a password",
            next_step=f"Remove the file and run 'wavelift grants keygen' ({SETTING})",
            link=Link.GRANT.value,
        )
    return key


def keygen(files: KeyFiles) -> str | None:
    """Make a pair if there is none.

    :returns: the name of the new key; None: there is one. Its public half is written again if that is missing.
    :raises PermanentError: there is one, and it is of no use.
    """
    if files.private.exists():
        _publish(files, private_key(files.private).public_key())
        return None
    key = Ed25519PrivateKey.generate()
    _publish(files, key.public_key())
    _keep(files.private, key)
    return kid_of(key.public_key())


def prepare(files: KeyFiles) -> str:
    """Make the next pair, which signs nothing yet: its public half can be copied to the connectors first.

    :returns: its name. A prepared one stays.
    """
    private_key(files.private)
    if not files.next.exists():
        _keep(files.next, Ed25519PrivateKey.generate())
    key = private_key(files.next).public_key()
    _publish(files, key)
    return kid_of(key)


def rotate(files: KeyFiles, *, now: datetime) -> tuple[str, str, datetime]:
    """Sign with the next pair from now on. The public key of the present one stays for the longest grant.

    A task that reads the private key at this moment gets one or the other, whole: its file is replaced at once.

    :returns: the name of the old key, of the new one, and until when the old public key is needed.
    """
    old = kid_of(private_key(files.private).public_key())
    new = prepare(files)
    until = (now + LONGEST_LIFETIME + LEEWAY).replace(microsecond=0)  # a connector's clock may be behind
    _publish(files, private_key(files.private).public_key(), until=until)
    files.next.replace(files.private)
    return old, new, until


def known_keys(files: KeyFiles) -> list[KnownKey]:
    """Every public key of the folder, the one that signs first."""
    found = list(_known(files))
    order = ("signs", "next", "retired")
    return sorted(found, key=lambda one: (order.index(one.state), one.until or datetime.max.replace(tzinfo=UTC)))


def prune(files: KeyFiles, *, now: datetime) -> list[KnownKey]:
    """Remove retired public keys whose last grant has ended.

    :returns: what was removed.
    """
    over = [one for one in known_keys(files) if one.is_over(now)]
    for one in over:
        one.path.unlink(missing_ok=True)
    return over


def _known(files: KeyFiles) -> Iterator[KnownKey]:
    signs, coming = (
        kid_of(private_key(path).public_key()) if path.exists() else "" for path in (files.private, files.next)
    )
    for path in sorted(files.public.glob(f"*{SUFFIX}")):
        kid = path.name.removesuffix(SUFFIX)
        if not KID.fullmatch(kid):
            continue
        if kid in (signs, coming):
            yield KnownKey(kid, path, "signs" if kid == signs else "next")
            continue
        retired = _RETIRED.search(path.read_text(encoding="utf-8", errors="replace"))
        yield KnownKey(kid, path, "retired", _instant(retired.group(1)) if retired else None)


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def _publish(files: KeyFiles, key: Ed25519PublicKey, *, until: datetime | None = None) -> None:
    """Write the public half, unless the same key is there with nothing to add."""
    path = files.public_of(kid_of(key))
    if until is None and path.exists() and _holds(path, key):
        return
    _private_folders(files.public.parent)
    if not files.public.is_dir():
        files.public.mkdir(exist_ok=True)
        files.public.chmod(FOLDER)  # whatever the umask: who may write here may put a key of his own here
    said = f"# not needed after {until.isoformat()}\n" if until else ""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    _write(path, (said + pem).encode(), READABLE)


def _holds(path: Path, key: Ed25519PublicKey) -> bool:
    try:
        return kid_of(public_from(path.read_bytes())) == kid_of(key)
    except ValueError:
        return False


def _keep(path: Path, key: Ed25519PrivateKey) -> None:
    _private_folders(path.parent)
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), FILE)


def _private_folders(folder: Path) -> None:
    """Also each missing one above it."""
    for each in (*reversed(folder.parents), folder):
        private_folder(each)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file at once; nobody ever sees half of it, or it with another mode."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE)
    try:
        os.write(descriptor, data)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(path)
