"""The rows of refused servers on PostgreSQL, which compares types and keys more strictly than SQLite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from tests.postgres import Postgres
from tests.unit.services.test_refused import RDM, ROLE, Story, wrong

from wavelift.ledger import Ledger

pytestmark = pytest.mark.wire


@pytest.fixture
def ledger(postgres: Postgres) -> Iterator[Ledger]:
    with Ledger.open(postgres.create(), upgrade=True) as made:
        yield made


@pytest.mark.parametrize(
    "name", ["x" * 300, "nul\0", "half a pair \ud800", "\n" * 300], ids=["long", "nul", "half", "lines"]
)
def test_a_name_that_no_database_takes_stops_no_report(ledger: Ledger, name: str) -> None:
    """Only a connector that lies can tell it: it must not keep the run open."""
    story = Story(ledger, "web01")
    assert not story.report(story.looked(wrong(name, RDM))).succeeded
    (other,) = [each for each in story.rows() if each != "web01"]
    assert len(other) <= 255
    assert other.isprintable()


def test_a_refused_server_is_told_again_accepted_and_completed(ledger: Ledger) -> None:
    story = Story(ledger, "web01", "win01", {"folder": "/DC0/vm/gone"})
    looked = story.looked(
        wrong("win01", RDM), wrong("DC0:vm:gone", "there is no such folder"), wrong("*", ROLE), found=("web01", "win01")
    )
    assert story.report(looked) == story.report(looked)
    assert {name: state for name, (state, _) in story.ends().items()} == dict.fromkeys(
        ("web01", "win01", "/DC0/vm/gone"), "refused"
    )
    ids = {name: row.id for name, row in story.rows().items()}
    story.completes("web01", "win01")
    assert story.report(story.looked(found=("web01", "win01"))).succeeded
    assert {name: row.id for name, row in story.rows().items()} == ids
    with ledger.read() as tx:
        (column,) = [each for each in sa.inspect(tx).get_columns("migration") if each["name"] == "server_id"]
    assert column["nullable"]
