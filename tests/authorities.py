"""Tests trust the simulators' own certificates only.

Reading the machine's some 150 authorities costs 0.02 s of CPU for each TLS context, which is each vSphere connection;
and no test may pass because a machine trusts somebody.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_authorities_of_the_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", os.devnull)
        patch.setenv("SSL_CERT_DIR", os.devnull)
        yield
