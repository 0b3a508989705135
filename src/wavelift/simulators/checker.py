"""The demo's checker: compares the disks in AWS with those that vCenter froze. A program; imports nothing of wavelift.

Standard input: one JSON object
``{"endpoint", "ca_file", "region", "access_key", "secret_key", "vcenter": [evidence …], "aws": {evidence},
"servers": [{"server", "snapshot", "snapshot_ids"}]}``. Standard output: one JSON object with what was compared.
A server with ``"registered": true`` has an image that was registered of its snapshots: nothing may differ in them. Its
``"marker": {"disk", "offset", "text"}``, if given, must stand in them.
It decodes with ``qemu-img`` and reads blocks with boto3. wavelift writes with neither.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BLOCK = 512 * 1024


def main() -> int:
    request = json.load(sys.stdin)
    result: dict[str, Any] = {"disks": [], "bytes_verified": 0, "mismatches": 0, "markers": []}
    for server in request["servers"]:
        frozen = _frozen(request["vcenter"], server)
        stored = _stored(request["aws"], server)
        if "marker" in server:
            result["markers"].append(_stands(request, server))
        if len(frozen) != len(stored):
            result["disks"].append({"server": server["server"], "error": f"{len(frozen)} frozen, {len(stored)} stored"})
            result["mismatches"] += 1
            continue
        for index, (source, entry) in enumerate(zip(frozen, stored, strict=True)):
            line = _compare(request, server, index, source, entry)
            result["disks"].append(line)
            result["mismatches"] += line["mismatches"]
            result["bytes_verified"] += source["capacity"] if not line["mismatches"] else 0
    json.dump(result, sys.stdout)
    return 1 if result["mismatches"] or not result["disks"] else 0


def _frozen(evidence: list[dict[str, Any]], server: dict[str, Any]) -> list[dict[str, Any]]:
    """The disks that vCenter froze for this server's run, in the order of the server."""
    for entry in evidence:
        if entry["vm"] == server["server"] and entry["snapshot"] == server["snapshot"]:
            return sorted(entry["disks"], key=lambda disk: disk["index"])
    return []


def _stored(evidence: dict[str, Any], server: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of this server's import, in the order of its disks."""
    if server.get("registered"):
        return [{"snapshot": each, "key": "", "changed": []} for each in server["snapshot_ids"]]
    mine = [entry for entry in evidence["imports"] if entry["snapshot"] in server["snapshot_ids"]]
    return sorted(mine, key=lambda entry: server["snapshot_ids"].index(entry["snapshot"]))


def _compare(
    request: dict[str, Any], server: dict[str, Any], index: int, source: dict[str, Any], entry: dict[str, Any]
) -> dict[str, Any]:
    frozen = Path(source["file"])
    before = [] if server.get("registered") else _before_conversion(request, entry, frozen, source["capacity"])
    after = _snapshot_differences(request, server["snapshot_ids"][index], frozen, source["capacity"], entry["changed"])
    return {
        "server": server["server"],
        "disk": index,
        "object": entry["key"],
        "snapshot": server["snapshot_ids"][index],
        "before_conversion": before[:3],
        "after_conversion": after[:3],
        "mismatches": len(before) + len(after),
    }


def _before_conversion(request: dict[str, Any], entry: dict[str, Any], frozen: Path, capacity: int) -> list[int]:
    """Offsets at which the object that was imported differs."""
    paths = {(found["bucket"], found["key"]): found["path"] for found in request["aws"]["objects"]}
    with tempfile.NamedTemporaryFile(prefix="wavelift-check-", suffix=".raw") as raw:
        command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", paths[entry["bucket"], entry["key"]], raw.name]
        subprocess.run(command, check=True, capture_output=True)
        return _differences(frozen, Path(raw.name), capacity)


def _differences(one: Path, other: Path, capacity: int) -> list[int]:
    """Offsets of the 512 KiB blocks in which two files differ. A file that is too short differs at its end."""
    if other.stat().st_size < capacity:
        return [other.stat().st_size]
    with one.open("rb") as left, other.open("rb") as right:
        return [
            offset
            for offset in range(0, capacity, BLOCK)
            if left.read(min(BLOCK, capacity - offset)) != right.read(min(BLOCK, capacity - offset))
        ]


def _ebs(request: dict[str, Any]) -> Any:
    import boto3

    session = boto3.Session(request["access_key"], request["secret_key"], region_name=request["region"])
    return session.client("ebs", endpoint_url=request["endpoint"], verify=request["ca_file"] or None)


def _tokens(ebs: Any, snapshot_id: str) -> dict[int, str]:
    """Index and token of every block that a snapshot holds."""
    tokens: dict[int, str] = {}
    more: dict[str, Any] = {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot_id, **more)
        tokens.update((block["BlockIndex"], block["BlockToken"]) for block in page["Blocks"])
        if not page.get("NextToken"):
            return tokens
        more = {"NextToken": page["NextToken"]}


def _stands(request: dict[str, Any], server: dict[str, Any]) -> bool:
    """Whether a text is where the guest wrote it. It lies in one block."""
    marker, ebs = server["marker"], _ebs(request)
    snapshot_id = server["snapshot_ids"][marker["disk"]]
    index, place = divmod(marker["offset"], BLOCK)
    token = _tokens(ebs, snapshot_id).get(index)
    if token is None:
        return False
    answer = ebs.get_snapshot_block(SnapshotId=snapshot_id, BlockIndex=index, BlockToken=token)
    block: bytes = answer["BlockData"].read()
    return block[place:].startswith(marker["text"].encode())


def _snapshot_differences(
    request: dict[str, Any], snapshot_id: str, frozen: Path, capacity: int, changed: list[dict[str, int]]
) -> list[int]:
    """Offsets of the snapshot's blocks that differ outside of the ranges that the conversion recorded."""
    ebs = _ebs(request)
    tokens = _tokens(ebs, snapshot_id)
    wrong = []
    with frozen.open("rb") as source:
        for index in range(-(-capacity // BLOCK)):
            source.seek(index * BLOCK)
            expected = source.read(min(BLOCK, capacity - index * BLOCK)).ljust(BLOCK, b"\0")
            if index in tokens:
                answer = ebs.get_snapshot_block(SnapshotId=snapshot_id, BlockIndex=index, BlockToken=tokens[index])
                got = answer["BlockData"].read()
            else:
                got = bytes(BLOCK)
            if _masked(expected, index, changed) != _masked(got, index, changed):
                wrong.append(index * BLOCK)
    return wrong


def _masked(block: bytes, index: int, changed: list[dict[str, int]]) -> bytes:
    """The block with the recorded ranges blanked."""
    data = bytearray(block)
    base = index * BLOCK
    for part in changed:
        start, end = max(part["offset"], base), min(part["offset"] + part["length"], base + BLOCK)
        if start < end:
            data[start - base : end - base] = bytes(end - start)
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
