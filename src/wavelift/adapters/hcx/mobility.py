"""Migrations: validate, groups, start, query, cancel (HCX-01 to HCX-04).

HCX has no client token. A group has a unique name, so the name is ours: a group whose answer was lost is found again by
it, and a start whose answer was lost is found by the group's migrations. Nothing is started twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.intents import MigrationOrder, intent
from wavelift.adapters.hcx.loose import messages, text
from wavelift.adapters.hcx.phases import Phase, Progress, read_progress
from wavelift.adapters.hcx.transport import (
    BAD_REQUEST,
    RefusedRequestError,
    error_messages,
    items_of,
)
from wavelift.base.errors import RemoteJobError
from wavelift.base.rest import Answer, Ask, LostAnswerError, RestClient, UnreadableError

ROWS_MOST: Final = 1000
"""Of one query: more than a manager moves at a time (300), and its history of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What HCX says of one VM."""

    entity_id: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a validation says (HCX-02).

    :param items: each VM that HCX says something of. :param errors: of the request as a whole.
    :param refused: HCX answered 400.
    """

    items: tuple[Findings, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: bool = False

    @property
    def has_errors(self) -> bool:
        """Nothing may start: an error, or a refusal that nobody can read."""
        if self.errors or any(item.errors for item in self.items):
            return True
        return self.refused and not self.has_warnings

    @property
    def has_warnings(self) -> bool:
        return bool(self.warnings) or any(item.warnings for item in self.items)

    def passes(self, *, accept_warnings: bool) -> bool:
        """Whether the migrations may start."""
        return not self.has_errors and (accept_warnings or not self.has_warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """One VM of a started group. Without an id it was not started; ``errors`` say why."""

    migration_id: str
    entity_id: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Mobility:
    """The migrations of one manager."""

    def __init__(self, client: RestClient) -> None:
        self._client = client

    def validate(self, orders: Sequence[MigrationOrder]) -> Verdict:
        """Nothing is changed. A 400 is a verdict, too, whether it has errors, warnings, or nothing that can be read."""
        body = {"items": [intent(order) for order in orders]}
        answer = self._client.send(
            Ask("POST", guesses.VALIDATE.value, body=body, accept=frozenset({BAD_REQUEST}), again=True)
        )
        fields = answer.error_fields
        if answer.ok:
            answer.object()  # a 202 of another program is no verdict
        items = _findings(fields.get("items"), [order.vm.id for order in orders])
        errors, warnings = messages(fields.get("errors")), messages(fields.get("warnings"))
        said = errors or warnings or any(item.errors or item.warnings for item in items)
        if not answer.ok and not said:
            errors = (f"HCX answers {answer.status} and names no error: {text(answer.words()) or 'an empty answer'}",)
        return Verdict(items=items, errors=errors, warnings=warnings, refused=not answer.ok)

    def make_group(self, name: str, orders: Sequence[MigrationOrder]) -> str:
        """Make a group that is not started yet. One of this name is taken as made by an earlier try.

        :param name: unique for the run and its VMs.
        :returns: the group's id.
        :raises RefusedRequestError: HCX refuses it, for another reason than its name.
        """
        body = {"items": [{"name": name, "tags": [], "migrations": [intent(order) for order in orders]}]}
        answer = self._client.send(
            # The name makes it safe to send it twice.
            Ask("POST", guesses.GROUPS.value, body=body, accept=frozenset({BAD_REQUEST, 409}), again=True),
            group=name,
        )
        errors = error_messages(answer) if not answer.ok else _errors_of(answer)
        if any(guesses.SAME_NAME.value in each.casefold() for each in errors):
            return self._found(name)
        if errors:
            raise RefusedRequestError(
                f"HCX refuses the group of migrations: {'; '.join(errors)}",
                next_step="Correct what HCX names",
                group=name,
            )
        made = next((text(item.get("migrationGroupId")) for item in items_of(answer)), "")
        return made or self._found(name)

    def find_group(self, name: str) -> str | None:
        """Its id; None if there is no group of this name."""
        body = {"filters": {"groups": [{"name": name}]}}
        answer = self._client.send(Ask("POST", guesses.GROUPS_QUERY.value, body=body, again=True), group=name)
        found = {text(item.get("name")): text(item.get("migrationGroupId")) for item in items_of(answer)}
        # A manager that ignored the filter would list others, too. One that leaves the name out lists only this one.
        return found.get(name) or (found.get("") if len(found) == 1 else None) or None

    def start_group(self, group_id: str) -> tuple[Started, ...]:
        """Start its migrations, unless that has been done. One of a group that failed stops no other.

        A VM that the result does not name, or names without a migration's id, was not started.

        :raises RefusedRequestError: HCX refuses it, and none of its migrations runs.
        :raises LostAnswerError: nobody knows yet whether it began. A later call finds out.
        """
        if begun := self._begun(group_id):
            return begun
        body = {"items": [{"migrationGroupId": group_id}]}
        try:
            answer = self._client.send(
                Ask("POST", guesses.GROUPS_START.value, body=body, accept=frozenset({BAD_REQUEST})), group=group_id
            )
        except LostAnswerError:
            if begun := self._begun(group_id):
                return begun
            raise
        started = _started(answer)
        if answer.ok or any(one.migration_id for one in started):
            return self._with_entities(group_id, started)
        if begun := self._begun(group_id):  # a start whose answer was lost before made HCX refuse this one
            return begun
        if started:
            return started
        raise RefusedRequestError(
            f"HCX does not start the group: {'; '.join(error_messages(answer)) or 'it does not say why'}",
            next_step="Correct what HCX names, then run it again",
            group=group_id,
        )

    def query(self, migration_ids: Iterable[str]) -> dict[str, Progress]:
        """One call for all of them. An id that HCX does not list is absent: that is no outcome."""
        return query_many(self._client, migration_ids)

    def query_group(self, group_id: str) -> tuple[Progress, ...]:
        """The migrations of a group."""
        rows = _query(self._client, {"migrationGroupId": [group_id]}, group=group_id)
        return tuple(row for row in rows if row.group_id in ("", group_id))

    def query_entities(self, entity_ids: Iterable[str]) -> tuple[Progress, ...]:
        """Every migration of these VMs that HCX remembers."""
        wanted = sorted(set(entity_ids))
        return tuple(row for row in _query(self._client, {"entityId": wanted}) if row.entity_id in ("", *wanted))

    def force_cancel(self, migrations: Iterable[Progress | Started], group_id: str) -> dict[str, tuple[str, ...]]:
        """Cancel what has not begun to switch. Copied disks that the seed checkpoint keeps are kept.

        HCX ends them a while later: query them.

        :returns: migration id → why HCX refuses it. Empty: all were accepted.
        """
        ids = [one.migration_id for one in migrations]
        body = {
            "items": [{"migrationId": id, "migrationGroupId": group_id} for id in ids],
            "removeLongRecoveryData": False,
        }
        answer = self._client.send(
            Ask("POST", guesses.FORCE_CANCEL.value, body=body, accept=frozenset({BAD_REQUEST}), again=True),
            group=group_id,
        )
        told = answer.error_fields
        items = [item for item in told.get("items") or () if isinstance(item, Mapping)]
        found = {text(item.get("migrationId")): messages(item.get("errors")) for item in items}
        refused = {id: said for id, said in found.items() if id in ids and said}
        general = messages(told.get("errors"))
        if not answer.ok and not refused:
            general = error_messages(answer) or ("it does not say why",)
        return {id: refused.get(id) or general for id in ids if refused.get(id) or general}

    # --- what is there --------------------------------------------------------------------------------------------

    def _found(self, name: str) -> str:
        found = self.find_group(name)
        if found is None:
            raise RemoteJobError(
                "HCX says that the group exists, and does not list it",
                next_step="Look for the group in HCX, and delete it there if it was not started",
                group=name,
            )
        return found

    def _begun(self, group_id: str) -> tuple[Started, ...]:
        """The group's migrations, if HCX shows that one has begun. A draft may be listed, too."""
        rows = self.query_group(group_id)
        if not any(row.begun for row in rows):
            return ()
        return tuple(
            Started(
                migration_id=row.migration_id,
                entity_id=row.entity_id,
                errors=row.errors if row.phase is Phase.FAILED else (),
            )
            for row in rows
        )

    def _with_entities(self, group_id: str, started: tuple[Started, ...]) -> tuple[Started, ...]:
        """The answer to a start names migrations, and not always their VMs: the query does."""
        if all(one.entity_id for one in started) and started:
            return started
        rows = {row.migration_id: row for row in self.query_group(group_id)}
        if not started:
            return tuple(Started(migration_id=row.migration_id, entity_id=row.entity_id) for row in rows.values())
        return tuple(
            one
            if one.entity_id or one.migration_id not in rows
            else Started(
                migration_id=one.migration_id,
                entity_id=rows[one.migration_id].entity_id,
                errors=one.errors,
                warnings=one.warnings,
            )
            for one in started
        )


def query_many(client: RestClient, migration_ids: Iterable[str]) -> dict[str, Progress]:
    """:meth:`Mobility.query` for a poller: one call per manager and interval, however many VMs (HCX-03)."""
    wanted = sorted(set(migration_ids))
    if not wanted:
        return {}
    rows = _query(client, {"migrationId": wanted})
    return {row.migration_id: row for row in rows if row.migration_id in set(wanted)}


def _query(client: RestClient, wanted: Mapping[str, Sequence[str]], **where: object) -> tuple[Progress, ...]:
    body = {
        "filter": dict(wanted),
        "options": {"compat": guesses.COMPAT.value, "resultLevel": guesses.RESULT_LEVEL.value},
        "paging": {guesses.QUERY_PAGE_FIELD.value: ROWS_MOST},
    }
    ask = Ask("POST", guesses.QUERY.value, query=guesses.QUERY_ACTION.value, body=body, again=True)
    answer = client.send(ask, **where)
    if "data" not in answer.object():
        raise UnreadableError("the answer to the query of migrations has no data", next_step="", **where)
    return tuple(read_progress(item) for item in items_of(answer))


def _findings(items: Any, entities: Sequence[str]) -> tuple[Findings, ...]:
    found = []
    for place, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, Mapping):
            continue
        # In the order of the request, where HCX leaves the id out.
        by_order = entities[place] if place < len(entities) else ""
        found.append(
            Findings(
                entity_id=text(item.get("entityId")) or by_order,
                errors=messages(item.get("errors")),
                warnings=messages(item.get("warnings")),
            )
        )
    return tuple(found)


def _errors_of(answer: Answer) -> tuple[str, ...]:
    """Errors in an answer that is none by its status."""
    found = list(messages(answer.object().get("errors")))
    for item in items_of(answer):
        found += messages(item.get("errors"))
    return tuple(found)


def _started(answer: Answer) -> tuple[Started, ...]:
    found = []
    for group in answer.error_fields.get("items") or ():
        for one in group.get("migrations") or () if isinstance(group, Mapping) else ():
            if isinstance(one, Mapping):
                found.append(
                    Started(
                        migration_id=text(one.get("migrationId")),
                        entity_id=text(one.get("entityId")),
                        errors=messages(one.get("errors")),
                        warnings=messages(one.get("warnings")),
                    )
                )
    return tuple(found)
