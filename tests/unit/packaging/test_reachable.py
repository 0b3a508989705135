"""What the product says it does, something in the product does: no public function or method without a caller.

A function that only tests call is a promise that nobody keeps. Wire it, or delete it with what the docs say of it.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.unit
ROOT: Final = Path(__file__).parents[3]
HELD: Final = ("services", "ledger", "transfer", "adapters", "rules", "base")
"""The floors that are held to it. What lies above is called by Airflow, by a person or by HTTP."""
SPARED: Final = {
    "rules.flow.described": "docs/architecture.md is held to it by a test",
    "transfer.file.FileWriter": "the tests' and the benchmarks' target of blocks",
}
FRAMEWORK: Final = {
    "adapters.aws.s3_read.S3Stream.readable",
    "ledger.tables.UtcTime.process_bind_param",
    "ledger.tables.UtcTime.process_result_value",
    "ledger.tables.Words.process_bind_param",
    "ledger.tables.Words.process_result_value",
    "transfer.ova_image._NoEntities.doctype",
}
"""Called by SQLAlchemy, :mod:`io` and :mod:`xml.etree`."""

Ref = tuple[str, str]
"""Module and name of what it defines at its top; the name is empty for the module itself."""


@dataclass
class Module:
    """What one file defines, and what its names stand for."""

    name: str
    tree: ast.Module
    defined: dict[str, ast.stmt] = field(default_factory=dict)
    bound: dict[str, Ref] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        return self.name.split(".")[1:2] in [[floor] for floor in HELD]


@cache
def read_product() -> dict[str, Module]:
    """Every module of the product, the simulators left out: they are no part of it."""
    source = ROOT / "src" / "wavelift"
    files = {".".join(path.relative_to(source.parent).with_suffix("").parts): path for path in source.rglob("*.py")}
    for folder in ("operators", "sensors"):  # links, which rglob does not follow
        files |= {
            ".".join(("wavelift", *path.relative_to(ROOT).with_suffix("").parts)): path
            for path in (ROOT / folder).rglob("*.py")
        }
    files |= {path.stem: path for folder in ("dags", "plugins") for path in (ROOT / folder).glob("*.py")}
    found = {}
    for name, path in files.items():
        if name.startswith("wavelift.simulators") or ".alembic." in name:
            continue
        module = Module(name.removesuffix(".__init__"), ast.parse(path.read_text()))
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                module.defined[node.name] = node
        for each in ast.walk(module.tree):
            if isinstance(each, ast.ImportFrom) and each.module and not each.level:
                module.bound |= {one.asname or one.name: (each.module, one.name) for one in each.names}
        found[module.name] = module
    return found


def resolve(product: dict[str, Module], module: str, name: str) -> Ref | None:
    """Where a name that ``module`` imports is defined; through every module that only hands it on."""
    for _ in range(len(product)):
        if f"{module}.{name}" in product:
            return f"{module}.{name}", ""
        known = product.get(module)
        if known is None:
            return None
        if name in known.defined:
            return module, name
        if name not in known.bound:
            return None
        module, name = known.bound[name]
    return None


def named_in(product: dict[str, Module], module: Module, body: ast.AST) -> Iterator[Ref]:
    """What a piece of code names of the product's functions and classes."""
    for node in ast.walk(body):
        if isinstance(node, ast.Name) and node.id in {*module.defined, *module.bound}:
            found = resolve(product, module.name, node.id)
            if found is not None:
                yield found
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in module.bound:
            of = resolve(product, module.name, node.value.id)
            if of is not None and not of[1]:
                found = resolve(product, of[0], node.attr)
                if found is not None:
                    yield found


def reached(product: dict[str, Module]) -> set[Ref]:
    """What is named, at any number of steps, by a module's own statements or by what nothing of ours calls."""
    todo = [
        ref
        for module in product.values()
        for node in module.tree.body
        if not (module.held and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
        for ref in named_in(product, module, node)
    ]
    seen: set[Ref] = set()
    while todo:
        ref = todo.pop()
        if ref in seen or not ref[1]:
            continue
        seen.add(ref)
        module = product[ref[0]]
        todo += named_in(product, module, module.defined[ref[1]])
    return seen


def is_shape(node: ast.stmt) -> bool:
    """A protocol says what others look like; nobody has to name it."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(each, ast.Name) and each.id == "Protocol" for each in node.bases
    )


def methods(module: Module) -> Iterator[tuple[str, str]]:
    """Public methods: class and name."""
    for name, node in module.defined.items():
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("_"):
                    yield name, each.name


def test_every_public_function_has_a_caller_in_the_product() -> None:
    product = read_product()
    known = reached(product)
    idle = {
        f"{module.name}.{name}".removeprefix("wavelift.")
        for module in product.values()
        if module.held
        for name, node in module.defined.items()
        if not name.startswith("_") and (module.name, name) not in known and not is_shape(node)
    }
    assert idle == set(SPARED), f"wire them, or delete them with their promise: {', '.join(sorted(idle - set(SPARED)))}"


def test_every_public_method_is_named_in_the_product() -> None:
    """By its name alone: two classes may share one. Pydantic's validators are named by their decorators."""
    product = read_product()
    used = Counter(
        node.attr for module in product.values() for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)
    )
    idle = {
        f"{module.name}.{owner}.{name}".removeprefix("wavelift.")
        for module in product.values()
        if module.held
        for owner, name in methods(module)
        if not used[name]
    }
    assert idle <= FRAMEWORK, f"wire them, or delete them with their promise: {', '.join(sorted(idle - FRAMEWORK))}"


def test_a_function_that_only_tests_call_is_found() -> None:
    """The check itself: an alias, a module that hands names on, and a caller that nothing calls."""
    sources = {
        "wavelift.services.deep": "def used(): ...\ndef idle(): ...\ndef caller():\n    idle()",
        "wavelift.services.desk": "from wavelift.services.deep import idle, used\n__all__ = ['idle', 'used']",
        "wavelift.cli.main": "from wavelift.services import desk as d\ndef command():\n    d.used()",
    }
    product = {}
    for name, text in sources.items():
        module = Module(name, ast.parse(text))
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef):
                module.defined[node.name] = node
            if isinstance(node, ast.ImportFrom) and node.module:
                module.bound |= {each.asname or each.name: (node.module, each.name) for each in node.names}
        product[name] = module
    assert reached(product) == {("wavelift.services.deep", "used")}
