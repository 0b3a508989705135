"""Checks of a wave's file, and as they come back from a frozen spec."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from wavelift.rules.wave_cutover import Check

CHECKS: list[dict[str, Any]] = [
    {"kind": "status"},
    {"kind": "tcp", "port": 22},
    {"kind": "http"},
    {"kind": "http", "port": 8443, "path": "/health", "tls": True, "status": 200, "within_minutes": 5},
    {"kind": "ssm", "command": "true"},
    {"kind": "own_check", "arguments": {"queue": "orders"}},
    {"kind": "own_check"},
]


@pytest.mark.parametrize("given", CHECKS, ids=lambda each: f"{each['kind']}-{len(each)}")
def test_a_check_comes_back_from_json_with_every_field(given: dict[str, Any]) -> None:
    check = Check(**given)
    assert Check.load(check.dump()) == check


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "tcp", "port": 22, "path": "/"}, "a check of kind 'tcp' takes no path"),
        ({"kind": "status", "command": "true"}, "takes no command"),
        ({"kind": "ssm", "command": "true", "arguments": {"a": "b"}}, "takes no arguments"),
        ({"kind": "own_check", "tls": False}, "takes no tls"),
        ({"kind": "tcp"}, "needs its port"),
    ],
)
def test_a_check_takes_what_its_kind_knows(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Check(**given)
