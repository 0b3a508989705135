"""What a test may set: speeds and behaviour. ``POST /_sim/settings`` changes them at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.simulators.kit import settings

USERNAME: Final = "admin"
PASSWORD: Final = "simulator-nsx-password"
REFRESH_TOKEN: Final = "simulator-refresh-token"
CLIENT_ID: Final = "simulator-client"
CLIENT_SECRET: Final = "simulator-client-secret"
ORG: Final = "8d4c2f0e-0000-4000-8000-0000000000a1"
SDDC: Final = "5b1e7a3c-0000-4000-8000-0000000000b2"


@dataclass(slots=True)
class Settings(settings.Settings):
    """Times are seconds, by the simulator's clock."""

    vmc: bool = False
    """Serve the Policy API only behind VMware Cloud's reverse proxy, with its token."""
    tiers: str = "cgw,mgw"
    """Tier-1 gateways of the start, separated by commas."""
    realise_seconds: float = 0.1
    """From a change to its realisation: ``state`` is ``in_progress``, and ``type`` is the old one."""
    port_linger_seconds: float = 0.2
    """How long a port stays on its segment after its VM has gone."""
    delete_seconds: float = 0.0
    """How long a deleted segment is pending: it is not shown, and its id cannot be used."""
    nsx_url: str = ""
    """What VMware Cloud tells as the SDDC's NSX, as JSON; empty: the truth."""
    token_seconds: float = 1800.0
    """Life of an access token."""
    page_size: int = 1000
    """Objects of one page at most, however many are asked for."""
    patch_replaces: bool = False
    """A PATCH drops ``subnets`` and ``connectivity_path`` that it does not send, and resets the fields of
    ``advanced_config`` that it leaves out. Whether a real NSX does is not documented."""
