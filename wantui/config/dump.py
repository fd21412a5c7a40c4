"""Settings as JSON values and as YAML."""

from collections.abc import Mapping
from typing import Any

import yaml

from wantui.config.settings import Settings
from wantui.formatting import UNPRINTABLE_PATTERN, escape_unprintable
from wantui.section import CONFIG_FILE_CONTEXT

OMITTED_IF_DEFAULT = ("seeds", "sweeps", "sweeps_baseline", "sweeps_skip_impossible", "primary_metric")
"""Settings that stored configs omit at their default, so that files equal the files of earlier versions."""


def convert_settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values, in the order of the config file, without empty sections."""
    values = settings.model_dump(mode="json", context=CONFIG_FILE_CONTEXT)
    return {
        name: value
        for name, value in values.items()
        if value != {} and not (name in OMITTED_IF_DEFAULT and value in (None, False))
    }


def dump_settings(settings: Settings) -> str:
    """Return the settings as YAML that loads to the same settings, with control characters escaped."""
    return dump_settings_values(convert_settings_to_dict(settings))


def dump_settings_values(values: Mapping[str, Any]) -> str:
    """Return the values of `convert_settings_to_dict` as YAML, with control characters escaped."""
    text = str(yaml.dump(dict(values), Dumper=_SettingsDumper, sort_keys=False, allow_unicode=True))
    return escape_unprintable(text, keep_lines=True)


class _SettingsDumper(yaml.SafeDumper):
    """YAML dumper that double-quotes text with control characters: YAML allows escapes only in double quotes."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        scalar_style = '"' if UNPRINTABLE_PATTERN.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=scalar_style)


_SettingsDumper.add_representer(str, _SettingsDumper.represent_text)
