"""Whether a server's plan, as a task got it by XCom, is what its run froze. Nothing here asks anybody.

Whoever may edit the XComs of a wave must not be able to send another server, or the same one elsewhere. Pre-flight may
set only what it looks up: which VM an entry means, the ARN of the key that the environment names, and how the staging
bucket encrypts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from wavelift.base.domain import Message, ServerFacts
from wavelift.base.errors import AmbiguousError, TamperedError
from wavelift.rules.environment import Environment, is_key_arn
from wavelift.rules.inventory_names import parent_of, select
from wavelift.rules.plans import ResolvedWave, ServerPlan, Target
from wavelift.rules.problem import dotted
from wavelift.rules.wave import Landing, Selector, Source, source_problems

LOOKED_UP: Final = frozenset(
    {"server", "selector.kind", "selector.value", "target.kms_key", "target.staging_sse", "target.staging_key"}
)
"""Fields of a plan that pre-flight sets. All others are as they were frozen."""
NO_RIGHTS: Final = frozenset({"imports_per_region", "migrations_per_account", "boot_disk_changed_pct", "queue"})
"""Fields of a target that say how much, or by which worker, not where: a change of them takes no right away."""


@dataclass(frozen=True, slots=True)
class FrozenPlan:
    """The plan of one VM, with nothing in it that came by XCom but which VM it is.

    The key is as the environment names it, which AWS takes as well as its ARN. Objects are not stored with it: that is
    the connector's work, for which pre-flight looks up the bucket's encryption.

    :param digest: of the entry of the frozen wave that it came from: SHA-256, hex.
    :param tags: of entries that alone select the VM; empty: its path is selected.
    """

    plan: ServerPlan
    digest: str
    tags: tuple[str, ...] = ()


def check_plan(plan: ServerPlan, facts: ServerFacts, frozen: Sequence[ServerPlan]) -> FrozenPlan:
    """The plan that the run froze for this VM.

    :param plan: as it came by XCom, with the ``facts`` of its VM. :param frozen: the entries of the frozen wave.
    :raises TamperedError: the plan is not that of an entry which selects this VM.
    """
    server, path = plan.server, plan.selector.value
    if plan.selector.kind != "path":
        _refuse(server, "selector.kind", "path", plan.selector.kind)
    if facts.path != path:
        _refuse(server, "facts.path", path, facts.path)
    if server not in (names := _names(path)):
        _refuse(server, "server", names[0], server)
    entries = entries_of(path, frozen)
    if not entries:
        _refuse(server, "selector.value", "a VM that an entry of the wave selects", path)
    wrong = [_difference(plan, entry) for entry in entries]
    if all(wrong):
        field, expected, found = next(each for each in wrong if each)
        _refuse(server, field, expected, found)
    entry = entries[wrong.index(None)]
    fitting = [each.selector for each, other in zip(entries, wrong, strict=True) if other is None]
    tags = tuple(each.value for each in fitting) if all(each.kind == "tag" for each in fitting) else ()
    return FrozenPlan(entry.bind(server, path), digest_of(entry), tags)


def lost_rights(frozen: ResolvedWave, now: Environment) -> list[str]:
    """What a frozen wave uses and the environment does not allow any more, in words.

    :param now: the environment in which the wave lands by its present files.
    """
    source = Source(connection=frozen.connection, connector=frozen.connector)
    found = [problem.message for problem in source_problems(source, now)]
    given = Target.of(now).dump()
    found += [
        f"{field}: the run uses '{value}', the environment has '{given[field]}' now"
        for field, value in Target.of(frozen.environment).dump().items()
        if field not in NO_RIGHTS and value != given[field] and (field, value) != ("account", "")
    ]
    allowed = Landing(now).allowed
    used = {
        (field, value)
        for plan in frozen.servers
        for field, values in (
            ("instance_type", (plan.instance_type,)),
            ("subnet", (plan.subnet,)),
            ("security_groups", plan.security_groups),
        )
        for value in values
        if value is not None and value not in allowed[field]
    }
    return found + [
        f"{field}: environment '{now.environment}' does not allow '{value}'" for field, value in sorted(used)
    ]


def digest_of(plan: Message) -> str:
    """SHA-256 of the canonical JSON of a plan, or of all that a run froze, hex. Defaults are left out: a field that a
    later version of wavelift adds must not change the digest of a run that an earlier one froze."""
    frozen = plan.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(frozen, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def same_key(written: str, found: str, region: str) -> bool:
    """Whether the KMS key ``found`` can be the one that an environment names.

    Which key an alias stands for only AWS knows: it must be a key of the region.

    :param written: an ARN, a key id or an alias. :param found: the same text, or the ARN of a key.
    """
    if found == written:
        return True
    if not is_key_arn(found) or is_key_arn(written):
        return False
    place, _, key = found.partition(":key/")
    if "alias/" not in written:
        return key == written and place.split(":")[3] == region
    owner, _, _ = written.partition(":alias/")
    return place == owner if written.startswith("arn:") else place.split(":")[3] == region


def _names(path: str) -> tuple[str, str]:
    """How a VM may be called: by its name, or with its folder if another VM has the same name."""
    name = Selector(kind="path", value=path).leaf
    return name.replace("/", ":"), f"{name}@{parent_of(path)}".replace("/", ":")


def entries_of(path: str, frozen: Sequence[ServerPlan]) -> list[ServerPlan]:
    """The entries that may select the VM: those by name or path, else folders and tags.

    Which VMs have a tag only vCenter knows. From ``reserve`` on, the ledger knows which VM it was.
    """
    found = [entry for entry in frozen if entry.selector.kind == "tag" or _selects(entry.selector, path)]
    return [entry for entry in found if not entry.selector.many] or found


def _selects(selector: Selector, path: str) -> bool:
    try:
        return bool(select(selector, [path], str))
    except AmbiguousError:
        return True


def _difference(plan: ServerPlan, entry: ServerPlan) -> tuple[str, object, object] | None:
    """The first field in which a plan is not its entry's: its name, what is expected, and what was found."""
    found, expected = dict(_flat(plan.dump())), dict(_flat(entry.dump()))
    for field in sorted(found.keys() | expected.keys()):
        pair = expected.get(field), found.get(field)
        if field not in LOOKED_UP and (pair[0] != pair[1] or type(pair[0]) is not type(pair[1])):
            return field, *pair
    return _other_key(plan, entry)


def _other_key(plan: ServerPlan, entry: ServerPlan) -> tuple[str, object, object] | None:
    written, key, staging = entry.target.kms_key, plan.target.kms_key, plan.target.staging_key
    if written is None:  # the bucket's own key, or none, encrypts objects
        return ("target.kms_key", None, key) if key is not None else None
    if key is None or not same_key(written, key, entry.target.region):
        return "target.kms_key", written, key
    return ("target.staging_key", key, staging) if staging not in ("", key) else None


def _flat(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value by their dotted paths. An empty list or object is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(each, (*path, key))
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from _flat(each, (*path, index))
    else:
        yield dotted(path), value


def _refuse(server: str, field: str, expected: object, found: object) -> NoReturn:
    raise TamperedError(
        "What came by XCom is not what this run froze", field=field, expected=expected, found=found, server=server
    )
