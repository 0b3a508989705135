from __future__ import annotations

import logging
import pickle
import unicodedata

import pytest
from hypothesis import given
from tests.hostile import CLEVER, texts

from wavelift.base.errors import NotFoundError, WaveliftError, located
from wavelift.base.printable import LONGEST, Lines, printable, printable_lines, without_login

pytestmark = pytest.mark.unit

INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def is_plain(text: str) -> bool:
    return not any(unicodedata.category(char) in INVISIBLE for char in text)


@given(text=texts)
def test_what_is_printed_is_one_line_of_visible_characters(text: str) -> None:
    shown = printable(text)
    assert is_plain(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()  # no lone surrogate is left
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["web01", "wéb 01", "サーバー", "[ds] a/b.vmdk", "خادم", "🚀", "", "a b\u00a0c"])
def test_ordinary_names_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_what_is_not_visible_is_shown_as_its_escape() -> None:
    assert printable("a\nb\r\t\x1b[2J\u202eexe\ud800\u2028") == r"a\nb\r\t\x1b[2J\u202eexe\ud800\u2028"


def test_a_long_text_is_cut() -> None:
    assert printable("x" * 80_000) == "x" * (LONGEST - 1) + "…"
    assert printable("abcdef", 4) == "abc…"


@given(text=texts)
def test_an_error_forges_no_line_whatever_it_quotes(text: str) -> None:
    error = NotFoundError(f"no VM {text}", next_step=f"look for {text}", server=text, disk=1)
    for shown in (error.what, error.next_step, str(error), str(pickle.loads(pickle.dumps(error)))):
        assert is_plain(shown)
    with pytest.raises(WaveliftError) as raised, located(host=text):
        raise error
    assert is_plain(str(raised.value))


@pytest.mark.parametrize("name", CLEVER)
def test_a_log_line_of_an_error_is_one_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("wavelift").warning("%s", WaveliftError("cannot be read", server=name))
    assert len(caplog.text.splitlines()) == 1
    assert "\x1b" not in caplog.text


def test_lines_that_wavelift_composed_stay_lines_and_their_texts_do_not_add_any() -> None:
    lines = printable_lines(["first", "web\n01: failed", "last"])
    error = WaveliftError(lines, next_step="Look")
    assert str(error) == "first\nweb\\n01: failed\nlast. Look"
    assert isinstance(pickle.loads(pickle.dumps(error)).what, Lines)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no answer from https://ana:geheim@vc.example/ui", "no answer from https://***@vc.example/ui"),
        ("http://ana:p@ss:w@vc.example:80", "http://***@vc.example:80"),
        ("'http://ana:geheim@a' and 'http://b/@x'", "'http://***@a' and 'http://b/@x'"),
        ("administrator@vsphere.local has no right", "administrator@vsphere.local has no right"),
        ("http://[user:password@]host:port", "http://[user:password@]host:port"),
    ],
)
def test_an_error_tells_no_login_of_an_address(text: str, shown: str) -> None:
    error = WaveliftError(text, next_step=text, endpoint=text)
    assert str(error) == f"{shown} [endpoint={shown}]. {shown}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("text", ["ana:geheim@x", "a:b@geheim@x", "Invalid endpoint: ana:geheim/@x"])
def test_a_login_without_a_scheme_is_hidden_where_an_address_stands(text: str) -> None:
    assert "geheim" not in without_login(text, bare=True)
    assert without_login(text, bare=True).endswith("***@x")
