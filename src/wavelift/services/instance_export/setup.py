"""The bucket of a region's exports: made once, then seen to be right. No other bucket is changed, but for the two
grants that somebody asks for (VIE-02, AMP-10)."""

from __future__ import annotations

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.export_bucket import ExportBuckets
from wavelift.base.domain import Severity
from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, events
from wavelift.rules.authority import Action
from wavelift.rules.export_accounts import export_account
from wavelift.rules.export_checks import check_bucket
from wavelift.services.common.authority import Rights, require_again
from wavelift.services.dataplane.export_messages import ExportPlace
from wavelift.services.instance_export.admit import conf_of_run
from wavelift.services.instance_export.messages import MadeBucket, told
from wavelift.services.instance_export.runs import of_this_run

SUBJECT = "export_bucket"
"""Of the events of buckets."""


def set_up(ledger: Ledger, access: AwsAccess, place: ExportPlace, ctx: RunContext, *, rights: Rights) -> MadeBucket:
    """Make the bucket ``export-to-s3-<name>-<region>``, or complete what an earlier call of ours began. May be called
    again.

    :raises DeniedError: whoever asked may not administer the environment any more.
    :raises PermanentError: the connection is of another account; the name is taken.
    """
    require_again(ledger, ctx, Action.ADMINISTER, rights=rights)
    with ledger.read() as tx:
        conf = conf_of_run(of_this_run(tx, ctx))
    caller = AccountChecks(access).account_id()
    if caller != place.account:  # before anything is made: else it would be made in the wrong account
        raise PermanentError(
            f"The AWS connection is of account {caller}, the environment of {place.account}",
            next_step="Correct the connection, or 'account' in the environment",
            environment=place.environment,
        )
    buckets, grantee = ExportBuckets(access, place.account), export_account(place.region)
    found = buckets.grant(place.bucket, grantee) if conf.grant else buckets.make(place.bucket, grantee)
    for line in found.done:
        with ledger.write() as tx:
            subject = events.Subject(SUBJECT, place.bucket, ctx.run)
            details = {"environment": place.environment, "done": line}
            events.append(tx, subject, f"{SUBJECT}.changed", at=ctx.clock.now(), actor=ctx.requester, details=details)
    findings = check_bucket(
        found.facts, "instance", region=place.region, account=place.account, environment=place.environment
    )
    return MadeBucket(
        environment=place.environment,
        bucket=place.bucket,
        region=place.region,
        ours=found.ours,
        changed=found.done,
        findings=tuple(findings),
    )


def refuse_wrong(made: MadeBucket) -> None:
    """:raises PermanentError: the bucket is not right, and is not ours to change."""
    wrong = [each for each in made.findings if each.severity is Severity.ERROR]
    if wrong:
        raise PermanentError(
            f"The bucket {made.bucket} is not right for exports by AWS: {told(wrong)}",
            next_step="It was not changed" if not made.changed else "What else is wrong was not changed",
            environment=made.environment,
        )
