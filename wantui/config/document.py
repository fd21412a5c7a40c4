"""Read a YAML document of limited size: containers of unconverted scalars, and the line of every key.

YAML 1.1 guesses the type of an unquoted scalar: `042` is 34, `1:30` is 90, `no` is false. Here a scalar keeps its text,
and `wantui.config.values` converts the text to the declared type of the setting.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wantui import text_files
from wantui.config.problems import ConfigError, Problem
from wantui.formatting import shorten_text
from wantui.text_files import TextFileError

MAX_CONFIG_BYTES = 1_000_000
"""Longest config, in bytes."""
MAX_DEPTH = 20
"""Deepest nesting of mappings and lists."""
MAX_NODES = 10_000
"""Maximum number of keys and values in a config, with every expansion of an alias counted."""
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's C loader if available: the application parses several configs while it draws a screen."""
PARSE_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
"""Exceptions that the C and Python loaders of PyYAML raise for invalid YAML."""
CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
"""Tags that YAML gives to scalars by itself; they are ignored in favour of the declared type of the setting."""
TEXT_TAG, MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
COLLECTION_TAGS = frozenset(("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))
"""Tags that YAML gives to mappings and lists by itself."""
NULL_WORDS = ("", "~", "null", "Null", "NULL")
BOOLEAN_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
Key = tuple[str, ...]


@dataclass(frozen=True)
class Scalar:
    """A scalar of a document, with its text unconverted."""

    text: str
    is_quoted: bool

    @property
    def is_null(self) -> bool:
        return not self.is_quoted and self.text in NULL_WORDS


@dataclass(frozen=True)
class Document:
    """A mapping of keys to scalars, lists and mappings, with the line of each key, counted from 1."""

    values: dict[str, Any]
    lines: dict[Key, int]
    duplicates: tuple[tuple[Key, int], ...]
    """Keys that occur again in the same mapping, and the line of that occurrence, whose value is used."""


def read_text(path: Path, *, may_be_pipe: bool = False) -> str:
    """Return the text of a config file.

    Args:
        may_be_pipe: accept a pipe, and wait for its end.

    Raises:
        ConfigError: the file cannot be read, is larger than MAX_CONFIG_BYTES, or is not UTF-8.
    """
    try:
        return text_files.read_text_file(path, MAX_CONFIG_BYTES, may_be_pipe=may_be_pipe)
    except TextFileError as error:
        raise ConfigError([Problem(path, None, "", error.reason)]) from None


def read_document(text: str, source: Path | str) -> Document:
    """Parse YAML text to a document; an empty text is an empty mapping.

    Raises:
        ConfigError: the text is not YAML or not a mapping, or exceeds MAX_CONFIG_BYTES, MAX_DEPTH or MAX_NODES.
    """
    _check_size(len(text), source)
    try:
        text.encode()  # fails for lone surrogates, which the two loaders treat differently
        _check_bounds(text, source)
        node = yaml.compose(text, Loader=YAML_LOADER)
        if node is None:
            return Document({}, {}, ())
        if not isinstance(node, yaml.MappingNode):
            raise _config_error(source, 1, "not a mapping of keys to values, such as `seed: 42`")
        return _NodeConverter(source).convert_document(node)
    except PARSE_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        if reason.startswith("but ") and (context := getattr(error, "context", None)):
            reason = f"{context}, {reason}"  # PyYAML splits this sentence
        raise _config_error(source, mark.line + 1 if mark else None, f"not valid YAML: {reason}") from None


def format_yaml_scalar(text: str) -> str:
    """Return the text of a YAML scalar for `parse_value`; return other YAML unchanged."""
    try:
        node = yaml.compose(text, Loader=YAML_LOADER)
    except PARSE_ERRORS:
        return text
    return str(node.value) if isinstance(node, yaml.ScalarNode) else text


def to_plain(value: Any) -> Any:
    """Convert a value without a declared type: scalars become text, booleans or None."""
    match value:
        case Scalar():
            if value.is_null:
                return None
            return value.text if value.is_quoted else BOOLEAN_WORDS.get(value.text.lower(), value.text)
        case dict():
            return {key: to_plain(item) for key, item in value.items()}
        case list():
            return [to_plain(item) for item in value]
    return value


def _check_size(size: int, source: Path | str) -> None:
    if size > MAX_CONFIG_BYTES:
        raise _config_error(source, None, f"too large for a config: more than {MAX_CONFIG_BYTES // 1000:,} kB")


def _check_bounds(text: str, source: Path | str) -> None:
    """Refuse text whose nodes would take long to compose or exhaust the stack; parsing its events is safe."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=YAML_LOADER):
        nodes += isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            mark = event.start_mark
            raise _too_large_error(source, mark.line + 1 if mark else None, depth > MAX_DEPTH)


def _too_large_error(source: Path | str, line: int | None, is_too_deep: bool) -> ConfigError:
    if is_too_deep:
        reason = f"nested more than {MAX_DEPTH} levels deep, or an alias contains itself"
        return _config_error(source, line, f"not valid YAML for a config: {reason}")
    return _config_error(source, line, f"too large for a config: more than {MAX_NODES:,} values, with aliases expanded")


def _config_error(source: Path | str, line: int | None, message: str) -> ConfigError:
    return ConfigError([Problem(source, line, "", shorten_text(message))])


class _NodeConverter:
    """Converter of YAML nodes to containers of scalars; counts the nodes of an alias at every use."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.nodes = 0
        self.lines: dict[Key, int] = {}
        self.duplicates: list[tuple[Key, int]] = []

    def convert_document(self, node: yaml.MappingNode) -> Document:
        values = self._convert_mapping(node, ())
        return Document(values, self.lines, tuple(self.duplicates))

    def _convert_node(self, node: yaml.Node, key: Key, depth: int) -> Any:
        self._count_node(node, depth)
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, COLLECTION_TAGS)
            return [self._convert_node(item, key, depth + 1) for item in node.value]
        assert isinstance(node, yaml.ScalarNode)
        return self._convert_scalar(node)

    def _convert_mapping(self, node: yaml.MappingNode, parent: Key, depth: int = 0) -> dict[str, Any]:
        self._check_tag(node, COLLECTION_TAGS)
        # First, so that a key of the mapping itself keeps its own line.
        values = self._convert_merged(node, parent, depth)
        seen_names: set[str] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _config_error(self.source, line, "not valid YAML for a config: a key that is not text")
            if key_node.tag == MERGE_TAG:
                continue
            self._count_node(key_node, depth)
            self._check_tag(key_node, CORE_TAGS)
            name = str(key_node.value)
            key = (*parent, name)
            if name in seen_names:
                self.duplicates.append((key, line))
            seen_names.add(name)
            self.lines[key] = line
            values[name] = self._convert_node(value_node, key, depth + 1)
        return values

    def _convert_merged(self, node: yaml.MappingNode, parent: Key, depth: int) -> dict[str, Any]:
        """Return the values after `<<:`, a mapping or a list of mappings, of which the first has precedence."""
        pairs = [pair for pair in node.value if pair[0].tag == MERGE_TAG]
        if len(pairs) > 1:
            reason = "<< occurs twice in a mapping; write <<: [*first, *second]"
            raise _config_error(self.source, pairs[1][0].start_mark.line + 1, f"not valid YAML for a config: {reason}")
        values: dict[str, Any] = {}
        for _, merged in pairs:
            for item in reversed(merged.value if isinstance(merged, yaml.SequenceNode) else [merged]):
                if not isinstance(item, yaml.MappingNode):
                    line = item.start_mark.line + 1
                    raise _config_error(self.source, line, "not valid YAML: << is not followed by a mapping")
                self._count_node(item, depth)
                values |= self._convert_mapping(item, parent, depth + 1)
        return values

    def _convert_scalar(self, node: yaml.ScalarNode) -> Scalar:
        self._check_tag(node, CORE_TAGS)
        text = str(node.value)
        # An explicit tag of text, as in `!!str null`, is the only way in which a plain null gets it.
        return Scalar(text, is_quoted=bool(node.style) or (node.tag == TEXT_TAG and text in NULL_WORDS))

    def _check_tag(self, node: yaml.Node, supported: frozenset[str]) -> None:
        if node.tag not in supported:
            reason = f"not valid YAML for a config: the tag {node.tag} is not supported. Remove it"
            raise _config_error(self.source, node.start_mark.line + 1, reason)

    def _count_node(self, node: yaml.Node, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _too_large_error(self.source, node.start_mark.line + 1, depth > MAX_DEPTH)
