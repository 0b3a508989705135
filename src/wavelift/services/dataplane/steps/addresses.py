"""Steps over addresses of the target: its network interface, an Elastic IP address, security groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses, Interface, InterfaceRequest
from wavelift.base.errors import PermanentError
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Step

STEP_TAG: Final = "wavelift:address"
"""On interfaces of :class:`PrepareAddress`: the token of their step."""
FREE: Final = "free"
OURS: Final = "ours"


class PrepareAddress(Step):
    """Make the target's network interface with its address before the launch. It stays when the instance is terminated.

    A state is ``free``, ``ours``, or who else has the address.

    :param token: of this server's cutover, at most 64 characters: the interface is found by it, and never made twice.
    :param address: empty lets the subnet choose.
    """

    kind = "address"

    def __init__(
        self,
        aws: AwsAccess,
        *,
        subnet: str,
        token: str,
        address: str = "",
        security_groups: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._addresses = Addresses(aws)
        self._request = InterfaceRequest(
            subnet_id=subnet,
            client_token=token,
            address=address,
            security_groups=tuple(security_groups),
            tags={**(tags or {}), STEP_TAG: token},
            description="wavelift: address of a migrated server",
        )

    @property
    def name(self) -> str:
        return f"address:{self._request.subnet_id}:{self._request.address or self._request.client_token}"

    @property
    def words(self) -> str:
        said = f"address {self._request.address}" if self._request.address else "an address that the subnet chooses"
        return f"Make a network interface with {said} in {self._request.subnet_id}"

    @property
    def undo_words(self) -> str:
        return "Delete it, unless the stopped target has it"

    def interface(self) -> Interface | None:
        """What the launch needs: :attr:`LaunchRequest.network_interface`. None before apply."""
        found = self._addresses.interfaces_with({STEP_TAG: self._request.client_token})
        return found[0] if found else None

    def read(self) -> State:
        if self.interface() is not None:
            return OURS
        if not self._request.address:
            return FREE
        others = self._addresses.interfaces_at(self._request.subnet_id, self._request.address)
        return f"taken by {others[0].interface_id} {others[0].instance_id}".rstrip() if others else FREE

    def wanted(self, before: State) -> State:
        if before not in (FREE, OURS):
            raise PermanentError(
                f"the address is {before}",
                next_step="Choose another address, or delete what has it",
                subnet=self._request.subnet_id,
                address=self._request.address,
            )
        return OURS

    def ready(self, now: State, to: State) -> Outcome | None:
        """The interface of an instance can't be deleted, and the target is stopped, never terminated."""
        held = self.interface() if to == FREE else None
        if held is not None and held.instance_id:
            return Settled(f"{held.interface_id} stays with {held.instance_id}: delete both when nobody needs its data")
        return None

    def change(self, now: State, to: State) -> str:
        if to == OURS:
            self._addresses.create(self._request)
        else:
            held = self.interface()
            if held is not None:
                self._addresses.delete(held.interface_id)
        return ""


class MoveElasticIp(Step):
    """Give an Elastic IP address to the target. It is never taken from anybody: what has it is released first.

    A state is the interface and private address that have it, both empty for nobody.

    :param interface: of the target. :param private_ip: empty for its first address.
    """

    kind = "elastic_ip"

    def __init__(self, aws: AwsAccess, *, allocation: str, interface: str, private_ip: str = "") -> None:
        self._addresses = Addresses(aws)
        self._allocation, self._interface, self._private_ip = allocation, interface, private_ip

    @property
    def name(self) -> str:
        return f"elastic_ip:{self._allocation}"

    @property
    def words(self) -> str:
        return f"Associate Elastic IP {self._allocation} with {self._interface}"

    @property
    def undo_words(self) -> str:
        return f"Give {self._allocation} back to what had it, if anything did"

    def read(self) -> State:
        found = self._addresses.elastic_ip(self._allocation)
        return {"interface": found.interface_id, "private_ip": found.private_ip}

    def wanted(self, before: State) -> State:
        return {"interface": self._interface, "private_ip": self._private_ip}

    def between(self, before: State) -> Sequence[State]:
        return ({"interface": "", "private_ip": ""},) if before["interface"] else ()

    def change(self, now: State, to: State) -> str:
        if now["interface"]:
            found = self._addresses.elastic_ip(self._allocation)
            if {"interface": found.interface_id, "private_ip": found.private_ip} != now:
                raise PermanentError("the Elastic IP address has moved", allocation=self._allocation)
            self._addresses.disassociate(found.association_id)
        if to["interface"]:
            self._addresses.associate(self._allocation, to["interface"], to["private_ip"])
        return ""

    def same(self, one: State, other: State) -> bool:
        """The first address of an interface may be named or not."""
        named = "" not in (one["private_ip"], other["private_ip"])
        return one["interface"] == other["interface"] and (not named or one["private_ip"] == other["private_ip"])


class SetSecurityGroups(Step):
    """Give a network interface exactly these security groups. A state is its groups, sorted."""

    kind = "security_groups"

    def __init__(self, aws: AwsAccess, *, interface: str, groups: Sequence[str]) -> None:
        self._addresses = Addresses(aws)
        self._interface, self._groups = interface, sorted(set(groups))
        if not self._groups:
            raise PermanentError("an interface needs a security group", next_step="Name one", interface=interface)

    @property
    def name(self) -> str:
        return f"security_groups:{self._interface}"

    @property
    def words(self) -> str:
        return f"Set the security groups of {self._interface} to {', '.join(self._groups)}"

    @property
    def undo_words(self) -> str:
        return "Set its old security groups again"

    def read(self) -> State:
        return sorted(self._addresses.interface(self._interface).security_groups)

    def wanted(self, before: State) -> State:
        return self._groups

    def change(self, now: State, to: State) -> str:
        self._addresses.set_groups(self._interface, to)
        return ""
