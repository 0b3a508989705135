"""Whether an instance and a bucket can be exported with, and by which method (VIE-02, VIE-03). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from wavelift.base.domain import Finding, Message, Severity
from wavelift.rules.aws_facts import Role
from wavelift.rules.export_accounts import export_account
from wavelift.rules.export_causes import Asked, Wish, causes
from wavelift.rules.export_facts import (
    EVERYBODY,
    METHODS,
    BucketFacts,
    ExportFormat,
    ExportMethod,
    InstanceFacts,
    MethodChoice,
)
from wavelift.rules.export_plan import default_format
from wavelift.rules.findings import Findings, listed

NEEDED: Final = ("READ_ACP", "WRITE")
"""What VM Import/Export's canonical id needs on the bucket; FULL_CONTROL is both."""
ACCOUNT_PRINCIPAL: Final = re.compile(r"(arn:[a-z-]+:iam::)?(?P<number>\d{12})(?(1):root)")
"""How a policy names a whole account: its number, or the ARN of its root."""
UNENCRYPTED: Final = ("", "AES256")
"""No encryption, and SSE-S3."""


class MethodChosen(Message):
    """The method of an export, and what there is to say of it."""

    method: ExportMethod | None
    """None: no method can export the instance."""
    format: ExportFormat | None
    why: str
    """Why this method, for people."""
    findings: tuple[Finding, ...]
    """Of this method; without one, the errors of all."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)


def check_bucket(
    facts: BucketFacts, method: ExportMethod, *, region: str, account: str, environment: str
) -> list[Finding]:
    """The findings of one method about the bucket.

    VM Import/Export writes with ``instance`` as a canonical id that the bucket's ACL must name, and with ``image`` as
    the role ``vmimport``, which needs no ACL. With ``direct``, wavelift writes with its own rights: a bucket that
    encrypts with KMS is then no obstacle, if these rights reach the key. Region and account hold for all methods: an
    export must not carry disks out of the region or the account of the environment.

    :param region: of the environment; so are ``account``, its number, and ``environment``, its name.
    """
    part = Findings(f"bucket {facts.name}")
    for line in facts.unknown:
        part.warning(
            "bucket.unknown",
            f"the bucket {facts.name} can't be checked in full: {line}",
            why="the export may fail for what could not be seen, and only after its start",
            do="Grant the connection the right that is missing: 'wavelift iam show' prints it",
            row="VIE-02",
        )
    if not facts.exists:
        part.error(
            "bucket.missing",
            f"the bucket {facts.name} does not exist",
            why="exported disks are stored there",
            do=f"Make it: `wavelift export setup --environment {environment}`, or mode setup of the DAG",
            row="VIE-02",
        )
        return part.all
    _place(facts, part, region=region, account=account)
    if not facts.owned:  # nothing else of it was read
        return part.all
    if method == "instance":
        _acl(facts, part, region=region, account=account, environment=environment)
    _encryption(facts, method, part)
    if not facts.public_access_blocked and not facts.unknown:
        part.warning(
            "bucket.public",
            f"the bucket {facts.name} does not block public access",
            why="its objects are whole disks: one wrong policy or ACL would show them to everybody",
            do="Block public access on it; the grants of the export are to one account, and stay in force",
            row="VIE-02",
        )
    return part.all


def _place(facts: BucketFacts, part: Findings, *, region: str, account: str) -> None:
    if not facts.owned:
        part.error(
            "bucket.account",
            f"the bucket {facts.name} is not seen to belong to account {account}",
            why="instances are exported only to a bucket of their own account",
            do="Choose another 'exports.name' in the environment",
            row="VIE-02",
        )
    if facts.region and facts.region != region:
        part.error(
            "bucket.region",
            f"the bucket {facts.name} is in {facts.region}, the environment in {region}",
            why="instances are exported only to a bucket of their own region",
            do="Choose another 'exports.name' in the environment",
            row="VIE-02",
        )


def _acl(facts: BucketFacts, part: Findings, *, region: str, account: str, environment: str) -> None:
    """Whom ACL and policy let in. What could not be read was told as unknown."""
    other = "methods image and direct need no ACL"
    if facts.ownership and not facts.acls_enabled:
        part.error(
            "bucket.acls",
            f"ACLs are disabled on the bucket {facts.name} ({facts.ownership})",
            why="VM Import/Export writes as another account, which only an ACL lets in",
            do="Set its object ownership to BucketOwnerPreferred, then "
            f"`wavelift export setup --environment {environment} --grant`; {other}",
            row="VIE-02",
        )
        return
    if not facts.ownership and not facts.unknown:
        part.warning(
            "bucket.unknown",
            f"whether ACLs are enabled on the bucket {facts.name} is not known",
            why="AWS's export fails where they are disabled",
            do="Look at its object ownership",
            row="VIE-02",
        )
    grantee = export_account(region)
    _denied(facts, part, grantee)
    of_acl = _granted(facts, "acl", lambda who: who == grantee)
    of_policy = _granted(facts, "policy", lambda who: who == grantee)
    missing = [right for right in NEEDED if right not in of_acl | of_policy]
    by_policy = [right for right in NEEDED if right not in of_acl and right in of_policy]
    if by_policy:
        part.info(
            "bucket.policy",
            f"the policy of the bucket {facts.name}, and not its ACL, grants {' and '.join(by_policy)} to {grantee}",
            why=f"so AWS's page prepares a bucket; VM Import/Export writes as this canonical id in {region}",
            do="Nothing",
            row="VIE-02",
        )
    if not missing:
        return
    elsewhere = {grant.grantee for grant in facts.grants if grant.by == "policy" and _foreign(grant.grantee, account)}
    if all(right in _granted(facts, "policy", elsewhere.__contains__) for right in missing):
        part.warning(
            "bucket.grants",
            f"whether the bucket {facts.name} grants {' and '.join(missing)} to {grantee} can't be seen: its policy "
            f"grants that to {listed(sorted(elsewhere))}",
            why="S3 may show a canonical id as the account that it is of, and which account this is nobody tells",
            do=f"`wavelift export setup --environment {environment} --grant` grants it by the ACL; {other}",
            row="VIE-02",
        )
    elif not facts.unknown or any(grant.by == "acl" for grant in facts.grants):
        part.error(
            "bucket.grants",
            f"the bucket {facts.name} does not grant {' and '.join(missing)} to {grantee}",
            why=f"VM Import/Export writes as this canonical id in {region}",
            do=f"`wavelift export setup --environment {environment} --grant` adds what is missing; {other}",
            row="VIE-02",
        )


def _granted(facts: BucketFacts, by: str, whom: Callable[[str], bool]) -> set[str]:
    """Those of the rights that are needed which the ACL, or the policy, grants."""
    found = {grant.permission for grant in facts.grants if grant.by == by and whom(grant.grantee)}
    return {right for right in NEEDED if found & {right, "FULL_CONTROL"}}


def _foreign(grantee: str, account: str) -> bool:
    """Whether a policy's principal is another account as a whole."""
    found = ACCOUNT_PRINCIPAL.fullmatch(grantee)
    return found is not None and found["number"] != account


def _denied(facts: BucketFacts, part: Findings, grantee: str) -> None:
    hits = [
        denial
        for denial in facts.denials
        if {grantee, EVERYBODY} & set(denial.grantees) and grantee not in denial.excepted
    ]
    if hits:
        told = (f"{hit.statement} ({', '.join(hit.actions)}{', conditional' * hit.conditional})" for hit in hits)
        part.warning(
            "bucket.denied",
            f"the policy of the bucket {facts.name} denies VM Import/Export what it needs, or may: statement "
            f"{listed(list(told))}",
            why="a Deny wins over every grant, and the export fails",
            do=f"See that {grantee} is excepted from it; methods image and direct write as others",
            row="VIE-02",
        )


def _encryption(facts: BucketFacts, method: ExportMethod, part: Findings) -> None:
    if facts.encryption in UNENCRYPTED:
        return
    what = f"the bucket {facts.name} encrypts with {facts.encryption} by default"
    if method == "direct":
        part.warning(
            "bucket.encryption",
            what,
            why="to write, the connection needs kms:GenerateDataKey and kms:Decrypt on the key, and whoever reads the "
            "OVA needs kms:Decrypt",
            do="See that the key's policy allows both",
            row="VIE-02",
        )
    else:
        part.error(
            "bucket.encryption",
            what,
            why="VM Import/Export writes only to a bucket that is not encrypted, or encrypted with SSE-S3 (AES256)",
            do="Set its default encryption to SSE-S3; method direct can write to it as it is",
            row="VIE-02",
        )


def check_role(role: Role, bucket: str) -> list[Finding]:
    """The findings about the service role, which writes what ExportImage exports.

    :param bucket: name of the exports bucket, in which the role must be allowed to write.
    """
    part = Findings(f"role {role.name}")
    options = f"vmimport --role {role.name} --bucket STAGING-BUCKET --exports {bucket}"
    if role.unknown:
        part.warning(
            "export.role",
            f"the service role {role.name} can't be checked: {role.unknown}",
            why="with method image it writes the object: if it lacks a permission, AWS refuses the export",
            do=f"`wavelift iam check {options}` looks with an administrator's rights",
            row="VIE-03",
        )
        return part.all
    wrong = [
        *([] if role.exists else ["does not exist"]),
        *([f"can't be assumed by VM Import/Export: {role.trust_problem}"] if role.trust_problem else []),
        *([f"lacks {', '.join(role.missing_actions)}"] if role.missing_actions else []),
    ]
    if wrong:
        part.error(
            "export.role",
            f"the service role {role.name} {', and '.join(wrong)}",
            why=f"with method image it writes the object into {bucket}",
            do=f"`wavelift iam apply {options}` makes or completes it; method direct needs no role",
            row="VIE-03",
        )
    return part.all


def check_instance(facts: InstanceFacts, method: ExportMethod, wish: Wish, *, named: bool = False) -> list[Finding]:
    """The findings of one method about the instance. An error names the other methods that have none.

    :param named: a person chose the method by name: ``instance`` may leave out what was attached after launch. No other
        method's error recommends it then.
    """
    found = {each: causes(facts, Asked(each, wish, named=named and each == method)).all for each in METHODS}
    others = [each for each in METHODS if each != method and not _errors(found[each])]
    return [_advised(finding, others) for finding in found[method]]


def _advised(finding: Finding, others: Sequence[ExportMethod]) -> Finding:
    if finding.severity is not Severity.ERROR:
        return finding
    other = f"Choose method {' or '.join(others)}" if others else ""
    do = "; or: ".join(words for words in (other, finding.next_action) if words)
    return finding.model_copy(update={"next_action": do or "No method can export it as it is"})


def choose(
    choice: MethodChoice, facts: InstanceFacts, bucket: BucketFacts, wish: Wish, role: Role | None = None
) -> MethodChosen:
    """The method of an export: the one that was asked for, or with ``auto`` the first that no error forbids.

    ``auto`` asks for the target's own format, an OVA or a VHD, if no format is asked for, and it leaves no volume out.

    :param role: the service role, which method ``image`` alone needs. None: it was not looked at.
    """
    named = choice != "auto"
    wanted = wish.format or default_format(choice, wish.target)
    asked = wish if named else replace(wish, format=wanted)

    def of(method: ExportMethod) -> tuple[Finding, ...]:
        region, account, environment = facts.region, wish.account or facts.caller, wish.environment
        in_bucket = check_bucket(bucket, method, region=region, account=account, environment=environment)
        of_role = check_role(role, bucket.name) if method == "image" and role is not None else []
        return (*in_bucket, *of_role, *check_instance(facts, method, asked, named=named))

    if choice != "auto":
        return MethodChosen(method=choice, format=wanted, why="it was asked for", findings=of(choice))
    found = {method: of(method) for method in METHODS}
    method = next((each for each in METHODS if not _errors(found[each])), None)
    if method is None:
        return MethodChosen(method=None, format=None, why="no method can export it", findings=tuple(_of_all(found)))
    return MethodChosen(method=method, format=wanted, why=_why(method, found), findings=found[method])


def _why(method: ExportMethod, found: Mapping[ExportMethod, Sequence[Finding]]) -> str:
    earlier = METHODS[: METHODS.index(method)]
    if not earlier:
        return "AWS can export the instance itself"
    return "; ".join(f"not {each}: {_errors(found[each])[0].what}" for each in earlier)


def _of_all(found: Mapping[ExportMethod, Sequence[Finding]]) -> list[Finding]:
    """The errors of all methods: what holds for all of them once, else with the method named."""
    common = [
        finding for finding in _errors(found[METHODS[0]]) if all(_same(finding, found[method]) for method in METHODS)
    ]
    own = [
        _of_method(method, finding)
        for method in METHODS
        for finding in _errors(found[method])
        if not _same(finding, common)
    ]
    return [*common, *own]


def _of_method(method: ExportMethod, finding: Finding) -> Finding:
    name = f"method {method}"
    what = finding.what if finding.what.startswith(name) else f"{name}: {finding.what}"
    return finding.model_copy(update={"subject": f"{finding.subject}/{name}", "what": what})


def _same(finding: Finding, others: Sequence[Finding]) -> bool:
    return any(
        (other.severity, other.code, other.what) == (finding.severity, finding.code, finding.what) for other in others
    )


def _errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.ERROR]
