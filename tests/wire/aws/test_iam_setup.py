"""``wavelift iam check|apply`` against IAM: what is made, what is left alone, and how each refusal reads (SMS-13)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from wavelift.adapters.aws import iam_setup
from wavelift.cli.main import app
from wavelift.rules.policies import Staging, identity_policy, role_policy, trust_policy
from wavelift.simulators.aws import AwsSimulator
from wavelift.simulators.aws.settings import ACCOUNT

pytestmark = pytest.mark.wire

BUCKET: Final = "staging"
ANYBODY: Final = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
FOREIGN_TRUST: Final = {"Version": "2012-10-17", "Statement": [ANYBODY]}
ALL: Final = {"Effect": "Allow", "Action": "*", "Resource": "*"}
READS: Final = ("Get", "List")


class Administrator:
    """At a prompt, with a role and policies of this test's own."""

    def __init__(self, aws: AwsSimulator, home: Path) -> None:
        self.aws, self.home = aws, home
        self.iam = aws.client("iam")
        self.name = f"t{uuid4().hex[:8]}"
        self.role = f"vmimport-{self.name}"

    def arn(self, identity: str) -> str:
        return f"arn:aws:iam::{ACCOUNT}:policy/wavelift-{identity}-{self.name}"

    def call(self, *arguments: str, **changes: str) -> Result:
        nothing = dict.fromkeys(("AWS_PROFILE", "AWS_SESSION_TOKEN"), "")
        files = {
            "AWS_CONFIG_FILE": str(self.home / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.home / "credentials"),
        }
        variables = {**nothing, **files, **self.aws.environment(), **changes}
        found: dict[str, str | None] = {name: value or None for name, value in variables.items()}
        return CliRunner().invoke(app, ["iam", *arguments], env=found)

    def apply(self, *arguments: str, **changes: str) -> Result:
        return self.call("apply", *arguments, "--bucket", BUCKET, *self._names(), **changes)

    def check(self, *arguments: str, **changes: str) -> Result:
        return self.call("check", *arguments, "--bucket", BUCKET, *self._names(), **changes)

    def _names(self) -> tuple[str, ...]:
        return ("--role", self.role, "--suffix", self.name)

    def writes(self) -> int:
        """Calls of IAM so far that may have changed something."""
        names = {name.removeprefix("iam."): one["calls"] for name, one in self.aws.counters().items() if "iam." in name}
        return sum(calls for name, calls in names.items() if not name.startswith(READS))

    def make_role(self, trust: dict[str, Any]) -> None:
        self.iam.create_role(RoleName=self.role, AssumeRolePolicyDocument=json.dumps(trust))

    def trust(self) -> dict[str, Any]:
        found: dict[str, Any] = self.iam.get_role(RoleName=self.role)["Role"]["AssumeRolePolicyDocument"]
        return found

    def inline(self) -> dict[str, Any]:
        names = self.iam.list_role_policies(RoleName=self.role)["PolicyNames"]
        return {name: self.iam.get_role_policy(RoleName=self.role, PolicyName=name)["PolicyDocument"] for name in names}

    def versions(self, identity: str) -> list[str]:
        found = self.iam.list_policy_versions(PolicyArn=self.arn(identity))["Versions"]
        return sorted(one["VersionId"] for one in found)

    def in_force(self, identity: str) -> dict[str, Any]:
        version = self.iam.get_policy(PolicyArn=self.arn(identity))["Policy"]["DefaultVersionId"]
        answer = self.iam.get_policy_version(PolicyArn=self.arn(identity), VersionId=version)
        found: dict[str, Any] = answer["PolicyVersion"]["Document"]
        return found


@pytest.fixture
def admin(aws: AwsSimulator, tmp_path: Path) -> Administrator:
    return Administrator(aws, tmp_path)


@pytest.fixture
def user(admin: Administrator) -> str:
    name = f"user-{admin.name}"
    admin.iam.create_user(UserName=name)
    return name


def _wanted(admin: Administrator, identity: Any) -> dict[str, Any]:
    role = f"arn:aws:iam::{ACCOUNT}:role/{admin.role}"
    return identity_policy(identity, Staging(BUCKET), role_arn=role)


def test_sms_13_apply_shows_the_difference_and_changes_nothing_without_yes(admin: Administrator) -> None:
    before = admin.writes()
    shown = admin.apply()
    assert shown.exit_code == 0, shown.output
    assert f"create role {admin.role}" in shown.stdout
    assert '+          "sts:Externalid": "vmimport",' in shown.stdout
    assert "Nothing was changed. To make 4 changes, say it again with --yes" in shown.stdout
    assert admin.writes() == before


def test_sms_13_apply_makes_all_three_and_a_second_time_nothing(admin: Administrator, user: str) -> None:
    admin.iam.create_role(RoleName=f"worker-{admin.name}", AssumeRolePolicyDocument=json.dumps(FOREIGN_TRUST))
    attach = ("--attach-connector", f"user/{user}", "--attach-caller", f"role/worker-{admin.name}")
    made = admin.apply(*attach, "--yes")
    assert made.exit_code == 0, made.output
    assert made.stdout.count("done: ") == 6
    assert admin.trust() == trust_policy(ACCOUNT)
    assert admin.inline() == {f"wavelift-{admin.name}": role_policy(Staging(BUCKET))}
    for identity in ("connector", "caller"):
        assert admin.in_force(identity) == _wanted(admin, identity)
    to_user = admin.iam.list_attached_user_policies(UserName=user)["AttachedPolicies"]
    to_role = admin.iam.list_attached_role_policies(RoleName=f"worker-{admin.name}")["AttachedPolicies"]
    assert [one["PolicyArn"] for one in (*to_user, *to_role)] == [admin.arn("connector"), admin.arn("caller")]

    before = admin.writes()
    again = admin.apply(*attach, "--yes")
    assert "Nothing to change" in again.stdout
    assert admin.writes() == before
    checked = admin.check()
    assert checked.exit_code == 0, checked.output
    lines = checked.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("ok")] == [
        f"ok       vmimport (role/{admin.role})",
        f"ok       connector (user/{user})",
        f"ok       caller (role/worker-{admin.name})",
    ]
    assert "Not seen: permissions boundaries, organisation policies" in checked.stdout


def test_sms_13_what_drifted_is_shown_named_and_mended(admin: Administrator, user: str) -> None:
    admin.apply("--attach-connector", f"user/{user}", "--yes")
    document = _wanted(admin, "connector")
    objects = next(one for one in document["Statement"] if one["Sid"] == "WaveliftStagingObjects")
    objects["Action"].remove("s3:PutObject")
    admin.iam.create_policy_version(
        PolicyArn=admin.arn("connector"), PolicyDocument=json.dumps(document), SetAsDefault=True
    )
    checked = admin.check("connector")
    assert checked.exit_code == 1
    assert f"which belong in policy wavelift-connector-{admin.name} (wavelift iam apply connector)" in checked.stdout
    assert "s3:PutObject on arn:aws:s3:::staging/disk-0.vmdk" in checked.stdout
    shown = admin.apply("connector")
    assert '+        "s3:PutObject",' in shown.stdout
    assert admin.apply("connector", "--yes").exit_code == 0
    assert admin.in_force("connector") == _wanted(admin, "connector")
    assert admin.check("connector").exit_code == 0


def test_sms_13_a_sixth_version_takes_the_place_of_the_oldest_that_is_not_in_force(admin: Administrator) -> None:
    admin.apply("caller", "--yes")
    for _ in range(4):
        admin.iam.create_policy_version(
            PolicyArn=admin.arn("caller"), PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [ALL]})
        )
    admin.iam.set_default_policy_version(PolicyArn=admin.arn("caller"), VersionId="v2")
    assert admin.versions("caller") == ["v1", "v2", "v3", "v4", "v5"]
    shown = admin.apply("caller")
    assert "for which its oldest version v1 goes" in shown.stdout
    assert admin.apply("caller", "--yes").exit_code == 0
    assert admin.versions("caller") == ["v2", "v3", "v4", "v5", "v6"]
    assert admin.in_force("caller") == _wanted(admin, "caller")
    admin.iam.set_default_policy_version(PolicyArn=admin.arn("caller"), VersionId="v2")
    assert admin.apply("caller", "--yes").exit_code == 0
    assert admin.versions("caller") == ["v2", "v4", "v5", "v6", "v7"], "the version in force is older, and stayed"


def test_sms_13_a_foreign_trust_is_refused_before_anything_is_changed(admin: Administrator) -> None:
    admin.make_role(FOREIGN_TRUST)
    before = admin.writes()
    refused = admin.apply("--yes")
    assert refused.exit_code == 1
    assert f"the role {admin.role} exists, and its trust policy is not ours" in refused.stderr
    assert "--replace-trust" in refused.stderr
    assert "--role NAME" in refused.stderr
    assert admin.writes() == before
    assert admin.check("vmimport").exit_code == 1
    replaced = admin.apply("vmimport", "--replace-trust", "--yes")
    assert replaced.exit_code == 0, replaced.output
    assert '-        "AWS": "*"' in replaced.stdout
    assert admin.trust() == trust_policy(ACCOUNT)


def test_sms_13_the_trust_of_an_earlier_version_is_ours(admin: Administrator) -> None:
    admin.make_role(trust_policy())
    assert "change the trust policy" in admin.apply("vmimport", "--yes").stdout
    assert admin.trust() == trust_policy(ACCOUNT)


def test_sms_13_what_is_not_named_ours_stays(admin: Administrator, user: str) -> None:
    admin.make_role(trust_policy(ACCOUNT))
    other = {"Version": "2012-10-17", "Statement": [{**ALL, "Action": "sqs:*"}]}
    admin.iam.put_role_policy(RoleName=admin.role, PolicyName="theirs", PolicyDocument=json.dumps(other))
    admin.iam.put_user_policy(UserName=user, PolicyName="theirs", PolicyDocument=json.dumps(other))
    admin.apply("--attach-caller", f"user/{user}", "--yes")
    assert admin.inline() == {"theirs": other, f"wavelift-{admin.name}": role_policy(Staging(BUCKET))}
    assert admin.iam.list_user_policies(UserName=user)["PolicyNames"] == ["theirs"]


def test_sms_13_another_bucket_is_told_before_it_takes_the_place_of_the_first(admin: Administrator) -> None:
    admin.apply("vmimport", "connector", "--yes")
    names = ("--role", admin.role, "--suffix", admin.name)
    shown = admin.call("apply", "vmimport", "connector", "--bucket", "another", *names)
    assert shown.stdout.count("It will no longer name the bucket staging") == 2
    both = admin.call("apply", "vmimport", "--bucket", "another", "--role", admin.role, "--suffix", "2", "--yes")
    assert both.exit_code == 0, both.output
    assert set(admin.inline()) == {f"wavelift-{admin.name}", "wavelift-2"}


def test_sms_13_only_what_was_asked_for_is_made(admin: Administrator) -> None:
    admin.apply("connector", "--feature", "migrate", "--yes")
    made = json.dumps(admin.in_force("connector"))
    assert "ebs:PutSnapshotBlock" not in made
    assert "s3:PutObject" in made
    with pytest.raises(admin.iam.exceptions.NoSuchEntityException):
        admin.iam.get_policy(PolicyArn=admin.arn("caller"))
    with pytest.raises(admin.iam.exceptions.NoSuchEntityException):
        admin.trust()


def test_sms_13_check_reads_groups_denials_and_boundaries(admin: Administrator, user: str) -> None:
    admin.apply("connector", "caller", "--yes")
    unattached = admin.check("connector")
    assert unattached.exit_code == 1
    assert f"the policy wavelift-connector-{admin.name} is attached to nobody" in unattached.stdout
    group = f"group-{admin.name}"
    admin.iam.create_group(GroupName=group)
    admin.iam.add_user_to_group(GroupName=group, UserName=user)
    admin.iam.attach_group_policy(GroupName=group, PolicyArn=admin.arn("connector"))
    assert f"ok       connector (group/{group})" in admin.check("connector").stdout
    named = admin.check("connector", "--connector", f"user/{user}")
    assert f"ok       connector (user/{user})" in named.stdout
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "ebs:Start*", "Resource": "*"}]}
    admin.iam.put_user_policy(UserName=user, PolicyName="no", PolicyDocument=json.dumps(deny))
    denied = admin.check("connector", "--connector", f"user/{user}")
    assert denied.exit_code == 1
    assert f"ebs:StartSnapshot on arn:aws:ec2:{admin.aws.region}::snapshot/0" in denied.stdout
    assert denied.stdout.count(" on arn:") == 1
    role = f"bound-{admin.name}"
    boundary = admin.arn("caller")
    admin.iam.create_role(
        RoleName=role, AssumeRolePolicyDocument=json.dumps(FOREIGN_TRUST), PermissionsBoundary=boundary
    )
    admin.iam.attach_role_policy(RoleName=role, PolicyArn=admin.arn("caller"))
    bound = admin.check("caller")
    assert bound.exit_code == 0, bound.output
    assert f"has a permissions boundary, which is not evaluated: {boundary}" in bound.stdout


def test_sms_13_check_of_an_empty_account_names_what_is_missing(admin: Administrator) -> None:
    checked = admin.check()
    assert checked.exit_code == 1
    assert f"missing  vmimport: there is no role {admin.role} (wavelift iam apply vmimport)" in checked.stdout
    for identity in ("connector", "caller"):
        words = f"missing  {identity}: there is no policy wavelift-{identity}-{admin.name}, and nobody was named"
        assert f"{words} (wavelift iam apply {identity} --attach-{identity} user/NAME)" in checked.stdout


def test_sms_13_a_role_with_a_path_is_handed_on_by_its_own_name(admin: Administrator, user: str) -> None:
    trust = json.dumps(trust_policy(ACCOUNT))
    arn = admin.iam.create_role(RoleName=admin.role, Path="/vmie/", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    assert admin.apply("--attach-caller", f"user/{user}", "--yes").exit_code == 0
    [handed] = [one for one in admin.in_force("caller")["Statement"] if one["Action"] == ["iam:PassRole"]]
    assert handed["Resource"] == arn
    assert arn.endswith(f"role/vmie/{admin.role}")
    assert admin.check("caller").exit_code == 0


def test_sms_13_check_of_somebody_who_is_not_there_is_an_error(admin: Administrator) -> None:
    refused = admin.check("connector", "--connector", "role/nobody")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "there is no role nobody in this account. Check the name and the profile" in refused.stderr


def test_amp_10_apply_and_check_give_role_and_caller_what_exports_need(admin: Administrator, user: str) -> None:
    admin.apply("vmimport", "caller", "--attach-caller", f"user/{user}", "--yes")
    exports = ("vmimport", "caller", "--feature", "migrate", "--feature", "export", "--exports", "export-to-s3-a-b")
    lacking = admin.check(*exports)
    assert lacking.exit_code == 1
    for need in ("s3:PutObject on arn:aws:s3:::export-to-s3-a-b/", "s3:GetBucketAcl on arn:aws:s3:::export-to-s3-a-b"):
        assert lacking.stdout.count(need) == 2, "of the role and of the caller"
    region = f"{admin.aws.region}:{ACCOUNT}"
    assert f"ec2:CancelExportTask on arn:aws:ec2:{region}:export-instance-task/0" in lacking.stdout
    made = admin.apply(*exports, "--yes")
    assert made.stdout.count("done: ") == 2, made.output
    assert admin.check(*exports).exit_code == 0
    assert admin.inline() == {f"wavelift-{admin.name}": role_policy(Staging(BUCKET), exports="export-to-s3-a-b")}


# --- bad input and trouble ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("root",), "identity is 'root'; allowed are vmimport, connector, caller"),
        (("--feature", "network"), "--feature is 'network'; allowed are migrate, replicate, test, cutover, backup"),
        (("--feature", "export"), "--feature export and export-setup need the name of the exports bucket: --exports"),
        (("--exports", "No_Bucket"), "--exports is 'No_Bucket', which is no name of a bucket"),
        (("--kms-key", "alias/x"), "--kms-key is 'alias/x'; a policy names a key by its ARN"),
        (("--attach-connector", "jo"), "--attach-connector is 'jo'. Give user/NAME or role/NAME"),
        (("--attach-connector", "group/jo"), "--attach-connector is 'group/jo'"),
        (("caller", "--attach-connector", "user/jo"), "connector is not among the identities"),
        (("--region", "frankfurt"), "--region is 'frankfurt'"),
        (("--account", "111122223333"), f"These credentials are of account {ACCOUNT}, not of 111122223333"),
        (("--profile", "nobody"), "this machine has no AWS profile nobody. aws configure list-profiles"),
        (("--attach-connector", "user/nobody"), "could not list the user's policies: AWS says NoSuchEntity"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_changes_nothing(
    admin: Administrator, arguments: tuple[str, ...], words: str
) -> None:
    before = admin.writes()
    refused = admin.apply(*arguments, "--yes")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert words in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert "Traceback" not in refused.stderr
    assert admin.writes() == before


@pytest.mark.parametrize("option", [("--bucket", "No_Bucket"), ("--role", "a/b"), ("--suffix", "a b")])
def test_names_that_no_policy_can_have_are_refused(admin: Administrator, option: tuple[str, str]) -> None:
    refused = admin.call("apply", "--bucket", BUCKET, *option)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"{option[0]} is {option[1]!r}" in refused.stderr


def test_without_credentials_it_says_how_to_log_in(admin: Administrator) -> None:
    refused = admin.apply(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert refused.exit_code == 1
    assert "there are no credentials. Log in on this machine (aws sso login" in refused.stderr
    assert "task" not in refused.stderr
    wrong = admin.apply(AWS_SECRET_ACCESS_KEY="wrong")
    assert "could not log in to AWS" in wrong.stderr
    assert "--profile" in wrong.stderr


def test_a_document_that_is_too_large_is_refused_before_anything_is_changed(admin: Administrator) -> None:
    before = admin.writes()
    refused = admin.apply("--prefix", "p" * 6000, "--yes")
    assert refused.exit_code == 1
    assert "characters larger than IAM takes. Nothing was changed" in refused.stderr
    assert admin.writes() == before
    admin.make_role(trust_policy(ACCOUNT))
    wide = {"Version": "2012-10-17", "Statement": [{**ALL, "Resource": "arn:aws:s3:::" + "x" * 9900}]}
    admin.iam.put_role_policy(RoleName=admin.role, PolicyName="wide", PolicyDocument=json.dumps(wide))
    before = admin.writes()
    full = admin.apply("vmimport", "--yes")
    assert f"the inline policies of the role {admin.role}" in full.stderr
    assert admin.writes() == before


RIGHTS: Final = (
    *("iam:Get*", "iam:List*", "iam:CreateRole", "iam:PutRolePolicy", "iam:CreatePolicy", "iam:UpdateAssumeRolePolicy"),
    *("iam:AttachUserPolicy", "iam:CreatePolicyVersion", "iam:DeletePolicyVersion"),
)


@pytest.fixture
def limited(admin: Administrator) -> Iterator[Callable[..., dict[str, str]]]:
    """Variables of an administrator who lacks some rights."""

    def make(*lacking: str) -> dict[str, str]:
        allowed = {"Effect": "Allow", "Action": list(RIGHTS), "Resource": "*"}
        denied = {"Effect": "Deny", "Action": list(lacking), "Resource": "*"}
        session = admin.aws.hold("someone", [{"Statement": [allowed, denied]}])
        keys = session.get_credentials().get_frozen_credentials()
        return {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}

    yield make
    admin.aws.let_go()


@pytest.mark.parametrize(
    ("lacking", "done"),
    [("iam:GetRole", -1), ("iam:CreateRole", 0), ("iam:PutRolePolicy", 1), ("iam:CreatePolicy", 2)],
)
def test_a_missing_right_is_named_and_what_was_made_is_found_again(
    admin: Administrator, limited: Callable[..., dict[str, str]], lacking: str, done: int
) -> None:
    stopped = admin.apply("--yes", **limited(lacking))
    assert stopped.exit_code == 1
    assert f"Let somebody run it who may do {lacking}" in stopped.stderr
    if done >= 0:
        assert f"{done} of 4 changes made; what is made stays" in stopped.stderr
    again = admin.apply("--yes")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("done: ") == 4 - max(done, 0)


def test_what_check_may_not_read_is_unknown_and_no_success(
    admin: Administrator, limited: Callable[..., dict[str, str]]
) -> None:
    admin.apply("--yes")
    blind = admin.check(**limited("iam:GetRolePolicy", "iam:GetPolicy"))
    assert blind.exit_code == 1
    assert blind.stdout.count("unknown  ") == 3
    assert "iam:GetRolePolicy" in blind.stdout


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("LimitExceeded", "An IAM quota of this account is used up"),
        ("MalformedPolicyDocument", "IAM refuses a document of ours"),
        ("EntityAlreadyExists", "Somebody else made it at the same time: run it again"),
        ("ConcurrentModification", "run it again"),
    ],
)
def test_what_iam_refuses_is_said_in_words(admin: Administrator, code: str, words: str) -> None:
    admin.aws.rule(service="iam", operation="CreatePolicy", code=code, status=409)
    refused = admin.apply("caller", "--yes")
    assert refused.exit_code == 1
    assert code in refused.stderr
    assert words in refused.stderr


def test_a_role_that_is_not_seen_at_once_is_waited_for(admin: Administrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iam_setup, "SEEN_POLL_S", 0.01)
    admin.aws.rule(service="iam", operation="PutRolePolicy", code="NoSuchEntity", status=404, count=2)
    made = admin.apply("vmimport", "--yes")
    assert made.exit_code == 0, made.output
    assert set(admin.inline()) == {f"wavelift-{admin.name}"}


@pytest.mark.parametrize("operation", ["CreateRole", "CreatePolicy", "PutRolePolicy", "AttachUserPolicy"])
def test_a_lost_answer_is_no_failure(admin: Administrator, user: str, operation: str) -> None:
    """boto3 asks again by itself, and IAM refuses what is there already."""
    admin.aws.rule(service="iam", operation=operation, cut_response_after=0, count=1)
    made = admin.apply("--yes", "--attach-caller", f"user/{user}")
    assert made.exit_code == 0, made.output
    assert "Nothing to change" in admin.apply("--attach-caller", f"user/{user}").stdout


@pytest.mark.parametrize("versions", [2, 5])
def test_a_lost_answer_to_a_new_version_is_no_failure(admin: Administrator, versions: int) -> None:
    admin.apply("caller", "--yes")
    for _ in range(versions - 1):
        admin.iam.create_policy_version(
            PolicyArn=admin.arn("caller"), PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [ALL]})
        )
    in_the_middle = admin.versions("caller")[versions // 2]
    admin.iam.set_default_policy_version(PolicyArn=admin.arn("caller"), VersionId=in_the_middle)
    admin.aws.rule(service="iam", operation="CreatePolicyVersion", cut_response_after=0, count=1)
    made = admin.apply("caller", "--yes")
    assert made.exit_code == 0, made.output
    assert iam_setup.same(admin.in_force("caller"), _wanted(admin, "caller"))
    assert in_the_middle in admin.versions("caller")


def test_a_policy_of_our_name_under_another_path_is_refused_before_anything_is_changed(admin: Administrator) -> None:
    """IAM gives a name once in an account. "Run it again" would never help."""
    name = admin.arn("caller").rpartition("/")[2]
    theirs = json.dumps({"Version": "2012-10-17", "Statement": [ALL]})
    made = admin.iam.create_policy(PolicyName=name, Path="/team/", PolicyDocument=theirs)["Policy"]
    before = admin.writes()
    refused = admin.apply("--yes")
    assert refused.exit_code == 1, refused.output
    assert made["Arn"] in refused.stderr
    assert "--suffix" in refused.stderr
    assert admin.writes() == before
