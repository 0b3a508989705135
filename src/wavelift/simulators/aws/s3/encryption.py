"""How an object is encrypted: as its writer says, else by the default of its bucket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.keys import FindKey, key_for_object
from wavelift.simulators.aws.s3.store import Bucket
from wavelift.simulators.aws.s3.xml import parse_encryption

ALGORITHM: Final = "x-amz-server-side-encryption"
KEY: Final = "x-amz-server-side-encryption-aws-kms-key-id"
BUCKET_KEY: Final = "x-amz-server-side-encryption-bucket-key-enabled"
WITH_KMS: Final = ("aws:kms", "aws:kms:dsse")
OWN_KEY: Final = "alias/aws/s3"
"""The AWS managed key for S3, used if neither the writer nor the bucket names a key."""


def encryption(headers: Mapping[str, str], bucket: Bucket, find_key: FindKey) -> dict[str, str]:
    """The encryption headers in all answers about the object, with the key as an ARN. Raises AwsError."""
    algorithm, key = headers.get(ALGORITHM, ""), headers.get(KEY, "")
    if key and algorithm not in WITH_KMS:
        raise AwsError("InvalidArgument", f"{KEY} needs {ALGORITHM}: aws:kms", 400, {"ArgumentName": KEY})
    if not algorithm:
        algorithm, key = parse_encryption(bucket.documents.get("encryption", b""))
    if algorithm == "AES256":
        return {ALGORITHM: algorithm}
    if algorithm not in WITH_KMS:
        raise AwsError("InvalidArgument", "The encryption method specified is not supported", 400)
    found = {ALGORITHM: algorithm, KEY: key_for_object(key or OWN_KEY, find_key).arn}
    if headers.get(BUCKET_KEY, "").lower() == "true":
        if algorithm != "aws:kms":
            raise AwsError("InvalidArgument", f"{BUCKET_KEY} is not supported with {algorithm}", 400)
        found[BUCKET_KEY] = "true"
    return found
