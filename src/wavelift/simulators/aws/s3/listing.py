"""The paged lists of S3."""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import quote

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.s3 import xml
from wavelift.simulators.aws.s3.store import Bucket, Part, StoredObject, Upload
from wavelift.simulators.kit.message import Response

PAGE: Final = 1000


def page_size(query: dict[str, str], name: str) -> int:
    text = query.get(name, "") or str(PAGE)
    if not text.isdigit():
        raise AwsError("InvalidArgument", f"Provided {name} not an integer or within integer range", 400)
    return min(int(text), PAGE)


def _encoder(query: dict[str, str]) -> tuple[bool, str]:
    return query.get("encoding-type") == "url", "/-_.~"


def objects(bucket: Bucket, query: dict[str, str], *, version: int) -> Response:
    """ListObjectsV2 and its predecessor."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    size = page_size(query, "max-keys")
    after = query.get("start-after" if version == 2 else "marker", "")
    if token := query.get("continuation-token"):
        after = base64.urlsafe_b64decode(token).decode()
    url, safe = _encoder(query)

    def show(text: str) -> str:
        return quote(text, safe=safe) if url else text

    entries = _entries(bucket, prefix, delimiter, after)
    page, more = entries[:size], len(entries) > size
    contents = [_row(item, show(item.key)) for name, item in page if item is not None]
    prefixes = [{"Prefix": show(name)} for name, item in page if item is None]
    content: dict[str, xml.Value] = {
        "Name": bucket.name,
        "Prefix": show(prefix),
        "Delimiter": show(delimiter) or None,
        "MaxKeys": size,
        "EncodingType": "url" if url else None,
        "IsTruncated": more,
    }
    last = page[-1][0] if page else ""
    if version == 2:
        content |= {
            "KeyCount": len(page),
            "ContinuationToken": query.get("continuation-token"),
            "StartAfter": show(query["start-after"]) if "start-after" in query else None,
            "NextContinuationToken": base64.urlsafe_b64encode(last.encode()).decode() if more else None,
        }
    else:
        content |= {"Marker": show(after), "NextMarker": show(last) if more and delimiter else None}
    return xml.response("ListBucketResult", {**content, "Contents": contents, "CommonPrefixes": prefixes})


def _entries(bucket: Bucket, prefix: str, delimiter: str, after: str) -> list[tuple[str, StoredObject | None]]:
    """Objects, and common prefixes (with None), in order, after ``after``."""
    found: dict[str, StoredObject | None] = {}
    for key, item in sorted(bucket.objects.copy().items()):
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key if cut < 0 else key[: cut + len(delimiter)]
        if name > after and not (cut >= 0 and after.startswith(name)):
            found[name] = item if cut < 0 else None
    return list(found.items())


def _row(item: StoredObject, key: str) -> dict[str, xml.Value]:
    return {
        "Key": key,
        "LastModified": xml.iso(item.modified),
        "ETag": f'"{item.etag}"',
        "ChecksumAlgorithm": list(item.checksums),
        "ChecksumType": item.checksum_type if item.checksums else None,
        "Size": item.size,
        "StorageClass": item.info.headers.get("x-amz-storage-class", "STANDARD"),
    }


def versions(bucket: Bucket, query: dict[str, str]) -> Response:
    """ListObjectVersions: by key, the newest version of a key first."""
    prefix, size = query.get("prefix", ""), page_size(query, "max-keys")
    url, safe = _encoder(query)

    def show(text: str) -> str:
        return quote(text, safe=safe) if url else text

    rows = [
        (item, item is kept[-1])
        for key, kept in sorted(bucket.history.copy().items())
        if key.startswith(prefix)
        for item in reversed(kept)
    ]
    after = (query.get("key-marker", ""), query.get("version-id-marker", ""))
    if after[0]:
        places = [place for place, (item, _) in enumerate(rows) if (item.key, item.version) == after]
        rows = rows[places[0] + 1 :] if places else [row for row in rows if row[0].key > after[0]]
    page, more = rows[:size], len(rows) > size
    return xml.response(
        "ListVersionsResult",
        {
            "Name": bucket.name,
            "Prefix": show(prefix),
            "KeyMarker": show(after[0]),
            "VersionIdMarker": after[1],
            "NextKeyMarker": show(page[-1][0].key) if more else None,
            "NextVersionIdMarker": page[-1][0].version if more else None,
            "MaxKeys": size,
            "EncodingType": "url" if url else None,
            "IsTruncated": more,
            "Version": [_versioned(item, show(item.key), latest) for item, latest in page if not item.marker],
            "DeleteMarker": [
                {
                    "Key": show(item.key),
                    "VersionId": item.version,
                    "IsLatest": latest,
                    "LastModified": xml.iso(item.modified),
                }
                for item, latest in page
                if item.marker
            ],
        },
    )


def _versioned(item: StoredObject, key: str, latest: bool) -> dict[str, xml.Value]:
    return {**_row(item, key), "VersionId": item.version, "IsLatest": latest}


def uploads(bucket: Bucket, query: dict[str, str]) -> Response:
    """ListMultipartUploads, by key and then by start."""
    prefix, size = query.get("prefix", ""), page_size(query, "max-uploads")
    marker = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
    url, safe = _encoder(query)

    def show(text: str) -> str:
        return quote(text, safe=safe) if url else text

    rows = sorted(
        (upload for upload in bucket.uploads.copy().values() if upload.key.startswith(prefix)),
        key=lambda upload: (upload.key, upload.id),
    )
    if marker[0]:
        rows = [upload for upload in rows if _behind(upload, *marker)]
    page, more = rows[:size], len(rows) > size
    return xml.response(
        "ListMultipartUploadsResult",
        {
            "Bucket": bucket.name,
            "KeyMarker": show(marker[0]),
            "UploadIdMarker": marker[1],
            "NextKeyMarker": show(page[-1].key) if more else None,
            "NextUploadIdMarker": page[-1].id if more else None,
            "Prefix": show(prefix),
            "EncodingType": "url" if url else None,
            "MaxUploads": size,
            "IsTruncated": more,
            "Upload": [
                {
                    "Key": show(upload.key),
                    "UploadId": upload.id,
                    "Initiated": xml.iso(upload.started),
                    "StorageClass": "STANDARD",
                    "ChecksumAlgorithm": upload.algorithm or None,
                    "ChecksumType": upload.checksum_type or None,
                }
                for upload in page
            ],
        },
    )


def _behind(upload: Upload, key: str, upload_id: str) -> bool:
    return upload.key > key or (bool(upload_id) and upload.key == key and upload.id > upload_id)


def parts(upload: Upload, query: dict[str, str]) -> Response:
    """ListParts with the checksum of each part."""
    size = page_size(query, "max-parts")
    marker = int(query.get("part-number-marker") or 0)
    with upload.lock:
        rows = [upload.parts[number] for number in sorted(upload.parts) if number > marker]
    page, more = rows[:size], len(rows) > size
    return xml.response(
        "ListPartsResult",
        {
            "Bucket": upload.bucket,
            "Key": upload.key,
            "UploadId": upload.id,
            "PartNumberMarker": marker,
            "NextPartNumberMarker": page[-1].number if page else 0,
            "MaxParts": size,
            "IsTruncated": more,
            "StorageClass": "STANDARD",
            "ChecksumAlgorithm": upload.algorithm or None,
            "ChecksumType": upload.checksum_type or None,
            "Part": [_part(part) for part in page],
        },
    )


def _part(part: Part) -> dict[str, xml.Value]:
    return {
        "PartNumber": part.number,
        "LastModified": xml.iso(part.modified),
        "ETag": f'"{part.etag}"',
        "Size": part.size,
        **{f"Checksum{name}": value for name, value in part.checksums.items()},
    }
