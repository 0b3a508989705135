"""A wave that can be cut over, and one cutover, test instance and backup of it, for the tests of the console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tests.ledgers import within
from tests.unit.console.test_replication_routes import WAVE

from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import Ledger, backups, cutovers, jobs, network_cutovers, trials, waves
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState, StepState
from wavelift.rules.network_cutover import NetworkState

CUTOVER_DAG: Final = "erp.cutover"
SECTION: Final = "cutover: {approval: required, downtime_minutes: 30}\n"
ISOLATION: Final = "isolation: {subnets: [subnet-0bbbbbbbbbbbbbbbb], security_groups: [sg-0bbbbbbbbbbbbbbbb]}\n"
CUTTABLE: Final = WAVE.replace("servers:\n", f"{SECTION}servers:\n", 1)
PERSON: Final = "person call them"
TARGET: Final = {"aws_conn_id": "aws", "region": "eu-central-1", "account": "123456789012"}
RUN: Final = DagRun(CUTOVER_DAG, "manual__1")
NETWORK_RUN: Final = DagRun("web.network_cutover", "manual__1")
CUT: Final = cutovers.cutover_id(f"{RUN.dag_id}/{RUN.dag_run_id}/web01")
CLOCK: Final = SystemClock()


@dataclass(frozen=True)
class Made:
    cutover: str
    test: str
    run: str
    network_cutover: str


def cuttable(desk: Any) -> None:
    """The wave's file has a cutover section, and the environment a place for tests."""
    if SECTION in desk.specs.text:
        return
    desk.specs.text = CUTTABLE
    desk.specs.environment += ISOLATION


def insert(ledger: Ledger, *, id: str = "", server: str = "web01", run: DagRun = RUN, **columns: Any) -> Cutover:
    fields = {
        "by": "ana",
        "run_key": f"{run.dag_id}/{run.dag_run_id}/{server}",
        "wave": "erp",
        "server": server,
        "state": CutoverState.WAITING,
        "environment": "lab",
        "requested_by": "ana",
        **columns,
    }
    with ledger.write(jobs.lock_name("erp")) as tx:
        return cutovers.insert(tx, at=CLOCK.now(), run=run, **fields)


def to(ledger: Ledger, known: Cutover, *states: CutoverState, **columns: Any) -> Cutover:
    """The cutover after it went through these states."""
    for state in states:
        with ledger.write(jobs.lock_name("erp")) as tx:
            now = cutovers.get(tx, known.id)
            known = cutovers.apply(tx, now, str(state), at=CLOCK.now(), by="ana", state=state, **columns)
    return known


def freeze(desk: Any, run: DagRun, mode: str = "cutover") -> None:
    asked = waves.NewWaveRun(
        run=run, wave="erp", mode=mode, requested_by="ana", source="api", spec=desk.specs.wave("erp").dump()
    )
    within(desk.ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=CLOCK)


def one_of_each(desk: Any) -> Made:
    cuttable(desk)
    desk.job("db01")
    freeze(desk, RUN)
    cut = insert(desk.ledger, instance_id="i-0123456789abcdef0", target=TARGET)
    asked = {
        "name": PERSON,
        "kind": "person",
        "words": "Call them",
        "undo_words": "Call again",
        "spec": {"ask": "Call"},
    }
    with desk.ledger.write(jobs.lock_name("erp")) as tx:
        cutovers.plan_steps(tx, cutovers.CUTOVER_KIND, cut.id, [asked], at=CLOCK.now())
        [step] = cutovers.steps_of(tx, cutovers.CUTOVER_KIND, cut.id)
        cutovers.change_step(tx, step, to=StepState.INTENDED, at=CLOCK.now(), by="ana", before={}, wanted={})
        run = DagRun("erp.test", "manual__1")
        common: dict[str, Any] = {"wave": "erp", "server": "web01", "environment": "lab"}
        key = f"{run.dag_id}/{run.dag_run_id}/web01"
        test = trials.insert(
            tx, at=CLOCK.now(), by="ana", run=run, run_key=key, requested_by="ana", image_id="ami-1", **common
        )
        backup = DagRun("instance_backup", "manual__1")
        backups.insert(
            tx,
            at=CLOCK.now(),
            by="ana",
            run=backup,
            subject=cut.id,
            instance_id=cut.instance_id,
            target=TARGET,
            **common,
        )
    return Made(cutover=cut.id, test=test.id, run=RUN.dag_run_id, network_cutover=network_cutover(desk))


def network_cutover(desk: Any) -> str:
    """One that is under way, and asks a person."""
    place = desk.specs.network("web")
    asked = waves.NewWaveRun(
        run=NETWORK_RUN, wave="network/web", mode="cutover", requested_by="ana", source="api", spec=place.dump()
    )
    within(desk.ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=CLOCK)
    with desk.ledger.write(network_cutovers.lock_name("web")) as tx:
        made = network_cutovers.insert(
            tx,
            at=CLOCK.now(),
            by="ana",
            run=NETWORK_RUN,
            run_key=f"{NETWORK_RUN.dag_id}/{NETWORK_RUN.dag_run_id}/web",
            network="web",
            environment="lab",
            state=NetworkState.WAITING,
            requested_by="ana",
            prefix="10.1.2.0/24",
        )
        step = {"name": "source", "kind": "person", "words": "Cut it", "undo_words": "Join it", "spec": {}}
        cutovers.plan_steps(tx, network_cutovers.NETWORK_KIND, made.id, [step], at=CLOCK.now())
        [row] = cutovers.steps_of(tx, network_cutovers.NETWORK_KIND, made.id)
        cutovers.change_step(tx, row, to=StepState.INTENDED, at=CLOCK.now(), by="ana", before={}, wanted={})
    return made.id
