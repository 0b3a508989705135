"""How deep property tests look: a sample in ``make test``, many more cases in ``make proof`` (``WAVELIFT_PROOF=1``).

A profile instead of a second copy of a test: the same test, the same claim, with the cases that the run has time for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, settings

PROOF: Final = os.environ.get("WAVELIFT_PROOF") == "1"
SAMPLE_EXAMPLES: Final = 25
PROOF_EXAMPLES: Final = 300
PATIENT: Final = [HealthCheck.too_slow]


def register() -> None:
    """The two profiles. Neither minds a busy machine: no deadline, and slow data is no failure."""
    patient: dict[str, Any] = {"deadline": None, "suppress_health_check": PATIENT}
    settings.register_profile("sample", max_examples=SAMPLE_EXAMPLES, **patient)
    settings.register_profile("proof", max_examples=PROOF_EXAMPLES, **patient)
    settings.load_profile("proof" if PROOF else "sample")


def depth(sample: int, proof: int) -> int:
    """One of two numbers: of examples, rounds, processes."""
    return proof if PROOF else sample


def examples(
    sample: int = SAMPLE_EXAMPLES, proof: int = PROOF_EXAMPLES, *, allow: Sequence[HealthCheck] = ()
) -> settings:
    """``@settings`` for a test whose examples are dearer or cheaper than others'; ``allow`` as in hypothesis' words."""
    return settings(max_examples=depth(sample, proof), suppress_health_check=[*PATIENT, *allow])
