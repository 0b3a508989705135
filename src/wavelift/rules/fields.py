"""Field types that wave and environment share: patterns with messages a person understands."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, WithJsonSchema

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]*$"
"""Wave and environment names: they become DAG ids, S3 prefixes, tags and file stems."""
TAG_KEY_MAX: Final = 127
TAG_VALUE_MAX: Final = 255
"""The least that any service on the way takes: EBS direct's model. A name that was cut would be another one."""
TAGS_MAX: Final = 46
"""AWS allows 50 on an object; four are ours (``names.tags``)."""
SAMPLE_PCT_DEFAULT: Final = 1.0


def matched(pattern: str, what: str) -> AfterValidator:
    """A pattern check whose message says what is expected instead of showing the expression."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not {what}")
        return value

    return AfterValidator(check)


def _pattern(pattern: str) -> dict[str, str]:
    return {"type": "string", "pattern": pattern}


def _ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not an IPv4 address such as '10.0.1.20'") from error


def _verify(value: str) -> str:
    parse_verify(value)
    return value


def parse_verify(text: str) -> float:
    """The share of blocks that ``verify`` reads back, in percent: ``full`` → 100, ``off`` → 0, ``sample:<pct>`` → pct.

    :raises ValueError: when the text is none of them.
    """
    if text == "full":
        return 100.0
    if text == "off":
        return 0.0
    kind, _, share = text.partition(":")
    if kind == "sample" and re.fullmatch(r"\d+(\.\d+)?", share) and 0 < float(share) <= 100:
        return float(share)
    raise ValueError(f"{text!r} is not a verify level; allowed: full, sample:<pct> with 0 < pct <= 100, off")


def _tags(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not key or len(key) > TAG_KEY_MAX:
            raise ValueError(f"tag key {key[:20]!r} must have 1 to {TAG_KEY_MAX} characters")
        if key.lower().startswith(("aws:", "wavelift:")) or key == "Name":
            raise ValueError(f"tag key {key!r} is reserved: 'aws:', 'wavelift:' and 'Name' are set by AWS and wavelift")
        if len(text) > TAG_VALUE_MAX:
            raise ValueError(f"the value of tag {key!r} has {len(text)} characters; {TAG_VALUE_MAX} are allowed")
    if len(value) > TAGS_MAX:
        raise ValueError(f"{len(value)} tags; {TAGS_MAX} are allowed beside wavelift's own")
    return value


_SUBNET = r"^subnet-[0-9a-f]{8,17}$"
_GROUP = r"^sg-[0-9a-f]{8,17}$"
_VPC = r"^vpc-[0-9a-f]{8,17}$"
_TYPE = r"^[a-z0-9-]+\.[a-z0-9-]+$"
_VERIFY = r"^(full|off|sample:[0-9]+(\.[0-9]+)?)$"

Name = Annotated[
    str,
    matched(NAME_PATTERN, "a name of a-z, 0-9, '_' and '-' that starts with a letter or digit"),
    WithJsonSchema(_pattern(NAME_PATTERN)),
]
Text = Annotated[str, Field(min_length=1, max_length=250)]
SubnetId = Annotated[
    str, matched(_SUBNET, "a subnet id such as 'subnet-0a1b2c3d4e5f60718'"), WithJsonSchema(_pattern(_SUBNET))
]
SecurityGroupId = Annotated[
    str, matched(_GROUP, "a security group id such as 'sg-0a1b2c3d4e5f60718'"), WithJsonSchema(_pattern(_GROUP))
]
VpcId = Annotated[str, matched(_VPC, "a VPC id such as 'vpc-0a1b2c3d4e5f60718'"), WithJsonSchema(_pattern(_VPC))]
InstanceType = Annotated[str, matched(_TYPE, "an instance type such as 'm6i.large'"), WithJsonSchema(_pattern(_TYPE))]
PrivateIp = Annotated[str, AfterValidator(_ipv4), WithJsonSchema({"type": "string", "format": "ipv4"})]
Verify = Annotated[str, AfterValidator(_verify), WithJsonSchema(_pattern(_VERIFY))]
Tags = Annotated[dict[str, str], AfterValidator(_tags)]
