"""Read a YAML file into plain values, with the line of each value.

libyaml composes the nodes, each with its position. The conversion here is faster than PyYAML's constructor and keeps
the text: a scalar is the text in the file, and its field decides what it means (``rules.fields``). YAML's own
conversion would lose the text: ``verify: off`` is False, ``1.10`` is 1.1, ``010`` is 8 and ``22:00`` is 1320. Only
null, ``~`` and an empty value without quotes become None. A duplicate key is an error, because one of its values would
be lost silently. Top-level blocks named ``x-…`` are dropped: they hold anchors, as in Compose files.

A file has limits (``MAX_…``), so that no file costs the process more than a second or its memory. Each limit is checked
before what exceeds it is made.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from wavelift.rules.problem import MAX_PROBLEMS, Problem, quoted
from wavelift.rules.problem import Path as Place
from wavelift.specs.issues import Issue, excerpt, shown
from wavelift.specs.syntax import explained

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # pragma: no cover - a PyYAML built without libyaml: same result, five times slower
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

_PLAIN: Final = "plain"
"""Our tag for a scalar without quotes. Only such a scalar can be None."""
_MERGE: Final = "merge"
_TEXT: Final = "tag:yaml.org,2002:str"
_NOTHING: Final = frozenset(("", "~", "null", "Null", "NULL"))
MAX_BYTES: Final = 512 * 1024
"""A wave of 150 servers with ten tags each has 60 KiB."""
MAX_VALUES: Final = 20_000
"""Keys and values of a file, with each alias counted as often as it is used. 150 servers with all tags have 16,000."""
MAX_DEPTH: Final = 32
"""Maximum levels of nesting. A spec needs six."""
ANCHORS: Final = "x-"
"""Prefix of the names of top-level blocks that only hold anchors."""
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Characters that no database and no terminal takes as text. YAML has escapes for them."""


class _LimitError(yaml.YAMLError):
    """The file exceeds a limit. ``line`` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _too_many(node: yaml.Node, why: str) -> NoReturn:
    raise _LimitError(
        node.start_mark.line + 1,
        f"more than {MAX_VALUES} values up to here{why}; remove what the spec does not need, or split it",
    )


def _too_deep(node: yaml.Node) -> NoReturn:
    raise _LimitError(node.start_mark.line + 1, f"more than {MAX_DEPTH} levels of nesting; a spec needs six")


class _Loader(_SafeLoader):
    """Composes nodes without resolving types: YAML 1.1's rules took a third of the time and give wrong results."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return ""
        if not implicit[0]:
            return _TEXT
        return _MERGE if value == "<<" else _PLAIN

    # The composer calls these two methods around each node, but not around an alias. It recurses in C, so a very deep
    # file would crash the process.
    depth = 0
    values = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        self.depth += 1
        self.values += 1
        if self.depth > MAX_DEPTH:
            _too_deep(current_node)
        if self.values > MAX_VALUES:
            items = current_node.value
            _too_many(
                current_index if isinstance(current_index, yaml.Node) else items[-1] if items else current_node, ""
            )

    def ascend_resolver(self) -> None:
        self.depth -= 1


def read_file(path: Path) -> bytes:
    """The content of a regular file: at most one byte more than ``MAX_BYTES``.

    A pipe or a device could block the reader, or never end.

    :raises OSError: if it can't be read, or is no regular file.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"it is not a regular file; write the spec into a file named '{path.name}'")
        return file.read(MAX_BYTES + 1)


class Document:
    """One file: ``value`` (None if it can't be read), and ``issues`` with its syntax problems."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.text = ""
        self.value: dict[str, Any] | None = None
        self.issues: list[Issue] = []
        self._root: yaml.Node | None = None
        self._converter: _Converter | None = None
        try:
            content = read_file(path) if text is None else text.encode()
            if len(content) > MAX_BYTES:
                raise _LimitError(
                    content[:MAX_BYTES].count(b"\n") + 1,
                    f"more than {MAX_BYTES // 1024} KiB up to here; remove what the spec does not need, or split it",
                )
            self.text = content.decode()
            self._root = yaml.compose(self.text, Loader=_Loader)
            self._convert()
        except OSError as error:
            self._add(0, f"can't be read: {error.strerror or error}")
        except UnicodeError as error:
            self._add(0, f"is not UTF-8: {_wrong_byte(error)}")
        except _LimitError as error:
            self._add(error.line, str(error))
        except yaml.MarkedYAMLError as error:
            mistake = explained(error, self.text, _Loader)
            self._add(mistake.line + 1, mistake.message, column=mistake.column)
        except yaml.YAMLError as error:  # a control character
            self._add(0, f"is not YAML: {' '.join(str(error).split())}")

    def issue(self, problem: Problem) -> Issue:
        """``problem`` with file and line."""
        return Issue(shown(self.path), self.line_of(problem.path), problem.path, problem.message)

    def line_of(self, path: Place) -> int:
        """The line of a key or item. If it is missing, the line of what should contain it."""
        node = self._root
        line = node.start_mark.line if node else 0
        for step in path:
            found = self._child(node, step)
            if found is None:
                break
            line, node = found
        return line + 1

    def _child(self, node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
        """Line (from 0) and node of the child at ``step``."""
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            item = node.value[step]
            return item.start_mark.line, item
        if isinstance(node, yaml.MappingNode) and isinstance(step, str) and self._converter:
            pair = self._converter.pairs(node, ()).get(step)
            return (pair[0].start_mark.line, pair[1]) if pair else None
        return None

    def _add(self, line: int, message: str, path: Place = (), *, column: int | None = None) -> None:
        """Note an issue. With ``column`` (from 0), its line of the file is kept to be shown."""
        lines = [] if column is None else self.text.splitlines()
        source = excerpt(lines[line - 1], column) if column is not None and 0 < line <= len(lines) else ()
        self.issues.append(Issue(shown(self.path), line, path, message, source))

    def _convert(self) -> None:
        if not isinstance(self._root, yaml.MappingNode):
            what = "is empty" if self._root is None else "must be a mapping ('key: value' lines) at its top level"
            self._add(1, f"the file {what}")
            return
        self._converter = converter = _Converter(escapes="\\" in self.text)
        whole = converter.convert(self._root, ())
        if "*" in self.text:
            converter.measure(self._root)
        self.value = {key: value for key, value in whole.items() if not key.startswith(ANCHORS)}
        for line, column, path, message in converter.found:
            self._add(line, message, path, column=column)


_Pairs = dict[str, tuple[yaml.Node, yaml.Node]]
"""The fields of a mapping: name → the nodes of key and value."""


class _Converter:
    """Converts each node once, however many aliases name it.

    :param escapes: whether a scalar may contain what the file itself does not.
    """

    def __init__(self, *, escapes: bool) -> None:
        self.found: list[tuple[int, int, Place, str]] = []
        """Line (from 1), column (from 0), path and message of each problem."""
        self._escapes = escapes
        self._done: dict[int, Any] = {}
        self._pairs: dict[int, _Pairs] = {}
        self._open: set[int] = set()
        self._merged = 0
        self._sizes: dict[int, tuple[int, int]] = {}

    def convert(self, node: yaml.Node, path: Place) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        key = id(node)
        if key in self._done:
            return self._done[key]
        if not self._enter(node, path):
            return None
        value: Any
        if isinstance(node, yaml.SequenceNode):
            if node.tag:
                self._refuse_tag(node, path)
            value = [self.convert(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            pairs = self.pairs(node, path)
            value = {name: self.convert(item, (*path, name)) for name, (_, item) in pairs.items()}
        self._open.discard(key)
        self._done[key] = value
        return value

    def measure(self, node: yaml.Node) -> tuple[int, int]:
        """The number of values and the levels of nesting, if each alias is replaced by what it stands for.

        :raises _LimitError: if they exceed a limit.
        """
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        key = id(node)
        if key in self._sizes:
            return self._sizes[key]
        self._sizes[key] = 0, 0  # what contains itself is an issue, and None in its value
        if isinstance(node, yaml.SequenceNode):
            names, parts = 0, [self.measure(item) for item in node.value]
        else:
            pairs = self.pairs(node, ())
            names, parts = len(pairs), [self.measure(item) for _, item in pairs.values()]
        size = 1 + names + sum(count for count, _ in parts)
        depth = 1 + max((levels for _, levels in parts), default=0)
        if size > MAX_VALUES:
            _too_many(node, " if each alias is replaced by what it stands for")
        if depth > MAX_DEPTH:
            _too_deep(node)
        self._sizes[key] = size, depth
        return size, depth

    def pairs(self, node: yaml.Node, path: Place) -> _Pairs:
        """The fields of a mapping, with those that ``<<`` merges into it. Its own fields win, then the first merge."""
        key = id(node)
        if (done := self._pairs.get(key)) is not None:
            return done
        if node.tag:
            self._refuse_tag(node, path)
        own: _Pairs = {}
        merged: _Pairs = {}
        for pair in node.value:
            name = pair[0]
            if name.tag == _MERGE:
                self._merge(pair, path, merged)
            elif not isinstance(name, yaml.ScalarNode):
                self._add(name, path, "a key must be plain text")
            elif name.value in own:
                line = own[name.value][0].start_mark.line + 1
                words = f"duplicate key {quoted(name.value)}, first on line {line}; remove one"
                self._add(name, (*path, name.value), words)
            else:
                if name.tag not in (_PLAIN, _TEXT):
                    self._refuse_tag(name, path)
                if self._escapes:
                    self._refuse_control(name, path)
                own[name.value] = pair
        result = self._pairs[key] = {**merged, **own} if merged else own
        return result

    def _merge(self, pair: tuple[yaml.Node, yaml.Node], path: Place, into: _Pairs) -> None:
        """Add the fields of the mapping, or of the list of mappings, that ``<<`` names. What is there already wins."""
        key, node = pair
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(item, yaml.MappingNode):
                self._add(item, path, "'<<' can merge only mappings")
            elif self._enter(item, path):
                pairs = self.pairs(item, path)
                self._open.discard(id(item))
                self._merged += 1 + len(pairs)
                if self._merged > MAX_VALUES:
                    _too_many(key, " if each '<<' is replaced by what it merges")
                for name, found in pairs.items():
                    into.setdefault(name, found)

    def _enter(self, node: yaml.Node, path: Place) -> bool:
        """Mark the node as open: what is in it is being read. False: it is open already, so it contains itself."""
        if id(node) in self._open:
            self._add(node, path, "an alias contains itself")
            return False
        if len(self._open) > MAX_DEPTH:
            _too_deep(node)
        self._open.add(id(node))
        return True

    def _scalar(self, node: yaml.ScalarNode, path: Place) -> Any:
        tag, text = node.tag, str(node.value)
        if tag == _PLAIN:
            return None if text in _NOTHING else text
        if self._escapes:
            self._refuse_control(node, path)
        if tag not in (_TEXT, _MERGE):
            self._refuse_tag(node, path)
        return text

    def _refuse_control(self, node: yaml.ScalarNode, path: Place) -> None:
        if found := _CONTROL.search(node.value):
            self._add(node, path, f"the character U+{ord(found[0]):04X} is not allowed in a text; remove it")

    def _refuse_tag(self, node: yaml.Node, path: Place) -> None:
        self._add(node, path, f"tag {quoted(node.tag)} is not allowed in a spec")

    def _add(self, node: yaml.Node, path: Place, message: str) -> None:
        if len(self.found) <= MAX_PROBLEMS:
            self.found.append((node.start_mark.line + 1, node.start_mark.column, path, message))


def _wrong_byte(error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is 0x{error.object[error.start]:02x}"
    return "it contains half of a surrogate pair"
