"""How wavelift reads YAML: the text as written, and every problem with its line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wavelift.specs.document import Document

pytestmark = pytest.mark.unit


def read(text: str) -> Any:
    document = Document(Path("waves/x.yaml"), text)
    assert document.issues == []
    return document.value


def issues(text: str) -> list[str]:
    return [str(issue) for issue in Document(Path("waves/x.yaml"), text).issues]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("yes", "yes"),
        ("true", "true"),
        ("False", "False"),
        ("~", None),
        ("", None),
        ("'null'", "null"),
        ("12", "12"),
        ("-3", "-3"),
        ("0123", "0123"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("0x1f", "0x1f"),
        ("1.10", "1.10"),
        ("1.", "1."),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("10.0.0.1", "10.0.0.1"),
        ("2026-11-22", "2026-11-22"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("=", "="),
    ],
)
def test_a_scalar_is_what_stands_in_the_file(text: str, value: object) -> None:
    found = read(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


json_like = st.recursive(
    st.none() | st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), json_like, min_size=1, max_size=4))
def test_what_yaml_dumps_comes_back(value: dict[str, Any]) -> None:
    assert read(yaml.safe_dump(value)) == value


def test_merge_keys_and_anchors_work() -> None:
    value = read("base: &b {a: 1, c: 3}\none: {<<: *b, a: 2}\nlist: [*b, {<<: [*b, {c: 9, d: 4}]}]\n")
    assert value["one"] == {"a": "2", "c": "3"}
    assert value["list"] == [{"a": "1", "c": "3"}, {"a": "1", "c": "3", "d": "4"}]


def test_blocks_for_anchors_are_dropped_at_the_top_level_only() -> None:
    assert read("x-base: &b {a: [1]}\none: {<<: *b, x-inner: 2}\n'x-': ~\n") == {"one": {"a": ["1"], "x-inner": "2"}}
    assert issues("x-base: {a: 1, a: 2}") == [
        "waves/x.yaml:1: x-base.a: duplicate key 'a', first on line 1; remove one"
    ]


WRITTEN = st.one_of(
    st.from_regex(r"[-+]?[0-9][0-9_]{0,12}", fullmatch=True),
    st.from_regex(r"[-+]?[0-9]{0,4}\.[0-9]{1,4}([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,2}(:[0-9]{2}){1,2}", fullmatch=True),
    st.from_regex(r"0[xob][0-9a-f]{1,8}", fullmatch=True),
    st.datetimes().map(str) | st.dates().map(str) | st.ip_addresses().map(str).filter(lambda text: "::" not in text),
    st.sampled_from(
        ["yes", "no", "on", "off", "y", "n", "True", "FALSE", ".inf", "-.INF", ".nan", "1e3", "1.2.3", "="]
    ),
)
"""What one YAML or another takes for something else than text."""


@given(WRITTEN)
def test_no_scalar_becomes_something_else(text: str) -> None:
    assert read(f"key: {text}\nlist: [{text}]\n{text}: 1")["key"] == text
    assert read(f"list:\n- {text}")["list"] == [text]
    assert list(read(f"{text}: 1")) == [text]


def test_nested_aliases_do_not_explode() -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 60))
    start = time.process_time()
    assert issues(text) == [
        "waves/x.yaml:5: more than 20000 values up to here if each alias is replaced by what it stands for; remove "
        "what the spec does not need, or split it"
    ]
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "waves/x.yaml:1: the file is empty"),
        ("- a", "waves/x.yaml:1: the file must be a mapping ('key: value' lines) at its top level"),
        ("a: 1\nb: 2\na: 3", "waves/x.yaml:3: a: duplicate key 'a', first on line 1; remove one"),
        (
            "s:\n- {n: 1}\n- {n: 1, n: 2}",
            "waves/x.yaml:3: s[1].n: duplicate key 'n', first on line 3; remove one",
        ),
        ("a:\n\tb: 1", "waves/x.yaml:2: a tab is used where YAML requires spaces; indent with spaces"),
        ("a: 1\n---\nb: 1", "waves/x.yaml:2: a second document ('---') begins here; write one spec per file"),
        ("a: *b", "waves/x.yaml:1: not YAML: found undefined alias; define the anchor with '&name' above its use"),
        ("a: &a [*a]", "waves/x.yaml:1: a[0]: an alias contains itself"),
        ("a: !x 1", "waves/x.yaml:1: a: tag '!x' is not allowed in a spec"),
        ("!x a: 1", "waves/x.yaml:1: tag '!x' is not allowed in a spec"),
        ("a: !x {}", "waves/x.yaml:1: a: tag '!x' is not allowed in a spec"),
        ("a: {<<: 3}", "waves/x.yaml:1: a: '<<' can merge only mappings"),
        ("? [a]\n: 1", "waves/x.yaml:1: a key must be plain text"),
    ],
)
def test_a_broken_form_is_named_with_its_line(text: str, expected: str) -> None:
    assert issues(text) == [expected]


def test_unreadable_files_are_issues(tmp_path: Path) -> None:
    missing = Document(tmp_path / "none.yaml")
    assert [str(issue) for issue in missing.issues] == [
        f"{tmp_path.name}/none.yaml: can't be read: No such file or directory"
    ]
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff")
    assert "is not UTF-8: byte 3 is 0xff" in str(Document(binary).issues[0])
    control = tmp_path / "control.yaml"
    control.write_bytes(b"a: \x07")
    assert "is not YAML" in str(Document(control).issues[0])


def test_a_deep_file_is_refused_before_it_can_end_the_process() -> None:
    assert issues("a: " + "[" * 200_000) == ["waves/x.yaml:1: more than 32 levels of nesting; a spec needs six"]
    assert read("a: " + "[" * 20 + "]" * 20)


@given(st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    document = Document(Path("waves/x.yaml"), text)
    assert (document.value is None) <= bool(document.issues)


def test_lines_of_places() -> None:
    document = Document(Path("x.yaml"), "wave: a\nservers:\n  - b\n  - name: c\n    tags:\n      k: v\n")
    assert document.line_of(("wave",)) == 1
    assert document.line_of(("servers", 0)) == 3
    assert document.line_of(("servers", 1)) == 4
    assert document.line_of(("servers", 1, "tags", "k")) == 6
    assert document.line_of(("servers", 1, "subnet")) == 4, "what is missing is where its container is"
    assert document.line_of(("servers", 7)) == 2
