"""A syntax error is told in plain words, on the line that a person must change, with that line shown."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.specs.conftest import ENVIRONMENT, WAVE

from wavelift.base.printable import printable
from wavelift.specs import check_file, with_source
from wavelift.specs.document import MAX_BYTES, Document
from wavelift.specs.issues import MAX_LINE, MAX_SOURCE, Issue, excerpt, format_errors
from wavelift.specs.syntax import _row

pytestmark = pytest.mark.unit

JARGON: Final = ("did not find", "could not find", "block mapping", "block collection", "simple key", "any token")
"""The parser's own words, which say nothing to a person who does not know its grammar."""
COLUMN: Final = "; what belongs together begins in the same column"


def told(text: str) -> list[str]:
    return with_source(Document(Path("waves/x.yaml"), text).issues).splitlines()


MISTAKES: Final = {
    "further left than its sibling": (
        "servers:\n  - name: web01\n   path: x\n",
        (3, f"the indentation is wrong: 'path' is 1 space further left than 'name' on line 2{COLUMN}", 7),
    ),
    "further right than its sibling": (
        "servers:\n  - name: web01\n      path: x\n",
        (3, f"the indentation is wrong: 'path' is 2 spaces further right than 'name' on line 2{COLUMN}", 10),
    ),
    "a comment and an empty line between": (
        "a:\n  b: 1\n\n# c\n   c: 2\n",
        (5, f"the indentation is wrong: 'c' is 1 space further right than 'b' on line 2{COLUMN}", 7),
    ),
    "a top-level key further right": (
        "wave: shop\n  environment: x\n",
        (2, f"the indentation is wrong: 'environment' is 2 spaces further right than 'wave' on line 1{COLUMN}", 6),
    ),
    "the first key further right": (
        "  wave: shop\nenvironment: x\n",
        (2, f"the indentation is wrong: 'environment' is 2 spaces further left than 'wave' on line 1{COLUMN}", 4),
    ),
    "a list item further left": (
        "servers:\n    - name: a\n  - name: b\n",
        (3, f"the indentation is wrong: '-' is 2 spaces further left than '-' on line 2{COLUMN}", 6),
    ),
    "a list item further right": (
        "servers:\n  - name: a\n    - name: b\n",
        (3, f"the indentation is wrong: '-' is 2 spaces further right than '-' on line 2{COLUMN}", 8),
    ),
    "a list item beside keys": (
        "a: 1\n- b\n",
        (2, "a list item ('- ') stands beside the key 'a' of line 1", 4),
    ),
    "a tab before a key": (
        "a:\n  b: 1\n\tc: 1\n",
        (3, "a tab is used where YAML requires spaces; indent with spaces", 4),
    ),
    "no space after the first colon": (
        "wave:shop\na: x\n",
        (1, "a space is missing after the colon: write 'wave: shop'", 9),
    ),
    "no space after a colon": ("a: 1\nb:2\nc: 3\n", (2, "a space is missing after the colon: write 'b: 2'", 6)),
    "no space after a colon in a list": (
        "s:\n  - name:web\n    path: x\n",
        (2, "a space is missing after the colon: write 'name: web'", 13),
    ),
    "no space after a dash": ("s:\n  -a\n  b: 1\n", (2, "a space is missing after the '-': write '- a'", 7)),
    "no colon": ("a: 1\nb 2\nc: 3\n", (2, "a colon is missing after 'b 2': write 'key: value'", 4)),
    "no colon before a list": (
        "a: 1\nservers\n  - x\n",
        (2, "a colon is missing after 'servers': write 'key: value'", 4),
    ),
    "no colon on the last line": ("a: 1\nb\n", (2, "a colon is missing after 'b': write 'key: value'", 4)),
    "two colons": ("a: b: c\n", (1, "a second ': ' in one line; put a text that contains ': ' into quotes", 8)),
    "an open quote": ("b: 1\na: 'x\nc: d\n", (2, "the quote that begins here is not closed", 7)),
    "an open quote before another text in quotes": (
        'a: "b\nc: "d"\n',
        (1, "the quote that begins here is not closed on its line", 7),
    ),
    "text after a quote": ('a: "b" c\n', (1, "text follows a closing quote; put the whole value into the quotes", 11)),
    "an open bracket": (
        "x: 1\na: [b, c\nd: e\n",
        (2, "the '[' is not closed: ']' is missing, or a ',' between values", 7),
    ),
    "an open brace": ("a: {b: 1\nd: e\n", (1, "the '{' is not closed: '}' is missing, or a ',' between values", 7)),
    "no comma": ("a: [{b: 1} {c: 2}]\n", (1, "a ',' or ']' is missing here", 15)),
    "a bracket too many": ("a: [b, c]]\n", (1, "']' closes nothing; remove it", 13)),
    "a character that YAML keeps for itself": ("a: @b\n", (1, "a text can't begin with '@'; put it into quotes", 7)),
    "a star": ("a: *.example\n", (1, "a text can't begin with '*'; put it into quotes", 7)),
    "a list in a line": ("a: - b\n", (1, "a list item ('- ') must begin on a line of its own", 7)),
    "a path in double quotes": (
        'a: "C:\\data"\n',
        (1, "'\\' begins an escape in double quotes; write '\\\\', or use single quotes", 10),
    ),
    "a comment in a list": (
        "a: [b, # c]\n  - d\n",
        (2, "a '[' or '{' is not closed before this place, or a value is missing", 6),
    ),
    "an open quote before a key": (
        "a:\n'b: 1\nc: 'd'\n",
        (2, "the quote that begins here is not closed on its line", 4),
    ),
    "no key": ("a: 1\n: b\n", (2, "a key is expected here; write 'key: value'", 4)),
    "a duplicate key": ("a: 1\nb: 2\na: 3\n", (3, "a: duplicate key 'a', first on line 1; remove one", 4)),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_line_and_a_caret(text: str, expected: tuple[int, str, int]) -> None:
    line, message, caret = expected
    shown = text.splitlines()[line - 1].replace("\t", "\\t")
    assert told(text) == [f"waves/x.yaml:{line}: {message}", f"    {shown}", f"{' ' * caret}^"]


def test_the_import_error_shows_no_line_of_the_file() -> None:
    """A link in the waves folder may lead to a file that its author may not read."""
    document = Document(Path("waves/x.yaml"), "[core]\nfernet_key = secret\n")
    assert "secret" not in format_errors(document.issues)
    assert "secret" in with_source(document.issues)


def test_a_message_of_several_issues_is_sorted_and_keeps_each_line_below_its_message() -> None:
    document = Document(Path("waves/x.yaml"), "a: {<<: 3, b: !x 1}\na: 1\n")
    assert [line[:14] for line in with_source(document.issues).splitlines() if line.startswith("waves")] == [
        "waves/x.yaml:1",
        "waves/x.yaml:1",
        "waves/x.yaml:2",
    ]
    assert len(told("a: {<<: 3, b: !x 1}\na: 1\n")) == 9


@given(st.text(max_size=300).filter(lambda text: "\n" not in text), st.integers(0, 300))
def test_an_excerpt_is_short_printable_and_points_at_the_column(line: str, column: int) -> None:
    column = min(column, len(line))
    source, pointer = excerpt(line, column)
    assert printable(source) == source
    assert len(source) <= MAX_SOURCE * 10 + 6, "each character as its longest escape"
    assert pointer.strip() == "^"
    if line.isprintable() and column < len(line):
        assert source[len(pointer) - 1] == line[column]


# Files that were valid before somebody re-indented a line

REPLICATED: Final = WAVE.replace(
    "servers:", "replication:\n  seed_time: now\n  frequency_hours: 12\nmax_mbit_s: 400\nservers:"
)
BLOCKS: Final = yaml.safe_dump(
    {
        "wave": "erp",
        "source": {"connection": "vc1", "connector": "dc-west"},
        "environment": "prod",
        "defaults": {"instance_type": "m6i.large", "tags": {"app": "erp", "owner": "x: y"}},
        "servers": [
            "web01",
            {"name": "db01", "tags": {"tier": "db"}, "security_groups": ["sg-aaaa0001", "sg-aaaa0002"]},
            {"folder": "/DC1/vm/shop", "source_power": "require_off"},
            {"tag": "wave:shop"},
        ],
        "retries": 3,
    },
    sort_keys=False,
)


VALID: Final = {"flows": WAVE, "replication": REPLICATED, "blocks": BLOCKS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a wave, beside its valid environment."""
    folder = tmp_path_factory.mktemp("specs")
    for name in ("waves", "environments"):
        (folder / name).mkdir()
    (folder / "environments" / "prod.yaml").write_text(ENVIRONMENT)
    return folder / "waves" / "erp.yaml"


def issues_of(place: Path, text: str) -> tuple[Issue, ...]:
    place.write_text(text)
    return check_file(place, place.parent.parent / "environments")


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_the_waves_of_the_next_test_are_valid(text: str, place: Path) -> None:
    assert issues_of(place, text) == ()


@given(st.data())
def test_a_re_indented_line_is_valid_or_told_in_plain_words_with_its_line(place: Path, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(list(VALID.values())))
    lines = text.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    lead = data.draw(st.text(" ", max_size=12) | st.text(" \t", max_size=4))
    lines[number] = lead + lines[number].lstrip()
    for issue in issues_of(place, "\n".join(lines) + "\n"):
        assert 1 <= issue.line <= len(lines), issue
        assert not any(words in issue.message for words in JARGON), issue


@given(st.data())
def test_a_character_too_many_or_too_few_is_told_within_the_file(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(list(VALID.values()))).splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(0, len(lines[number])))
    added = data.draw(st.sampled_from(list("'\"[]{}:- \t@*&#")) | st.just(""))
    lines[number] = lines[number][:column] + added + lines[number][column + (not added) :]
    for issue in Document(Path("waves/x.yaml"), "\n".join(lines) + "\n").issues:
        assert 1 <= issue.line <= len(lines), issue
        assert not any(words in issue.message for words in JARGON), issue


@given(st.text(max_size=80) | st.lists(st.sampled_from(list("ab:-[]{}'\"\\ \t\n#&*!|>%@?,")), max_size=30).map("".join))
def test_any_text_is_told_within_the_file(text: str) -> None:
    for issue in Document(Path("waves/x.yaml"), text).issues:
        assert 0 <= issue.line <= max(1, len(text.splitlines()))
        assert all(printable(line) == line for line in (str(issue), *issue.source))


HOSTILE: Final = {
    "items in items, then an open quote": "- " * 30 + "a\n" + "a: 1\n" * 60_000 + 'b: "c\nd: "e" f\n',
    "brackets that close nothing": "a: " + "]" * 400_000,
    "a long line": "a: 'b' " + "x" * 500_000,
    "deeper and deeper": "".join(" " * n + f"k{n}:\n" for n in range(30)) + "  x: 1\n" * 50_000 + " y: 1\n",
    "many lines before a wrong one": "a:\n" + "  b: 1\n" * 70_000 + " c: 1\n",
    "many quotes": "a:\n" + '  - "b"\n' * 50_000 + 'c: "d\ne: "f" g\n',
    "many dashes": "a:\n" + "- - - - - - - - - - b\n" * 20_000 + " c: 1\n",
    "many colons": "a" + ":" * 500_000 + "\nb: c: d\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_explaining_costs_a_bounded_time(text: str) -> None:
    assert len(text) <= MAX_BYTES
    start = time.process_time()
    document = Document(Path("waves/x.yaml"), text)
    assert document.issues
    assert all(len(line) < 3000 for issue in document.issues for line in (str(issue), *issue.source))
    assert time.process_time() - start < 2


def test_an_issue_without_a_place_shows_only_its_message() -> None:
    assert with_source([Issue("waves/x.yaml", 0, (), "is gone")]) == "waves/x.yaml: is gone"


SPACES = " " * 500_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a{SPACES}b\nx: [\n", "a colon is missing after 'a"),
        (f"k: v\na{SPACES}b\n  x: y: z\n", "a colon is missing after 'a"),
        (f"{'- ' * 16}a{SPACES}# b\n c: d: e\n", "the indentation is wrong: 'c'"),
    ],
    ids=["no colon", "a value", "dashes"],
)
def test_a_long_line_costs_no_more_than_reading_it(text: str, said: str) -> None:
    """It took hours, and the DAG processor with all waves stood still."""
    (issue,) = Document(Path("waves/erp.yaml"), text=text).issues
    assert said in issue.message
    assert len(str(issue)) < MAX_LINE


@given(st.text(alphabet="ab :#-\t", max_size=12))
def test_a_key_ends_at_its_colon(rest: str) -> None:
    """As the grammar says it: no colon and no '#' before it, a space or the end after it."""
    row = _row(3, rest)
    found = re.match(r"(?P<key>[^\s:#][^:#]*?) *:(?= |$)", rest[row.column :].strip())
    assert (row.is_key, row.label) == ((True, found["key"]) if found else (False, rest[row.column :].strip()))
