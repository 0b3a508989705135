"""Both ways: the flows run with exactly the rights that ``iam show`` prints, and use every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from tests.ledgers import fresh_ledger

from wavelift.base.run import SystemClock
from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.run import Progress
from wavelift.base.domain import ReplicationResult
from wavelift.rules.calls import AwsFeature, Identity
from wavelift.rules.flows import MIGRATE, Plane
from wavelift.rules.plans import ServerPlan
from wavelift.rules.policies import Staging, identity_policy
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.dataplane.abandon import abandon
from wavelift.services.replication.jobs import JobOrder, create_jobs
from wavelift.simulators.aws.settings import ACCOUNT

from .journey import Journey, Outcome, Stage
from .replica import Replica, Try
from .test_replicated_images import WAVE, Copies

pytestmark = pytest.mark.wire

IDENTITY: Final[dict[Plane, Identity]] = {
    Plane.CONNECTOR: "connector",
    Plane.CONTROL: "caller",
    Plane.ENVIRONMENT: "caller",
}
STEPS: Final = {"import": "import_image", "remove": "remove_snapshot"}
"""The driver's words for two steps of the flow."""

Right = tuple[str, str]
"""Statement and action."""


@dataclass
class Rights:
    """The two identities of one feature, held to what is printed for them."""

    stage: Stage
    features: tuple[AwsFeature, ...]
    key: str = ""
    sides: dict[Identity, AwsAccess] = field(default_factory=dict)
    printed: dict[Identity, set[Right]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        staging = Staging(self.stage.account.bucket, "stage", self.key)
        role = f"arn:aws:iam::{ACCOUNT}:role/{self.stage.account.role}"
        for identity in IDENTITY.values():
            if identity not in self.sides:
                document = identity_policy(identity, staging, role_arn=role, features=self.features)
                self.sides[identity] = self.stage.access(self.stage.aws.hold(identity, [document]))
                self.printed[identity] = {
                    (one["Sid"], action) for one in document["Statement"] for action in one["Action"]
                }

    def unused(self, identity: Identity) -> set[Right]:
        used = self.stage.aws.held()[identity]["used"]
        return self.printed[identity] - {(one["sid"], one["action"]) for one in used}

    def denied(self) -> list[Any]:
        return [one for held in self.stage.aws.held().values() for one in held["denied"]]

    @contextmanager
    def on(self, identity: Identity) -> Iterator[AwsAccess]:
        """Whoever asks the stage for an access gets this identity's."""
        before, self.stage.shared_access = self.stage.shared_access, self.sides[identity]
        yield self.sides[identity]
        self.stage.shared_access = before

    def journey(self, *servers: Any, **changes: Any) -> Journey:
        """Every step of it with the identity of its plane."""
        made = self.stage.journey(*servers, **changes)

        def switch(identity: Identity) -> Callable[[], None]:
            return lambda: setattr(made, "access", self.sides[identity])

        for name in ("preflight", "snapshot", "export", "verify", "import", "compare", "launch", "remove"):
            made.before[name] = switch(IDENTITY[MIGRATE.step(STEPS.get(name, name)).plane])
        made.tidy = lambda row, plan: abandon(self.sides["caller"], plan, row.run_key)  # type: ignore[method-assign]
        return made


class TwoPlanes(Replica):
    """What runs on the connector runs as the connector; all else as the caller."""

    rights: Rights

    def begin(self) -> Try:
        with self.rights.on("connector"):
            return super().begin()

    def transfer(self, one: Try, progress: Callable[[Progress], None] = lambda _: None) -> ReplicationResult:
        with self.rights.on("connector"):
            return super().transfer(one, progress)

    def remove(self, one: Try) -> None:
        with self.rights.on("connector"):
            super().remove(one)


@pytest.fixture
def held(stage: Stage) -> Iterator[Callable[..., Rights]]:
    admin = stage.shared_access

    def make(*features: AwsFeature, key: str = "") -> Rights:
        return Rights(stage, features, key)

    yield make
    stage.shared_access = admin
    stage.aws.let_go()
    for journey in stage.journeys:
        journey.access = stage.access()


def test_migrate(stage: Stage, held: Callable[..., Rights]) -> None:
    rights = held("migrate")
    journey = rights.journey("web01")
    done = journey.run()
    print(done.error)
    print("denied", rights.denied())
    for identity in rights.sides:
        print(identity, sorted(rights.unused(identity)))
    assert 0


def test_replicate(stage: Stage, held: Callable[..., Rights]) -> None:
    rights = held("replicate")
    with fresh_ledger(stage.folder / "ledger.db") as ledger:
        replica = TwoPlanes(stage, "copy01")
        replica.rights = rights
        create_jobs(ledger, WAVE, [JobOrder(server="copy01", plan=ReplicationPlan())], by="test", clock=SystemClock())
        copies = Copies(stage, ledger, replica)
        admin = stage.shared_access
        try:
          with rights.on("caller"):
            one, ctx, run = copies.run()
            copies.image(one, ctx)
        finally:
            print("denied", rights.denied())
            for identity in rights.sides:
                print(identity, sorted(rights.unused(identity)))
            stage.shared_access = admin
            copies.discard()
    assert 0
