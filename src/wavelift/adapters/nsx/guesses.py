"""What the client does that no source says for certain. Paths, methods, fields and error codes are certain (S10b, S11,
S13b, S14 of the fact sheet ``network-cutover.md``); ``make proof`` compares requests with the vendor's own client.

A word that turns out wrong is corrected here.
"""

from __future__ import annotations

from typing import Final

ROUTED_TYPES: Final = frozenset({"ROUTED", "ROUTED_AND_EXTENDED"})
"""``type`` of a segment that its gateway routes. The words are certain (S11)."""
UNROUTED_TYPES: Final = frozenset({"DISCONNECTED", "EXTENDED"})
"""``type`` of one that it does not. DISCONNECTED is certain (S5, S11). Likely: EXTENDED, by its opposite
ROUTED_AND_EXTENDED."""
REALISED: Final = frozenset({"success", "in_sync"})
"""Words of ``/state`` that end a wait. ``success`` is certain (S11); likely: in_sync."""
FAILED: Final = frozenset({"failed", "error", "orphaned", "partial_success"})
"""Words of ``/state`` that end it with an error. The words are certain (S11), the reading is a guess. Any other word
means: not yet."""
SENT_BACK: Final = ("subnets", "connectivity_path")
"""What a PATCH sends back unchanged beside what it changes. Two working clients do (S5, S10b); whether a PATCH without
them would drop them is not documented."""
LOGIN_CODE: Final = 403
"""``error_code`` of a wrong Basic login, with status 403. A guess. With another code it is told as a missing right,
which is not tried again either."""
TOKEN_FIELD: Final = "refresh_token"
"""Of the token exchange. Certain (S5); newer clients send ``api_token`` (S10b)."""
NSX_DOMAIN: Final = ".vmwarevmc.com"
"""Of the reverse proxies of VMware Cloud (S10b). An answer that names another host gets no token."""
