"""What the import contracts of pyproject.toml do not see: hidden imports, and a vendor's names in the kit."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

import wavelift

pytestmark = pytest.mark.unit

SIMULATORS: Final = Path(wavelift.__file__).parent / "simulators"
SOURCES: Final = sorted(SIMULATORS.rglob("*.py"))
VENDORS: Final = re.compile(
    r"(?<![a-z])(aws|amz|amazon|s3|ebs|ec2|moto|boto3|vcenter|vsphere|vmware|esxi|hcx|nsx|ovirt)(?![a-z])"
)


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [name.name for name in node.names] if isinstance(node, ast.Import) else []


def _hidden(source: str) -> list[str]:
    """Imports of wavelift inside of a function or under a condition such as TYPE_CHECKING."""
    tree = ast.parse(source)
    at_top = {id(node) for node in tree.body}
    nodes = (node for node in ast.walk(tree) if id(node) not in at_top)
    return [name for node in nodes for name in _imports(node) if name.startswith("wavelift")]


def test_every_import_stands_at_the_top_so_that_no_circle_hides() -> None:
    hidden = {path.relative_to(SIMULATORS).as_posix(): _hidden(path.read_text()) for path in SOURCES}
    assert len(hidden) > 40
    assert {name: found for name, found in hidden.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        "if TYPE_CHECKING:\n    from wavelift.simulators.aws.world import AwsWorld",
        "def late():\n    import wavelift.simulators.kit.server",
        "try:\n    from wavelift.simulators import images\nexcept ImportError: ...",
    ],
)
def test_a_hidden_import_is_found(source: str) -> None:
    assert _hidden(source)


def test_the_kit_names_no_vendor() -> None:
    found = {
        path.name: names
        for path in (SIMULATORS / "kit").glob("*.py")
        if (names := VENDORS.findall(path.read_text().lower()))
    }
    assert found == {}
