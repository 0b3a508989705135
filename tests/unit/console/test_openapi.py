"""The OpenAPI document in docs is that of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavelift.console.openapi import openapi_text

pytestmark = pytest.mark.unit
KEPT = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"


def test_the_document_in_docs_is_current() -> None:
    assert KEPT.read_text() == openapi_text(), "run: python -m wavelift.console.openapi docs/openapi.json"
