"""How long is borne what passes by itself: a cut line, an outage of the other side, a wish for a slower pace.

A bounded *time*, never a number of tries: a transfer of days must not die of an outage of minutes (invariant 9).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from wavelift.base.settings import OPTIONS

PATIENCE_S: Final = float(OPTIONS["patience_minutes"].default) * 60
"""Unless set: longer than a line's usual outage, shorter than a snapshot may grow unwatched."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one call is worth trying.

    :param patience_s: seconds that what passes by itself may last, from its first sign on; all tries together.
    :param base_s: first pause in seconds; it doubles, with jitter, up to ``cap_s``.
    """

    patience_s: float = PATIENCE_S
    base_s: float = 0.2
    cap_s: float = 20.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after the n-th failure in a row: exponential, at least half of it, never in step."""
        # An outage of half an hour is hundreds of failures: the power must not overflow.
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 30))
        return ceiling * random.uniform(0.5, 1.0)
