"""Settings: pydantic models, YAML files, presets, keys of the older system. Never imports torch."""

from wantui.config.document import format_yaml_scalar
from wantui.config.load import Config, Option, dump, load_config, parse_config, to_dict
from wantui.config.presets import find_config, find_preset_directory, list_preset_names
from wantui.config.problems import ConfigError, Problem
from wantui.config.settings import Settings

__all__ = [
    "Config",
    "ConfigError",
    "Option",
    "Problem",
    "Settings",
    "dump",
    "find_config",
    "find_preset_directory",
    "format_yaml_scalar",
    "list_preset_names",
    "load_config",
    "parse_config",
    "to_dict",
]
