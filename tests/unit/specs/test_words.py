"""How a field interprets the text in the file: text stays text, and a value that is no number or boolean is refused."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from tests.specs import load_texts
from tests.unit.specs.conftest import ENVIRONMENT, WAVE

from wavelift.console.requests import ApplyBody, CleanupBody, ExtendBody, JobsBody, MaintenanceBody
from wavelift.rules.environment import AllowedSource, Environment, Staging
from wavelift.rules.problem import quoted
from wavelift.rules.wave import Server, Settings, Source, Wave
from wavelift.rules.wave_replication import Replication
from wavelift.specs import load_resolved

pytestmark = pytest.mark.unit

SPECS: tuple[type[BaseModel], ...] = (Wave, Source, Settings, Server, Replication, Environment, AllowedSource, Staging)
BODIES: tuple[type[BaseModel], ...] = (CleanupBody, MaintenanceBody, ApplyBody, ExtendBody, JobsBody)


def fields(*kinds: str, models: tuple[type[BaseModel], ...] = SPECS + BODIES) -> list[Any]:
    """Every field of a spec or of a request's body that is, or maps names to, one of these types of JSON Schema."""
    return [
        pytest.param(model, name, mapping, id=f"{model.__name__}.{name}")
        for model in models
        for name, schema in model.model_json_schema()["properties"].items()
        for kind, mapping in _types(schema)
        if kind in kinds and name != "seed_time"
    ]


def _types(schema: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for choice in schema.get("anyOf", [schema]):
        inner = choice.get("additionalProperties")
        mapping = choice.get("type") == "object" and isinstance(inner, dict)
        yield (inner.get("type") if mapping else choice.get("type")) or "", mapping


def errors_of(model: type[BaseModel], name: str, value: Any, mapping: bool = False) -> list[str]:
    """What is wrong with this field, whatever else the model lacks."""
    try:
        model.model_validate({name: {"imports_per_region": value} if mapping else value})
    except ValidationError as error:
        return [each["msg"] for each in error.errors() if each["loc"] and each["loc"][0] == name]
    return []


@pytest.mark.parametrize(("model", "name", "mapping"), fields("integer", "number"))
def test_what_is_no_plain_number_is_refused_and_shown(model: type[BaseModel], name: str, mapping: bool) -> None:
    for text, read_as in (
        ("012", "10 (octal) or 12"),
        ("0o14", "12"),
        ("0x0c", "12"),
        ("1_2", "12"),
        ("1:30", "90 (base 60)"),
        ("true", ""),
        ("on", ""),
        (".inf", ""),
        ("inf", ""),
        ("nan", ""),
        ("1e999", ""),
        ("", ""),
        (" 12", "12"),
        ("9" * 5000, ""),
        ("2026-12-01", ""),
        ("\u0661\u0662", "12"),
    ):
        found = "\n".join(errors_of(model, name, text, mapping))
        assert f"not {quoted(text)}" in found or ("or equal to" in found and text.isascii() and text.isdigit()), text
        assert not read_as or f"read it as {read_as}; write it in decimal digits" in found, text
    for value in (True, False, float("inf"), float("nan")):
        assert errors_of(model, name, value, mapping), value
    assert errors_of(model, name, "12", mapping) == errors_of(model, name, 12, mapping) == []


@pytest.mark.parametrize(("model", "name", "mapping"), fields("integer"))
def test_a_whole_number_has_no_fraction(model: type[BaseModel], name: str, mapping: bool) -> None:
    for value in ("3.0", "1e1", 3.0, 3.5):
        assert errors_of(model, name, value, mapping), value


@pytest.mark.parametrize(("model", "name", "mapping"), fields("boolean"))
def test_a_boolean_is_said_in_words(model: type[BaseModel], name: str, mapping: bool) -> None:
    good: tuple[Any, ...] = ("true", "True", "FALSE", "yes", "No", "on", "off", True, False)
    for word in good:
        assert errors_of(model, name, word, mapping) == [], word
    bad: tuple[Any, ...] = ("1", "0", "y", "n", "t", "f", "", "none", 1, 0, 1.0)
    for word in bad:
        assert f"must be true or false, not {word!r}" in "\n".join(errors_of(model, name, word, mapping)), word


@pytest.mark.parametrize(("model", "name", "mapping"), fields("string", "array", models=SPECS))
def test_a_text_and_a_list_have_an_end_and_a_message_quotes_little(
    model: type[BaseModel], name: str, mapping: bool
) -> None:
    kind = next(
        kind for kind, _ in _types(model.model_json_schema()["properties"][name]) if kind in ("string", "array")
    )
    texts = ("x" * 300_000, "9" * 300_000, "m6i." + "x" * 300_000, "alias/" + "x" * 300_000, "\x1b[2J" * 50_000)
    for text in texts:
        found = errors_of(model, name, [text] * 3_000 if kind == "array" else text, mapping)
        assert found, text[:10]
        assert all(len(words) < 500 and words.isprintable() for words in found[:5])


def test_the_walk_finds_fields() -> None:
    ids = {param.id for param in fields("integer", "number", "boolean")}
    assert {"Wave.retries", "Wave.max_mbit_s", "Environment.limits", "Replication.keep_amis"} <= ids
    assert {"Settings.allow_twin", "Environment.encrypt", "CleanupBody.dry_run", "ExtendBody.days"} <= ids


PLAIN = st.from_regex(r"[a-zA-Z0-9_.+-][a-zA-Z0-9_.:+-]{0,20}", fullmatch=True).filter(
    lambda text: not text.endswith(":") and text not in ("-", "---", "...") and not text.startswith("...")
)
NOTHING = ("null", "Null", "NULL")


@given(name=PLAIN.filter(lambda text: text not in NOTHING), quoted=st.booleans())
def test_a_name_is_what_was_written(name: str, quoted: bool) -> None:
    written = f"'{name}'" if quoted else name
    text = WAVE.replace("- web01", f"- {written}").replace("{tier: db}", f"{{tier: {written}}}")
    loaded = load_texts(text, ENVIRONMENT.replace("queue: near-aws", f"queue: {written}"), where="prod")
    assert loaded is not None, name
    assert loaded.environment.queue == name
    assert loaded.wave.servers[0].name == name
    assert (loaded.wave.servers[1].tags or {})["tier"] == name


@given(number=st.decimals(min_value=1, max_value=168, places=3))
def test_a_number_is_what_was_written(number: Decimal) -> None:
    loaded = load_texts(
        f"{WAVE}max_snapshot_hours: {number}\nretries: {2 + int(number) // 10}\n", ENVIRONMENT, where="prod"
    )
    assert loaded is not None
    assert (loaded.wave.max_snapshot_hours, loaded.wave.retries) == (float(number), 2 + int(number) // 10)


@pytest.mark.parametrize("word", ["null", "~", "", "Null"])
@pytest.mark.parametrize("place", ["- web01", "name: db01", "tier: db"])
def test_nothing_is_no_text_and_the_error_tells_how_to_quote_it(folders: Any, place: str, word: str) -> None:
    key, _, value = place.rpartition(" ")
    folders.wave(WAVE.replace(place, f"{key} {word}"))
    with pytest.raises(Exception, match="null, ~ and an empty value without quotes mean nothing; put a text in quotes"):
        load_resolved(folders.waves / "erp.yaml", folders.environments)
    if word:
        folders.wave(WAVE.replace(place, f"{key} '{word}'"))
        assert word in load_resolved(folders.waves / "erp.yaml", folders.environments).model_dump_json()
    assert value


def test_a_name_of_two_lines_is_refused(folders: Any) -> None:
    folders.wave(WAVE.replace("- web01", "- |\n      web01"))
    with pytest.raises(Exception, match="contains a line break"):
        load_resolved(folders.waves / "erp.yaml", folders.environments)


def test_anchors_may_stand_in_blocks_of_their_own(folders: Any) -> None:
    folders.wave(
        "x-db: &db {subnet: subnet-aaaa0002, tags: {tier: 010}}\n"
        + WAVE.replace(
            "  - name: db01\n    subnet: subnet-aaaa0002\n    tags: {tier: db}\n", "  - {<<: *db, name: db01}\n"
        )
    )
    db01 = load_resolved(folders.waves / "erp.yaml", folders.environments).servers[1]
    assert (db01.server, db01.subnet, db01.tags["tier"]) == ("db01", "subnet-aaaa0002", "010")
