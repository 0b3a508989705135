"""Field types that wave and environment share: patterns with readable error messages.

A scalar of a spec arrives as the text in the file (``specs.document``), because only the field knows whether ``1.10``
is a version or a number. ``WHOLE``, ``NUMBER`` and ``FLAG`` convert that text to numbers and booleans. Without them,
pydantic's own conversion would apply, in which ``true`` is 1 and ``010`` is 10.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from wavelift.base.printable import printable
from wavelift.rules.problem import clipped, quoted

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]*$"
"""Names of waves and environments. They become DAG ids, S3 prefixes, tags and file stems."""
NAME_MAX: Final = 80
"""Airflow takes tags of 100 characters, and the tags of a DAG name its wave, environment or connector."""
DESCRIPTION_MAX: Final = 1000
MATCHED_MAX: Final = 500
"""Longer than any id of AWS; the ARN of a key has about 100 characters."""
TAG_KEY_MAX: Final = 127
TAG_VALUE_MAX: Final = 255
"""The smallest limits of all services that get the tags (EBS direct). A shortened tag would be a different tag."""
TAGS_MAX: Final = 46
"""AWS allows 50 tags on a resource, and wavelift adds four (``names.tags``)."""
SAMPLE_PCT_DEFAULT: Final = 1.0


def matched(pattern: str, what: str) -> AfterValidator:
    """A pattern check whose message describes the expected value instead of showing the regular expression."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if len(value) > MATCHED_MAX or compiled.fullmatch(value) is None:
            raise ValueError(f"{quoted(value)} is not {what}")
        return value

    return AfterValidator(check)


def _pattern(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


def _ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise ValueError(f"{quoted(value)} is not an IPv4 address such as '10.0.1.20'") from error


def _one_line(value: str) -> str:
    """Refuse line breaks. For example, ``name: |`` adds a line break at the end of the text."""
    if len(f"{value}.".splitlines()) > 1:
        raise ValueError(f"{quoted(value)} contains a line break; write it in one line")
    return value


def _verify(value: str) -> str:
    parse_verify(value)
    return value


def parse_verify(text: str) -> float:
    """The share of blocks that ``verify`` reads back, in percent: ``full`` → 100, ``off`` → 0, ``sample:<pct>`` → pct.

    :raises ValueError: if the text has none of these forms.
    """
    if text == "full":
        return 100.0
    if text == "off":
        return 0.0
    kind, _, share = text.partition(":")
    if kind == "sample" and len(share) <= _MAX_DIGITS and _SHARE.fullmatch(share) and 0 < float(share) <= 100:
        return float(share)
    raise ValueError(f"{quoted(text)} is not a verify level; allowed: full, sample:<pct> with 0 < pct <= 100, off")


def _visible(value: str) -> str:
    """Refuse what would steer a terminal or show as another text. vCenter's names are compared as escapes, too."""
    if (shown := printable(value)) != value:
        raise ValueError(f"'{shown}' contains an invisible character; write it as its escape, as shown here")
    return value


def _tags(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not key or len(key) > TAG_KEY_MAX:
            raise ValueError(f"tag key {quoted(key[:20])} must have 1 to {TAG_KEY_MAX} characters")
        if key.lower().startswith(("aws:", "wavelift:")) or key == "Name":
            raise ValueError(
                f"tag key {quoted(key)} is reserved: AWS and wavelift set 'aws:…', 'wavelift:…' and 'Name'"
            )
        if len(text) > TAG_VALUE_MAX:
            raise ValueError(f"the value of tag {quoted(key)} has {len(text)} characters; the limit is {TAG_VALUE_MAX}")
    if len(value) > TAGS_MAX:
        raise ValueError(f"{len(value)} tags; the limit is {TAGS_MAX} in addition to wavelift's own")
    return value


_SHARE: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_WHOLE: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER: Final = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_OCTAL: Final = re.compile(r"[-+]?0[0-7]+")
_BASE_60: Final = re.compile(r"[0-9]+(:[0-5]?[0-9])+")
_MAX_DIGITS: Final = 20
"""More digits than any setting needs. Python refuses to convert a text with thousands of digits."""
_MAX_BITS: Final = 64
_FLAGS: Final = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
"""Texts that YAML 1.1 and users treat as booleans. 1, 0, y, n, t and f are not included: they may be typing errors."""


def whole_number(value: Any) -> int:
    """A whole number: an int from a program, or decimal digits from a file."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and _WHOLE.fullmatch(value):
        return int(value)
    raise ValueError(_no_number(value, "a whole number"))


def _number(value: Any) -> float:
    written = isinstance(value, str) and len(value) <= _MAX_DIGITS and _NUMBER.fullmatch(value)
    number = float(value) if written else value
    if isinstance(number, int | float) and not isinstance(number, bool) and _finite(number):
        return number
    raise ValueError(_no_number(value, "a number"))


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise ValueError(f"must be true or false, not {described(value)}")


def _no_number(value: Any, what: str) -> str:
    """Message that ``value`` isn't ``what``, and how other programs would read the same text."""
    words = f"must be {what}, not {described(value)}"
    other = _other_reading(value) if isinstance(value, str) else None
    return words if other is None else f"{words}: other YAML readers read it as {other}; write it in decimal digits"


def _other_reading(text: str) -> str | None:
    """The number that YAML 1.1 or 1.2 reads from a text that wavelift does not accept as a number."""
    if len(text) > _MAX_DIGITS:
        return None
    plain = text.replace("_", "")
    try:
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
    """A value for a message, as it was written if that is known."""
    if given is None:
        return "nothing (null, ~ and an empty value without quotes mean nothing; put a text in quotes)"
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, list | tuple):
        return "a list"
    if isinstance(given, int) and given.bit_length() > _MAX_BITS:
        return f"a number of {given.bit_length()} bits"  # Python refuses to write thousands of digits
    return quoted(given) if isinstance(given, str) else clipped(str(given).lower())


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
    Field(max_length=NAME_MAX),
    matched(NAME_PATTERN, "a name that consists of a-z, 0-9, '_' and '-' and starts with a letter or digit"),
    WithJsonSchema(_pattern(NAME_PATTERN) | {"maxLength": NAME_MAX}),
]
Description = Annotated[str, Field(max_length=DESCRIPTION_MAX)]
Text = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_one_line), AfterValidator(_visible)]
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

CONNECTION_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,249}$"
"""Ids of connections. Airflow's workers put them into the path of a request, where ``?``, ``#`` and ``..`` lead to
another connection."""
ConnectionId = Annotated[
    str,
    matched(
        CONNECTION_PATTERN, "the id of an Airflow connection that consists of letters, digits, '_', '-', '.' and ':'"
    ),
    WithJsonSchema(_pattern(CONNECTION_PATTERN)),
]
