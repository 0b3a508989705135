"""How long a call waits for a temporary problem: an interrupted connection, an outage of the remote side, throttling.

The limit is a *time*, never a number of tries: an outage of minutes must not stop a transfer of days (invariant 9).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from wavelift.base.settings import OPTIONS

PATIENCE_S: Final = float(OPTIONS["patience_minutes"].default) * 60
"""The default. It is longer than a usual network outage, and short enough that a snapshot does not grow too far."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often one call is retried.

    :param patience_s: maximum duration of a temporary problem in seconds, from its first occurrence, over all tries.
    :param base_s: first pause in seconds; it doubles, with jitter, up to ``cap_s``.
    """

    patience_s: float = PATIENCE_S
    base_s: float = 0.2
    cap_s: float = 20.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after the n-th consecutive failure: exponential, with random jitter down to one half.

        The jitter prevents clients from retrying at the same moment.
        """
        # An outage of half an hour causes hundreds of failures: the power must not overflow.
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 30))
        return ceiling * random.uniform(0.5, 1.0)
