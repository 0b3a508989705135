"""The bucket that exports go to: what is seen of it, its making, and the grants of VM Export (VIE-02, AMP-10).

Setting up never changes a bucket that it did not make: its tag, which CreateBucket sets in the same call, tells. What
is missing of ours is added, so that a set-up that broke off is run again; what a person changed on it since is never
replaced. Only grants are added to another bucket, and only where the operator asks for that.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bucket_policy import denials_of, grants_of
from wavelift.adapters.aws.errors import aws_errors, error_code
from wavelift.adapters.aws.tagging import from_aws, to_aws
from wavelift.base.errors import (
    BusyError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.regions import partition_of
from wavelift.rules.export_facts import BucketFacts, GrantFacts

log = logging.getLogger(__name__)
T = TypeVar("T")

MADE_FOR: Final = "wavelift:made-for"
EXPORTS: Final = "exports"
"""The tag of a bucket that we made, and its value."""
OWNERSHIP: Final = "BucketOwnerPreferred"
"""ACLs are on, as VM Export needs it, and what it writes belongs to the bucket's owner."""
GRANTED: Final = ("READ_ACP", "WRITE")
"""What VM Export's account of the region must have on the bucket."""
BLOCKED: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
NO_CONSTRAINT: Final = "us-east-1"
"""The one region that CreateBucket does not want to be told."""
REGION_HEADER: Final = "x-amz-bucket-region"
ACL_TRIES: Final = 3
"""An ACL is read, changed and written whole: whoever does that at the same time may take our grants away."""
SEEN_WAIT_S: Final = 30.0
SEEN_POLL_S: Final = 1.0
"""Until S3 shows a bucket that was just made."""
_ENABLE: Final = "In S3, set Object Ownership of the bucket to 'bucket owner preferred' (ACLs enabled); then again"


@dataclass(frozen=True, slots=True)
class BucketSetup:
    """:ivar done: what was changed, one line each; empty: nothing. :ivar ours: we made the bucket, now or before."""

    facts: BucketFacts
    done: tuple[str, ...] = ()
    ours: bool = True


class ExportBuckets:
    """Buckets for exports of one region.

    :param account: number of the account of the connection: a bucket of another one is never touched.
    """

    def __init__(self, access: AwsAccess, account: str) -> None:
        self._access, self._account = access, account

    @property
    def _client(self) -> Any:
        return self._access.client("s3")

    # -- facts ----------------------------------------------------------------------------------------------------

    def facts(self, name: str) -> BucketFacts:
        """What S3 tells of the bucket. A part that these credentials may not read is named in ``unknown``."""
        found = self._place(name)
        if not found.exists or not found.owned:
            return found
        unknown: list[str] = []
        no_grants: tuple[GrantFacts, ...] = ()
        no_policy: Mapping[str, Any] = {}

        def read(what: str, call: Callable[[str], T], otherwise: T) -> T:
            try:
                with aws_errors(f"could not look at the bucket's {what}", service="s3", bucket=name):
                    return call(name)
            except MissingPrivilegeError as error:
                unknown.append(f"{what}: {error.what}; {error.next_step}")
                return otherwise

        policy = read("policy", self._policy, no_policy)
        partition = partition_of(self._access.region)
        return found.model_copy(
            update={
                "ownership": read("object ownership", self._ownership, ""),
                "grants": (
                    *read("access control list", self._grants_of, no_grants),
                    *grants_of(policy, name, partition),
                ),
                "denials": tuple(denials_of(policy, name, partition)),
                "encryption": read("encryption", self._encryption, ""),
                "public_access_blocked": read("block of public access", self._blocked, False),
                "unknown": tuple(unknown),
            }
        )

    def _place(self, name: str) -> BucketFacts:
        """Existence, owner and region, by HeadBucket: it refuses whoever expects another owner."""
        try:
            return BucketFacts(name=name, exists=True, region=self._head(name, ExpectedBucketOwner=self._account))
        except NotFoundError:
            return BucketFacts(name=name, exists=False, owned=False)
        except MissingPrivilegeError as refused:
            region = _told_region(refused)
        try:
            region = self._head(name) or region
        except NotFoundError:
            return BucketFacts(name=name, exists=False, owned=False)
        except MissingPrivilegeError as error:
            why = f"whose it is: {error.what}; it belongs to another account, or s3:ListBucket on it is not allowed"
            return BucketFacts(
                name=name, exists=True, owned=False, region=_told_region(error) or region, unknown=(why,)
            )
        return BucketFacts(name=name, exists=True, owned=False, region=region)

    def _head(self, name: str, **expected: str) -> str:
        """Region of the bucket."""
        with aws_errors("could not look at the bucket", service="s3", bucket=name):
            answer = self._client.head_bucket(Bucket=name, **expected)
        told = str(answer.get("BucketRegion") or _header(answer))
        return told or self._location(name)

    def _location(self, name: str) -> str:
        """Where HeadBucket does not tell, as outside of AWS."""
        with aws_errors("could not look at the bucket's region", service="s3", bucket=name):
            constraint = self._client.get_bucket_location(Bucket=name).get("LocationConstraint")
        return {None: NO_CONSTRAINT, "": NO_CONSTRAINT, "EU": "eu-west-1"}.get(constraint, str(constraint))

    def _ownership(self, name: str) -> str:
        """A bucket of before 2021 may have no such setting: then each object is its writer's, and ACLs are on."""
        found = _unless(
            "OwnershipControlsNotFoundError", lambda: self._client.get_bucket_ownership_controls(**self._own(name))
        )
        rules = found["OwnershipControls"]["Rules"] if found else []
        return str(rules[0]["ObjectOwnership"]) if rules else "ObjectWriter"

    def _grants_of(self, name: str) -> tuple[GrantFacts, ...]:
        return _read_grants(self._client.get_bucket_acl(**self._own(name)))

    def _policy(self, name: str) -> Mapping[str, Any]:
        """Empty: it has none."""
        found = _unless("NoSuchBucketPolicy", lambda: self._client.get_bucket_policy(**self._own(name)))
        try:
            document: Mapping[str, Any] = json.loads(found["Policy"]) if found else {}
        except ValueError as error:
            raise UnreachableError(
                "what came as the bucket's policy is none",
                next_step="Look again. If it stays so, something on the way answers in the place of S3",
                bucket=name,
            ) from error
        return document

    def _encryption(self, name: str) -> str:
        """S3's own encryption is the least that any bucket does, one that was never told how included."""
        found = _unless(
            "ServerSideEncryptionConfigurationNotFoundError",
            lambda: self._client.get_bucket_encryption(**self._own(name)),
        )
        rules = found["ServerSideEncryptionConfiguration"]["Rules"] if found else []
        told = rules[0].get("ApplyServerSideEncryptionByDefault", {}) if rules else {}
        return str(told.get("SSEAlgorithm", ""))

    def _blocked(self, name: str) -> bool:
        found = _unless(
            "NoSuchPublicAccessBlockConfiguration", lambda: self._client.get_public_access_block(**self._own(name))
        )
        told = found["PublicAccessBlockConfiguration"] if found else {}
        return all(told.get(one) for one in BLOCKED)

    def _own(self, name: str) -> dict[str, str]:
        return {"Bucket": name, "ExpectedBucketOwner": self._account}

    # -- setting up -----------------------------------------------------------------------------------------------

    def make(self, name: str, grantee: str) -> BucketSetup:
        """Make the bucket, or complete it if it is ours. May be called again, also after a kill between two calls.

        :param grantee: canonical id of VM Export in this region.
        :raises PermanentError: the name is taken by another account.
        :raises MissingPrivilegeError: these credentials may not (feature ``export-setup``).
        """
        facts, done = self.facts(name), []
        if facts.exists and not (facts.owned and self._is_ours(name)):
            return BucketSetup(facts, ours=False)
        if not facts.exists:
            self._create(name)
            done.append(f"made the bucket {name} in {self._access.region}")
            facts = self._seen(name)
        if not facts.public_access_blocked:
            self._block(name)
            done.append("blocked public access")
        if not facts.encryption and not facts.unknown:
            self._encrypt(name)
            done.append("set encryption to SSE-S3")
        done += self._granted(name, grantee)
        return BucketSetup(self.facts(name) if done else facts, tuple(done))

    def grant(self, name: str, grantee: str) -> BucketSetup:
        """Add VM Export's two grants to a bucket of this account that exists; nothing else of it is changed.

        :raises NotFoundError: there is no such bucket.
        :raises PermanentError: it is another account's, is in another region, or its ACLs are disabled.
        """
        facts = self.facts(name)
        if not facts.exists:
            raise NotFoundError(
                "there is no such bucket", next_step="Without --grant, setup makes the bucket", bucket=name
            )
        if not facts.owned or facts.region != self._access.region:
            what = f"in {facts.region}" if facts.owned else "another account's, or S3 does not tell whose"
            raise PermanentError(
                f"the bucket is {what}: nothing is granted on it",
                next_step="VM Export writes only to a bucket of the instance's account and region",
                bucket=name,
            )
        done = self._granted(name, grantee)
        return BucketSetup(self.facts(name) if done else facts, done, ours=False)

    def _is_ours(self, name: str) -> bool:
        with aws_errors("could not look at the bucket's tags", service="s3", bucket=name):
            found = _unless("NoSuchTagSet", lambda: self._client.get_bucket_tagging(**self._own(name)))
        return from_aws(found["TagSet"] if found else []).get(MADE_FOR) == EXPORTS

    def _create(self, name: str) -> None:
        """One call makes it with its ownership and its tag. Public access is blocked and SSE-S3 on from the beginning
        (S3 user guide, since 2023); both are looked at afterwards nevertheless."""
        place: dict[str, Any] = {"Tags": to_aws({MADE_FOR: EXPORTS})}
        if self._access.region != NO_CONSTRAINT:
            place["LocationConstraint"] = self._access.region
        try:
            with aws_errors("could not make the bucket", service="s3", bucket=name):
                self._client.create_bucket(Bucket=name, ObjectOwnership=OWNERSHIP, CreateBucketConfiguration=place)
        except WaveliftError as error:
            said = error.__cause__
            code = error_code(said) if isinstance(said, ClientError) else ""
            if code == "BucketAlreadyExists":
                raise PermanentError(
                    "the bucket's name is taken by another account: names are unique among all of AWS's accounts",
                    next_step="Choose another exports.name for the environments of this account and region",
                    bucket=name,
                ) from error
            # Our first answer got lost, or another set-up was quicker.
            if code != "BucketAlreadyOwnedByYou" or not self._is_ours(name):
                raise

    def _seen(self, name: str) -> BucketFacts:
        """The bucket that was just made, once S3 shows it."""
        give_up = time.monotonic() + SEEN_WAIT_S
        while not (facts := self.facts(name)).exists and time.monotonic() < give_up:
            self._access.cancel.wait(SEEN_POLL_S)
            self._access.cancel.check()
        return facts

    def _block(self, name: str) -> None:
        with aws_errors("could not block public access to the bucket", service="s3", bucket=name):
            self._client.put_public_access_block(
                **self._own(name), PublicAccessBlockConfiguration=dict.fromkeys(BLOCKED, True)
            )

    def _encrypt(self, name: str) -> None:
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        with aws_errors("could not set the bucket's encryption", service="s3", bucket=name):
            self._client.put_bucket_encryption(**self._own(name), ServerSideEncryptionConfiguration={"Rules": [rule]})

    def _granted(self, name: str, grantee: str) -> tuple[str, ...]:
        """Add the grants that are missing; what was added. Others' grants stay: S3 knows only whole ACLs, so the ACL is
        read again afterwards.

        :raises BusyError: somebody else changes it at the same time, again and again.
        """
        added: list[str] = []
        for _ in range(ACL_TRIES):
            with aws_errors("could not look at the bucket's access control list", service="s3", bucket=name):
                acl = self._client.get_bucket_acl(**self._own(name))
            has = {one.permission for one in _read_grants(acl) if one.grantee == grantee}
            missing = [one for one in GRANTED if one not in has] if "FULL_CONTROL" not in has else []
            if not missing:
                return tuple(f"granted {one} to {grantee}" for one in dict.fromkeys(added))
            added += missing
            self._put_acl(
                name, acl, [{"Grantee": {"Type": "CanonicalUser", "ID": grantee}, "Permission": one} for one in missing]
            )
        raise BusyError(
            "the grants were gone again right after they were added: somebody else changes the bucket's ACL",
            next_step="Find out who changes it, then set up again",
            bucket=name,
        )

    def _put_acl(self, name: str, acl: Mapping[str, Any], more: list[dict[str, Any]]) -> None:
        policy = {"Owner": acl["Owner"], "Grants": [*acl.get("Grants", []), *more]}
        try:
            with aws_errors("could not add the grants to the bucket", service="s3", bucket=name):
                self._client.put_bucket_acl(**self._own(name), AccessControlPolicy=policy)
        except PermanentError as error:
            said = error.__cause__
            if isinstance(said, ClientError) and error_code(said) == "AccessControlListNotSupported":
                raise PermanentError(
                    "could not add the grants to the bucket: its ACLs are disabled", next_step=_ENABLE, bucket=name
                ) from error
            raise


def _read_grants(acl: Mapping[str, Any]) -> tuple[GrantFacts, ...]:
    found = []
    for one in acl.get("Grants", []):
        grantee = one.get("Grantee") or {}
        who = grantee.get("ID") or grantee.get("URI") or grantee.get("EmailAddress") or ""
        found.append(GrantFacts(grantee=str(who), permission=str(one.get("Permission", ""))))
    return tuple(found)


def _unless(code: str, call: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """None where S3 says with this code that there is nothing of the kind."""
    try:
        return call()
    except ClientError as error:
        if error_code(error) == code:
            return None
        raise


def _header(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(REGION_HEADER, ""))


def _told_region(error: WaveliftError) -> str:
    """A refusal has the bucket's region in a header."""
    said = error.__cause__
    return _header(said.response) if isinstance(said, ClientError) else ""
