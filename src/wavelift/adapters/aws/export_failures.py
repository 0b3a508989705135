"""What the words of a refused or failed VM Export mean and what to do: data with sources, matched top to bottom.

Our reading is added to AWS's words, it never replaces them.
"""

from __future__ import annotations

import re
from typing import Final

from wavelift.adapters.aws.import_failures import PERMISSIONS, TROUBLESHOOTING, Explanation

_GUIDE: Final = "docs.aws.amazon.com/vm-import/latest/userguide/"
INSTANCE_LIMITS: Final = f"{_GUIDE}limits-instance-export.html"
IMAGE_LIMITS: Final = f"{_GUIDE}limits-image-export.html"
BUCKET: Final = f"{_GUIDE}prerequisites-instance-export.html"

KNOWN_EXPORT_FAILURES: Final[tuple[tuple[re.Pattern[str], Explanation], ...]] = (
    (
        re.compile(r"expired", re.IGNORECASE),
        Explanation(
            "expired",
            "AWS gave up: the task made no progress for days",
            "Export the instance with method direct, which needs no conversion by AWS; AWS support may know more",
            "github.com/aws/aws-sdk/issues/674",
        ),
    ),
    (
        re.compile(r"cancel+ed|user initiated|cancel+ation", re.IGNORECASE),
        Explanation(
            "cancelled",
            "somebody cancelled the task in AWS",
            "Find out who cancels export tasks in this account, then export again",
            f"{_GUIDE}vmexport-cancel.html",
        ),
    ),
    (
        re.compile(r"must have WRITE|READ_AC|bucket acl|\bacls?\b|access control list", re.IGNORECASE),
        Explanation(
            "bucket.grants",
            "VM Export may not write to the bucket: the grants READ_ACP and WRITE are missing, or ACLs are disabled",
            "Run `wavelift export check`; `wavelift export setup --grant` adds the two grants",
            BUCKET,
        ),
    ),
    (
        re.compile(r"service role.*(does not exist|sufficient permissions)|assume.*role", re.IGNORECASE),
        Explanation(
            "role",
            "VM Export can't assume the service role, or the role's policy lacks an action",
            "Create or correct the role: `wavelift iam show vmimport --exports BUCKET` prints its policy",
            PERMISSIONS,
        ),
    ),
    (
        re.compile(r"(limit|quota|maximum|too many).*(task|export|conversion)|limit.*exceed", re.IGNORECASE),
        Explanation(
            "limit",
            "the account has no place for another conversion task",
            "Wait for a free place, or have the quota raised (up to 20)",
            INSTANCE_LIMITS,
        ),
    ),
    (
        re.compile(r"already (being |been )?export|being exported|export\w* .*(in progress|active)", re.IGNORECASE),
        Explanation(
            "busy",
            "it is being exported already",
            "Wait until the other export has ended, or cancel it",
            IMAGE_LIMITS,
        ),
    ),
    (
        re.compile(r"encrypted", re.IGNORECASE),
        Explanation(
            "encrypted",
            "VM Export takes no encrypted snapshots",
            "Export the instance with method direct",
            IMAGE_LIMITS,
        ),
    ),
    (
        re.compile(r"only imported instances|neither is owned|had been previously imported", re.IGNORECASE),
        Explanation(
            "foreign",
            "VM Export takes only instances whose image's snapshots belong to the account, or which were imported",
            "Export the instance with method image or direct",
            "github.com/aws/aws-sdk/issues/203",
        ),
    ),
    (
        re.compile(r"access ?denied|not authorized|forbidden|permission", re.IGNORECASE),
        Explanation(
            "denied",
            "VM Export may not do something that it must: on the bucket, or with the service role",
            "Run `wavelift export check`, and `wavelift iam check vmimport --bucket STAGING --exports BUCKET`",
            PERMISSIONS,
        ),
    ),
    (
        re.compile(r"ServerError|internal ?(error|failure)|service unavailable", re.IGNORECASE),
        Explanation(
            "aws.internal",
            "AWS failed inside; the instance is not to blame",
            "Export again; if it fails again, with method direct",
            TROUBLESHOOTING,
            retry=True,
        ),
    ),
)

_UNKNOWN: Final = Explanation(
    "unknown",
    "AWS's words are not in our table",
    "Search the source for the message; the task id lets AWS support look into it. Method direct needs no conversion",
    TROUBLESHOOTING,
)


def explain_export_failure(message: str) -> Explanation:
    """Our reading of AWS's words about an export that it refused or that failed."""
    return next((one for pattern, one in KNOWN_EXPORT_FAILURES if pattern.search(message)), _UNKNOWN)
