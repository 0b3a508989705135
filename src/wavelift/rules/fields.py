"""Field types that wave and environment share: patterns with messages a person understands.

A scalar of a spec comes as the text that stands in the file (``specs.document``), since only the field knows whether
``1.10`` is a version or a number. ``WHOLE``, ``NUMBER`` and ``FLAG`` read numbers and booleans of that text; a field of
these types without one of them would take pydantic's own reading, in which ``true`` is 1 and ``010`` is 10.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

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


def _one_line(value: str) -> str:
    """``name: |`` ends the text with a line break, which no name has."""
    if len(f"{value}.".splitlines()) > 1:
        raise ValueError(f"{value!r} holds a line break; write it in one line")
    return value


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


_WHOLE: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER: Final = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_OCTAL: Final = re.compile(r"[-+]?0[0-7]+")
_BASE_60: Final = re.compile(r"[0-9]+(:[0-5]?[0-9])+")
_MAX_DIGITS: Final = 20
"""More than any setting needs; Python refuses to read thousands of them."""
_FLAGS: Final = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
"""What YAML 1.1 and people take for a boolean. 1, 0, y, n, t and f are left out: they may be a slip."""


def whole_number(value: Any) -> int:
    """A whole number as a program gives it, or as a person writes it: decimal digits only."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and _WHOLE.fullmatch(value):
        return int(value)
    raise ValueError(_no_number(value, "a whole number"))


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value) and math.isfinite(float(value)):
        return float(value)
    raise ValueError(_no_number(value, "a number"))


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise ValueError(f"must be true or false, not {described(value)}")


def _no_number(value: Any, what: str) -> str:
    """Why ``value`` isn't ``what``, and what other programs that read the file would take it for."""
    words = f"must be {what}, not {described(value)}"
    other = _other_reading(value) if isinstance(value, str) else None
    return words if other is None else f"{words}: other YAML readers take it for {other}; write it in plain digits"


def _other_reading(text: str) -> str | None:
    """The number that YAML 1.1 or 1.2 sees in a text that we don't read as one."""
    plain = text.replace("_", "")
    try:
        if len(plain) > _MAX_DIGITS:
            return None
        if _OCTAL.fullmatch(plain):
            return f"{int(plain, 8)} (octal) or {int(plain)}"
        if _BASE_60.fullmatch(plain):
            value = 0
            for part in plain.split(":"):
                value = 60 * value + int(part)
            return f"{value} (base 60)"
        if plain[:2].lower() in ("0x", "0o", "0b"):
            return str(int(plain, 0))
        number = float(plain)
    except ValueError:
        return None
    return f"{number:.15g}" if math.isfinite(number) else None


def described(given: Any) -> str:
    """A value in words, as it was written where that is known."""
    if given is None:
        return "nothing (null, ~ and an empty value without quotes are nothing; a text goes in quotes)"
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, list | tuple):
        return "a list"
    return f"'{given}'" if isinstance(given, str) else str(given).lower()


WHOLE: Final = BeforeValidator(whole_number)
NUMBER: Final = BeforeValidator(_number)
FLAG: Final = BeforeValidator(_flag)

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
Text = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_one_line)]
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
