"""Words that a vendor does not document.

Each simulator keeps all its invented values in one module, ``invented.py``, and nowhere else. The product must not
depend on any of them: a test runs it under the setting ``other_words``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """``other`` is what the simulator says under the setting ``other_words``."""

    usual: str
    other: str

    def said(self, *, other_words: bool) -> str:
        return self.other if other_words else self.usual
