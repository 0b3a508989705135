"""The same instance is asked for at once, on SQLite and on PostgreSQL: one export is opened, the others name it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest
from tests.export_world import INSTANCE, ExportWorld
from tests.ledgers import fresh_ledger, within
from tests.postgres import Postgres

from wavelift.base.errors import RefusedError
from wavelift.ledger import Ledger, exports
from wavelift.rules.conf import ExportConf
from wavelift.services.instance_export.opening import asked_of, open_export

pytestmark = pytest.mark.wire

ASKERS: Final = 8
ROUNDS: Final = 5


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ExportWorld]:
    if request.param == "sqlite":
        with fresh_ledger(tmp_path / "ledger.db") as ledger:
            yield ExportWorld(ledger)
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with Ledger.open(postgres.create(), upgrade=True) as ledger:
        yield ExportWorld(ledger)


def test_amp_10_the_same_instance_asked_for_at_once_has_one_export(world: ExportWorld) -> None:
    for number in range(ROUNDS):
        instance = f"{INSTANCE[:-1]}{number}"
        asked = asked_of(world.ledger, world.environment, ExportConf(instance=instance))
        runs = [f"r{number}-{asker}" for asker in range(ASKERS)]
        world.alive.update(runs)
        ready = Barrier(ASKERS)

        def ask(run: str) -> str:
            ready.wait()  # noqa: B023  # it is called in this round alone
            try:
                return open_export(world.ledger, asked, world.ctx(run)).id  # noqa: B023  # as above
            except RefusedError as refused:
                return f"refused for {refused.where['export']}"

        with ThreadPoolExecutor(ASKERS) as pool:
            told = list(pool.map(ask, runs))
        won = [one for one in told if not one.startswith("refused")]
        assert len(won) == 1
        assert sorted(told) == sorted([won[0], *[f"refused for {won[0]}"] * (ASKERS - 1)])
    listed = within(world.ledger.read(), exports.list_exports)
    assert listed.total == ROUNDS


def test_a_request_that_comes_twice_at_once_is_the_same_export(world: ExportWorld) -> None:
    asked = asked_of(world.ledger, world.environment, ExportConf(instance=INSTANCE))
    world.alive.add("r1")
    with ThreadPoolExecutor(ASKERS) as pool:
        told = list(pool.map(lambda _: open_export(world.ledger, asked, world.ctx("r1")).id, range(ASKERS)))
    assert len(set(told)) == 1
