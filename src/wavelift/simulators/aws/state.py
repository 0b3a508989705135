"""What exists in the account: equal before and after a test that cleans up."""

from __future__ import annotations

from typing import Any

from wavelift.simulators.aws.moto_bridge.account import Account


def of(account: Account) -> dict[str, Any]:
    return {
        "buckets": _buckets(account),
        "snapshots": _snapshots(account),
        "import_tasks": sorted(task.id for task in account.imports.all() if task.active),
        **_ec2(account),
    }


def _buckets(account: Account) -> dict[str, Any]:
    return {
        bucket.name: {
            "objects": sorted(bucket.objects.copy()),
            "noncurrent": sorted(
                f"{one.key} {'delete marker' if one.marker else one.version}"
                for versions in bucket.history.copy().values()
                for one in versions
                if one.marker or one is not versions[-1]
            ),
            "uploads": sorted(
                (
                    {"key": upload.key, "id": upload.id, "parts": len(upload.parts)}
                    for upload in bucket.uploads.copy().values()
                ),
                key=lambda row: str(row["id"]),
            ),
        }
        for bucket in account.s3.buckets()
    }


def _snapshots(account: Account) -> list[dict[str, Any]]:
    return [
        {
            "id": snapshot.id,
            "state": snapshot.state,
            "size_gib": snapshot.size,
            "parent": snapshot.parent.id if snapshot.parent and not snapshot.parent.hidden else "",
            "origin": snapshot.origin,
            "own_blocks": len(snapshot.present),
            "sent_twice": snapshot.puts - len(snapshot.digests),
        }
        for snapshot in sorted(account.ebs.all(), key=lambda item: item.id)
    ]


def _ec2(account: Account) -> dict[str, Any]:
    with account.backends.lock:
        ec2 = account.backends.ec2
        instances = (instance for row in ec2.reservations.values() for instance in row.instances)
        return {
            "images": sorted(ec2.amis),
            "instances": sorted(item.id for item in instances if item.state != "terminated"),
            "volumes": sorted(ec2.volumes),
            "network_interfaces": sorted(ec2.enis),
        }
