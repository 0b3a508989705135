"""S3: bodies in files, checksums that count, and the lists that a resume stands on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

MIB = 1 << 20
Refused = Callable[..., ClientError]
Sha = Callable[[bytes], str]


@pytest.fixture
def upload(s3: Any, key: str) -> Callable[..., dict[str, Any]]:
    """A new upload's address, as arguments for the calls about it."""

    def create(**options: Any) -> dict[str, Any]:
        chosen = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "COMPOSITE", **options}
        answer = s3.create_multipart_upload(Bucket="staging", Key=key, **chosen)
        assert answer["ChecksumAlgorithm"] == "SHA256"
        return {"Bucket": "staging", "Key": key, "UploadId": answer["UploadId"]}

    return create


def _put(s3: Any, where: dict[str, Any], number: int, data: bytes, checksum: str) -> dict[str, Any]:
    answer = s3.upload_part(**where, PartNumber=number, Body=data, ChecksumSHA256=checksum)
    assert answer["ChecksumSHA256"] == checksum
    return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}


def test_multipart_object_is_the_parts_in_order(s3: Any, upload: Any, sha: Sha) -> None:
    where = upload(Metadata={"Run": "r1"}, Tagging="wavelift%3Arun=abc&wave=w", ContentType="application/x-vmdk")
    bodies = [os.urandom(5 * MIB), os.urandom(6 * MIB), os.urandom(1234)]
    parts = [_put(s3, where, number, body, sha(body)) for number, body in enumerate(bodies, 1)]
    done = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    composite = sha(b"".join(hashlib.sha256(body).digest() for body in bodies)) + "-3"
    assert done["ChecksumSHA256"] == composite
    assert done["ETag"].endswith('-3"')
    at = {"Bucket": where["Bucket"], "Key": where["Key"]}
    got = s3.get_object(**at)
    assert got["Body"].read() == b"".join(bodies)
    assert got["Metadata"] == {"run": "r1"}
    assert got["ContentType"] == "application/x-vmdk"
    head = s3.head_object(**at, ChecksumMode="ENABLED")
    assert (head["ContentLength"], head["ChecksumSHA256"], head["TagCount"]) == (11 * MIB + 1234, composite, 2)
    tags = s3.get_object_tagging(**at)["TagSet"]
    assert {"Key": "wavelift:run", "Value": "abc"} in tags
    assert s3.list_multipart_uploads(Bucket="staging", Prefix=where["Key"]).get("Uploads", []) == []


def test_list_parts_is_the_record_with_checksums_and_pages(s3: Any, upload: Any, sha: Sha) -> None:
    where = upload()
    bodies = {number: bytes([number]) * 10 for number in range(1, 8)}
    for number, body in bodies.items():
        _put(s3, where, number, body, sha(body))
    first = s3.list_parts(**where, MaxParts=3)
    assert [part["PartNumber"] for part in first["Parts"]] == [1, 2, 3]
    assert (first["IsTruncated"], first["NextPartNumberMarker"], first["ChecksumType"]) == (True, 3, "COMPOSITE")
    rows = [row for page in s3.get_paginator("list_parts").paginate(**where, MaxParts=3) for row in page["Parts"]]
    assert {row["PartNumber"]: (row["ChecksumSHA256"], row["Size"]) for row in rows} == {
        number: (sha(body), 10) for number, body in bodies.items()
    }
    s3.abort_multipart_upload(**where)


def test_part_with_wrong_checksum_is_refused_and_not_kept(s3: Any, upload: Any, sha: Sha, refused: Refused) -> None:
    where = upload()
    refused("BadDigest", s3.upload_part, **where, PartNumber=1, Body=b"right", ChecksumSHA256=sha(b"wrong"))
    assert "Parts" not in s3.list_parts(**where)
    s3.abort_multipart_upload(**where)


def test_part_without_the_declared_checksum_is_refused(s3: Any, upload: Any, refused: Refused) -> None:
    where = upload()
    error = refused("InvalidRequest", s3.upload_part, **where, PartNumber=1, Body=b"data", ChecksumAlgorithm="CRC32")
    assert "expected checksum Type: sha256, actual checksum Type: crc32" in str(error)
    s3.abort_multipart_upload(**where)


def test_complete_checks_sizes_order_tags_and_checksums(s3: Any, upload: Any, sha: Sha, refused: Refused) -> None:
    where = upload()
    small, large = b"s" * 100, b"l" * 5 * MIB
    one, two = _put(s3, where, 1, small, sha(small)), _put(s3, where, 2, large, sha(large))

    def complete(*parts: dict[str, Any]) -> Any:
        return s3.complete_multipart_upload(**where, MultipartUpload={"Parts": list(parts)})

    assert "PartNumber" in str(refused("EntityTooSmall", lambda: complete(one, two)).response["Error"])
    refused("InvalidPartOrder", lambda: complete(two, one))
    refused("InvalidPart", lambda: complete({**one, "ETag": '"0123"'}))
    refused("InvalidPart", lambda: complete({**one, "ChecksumSHA256": sha(b"else")}))
    refused("InvalidPart", lambda: complete({**one, "PartNumber": 7}))
    error = refused("InvalidRequest", lambda: complete({"PartNumber": 1, "ETag": one["ETag"]}))
    assert "missing for part 1" in str(error)
    complete(two)
    assert s3.get_object(Bucket="staging", Key=where["Key"])["Body"].read() == large
    refused("NoSuchUpload", lambda: complete(two))


def test_abort_forgets_parts_and_later_parts_are_refused(s3: Any, upload: Any, sha: Sha, refused: Refused) -> None:
    where = upload()
    _put(s3, where, 1, b"x", sha(b"x"))
    found = s3.list_multipart_uploads(Bucket="staging", Prefix=where["Key"])["Uploads"]
    assert [item["UploadId"] for item in found] == [where["UploadId"]]
    s3.abort_multipart_upload(**where)
    refused("NoSuchUpload", s3.upload_part, **where, PartNumber=2, Body=b"y", ChecksumSHA256=sha(b"y"))
    refused("NoSuchUpload", s3.list_parts, **where)
    refused("NoSuchUpload", s3.abort_multipart_upload, **where)


def test_uploads_are_listed_in_pages(s3: Any, key: str) -> None:
    keys = [f"{key}/{number}" for number in range(5)]
    ids = {item: s3.create_multipart_upload(Bucket="staging", Key=item)["UploadId"] for item in keys}
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket="staging", Prefix=key, MaxUploads=2)
    found = [(item["Key"], item["UploadId"]) for page in pages for item in page["Uploads"]]
    assert found == sorted(ids.items())
    for item, upload_id in ids.items():
        s3.abort_multipart_upload(Bucket="staging", Key=item, UploadId=upload_id)


def test_ranges_and_conditions(s3: Any, key: str, refused: Refused) -> None:
    at = {"Bucket": "staging", "Key": key}
    data = os.urandom(3 * MIB)
    etag = s3.put_object(**at, Body=data)["ETag"]
    part = s3.get_object(**at, Range="bytes=1000-1048999", IfMatch=etag)
    assert part["Body"].read() == data[1000:1049000]
    assert part["ContentRange"] == f"bytes 1000-1048999/{len(data)}"
    assert s3.get_object(**at, Range="bytes=-5")["Body"].read() == data[-5:]
    assert s3.get_object(**at, Range=f"bytes={len(data) - 3}-")["Body"].read() == data[-3:]
    refused("InvalidRange", s3.get_object, **at, Range=f"bytes={len(data)}-")
    refused("PreconditionFailed", s3.get_object, **at, IfMatch='"other"')
    refused("PreconditionFailed", s3.put_object, **at, Body=b"", IfNoneMatch="*")
    refused("NoSuchKey", s3.get_object, Bucket="staging", Key=key + "?")
    refused("404", s3.head_object, Bucket="staging", Key=key + "?")
    refused("NoSuchBucket", s3.get_object, Bucket="nowhere", Key=key)


def test_listing_by_prefix_delimiter_and_page(s3: Any, key: str) -> None:
    names = [f"{key}/{name}" for name in ("a b+c", "d/1", "d/2", "e", "ü")]
    for name in names:
        s3.put_object(Bucket="staging", Key=name, Body=name.encode())
    pages = list(
        s3.get_paginator("list_objects_v2").paginate(Bucket="staging", Prefix=key, PaginationConfig={"PageSize": 2})
    )
    assert [item["Key"] for page in pages for item in page["Contents"]] == sorted(names)
    assert len(pages) == 3
    grouped = s3.list_objects_v2(Bucket="staging", Prefix=f"{key}/", Delimiter="/")
    assert [item["Prefix"] for item in grouped["CommonPrefixes"]] == [f"{key}/d/"]
    assert len(grouped["Contents"]) == 3
    assert s3.get_object(Bucket="staging", Key=names[-1])["Body"].read() == names[-1].encode()
    s3.delete_objects(Bucket="staging", Delete={"Objects": [{"Key": name} for name in names]})
    assert s3.list_objects_v2(Bucket="staging", Prefix=key)["KeyCount"] == 0


def test_bucket_facts(s3: Any, sim: AwsSimulator, refused: Refused) -> None:
    assert s3.get_bucket_location(Bucket="staging")["LocationConstraint"] == sim.region
    assert s3.head_bucket(Bucket="staging")["BucketRegion"] == sim.region
    refused("404", s3.head_bucket, Bucket="nowhere")
    found = s3.get_bucket_encryption(Bucket="staging")["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert found["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"  # of every bucket, since 2023
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    s3.put_bucket_encryption(Bucket="staging", ServerSideEncryptionConfiguration={"Rules": [rule]})
    found = s3.get_bucket_encryption(Bucket="staging")["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert found["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    s3.delete_bucket_encryption(Bucket="staging")
    refused(
        "BucketAlreadyOwnedByYou",
        s3.create_bucket,
        Bucket="staging",
        CreateBucketConfiguration={"LocationConstraint": sim.region},
    )
    refused(
        "IllegalLocationConstraintException",
        s3.create_bucket,
        Bucket="elsewhere",
        CreateBucketConfiguration={"LocationConstraint": "eu-west-1"},
    )


def test_kms_key_of_an_upload_must_exist(s3: Any, base: Bootstrap, key: str, refused: Refused) -> None:
    at = {"Bucket": "staging", "Key": key, "Body": b"x", "ServerSideEncryption": "aws:kms"}
    assert s3.put_object(**at, SSEKMSKeyId=base.kms_key_arn)["SSEKMSKeyId"] == base.kms_key_arn
    refused("KMS.NotFoundException", s3.put_object, **at, SSEKMSKeyId="11111111-2222-3333-4444-555555555555")


def test_repeated_parts_are_counted(s3: Any, sim: AwsSimulator, upload: Any, sha: Sha) -> None:
    def repeated() -> int:
        return sim.counters().get("s3.parts", {}).get("repeated", 0)

    where, before = upload(), repeated()
    _put(s3, where, 1, b"one", sha(b"one"))
    _put(s3, where, 1, b"two", sha(b"two"))
    assert repeated() == before
    _put(s3, where, 1, b"two", sha(b"two"))
    assert repeated() == before + 1
    s3.abort_multipart_upload(**where)


def test_unknown_call_is_refused_in_s3s_words(s3: Any, key: str, refused: Refused) -> None:
    error = refused("NotImplemented", s3.copy_object, Bucket="staging", Key=key, CopySource="staging/other")
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 501


def test_tls_body_with_trailing_checksum(tls_running: AwsSimulator) -> None:
    """Over HTTPS boto3 sends aws-chunked bodies with the checksum behind them."""
    s3 = tls_running.client("s3")
    data = os.urandom(3 * MIB + 17)
    s3.put_object(Bucket="tls-bucket", Key="k", Body=data)
    got = s3.get_object(Bucket="tls-bucket", Key="k")
    assert got["Body"].read() == data
    assert got["ChecksumCRC32"]
    assert "ContentEncoding" not in got


def test_tls_upload_by_boto3s_own_transfer(tls_running: AwsSimulator, state_folder: Any) -> None:
    from boto3.s3.transfer import TransferConfig

    state_folder.mkdir()
    source = state_folder / "object"
    source.write_bytes(os.urandom(20 * MIB))
    s3 = tls_running.client("s3")
    small = TransferConfig(multipart_threshold=6 * MIB, multipart_chunksize=6 * MIB)
    s3.upload_file(str(source), "tls-bucket", "big", Config=small)
    s3.download_file("tls-bucket", "big", str(state_folder / "back"))
    assert (state_folder / "back").read_bytes() == source.read_bytes()


def test_large_object_stays_out_of_memory(running: AwsSimulator, s3: Any, key: str, sha: Sha) -> None:
    def peak_mib() -> int:
        lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))

    body = os.urandom(48 * MIB)
    before = peak_mib()
    upload_id = s3.create_multipart_upload(Bucket="staging", Key=key, ChecksumAlgorithm="SHA256")["UploadId"]
    where = {"Bucket": "staging", "Key": key, "UploadId": upload_id}
    parts = [_put(s3, where, number, body, sha(body)) for number in (1, 2, 3)]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    digest = hashlib.sha256()
    stream = s3.get_object(Bucket="staging", Key=key)["Body"]
    while piece := stream.read(MIB):
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(body * 3).digest()
    assert peak_mib() - before < 24
    s3.delete_object(Bucket="staging", Key=key)


def test_reading_by_part_is_refused_not_ignored(s3: Any, key: str, refused: Refused) -> None:
    s3.put_object(Bucket="staging", Key=key, Body=b"x")
    refused("NotImplemented", s3.get_object, Bucket="staging", Key=key, PartNumber=1)


@pytest.fixture
def versioned(sim: AwsSimulator, s3: Any) -> Iterator[str]:
    """A bucket with versioning."""
    s3.create_bucket(Bucket="versioned", CreateBucketConfiguration={"LocationConstraint": sim.region})
    assert "Status" not in s3.get_bucket_versioning(Bucket="versioned")
    yield "versioned"
    pages = s3.get_paginator("list_object_versions").paginate(Bucket="versioned", PaginationConfig={"PageSize": 2})
    rows = [row for page in pages for row in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]]
    which = [{"Key": row["Key"], "VersionId": row["VersionId"]} for row in rows]
    if which:
        s3.delete_objects(Bucket="versioned", Delete={"Objects": which})
    s3.delete_bucket(Bucket="versioned")


def test_a_bucket_with_versioning_keeps_what_was_replaced_and_deleted(
    s3: Any, sim: AwsSimulator, versioned: str, refused: Refused
) -> None:
    at = {"Bucket": versioned, "Key": "disk"}
    assert "VersionId" not in s3.put_object(**at, Body=b"old")
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=versioned)["Status"] == "Enabled"
    assert s3.head_object(**at)["VersionId"] == "null"
    one, two = (s3.put_object(**at, Body=body)["VersionId"] for body in (b"one", b"two"))
    for version, body in (("null", b"old"), (one, b"one"), (two, b"two"), ("", b"two")):
        asked = {"VersionId": version} if version else {}
        got = s3.get_object(**at, **asked)
        assert (got["Body"].read(), got["VersionId"]) == (body, version or two)
    refused("NoSuchVersion", s3.get_object, **at, VersionId="0" * 32)
    marker = s3.delete_object(**at)
    assert marker["DeleteMarker"]
    assert marker["VersionId"] not in (one, two)
    gone = refused("NoSuchKey", s3.get_object, **at)
    assert gone.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    refused("405", s3.head_object, **at, VersionId=marker["VersionId"])
    assert s3.get_object(**at, VersionId=one)["Body"].read() == b"one"
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)
    assert len(sim.state()["buckets"][versioned]["noncurrent"]) == 4
    refused("BucketNotEmpty", s3.delete_bucket, Bucket=versioned)
    s3.delete_object(**at, VersionId=marker["VersionId"])
    assert s3.head_object(**at)["VersionId"] == two, "the object is back once its delete marker is deleted"
    s3.delete_object(**at, VersionId=two)
    assert s3.get_object(**at)["Body"].read() == b"one"
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(**at, Body=b"late")
    s3.put_object(**at, Body=b"last")
    rows = s3.list_object_versions(Bucket=versioned)["Versions"]
    assert [(row["VersionId"], row["IsLatest"], row["Size"]) for row in rows] == [("null", True, 4), (one, False, 3)]


def test_a_multipart_object_names_its_version(s3: Any, versioned: str, sha: Sha) -> None:
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Enabled"})
    upload_id = s3.create_multipart_upload(Bucket=versioned, Key="disk", ChecksumAlgorithm="SHA256")["UploadId"]
    where = {"Bucket": versioned, "Key": "disk", "UploadId": upload_id}
    parts = [_put(s3, where, 1, b"x", sha(b"x"))]
    done = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    s3.put_object(Bucket=versioned, Key="disk", Body=b"y")
    head = s3.head_object(Bucket=versioned, Key="disk", VersionId=done["VersionId"], ChecksumMode="ENABLED")
    assert (head["ChecksumSHA256"], head["ETag"]) == (done["ChecksumSHA256"], done["ETag"])
