"""The keys of grants as files: who may read them, how they are rotated, and what a connector makes of them (AMP-03)."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.unit.rules.test_grants import GRANT, HOUR, INTENT, NOW

from wavelift.base.errors import GrantError, PermanentError
from wavelift.rules.grants import LEEWAY, LONGEST_LIFETIME, Intent, kid_of, sign
from wavelift.services.common import grant_keys
from wavelift.services.common.grant_keys import KeyFiles, known_keys, private_key, prune, rotate
from wavelift.services.dataplane.grants import verify

pytestmark = pytest.mark.unit


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    made = KeyFiles(tmp_path / "home" / "wavelift" / "grants" / "private.pem", tmp_path / "home" / "public")
    assert grant_keys.keygen(made)
    return made


def signed(files: KeyFiles) -> str:
    return sign(GRANT, private_key(files.private), now=NOW, lifetime=HOUR)


def verified(files: KeyFiles, token: str, intent: Intent = INTENT, *serves: str) -> Any:
    return verify(token, intent, keys=files.public, serves=serves, now=NOW)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_pair_is_made_once_and_only_its_public_half_is_for_others(tmp_path: Path, mask: int) -> None:
    files = KeyFiles(tmp_path / "new" / "grants" / "private.pem", tmp_path / "new" / "public")
    before = os.umask(mask)
    try:
        kid = grant_keys.keygen(files)
    finally:
        os.umask(before)
    assert kid is not None
    assert files.private.stat().st_mode & 0o777 == 0o600
    assert files.public_of(kid).stat().st_mode & 0o777 == 0o644
    assert {folder.stat().st_mode & 0o777 for folder in (tmp_path / "new", files.private.parent)} == {0o700}
    assert b"PRIVATE" not in files.public_of(kid).read_bytes()
    held = files.private.read_bytes()
    assert grant_keys.keygen(files) is None
    assert files.private.read_bytes() == held
    files.public_of(kid).unlink()
    assert grant_keys.keygen(files) is None
    assert verified(files, signed(files)) == GRANT, "the public half was written again"
    assert not [path.name for path in tmp_path.rglob(".*")], "no file is left half made"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_private_key_that_others_can_use_signs_nothing(files: KeyFiles, mode: int) -> None:
    files.private.chmod(mode)
    with pytest.raises(PermanentError, match="Other users of this machine") as error:
        private_key(files.private)
    assert f"chmod 600 {files.private}" in str(error.value)
    assert error.value.where["link"] == "grant", "so the report makes it an event"
    assert "[wavelift] grant_key_file" in str(error.value)


def test_no_private_key_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="wavelift grants keygen") as error:
        private_key(tmp_path / "none.pem")
    assert str(tmp_path / "none.pem") in str(error.value)
    assert error.value.where["link"] == "grant"


def test_a_file_that_holds_something_else_is_no_private_key(files: KeyFiles) -> None:
    rsa = generate_private_key(public_exponent=65537, key_size=2048)
    for data in (b"", b"secret-words", rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        files.private.write_bytes(data)
        with pytest.raises(PermanentError, match="no Ed25519 private key") as error:
            private_key(files.private)
        assert "secret-words" not in str(error.value)
        assert error.value.where["link"] == "grant"


def test_a_grant_of_the_old_key_holds_after_a_rotation_for_as_long_as_any(files: KeyFiles) -> None:
    """The key is rotated between ``reserve`` and the retry of an export."""
    token = signed(files)
    old, new, until = rotate(files, now=NOW)
    assert until == NOW + LONGEST_LIFETIME + LEEWAY, "a connector's clock may be behind"
    assert verified(files, token) == GRANT
    assert verified(files, signed(files)) == GRANT
    assert kid_of(private_key(files.private).public_key()) == new
    assert files.private.stat().st_mode & 0o777 == 0o600
    found = {one.kid: (one.state, one.until) for one in known_keys(files)}
    assert found == {new: ("signs", None), old: ("retired", until)}
    assert prune(files, now=until - timedelta(seconds=1)) == []
    assert [one.kid for one in prune(files, now=until)] == [old]
    with pytest.raises(GrantError) as error:
        verified(files, token)
    assert (error.value.field, error.value.where["kid"]) == ("kid", old)
    assert f"{old}.pem" in error.value.next_step
    assert "[wavelift] grant_keys_folder" in error.value.next_step


def test_a_next_key_can_reach_the_connectors_before_it_signs(files: KeyFiles) -> None:
    coming = grant_keys.prepare(files)
    assert grant_keys.prepare(files) == coming, "a prepared one stays"
    assert {one.kid: one.state for one in known_keys(files)}[coming] == "next"
    assert kid_of(private_key(files.private).public_key()) != coming
    assert rotate(files, now=NOW)[1] == coming
    assert not files.next.exists()


def test_keys_of_others_in_the_folder_are_kept(files: KeyFiles) -> None:
    other = KeyFiles(files.private.with_name("other.pem"), files.public)
    kid = grant_keys.keygen(other)
    (files.public / "readme.pem").write_text("not a key")
    (mine,) = [one for one in known_keys(files) if one.state == "signs"]
    assert {one.kid: (one.state, one.until) for one in known_keys(files)} == {
        mine.kid: ("signs", None),
        kid: ("retired", None),
    }
    assert prune(files, now=NOW + timedelta(days=900)) == []


def test_a_public_key_under_another_name_or_that_anybody_may_write_is_not_believed(files: KeyFiles) -> None:
    token = signed(files)
    (known,) = known_keys(files)
    held = known.path.read_bytes()
    known.path.chmod(0o666)
    with pytest.raises(GrantError, match="every user of this machine may write it"):
        verified(files, token)
    known.path.chmod(0o644)
    other = KeyFiles(files.private.with_name("other.pem"), files.public)
    kid = grant_keys.keygen(other)
    known.path.write_bytes(other.public_of(str(kid)).read_bytes())
    with pytest.raises(GrantError, match="it holds another key"):
        verified(files, token)
    known.path.write_bytes(b"x")
    with pytest.raises(GrantError, match="no Ed25519 public key"):
        verified(files, token)
    known.path.write_bytes(held)
    assert verified(files, token) == GRANT


def test_a_worker_that_says_which_connector_it_is_takes_no_task_of_another(files: KeyFiles) -> None:
    """Its own configuration, not the XCom and not the grant, says so."""
    token = signed(files)
    assert verified(files, token, INTENT, "dc1", "dc2") == GRANT
    with pytest.raises(GrantError, match="does not serve the queue") as error:
        verified(files, token, INTENT, "dc2")
    assert "[wavelift] connector" in error.value.next_step


def test_a_grant_is_verified_with_all_that_it_is_compared_with(files: KeyFiles) -> None:
    token = signed(files)
    for each in fields(Intent):
        other: Any = {"scope": "look", "action": "replicate"}.get(each.name, "other")
        with pytest.raises(GrantError):
            verified(files, token, replace(INTENT, **{each.name: other}))


def test_a_folder_in_which_anybody_may_put_a_key_holds_no_key(files: KeyFiles, tmp_path: Path) -> None:
    """A key file of a stranger has the right name and mode: the folder decides who may put it there."""
    token = signed(files)
    files.public.chmod(0o777)
    with pytest.raises(GrantError, match="every user of this machine may write the folder"):
        verified(files, token)
    files.public.chmod(0o755)
    assert verified(files, token) == GRANT
    (known,) = known_keys(files)
    open_place = tmp_path / "tmp"
    open_place.mkdir()
    open_place.chmod(0o1777)
    known.path.rename(open_place / "key.pem")
    known.path.symlink_to(open_place / "key.pem")
    with pytest.raises(GrantError, match="every user of this machine may write the folder"):
        verified(files, token)


def test_a_folder_on_a_read_only_volume_is_open_to_nobody(files: KeyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes mounts a ConfigMap."""
    files.public.chmod(0o777)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert verified(files, signed(files)) == GRANT


def test_a_key_that_is_rotated_between_signing_and_verifying_is_still_known(files: KeyFiles) -> None:
    token = signed(files)
    for _ in range(3):
        rotate(files, now=NOW)
        assert verified(files, token) == GRANT
        assert verified(files, signed(files)) == GRANT


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_folder_of_public_keys_is_never_open_to_all(tmp_path: Path, mask: int) -> None:
    files = KeyFiles(tmp_path / "new" / "grants" / "private.pem", tmp_path / "new" / "public")
    before = os.umask(mask)
    try:
        grant_keys.keygen(files)
    finally:
        os.umask(before)
    assert files.public.stat().st_mode & 0o777 == 0o755
    assert verified(files, signed(files)) == GRANT


def test_half_of_a_surrogate_pair_is_no_token(files: KeyFiles) -> None:
    """JSON holds it, so an edited XCom can; nothing can encode it."""
    for text in ("\ud800.a.b", signed(files)[:-1] + "\udfff", "é.é.é"):
        with pytest.raises(GrantError) as caught:
            verified(files, text)
        assert caught.value.where["field"] == "token"
