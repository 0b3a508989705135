"""Instance exports at the level of the ledger: the tasks of their DAG, called one by one, in any number of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import within

from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.environment import Environment
from wavelift.rules.principals import Principals
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.authority import Rights
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.export_messages import ExportPlace
from wavelift.services.instance_export import admit, report, requests, reserve
from wavelift.services.instance_export.messages import ExportReport
from wavelift.services.instance_export.runs import place_of
from wavelift.specs import Granting

ENVIRONMENT: Final = "lab"
DAG: Final = f"instance_export.{ENVIRONMENT}"
ACCOUNT: Final = "123456789012"
REGION: Final = "eu-central-1"
INSTANCE: Final = "i-0123456789abcdef0"
OTHER: Final = "i-0123456789abcdef1"


def environment(**fields: Any) -> Environment:
    return Environment.model_validate(
        {
            "environment": ENVIRONMENT,
            "aws_conn_id": "aws_lab",
            "account": ACCOUNT,
            "region": REGION,
            "may": {"administer": ("user:alice",), "cut_over": ("user:bob",)},
            "staging": {"bucket": "staging-bucket"},
            "vpc": "vpc-0123456789abcdef0",
            "subnets": ("subnet-0123456789abcdef0",),
            "security_groups": ("sg-0123456789abcdef0",),
            "instance_types": ("t3.small",),
            "sources": ({"connection": "vc1", "connectors": ("dc1",)},),
            "queue": "near",
            "exports": {"name": "acme", "prefix": "out/"},
            **fields,
        }
    )


@dataclass
class ExportWorld:
    ledger: Ledger
    clock: HandClock = field(default_factory=HandClock)
    environment: Environment = field(default_factory=environment)
    alive: set[str] = field(default_factory=set)
    asker: str = "alice"
    read: Callable[[], None] = lambda: None
    """Called when the environment's file is read."""

    @property
    def place(self) -> ExportPlace:
        return place_of(self.environment)

    @property
    def rights(self) -> Rights:
        return Rights(lambda name: Granting(self.environment, Principals()))

    def load(self, name: str) -> Environment:
        self.read()
        return self.environment

    def ctx(self, run: str = "r1", *, by: str = "") -> RunContext:
        alive = Alive(run=lambda one: one.dag_run_id in self.alive)
        return run_context(DagRun(DAG, run), requester=by or self.asker, liveness=alive, clock=self.clock)

    # The tasks

    def admit(self, run: str = "r1", instance: str = INSTANCE, **conf: Any) -> InstanceExport | None:
        self.alive.add(run)
        asked = {"instance": instance, **conf} if conf.get("mode") != "setup" else conf
        request = RunRequest(wave=ENVIRONMENT, conf=asked)
        return admit.admit(self.ledger, request, self.load, self.ctx(run), rights=self.rights)[1]

    def reserve(self, run: str = "r1") -> InQueue | None:
        return reserve.reserve(self.ledger, self.place, self.ctx(run), rights=self.rights)

    def release(self, run: str = "r1") -> None:
        reserve.release(self.ledger, self.ctx(run))

    def report(self, run: str = "r1", **ended: Any) -> ExportReport:
        """And the run is over."""
        made = report.report(self.ledger, report.EndedRun(**ended), self.ctx(run))
        self.alive.discard(run)
        return made

    def cancel(self, run: str = "r1", *, over: bool = False) -> InstanceExport:
        return requests.cancel(self.ledger, self.known(run).id, by="bob", clock=self.clock, over=over)

    # What the ledger says

    def known(self, run: str = "r1") -> InstanceExport:
        found = within(self.ledger.read(), exports.of_dag_run, DagRun(DAG, run))
        assert found is not None
        return found

    def put(self, run: str = "r1", **columns: Any) -> InstanceExport:
        """A row as a task would leave it."""
        known = self.known(run)
        with self.ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
            return exports.apply(tx, known, "put", at=self.clock.now(), by="test", **columns)
