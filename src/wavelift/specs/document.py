"""Read a YAML file into plain values, with the line of each value.

libyaml composes the nodes, each with its position. The conversion here is faster than PyYAML's constructor and keeps
the text: a scalar is the text in the file, and its field decides what it means (``rules.fields``). YAML's own
conversion would lose the text: ``verify: off`` is False, ``1.10`` is 1.1, ``010`` is 8 and ``22:00`` is 1320. Only
null, ``~`` and an empty value without quotes become None. A duplicate key is an error, because one of its values would
be lost silently. Top-level blocks named ``x-…`` are dropped: they hold anchors, as in Compose files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from wavelift.rules.problem import Path as Place
from wavelift.rules.problem import Problem
from wavelift.specs.issues import Issue, shown

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # pragma: no cover - a PyYAML built without libyaml: same result, five times slower
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

_PLAIN: Final = "plain"
"""Our tag for a scalar without quotes. Only such a scalar can be None."""
_MERGE: Final = "merge"
_TEXT: Final = "tag:yaml.org,2002:str"
_NOTHING: Final = frozenset(("", "~", "null", "Null", "NULL"))
MAX_DEPTH: Final = 32
"""Maximum levels of nesting. A spec needs six."""
ANCHORS: Final = "x-"
"""Prefix of the names of top-level blocks that only hold anchors."""


class _Loader(_SafeLoader):
    """Composes nodes without resolving types: YAML 1.1's rules took a third of the time and give wrong results."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return ""
        if not implicit[0]:
            return _TEXT
        return _MERGE if value == "<<" else _PLAIN

    # The composer calls these two methods around each node. It recurses in C, so a very deep file would crash the
    # process.
    depth = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} levels of nesting")

    def ascend_resolver(self) -> None:
        self.depth -= 1


class Document:
    """One file: ``value`` (None if it can't be read), and ``issues`` with its syntax problems."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.text = ""
        self.value: dict[str, Any] | None = None
        self.issues: list[Issue] = []
        self._root: yaml.Node | None = None
        try:
            self.text = path.read_bytes().decode() if text is None else text
            self._root = yaml.compose(self.text, Loader=_Loader)
        except OSError as error:
            self._add(0, f"can't be read: {error.strerror or error}")
        except UnicodeDecodeError as error:
            self._add(0, f"is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._add(mark.line + 1 if mark else 0, _syntax(error, self.text))
        except yaml.YAMLError as error:  # a control character, or nested too deeply
            self._add(0, f"is not YAML: {' '.join(str(error).split())}")
        else:
            self._convert()

    def issue(self, problem: Problem) -> Issue:
        """``problem`` with file and line."""
        return Issue(shown(self.path), self.line_of(problem.path), problem.path, problem.message)

    def line_of(self, path: Place) -> int:
        """The line of a key or item. If it is missing, the line of what should contain it."""
        node = self._root
        line = node.start_mark.line if node else 0
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line + 1

    def _add(self, line: int, message: str, path: Place = ()) -> None:
        self.issues.append(Issue(shown(self.path), line, path, message))

    def _convert(self) -> None:
        if not isinstance(self._root, yaml.MappingNode):
            what = "is empty" if self._root is None else "must be a mapping ('key: value' lines) at its top level"
            self._add(1, f"the file {what}")
            return
        converter = _Converter()
        whole = converter.mapping(self._root, ())
        self.value = {key: value for key, value in whole.items() if not key.startswith(ANCHORS)}
        for line, path, message in converter.found:
            self._add(line, message, path)


class _Converter:
    def __init__(self) -> None:
        self.found: list[tuple[int, Place, str]] = []
        self._done: dict[int, Any] = {}
        """Converted values by node. An anchor is converted only once, so nested aliases can't use up the memory."""
        self._open: set[int] = set()

    def convert(self, node: yaml.Node, path: Place) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag:
            self._add(node, path, f"tag '{node.tag}' is not allowed in a spec")
        key = id(node)
        if key in self._done:
            return self._done[key]
        if key in self._open:
            self._add(node, path, "an alias contains itself")
            return None
        self._open.add(key)
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self.convert(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            value = self.mapping(node, path)
        self._open.discard(key)
        self._done[key] = value
        return value

    def mapping(self, node: yaml.Node, path: Place) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if key.tag == _MERGE:
                merged = {**self._merge(item, path), **merged}
            elif not isinstance(key, yaml.ScalarNode):
                self._add(key, path, "a key must be plain text")
            elif key.value in own:
                first = next(other for other, _ in node.value if other.value == key.value)
                line = first.start_mark.line + 1
                self._add(key, (*path, key.value), f"duplicate key '{key.value}', first on line {line}; remove one")
            else:
                own[key.value] = self.convert(item, (*path, key.value))
        return {**merged, **own} if merged else own

    def _merge(self, node: yaml.Node, path: Place) -> dict[str, Any]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Any] = {}
        for item in nodes:
            value = self.convert(item, path)
            if isinstance(value, dict):
                result = {**value, **result}
            else:
                self._add(item, path, "'<<' can merge only mappings")
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Place) -> Any:
        tag, text = node.tag, str(node.value)
        if tag == _PLAIN:
            return None if text in _NOTHING else text
        if tag not in (_TEXT, _MERGE):
            self._add(node, path, f"tag '{tag}' is not allowed in a spec")
        return text

    def _add(self, node: yaml.Node, path: Place, message: str) -> None:
        self.found.append((node.start_mark.line + 1, path, message))


def _child(node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
    """Line (from 0) and node of the child at ``step``."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item.start_mark.line, item
    if isinstance(node, yaml.MappingNode):
        merges: list[yaml.Node] = []
        for key, item in node.value:
            if key.tag == _MERGE:
                merges += item.value if isinstance(item, yaml.SequenceNode) else [item]
            elif key.value == step:
                return key.start_mark.line, item
        return next((found for merged in merges if (found := _child(merged, step))), None)
    return None


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    """The parser's message, with an explanation if the message is hard to understand."""
    words = error.problem or "syntax error"
    if "'\\t'" in words or "tab" in words or _tab_at(error, text):
        return "a tab is used where YAML requires spaces; indent with spaces"
    if "but found another document" in words:
        return "a second document ('---') begins here; write one spec per file"
    if "could not find expected ':'" in words or "mapping values are not allowed" in words:
        return f"not YAML: {words}; check the indentation, and put text that contains ': ' in quotes"
    if "undefined alias" in words:
        return f"not YAML: {words}; define the anchor with '&name' above its use"
    context = f" ({error.context})" if error.context else ""
    return f"not YAML: {words}{context}"


def _tab_at(error: yaml.MarkedYAMLError, text: str) -> bool:
    mark = error.problem_mark
    if mark is None:
        return False
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return "\t" in line[: len(line) - len(line.lstrip())]
