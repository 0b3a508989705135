"""Which model a file is validated with: an environment says it by ``kind``, a wave by ``method``.

The key is read before the file is validated. So an error names what this kind of file takes, and a key of another kind
is told as such.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from wavelift.rules.environment import Environment
from wavelift.rules.fields import described
from wavelift.rules.hcx_environment import KINDS as KINDS
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import HcxWave, LiveServer
from wavelift.rules.problem import Problem, allowed, did_you_mean
from wavelift.rules.wave import Server, Wave

METHODS: Final = ("ec2", "hcx")
OF_SERVER: Final = "belongs to a server that lands in EC2; here, a server has a name or a path, and a target"


def choice(value: dict[str, Any], key: str, known: tuple[str, ...]) -> tuple[str, list[Problem]]:
    """What a file chooses by ``key``, the first of ``known`` if it does not say; or why it is none of them."""
    given = value.get(key, known[0])
    if given in known:
        return str(given), []
    hint = did_you_mean(given.lower(), known) if isinstance(given, str) else ""
    return "", [Problem((key,), f"{described(given)} is not a valid value{hint}; {allowed(known)}")]


def hcx_wave_value(value: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The content of an HCX wave's file without what belongs to EC2, and a problem for each such key."""
    own, problems = _without(value, Wave, HcxWave, "a wave of 'method: ec2'; remove it")
    servers = own.get("servers")
    if isinstance(servers, list):
        kept = []
        for index, server in enumerate(servers):
            if isinstance(server, dict):
                foreign = _foreign(server, Server, LiveServer)
                problems += [Problem(("servers", index, key), f"'{key}' {OF_SERVER}") for key in foreign]
                server = {key: each for key, each in server.items() if key not in foreign}
            kept.append(server)
        own["servers"] = kept
    return own, problems


def hcx_environment_value(value: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The content of an HCX environment's file without what belongs to AWS, and a problem for each such key."""
    return _without(value, Environment, HcxEnvironment, "an environment of 'kind: aws'; remove it")


def aws_environment_value(value: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The content of an AWS environment's file without ``hcx``, which tells that ``kind`` is missing."""
    if "hcx" not in value:
        return value, []
    words = "belongs to an environment of 'kind: hcx': add this line, or remove the key"
    return {key: each for key, each in value.items() if key != "hcx"}, [Problem(("hcx",), f"'hcx' {words}")]


def _without(
    value: dict[str, Any], other: type[BaseModel], own: type[BaseModel], words: str
) -> tuple[dict[str, Any], list[Problem]]:
    """:param other: the model that has the keys which are told. :param own: the model of this file."""
    foreign = _foreign(value, other, own)
    hints = {key: did_you_mean(key, own.model_fields) for key in foreign}
    problems = [Problem((key,), f"'{key}'{hint} belongs to {words}") for key, hint in hints.items()]
    return {key: each for key, each in value.items() if key not in foreign}, problems


def _foreign(value: dict[str, Any], other: type[BaseModel], own: type[BaseModel]) -> list[str]:
    return [key for key in value if key in other.model_fields and key not in own.model_fields]
