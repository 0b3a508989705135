"""The form of requests: an unknown field, or a value of the wrong type, is an error of the whole request."""

from __future__ import annotations

from typing import Any, Final

from wavelift.simulators.hcx.errors import HcxError

TEXT: Final = str
FLAG: Final = bool
NUMBER: Final = (int, float)
ANY: Final = object
SCHEDULE: Final = {"startTime": NUMBER, "expiryTime": NUMBER, "clearSchedule": FLAG}
OPTION: Final = {"option": TEXT, "value": ANY, "type": TEXT, "name": TEXT}
ENDPOINT: Final = dict.fromkeys(
    [f"{of}{what}" for of in ("endpoint", "resource", "computeResource") for what in ("Id", "Name", "Type")], TEXT
)
SUMMARY: Final = {
    **dict.fromkeys(("guestFullName", "guestId", "guestHostName"), TEXT),
    **dict.fromkeys(("memorySizeMB", "numCpu", "diskSize", "memorySize"), NUMBER),
}
MAPPING: Final = {
    "macAddress": TEXT,
    **dict.fromkeys([f"{of}Network{what}" for of in ("src", "dest") for what in ("Id", "Name", "Type")], TEXT),
}
NETWORK_PARAMS: Final = {"networkMappings": [MAPPING], "defaultMappings": [MAPPING]}
SWITCHES: Final = (
    *("removeISOs", "retainMac", "forcePowerOffVm", "upgradeHardware", "upgradeVMTools", "removeCbrc", "removeCbt"),
    *("removeSnapshots", "isEvcDisabled", "retainTags", "replicateSecurityTags", "updateCustomAttributes"),
)
OPTIONS: Final = {
    "vcpus": NUMBER,
    "memory": NUMBER,
    "upgradeHardwareVersion": ANY,
    **dict.fromkeys(SWITCHES, FLAG),
}
TRANSFER_PARAMS: Final = {
    "transferType": TEXT,
    "schedule": SCHEDULE,
    "continuousSync": FLAG,
    "syncInterval": NUMBER,
    "longRecovery": FLAG,
    "transferProfile": [OPTION],
}
SWITCHOVER_PARAMS: Final = {
    "switchoverType": TEXT,
    "schedule": SCHEDULE,
    "options": OPTIONS,
    "switchoverProfile": [OPTION],
}
STORAGE: Final = {
    "defaultStorage": {
        "id": TEXT,
        "name": TEXT,
        "type": TEXT,
        "diskProvisionType": TEXT,
        "storageParams": [OPTION],
    }
}
COMMON: Final = {
    "migrationType": TEXT,
    "source": ENDPOINT,
    "destination": ENDPOINT,
    "transferParams": TRANSFER_PARAMS,
    "switchoverParams": SWITCHOVER_PARAMS,
    "placement": [{"id": TEXT, "name": TEXT, "type": TEXT}],
    "storage": STORAGE,
    "networkParams": NETWORK_PARAMS,
    "servicemeshId": TEXT,
}
INTENT: Final = {
    **COMMON,
    "entity": {"entityId": TEXT, "entityName": TEXT, "entityType": TEXT, "summary": SUMMARY},
    "guestCustomization": ANY,
}
REQUIRED: Final = ("migrationType", "entity", "source", "destination", "transferParams", "switchoverParams")


def check_form(value: Any, form: Any, where: str) -> None:
    """Raises HcxError for an unknown field or a value of the wrong type. A form is a type, a map, or a list of one."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise malformed(f"{where} must be an object")
        if unknown := sorted(set(value) - set(form)):
            raise malformed(f"Unrecognized field {unknown[0]!r} in {where}")
        for name, each in value.items():
            check_form(each, form[name], f"{where}.{name}")
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise malformed(f"{where} must be a list")
        for number, each in enumerate(value):
            check_form(each, form[0], f"{where}[{number}]")
    elif form is not object and (not isinstance(value, form) or (isinstance(value, bool) and form is not bool)):
        raise malformed(f"{where} has a value of the wrong type")


def malformed(message: str) -> HcxError:
    return HcxError(400, "shape", message)


def check_intent(value: Any, where: str) -> None:
    """The form of one intent. Raises HcxError."""
    check_form(value, INTENT, where)
    if missing := [name for name in REQUIRED if name not in value]:
        raise malformed(f"{where} lacks {missing[0]}")
    if not value["entity"].get("entityId"):
        raise malformed(f"{where}.entity lacks entityId")
