"""Tags between our mappings and AWS's lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wavelift.adapters.aws.texts import tag_value

_WILD: Final = re.compile(r"[*?\\]")
"""Wildcards in the value of an EC2 filter, and what takes them literally."""


def to_aws(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": tag_value(value)} for name, value in tags.items()]


def from_aws(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


def specification(resource: str, *tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """``TagSpecifications`` of one resource type; empty without tags, which AWS would refuse."""
    merged = {name: value for each in tags for name, value in each.items()}
    return [{"ResourceType": resource, "Tags": to_aws(merged)}] if merged else []


def has_tags(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Does it carry all of ``wanted``? An empty value asks for the name only."""
    return all(name in tags and tag_value(value) in ("", tags[name]) for name, value in wanted.items())


def filters(wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """EC2 filters for :func:`has_tags`."""
    return [
        {"Name": f"tag:{name}", "Values": [_WILD.sub(r"\\\g<0>", tag_value(value))]}
        if value
        else {"Name": "tag-key", "Values": [name]}
        for name, value in wanted.items()
    ]
