"""The source site's router, where a network is no segment of NSX: which prefixes it routes, and since when."""

from __future__ import annotations

import time
from ipaddress import ip_network
from typing import Any, Final

NAME: Final = "router"


class Router:
    """``log`` has the rows of an NSX simulator: [machine time in seconds since the epoch, prefix, ``ON`` or ``OFF``,
    who routes]."""

    def __init__(self) -> None:
        self._log: list[list[Any]] = []
        self._routed: set[str] = set()

    def put(self, prefix: str, *, routed: bool) -> None:
        """Raises ValueError if it is no prefix."""
        text = str(ip_network(prefix))
        if routed == (text in self._routed):
            return
        (self._routed.add if routed else self._routed.discard)(text)
        self._log.append([time.time(), text, "ON" if routed else "OFF", NAME])

    def prefixes(self) -> dict[str, Any]:
        return {"routed": dict.fromkeys(sorted(self._routed), NAME), "log": list(self._log)}
