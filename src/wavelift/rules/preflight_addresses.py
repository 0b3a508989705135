"""Pre-flight of private addresses: the asked-for one is free, and the subnet has enough for the wave (AMP-01)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence

from wavelift.base.domain import Finding
from wavelift.base.names import TAG_SERVER, TAG_WAVE
from wavelift.base.units import counted
from wavelift.rules.aws_facts import Account, Holder, Network, Subnet
from wavelift.rules.findings import WHOLE_WAVE, Findings
from wavelift.rules.plans import ServerPlan

RESERVED_FIRST, RESERVED_LAST = 4, 1
"""Addresses that AWS reserves in every subnet (VPC user guide)."""


def check_address(plan: ServerPlan, subnet: Subnet, network: Network, found: Findings) -> None:
    """Check that the server's instance can have the address that the wave asks for."""
    address = plan.private_ip
    if not address or not plan.subnet:
        return
    if problem := address_problem(address, subnet):
        found.error(
            "network.address",
            f"{_called(plan)} {problem}",
            why="the instance could not get this address",
            do="Choose a subnet that has it, or set 'address: new'"
            if _keeps(plan)
            else "Choose another address of the subnet, or leave private_ip out",
            row="AMP-01",
        )
    elif holder := network.taken.get((plan.subnet, address)):
        if not is_prepared(plan, network):
            _taken(plan, holder, found)
    elif network.addresses_unknown:
        found.warning(
            "network.address_unknown",
            f"whether {_called(plan)} is free can't be checked: {network.addresses_unknown}",
            why="an address in use would be noticed only at launch",
            do="Allow ec2:DescribeNetworkInterfaces to the identity ('wavelift iam show'), or check it yourself",
            row="AMP-01",
        )


def is_prepared(plan: ServerPlan, network: Network) -> bool:
    """Whether the interface with the server's address waits for its instance: mode 'prepare' of a cutover made it.

    Only a cutover launches on it: to any other launch, the address is taken.
    """
    holder = network.taken.get((plan.subnet or "", plan.private_ip or ""))
    waits = holder is not None and _is_own(plan, holder) and not holder.attached
    return waits and (plan.cuts_over or plan.launch != "running")


def _keeps(plan: ServerPlan) -> bool:
    return plan.cuts_over and plan.cutover is not None and plan.cutover.address == "keep"


def _called(plan: ServerPlan) -> str:
    return f"{'the address of its source,' if _keeps(plan) else 'private_ip'} {plan.private_ip}"


def _is_own(plan: ServerPlan, holder: Holder) -> bool:
    return (holder.tags.get(TAG_WAVE), holder.tags.get(TAG_SERVER)) == (plan.wave, plan.server)


def _taken(plan: ServerPlan, holder: Holder, found: Findings) -> None:
    do = "Choose a free address of the subnet, release this one, or leave private_ip out"
    if _keeps(plan):
        do = "Release it, or set 'address: new'"
    if plan.cutover is not None and _is_own(plan, holder) and holder.attached:
        do = (
            "It is an instance of this server that was launched before, such as that of a cutover that was reverted: "
            "it holds its address also while it is stopped. Terminate it once nobody needs its data, or choose "
            "another address"
        )
    # Without a launch there is time: who has the address may have gone by then.
    note = found.error if plan.launch == "running" else found.warning
    note(
        "network.address_taken",
        f"{_called(plan)} is in use in {plan.subnet}: {holder.words} has it",
        why="EC2 would refuse the launch, and only after the transfer and the import",
        do=do,
        row="AMP-01",
    )


def address_problem(address: str, subnet: Subnet) -> str:
    """Why an instance can't have ``address`` in ``subnet``, whoever has it; empty when it can."""
    if not subnet.cidr:
        return ""
    network = ipaddress.ip_network(subnet.cidr)
    wanted = ipaddress.ip_address(address)
    if wanted not in network:
        return f"is not in the subnet's range {subnet.cidr}"
    position = int(wanted) - int(network.network_address)
    if position < RESERVED_FIRST or position >= network.num_addresses - RESERVED_LAST:
        return f"is one of the five addresses of {subnet.cidr} that AWS reserves"
    return ""


def check_room(plans: Sequence[ServerPlan], account: Account) -> list[Finding]:
    """Check that the subnets have a free address for each instance.

    :param plans: of the servers that nothing else stops. Which of them would get no address is chance, so the whole
        wave is refused. A subnet without any free address is a finding of each server already.
    """
    found = Findings(WHOLE_WAVE)
    needed = Counter(
        plan.subnet
        for plan in plans
        if plan.launch == "running" and plan.subnet and not is_prepared(plan, account.network)
    )
    for subnet_id, count in sorted(needed.items()):
        subnet = account.network.subnets.get(subnet_id)
        if subnet is not None and 0 < subnet.free_addresses < count:
            free = f"{subnet.free_addresses} free address{'' if subnet.free_addresses == 1 else 'es'}"
            found.error(
                "network.room",
                f"subnet {subnet_id} has {free}, and the wave launches {counted(count, 'instance')} there",
                why="the last launches would fail, after their transfers and imports",
                do="Move servers to another subnet or wave, or release addresses",
                row="AMP-01",
                part=subnet_id,
            )
    return found.all
