"""Instance exports at the level of the ledger: the tasks of their DAG, called one by one, in any number of runs.

:class:`ExportChain` adds those that meet AWS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.contexts import Alive, HandClock, run_context
from tests.eventually import eventually
from tests.ledgers import within

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.environment import Environment
from wavelift.rules.principals import Principals
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.authority import Rights
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.export_messages import ExportOrder, ExportPlace, ExportVerified, ExportWritten
from wavelift.services.dataplane.export_verify import verify_export
from wavelift.services.dataplane.instance_export import read_instance
from wavelift.services.instance_export import admit, begin, check, ending, record, report, requests, reserve, upkeep
from wavelift.services.instance_export.messages import CheckedExport, ExportReport, Removed
from wavelift.services.instance_export.runs import place_of
from wavelift.services.instance_export.waits import Waits
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


def is_order(found: object) -> bool:
    return isinstance(found, ExportOrder)


@dataclass
class ExportChain(ExportWorld):
    """With AWS: each task may be called again, in another try."""

    access: AwsAccess = field(kw_only=True)
    waited: list[Waits] = field(default_factory=list)

    def check(self, run: str = "r1") -> CheckedExport:
        return check.check(self.ledger, self.access, self.place, self.ctx(run))[1]

    def begin(self, run: str = "r1") -> ExportOrder | Waits:
        return begin.begin(self.ledger, self.access, self.place, self.ctx(run))

    def begun(
        self, run: str = "r1", until: Callable[[Any], bool] = lambda found: isinstance(found, ExportOrder)
    ) -> Any:
        """Called again, as its trigger wakes it, until it is so far; by default until it has ended."""
        found: list[Any] = []

        def look() -> bool:
            found.append(self.begin(run))
            if not isinstance(found[-1], ExportOrder):
                self.waited.append(found[-1])
            return until(found[-1])

        assert eventually(look), found[-1]
        return found[-1]

    def read_disks(self, order: ExportOrder, run: str = "r1") -> ExportWritten | None:
        """Skipped where AWS made the object."""
        return read_instance(self.access, order, self._near(order, run)) if order.plan.method == "direct" else None

    def verify(self, order: ExportOrder, written: ExportWritten | None, run: str = "r1") -> ExportVerified:
        return verify_export(self.access, order, written, self._near(order, run), workers=2)

    def _near(self, order: ExportOrder, run: str) -> RunContext:
        """Of a task on the environment's queue: it is about the instance."""
        return replace(self.ctx(run), server=order.plan.instance.instance_id)

    def record(self, written: ExportWritten | None, verified: ExportVerified, run: str = "r1") -> InstanceExport:
        return record.record(self.ledger, self.access, written, verified, self.ctx(run))

    def remove(self, run: str = "r1", words: str = "") -> Removed:
        """Until it has ended, as its trigger wakes it."""
        found: list[Any] = []

        def look() -> bool:
            known, ctx = self.known(run), self.ctx(run)
            self.clock.sleep(1)
            found.append(ending.remove(self.ledger, self.access, known, ctx, words=words, fence=lambda: None))
            return isinstance(found[-1], Removed)

        assert eventually(look), found[-1]
        last: Removed = found[-1]
        return last

    def end(self, run: str = "r1", words: str = "") -> ExportReport:
        """The teardowns, and the run is over."""
        removed = self.remove(run, words)
        self.release(run)
        return self.report(run, words=words, removed=removed)

    def upkeep(self) -> tuple[str, ...]:
        return upkeep.end_dead(self.ledger, lambda place: self.access, self.ctx("upkeep"), fence=lambda: None)

    def whole(self, run: str = "r1", **conf: Any) -> ExportReport:
        """A whole run in mode export."""
        self.admit(run, **conf)
        check.refuse_blocked(self.check(run))
        assert self.reserve(run) is None
        order = self.begun(run)
        written = self.read_disks(order, run)
        self.record(written, self.verify(order, written, run), run)
        return self.end(run)
