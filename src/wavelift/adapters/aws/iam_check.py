"""Do the three identities have what they need? For an administrator at a prompt, who may read all of IAM (SMS-13)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.iam_read import Account, IamReader, Principal
from wavelift.adapters.aws.iam_setup import ROLE, Wanted, role_arn
from wavelift.adapters.aws.policies import Need, identity_needs, missing_needs, role_needs, trust_problem
from wavelift.base.errors import MissingPrivilegeError
from wavelift.rules.calls import Identity

UNSEEN: Final = (
    "permissions boundaries, organisation policies (SCPs and RCPs), session policies, conditions of statements, and "
    "the policies of the bucket and of the KMS key"
)
"""What decides too and is not evaluated here."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One identity, as one user, role or group has it.

    :ivar subject: who it is, such as ``role/vmimport``; empty: nobody.
    :ivar policy: the policy that missing actions belong in.
    :ivar asked: how many actions were asked about.
    :ivar problem: what is wrong beside missing actions, or why there is nothing to evaluate.
    :ivar unknown: why it could not be looked at.
    :ivar boundary: ARN of the permissions boundary, which is not evaluated.
    """

    identity: str
    subject: str
    policy: str
    asked: int = 0
    missing: tuple[Need, ...] = ()
    problem: str = ""
    unknown: str = ""
    boundary: str = ""

    @property
    def ok(self) -> bool:
        return not (self.missing or self.problem or self.unknown)


@dataclass(frozen=True, slots=True)
class Looked:
    """What to look at.

    :ivar who: users or roles behind an identity; for one that is not named, whoever has its policy.
    """

    wanted: Wanted
    account: Account
    region: str
    who: Mapping[Identity, Collection[Principal]] = field(default_factory=dict)


class IamCheck:
    """Reads and evaluates; changes nothing."""

    def __init__(self, access: AwsAccess) -> None:
        self._reader = IamReader(access)

    def verdicts(self, asked: Looked) -> Iterator[Verdict]:
        """One for every user, role or group behind the identities that were asked for.

        :raises NotFoundError: there is no such user or role.
        """
        if ROLE in asked.wanted.identities:
            yield self._service_role(asked)
        identities: tuple[Identity, ...] = ("connector", "caller")
        for identity in identities:
            if identity in asked.wanted.identities:
                yield from self._identity(asked, identity)

    def _service_role(self, asked: Looked) -> Verdict:
        wanted, staging = asked.wanted, asked.wanted.staging
        principal = Principal("role", wanted.role)
        subject, policy = str(principal), wanted.name(ROLE)
        needs = role_needs(
            staging.bucket,
            prefix=staging.prefix,
            kms_key_arn=staging.kms_key_arn,
            partition=staging.partition,
            exports=staging.exports,
        )
        try:
            found = self._reader.role(wanted.role)
            if found is None:
                return Verdict(ROLE, "", policy, problem=f"there is no role {wanted.role}")
            missing = missing_needs(self._reader.documents(principal), needs)
            boundary = self._reader.boundary(principal)
        except MissingPrivilegeError as error:
            return Verdict(ROLE, subject, policy, unknown=str(error))
        problem = trust_problem(found.get("AssumeRolePolicyDocument", {}))
        said = f"VM Import can't assume it: {problem}" if problem else ""
        return Verdict(ROLE, subject, policy, len(needs), missing, problem=said, boundary=boundary)

    def _identity(self, asked: Looked, identity: Identity) -> Iterator[Verdict]:
        name = asked.wanted.name(identity)
        arn = asked.account.arn(f"policy/{name}")
        try:
            principals = list(asked.who.get(identity, ()))
            if not principals:
                if self._reader.managed(arn) is None:
                    yield Verdict(identity, "", name, problem=f"there is no policy {name}, and nobody was named")
                    return
                principals = self._reader.holders(arn)
        except MissingPrivilegeError as error:
            yield Verdict(identity, "", name, unknown=str(error))
            return
        if not principals:
            yield Verdict(identity, "", name, problem=f"the policy {name} is attached to nobody")
        for principal in principals:
            yield self._principal(asked, identity, principal)

    def _principal(self, asked: Looked, identity: Identity, principal: Principal) -> Verdict:
        name, subject = asked.wanted.name(identity), str(principal)
        try:
            role = self._reader.role(asked.wanted.role) if identity == "caller" else None
            document = asked.wanted.document(identity, role_arn(asked.wanted.role, role, asked.account))
            needs = identity_needs(document, region=asked.region, account=asked.account.number)
            boundary = self._reader.boundary(principal)
            missing = missing_needs(self._reader.documents(principal), needs)
        except MissingPrivilegeError as error:
            return Verdict(identity, subject, name, unknown=str(error))
        return Verdict(identity, subject, name, len(needs), missing, boundary=boundary)
