"""Both ways: the flows run with exactly the rights that ``iam show`` prints, and use every one of them (SMS-13).

Each plane has an access key of its own, and the simulator holds it to the printed policy. What is printed and never
used fails the test: a right that nobody needs is one too many.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from tests.ledgers import fresh_ledger

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks, AccountNames
from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, start_snapshot
from wavelift.base.domain import ReplicationResult
from wavelift.base.names import MADE_BY, tags
from wavelift.base.run import Progress, SystemClock
from wavelift.base.units import BLOCK, GIB
from wavelift.rules.calls import AwsFeature, Identity
from wavelift.rules.flows import MIGRATE, Plane
from wavelift.rules.policies import Staging, identity_policy, role_policy
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.dataplane.abandon import abandon
from wavelift.services.dataplane.importing import discard_imports
from wavelift.services.replication.jobs import JobOrder, create_jobs, update_job
from wavelift.simulators.aws.settings import ACCOUNT

from .journey import Journey, Stage
from .replica import Replica, Try
from .servers import noise
from .test_cleanup import _leave, _sweep
from .test_replicated_images import WAVE, Copies

pytestmark = pytest.mark.wire

IDENTITY: Final[dict[Plane, Identity]] = {
    Plane.CONNECTOR: "connector",
    Plane.CONTROL: "caller",
    Plane.ENVIRONMENT: "caller",
}
STEPS: Final = {"import": "import_image", "remove": "remove_snapshot"}
"""The driver's words for two steps of the flow."""
BUCKET: Final = "staging-with-versions"

Right = tuple[str, str]
"""Statement and action."""
Rare = dict[tuple[Identity, str], str]
"""Identity and action → when it is used."""

CHECK: Final = "an environment is checked for people, before any run"
ABANDONED: Final = "a server failed: its import ends, and what it staged goes"
LEFT: Final = "clean-up of what ended runs left"
REFUSED: Final = "what was imported is refused, or of an older instant"
LOOKS: Final = (
    *("ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes", "ec2:DescribeSecurityGroups"),
    *("ec2:DescribeSubnets", "ec2:DescribeVpcs", "ec2:GetEbsEncryptionByDefault", "iam:GetPolicy"),
    *("iam:GetPolicyVersion", "iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies"),
    *("iam:ListRolePolicies", "s3:GetBucketVersioning", "s3:GetEncryptionConfiguration", "sts:GetCallerIdentity"),
)
"""What the caller asks for :data:`CHECK` only."""
RARE: Final[Rare] = {
    **{("caller", action): CHECK for action in LOOKS},
    ("caller", "ec2:CancelImportTask"): ABANDONED,
    ("caller", "ec2:DescribeNetworkInterfaces"): CHECK,
    ("caller", "s3:AbortMultipartUpload"): ABANDONED,
    ("caller", "s3:ListMultipartUploadParts"): ABANDONED,
    ("connector", "ec2:CancelImportTask"): LEFT,
    ("connector", "ec2:DescribeNetworkInterfaces"): CHECK,
    ("connector", "ec2:DescribeImportImageTasks"): LEFT,
    ("connector", "s3:AbortMultipartUpload"): LEFT,
    ("connector", "s3:ListMultipartUploadParts"): LEFT,
}
"""Only on paths that no journey without trouble takes; each is taken by a call below."""
RARE_IN_MIGRATE: Final[Rare] = {
    **RARE,
    ("caller", "ec2:DeleteSnapshot"): REFUSED,
    ("caller", "ec2:DeregisterImage"): REFUSED,
    ("connector", "ec2:DescribeSnapshots"): LEFT,
    ("connector", "s3:DeleteObject"): LEFT,
}
RARE_IN_REPLICATE: Final[Rare] = {
    **RARE,
    ("caller", "s3:GetBucketLocation"): CHECK,
    ("caller", "s3:ListBucketMultipartUploads"): ABANDONED,
    ("connector", "ec2:DeleteSnapshot"): LEFT,
}


@dataclass
class Rights:
    """The two identities of some features, held to what is printed for them."""

    stage: Stage
    key: str
    features: tuple[AwsFeature, ...]
    sides: dict[Identity, AwsAccess] = field(default_factory=dict)
    printed: dict[Identity, set[Right]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        staging = Staging(self.stage.account.bucket, "stage", self.key)
        role = f"arn:aws:iam::{ACCOUNT}:role/{self.stage.account.role}"
        for identity in dict.fromkeys(IDENTITY.values()):
            document = identity_policy(identity, staging, role_arn=role, features=self.features)
            self.sides[identity] = self.stage.access(self.stage.aws.hold(identity, [document]))
            self.printed[identity] = {(one["Sid"], action) for one in document["Statement"] for action in one["Action"]}

    def unused(self) -> set[tuple[Identity, str]]:
        held = self.stage.aws.held()
        return {
            (identity, action)
            for identity, printed in self.printed.items()
            for _, action in printed - {(one["sid"], one["action"]) for one in held[identity]["used"]}
        }

    def denied(self) -> list[Any]:
        return [one for held in self.stage.aws.held().values() for one in held["denied"]]

    @contextmanager
    def on(self, identity: Identity) -> Iterator[AwsAccess]:
        """Whoever asks the stage for an access gets this identity's."""
        before, self.stage.shared_access = self.stage.shared_access, self.sides[identity]
        try:
            yield self.sides[identity]
        finally:
            self.stage.shared_access = before

    def journey(self, *servers: Any) -> Journey:
        """A migration, every step of it with the identity of its plane."""
        made = self.stage.journey(*servers)

        def switch(identity: Identity) -> Callable[[], None]:
            return lambda: setattr(made, "access", self.sides[identity])

        for name in ("preflight", "snapshot", "export", "verify", "import", "compare", "launch", "remove"):
            made.before[name] = switch(IDENTITY[MIGRATE.step(STEPS.get(name, name)).plane])
        made.tidy = lambda row, plan: abandon(self.sides["caller"], plan, row.run_key)  # type: ignore[method-assign]
        return made

    def check_environment(self) -> None:
        """By both: the connector's pre-flight asks the same, though not all of it for every wave."""
        account = self.stage.account
        named = AccountNames(
            role=account.role,
            bucket=account.bucket,
            prefix="stage",
            kms_key=self.key,
            vpc=account.vpc_id,
            subnets=account.subnet_ids,
            security_groups=(account.security_group_id,),
            instance_types=("t3.small",),
            addresses=[(account.subnet_ids[0], "10.20.1.77")],
        )
        for access in self.sides.values():
            facts = AccountChecks(access).account(named)
            assert (facts.role.unknown, facts.bucket.unknown, facts.network.unknown) == ("", "", "")
            assert facts.role.missing_actions == ()

    def clean_up(self) -> None:
        """What an ended run left: a snapshot, an upload, a staged disk and a running import; EBS snapshots of a
        replication, too."""
        ended = self._run("ended")
        _leave(self.stage, ended)
        if "replicate" in self.features:
            words, ours = f"{MADE_BY}half", tags("lab", "web01", ended)
            wanted = NewSnapshot(capacity=GIB, token="half", tags=ours, description=words)
            start_snapshot(self.sides["connector"], wanted)
        kinds = self._swept(ended)
        assert kinds >= {"vSphere snapshot", "upload", "staged disk", "import task"}
        assert ("EBS snapshot" in kinds) is ("replicate" in self.features)

    def abandon(self) -> None:
        """A server that failed in the middle."""
        failed = self._run("failed")
        _leave(self.stage, failed)
        assert abandon(self.sides["caller"], self.stage.wave("web01").servers[0], failed) == ""
        assert self._swept(failed) == {"vSphere snapshot"}

    def _run(self, name: str) -> str:
        """AWS remembers the tokens of earlier tests."""
        return f"lab.migrate/{name}-{'-'.join(self.features)}/web01"

    def _swept(self, run_key: str) -> set[str]:
        """What the connector's clean-up removed."""
        with self.on("connector"):
            swept = _sweep(self.stage, dry_run=False, known=(run_key,))
        assert [one.error for one in swept.leftovers if one.error] == []
        return {one.kind for one in swept.leftovers if one.removed}


class TwoPlanes(Replica):
    """What runs on the connector runs as the connector; all else as the caller."""

    def __init__(self, rights: Rights, server: str) -> None:
        super().__init__(rights.stage, server)
        self.rights = rights

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
    """An account as an enterprise has it: a bucket with versions, a key, and a role with an attached policy."""
    admin, iam, s3, kms = stage.shared_access, *(stage.aws.client(name) for name in ("iam", "s3", "kms"))
    key = kms.create_key()["KeyMetadata"]
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": stage.aws.region})
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    account, stage.account = stage.account, replace(stage.account, bucket=BUCKET)
    stage.environment_changes.update(kms_key=key["Arn"], encrypt=True)
    document = json.dumps(role_policy(Staging(BUCKET, "stage", key["Arn"])))
    policy = iam.create_policy(PolicyName="attached", PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=stage.account.role, PolicyArn=policy)
    yield lambda *features: Rights(stage, key["Arn"], features)
    stage.shared_access = admin
    for journey in stage.journeys:
        journey.access = stage.access()
        journey.discard()
    stage.account = account
    stage.aws.let_go()
    iam.detach_role_policy(RoleName=stage.account.role, PolicyArn=policy)
    iam.delete_policy(PolicyArn=policy)
    kms.schedule_key_deletion(KeyId=key["KeyId"])
    found = s3.list_object_versions(Bucket=BUCKET)
    for one in (*found.get("Versions", ()), *found.get("DeleteMarkers", ())):
        s3.delete_object(Bucket=BUCKET, Key=one["Key"], VersionId=one["VersionId"])
    s3.delete_bucket(Bucket=BUCKET)


def test_sms_13_a_migration_has_the_rights_that_it_uses_and_no_others(
    stage: Stage, held: Callable[..., Rights]
) -> None:
    rights = held("migrate")
    journey = rights.journey("pair01")
    done = journey.run()
    assert done.error is None
    assert done.launched is not None
    assert rights.denied() == []
    assert rights.unused() == set(RARE_IN_MIGRATE)
    rights.check_environment()
    rights.clean_up()
    rights.abandon()
    assert done.export is not None
    keys = [disk.object_key for disk in done.export.disks]
    assert discard_imports(rights.sides["caller"], journey.context("pair01", "import").run_key, keys, "refused")
    assert rights.denied() == []
    assert rights.unused() == set()


def test_sms_13_a_replication_has_the_rights_that_it_uses_and_no_others(
    stage: Stage, held: Callable[..., Rights]
) -> None:
    rights = held("replicate")
    with fresh_ledger(stage.folder / "ledger.db") as ledger:
        replica = TwoPlanes(rights, "copy01")
        create_jobs(ledger, WAVE, [JobOrder(server="copy01", plan=ReplicationPlan())], by="test", clock=SystemClock())
        copies = Copies(stage, ledger, replica)
        try:
            with rights.on("caller"):
                one, ctx, run = copies.run()
                update_job(ledger, run.job_id, by="test", clock=SystemClock(), keep_amis=1)
                copies.image(one, ctx)
                clock, licence = SystemClock(), "byol"
                update_job(ledger, run.job_id, by="test", clock=clock, ami="register", license_type=licence)
                stage.vc.guest_write("copy01", 0, 7 * BLOCK, noise(102, 300))
                one, ctx, run = copies.run()
                copies.image(one, ctx)
                stage.environment_changes.update(kms_key=None)
                replica.run()  # with the account's default key
            assert rights.denied() == []
            assert rights.unused() == set(RARE_IN_REPLICATE)
            rights.check_environment()
            rights.clean_up()
            rights.abandon()
            assert rights.denied() == []
            assert rights.unused() == set()
        finally:
            copies.discard()
