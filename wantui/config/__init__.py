"""Settings: pydantic models, YAML files, presets, keys of the older system. Never imports torch."""

from wantui.config.document import format_yaml_scalar
from wantui.config.dump import convert_settings_to_dict, dump_settings
from wantui.config.load import Config, OptionValue, load_config, parse_config
from wantui.config.presets import find_config_path, find_preset_directory, list_preset_names
from wantui.config.problems import ConfigError, ConfigProblem
from wantui.config.settings import Settings

__all__ = [
    "Config",
    "ConfigError",
    "ConfigProblem",
    "OptionValue",
    "Settings",
    "convert_settings_to_dict",
    "dump_settings",
    "find_config_path",
    "find_preset_directory",
    "format_yaml_scalar",
    "list_preset_names",
    "load_config",
    "parse_config",
]
