"""Requests of REST APIs and what their answers say, also where they are not what was hoped for."""

from __future__ import annotations

import pytest

from wavelift.base.errors import (
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    SpecError,
    ThrottledError,
    UnreachableError,
    UnsafeTextError,
)
from wavelift.base.rest import Ask, RestPlace, refused, segment, split_https
from wavelift.base.rest_message import Answer, UnreadableError

pytestmark = pytest.mark.unit

BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb">]><entries><entry><string>message</string></entry></entries>'
)


def _answer(data: bytes, status: int = 400) -> Answer:
    return Answer(status, {}, data, "HCX")


def test_what_may_be_sent_twice() -> None:
    assert Ask("GET", "/x").repeatable
    assert not Ask("POST", "/x").repeatable
    assert Ask("PATCH", "/x", again=True).repeatable
    assert Ask("GET", "/x", {"a b": "c&d"}).target == "/x?a%20b=c%26d"


def test_bodies_have_their_type() -> None:
    assert Ask("POST", "/x", body={"a": 1}).payload() == (b'{"a": 1}', {"Content-Type": "application/json"})
    assert Ask("POST", "/x", form={"a": "b c"}).payload()[0] == b"a=b+c"
    assert Ask("GET", "/x").payload() == (None, {})
    assert "secret" not in repr(Ask("POST", "/x", form={"t": "secret"}, headers={"Authorization": "secret"}))


def test_a_segment_of_a_path_leads_nowhere_else() -> None:
    assert segment("a/b?c#d e") == "a%2Fb%3Fc%23d%20e"
    for text in ("", ".", ".."):
        with pytest.raises(UnsafeTextError):
            segment(text)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"error_message": "broken", "error_code": 1}', "broken"),
        (b'{"errors": [{"message": "one"}, {"message": "two"}, 7]}', "one; two"),
        (b"<entries><entry><string>message</string><string>not ready</string></entry></entries>", "not ready"),
        (b"<html><body>Bad Gateway</body></html>", "<html><body>Bad Gateway</body></html>"),
        (b"[1]", "[1]"),
        (b"\xff\x00", "\ufffd\\x00"),
        (b"", ""),
        (b"[" * 100_000, "[" * 999 + "…"),
    ],
    ids=["NSX", "HCX", "XML", "HTML", "list", "binary", "nothing", "deep"],
)
def test_words_are_found_where_vendors_put_them(data: bytes, words: str) -> None:
    assert _answer(data).words() == words


def test_a_document_type_is_not_read() -> None:
    assert _answer(BOMB).error_fields == {}


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b"\xff"])
def test_an_answer_that_is_no_object_is_told(data: bytes) -> None:
    with pytest.raises(UnreadableError, match="HCX"):
        _answer(data, 200).object()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, LoginError),
        (403, MissingPrivilegeError),
        (404, NotFoundError),
        (429, ThrottledError),
        (503, UnreachableError),
    ],
)
def test_statuses_mean_the_same_everywhere(status: int, kind: type[Exception]) -> None:
    error = refused(_answer(b'{"message": "why"}', status), {"segment": "x"})
    assert type(error) is kind
    assert "why" in str(error)
    assert "segment=x" in str(error)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://a.example", ("a.example", 443, "")),
        ("https://a.example:8443/base/", ("a.example", 8443, "/base")),
    ],
)
def test_addresses_are_split(url: str, found: tuple[str, int, str]) -> None:
    assert split_https(url, "it") == found


@pytest.mark.parametrize(
    "url", ["http://a", "https://", "https://me:pw@a", "https://a?x", "https://a#x", "https://a:x", "https://a b/", "a"]
)
def test_other_addresses_are_refused_without_their_login(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        split_https(url, "the address")
    assert "pw" not in str(caught.value)


def test_a_place_is_checked_when_it_is_made() -> None:
    with pytest.raises(UnsafeTextError):
        RestPlace(system="NSX", host="a\r\nHost: b")
    with pytest.raises(UnsafeTextError):
        RestPlace(system="NSX", host="a", base="/x y")
    with pytest.raises(SpecError):
        RestPlace(system="NSX", host="a", certificate_mode="thumbprint")
