"""What one file does is an issue of that file: it costs little, and no other wave notices."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples
from tests.unit.specs.conftest import ENVIRONMENT, WAVE

from wavelift.specs import check_file, files, format_errors, load_folder, usable_waves
from wavelift.specs.document import MAX_BYTES, MAX_VALUES, Document

pytestmark = pytest.mark.unit

CPU_SECONDS = 5
MEMORY = 50_000_000
MIB = 1024 * 1024
DIGITS = "9" * 5000
SERVERS = "servers:\n" + "".join(f"- name: s{n}\n" for n in range(150))
HEAD, _, _ = WAVE.partition("defaults:")
BARE, _, _ = ENVIRONMENT.partition("tags:")


def chain(count: int, item: str) -> str:
    return "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {item.format(n - 1)}\n" for n in range(1, count))


WAVES: dict[str, str] = {
    "an integer of thousands of digits": f"{WAVE}retries: {DIGITS}\n",
    "a float of thousands of digits": f"{WAVE}max_mbit_s: {DIGITS}.5\n",
    "a share of thousands of digits": WAVE.replace("- web01", f"- {{name: a, verify: 'sample:{DIGITS}'}}"),
    "a large exponent": f"{WAVE}max_snapshot_hours: 1e{DIGITS[:9]}\n",
    "a date far away": f"{WAVE}replication: {{seed_time: '{DIGITS}-01-01T00:00:00Z'}}\n",
    "the first date": f"{WAVE}replication: {{seed_time: '0001-01-01T00:00:00+14:00'}}\n",
    "epoch seconds without end": f"{WAVE}replication: {{seed_time: {DIGITS}}}\n",
    "merges that double": chain(60, "{{<<: [*a{0}, *a{0}]}}"),
    "merges of inline merges": "a: " + "{<<: [" * 30 + "{x: 1}" + "]}" * 30,
    "a chain of merges": chain(1500, "{{<<: *a{0}}}"),
    "a chain of merges that grow": chain(1500, "{{<<: *a{0}, k{0}: 1}}"),
    "a chain of merges behind duplicate keys": "k: &a0 {x: 1}\n"
    + "".join(f"k: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 1500))
    + "z: *a1499\n",
    "a chain of aliases": chain(5000, "[*a{0}]"),
    "aliases that multiply": chain(60, "[*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]"),
    "a merge that contains itself": "a: &a {<<: *a}\n",
    "an alias that contains itself": "a: &a [*a, *a]\n",
    "many aliases": "a: &a x\nb: [" + "*a," * 170_000 + "]",
    "many values": "a: [" + "b," * 250_000 + "]",
    "many keys": "".join(f"k{n}: 1\n" for n in range(45_000)),
    "many unknown keys": WAVE + "".join(f"serverz{n}: 1\n" for n in range(9_000)),
    "many unknown keys of a server": f"{HEAD}servers:\n- name: a\n" + "".join(f"  taggs{n}: 1\n" for n in range(9_000)),
    "many duplicate keys": "".join(f"k{n % 9_000}: 1\n" for n in range(18_000)),
    "many tags": "a: [" + "!x 1," * 9_000 + "]",
    "many directives": "".join(f"%TAG !a{n}! x\n" for n in range(30_000)) + "---\na: 1",
    "many security groups": f"{HEAD}defaults: {{security_groups: [{'sg-bbbb0001,' * 18_000}]}}\n{SERVERS}",
    "many servers": HEAD + "servers:\n" + "".join(f"- s{n}\n" for n in range(18_000)),
    "many wrong servers": HEAD + "servers:\n" + "- {}\n" * 9_000,
    "deep lists": "a: " + "[" * 250_000,
    "deep mappings": "a: " + "{a: " * 100_000,
    "deep blocks": "".join(f"{' ' * n}a:\n" for n in range(500)),
    "keys that are lists": "? [a, b]\n: 1\n" * 30_000,
    "a long text": f'{WAVE}description: "{"x" * 400_000}"\n',
    "a long text that is used often": f'x-a: &a "{"x" * 300_000}"\n'
    + HEAD
    + f"defaults: {{security_groups: [{'*a,' * 15}]}}\n{SERVERS}",
    "a long name": WAVE.replace("environment: prod", f"environment: {'p' * 300_000}"),
    "a long key": f"{WAVE}? {'k' * 300_000}\n: 1\n",
    "a long tag": f"{WAVE}a: !<{'%41' * 100_000}> x\n",
    "text with control characters": WAVE.replace("The ERP servers", '"\\0\\e[2J"'),
    "a key with control characters": f'{WAVE}"\\a": 1\n',
    "half a surrogate pair": WAVE.replace("The ERP servers", '"\\ud800"'),
    "names that no file can have": WAVE.replace("environment: prod", f"environment: {'p' * 300}"),
}
ENVIRONMENTS: dict[str, str] = {
    "a limit of thousands of digits": f"{ENVIRONMENT}limits: {{imports_per_region: {DIGITS}}}\n",
    "many limits": f"{ENVIRONMENT}limits:\n" + "".join(f"  imports{n}: 1\n" for n in range(9_000)),
    "many wrong subnets": BARE.replace("[subnet-aaaa0001, subnet-aaaa0002]", "[" + "subnets," * 18_000 + "]"),
    "many equal subnets": BARE.replace("[subnet-aaaa0001, subnet-aaaa0002]", "[" + "subnet-aaaa0001," * 18_000 + "]"),
    "many sources": BARE.partition("sources:")[0] + "sources:\n" + "- {connection: a, connectors: [b]}\n" * 3_000,
    "merges that double": chain(60, "{{<<: [*a{0}, *a{0}]}}"),
    "a deep chain": chain(1500, "{{<<: *a{0}}}"),
    "a long key alias": f"{BARE}encrypt: true\nkms_key: alias/{'a' * 300_000}!\n",
}


def within_limits(folders: Any) -> Any:
    """All waves, read as the DAG processor does, within the CPU and the memory that one file may cost."""
    usable_waves(folders.waves, folders.environments, folders.kept)  # what is imported once is not the file's
    tracemalloc.start()
    began = time.process_time()
    found = usable_waves(folders.waves, folders.environments, folders.kept)
    spent = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spent < CPU_SECONDS
    assert peak < MEMORY
    assert all(line.isprintable() and len(line) < 3000 for line in found.errors)
    assert not any("fault in wavelift" in line for line in found.errors)
    return found


@pytest.fixture
def two(folders: Any) -> Any:
    """Beside ``erp``: the wave ``crm`` in an environment of its own."""
    folders.environment(ENVIRONMENT.replace("environment: prod", "environment: other"), "other")
    text = WAVE.replace("wave: erp", "wave: crm").replace("environment: prod", "environment: other")
    folders.wave(text, "crm")
    assert set(usable_waves(folders.waves, folders.environments, folders.kept).shapes) == {"crm", "erp"}
    return folders


@pytest.mark.parametrize("name", WAVES)
def test_a_hostile_wave_is_its_own_issue(two: Any, name: str) -> None:
    two.wave(WAVES[name][:MAX_BYTES])
    found = within_limits(two)
    assert list(found.shapes) == ["crm", "erp"], "the others and the running one keep their DAGs"
    assert found.errors
    assert {line.partition(":")[0] for line in found.errors} == {"waves/erp.yaml"}
    assert found.waves["erp"].stale
    assert not found.waves["crm"].stale


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_hostile_environment_hits_only_its_waves(two: Any, name: str) -> None:
    two.environment(ENVIRONMENTS[name][:MAX_BYTES])
    found = within_limits(two)
    assert list(found.shapes) == ["crm", "erp"]
    assert {line.partition(":")[0] for line in found.errors} == {"waves/erp.yaml", "environments/prod.yaml"}
    assert not found.waves["crm"].stale


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 * 1024 * MIB)


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (_pipe, "can't be read: it is not a regular file; write the spec into a file named"),
    "device": (_device, "can't be read: it is not a regular file; write the spec into a file named"),
    "folder": (Path.mkdir, "can't be read: Is a directory"),
    "2 GiB": (_large, "more than 512 KiB up to here; remove what the spec does not need, or split it"),
    "loop": (lambda path: path.symlink_to(path), "can't be read: Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("which", ["waves/erp.yaml", "environments/prod.yaml"])
def test_what_is_no_small_regular_file_is_not_read(two: Any, which: str, kind: str) -> None:
    path = two.waves.parent / which
    path.unlink()
    make, said = NO_FILES[kind]
    make(path)
    found = within_limits(two)
    assert list(found.shapes) == (["crm", "erp"])
    assert any(line.startswith(which) and said in line for line in found.errors) or kind == "loop"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: 1\nb: [" + "x, " * MAX_VALUES + "]",
            "waves/x.yaml:2: more than 20000 values up to here; remove what the spec does not need, or split it",
        ),
        (
            "a: &a [" + "x, " * 999 + "]\nb:\n" + "- *a\n" * 30,
            "waves/x.yaml:3: more than 20000 values up to here if each alias is replaced by what it stands for; remove "
            "what the spec does not need, or split it",
        ),
        (
            "a: &a {" + "".join(f"k{n}: 1, " for n in range(999)) + "}\nb:\n" + "- {<<: *a}\n" * 30,
            "waves/x.yaml:23: more than 20000 values up to here if each '<<' is replaced by what it merges; remove "
            "what the spec does not need, or split it",
        ),
        ("a: 1\nb:\n  c: " + "[" * 40, "waves/x.yaml:3: more than 32 levels of nesting; a spec needs six"),
        (chain(40, "[*a{0}]"), "waves/x.yaml:33: more than 32 levels of nesting; a spec needs six"),
        (
            "a: 1\n# " + "x" * MAX_BYTES,
            "waves/x.yaml:2: more than 512 KiB up to here; remove what the spec does not need, or split it",
        ),
        ('a: 1\nb: "x\\0"', "waves/x.yaml:2: b: the character U+0000 is not allowed in a text; remove it"),
        ('a: 1\n"\\e": x', "waves/x.yaml:2: the character U+001B is not allowed in a text; remove it"),
    ],
    ids=["values", "aliases", "merges", "depth", "depth of aliases", "size", "control in a text", "control in a key"],
)
def test_each_limit_names_its_line_and_the_way_out(text: str, said: str) -> None:
    document = Document(Path("waves/x.yaml"), text)
    assert [str(issue).replace("\\x1b", "") for issue in document.issues] == [said]


def test_what_a_large_wave_needs_is_allowed(folders: Any) -> None:
    """150 servers with all tags, also if the tags are one anchor."""
    tags = ", ".join(f"key{n}: 'a text of thirty characters {n}'" for n in range(46))
    for head, entry in (("", f"  tags: {{{tags}}}"), (f"x-t: &t\n  tags: {{{tags}}}\n", "  <<: *t")):
        path = folders.wave(head + HEAD + "servers:\n" + "".join(f"- name: s{n}\n{entry}\n" for n in range(150)))
        assert path.stat().st_size < MAX_BYTES
        assert format_errors(check_file(path, folders.environments)) == ""


def test_a_hundred_problems_are_listed_and_the_rest_is_counted(folders: Any) -> None:
    path = folders.wave(WAVE + "".join(f"k{n}: 1\n" for n in range(150)))
    lines = format_errors(check_file(path, folders.environments)).splitlines()
    assert len(lines) == 101
    assert lines[0] == "waves/erp.yaml: more than 100 problems; correct those that are listed first"
    path = folders.wave("k: 1\n" * 500)
    assert len(format_errors(check_file(path, folders.environments)).splitlines()) == 101


@pytest.mark.parametrize("error", [RuntimeError("no\nway"), RecursionError(), MemoryError(), OSError(5, "bad")])
@pytest.mark.parametrize("broken", ["waves/erp.yaml", "environments/prod.yaml"])
def test_a_fault_in_wavelift_is_an_issue_of_the_file(
    two: Any, monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception
) -> None:
    def read(path: Path) -> Document:
        if f"{path.parent.name}/{path.name}" == broken:
            raise error
        return Document(path)

    monkeypatch.setattr(files, "Document", read)
    found = usable_waves(two.waves, two.environments, two.kept)
    assert list(found.shapes) == ["crm", "erp"]
    assert not found.waves["crm"].stale
    (line,) = [line for line in found.errors if "fault in wavelift" in line]
    assert line.startswith(f"{broken}: wavelift failed while it read this file ({type(error).__name__}")
    assert "report it with the file" in line


def test_a_file_name_that_is_no_text_harms_nothing(two: Any) -> None:
    Path(os.fsdecode(os.fsencode(two.waves) + b"/caf\xe9\x1b.yaml")).write_text(WAVE)
    found = within_limits(two)
    assert list(found.shapes) == ["crm", "erp"]
    (line,) = found.errors
    assert "must equal the file's name" in line
    assert line.encode()


KEYS = st.sampled_from(
    ["wave", "source", "servers", "name", "tags", "<<", "defaults", "x-a", "retries", "k", "replication"]
)
SCALARS = st.sampled_from(
    ["1", "erp", "~", "''", "!!x y", "1e999", DIGITS, "'sample:1'", '"\\0"', "2026-01-01", "sg-1", "*a"]
)


def _flow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    anchors = st.sampled_from(["", "", "&a ", "&b ", "!x "])
    lists = st.builds(lambda anchor, items: f"{anchor}[{', '.join(items)}]", anchors, st.lists(inner, max_size=4))
    pairs = st.lists(st.tuples(KEYS, inner), max_size=4)
    maps = pairs.map(lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}")
    return lists | st.builds(str.__add__, anchors, maps)


VALUES = st.recursive(SCALARS | st.sampled_from(["*a", "*b"]), _flow, max_leaves=20)
TEXTS = st.lists(st.tuples(KEYS, VALUES), max_size=8).map(
    lambda pairs: "x-0: &a {name: web01}\nx-1: &b [*a]\n" + "".join(f"{key}: {value}\n" for key, value in pairs)
)
"""YAML with anchors, aliases, merges, tags and keys of a spec."""


@examples(60, 5_000)
@given(wave=TEXTS.map(str.encode) | st.binary(max_size=400), whole=st.booleans())
def test_no_content_of_a_file_raises(tmp_path_factory: pytest.TempPathFactory, wave: bytes, whole: bool) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("waves", "environments"):
        (folder / name).mkdir()
    (folder / "environments" / "prod.yaml").write_text(ENVIRONMENT)
    (folder / "waves" / "erp.yaml").write_bytes((WAVE.encode() if whole else b"") + wave)
    found = load_folder(folder / "waves", folder / "environments")
    assert found.waves or found.errors
    assert all(line.isprintable() and "fault in wavelift" not in line for line in found.errors)
    for loaded in found.waves.values():
        loaded.resolve().dump()
