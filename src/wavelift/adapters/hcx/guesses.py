"""Every word and number of HCX's API that the client sends or decides by, with how sure we are of it.

``certain``: a public source says so. ``likely``: one weak source, or read out of several. ``guess``: no source says it.
The keys are those of the fact sheet ``network-cutover.md``, section 11. A word that turns out wrong is corrected here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, is_dataclass
from typing import Any, Final, Generic, Literal, TypeVar

T = TypeVar("T")

Mark = Literal["certain", "likely", "guess"]
MigrationType = Literal["rav", "bulk", "vmotion", "cold"]


@dataclass(frozen=True, slots=True)
class Word(Generic[T]):
    """One value with its mark.

    :param source: key of the fact sheet; empty for a guess.
    """

    value: T
    mark: Mark
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class TypeWords:
    """A type of migration in HCX's three enumerations."""

    migration: str
    transfer: str
    switchover: str


TYPES: Final[Mapping[MigrationType, Word[TypeWords]]] = {
    "rav": Word(TypeWords("RAV", "vSphereReplication", "RAV"), "likely", "S8, S2", "each word certain, the set not"),
    "bulk": Word(TypeWords("vSphereReplication", "vSphereReplication", "vSphereReplication"), "certain", "S7"),
    "vmotion": Word(TypeWords("vMotion", "NO_OP", "vMotion"), "guess", "S2", "NO_OP is certain only for 9.1 (S9)"),
    "cold": Word(TypeWords("ColdMigration", "NO_OP", "ColdMigration"), "guess", "S2, S15", "NO_OP is the guess"),
}

# --- paths ----------------------------------------------------------------------------------------------------------

SESSIONS: Final = Word("/hybridity/api/sessions", "certain", "S1, S4, S5")
TOKEN_HEADER: Final = Word("x-hm-authorization", "certain", "S1, S4, S5")
CONFIGS: Final = Word("/hybridity/api/cloudConfigs", "certain", "S4")
CONTAINERS_OF_RESOURCES: Final = Word(
    "/hybridity/api/service/inventory/resourcecontainer/list", "certain", "S4, S6, S16"
)
VIRTUAL_MACHINES: Final = Word("/hybridity/api/service/inventory/virtualmachines", "certain", "S4, S6, S16")
NETWORKS: Final = Word("/hybridity/api/service/inventory/networks", "certain", "S4, S6")
CONTAINERS: Final = Word("/hybridity/api/service/inventory/containers", "certain", "S6, S16")
DATASTORES: Final = Word("/hybridity/api/service/inventory/datastores", "certain", "S6, S16")
APPLIANCES: Final = Word("/hybridity/api/interconnect/appliances/query", "certain", "S4")
VALIDATE: Final = Word("/hybridity/api/mobility/migrations/validate", "certain", "S2, S7")
FORCE_CANCEL: Final = Word("/hybridity/api/mobility/migrations/forceCancel", "certain", "S2")
GROUPS: Final = Word("/hybridity/api/mobility/groups", "certain", "S2, S8")
GROUPS_QUERY: Final = Word("/hybridity/api/mobility/groups/query", "certain", "S2, S8")
GROUPS_START: Final = Word("/hybridity/api/mobility/groups/start", "certain", "S2, S8")
QUERY: Final = Word("/hybridity/api/migrations", "certain", "S2, S6, S7")
JOBS: Final = Word("/hybridity/api/jobs", "certain", "S1, S4")
L2_EXTENSIONS: Final = Word("/hybridity/api/l2Extensions", "certain", "S1, S4")
NETWORK_EXTENSIONS: Final = Word("/hybridity/api/networkExtensions", "certain", "S2")

# --- what a call sends ----------------------------------------------------------------------------------------------

COMPAT: Final = Word(2.1, "certain", "S2, S6, S7", "of the query; without it the answer has the older shape")
QUERY_ACTION: Final = Word({"action": "query"}, "certain", "S2, S6, S7")
RESULT_LEVEL: Final = Word("MOBILITYGROUP_ITEMS", "certain", "S6, S7")
PAGE_SIZE: Final = Word(200, "guess", "", "rows of a page of the inventory; no limit is known")
QUERY_PAGE_FIELD: Final = Word("pageSize", "likely", "S5", "certain for the older form of the same call")
REMOVE_SNAPSHOTS: Final = Word(
    "removeSnapshot", "likely", "S7", "the transfer profile's option; another client says removeSnapshots (S6)"
)
REMOVE_ISOS: Final = Word("removeIso", "likely", "S7", "the transfer profile's option; another says removeISOs (S6)")
SYNC_INTERVAL: Final = Word(120, "likely", "S2", "minutes between two delta syncs (bulk, RAV); the unit is read out")
NETWORK_EXTENSION_APPLIANCE: Final = Word("HCX-NET-EXT", "certain", "S4")
MESH_IN_NAME: Final = Word("{mesh}-", "guess", "S4", "an appliance's name begins with its mesh's: SM-NE-I1 of SM")
CONNECT_TO_GATEWAY: Final = Word(
    "connectToLocalRouter", "certain", "S1, S2, S3", "'Connect cloud network to cloud edge gateway after unextending'"
)
EXTENSION_CREATION: Final = Word(
    "networkExtensions like l2Extensions", "guess", "S2", "the newer POST exists; that it takes the older one's body"
)
EXTENSION_LIST: Final = Word(
    "GET networkExtensions", "guess", "", "asked only where GET l2Extensions (certain, S1) is gone: 404 or 405"
)
UNEXTENDED_WITHOUT_JOB: Final = Word(
    "the id is gone from the list", "guess", "", "the newer DELETE (certain, S2) names no job"
)
STARTED_BEFORE: Final = Word(
    "the group has a migration with a start time, a flag or a known name",
    "guess",
    "",
    "what a second start of a group does is not documented: it is never sent while a migration shows such a sign",
)
MON: Final = Word("mobilityOptimizedNetworking", "certain", "S1, S2")

# --- what an answer says --------------------------------------------------------------------------------------------

COMPLETE_NAMES: Final = Word(frozenset({"MIGRATION_COMPLETE", "MIGRATED"}), "certain", "S6, S7; S3, S5, S16")
FAILED_NAMES: Final = Word(
    frozenset({"MIGRATION_FAILED", "TRANSFER_FAILED", "MIGRATE_FAILED"}), "certain", "S7; S3, S5, S16"
)
CANCELLED_NAMES: Final = Word(
    frozenset({"MIGRATION_CANCELLED", "MIGRATE_CANCELED"}), "certain", "S7; S3, S5", "one L in the older form"
)
RUNNING_NAMES: Final = Word(frozenset({"MIGRATING"}), "certain", "S3", "every other name is taken as running")
FAILED_ENDING: Final = Word("_FAILED", "guess", "", "TRANSFER_FAILED suggests siblings such as SWITCHOVER_FAILED")
SAME_NAME: Final = Word("same name exist", "certain", "S8", "a part of the message: the group was made before")
STARTING_UP: Final = Word(
    "'Trusted root certificates' value should not be empty", "certain", "S4", "the login's answer while HCX starts"
)


def rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Name, values, mark, source and note of each word: the table of ``docs/hcx.md``."""
    named: dict[str, Word[Any]] = {f"TYPES {kind}": word for kind, word in TYPES.items()}
    named |= {name: word for name, word in globals().items() if isinstance(word, Word)}
    for name, word in named.items():
        yield name, ", ".join(f"`{each}`" for each in _values(word.value)), word.mark, word.source, word.note


def _values(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={each}" for name, each in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        return [str(each) for each in astuple(value)]
    return sorted(value) if isinstance(value, frozenset) else [str(value)]
