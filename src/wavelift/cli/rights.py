"""``wavelift iam show``, ``wavelift vsphere role``: the rights to grant, generated from the calls that we make; and
``wavelift vsphere vddk``: what the connector needs for nbdkit's plugins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wavelift.base.errors import SpecError
from wavelift.base.regions import COMMERCIAL, partition_of, partitions
from wavelift.cli.connect import fail
from wavelift.cli.output import plain
from wavelift.rules.calls import UNASKED, AwsFeature, Feature
from wavelift.rules.policies import (
    Staging,
    bucket_policy,
    identity_policy,
    printable,
    required_privileges,
    role_policy,
    trust_policy,
    vsphere_role,
)

SERVICE_ROLE: Final = "vmimport"
BUCKET: Final = "bucket"
"""Not an identity: the policy of the staging bucket."""
IDENTITIES: Final = (SERVICE_ROLE, "connector", "caller")
READS: Final[tuple[Feature, ...]] = ("migrate", "sms", "replicate")
"""The flows that only read a source. A cutover also stops it and takes it off the network."""
ONLY: Final = {"replicate": ", replication only", "cutover": ", cutover only"}
LEVEL: Final = {"vm": "virtual machine", "datastore": "datastore", "root": "root folder"}


def partition_for(partition: str, region: str, *arns: str) -> str:
    """The partition of the ARNs to print: the option, else of the region, else of a given ARN."""
    known = [one.name for one in partitions()]
    if region and not partition_of(region):
        fail(f"--region is {region!r}: no region that the installed botocore knows")
    found = partition or partition_of(region) or next((arn.split(":")[1] for arn in arns if arn.startswith("arn:")), "")
    if found and found not in known:
        fail(f"--partition is {found!r}; allowed are {', '.join(known)}")
    return found or COMMERCIAL


@dataclass(frozen=True, slots=True)
class Principals:
    """ARNs of the roles or users behind the identities; none: placeholders are printed."""

    connectors: Sequence[str] = ()
    callers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of ``iam show`` that are about one identity."""

    trust: bool = False
    account: str = ""
    role_arn: str = ""
    features: tuple[AwsFeature, ...] = UNASKED
    profile_roles: Sequence[str] = ()


def show_policy(identity: str, staging: Staging, asked: Asked, principals: Principals) -> None:
    """Print one document to standard output, ready for ``aws iam … file://``."""
    trust, account = asked.trust, asked.account
    if identity == BUCKET:
        if trust:
            fail("--trust: a bucket trusts nobody")
        own = f"arn:{staging.partition}:iam::{account or 'YOUR-ACCOUNT'}:role"
        print(
            printable(
                bucket_policy(
                    staging,
                    connectors=principals.connectors or [f"{own}/YOUR-CONNECTOR"],
                    callers=principals.callers or [f"{own}/YOUR-CALLER"],
                )
            )
        )
        return
    if identity not in IDENTITIES:
        fail(f"identity is {identity!r}; allowed are {', '.join((*IDENTITIES, BUCKET))}")
    if trust and identity != SERVICE_ROLE:
        fail(f"--trust: only {SERVICE_ROLE} is a service role; who may be {identity!r} is yours to say")
    if trust:
        print(printable(trust_policy(account)))
    elif identity == SERVICE_ROLE:
        print(printable(role_policy(staging)))
    elif identity == "connector":
        print(printable(identity_policy("connector", staging, features=asked.features)))
    else:
        role = asked.role_arn or f"arn:{staging.partition}:iam::{account or 'YOUR-ACCOUNT'}:role/{SERVICE_ROLE}"
        profiles = asked.profile_roles
        document = identity_policy("caller", staging, role_arn=role, features=asked.features, profile_roles=profiles)
        print(printable(document))


def show_role(*, cutover: bool, hcx: bool, ids_only: bool, out: Console) -> None:
    """Print the privileges of the vCenter role: as a table, or ids only, for ``govc role.create``."""
    if hcx:
        show_reading_role(cutover=cutover, ids_only=ids_only, out=out)
        return
    privileges = vsphere_role((*READS, "cutover") if cutover else READS)
    if ids_only:
        for privilege in sorted({one.id for one in privileges}):
            print(privilege)
        return
    table = Table(title="vCenter role for wavelift")
    table.add_column("privilege", no_wrap=True)
    table.add_column("on")
    table.add_column("needed for")
    for one in privileges:
        table.add_row(one.id, LEVEL[one.where], one.purpose + ONLY.get(one.feature, ""))
    out.print(table)
    out.print("Assign it on the source data centre with propagation; No access elsewhere.")


def show_reading_role(*, cutover: bool, ids_only: bool, out: Console) -> None:
    """The role of an account that HCX waves and network cutovers use: HCX and NSX do what changes something."""
    if cutover:
        fail("--hcx: such an account only reads, and stops no source")
    required = required_privileges(("hcx",))
    if ids_only:
        for privilege in sorted({one for ids in required.values() for one in ids}):
            print(privilege)
        return
    out.print("vCenter's own role Read-only is enough: HCX and NSX have accounts of their own.")
    out.print("Assign it on the root folder of both vCenters, with propagation: a network has cards of VMs anywhere.")


def check_vddk(folder: str, *, plugin: str, nbdkit: str, config: str, out: Console) -> None:
    """Print what this machine needs to read disks through nbdkit. Exit with 1 if something is missing."""
    from wavelift.adapters.vsphere.nbdkit import check
    from wavelift.adapters.vsphere.vddk import VddkConfig

    try:
        settings = VddkConfig(folder=folder, plugin=plugin, nbdkit=nbdkit, config_file=config)  # type: ignore[arg-type]
    except SpecError as error:
        fail(str(error))
    found = list(check(settings))
    for one in found:
        state = Text(f"{'ok' if one.ok else 'missing':8}", style="green" if one.ok else "red")
        out.print(state.append_text(plain(f" {one.name}: {one.what}")))
        if one.next_step:
            out.print(plain(f"         {one.next_step}"))
    if not all(one.ok for one in found):
        raise typer.Exit(1)
