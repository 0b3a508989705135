"""Makes texts fit for AWS: one function for each of its rules. Names of VMs hold any character and have any length.

The code that makes a request calls it, so that no caller has to know the rules. What is changed here is for people to
read. Names that must differ are made of the run's hash (:mod:`wavelift.base.names`), keys by
:func:`wavelift.base.names.slug`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

MAX_DESCRIPTION: Final = 255
"""Of images and snapshots, by EC2's and EBS's service models."""
MAX_TAG_NAME: Final = 127
MAX_TAG_VALUE: Final = 255
"""What EC2, EBS direct and S3 all take: EC2's own limit of a value is one more, S3's of a name too."""
OBJECT_TAGS: Final = 10
"""Tags of one S3 object; EC2's resources have 50."""
MAX_METADATA: Final = 900
"""Characters of one value of an object's user metadata; S3 takes 2048 bytes of all names and values."""
_OBJECT_TAG: Final = " +-=._:/@"
"""What S3 takes in an object's tag beside letters and digits of any script (S3 user guide, object tagging)."""


def description(text: str) -> str:
    """EC2 refuses descriptions with characters beyond ASCII: accents are dropped, what has no plain form is ``?``."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return "".join(char if " " <= char <= "~" else "?" for char in plain)[:MAX_DESCRIPTION]


def tag_value(text: str) -> str:
    """EC2 takes all of Unicode, but answers in XML, which has no control characters, surrogates and non-characters."""
    return "".join(" " if _not_in_xml(char) else char for char in text[:MAX_TAG_VALUE])


def _not_in_xml(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs") or char in "\ufffe\uffff"


def object_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The first ten; characters that S3 refuses become ``_``."""
    plain = {_object_tag(name)[:MAX_TAG_NAME]: _object_tag(value)[:MAX_TAG_VALUE] for name, value in tags.items()}
    return dict(list(plain.items())[:OBJECT_TAGS])


def metadata(values: Mapping[str, str]) -> dict[str, str]:
    """User metadata travels in headers: ASCII, percent-encoded, and cut between two characters, never within one."""
    return {name: _encoded(value) for name, value in values.items()}


def _object_tag(text: str) -> str:
    return "".join(char if char.isalnum() or char in _OBJECT_TAG else "_" for char in text)


def _encoded(text: str) -> str:
    found = ""
    for char in text:
        piece = quote(char, safe=" /:@=+,()[]!*'", errors="replace")
        if len(found) + len(piece) > MAX_METADATA:
            break
        found += piece
    return found
