"""Resources as no call of this account makes them: of AWS Marketplace, of another account, Windows from AWS.

A test says it over the control endpoint (``POST resources``). What the calls themselves can make (several volumes, a
deleted image, an encrypted snapshot) a test makes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from wavelift.simulators.aws.moto_bridge.account import Account

MARKETPLACE: Final = "marketplace"
BILLED: Final = ("platform", "platform_details", "usage_operation")


def amend(account: Account, values: Mapping[str, Any]) -> dict[str, Any]:
    """Change the resource ``id``. Raises ValueError for one that does not exist, or a field that it does not have.

    Instances and images: ``product_codes`` (a list; type ``marketplace``), ``platform``, ``platform_details``,
    ``usage_operation``, ``owner`` (an account), ``boot_mode``. Snapshots: ``owner``, ``encrypted``, ``product_codes``.
    """
    name = str(values.get("id") or "")
    fields = {key: value for key, value in values.items() if key != "id"}
    kinds: dict[str, Callable[[Account, str, str, Any], None]] = {
        "i": _instance,
        "ami": _image,
        "snap": _snapshot,
    }
    change = kinds.get(name.partition("-")[0])
    if change is None:
        raise ValueError(f"{name!r} is no instance, image or snapshot")
    for key, value in fields.items():
        change(account, name, key, value)
    return {"id": name, **fields}


def _codes(value: Any) -> list[dict[str, str]]:
    return [{"ProductCodeId": str(one), "ProductCodeType": MARKETPLACE} for one in value]


def _instance(account: Account, name: str, key: str, value: Any) -> None:
    ec2 = account.backends.ec2
    reservation, found = next(
        ((row, one) for row in ec2.reservations.values() for one in row.instances if one.id == name), (None, None)
    )
    if found is None:
        raise ValueError(f"there is no {name}")
    if key == "owner" and reservation is not None:
        found.owner_id = reservation.owner_id = str(value)
    elif key == "boot_mode":
        found.boot_mode = str(value)
        found.current_instance_boot_mode = "uefi" if "uefi" in str(value) else "legacy-bios"
    else:
        _billed(found, name, key, value)


def _image(account: Account, name: str, key: str, value: Any) -> None:
    found = account.backends.ec2.amis.get(name)
    if found is None:
        raise ValueError(f"there is no {name}")
    if key == "owner":
        found.owner_id = str(value)
    elif key == "boot_mode":
        found.boot_mode = str(value)
    else:
        _billed(found, name, key, value)


def _billed(found: Any, name: str, key: str, value: Any) -> None:
    if key == "product_codes":
        found.product_codes = _codes(value)
    elif key in BILLED:
        setattr(found, key, value or None)
    else:
        raise ValueError(f"{name} has no {key!r}")


def _snapshot(account: Account, name: str, key: str, value: Any) -> None:
    found = account.backends.ec2.snapshots.get(name)
    if found is None:
        raise ValueError(f"there is no {name}")
    if key == "owner":
        found.owner_id = str(value)
    elif key == "encrypted":
        found.encrypted = found.sim.encrypted = bool(value)
    elif key == "product_codes":
        found.product_codes = _codes(value)
    else:
        raise ValueError(f"{name} has no {key!r}")
