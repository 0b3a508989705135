"""The mobility calls: validate, start, forceCancel, groups and the query."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.simulators.hcx.answers import Answers
from wavelift.simulators.hcx.errors import Findings, HcxError, answer
from wavelift.simulators.hcx.forms import ANY, COMMON, FLAG, NUMBER, TEXT, check_form, check_intent, malformed
from wavelift.simulators.hcx.intents import Ends, Plan, plan
from wavelift.simulators.hcx.invented import GROUP_DRAFT, GROUP_STARTED, SAME_NAME, Phase
from wavelift.simulators.hcx.migrations import Migration, Migrations
from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.kit.faults import Faults
from wavelift.simulators.kit.message import Response

ITEMS: Final = {"items": ANY}
CANCEL: Final = {"items": [{"migrationId": TEXT, "migrationGroupId": TEXT}], "removeLongRecoveryData": FLAG}
GROUP: Final = {"name": TEXT, "tags": ANY, "groupDefaults": COMMON, "migrations": ANY}
GROUP_FILTER: Final = {"filters": {"groups": [{"name": TEXT, "migrationGroupId": TEXT}]}}
GROUP_IDS: Final = {"items": [{"migrationGroupId": TEXT}]}
QUERY: Final = {
    "filter": {
        "creationDateInterval": ANY,
        **{
            name: [TEXT]
            for name in (
                *("migrationGroupId", "state", "id", "migrationId", "entityId", "migrationType", "transferType"),
                *("source_endpointId", "destination_endpointId", "destination_resourceId"),
            )
        },
    },
    "options": {"compat": ANY, "resultLevel": TEXT},
    "paging": {"pageSize": NUMBER, "skipCount": NUMBER},
}


@dataclass(slots=True)
class Group:
    id: str
    name: str
    intents: Sequence[Mapping[str, Any]]
    changed: float
    started: bool = False
    drafts: list[str] = field(default_factory=list)
    """Ids of its migrations to be, in the order of the intents."""


class Mobility:
    """Not safe for threads: its caller holds a lock."""

    def __init__(
        self,
        migrations: Migrations,
        *,
        settings: Settings,
        faults: Faults[Any],
        look: Callable[[], Ends],
    ) -> None:
        self._migrations, self._settings, self._faults, self._look = migrations, settings, faults, look
        self._answers = Answers(migrations, settings)
        self.groups: dict[str, Group] = {}

    # migrations

    def validate(self, body: Any) -> Response:
        intents = _intents(body)
        items = [self._judged(intent, self._check(intent, ends)[1]) for ends in [self._look()] for intent in intents]
        if any(item["errors"] for item in items):
            raise HcxError(400, "shape", "Validation failed", items=items)
        if any(item["warnings"] for item in items):
            return answer({"items": items, "errors": [], "warnings": []}, self._settings.warnings_status)
        return answer({"items": items, "errors": [], "warnings": []}, 202)

    def start(self, body: Any) -> Response:
        """All or none."""
        ends, group = self._look(), str(uuid.uuid4())
        checked = [(intent, *self._check(intent, ends)) for intent in _intents(body)]
        if any(planned is None for _, planned, _ in checked):
            items = [self._judged(intent, findings) for intent, _, findings in checked]
            raise HcxError(400, "shape", "Validation failed", items=items)
        items = []
        for intent, planned, findings in checked:
            assert planned is not None
            made = self._migrations.start(planned, group)
            items.append(
                {"migrationId": made.id, "migrationGroupId": group, **self._judged(intent, findings)},
            )
        return answer({"items": items, "errors": [], "warnings": []}, 202)

    def cancel(self, body: Any) -> Response:
        check_form(body, CANCEL, "request")
        given, items = _items(body), []
        chosen: list[Migration] = []
        for each in given:
            findings = Findings()
            migration = self._migrations.all.get(each.get("migrationId", ""))
            if migration is None or each.get("migrationGroupId", migration.group) != migration.group:
                findings.error("entity", f"Migration {each.get('migrationId')} does not exist")
            elif not migration.active:
                findings.error("ended", f"Migration {migration.id} has ended")
            elif migration.phase is Phase.SWITCHOVER:
                findings.error("ended", f"Migration {migration.id} can not be cancelled any more")
            else:
                chosen.append(migration)
            items.append({**each, **findings.said(other_words=self._settings.other_words)})
        for migration in chosen:
            self._migrations.cancel(migration)
        if len(chosen) < len(given):
            raise HcxError(400, "ended", "Not cancelled", items=items)
        return answer({"items": items, "errors": [], "warnings": []}, 202)

    def query(self, body: Any, now: float) -> Response:
        check_form(body, QUERY, "request")
        if str(body.get("options", {}).get("compat", "")) != "2.1":
            raise malformed("Only options.compat 2.1 is served here")
        wanted = body.get("filter") or {}
        found = [each for each in self._migrations.all.values() if self._matches(each, wanted)]
        items = self._answers.query(found, now)
        if self._settings.drafts_listed:
            items += [draft for group in self.groups.values() for draft in self._drafts(group, wanted)]
        paging = body.get("paging") or {}
        skip = int(paging.get("skipCount", 0))
        size = int(paging.get("pageSize", 0)) or len(items)
        return answer({"data": {"items": items[skip : skip + size]}})

    def _matches(self, migration: Migration, wanted: Mapping[str, Any]) -> bool:
        values = {
            "migrationGroupId": migration.group,
            "state": self._answers.state(migration),
            "id": migration.id,
            "migrationId": migration.id,
            "entityId": migration.plan.vm.id,
            "migrationType": migration.kind,
            "transferType": migration.plan.intent["transferParams"]["transferType"],
            "source_endpointId": migration.plan.intent["source"].get("endpointId"),
            "destination_endpointId": migration.plan.intent["destination"].get("endpointId"),
            "destination_resourceId": migration.plan.intent["destination"].get("resourceId"),
        }
        return all(values[name] in allowed for name, allowed in wanted.items() if name in values)

    def _drafts(self, group: Group, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        if (
            group.started
            or set(wanted) - {"migrationGroupId"}
            or group.id not in wanted.get("migrationGroupId", [group.id])
        ):
            return []
        word = GROUP_DRAFT.said(other_words=self._settings.other_words)
        return [
            {
                "id": ident,
                "version": 2,
                "migrationGroupId": group.id,
                "migrationType": intent["migrationType"],
                "entityId": intent["entity"]["entityId"],
                "state": word,
                "entity": intent["entity"],
                "progress": {"draftState": word},
            }
            for ident, intent in zip(group.drafts, group.intents, strict=True)
        ]

    # groups

    def make_groups(self, body: Any, now: float) -> Response:
        check_form(body, ITEMS, "request")
        items, refused = [], False
        for each in _items(body):
            check_form(each, GROUP, "items[]")
            name, defaults = each.get("name", ""), each.get("groupDefaults") or {}
            if not name:
                raise malformed("A group needs a name")
            if any(group.name == name for group in self.groups.values()):
                refused = True
                items.append({"name": name, "errors": [{"message": SAME_NAME}], "warnings": []})
                continue
            intents = [{**defaults, **intent} for intent in each.get("migrations") or ()]
            for number, intent in enumerate(intents):
                check_intent(intent, f"migrations[{number}]")
            made = Group(str(uuid.uuid4()), name, intents, now, drafts=[str(uuid.uuid4()) for _ in intents])
            self.groups[made.id] = made
            items.append({**self._told(made), "errors": [], "warnings": []})
        status = self._settings.duplicate_status if refused else self._settings.created_status
        return answer({"items": items}, status)

    def query_groups(self, body: Any) -> Response:
        return answer({"items": [self._told(each) for each in self._chosen(body)]})

    def group_intents(self, body: Any) -> Response:
        return answer({"items": [{**self._told(each), "migrations": each.intents} for each in self._chosen(body)]})

    def list_groups(self, body: Any) -> Response:
        check_form(body, {"filter": {"skipDrafts": FLAG}, "options": {"compat": ANY}}, "request")
        skip = bool((body.get("filter") or {}).get("skipDrafts"))
        return answer(
            {"data": {"items": [self._told(each) for each in self.groups.values() if each.started or not skip]}}
        )

    def start_groups(self, body: Any, now: float) -> Response:
        check_form(body, GROUP_IDS, "request")
        ends, items = self._look(), []
        for group in self._named(body):
            if group.started:
                raise HcxError(400, "group", f"Mobility group {group.name} was started before")
            if not group.intents:
                raise HcxError(400, "group", f"Mobility group {group.name} is empty")
            checked = [(intent, *self._check(intent, ends)) for intent in group.intents]
            if all(planned is None for _, planned, _ in checked):
                members = [self._judged(intent, findings) for intent, _, findings in checked]
                raise HcxError(400, "group", "Validation failed", items=[{**self._told(group), "migrations": members}])
            group.started, group.changed = True, now
            members = []
            for ident, (intent, planned, findings) in zip(group.drafts, checked, strict=True):
                begun = {} if planned is None else {"migrationId": self._migrations.start(planned, group.id, ident).id}
                members.append({**begun, **self._judged(intent, findings)})
            items.append({**self._told(group), "migrations": members})
        return answer({"items": items, "errors": [], "warnings": []}, 202)

    def delete_groups(self, body: Any) -> Response:
        check_form(body, GROUP_IDS, "request")
        chosen = self._named(body)
        for group in chosen:
            if any(each.group == group.id for each in self._migrations.active()):
                raise HcxError(400, "group", f"Mobility group {group.name} has migrations in progress")
        for group in chosen:
            del self.groups[group.id]
        return answer({"items": [{"migrationGroupId": each.id} for each in chosen]}, 202)

    def _named(self, body: Any) -> list[Group]:
        found = []
        for each in _items(body):
            if (group := self.groups.get(each.get("migrationGroupId", ""))) is None:
                raise HcxError(400, "group", f"Mobility group {each.get('migrationGroupId')} does not exist")
            found.append(group)
        return found

    def _chosen(self, body: Any) -> list[Group]:
        check_form(body, GROUP_FILTER, "request")
        wanted = (body.get("filters") or {}).get("groups")
        if wanted is None:
            return list(self.groups.values())
        return [
            group
            for group in self.groups.values()
            if any(
                each.get("name", group.name) == group.name and each.get("migrationGroupId", group.id) == group.id
                for each in wanted
            )
        ]

    def _told(self, group: Group) -> dict[str, Any]:
        word = GROUP_STARTED if group.started else GROUP_DRAFT
        return {
            "migrationGroupId": group.id,
            "name": group.name,
            "state": word.said(other_words=self._settings.other_words),
            "lastUpdated": int(1000 * group.changed),
        }

    # one VM

    def _check(self, intent: Mapping[str, Any], ends: Ends) -> tuple[Plan | None, Findings]:
        findings = Findings()
        planned = plan(intent, ends, findings)
        entity = intent["entity"]["entityId"]
        if self._migrations.moving(entity):
            findings.error("running", f"A migration of {entity} is in progress")
        name = next((vm.name for vm in ends.source.inventory.vms if vm.id == entity), "")
        for kind, add in (("error", findings.error), ("warning", findings.warn)):
            for rule in self._faults.take(kind, service="hcx", operation="validate", key=name):
                add("ordered", rule.message or f"{name}: ordered by a rule")
        return (None if findings.errors else planned), findings

    def _judged(self, intent: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
        return {"entityId": intent["entity"]["entityId"], **findings.said(other_words=self._settings.other_words)}


def _items(body: Any) -> Sequence[Any]:
    items = body.get("items")
    if not isinstance(items, list) or not items:
        raise malformed("items must be a list of one or more")
    return items


def _intents(body: Any) -> Sequence[Mapping[str, Any]]:
    check_form(body, ITEMS, "request")
    items = _items(body)
    for number, each in enumerate(items):
        check_intent(each, f"items[{number}]")
    return items
