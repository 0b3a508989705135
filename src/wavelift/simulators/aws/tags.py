"""Limits of tags, names and descriptions, by service."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.policy import Use

REQUEST_TAG: Final = "aws:RequestTag/"
OBJECT_TAGS: Final = 10
OBJECT_KEY: Final = 128
OBJECT_VALUE: Final = 256
OBJECT_TEXT: Final = re.compile(r"[\w\s.:/=+\-@]*")
"""S3 user guide, "Categorizing your storage using tags": letters, numbers and spaces of Unicode, and ``+-=._:/@``."""
EC2_TAGS: Final = 50
EC2_KEY: Final = 127
EC2_VALUE: Final = 256
"""EC2's service model: a key has at most 127 characters, a value 256."""
EBS_VALUE: Final = 255
"""EBS direct's service model: one character less."""


IMAGE_NAME: Final = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
"""EC2 API reference, RegisterImage."""
DESCRIPTION: Final = re.compile(r"[\x09\x0a\x0d\x20-\x7e]{0,255}")


CLIENT_TOKEN: Final = re.compile(r"[\x20-\x7e]{0,64}")
"""EC2 user guide, "Ensuring idempotency": up to 64 ASCII characters."""


def check_client_token(text: str) -> None:
    """Check the client token of an EC2 call. Raises AwsError."""
    if not CLIENT_TOKEN.fullmatch(text):
        raise AwsError("InvalidParameterValue", "The client token is not of up to 64 ASCII characters", 400)


def check_description(text: str) -> None:
    """Check the description of an image, of an import task or of its disk. Raises AwsError."""
    if not DESCRIPTION.fullmatch(text):
        raise AwsError(
            "InvalidParameterValue",
            "Value for parameter description is invalid. Character sets beyond ASCII are not supported.",
            400,
        )


def object_tags(header: str) -> dict[str, str]:
    """The tags of ``x-amz-tagging``. Raises AwsError."""
    pairs = parse_qsl(header, keep_blank_values=True)
    if len(pairs) > OBJECT_TAGS:
        raise AwsError("BadRequest", "Object tags cannot be greater than 10", 400)
    if len(dict(pairs)) != len(pairs):
        raise AwsError("InvalidTag", "Cannot provide multiple Tags with the same key", 400)
    for key, value in pairs:
        if not 1 <= len(key) <= OBJECT_KEY or not OBJECT_TEXT.fullmatch(key) or key.startswith("aws:"):
            raise AwsError("InvalidTag", "The TagKey you have provided is invalid", 400)
        if len(value) > OBJECT_VALUE or not OBJECT_TEXT.fullmatch(value):
            raise AwsError("InvalidTag", "The TagValue you have provided is invalid", 400)
    return dict(pairs)


def check_ec2_tags(uses: Iterable[Use]) -> None:
    """Check the tags of every resource that a request tags. Raises AwsError. EC2 documents no control characters."""
    for use in uses:
        given = use.context.items()
        tags = {key.removeprefix(REQUEST_TAG): value for key, value in given if key.startswith(REQUEST_TAG)}
        if len(tags) > EC2_TAGS:
            raise AwsError("TagLimitExceeded", f"The maximum number of tags is {EC2_TAGS}", 400)
        for key, value in tags.items():
            if not 1 <= len(key) <= EC2_KEY or key.lower().startswith("aws:"):
                raise AwsError("InvalidParameterValue", f"The tag key is reserved, empty or over {EC2_KEY} long", 400)
            if len(value) > EC2_VALUE:
                raise AwsError("InvalidParameterValue", f"The tag value is over {EC2_VALUE} characters long", 400)


def snapshot_tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The tags of StartSnapshot, checked by the limits of EBS direct's model. Raises AwsError."""
    found = {str(tag.get("Key", "")): str(tag.get("Value", "")) for tag in tags}
    if len(found) != len(tags) or len(found) > EC2_TAGS:
        raise _invalid("Tags must have unique keys, 50 at most")
    for key, value in found.items():
        if not 1 <= len(key) <= EC2_KEY or key.lower().startswith("aws:"):
            raise _invalid("The key of a tag is empty, too long or reserved")
        if len(value) > EBS_VALUE:
            raise _invalid(f"The value of a tag has more than {EBS_VALUE} characters")
    return found


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message, 400, {"Reason": "INVALID_TAG"})
