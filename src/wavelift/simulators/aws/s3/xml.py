"""The XML of S3: writes documents from nested values, and parses the documents that callers send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.s3.store import ClaimedPart
from wavelift.simulators.kit.message import Response

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"
CHECKSUMS: Final = ("SHA256", "SHA1", "CRC32")

Value = str | int | bool | None | Mapping[str, "Value"] | Iterable["Value"]


def document(name: str, content: Mapping[str, Value]) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{NAMESPACE}">{_members(content)}</{name}>'
    ).encode()


def response(name: str, content: Mapping[str, Value], headers: Mapping[str, str] | None = None) -> Response:
    return Response(200, {"Content-Type": "application/xml", **(headers or {})}, document(name, content))


def _members(content: Mapping[str, Value]) -> str:
    return "".join(_element(name, value) for name, value in content.items())


def _element(name: str, value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"<{name}>{str(value).lower()}</{name}>"
    if isinstance(value, str | int):
        return f"<{name}>{escape(str(value))}</{name}>"
    if isinstance(value, Mapping):
        return f"<{name}>{_members(value)}</{name}>"
    return "".join(_element(name, item) for item in value)


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def malformed(code: str = "MalformedXML") -> AwsError:
    text = "The XML you provided was not well-formed or did not validate against our published schema"
    return AwsError(code, text, 400)


def _parse(body: bytes, root_name: str) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise malformed() from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != root_name:
        raise malformed()
    return root


def parse_parts(body: bytes) -> list[ClaimedPart]:
    """The parts of a CompleteMultipartUpload document. Raises MalformedXML."""
    parts = []
    for element in _parse(body, "CompleteMultipartUpload").findall("Part"):
        checksums = {name: text for name in CHECKSUMS if (text := (element.findtext(f"Checksum{name}") or "").strip())}
        number = element.findtext("PartNumber") or ""
        if not number.strip().isdigit():
            raise AwsError("MalformedXML", "A part without its number", 400)
        parts.append(ClaimedPart(int(number), (element.findtext("ETag") or "").strip().strip('"'), checksums))
    return parts


def parse_delete(body: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Keys and versions (or nothing) of a DeleteObjects document, and whether it asks for a quiet answer."""
    root = _parse(body, "Delete")
    keys = [(each.findtext("Key") or "", each.findtext("VersionId") or "") for each in root.findall("Object")]
    return keys, (root.findtext("Quiet") or "").strip() == "true"


def check_versioning(body: bytes) -> None:
    """Raises S3's error for a status that does not exist. Versioning that was on can only be suspended."""
    status = (_parse(body, "VersioningConfiguration").findtext("Status") or "").strip()
    if status not in {"Enabled", "Suspended"}:
        message = "The Versioning element must be specified"
        raise AwsError("IllegalVersioningConfigurationException", message, 400)


def parse_location(body: bytes) -> str:
    return (_parse(body, "CreateBucketConfiguration").findtext("LocationConstraint") or "").strip() if body else ""


def parse_bucket_tags(body: bytes) -> dict[str, str]:
    """Of a bucket that CreateBucket makes."""
    found = _parse(body, "CreateBucketConfiguration").findall("Tags/Tag") if body else []
    return {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in found}


def tagging(tags: Mapping[str, str]) -> bytes:
    return document("Tagging", {"TagSet": {"Tag": [{"Key": key, "Value": value} for key, value in tags.items()]}})


def parse_members(body: bytes, root_name: str) -> dict[str, str]:
    """The children of a document by their names. Raises MalformedXML."""
    return {each.tag: (each.text or "").strip() for each in _parse(body, root_name)}


def parse_rows(body: bytes, root_name: str, row_name: str) -> list[dict[str, str]]:
    """The same for each row of a document. Raises MalformedXML for another row."""
    root = _parse(body, root_name)
    if any(each.tag != row_name for each in root):
        raise malformed()
    return [{child.tag: (child.text or "").strip() for child in row} for row in root]


def parse_acl(body: bytes) -> tuple[str, list[tuple[str, dict[str, str], str]]]:
    """The owner's id, and of each grant the grantee's kind, its members and the permission. Raises AwsError."""
    root = _parse(body, "AccessControlPolicy")
    owner, rows = root.findtext("Owner/ID"), root.find("AccessControlList")
    if owner is None or rows is None:
        raise malformed("MalformedACLError")
    found = []
    for each in rows:
        grantee, permission = each.find("Grantee"), each.findtext("Permission")
        if each.tag != "Grant" or grantee is None or permission is None:
            raise malformed("MalformedACLError")
        members = {child.tag: (child.text or "").strip() for child in grantee}
        found.append((grantee.get(TYPE, ""), members, permission.strip()))
    return owner.strip(), found


def parse_tags(body: bytes) -> dict[str, str]:
    return {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in _parse(body, "Tagging").iter("Tag")}


def parse_encryption(body: bytes) -> tuple[str, str]:
    """Algorithm and key of a bucket's default encryption; S3's default if none was set."""
    rule = _parse(body, "ServerSideEncryptionConfiguration") if body else None
    found = rule.find("Rule/ApplyServerSideEncryptionByDefault") if rule is not None else None
    if found is None:
        return "AES256", ""
    return (found.findtext("SSEAlgorithm") or "AES256").strip(), (found.findtext("KMSMasterKeyID") or "").strip()
