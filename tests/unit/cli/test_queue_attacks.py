"""``wavelift queue`` with names as a hostile owner of a VM gives them: nothing steers the terminal or forges a row."""

from __future__ import annotations

from typing import Any

import pytest
from tests.hostile import CLEVER
from typer.testing import CliRunner

from wavelift.cli import queue
from wavelift.cli.main import app

pytestmark = pytest.mark.unit

ROW = {
    "id": "mig-0123456789ab",
    "wave": "erp",
    "server": "web01",
    "priority": "normal",
    "waits_for": "transfer",
    "scope": "dc1",
    "position": 1,
    "in_use": 1,
    "limit": 1,
    "in_use_by": [],
    "in_use_by_others": 0,
    "maintenance": None,
    "waits_since": "2026-12-01T09:00:00+00:00",
    "words": "1st in line",
    "dag_id": "erp.migrate",
    "dag_run_id": "r",
}
SHORT = [text for text in CLEVER if len(text) < 1000 and "\ud800" not in text]


class Api:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def call(self, *_: Any) -> Any:
        return self.answer


@pytest.mark.parametrize("text", SHORT)
@pytest.mark.parametrize("field", ["server", "words", "wave"])
def test_a_name_is_printed_in_its_own_row(monkeypatch: pytest.MonkeyPatch, field: str, text: str) -> None:
    def lines_of(value: str) -> list[str]:
        monkeypatch.setattr(queue, "client", lambda: Api({"queue": [{**ROW, field: value}]}))
        done = CliRunner().invoke(app, ["queue"], env={"COLUMNS": "300"})
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    told = lines_of(text)
    assert len(told) == len(lines_of("x")), told
    assert not [char for line in told for char in line if not char.isprintable()]
