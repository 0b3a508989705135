"""Tables and blocks: ids stay whole at every width, everything is said, and the width is what was asked for."""

from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from wavelift.cli.layout import Sheet, folded, labelled, wrapped
from wavelift.cli.output import PIPE_WIDTH, add_row, show, stdout_console, table

pytestmark = pytest.mark.unit

TEXT: Final = st.text(st.characters(categories=("L", "N", "P")) | st.just(" "), max_size=60)
IDS: Final = st.from_regex(r"(mig|run|ami|i|snap|import-ami)-[0-9a-f]{8,40}", fullmatch=True)


@given(st.lists(st.tuples(IDS, TEXT, TEXT, IDS), min_size=1, max_size=5), st.integers(20, 220))
def test_no_id_is_ever_broken_and_no_line_of_a_grid_is_too_long(
    rows: list[tuple[str, str, str, str]], width: int
) -> None:
    sheet = Sheet(("id", "server", "state", "image"), frozenset({"id", "image"}))
    for row in rows:
        sheet.add(*row)
    lines = sheet.lines(width)
    for id, _, _, image in rows:
        assert any(id in line for line in lines)
        assert any(image in line for line in lines)
    if set(lines[-1]) != set():  # a grid: blocks end with an empty line
        assert max(map(cell_len, lines)) <= width


@given(TEXT, st.integers(1, 80))
def test_folding_and_wrapping_lose_nothing(text: str, width: int) -> None:
    plain = re.sub(" +", "", text)
    assert re.sub("[ \n]+", "", "\n".join(folded(text, width))) == plain
    assert re.sub("[ \n]+", "", "\n".join(wrapped(text, width))) == plain
    assert all(cell_len(line) <= max(width, 2) for line in folded(text, width))


def test_a_number_stays_with_its_unit() -> None:
    assert wrapped("importing: 40 % of 1.5 MiB", 12) == ["importing:", "40 % of", "1.5 MiB"]


def test_a_long_word_has_a_line_of_its_own() -> None:
    digest = "9f86d081" * 8
    assert labelled([("digest", f"it is {digest} now"), ("empty", "")], 40) == [
        "  digest  it is",
        f"          {digest}",
        "          now",
    ]


def test_a_role_of_a_column_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such columns: ids"):
        table("id", "state", ids=["ids"])


def test_what_is_longer_than_the_line_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    digest = "9f86d081" * 8
    made = table("digest", "state", ids=["digest"])
    add_row(made, digest, "ok")
    show(made)
    assert digest in capsys.readouterr().out


@pytest.mark.parametrize(
    ("columns", "width"),
    [
        ("80", 80),
        ("132", 132),
        *((wrong, PIPE_WIDTH) for wrong in ("", "0", "5", "-80", "wide", "²", "99999999", "8 0")),
    ],
)
def test_columns_is_obeyed_in_a_pipe_and_a_wrong_value_ignored(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert stdout_console().width == width


def test_without_columns_a_pipe_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert stdout_console().width == PIPE_WIDTH


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text", ["x" + " " * 100_000, " " * 100_000, "x" * 20_000, "\u3042" * 4_000], ids=["end", "spaces", "word", "wide"]
)
def test_a_long_text_costs_no_more_than_reading_it(text: str) -> None:
    lines = folded(text, 20)
    assert "".join(lines) == text.rstrip(" ")
    assert all(cell_len(line) <= 20 for line in lines)
