"""Every invented word has a second form, and no other module has words of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from wavelift.simulators.hcx import invented
from wavelift.simulators.kit.invented import Word

pytestmark = pytest.mark.unit

SEEN = {"MIGRATION_COMPLETE", "MIGRATION_FAILED", "MIGRATION_CANCELLED", "TRANSFER_FAILED"}
"""Names of ends, which public clients know: they are not invented."""


def words(value: Any) -> Iterator[Word]:
    if isinstance(value, Word):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from words(each)
    elif isinstance(value, type) and issubclass(value, invented.Phase):
        yield from (each.value for each in value)


def test_each_invented_word_has_another() -> None:
    found = {word for value in vars(invented).values() for word in words(value)}
    assert len(found) > 40
    assert {word.usual for word in found if word.usual == word.other} == SEEN - {"TRANSFER_FAILED"}
