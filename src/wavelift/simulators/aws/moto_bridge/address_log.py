"""When which private address was up: for a checker that compares it with another network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

HOLDS: Final = frozenset({"pending", "running", "stopping", "shutting-down"})
"""An instance may answer from the start of its boot to the end of its stop."""


class AddressLog:
    """Looked at after each call, before its answer is sent: who reacts to what it shows comes later."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._held: dict[tuple[str, str], str] = {}
        """Instance and address → subnet."""

    def look(self, ec2: Any) -> None:
        now = {
            (instance.id, item["PrivateIpAddress"]): nic.subnet.id
            for reservation in ec2.reservations.values()
            for instance in reservation.instances
            if instance.state in HOLDS
            for nic in instance.nics.values()
            for item in nic.private_ip_addresses
        }
        at = datetime.now(UTC).isoformat()
        for up, here, there in ((False, self._held, now), (True, now, self._held)):
            self.rows += [
                {"at": at, "instance": instance, "address": address, "subnet": subnet, "up": up}
                for (instance, address), subnet in here.items()
                if (instance, address) not in there
            ]
        self._held = now
