"""Software that AWS supplied with an instance: no method may export it, because its licence ends with EC2 (VIE-03).

EC2 tells by three things: ``PlatformDetails`` and ``UsageOperation``, which say what it bills, and product codes, which
AWS Marketplace puts on images and copies to snapshots and instances. ``UsageOperation`` decides about Windows:
``RunInstances:0800`` is Windows under the customer's own licence, as ImportImage with ``LicenseType=BYOL`` leaves it
(VM Import/Export User Guide, licensing). Nothing of AWS is in such a guest. All other Windows is refused, also where
EC2 tells no ``UsageOperation``: nobody has shown that it is not AWS's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wavelift.rules.export_facts import InstanceFacts
from wavelift.rules.findings import Findings, listed

BYOL: Final = "RunInstances:0800"
"""Windows under the customer's own licence."""
WINDOWS: Final = frozenset({"RunInstances:0002", "RunInstances:0006", "RunInstances:0102", "RunInstances:0202"})
SQL_SERVER: Final = frozenset(
    {
        *("RunInstances:0004", "RunInstances:0100", "RunInstances:0200"),  # on Linux
        *("RunInstances:0006", "RunInstances:0102", "RunInstances:0202"),  # on Windows
        *(
            "RunInstances:0014",
            "RunInstances:0110",
            "RunInstances:0210",
            "RunInstances:1014",
            "RunInstances:1110",
        ),  # RHEL
    }
)
SUBSCRIPTIONS: Final[Mapping[str, str]] = {
    "RunInstances:0010": "Red Hat Enterprise Linux",
    "RunInstances:1010": "Red Hat Enterprise Linux with High Availability",
    "RunInstances:000g": "SUSE Linux Enterprise Server",
    "RunInstances:0g00": "Ubuntu Pro",
}
"""Linux whose subscription AWS bills."""
FREE: Final = frozenset({"", "RunInstances", "RunInstances:00g0", BYOL})
"""Linux for which nobody bills, or whose subscription the customer brought."""
_DO: Final = "Install a machine outside with a licence of your own, and move the data"


def in_licences(facts: InstanceFacts, found: Findings, *, by_service: bool) -> None:
    """Errors for Windows, SQL Server and Marketplace software of AWS. Linux whose subscription AWS bills is third-party
    software, too, which VM Import/Export does not export; a copy of its disks needs a subscription of one's own.

    :param by_service: VM Import/Export exports the instance, and not wavelift.
    """
    _windows(facts, found)
    _sql_server(facts, found)
    _marketplace(facts, found)
    if facts.usage_operation in SUBSCRIPTIONS:
        _subscription(SUBSCRIPTIONS[facts.usage_operation], found, by_service=by_service)
    elif facts.usage_operation not in FREE | WINDOWS | SQL_SERVER:
        found.warning(
            "export.usage",
            f"its usage operation is {_billed(facts)}, which is not in the list of those that are known",
            why="it may stand for software of AWS, which must not leave EC2",
            do="Look up in AWS's list of billing information what it stands for",
            row="VIE-03",
        )


def _subscription(name: str, found: Findings, *, by_service: bool) -> None:
    what, do = f"AWS bills the subscription of its {name}", "Have a subscription of your own, and register the guest"
    if by_service:
        why = "VM Import/Export exports no third-party software that AWS supplied"
        found.error("export.subscription", what, why=why, do=do, row="VIE-03")
    else:
        why = "it ends outside EC2, where the guest reaches AWS's package servers no more"
        found.warning("export.subscription", what, why=why, do=do, row="VIE-03")


def _windows(facts: InstanceFacts, found: Findings) -> None:
    if facts.usage_operation == BYOL:
        found.info(
            "export.byol",
            f"it runs Windows under your own licence ({BYOL})",
            why="AWS supplied none, so none keeps it in EC2",
            do="See that your licence covers the machine where it will run. For an OVA, choose controller 'sata': "
            "Windows brings a driver for it, and none for the default",
            row="VIE-03",
        )
    elif facts.windows or facts.usage_operation in WINDOWS:
        found.error(
            "export.windows",
            f"it runs Windows under a licence of AWS ({_billed(facts)})",
            why="the licence holds in EC2 only: no method exports it. Windows under your own licence has the usage "
            f"operation {BYOL}",
            do=_DO,
            row="VIE-03",
        )


def _sql_server(facts: InstanceFacts, found: Findings) -> None:
    if facts.usage_operation in SQL_SERVER or "sql server" in facts.platform_details.lower():
        found.error(
            "export.sql_server",
            f"it runs SQL Server under a licence of AWS ({_billed(facts)})",
            why="the licence holds in EC2 only: no method exports it",
            do=_DO,
            row="VIE-03",
        )


def _marketplace(facts: InstanceFacts, found: Findings) -> None:
    places = {
        "the instance": facts.product_codes,
        f"its image {facts.image.image_id}": facts.image.product_codes,
    }
    coded = {place: codes for place, codes in places.items() if codes}
    if coded:
        codes = sorted({code for each in coded.values() for code in each})
        found.error(
            "export.marketplace",
            f"it holds software of AWS Marketplace: product code {listed(codes)} on {listed(list(coded))}",
            why="AWS supplied it for use in EC2: no method exports it",
            do="Get the software from its vendor for the place where the machine will run",
            row="VIE-03",
        )


def _billed(facts: InstanceFacts) -> str:
    told = (facts.platform_details or facts.platform, facts.usage_operation or "no usage operation is told")
    return ", ".join(each for each in told if each)
