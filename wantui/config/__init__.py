"""Settings: pydantic models, YAML files, presets, keys of the older system. Never imports torch."""

from wantui.config.document import yaml_scalar_text
from wantui.config.load import Config, Option, as_dict, dump, load_config, parse_config
from wantui.config.presets import find_config, preset_directory, preset_names
from wantui.config.problems import ConfigError, Problem
from wantui.config.settings import Settings

__all__ = [
    "Config",
    "ConfigError",
    "Option",
    "Problem",
    "Settings",
    "as_dict",
    "dump",
    "find_config",
    "load_config",
    "parse_config",
    "preset_directory",
    "preset_names",
    "yaml_scalar_text",
]
