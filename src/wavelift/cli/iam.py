"""``wavelift iam``: prints, checks and makes the AWS identities.

``check`` and ``apply`` act on this machine, with the administrator's own credentials: rights that may change IAM never
enter Airflow, its connections or its workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wavelift.base.errors import WaveliftError
from wavelift.cli.connect import fail
from wavelift.cli.output import say
from wavelift.rules.calls import OF_EXPORTS, OFFERED, UNASKED, AwsFeature, Identity

if TYPE_CHECKING:
    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.adapters.aws.iam_check import Verdict
    from wavelift.adapters.aws.iam_read import Account, Principal
    from wavelift.adapters.aws.iam_setup import Change, Wanted

app = typer.Typer(no_args_is_help=True)

KEY_ARN: Final = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key/[\w-]+")
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
ROLE_ARN: Final = re.compile(r"arn:[a-z-]+:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
LONGEST_ROLE: Final = 64
SUFFIX: Final = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)

Prefix = Annotated[str, typer.Option(help="Prefix in it.")]
KmsKey = Annotated[str, typer.Option(help="ARN of the KMS key, if you use one.")]
Features = Annotated[
    list[str] | None,
    typer.Option(
        "--feature", help=f"What it is for: {', '.join(OFFERED)}. Repeatable. Default: {' and '.join(UNASKED)}."
    ),
]
ProfileRoles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile-role",
        help="ARN of the role in an instance profile that waves may choose: a launch passes it to EC2. Repeatable.",
    ),
]
Who = Annotated[
    list[str] | None, typer.Argument(help="vmimport (the service role), connector, caller. Default: all three.")
]
Bucket = Annotated[str, typer.Option(help="Staging bucket.")]
Exports = Annotated[
    str,
    typer.Option(
        help="Exports bucket of the environment (export-to-s3-NAME-REGION): for the features export and export-setup, "
        "and for the service role, which writes there."
    ),
]
Role = Annotated[str, typer.Option(help="Name of the service role, as the environment's `role`.")]
Suffix = Annotated[
    str, typer.Option(help="End of our policies' names: for another bucket in the same account, so that both stay.")
]
Profile = Annotated[str, typer.Option(help="AWS profile of this machine. Default: as the AWS command line finds it.")]
Region = Annotated[str, typer.Option(help="Region of the environment. Default: the profile's.")]
AccountNumber = Annotated[
    str, typer.Option("--account", help="Refuse to look or to act when the credentials are another account's.")
]


def features_of(given: Sequence[str] | None) -> tuple[AwsFeature, ...]:
    """:raises typer.Exit: one is unknown, or of a later version."""
    if unknown := [name for name in given or () if name not in OFFERED]:
        fail(f"--feature is {unknown[0]!r}; allowed are {', '.join(OFFERED)}")
    return tuple(name for name in OFFERED if name in given) if given else UNASKED


def profile_roles_of(given: Sequence[str] | None) -> tuple[str, ...]:
    """:raises typer.Exit: one is no ARN of a role."""
    if wrong := [arn for arn in given or () if not ROLE_ARN.fullmatch(arn)]:
        fail(f"--profile-role is {wrong[0]!r}; give the role's ARN: arn:aws:iam::ACCOUNT:role/NAME")
    return tuple(dict.fromkeys(given or ()))


def exports_of(given: str, features: Sequence[AwsFeature], *, missing: str = "") -> str:
    """Name of the exports bucket.

    :param missing: what stands for a name that is needed and was not given; empty: that is refused.
    :raises typer.Exit: it is no name of a bucket, or missing.
    """
    if given and not BUCKET.fullmatch(given):
        fail(f"--exports is {given!r}, which is no name of a bucket")
    if not given and not set(features).isdisjoint(OF_EXPORTS):
        if not missing:
            fail(f"--feature {' and '.join(OF_EXPORTS)} need the name of the exports bucket: --exports BUCKET")
        return missing
    return given


@app.command("show")
def show(  # noqa: PLR0913  # one parameter per option
    identity: Annotated[
        str, typer.Argument(help="vmimport (the service role), connector, caller, or bucket (its own policy).")
    ] = "vmimport",
    bucket: Bucket = "YOUR-STAGING-BUCKET",
    prefix: Prefix = "",
    kms_key: KmsKey = "",
    role_arn: Annotated[
        str, typer.Option(help="ARN of the service role that the caller passes to VM Import (iam:PassRole).")
    ] = "",
    account: Annotated[str, typer.Option(help="Account number. The trust policy then admits only this account.")] = "",
    region: Annotated[str, typer.Option(help="Region of the environment. It decides the partition of the ARNs.")] = "",
    partition: Annotated[
        str, typer.Option(help="Partition of the ARNs. Default: the partition of --region, else aws.")
    ] = "",
    trust: Annotated[bool, typer.Option("--trust", help="The trust policy of vmimport.")] = False,
    feature: Features = None,
    exports: Exports = "",
    profile_role: ProfileRoles = None,
    connector_arn: Annotated[
        list[str] | None, typer.Option(help="For bucket: ARN of a role or user that connectors run as. Repeatable.")
    ] = None,
    caller_arn: Annotated[
        list[str] | None, typer.Option(help="For bucket: ARN of a role or user of the control plane. Repeatable.")
    ] = None,
) -> None:
    """Print the policy of an AWS identity, generated from the calls that wavelift makes."""
    from wavelift.cli.rights import Asked, Principals, partition_for, show_policy
    from wavelift.rules.policies import Staging

    principals = Principals(connector_arn or [], caller_arn or [])
    profile_roles = profile_roles_of(profile_role)
    arns = (kms_key, role_arn, *principals.connectors, *principals.callers, *profile_roles)
    features = features_of(feature)
    named = exports_of(exports, features, missing="YOUR-EXPORTS-BUCKET")
    staging = Staging(bucket, prefix, kms_key, partition_for(partition, region, *arns), named)
    asked = Asked(
        trust=trust,
        account=account,
        role_arn=role_arn,
        features=features,
        profile_roles=profile_roles,
    )
    show_policy(identity, staging, asked, principals)


@app.command("check")
def check(  # noqa: PLR0913  # one parameter per option
    identities: Who = None,
    *,
    bucket: Bucket,
    prefix: Prefix = "",
    kms_key: KmsKey = "",
    role: Role = "vmimport",
    feature: Features = None,
    exports: Exports = "",
    profile_role: ProfileRoles = None,
    suffix: Suffix = "",
    connector: Annotated[
        list[str] | None,
        typer.Option(help="Who the connector is: user/NAME or role/NAME. Repeatable. Default: who has its policy."),
    ] = None,
    caller: Annotated[
        list[str] | None,
        typer.Option(help="Who the caller is: user/NAME or role/NAME. Repeatable. Default: who has its policy."),
    ] = None,
    profile: Profile = "",
    region: Region = "",
    account: AccountNumber = "",
) -> None:
    """Check whether the AWS identities may do what they must; name what is missing. Changes nothing.

    Acts from this machine, with your own credentials. Exits with 1 when something is missing or can't be read.
    """
    with told():
        from wavelift.adapters.aws.iam_check import UNSEEN, IamCheck, Looked

        who: dict[Identity, list[Principal]] = {
            "connector": _principals(connector, "--connector"),
            "caller": _principals(caller, "--caller"),
        }
        options = _Options(identities, bucket, prefix, kms_key, role, feature, suffix, profile_role, exports)
        access, found = _log_in(profile, region, account)
        wanted = options.wanted(found)
        looked = Looked(wanted, found, access.region, {name: many for name, many in who.items() if many})
        verdicts = list(IamCheck(access).verdicts(looked))
    say(f"Account {found.number}, as {found.caller}")
    for verdict in verdicts:
        _show_verdict(verdict)
    say(f"Not seen: {UNSEEN}.")
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)


@app.command("apply")
def apply(  # noqa: PLR0913  # one parameter per option
    identities: Who = None,
    *,
    bucket: Bucket,
    prefix: Prefix = "",
    kms_key: KmsKey = "",
    role: Role = "vmimport",
    feature: Features = None,
    exports: Exports = "",
    profile_role: ProfileRoles = None,
    suffix: Suffix = "",
    attach_connector: Annotated[
        list[str] | None,
        typer.Option(help="Attach the connector's policy to user/NAME or role/NAME. Repeatable."),
    ] = None,
    attach_caller: Annotated[
        list[str] | None, typer.Option(help="Attach the caller's policy to user/NAME or role/NAME. Repeatable.")
    ] = None,
    replace_trust: Annotated[
        bool, typer.Option("--replace-trust", help="Replace a trust policy of the service role that is not ours.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Make the changes. Without it they are only shown.")] = False,
    profile: Profile = "",
    region: Region = "",
    account: AccountNumber = "",
) -> None:
    """Make the AWS identities: the service role and its policy, and the policies of connector and caller.

    Acts from this machine, with your own credentials, which wavelift keeps nowhere. Shows the difference, and changes
    something only with --yes. Policies with other names than ours are never touched.
    """
    with told():
        from wavelift.adapters.aws.iam_setup import IamSetup

        attach: dict[Identity, list[Principal]] = {
            "connector": _principals(attach_connector, "--attach-connector"),
            "caller": _principals(attach_caller, "--attach-caller"),
        }
        options = _Options(identities, bucket, prefix, kms_key, role, feature, suffix, profile_role, exports)
        for name in (name for name, principals in attach.items() if principals and name not in options.identities):
            fail(f"--attach-{name}: {name} is not among the identities that were asked for")
        access, found = _log_in(profile, region, account)
        wanted = options.wanted(found, attach=attach, replace_trust=replace_trust)
        changes = IamSetup(access).plan(wanted, found)
    say(f"Account {found.number}, as {found.caller}")
    if not changes:
        say("Nothing to change: all of it is there")
        return
    for change in changes:
        _show_change(change)
    if not yes:
        say(f"Nothing was changed. To make {_counted(len(changes))}, say it again with --yes")
        return
    _make(changes)


def _make(changes: Sequence[Change]) -> None:
    for done, change in enumerate(changes):
        try:
            change.run()
        except WaveliftError as error:
            fail(f"{error}\n{done} of {_counted(len(changes))} made; what is made stays, so say it again afterwards")
        say(f"done: {change.title}")


def _counted(number: int) -> str:
    return "1 change" if number == 1 else f"{number} changes"


@contextmanager
def told() -> Iterator[None]:
    """An error of ours becomes one line and status 1."""
    try:
        yield
    except WaveliftError as error:
        fail(str(error))


@dataclass(frozen=True, slots=True)
class _Options:
    """Those that ``check`` and ``apply`` share. :raises typer.Exit: one is wrong; the message names it."""

    asked: Sequence[str] | None
    bucket: str
    prefix: str
    kms_key: str
    role: str
    feature: Sequence[str] | None
    suffix: str
    profile_role: Sequence[str] | None = None
    exports: str = ""

    def __post_init__(self) -> None:
        from wavelift.adapters.aws.iam_read import NAME
        from wavelift.adapters.aws.iam_setup import IDENTITIES

        if unknown := [name for name in self.asked or () if name not in IDENTITIES]:
            fail(f"identity is {unknown[0]!r}; allowed are {', '.join(IDENTITIES)}")
        if not BUCKET.fullmatch(self.bucket):
            fail(f"--bucket is {self.bucket!r}, which is no name of a bucket")
        if self.kms_key and not KEY_ARN.fullmatch(self.kms_key):
            fail(f"--kms-key is {self.kms_key!r}; a policy names a key by its ARN: arn:aws:kms:REGION:ACCOUNT:key/ID")
        if not NAME.fullmatch(self.role) or len(self.role) > LONGEST_ROLE:
            fail(f"--role is {self.role!r}; give the role's name, without account and path")
        if self.suffix and not SUFFIX.fullmatch(self.suffix):
            fail(f"--suffix is {self.suffix!r}; allowed are up to 64 letters, digits and +=,.@_-")
        exports_of(self.exports, features_of(self.feature))
        profile_roles_of(self.profile_role)

    @property
    def identities(self) -> tuple[str, ...]:
        from wavelift.adapters.aws.iam_setup import IDENTITIES

        return tuple(self.asked or IDENTITIES)

    def wanted(
        self, account: Account, *, attach: Mapping[Identity, list[Principal]] | None = None, replace_trust: bool = False
    ) -> Wanted:
        from wavelift.adapters.aws.iam_setup import Wanted
        from wavelift.rules.policies import Staging

        return Wanted(
            staging=Staging(self.bucket, self.prefix, self.kms_key, account.partition, self.exports),
            role=self.role,
            features=features_of(self.feature),
            identities=self.identities,
            suffix=self.suffix,
            profile_roles=profile_roles_of(self.profile_role),
            attach=attach or {},
            replace_trust=replace_trust,
        )


def _principals(given: Sequence[str] | None, option: str) -> list[Principal]:
    from wavelift.adapters.aws.iam_read import Principal

    return list(dict.fromkeys(Principal.parse(text, option) for text in given or ()))


def _log_in(profile: str, region: str, expected: str) -> tuple[AwsAccess, Account]:
    from wavelift.adapters.aws.iam_read import IamReader, administrator
    from wavelift.base.regions import partition_of

    if region and not partition_of(region):
        fail(f"--region is {region!r}: no region that the installed botocore knows")
    access = administrator(profile, region)
    found = IamReader(access).account()
    if expected and found.number != expected:
        fail(f"These credentials are of account {found.number}, not of {expected}: name its profile with --profile")
    return access, found


def _show_verdict(verdict: Verdict) -> None:
    subject = f" ({verdict.subject})" if verdict.subject else ""
    if verdict.ok:
        say(f"ok       {verdict.identity}{subject}: {verdict.asked} rights")
    elif verdict.unknown:
        say(f"unknown  {verdict.identity}{subject}: {verdict.unknown}")
    else:
        _show_missing(verdict, subject)
    if verdict.boundary:
        say(f"         has a permissions boundary, which is not evaluated: {verdict.boundary}")


def _show_missing(verdict: Verdict, subject: str) -> None:
    make = f"wavelift iam apply {verdict.identity}"
    if not verdict.subject and verdict.identity != "vmimport":
        make += f" --attach-{verdict.identity} user/NAME"
    if verdict.problem:
        say(f"missing  {verdict.identity}{subject}: {verdict.problem} ({make})")
    if verdict.missing:
        belong = f"{len(verdict.missing)} of {verdict.asked} rights, which belong in policy {verdict.policy} ({make})"
        say(f"missing  {verdict.identity}{subject}: {belong}")
    for action, resource in verdict.missing:
        say(f"         {action} on {resource}")


def _show_change(change: Change) -> None:
    say(change.title)
    for line in change.lines:
        say(f"    {line}")
    for bucket in change.loses:
        say(f"    It will no longer name the bucket {bucket}. If an environment needs that, say --suffix to keep both")
