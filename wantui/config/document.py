"""Read a YAML document of limited size: containers of unconverted scalars, and the line of every key.

YAML 1.1 guesses the type of an unquoted scalar: `042` is 34, `1:30` is 90, `no` is false. Here a scalar keeps its text,
and `wantui.config.values` converts the text to the declared type of the setting.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wantui import text_files
from wantui.config.problems import ConfigError, ConfigProblem
from wantui.config.yaml_errors import describe_yaml_error
from wantui.formatting import shorten_text
from wantui.text_files import TextFileError

MAX_CONFIG_BYTES = 1_000_000
"""Longest config, in bytes."""
MAX_NESTING_DEPTH = 20
"""Deepest nesting of mappings and lists."""
MAX_YAML_NODES = 10_000
"""Maximum number of keys and values in a config, with every expansion of an alias counted."""
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's C loader if available: the application parses several configs while it draws a screen."""
YAML_PARSE_ERRORS = (
    yaml.YAMLError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    RecursionError,
)
"""Exceptions that PyYAML's C and Python loaders raise for invalid YAML."""
SCALAR_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
"""Tags that YAML gives to scalars by itself; they are ignored in favour of the declared type of the setting."""
TEXT_TAG, MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
COLLECTION_TAGS = frozenset(("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))
"""Tags that YAML gives to mappings and lists by itself."""
NULL_WORDS = ("", "~", "null", "Null", "NULL")
KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class YamlScalar:
    """A scalar of a document, with its text unconverted."""

    text: str
    is_quoted: bool

    @property
    def is_null(self) -> bool:
        return not self.is_quoted and self.text in NULL_WORDS


@dataclass(frozen=True)
class YamlDocument:
    """A mapping of keys to scalars, lists and mappings, with the line of each key, counted from 1."""

    values: dict[str, Any]
    line_by_key: dict[KeyPath, int]
    duplicate_keys: tuple[tuple[KeyPath, int], ...]
    """Keys that occur again in the same mapping, and the line of the last occurrence, which determines the value."""


def read_config_text(path: Path, *, may_be_pipe: bool = False) -> str:
    """Return the text of a config file.

    Args:
        may_be_pipe: accept a pipe, and wait for its end.

    Raises:
        ConfigError: the file cannot be read, is larger than MAX_CONFIG_BYTES, or is not UTF-8.
    """
    try:
        return text_files.read_text_file(path, MAX_CONFIG_BYTES, may_be_pipe=may_be_pipe)
    except TextFileError as error:
        raise ConfigError([ConfigProblem(path, None, "", error.reason)]) from error


def parse_yaml_document(text: str, source: Path | str) -> YamlDocument:
    """Parse YAML text to a document; an empty text is an empty mapping.

    Raises:
        ConfigError: the text is not YAML or not a mapping, or exceeds MAX_CONFIG_BYTES, MAX_NESTING_DEPTH or
            MAX_YAML_NODES.
    """
    _check_text_length(len(text), source)
    try:
        text.encode()  # fails for lone surrogates, which the two loaders treat differently
        _check_node_limits(text, source)
        root_node = yaml.compose(text, Loader=YAML_LOADER)
        if root_node is None:
            return YamlDocument({}, {}, ())
        if not isinstance(root_node, yaml.MappingNode):
            raise _make_config_error(source, 1, "not a mapping of keys to values, such as `videos_per_variation: 3`")
        return _NodeConverter(source).convert_root_node(root_node)
    except YAML_PARSE_ERRORS as error:
        line, reason = describe_yaml_error(error, text)
        raise _make_config_error(source, line, f"not valid YAML: {reason}") from None


def format_yaml_scalar(text: str) -> str:
    """Return the text of a YAML scalar for `parse_setting_value`; return other YAML unchanged."""
    try:
        node = yaml.compose(text, Loader=YAML_LOADER)
    except YAML_PARSE_ERRORS:
        return text
    return str(node.value) if isinstance(node, yaml.ScalarNode) else text


def convert_to_plain_value(value: Any) -> Any:
    """Convert the scalars of a value to text or None; `parse_field_text` converts the text to the declared types."""
    match value:
        case YamlScalar():
            return None if value.is_null else value.text
        case dict():
            return {key: convert_to_plain_value(item) for key, item in value.items()}
        case list():
            return [convert_to_plain_value(item) for item in value]
    return value


def _check_text_length(text_length: int, source: Path | str) -> None:
    if text_length > MAX_CONFIG_BYTES:
        raise _make_config_error(source, None, f"too large for a config: more than {MAX_CONFIG_BYTES // 1000:,} kB")


def _check_node_limits(text: str, source: Path | str) -> None:
    """Reject text whose nodes would take long to compose or exhaust the stack, by counting its events first."""
    depth = node_count = 0
    for event in yaml.parse(text, Loader=YAML_LOADER):
        node_count += isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_NESTING_DEPTH or node_count > MAX_YAML_NODES:
            event_mark = event.start_mark
            raise _make_size_error(source, event_mark.line + 1 if event_mark else None, depth > MAX_NESTING_DEPTH)


def _make_size_error(source: Path | str, line: int | None, is_too_deep: bool) -> ConfigError:
    if is_too_deep:
        reason = f"nested more than {MAX_NESTING_DEPTH} levels deep, or an alias contains itself"
        return _make_config_error(source, line, f"not valid YAML for a config: {reason}")
    return _make_config_error(
        source, line, f"too large for a config: more than {MAX_YAML_NODES:,} values, with aliases expanded"
    )


def _make_config_error(source: Path | str, line: int | None, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(source, line, "", shorten_text(message))])


class _NodeConverter:
    """Converter of YAML nodes to containers of scalars; counts the nodes of an alias at every use."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.node_count = 0
        self.line_by_key: dict[KeyPath, int] = {}
        self.duplicate_keys: list[tuple[KeyPath, int]] = []

    def convert_root_node(self, node: yaml.MappingNode) -> YamlDocument:
        values = self._convert_mapping(node, ())
        return YamlDocument(values, self.line_by_key, tuple(self.duplicate_keys))

    def _convert_node(self, node: yaml.Node, key: KeyPath, depth: int) -> Any:
        self._count_and_limit_node(node, depth)
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            self._reject_unsupported_tag(node, COLLECTION_TAGS)
            return [self._convert_node(item, key, depth + 1) for item in node.value]
        assert isinstance(node, yaml.ScalarNode)
        return self._convert_scalar(node)

    def _convert_mapping(self, node: yaml.MappingNode, parent_key: KeyPath, depth: int = 0) -> dict[str, Any]:
        self._reject_unsupported_tag(node, COLLECTION_TAGS)
        # First, so that a key of the mapping itself keeps its own line.
        values = self._convert_merge_keys(node, parent_key, depth)
        seen_names: set[str] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _make_config_error(self.source, line, "not valid YAML for a config: a key that is not text")
            if key_node.tag == MERGE_TAG:
                continue
            self._count_and_limit_node(key_node, depth)
            self._reject_unsupported_tag(key_node, SCALAR_TAGS)
            name = str(key_node.value)
            key = (*parent_key, name)
            if name in seen_names:
                self.duplicate_keys.append((key, line))
            seen_names.add(name)
            self.line_by_key[key] = line
            values[name] = self._convert_node(value_node, key, depth + 1)
        return values

    def _convert_merge_keys(self, node: yaml.MappingNode, parent_key: KeyPath, depth: int) -> dict[str, Any]:
        """Return the values after `<<:`, a mapping or a list of mappings; the first mapping has precedence."""
        merge_pairs = [pair for pair in node.value if pair[0].tag == MERGE_TAG]
        if len(merge_pairs) > 1:
            reason = "<< occurs twice in a mapping; write <<: [*first, *second]"
            raise _make_config_error(
                self.source, merge_pairs[1][0].start_mark.line + 1, f"not valid YAML for a config: {reason}"
            )
        values: dict[str, Any] = {}
        for _, merge_value in merge_pairs:
            for merged_node in reversed(
                merge_value.value if isinstance(merge_value, yaml.SequenceNode) else [merge_value]
            ):
                if not isinstance(merged_node, yaml.MappingNode):
                    line = merged_node.start_mark.line + 1
                    raise _make_config_error(self.source, line, "not valid YAML: << is not followed by a mapping")
                self._count_and_limit_node(merged_node, depth)
                values |= self._convert_mapping(merged_node, parent_key, depth + 1)
        return values

    def _convert_scalar(self, node: yaml.ScalarNode) -> YamlScalar:
        self._reject_unsupported_tag(node, SCALAR_TAGS)
        text = str(node.value)
        # An explicit tag of text, as in `!!str null`, is the only way in which a plain null gets it.
        return YamlScalar(text, is_quoted=bool(node.style) or (node.tag == TEXT_TAG and text in NULL_WORDS))

    def _reject_unsupported_tag(self, node: yaml.Node, supported_tags: frozenset[str]) -> None:
        if node.tag not in supported_tags:
            reason = f"not valid YAML for a config: the tag {node.tag} is not supported. Remove it"
            raise _make_config_error(self.source, node.start_mark.line + 1, reason)

    def _count_and_limit_node(self, node: yaml.Node, depth: int) -> None:
        self.node_count += 1
        if self.node_count > MAX_YAML_NODES or depth > MAX_NESTING_DEPTH:
            raise _make_size_error(self.source, node.start_mark.line + 1, depth > MAX_NESTING_DEPTH)
