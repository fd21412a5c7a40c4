"""Read a YAML document within bounds: plain containers with scalars as they are written, and the line of every key.

YAML 1.1 gives unquoted scalars a meaning by their look: `042` is 34, `1:30` is 90, `no` is false. A setting has a
declared type, and `wantui.config.values` reads its text by that; here scalars keep their text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wantui import text_files
from wantui.config.problems import ConfigError, Problem
from wantui.formatting import shorten
from wantui.text_files import TextFileError

MAX_BYTES = 1_000_000
"""Longest config, in bytes."""
MAX_DEPTH = 20
"""Deepest nesting of mappings and lists."""
MAX_NODES = 10_000
"""Maximum number of keys and values in a config, counting each alias expansion."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's loader in C where it was built: eight configs are summarised while a screen is drawn."""
NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
"""Exceptions of PyYAML, with its loaders in C and in Python, for text that is not YAML."""
CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
"""Tags of scalars that YAML resolves itself; `values` uses the declared type of a setting instead."""
NULLS = ("", "~", "null", "Null", "NULL")
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
Key = tuple[str, ...]


@dataclass(frozen=True)
class Scalar:
    """One scalar of a document, as it is written."""

    text: str
    quoted: bool

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text in NULLS


@dataclass(frozen=True)
class Document:
    """A mapping of keys to scalars, lists and mappings, with lines that count from 1."""

    values: dict[str, Any]
    lines: dict[Key, int]
    repeated: tuple[tuple[Key, int], ...]
    """Keys that are written twice in one mapping, and the line that counts."""


def read_text(path: Path, *, may_be_pipe: bool = False) -> str:
    """Return the text of a config file of at most MAX_BYTES.

    Args:
        may_be_pipe: accept a pipe, and wait for its end.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        return text_files.read_text(path, MAX_BYTES, may_be_pipe=may_be_pipe)
    except TextFileError as error:
        raise ConfigError([Problem(path, None, "", error.reason)]) from None


def read_document(text: str, source: Path | str) -> Document:
    """Read a mapping from a YAML text; an empty text is an empty mapping.

    Raises:
        ConfigError: it is not YAML, not a mapping, or larger than the bounds.
    """
    _check_size(len(text), source)
    try:
        text.encode()  # lone surrogates, which the loaders take in different ways
        _check_bounds(text, source)
        node = yaml.compose(text, Loader=LOADER)
        if node is None:
            return Document({}, {}, ())
        if not isinstance(node, yaml.MappingNode):
            raise _fault(source, 1, "not a mapping of sections or keys, such as model_settings:")
        return _Walk(source).document(node)
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        raise _fault(source, mark.line + 1 if mark else None, f"not valid YAML: {reason}") from None


def text_of_yaml(text: str) -> str:
    """Return the text of a YAML scalar, for `value_from_text`; other values are unchanged."""
    try:
        node = yaml.compose(text, Loader=LOADER)
    except NOT_YAML:
        return text
    return str(node.value) if isinstance(node, yaml.ScalarNode) else text


def plain(value: Any) -> Any:
    """Return a value of a document without a declared type: text, true, false, None, lists and mappings."""
    match value:
        case Scalar():
            if value.is_null:
                return None
            return value.text if value.quoted else BOOLEANS.get(value.text.lower(), value.text)
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
    return value


def _check_size(size: int, source: Path | str) -> None:
    if size > MAX_BYTES:
        raise _fault(source, None, f"too large for a config: more than {MAX_BYTES // 1000:,} kB")


def _check_bounds(text: str, source: Path | str) -> None:
    """Refuse what would take long or exhaust the stack when it is composed; reading events takes neither."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=LOADER):
        nodes += isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            mark = event.start_mark
            raise _too_large(source, mark.line + 1 if mark else None, depth > MAX_DEPTH)


def _too_large(source: Path | str, line: int | None, deep: bool) -> ConfigError:
    if deep:
        return _fault(source, line, f"not valid YAML for a config: nested more than {MAX_DEPTH} deep")
    return _fault(
        source, line, f"too large for a config: more than {MAX_NODES:,} values, with those that aliases repeat"
    )


def _fault(source: Path | str, line: int | None, message: str) -> ConfigError:
    return ConfigError([Problem(source, line, "", shorten(message))])


class _Walk:
    """Converter of composed nodes to plain containers; content repeated by an alias counts every time."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.nodes = 0
        self.lines: dict[Key, int] = {}
        self.repeated: list[tuple[Key, int]] = []

    def document(self, node: yaml.MappingNode) -> Document:
        values = self._mapping(node, ())
        return Document(values, self.lines, tuple(self.repeated))

    def _value(self, node: yaml.Node, key: Key, depth: int) -> Any:
        self._count(node, depth)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, key, depth + 1) for item in node.value]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, above: Key, depth: int = 0) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        values: dict[str, Any] = {}
        line_of: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _fault(self.source, line, "not valid YAML for a config: a key that is not text")
            self._count(key_node, depth)
            if key_node.tag == "tag:yaml.org,2002:merge":
                for mapping in self._merged(value_node, above, depth):
                    merged = mapping | merged  # the first one wins
                continue
            name = str(key_node.value)
            key = (*above, name)
            if name in line_of:
                self.repeated.append((key, line))
            line_of[name] = self.lines[key] = line
            values[name] = self._value(value_node, key, depth + 1)
        return merged | values

    def _merged(self, node: yaml.Node, above: Key, depth: int) -> Iterator[dict[str, Any]]:
        """Yield the mappings that `<<:` names: one, or a list of them."""
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(item, yaml.MappingNode):
                raise _fault(self.source, item.start_mark.line + 1, "not valid YAML: << is not followed by a mapping")
            self._count(item, depth)
            yield self._mapping(item, above, depth + 1)

    def _scalar(self, node: yaml.ScalarNode) -> Scalar:
        if node.tag not in CORE_TAGS:
            reason = f"not valid YAML for a config: the tag {node.tag} has no meaning here"
            raise _fault(self.source, node.start_mark.line + 1, reason)
        return Scalar(str(node.value), node.style is not None and node.style != "")

    def _count(self, node: yaml.Node, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _too_large(self.source, node.start_mark.line + 1, depth > MAX_DEPTH)
