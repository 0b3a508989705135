"""What IAM holds of users, roles, groups and policies, for an administrator at a prompt; and IAM's errors in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import boto3
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
from botocore.parsers import ResponseParserError

from wavelift.adapters.aws.access import PROVIDER_ERRORS, AwsAccess, credential_failure
from wavelift.adapters.aws.errors import error_code, from_client_error, from_library_error
from wavelift.base.errors import LoginError, MissingPrivilegeError, NotFoundError, SpecError, WaveliftError
from wavelift.rules.policies import Document

ANY_REGION: Final = "us-east-1"
"""IAM is one for all regions of a partition; where a profile names none, this one's endpoint answers."""
LOG_IN: Final = (
    "Log in on this machine (aws sso login, aws login, aws configure), or name another profile with --profile; outside "
    "AWS's commercial regions say --region, too"
)
ADVICE: Final = {
    "MalformedPolicyDocument": "IAM refuses a document of ours: check bucket, prefix, key and role for odd characters",
    "LimitExceeded": "An IAM quota of this account is used up (policies, roles, or policies of one user or role): "
    "remove what nobody needs, or have it raised",
    "EntityAlreadyExists": "Somebody else made it at the same time: run it again",
    "ConcurrentModification": "Somebody else changes it at the same time: run it again",
    "DeleteConflict": "Somebody else uses it: run it again",
    "UnmodifiableEntity": "AWS keeps this role for a service of its own: take another one with --role",
}
"""By IAM's code."""

Kind = Literal["user", "role", "group"]
NAME: Final = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
"""IAM user guide, "Names and paths"."""


@contextmanager
def iam_errors(what: str, **where: object) -> Iterator[None]:
    """Translate what IAM says inside, for whoever sits at the prompt."""
    try:
        yield
    except ClientError as error:
        found = from_client_error(error, what, next_step=ADVICE.get(error_code(error), ""), service="iam", **where)
        raise _for_the_prompt(found) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise _for_the_prompt(from_library_error(error, what, next_step="", **where)) from error


def _for_the_prompt(error: WaveliftError) -> WaveliftError:
    """The same with another way out: there is no connection, and no task to clear."""
    if isinstance(error, MissingPrivilegeError):
        action = error.where.get("action") or "the call"
        return MissingPrivilegeError(
            error.what, next_step=f"Let somebody run it who may do {action}, or name his profile", **error.where
        )
    if isinstance(error, LoginError):
        return LoginError(error.what, next_step=LOG_IN, **error.where)
    return error


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, role or group of the account."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @classmethod
    def parse(cls, text: str, option: str) -> Principal:
        """``user/NAME`` or ``role/NAME``. :raises SpecError: it is neither."""
        kind, _, name = text.partition("/")
        if kind not in get_args(Kind)[:2] or not NAME.fullmatch(name):
            raise SpecError(
                f"{option} is {text!r}", next_step="Give user/NAME or role/NAME, without the account and the path"
            )
        return cls("user" if kind == "user" else "role", name)


@dataclass(frozen=True, slots=True)
class Account:
    """Whose credentials these are.

    :ivar caller: ARN of the administrator.
    """

    number: str
    partition: str
    caller: str

    def arn(self, resource: str) -> str:
        return f"arn:{self.partition}:iam::{self.number}:{resource}"


def administrator(profile: str = "", region: str = "") -> AwsAccess:
    """With a profile of this machine, or what boto3 finds without one.

    :raises LoginError: there is no such profile, or no credentials. :raises UnreachableError: their giver is silent.
    """
    try:
        session = boto3.Session(profile_name=profile or None)
        access = AwsAccess(session, region=region or session.region_name or ANY_REGION)
    except ProfileNotFound as error:
        raise LoginError(
            f"this machine has no AWS profile {profile or error!s}",
            next_step="aws configure list-profiles names those that it has",
        ) from error
    except PROVIDER_ERRORS as error:
        raise _for_the_prompt(credential_failure(error)) from error
    try:
        access.credentials()
    except LoginError as error:
        raise LoginError(error.what.replace("the AWS connection has", "there are"), next_step=LOG_IN) from error
    return access


class IamReader:
    """Reads; the name of a missing right is in the error."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("iam")

    def account(self) -> Account:
        """:raises LoginError: AWS refuses the credentials."""
        with iam_errors("could not log in to AWS"):
            found = self._access.client("sts").get_caller_identity()
        return Account(str(found["Account"]), str(found["Arn"]).split(":")[1], str(found["Arn"]))

    def role(self, name: str) -> Mapping[str, Any] | None:
        """None: there is none of this name."""
        with iam_errors("could not look at the role", role=name):
            return _found(lambda: self._client.get_role(RoleName=name)["Role"])

    def user(self, name: str) -> Mapping[str, Any] | None:
        with iam_errors("could not look at the user", user=name):
            return _found(lambda: self._client.get_user(UserName=name)["User"])

    def boundary(self, principal: Principal) -> str:
        """ARN of the permissions boundary, which is not evaluated; empty for none. :raises NotFoundError: no such."""
        if principal.kind == "group":
            return ""
        found = self.role(principal.name) if principal.kind == "role" else self.user(principal.name)
        if found is None:
            raise NotFoundError(
                f"there is no {principal.kind} {principal.name} in this account",
                next_step="Check the name and the profile",
            )
        return str(found.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", ""))

    def managed(self, arn: str) -> Document | None:
        """The version in force; None: there is no such policy."""
        with iam_errors("could not look at the policy", policy=arn):
            policy = _found(lambda: self._client.get_policy(PolicyArn=arn)["Policy"])
            if policy is None:
                return None
            version = self._client.get_policy_version(PolicyArn=arn, VersionId=policy["DefaultVersionId"])
            return dict(version["PolicyVersion"]["Document"])

    def named(self, name: str) -> list[str]:
        """ARNs of customer-managed policies of this name, whatever their path and the case of their letters."""
        with iam_errors("could not list the policies", policy=name):
            pages = self._client.get_paginator("list_policies").paginate(Scope="Local")
            found = [one for page in pages for one in page["Policies"]]
        return [str(one["Arn"]) for one in found if one["PolicyName"].lower() == name.lower()]

    def inline(self, principal: Principal) -> dict[str, Document]:
        """Inline policies by name."""
        kind, named = principal.kind, {f"{principal.kind.title()}Name": principal.name}
        with iam_errors(f"could not read the {kind}'s inline policies", principal=principal):
            pages = self._client.get_paginator(f"list_{kind}_policies").paginate(**named)
            names = [name for page in pages for name in page["PolicyNames"]]
            read = getattr(self._client, f"get_{kind}_policy")
            return {name: dict(read(**named, PolicyName=name)["PolicyDocument"]) for name in names}

    def attached(self, principal: Principal) -> list[str]:
        """ARNs of attached policies. :raises NotFoundError: there is no such user or role."""
        kind, named = principal.kind, {f"{principal.kind.title()}Name": principal.name}
        with iam_errors(f"could not list the {kind}'s policies", principal=principal):
            pages = self._client.get_paginator(f"list_attached_{kind}_policies").paginate(**named)
            return [one["PolicyArn"] for page in pages for one in page["AttachedPolicies"]]

    def holders(self, arn: str) -> list[Principal]:
        """Whom a policy is attached to."""
        with iam_errors("could not list whom the policy is attached to", policy=arn):
            pages = list(self._client.get_paginator("list_entities_for_policy").paginate(PolicyArn=arn))
        return [
            Principal(kind, one[f"{kind.title()}Name"])
            for kind in get_args(Kind)
            for page in pages
            for one in page[f"Policy{kind.title()}s"]
        ]

    def documents(self, principal: Principal) -> list[Document]:
        """Every policy of a user, his groups' included, of a role or of a group."""
        found = list(self.inline(principal).values())
        for arn in self.attached(principal):
            document = self.managed(arn)
            found += [document] if document is not None else []
        if principal.kind == "user":
            for group in self._groups(principal.name):
                found += self.documents(group)
        return found

    def _groups(self, user: str) -> list[Principal]:
        with iam_errors("could not list the user's groups", user=user):
            pages = self._client.get_paginator("list_groups_for_user").paginate(UserName=user)
            return [Principal("group", one["GroupName"]) for page in pages for one in page["Groups"]]


def _found(call: Callable[[], Any]) -> dict[str, Any] | None:
    try:
        return dict(call())
    except ClientError as error:
        if error_code(error) == "NoSuchEntity":
            return None
        raise
