"""Makes the three identities in IAM: the service role, and the policies of connector and caller (SMS-13).

For an administrator at a prompt, with credentials of his own: no task, no connection of Airflow and no route gets here.
:meth:`IamSetup.plan` only reads, and finds out all that can be refused before the first change. A change that has been
made is found by the next plan, so a set-up that broke off is run again.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.iam_read import Account, IamReader, Principal, iam_errors
from wavelift.base.errors import MissingPrivilegeError, NotFoundError, PermanentError, WaveliftError
from wavelift.rules.calls import UNASKED, AwsFeature, Identity
from wavelift.rules.policies import Document, Staging, identity_policy, role_policy, trust_policy

ROLE: Final = "vmimport"
"""VM Import's default role, and the word for the service role as an identity."""
IDENTITIES: Final = (ROLE, "connector", "caller")
MANAGED_LIMIT: Final = 6144
"""Characters of a managed policy without white space (IAM user guide, "IAM and AWS STS quotas")."""
INLINE_LIMIT: Final = 10_240
"""The same, of all inline policies of a role together."""
VERSIONS: Final = 5
"""Versions that IAM keeps of a managed policy."""
SEEN_WAIT_S: Final = 20.0
"""Seconds until a role that was just made is seen everywhere in IAM."""
SEEN_POLL_S: Final = 1.0
DESCRIPTION: Final = "Made by wavelift iam apply"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be there.

    :ivar identities: of :data:`IDENTITIES`; the others stay as they are.
    :ivar profile_roles: ARNs of the roles in the environments' instance profiles.
    :ivar suffix: of the policies' names, for another bucket in the same account.
    :ivar attach: who each policy shall be attached to; nothing is detached.
    :ivar replace_trust: take the place of a trust policy that is not ours.
    """

    staging: Staging
    role: str = ROLE
    features: Collection[AwsFeature] = UNASKED
    identities: Collection[str] = IDENTITIES
    suffix: str = ""
    attach: Mapping[Identity, Collection[Principal]] = field(default_factory=dict)
    replace_trust: bool = False
    profile_roles: Sequence[str] = ()

    def name(self, identity: str) -> str:
        """Of the policy that an identity's rights belong in; the service role's is an inline policy."""
        end = f"-{self.suffix}" if self.suffix else ""
        return f"wavelift{end}" if identity == ROLE else f"wavelift-{identity}{end}"

    def document(self, identity: Identity, role_arn: str) -> Document:
        """:param role_arn: of the service role, which the caller hands on."""
        return identity_policy(
            identity, self.staging, role_arn=role_arn, features=self.features, profile_roles=self.profile_roles
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One change, not made yet.

    :ivar lines: what it changes in a document: as a diff has them.
    :ivar loses: buckets that the document will no longer name.
    """

    title: str
    run: Callable[[], object]
    lines: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()


def buckets(document: Document) -> set[str]:
    """Names of the buckets that a document is about."""
    found = [part for part in _strings(document.get("Statement")) if ":s3:::" in part]
    return {arn.partition(":s3:::")[2].partition("/")[0] for arn in found}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _lost(before: Document | None, after: Document) -> tuple[str, ...]:
    return tuple(sorted(buckets(before) - buckets(after))) if before else ()


def difference(before: Document | None, after: Document) -> tuple[str, ...]:
    """Lines that begin with ``+``, ``-`` or a blank."""
    old = json.dumps(before, indent=2).splitlines() if before is not None else []
    lines = difflib.unified_diff(old, json.dumps(after, indent=2).splitlines(), lineterm="", n=2)
    return tuple(line for line in lines if not line.startswith(("---", "+++", "@@")))


def same(one: Document, other: Document) -> bool:
    """Whether two documents say the same, whatever the order of their keys and lists."""
    return bool(_canonical(one) == _canonical(other))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _canonical(part) for key, part in value.items()}
    if isinstance(value, list):
        parts = sorted((_canonical(part) for part in value), key=lambda part: json.dumps(part, sort_keys=True))
        return parts[0] if len(parts) == 1 else parts
    return value


def compact(document: Document) -> str:
    """As it is sent: without the white space that IAM does not count."""
    return json.dumps(document, separators=(",", ":"))


class IamSetup:
    """One account."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access
        self._reader = IamReader(access)

    @property
    def _client(self) -> Any:
        return self._access.client("iam")

    def plan(self, wanted: Wanted, account: Account) -> list[Change]:
        """What is not as wanted yet, in the order in which it is to be made.

        :raises PermanentError: the role's trust policy is not ours, or a document is too large.
        :raises NotFoundError: there is no such user or role to attach a policy to.
        :raises MissingPrivilegeError: these credentials may not look; the action is named.
        """
        changes: list[Change] = []
        role = self._reader.role(wanted.role) if {ROLE, "caller"} & set(wanted.identities) else None
        if ROLE in wanted.identities:
            changes += self._role(wanted, account, role)
        identities: tuple[Identity, ...] = ("connector", "caller")
        for identity in identities:
            if identity in wanted.identities:
                document = wanted.document(identity, role_arn(wanted.role, role, account))
                changes += self._managed(wanted.name(identity), document, account)
                changes += self._attached(wanted, identity, account)
        return changes

    # -- the service role -----------------------------------------------------------------------------------------

    def _role(self, wanted: Wanted, account: Account, found: Mapping[str, Any] | None) -> Iterator[Change]:
        name, trust = wanted.role, trust_policy(account.number)
        if found is None:
            yield Change(f"create role {name}", lambda: self._create_role(name, trust), difference(None, trust))
        else:
            yield from self._trust(wanted, found["AssumeRolePolicyDocument"], trust)
        yield from self._inline(wanted, exists=found is not None)

    def _create_role(self, name: str, trust: Document) -> None:
        def create() -> None:
            with iam_errors("could not create the role", role=name):
                self._client.create_role(
                    RoleName=name, AssumeRolePolicyDocument=compact(trust), Description=DESCRIPTION, Path="/"
                )

        def there() -> bool:
            found = self._reader.role(name)
            return found is not None and same(found["AssumeRolePolicyDocument"], trust)

        _once(create, there)

    def _trust(self, wanted: Wanted, found: Document, trust: Document) -> Iterator[Change]:
        if same(found, trust):
            return
        ours = same(found, trust_policy())  # of before an account was given, and what AWS's guide prints
        if not ours and not wanted.replace_trust:
            raise PermanentError(
                f"the role {wanted.role} exists, and its trust policy is not ours",
                next_step="Look at it (aws iam get-role). To replace it, say --replace-trust: whoever it trusts now "
                "may then no longer assume the role. Or give wavelift a role of its own: --role NAME",
                role=wanted.role,
            )
        yield Change(
            f"{'change' if ours else 'replace'} the trust policy of role {wanted.role}",
            lambda: self._update_trust(wanted.role, trust),
            difference(found, trust),
        )

    def _update_trust(self, name: str, trust: Document) -> None:
        with iam_errors("could not change the role's trust policy", role=name):
            self._client.update_assume_role_policy(RoleName=name, PolicyDocument=compact(trust))

    def _inline(self, wanted: Wanted, *, exists: bool) -> Iterator[Change]:
        """Other inline policies of the role stay: other buckets, or other people, may need them."""
        name, document = wanted.name(ROLE), role_policy(wanted.staging)
        standing = self._reader.inline(Principal("role", wanted.role)) if exists else {}
        before = standing.pop(name, None)
        others = sum(len(compact(one)) for one in standing.values())
        _fits(document, INLINE_LIMIT - others, f"the inline policies of the role {wanted.role}, with {name},")
        if before is None or not same(before, document):
            yield Change(
                f"{'create' if before is None else 'change'} inline policy {name} of role {wanted.role}",
                lambda: _seen(lambda: self._put_inline(wanted.role, name, document)),
                difference(before, document),
                _lost(before, document),
            )

    def _put_inline(self, role: str, name: str, document: Document) -> None:
        with iam_errors("could not store the role's inline policy", role=role, policy=name):
            self._client.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=compact(document))

    # -- customer-managed policies --------------------------------------------------------------------------------

    def _managed(self, name: str, document: Document, account: Account) -> Iterator[Change]:
        arn = account.arn(f"policy/{name}")
        _fits(document, MANAGED_LIMIT, f"the policy {name}")
        before = self._reader.managed(arn)
        if before is None:
            self._free_name(name, arn)
            yield Change(f"create policy {name}", lambda: self._create(name, arn, document), difference(None, document))
        elif not same(before, document):
            oldest = self._to_drop(arn)
            dropped = f", for which its oldest version {oldest} goes" if oldest else ""
            yield Change(
                f"change policy {name}{dropped}",
                lambda: self._new_version(arn, document, oldest),
                difference(before, document),
                _lost(before, document),
            )

    def _to_drop(self, arn: str) -> str:
        """The oldest version that is not in force, if there is no place for another; else empty."""
        with iam_errors("could not list the policy's versions", policy=arn):
            pages = self._client.get_paginator("list_policy_versions").paginate(PolicyArn=arn)
            versions = [one for page in pages for one in page["Versions"]]
        if len(versions) < VERSIONS:
            return ""
        spare = [one for one in versions if not one["IsDefaultVersion"]]
        # "v12": the number grows with every version, the time has whole seconds only.
        oldest = min(spare, key=lambda one: (one["CreateDate"], int(one["VersionId"].removeprefix("v") or 0)))
        return str(oldest["VersionId"])

    def _free_name(self, name: str, arn: str) -> None:
        """A name is given once in an account, whatever the path and the case of its letters.

        :raises PermanentError: a policy with another path has it.
        """
        try:
            others = [one for one in self._reader.named(name) if one != arn]
        except MissingPrivilegeError:
            return  # then IAM says so when it is made
        if others:
            raise PermanentError(
                f"the name {name} belongs to another policy: {others[0]}",
                next_step="It is not ours and stays as it is. Take other names: --suffix TEXT",
                policy=name,
            )

    def _create(self, name: str, arn: str, document: Document) -> None:
        def create() -> None:
            with iam_errors("could not create the policy", policy=name):
                self._client.create_policy(
                    PolicyName=name, PolicyDocument=compact(document), Description=DESCRIPTION, Path="/"
                )

        _once(create, lambda: self._in_force(arn, document))

    def _new_version(self, arn: str, document: Document, oldest: str) -> None:
        def create() -> None:
            with iam_errors("could not change the policy", policy=arn):
                if oldest:
                    self._client.delete_policy_version(PolicyArn=arn, VersionId=oldest)
                self._client.create_policy_version(PolicyArn=arn, PolicyDocument=compact(document), SetAsDefault=True)

        _once(create, lambda: self._in_force(arn, document))

    def _in_force(self, arn: str, document: Document) -> bool:
        found = self._reader.managed(arn)
        return found is not None and same(found, document)

    def _attached(self, wanted: Wanted, identity: Identity, account: Account) -> Iterator[Change]:
        name = wanted.name(identity)
        arn = account.arn(f"policy/{name}")
        for principal in wanted.attach.get(identity, ()):
            if arn not in self._reader.attached(principal):
                yield Change(f"attach policy {name} to {principal}", partial(self._attach, principal, arn))

    def _attach(self, principal: Principal, arn: str) -> None:
        def attach() -> None:
            with iam_errors("could not attach the policy", principal=principal, policy=arn):
                if principal.kind == "user":
                    self._client.attach_user_policy(UserName=principal.name, PolicyArn=arn)
                else:
                    self._client.attach_role_policy(RoleName=principal.name, PolicyArn=arn)

        _seen(attach)


def role_arn(name: str, found: Mapping[str, Any] | None, account: Account) -> str:
    """Of the service role, which may have a path; before there is one, of the role that would be made."""
    return str(found["Arn"]) if found else account.arn(f"role/{name}")


def _fits(document: Document, limit: int, what: str) -> None:
    size = len(compact(document))
    if size > limit:
        raise PermanentError(
            f"{what} would be {size - limit} characters larger than IAM takes",
            next_step="Nothing was changed. Ask for fewer features (--feature), or for a shorter bucket and prefix; "
            "of a role, look whether all its inline policies are still needed",
        )


def _once(call: Callable[[], None], there: Callable[[], bool]) -> None:
    """What cannot be made twice. When the answer is lost, boto3 calls again, and IAM refuses: it is there."""
    try:
        call()
    except WaveliftError:
        try:
            made = there()
        except WaveliftError:
            made = False
        if not made:
            raise


def _seen(call: Callable[[], None]) -> None:
    """Call again while IAM does not know what it has just made."""
    give_up = time.monotonic() + SEEN_WAIT_S
    while True:
        try:
            return call()
        except NotFoundError:
            if time.monotonic() >= give_up:
                raise
        time.sleep(SEEN_POLL_S)
