"""What a grant says, when it holds, and that it holds for nothing else (AMP-03)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.conftest import _environment, _wave

from wavelift.base.errors import GrantError
from wavelift.rules import grants
from wavelift.rules.grants import (
    LEEWAY,
    Grant,
    Intent,
    Scope,
    Work,
    digest_of_wave,
    kid_in,
    kid_of,
    read,
    require,
    require_uncleared,
    sign,
)
from wavelift.rules.plans import resolve

pytestmark = pytest.mark.unit

KEY: Final = Ed25519PrivateKey.generate()
PUBLIC: Final = KEY.public_key()
NOW: Final = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
GRANT: Final = Grant(
    scope="move",
    user="ana",
    action="migrate",
    environment="prod",
    dag_id="erp.migrate",
    run_id="manual__1",
    server="web01",
    vm="5029-uuid",
    vcenter="vsphere_dc1",
    connector="dc1",
    plan="a" * 64,
    entry="b" * 64,
)
INTENT: Final = Intent(**{each.name: getattr(GRANT, each.name) for each in fields(Intent)})
SCOPES: Final = get_args(Scope)
WORKS: Final = get_args(Work)
MOVE: Final = st.builds(
    lambda scope, action, values: Intent(scope=scope, action=action, **values),
    st.sampled_from(SCOPES),
    st.sampled_from(WORKS),
    st.fixed_dictionaries(
        {each.name: st.text(max_size=40) for each in fields(Intent) if each.name not in ("scope", "action")}
    ),
)


def token(grant: Grant = GRANT, key: Ed25519PrivateKey = KEY, lifetime: timedelta = HOUR) -> str:
    return sign(grant, key, now=NOW, lifetime=lifetime)


def parts(signed: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = signed.split(".")
    decoded = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, claims)]
    return decoded[0], decoded[1]


def refused(signed: str, *, at: datetime = NOW) -> GrantError:
    with pytest.raises(GrantError) as error:
        kid_in(signed, "move")
        read(signed, PUBLIC, now=at)
    assert error.value.where["link"] == "grant_verified"
    assert error.value.next_step
    return error.value


def test_what_was_signed_is_read_and_names_its_key() -> None:
    signed = token()
    assert read(signed, PUBLIC, now=NOW) == GRANT
    header, claims = parts(signed)
    assert header == {"alg": "EdDSA", "typ": "JWT", "kid": kid_of(PUBLIC)}
    assert kid_in(signed, "move") == kid_of(PUBLIC)
    assert set(grants.REQUIRED) <= claims.keys()
    assert (claims["sub"], claims["aud"], claims["exp"] - claims["nbf"]) == ("ana", "dc1", 3600)
    require(GRANT, INTENT)


def test_a_look_carries_whom_vcenter_is_asked_about() -> None:
    changes = {"scope": "look", "server": "*", "vm": "", "principals": {"*": "CORP\\ana"}, "vcenter_check": "mapped"}
    look = GRANT.model_copy(update=changes)
    assert read(token(look), PUBLIC, now=NOW) == look


@pytest.mark.parametrize("field", [each.name for each in fields(Intent)])
def test_a_grant_for_anything_else_is_refused_and_names_the_field(field: str) -> None:
    other: Any = {"scope": "look", "action": "replicate"}.get(field, "other")
    with pytest.raises(GrantError) as error:
        require(GRANT, replace(INTENT, **{field: other}))
    claim = {"user": "sub", "connector": "aud"}.get(field, field)
    assert error.value.field == error.value.where["field"] == claim
    assert (error.value.where["expected"], error.value.where["found"]) == (str(getattr(GRANT, field)), other)
    assert "another" in error.value.what
    assert "Trigger a new run" in error.value.next_step if field == "connector" else "Clear" in error.value.next_step


@pytest.mark.parametrize(
    ("scope", "task"),
    [
        ("move", "the server's server.reserve task"),
        ("stop", "the server's server.reserve task"),
        ("look", "the run's admit task"),
    ],
)
def test_a_run_that_began_before_grants_says_which_task_issues_one(scope: Scope, task: str) -> None:
    """After an upgrade, servers are under way whose XComs have no token."""
    with pytest.raises(GrantError, match="The task before left no grant") as error:
        kid_in("", scope)
    assert error.value.field == "token"
    assert error.value.next_step.startswith(f"Clear {task}: it issues one")
    assert "before an upgrade" in error.value.next_step


@given(granted=MOVE, wanted=MOVE)
def test_a_grant_holds_exactly_for_its_own_intent(granted: Intent, wanted: Intent) -> None:
    grant = Grant(**{each.name: getattr(granted, each.name) for each in fields(Intent)})
    signed = sign(grant, KEY, now=NOW, lifetime=HOUR)
    found = read(signed, PUBLIC, now=NOW)
    require(found, granted)
    if granted != wanted:
        with pytest.raises(GrantError):
            require(found, wanted)


@given(granted=MOVE, wanted=MOVE)
def test_no_source_is_stopped_by_any_other_grant(granted: Intent, wanted: Intent) -> None:
    """Of another scope or work, and of another server, VM, run or connector: each alone is enough to refuse."""
    stop = replace(wanted, scope="stop", action="cutover")
    as_granted = {each.name: getattr(granted, each.name) for each in fields(Intent)}
    for name in as_granted:
        # all as wanted but this one field
        grant = Grant(**{**{each.name: getattr(stop, each.name) for each in fields(Intent)}, name: as_granted[name]})
        if as_granted[name] == getattr(stop, name):
            require(grant, stop)
            continue
        with pytest.raises(GrantError) as error:
            require(grant, stop)
        assert error.value.field == {"user": "sub", "connector": "aud"}.get(name, name)


@given(data=st.data())
def test_no_edited_claim_is_believed(data: st.DataObject) -> None:
    """Whatever single claim is changed, added or removed in a token: the signature does not match any more."""
    header, claims, signature = token().split(".")
    stated = json.loads(base64.urlsafe_b64decode(claims + "=="))
    name = data.draw(st.sampled_from(sorted(stated)))
    value = data.draw(st.none() | st.text(max_size=20) | st.integers(0, 2**40))
    if stated[name] == value:
        return
    edited = base64.urlsafe_b64encode(json.dumps(stated | {name: value}).encode()).rstrip(b"=").decode()
    assert refused(f"{header}.{edited}.{signature}").field == "signature"


def test_another_control_plane_s_key_signs_nothing_here() -> None:
    other = Ed25519PrivateKey.generate()
    headed = jwt.encode(parts(token())[1], other, algorithm="EdDSA", headers={"kid": kid_of(PUBLIC)})
    assert refused(headed).field == "signature"


def test_alg_none_and_a_public_key_as_password_are_no_signature() -> None:
    """The two classic confusions: no algorithm at all, and HMAC with the public key, which everybody may know."""
    claims, kid = parts(token())[1], {"kid": kid_of(PUBLIC)}
    raw = PUBLIC.public_bytes(Encoding.Raw, PublicFormat.Raw)
    for forged in (
        jwt.encode(claims, "", algorithm="none", headers=kid),
        jwt.encode(claims, raw, algorithm="HS256", headers=kid),
        jwt.encode(claims, hashlib.sha256(raw).hexdigest(), algorithm="HS512", headers=kid),
    ):
        assert refused(forged).field == "alg"
        with pytest.raises(GrantError):  # also where the header was not looked at before
            read(forged, PUBLIC, now=NOW)


@pytest.mark.parametrize("kid", [None, "", "../../etc/passwd", "A" * 16, "0" * 15, "0" * 17, 7, "0" * 15 + "\n"])
def test_the_name_of_a_key_is_no_path(kid: Any) -> None:
    def b64(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    signed = f"{b64({'alg': 'EdDSA', 'kid': kid})}.{b64({})}.AAAA"
    assert refused(signed).field in ("kid", "token")


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "....", "é.é.é"])
def test_what_is_no_token_is_refused(text: str) -> None:
    assert refused(text).field == "token"


@pytest.mark.parametrize("claim", grants.REQUIRED)
def test_a_claim_that_must_be_there_is_missed(claim: str) -> None:
    claims = {name: value for name, value in parts(token())[1].items() if name != claim}
    signed = jwt.encode(claims, KEY, algorithm="EdDSA", headers={"kid": kid_of(PUBLIC)})
    assert refused(signed).field == claim


@pytest.mark.parametrize("changes", [{"exp": "soon"}, {"iat": True}, {"scope": "all"}, {"server": 7}, {"exp": 1e12}])
def test_claims_of_another_type_are_refused(changes: dict[str, Any]) -> None:
    claims = parts(token())[1] | changes
    signed = jwt.encode(claims, KEY, algorithm="EdDSA", headers={"kid": kid_of(PUBLIC)})
    assert refused(signed).field == next(iter(changes))


def test_the_clocks_may_be_120_seconds_apart_and_no_more() -> None:
    signed, ends = token(), NOW + HOUR
    second = timedelta(seconds=1)
    for moment in (NOW - LEEWAY, NOW, ends, ends + LEEWAY - second):
        assert read(signed, PUBLIC, now=moment) == GRANT
    late = refused(signed, at=ends + LEEWAY)
    assert (late.field, late.next_step) == ("exp", "Clear the server's server.reserve task")
    early = refused(signed, at=NOW - LEEWAY - second)
    assert early.field == "nbf"
    assert "clocks" in early.next_step
    assert refused(signed, at=NOW - timedelta(minutes=3)).field == "nbf", "a connector's clock that is 3 minutes slow"


def test_an_expired_look_says_where_a_new_one_comes_from() -> None:
    look = GRANT.model_copy(update={"scope": "look"})
    assert refused(token(look), at=NOW + 2 * HOUR).next_step == "Clear the run's admit task"


def test_another_task_that_issues_it_is_the_way_out_of_whatever_is_wrong() -> None:
    """On the way back of a cutover it is ``undo``: no server has a ``reserve`` there."""
    stop = GRANT.model_copy(update={"scope": "stop"})
    forged = token(stop, Ed25519PrivateKey.generate())
    ways: list[Callable[[], Any]] = [
        lambda: kid_in("", "stop", issuer="undo"),
        lambda: kid_in("x.y.z", "stop", issuer="undo"),
        lambda: read(forged, PUBLIC, now=NOW, issuer="undo"),
        lambda: read(token(stop), PUBLIC, now=NOW + 2 * HOUR, issuer="undo"),
        lambda: require(stop, replace(INTENT, scope="stop", vm="other"), issuer="undo"),
    ]
    for way in ways:
        with pytest.raises(GrantError) as error:
            way()
        assert error.value.next_step.startswith("Clear the run's undo task")
        assert "reserve" not in error.value.next_step


def test_no_grant_outlives_the_public_key_of_a_rotated_pair() -> None:
    claims = parts(token(lifetime=timedelta(days=400)))[1]
    assert timedelta(seconds=claims["exp"] - claims["iat"]) == grants.LONGEST_LIFETIME
    assert grants.lifetime_of_move(24) == timedelta(hours=25)
    assert grants.lifetime_of_move(24, before=timedelta(hours=2)) == timedelta(hours=27)
    assert grants.lifetime_of_move(168, before=grants.LONGEST_SHUTDOWN) <= grants.LONGEST_LIFETIME


def test_the_digest_of_a_wave_is_of_all_that_pre_flight_uses() -> None:
    wave = resolve(_wave("web01", "web02"), _environment())
    changed = [
        wave.model_copy(update={"servers": wave.servers[:1]}),
        wave.model_copy(update={"connection": "other"}),
        wave.model_copy(update={"environment": wave.environment.model_copy(update={"aws_conn_id": "other"})}),
        wave.model_copy(update={"environment": wave.environment.model_copy(update={"vcenter_check": "off"})}),
    ]
    digests = {digest_of_wave(one) for one in (wave, *changed)}
    assert len(digests) == 1 + len(changed)
    assert digest_of_wave(type(wave).load(json.loads(json.dumps(wave.dump())))) == digest_of_wave(wave)


def test_an_order_from_before_a_clear_is_refused_and_says_which_task_gives_a_new_one() -> None:
    for scope in ("live", "network"):
        grant = read(token(GRANT.model_copy(update={"scope": scope, "clear_number": 0})), PUBLIC, now=NOW)
        require_uncleared(grant.clear_number, 0, issuer="order_unextend")
        with pytest.raises(GrantError, match="cleared after the order was given") as error:
            require_uncleared(grant.clear_number, 1, issuer="order_unextend")
        assert error.value.where["field"] == "clear_number"
        assert "order_unextend" in error.value.next_step
    require_uncleared(GRANT.clear_number, 7, issuer="reserve")  # a snapshot's grant is shown again after a clear
