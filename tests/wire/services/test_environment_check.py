"""``wavelift environments check`` against the AWS simulator, and the account number in every pre-flight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contexts import context_of, run_context
from tests.ledgers import fresh_ledger
from tests.rights import open_to

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.errors import DeniedError, NotFoundError, UnreachableError
from wavelift.base.run import DagRun
from wavelift.ledger import events
from wavelift.rules.environment import Environment
from wavelift.rules.principals import Principals
from wavelift.services.dataplane.messages import Admitted
from wavelift.services.dataplane.preflight import Sides, run_preflight
from wavelift.services.housekeeping.environments import EnvironmentCheck, check, environment_to_check
from wavelift.specs import Granting

from .journey import Stage

pytestmark = pytest.mark.wire

RUN = DagRun("environment_check", "manual__1")


NAMED = Principals.model_validate({"vcenter": {"users": {"ana": "CORP\\ana"}}})


def looked_at(open_aws: Callable[[], AwsAccess], environment: Environment, user: str = "ana") -> EnvironmentCheck:
    return check(open_aws, Granting(environment, NAMED), user=user)


def test_a_right_environment_has_free_addresses_and_no_error(stage: Stage) -> None:
    found = looked_at(stage.access, stage.environment())
    assert (found.ok, found.account, found.environment) == (True, "123456789012", "lab")
    (room,) = found.subnets
    assert room.free_addresses is not None
    assert room.free_addresses > 0
    assert room.zone.startswith(stage.aws.region)


def test_what_is_wrong_is_a_finding(stage: Stage) -> None:
    found = looked_at(stage.access, stage.environment(account="999999999999", subnets=["subnet-0123456789abcdef0"]))
    assert not found.ok
    assert {"account.number", "network.subnet"} <= {one.code for one in found.findings}
    assert found.subnets[0].free_addresses is None


@pytest.mark.parametrize(
    ("user", "mode", "told"),
    [
        ("ana", "require", []),
        ("bo", "require", ["requester.unmapped"]),
        ("bo", "mapped", []),
        ("bo", "off", []),
    ],
)
def test_a_user_who_has_no_name_in_vcenter_learns_it_before_a_wave_stops(
    stage: Stage, user: str, mode: str, told: list[str]
) -> None:
    found = looked_at(stage.access, stage.environment(vcenter_check=mode), user)
    assert [one.code for one in found.findings if one.code.startswith("requester.")] == told
    assert found.ok == (not told)


def test_an_account_that_does_not_answer_is_a_finding_too(stage: Stage) -> None:
    def away() -> AwsAccess:
        raise UnreachableError("AWS does not answer", next_step="Look at the proxy")

    found = looked_at(away, stage.environment())
    assert (found.ok, found.account, found.subnets) == (False, "", ())


def test_vie_02_an_environment_with_exports_learns_what_its_bucket_lacks_and_no_wave_stops_for_it(
    stage: Stage,
) -> None:
    assert not any(
        one.code.startswith("bucket.missing") for one in looked_at(stage.access, stage.environment()).findings
    )
    environment = stage.environment(exports={"name": "checked"})

    def told() -> list[tuple[str, str, str]]:
        found = looked_at(stage.access, environment)
        assert found.ok
        return [
            (one.code, one.subject, str(one.severity))
            for one in found.findings
            if one.subject in (f"*/bucket {name}", "*/role vmimport")
        ]

    name, role = environment.exports_bucket, "*/role vmimport"
    assert told() == [("bucket.missing", f"*/bucket {name}", "warning")]
    s3 = stage.aws.client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": stage.aws.region})
    try:
        assert told() == [("bucket.acls", f"*/bucket {name}", "warning"), ("export.role", role, "warning")]
    finally:
        s3.delete_bucket(Bucket=name)


def test_another_account_than_the_file_names_stops_the_whole_wave(stage: Stage) -> None:
    for account, stops in (("999999999999", True), ("123456789012", False), ("", False)):  # empty: an older run
        wave = stage.wave("web01")
        environment = wave.environment.model_copy(update={"account": account})
        target = wave.servers[0].target.model_copy(update={"account": account})
        servers = tuple(plan.model_copy(update={"target": target}) for plan in wave.servers)
        wave = wave.model_copy(update={"environment": environment, "servers": servers})
        admitted = Admitted(wave=wave, mode="migrate", dag_id="d", run_id="r", requested_by="tester")
        report = run_preflight(Sides(stage.connect, stage.access), admitted, context_of("d/r/*")).believed()
        found = [one for one in report.findings if one.code == "account.number"]
        assert (len(found), not report.passed) == (int(stops), stops)


def test_only_whom_something_is_granted_to_may_have_it_checked(tmp_path: Path) -> None:
    ledger = fresh_ledger(tmp_path / "ledger.db")
    ana, bo = run_context(RUN, requester="ana"), run_context(RUN, requester="bo")
    rights = open_to("ana")
    assert environment_to_check(ledger, "lab", ana, rights=rights).environment.environment == "lab"
    with pytest.raises(DeniedError, match="'bo' may not migrate"):
        environment_to_check(ledger, "lab", bo, rights=rights)
    with pytest.raises(NotFoundError):
        environment_to_check(ledger, "", ana, rights=rights)
    with ledger.read() as tx:
        (told,) = events.list_events(tx)
    assert (told.action, told.object_id, told.actor) == ("authority.refused", "lab", "bo")
