"""Which model a file is validated with: an environment says it by ``kind``, a wave by ``method``.

The key is read before the file is validated. So an error names what this kind of file takes, and a key of another kind
is told as such.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from pydantic import BaseModel

from wavelift.rules.environment import Environment
from wavelift.rules.fields import described
from wavelift.rules.hcx_environment import KINDS as KINDS
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import HcxWave, LiveServer
from wavelift.rules.problem import Path, Problem, allowed, did_you_mean
from wavelift.rules.wave import Server, Wave

METHODS: Final = ("ec2", "hcx")


def choice(value: dict[str, Any], key: str, known: tuple[str, ...]) -> tuple[str, list[Problem]]:
    """What a file chooses by ``key``, the first of ``known`` if it does not say; or why it is none of them."""
    given = value.get(key, known[0])
    if given in known:
        return str(given), []
    hint = did_you_mean(given.lower(), known) if isinstance(given, str) else ""
    return "", [Problem((key,), f"{described(given)} is not a valid value{hint}; {allowed(known)}")]


def hcx_wave_value(value: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The content of an HCX wave's file without what belongs to EC2, and a problem for each such key."""
    own, problems = _without(value, Wave, HcxWave, (), "a wave of 'method: ec2'; remove it")
    servers = own.get("servers")
    if isinstance(servers, list):
        kept = []
        for index, server in enumerate(servers):
            if isinstance(server, dict):
                words = "a server that lands in EC2; here, a server has a name or a path, and a target"
                server, found = _without(server, Server, LiveServer, ("servers", index), words)
                problems += found
            kept.append(server)
        own["servers"] = kept
    return own, problems


def hcx_environment_value(value: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The content of an HCX environment's file without what belongs to AWS, and a problem for each such key."""
    return _without(value, Environment, HcxEnvironment, (), "an environment of 'kind: aws'; remove it")


def aws_environment_value(value: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The content of an AWS environment's file without ``hcx``, which tells that ``kind`` is missing."""
    if "hcx" not in value:
        return value, []
    words = "belongs to an environment of 'kind: hcx': add this line, or remove the key"
    return {key: each for key, each in value.items() if key != "hcx"}, [Problem(("hcx",), f"'hcx' {words}")]


def _without(
    value: dict[str, Any], other: type[BaseModel], own: type[BaseModel], place: Path, words: str
) -> tuple[dict[str, Any], list[Problem]]:
    """:param other: the model that has the keys which are told. :param own: the model of this file."""
    foreign: Collection[str] = other.model_fields.keys() - own.model_fields.keys()
    problems = [Problem((*place, key), f"{_named(key, own)} belongs to {words}") for key in value if key in foreign]
    return {key: each for key, each in value.items() if key not in foreign}, problems


def _named(key: str, own: type[BaseModel]) -> str:
    """The key, and what it may have been meant to be."""
    return f"'{key}'{did_you_mean(key, own.model_fields)}"
