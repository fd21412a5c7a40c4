"""Settings: pydantic models, YAML in and out, presets, the older system's keys. No torch here."""

from wantui.config.document import text_of_yaml
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
    "text_of_yaml",
]
