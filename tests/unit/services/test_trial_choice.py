"""Which servers and images a run of the test DAG takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN
from tests.unit.rules.conftest import facts, resolved

from wavelift.base.domain import ServerFacts
from wavelift.base.errors import NotFoundError, SpecError
from wavelift.base.run import DagRun
from wavelift.ledger import ReplicationRun, replication_runs, servers
from wavelift.ledger.records import SourceServer
from wavelift.rules.environment import Isolation
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common.admit import RunRequest
from wavelift.services.cutover import trial
from wavelift.services.replication.jobs import JobOrder, create_jobs

from .test_cutover_forward import Cutovers

__all__ = ["facts", "resolved"]

pytestmark = pytest.mark.unit


@pytest.fixture
def world(tmp_path: Path, resolved: Callable[..., ResolvedWave], facts: Callable[..., ServerFacts]) -> Cutovers:
    """Servers a and b have an image, c has none; d has one, and no entry of the wave selects it."""
    clock = HandClock()
    made = Cutovers(fresh_ledger(tmp_path / "ledger.db"), clock, resolved, facts)
    made.servers = ("a", "b", "c")
    for server in ("a", "b", "c", "d"):
        order = JobOrder(server=server, plan=ReplicationPlan(), source="vc", identity=f"uuid-{server}")
        create_jobs(made.ledger, "erp", [order], by="ana", clock=clock)
        seen = facts(name=server, path=f"/DC0/vm/{server}", instance_uuid=f"uuid-{server}")
        with made.ledger.write(servers.LOCK) as tx:
            servers.remember(tx, SourceServer.of("vc", seen), at=clock.now())
    for run in made.replication.admit().granted:
        clock.sleep(600)
        if run.server == "c":
            made.replication.fail(run)
        else:
            made.replication.complete(run, ami=f"ami-{run.server}")
    return made


def runs(world: Cutovers) -> dict[str, ReplicationRun]:
    found = within(world.ledger.read(), replication_runs.list_runs, replication_runs.RunFilter(), limit=10).items
    return {run.server: run for run in found}


def admit(world: Cutovers, **conf: Any) -> trial.AdmittedTest:
    def load(name: str) -> ResolvedWave:
        wave = world.wave()
        isolation = Isolation(subnets=("subnet-aaaa0009",), security_groups=("sg-aaaa0009",))
        return wave.model_copy(update={"environment": wave.environment.model_copy(update={"isolation": isolation})})

    ctx = run_context(DagRun("erp.test", "t1"), requester="ana", clock=world.clock)
    return trial.admit(world.ledger, RunRequest("erp", conf), load, ctx, rights=OPEN)


def test_without_names_those_that_can_t_be_tried_are_left_out(world: Cutovers) -> None:
    found = admit(world)
    assert (found.servers, found.refused) == (("a", "b"), ())
    assert {each.server: each.rule for each in found.left} == {"c": "no_image", "d": "no_cutover"}


def test_a_server_that_was_named_is_refused(world: Cutovers) -> None:
    found = admit(world, servers=["a", "c"])
    assert (found.servers, [each.server for each in found.refused], found.left) == (("a",), ["c"], ())


def test_a_wave_of_which_none_can_be_tried_is_no_success(world: Cutovers) -> None:
    world.servers = ("other",)
    found = admit(world)
    assert found.servers == ()
    assert [each.server for each in found.refused] == ["a", "b", "c", "d"]


def test_runs_alone_are_those_of_their_servers(world: Cutovers) -> None:
    assert admit(world, runs=[runs(world)["b"].id]).servers == ("b",)


def test_a_run_that_would_be_ignored_is_refused(world: Cutovers) -> None:
    with pytest.raises(NotFoundError):
        admit(world, runs=["run-0123456789ab"])
    known = runs(world)
    with pytest.raises(SpecError, match=f"Not of the present job of a chosen server: {known['b'].id}"):
        admit(world, servers=["a"], runs=[known["b"].id])
    with world.ledger.write() as tx:
        tx.execute(replication_runs.ROWS.table.update().values(wave="crm"))
    with pytest.raises(SpecError, match="belongs to wave crm"):
        admit(world, runs=[known["b"].id])
