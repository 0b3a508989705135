"""What exists in the account: equal before and after a test that cleans up."""

from __future__ import annotations

from typing import Any

from wavelift.simulators.aws.moto_bridge import elbv2, route53, routes
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.s3.access import Access


def of(account: Account) -> dict[str, Any]:
    return {
        "buckets": _buckets(account),
        "snapshots": _snapshots(account),
        "import_tasks": sorted(task.id for task in account.imports.all() if task.active),
        "export_tasks": sorted(task.id for task in account.exports.all() if task.active),
        **_ec2(account),
        "dns_records": _records(account),
        "targets": _targets(account),
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
            "access": _access(bucket.access),
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


def _access(access: Access) -> dict[str, Any]:
    return {
        "ownership": access.ownership,
        "grants": sorted(f"{one.permission} {one.grantee}" for one in access.grants),
        "public_access_block": dict(access.blocks) if access.blocks is not None else None,
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
        account.catch_up()
        ec2 = account.backends.ec2
        instances = [one for row in ec2.reservations.values() for one in row.instances if one.state != "terminated"]
        return {
            "images": sorted(ec2.amis),
            "instances": sorted(item.id for item in instances),
            "instance_states": {
                one.id: {"state": one.state, "reboots": account.reboots.get(one.id, 0)}
                for one in sorted(instances, key=lambda one: str(one.id))
            },
            "launch_templates": {str(one.name): one.latest_version_number for one in ec2.launch_templates.values()},
            "routes": routes.rows(ec2),
            "transit_gateway_routes": routes.transit_rows(ec2),
            "volumes": sorted(ec2.volumes),
            "network_interfaces": sorted(ec2.enis),
            "addresses": _addresses(ec2),
            "elastic_ips": {str(one.allocation_id): one.eni.id if one.eni is not None else "" for one in ec2.addresses},
        }


def _targets(account: Account) -> dict[str, Any]:
    with account.backends.lock:
        return elbv2.rows(account)


def _records(account: Account) -> dict[str, Any]:
    """By the zone's id: a public and a private zone may have one name."""
    with account.backends.lock:
        return {str(zone.resource_id): route53.rows(zone) for zone in account.backends.route53.zones.values()}


def _addresses(ec2: Any) -> dict[str, dict[str, Any]]:
    """Every held private address: its subnet, its interface, and the instance that has it now, or ""."""
    return {
        f"{eni.subnet.id}/{item['PrivateIpAddress']}": {
            "interface": eni.id,
            "instance": eni.instance.id if eni.instance is not None else "",
            "groups": sorted(group.id for group in eni.group_set),
        }
        for eni in sorted(ec2.enis.values(), key=lambda one: str(one.id))
        for item in eni.private_ip_addresses
    }
