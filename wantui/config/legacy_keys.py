"""Sections and keys of the older system in a config file: conversion, and what has no counterpart."""

from collections.abc import Callable
from typing import Any

from wantui.config.document import KeyPath, convert_to_plain_value
from wantui.config.key_suggestions import find_section
from wantui.config.legacy_bending import LEGACY_SECTION_KEYS, convert_legacy_section, is_false
from wantui.config.legacy_sweep import LEGACY_SWEEP_SECTION, convert_legacy_sweep
from wantui.config.problems import ConfigProblem
from wantui.controls.attention_bending import ATTENTION_BENDING

IGNORED_SECTIONS = {"output_settings": "diffusion_latent_exploration never read this section"}
"""Sections without effect, and the reason."""


class LegacyKeyConverter:
    """Converter of the older system's sections and keys.

    Args:
        make_problem: returns the problem with a message at a key, which names the key's line or option.
    """

    def __init__(self, make_problem: Callable[[KeyPath, str], ConfigProblem]) -> None:
        self.make_problem = make_problem
        self.warnings: list[ConfigProblem] = []
        self.refusals: list[ConfigProblem] = []

    def convert(self, values: dict[str, Any]) -> None:
        """Convert the sections of a config in place; remove what has no effect here, with a warning or refusal each."""
        for name, section_content in list(values.items()):
            key = (name,)
            if name in IGNORED_SECTIONS:
                del values[name]
                self.warnings.append(self.make_problem(key, f"ignored: {IGNORED_SECTIONS[name]}"))
            elif "memory_settings" in name and name != "memory_settings":
                del values[name]
                self.warnings.append(self.make_problem(key, "ignored: a misspelt memory_settings"))
            elif isinstance(section_content, dict) and (section := find_section(name)):
                if warning := section.convert_former_values(section_content):
                    self.warnings.append(self.make_problem(key, warning))
                for setting_name in [
                    setting_name for setting_name in section_content if setting_name in section.IGNORED_KEYS
                ]:
                    self.warnings.append(
                        self.make_problem((*key, setting_name), f"has no effect: {section.IGNORED_KEYS[setting_name]}")
                    )
                    del section_content[setting_name]
                if name == "prompt_settings":
                    self._drop_weighting_keys(section_content)
                if name == ATTENTION_BENDING.section_key and any(key in section_content for key in LEGACY_SECTION_KEYS):
                    values[name] = self._convert_bending(name, section_content)

        if LEGACY_SWEEP_SECTION in values:  # last, because it replaces the bends
            self._convert_bending_sweep(values, convert_to_plain_value(values.pop(LEGACY_SWEEP_SECTION)))

    def _convert_bending(self, section_name: str, section_content: dict[str, Any]) -> dict[str, Any]:
        """Convert bends of the older system in the section of attention bending; return the converted section."""
        section = convert_legacy_section(convert_to_plain_value(section_content))
        is_disabled = is_false(section.values.get("enabled", True))
        if not is_disabled:
            self.refusals += [self.make_problem((section_name, key), text) for key, text in section.refusals]
        self.warnings += [self.make_problem((section_name, key), text) for key, text in section.warnings]
        unchanged_keys = section.values.keys() & section_content.keys()
        return section.values | {key: section_content[key] for key in unchanged_keys}

    def _convert_bending_sweep(self, values: dict[str, Any], section: Any) -> None:
        """Replace the older system's sweep of bends with an axis of `sweeps`."""
        if not isinstance(section, dict):
            if section is not None:
                message = "should be a section: enabled, generate_baseline and operations"
                self.refusals.append(self.make_problem((LEGACY_SWEEP_SECTION,), message))
            return
        if is_false(section.get("enabled")):
            if section.get("operations") and "enabled" not in section:
                message = "ignored, because diffusion_latent_exploration swept nothing without `enabled: true`"
                self.warnings.append(self.make_problem((LEGACY_SWEEP_SECTION,), message))
            return
        sweep = convert_legacy_sweep(section)
        self.refusals += [self.make_problem((LEGACY_SWEEP_SECTION, "operations"), text) for text in sweep.refusals]
        self.warnings += [self.make_problem((LEGACY_SWEEP_SECTION, "operations"), text) for text in sweep.warnings]
        if not sweep.axis_text:
            return
        bending = values.get("attention_bending_settings")
        if isinstance(bending, dict) and bending.get("bends"):
            message = "the bends of attention_bending_settings are not applied: each cell has one bend of the sweep"
            self.warnings.append(self.make_problem((LEGACY_SWEEP_SECTION,), message))
        values["attention_bending_settings"] = {}
        sweeps = values.get("sweeps")
        other_axes = sweeps if isinstance(sweeps, list) else [sweeps] if sweeps is not None else []
        values["sweeps"] = [*other_axes, sweep.axis_text]
        values.setdefault("sweeps_baseline", sweep.has_baseline)

    def _drop_weighting_keys(self, section_content: dict[str, Any]) -> None:
        """Remove the weighting keys of the older system that have no counterpart here."""
        if convert_to_plain_value(section_content.get("embedding_method")) == "norm_preserving":
            del section_content["embedding_method"]
            message = "norm_preserving never had an effect; the method `attention` is used instead"
            self.warnings.append(self.make_problem(("prompt_settings", "embedding_method"), message))
        if not is_false(convert_to_plain_value(section_content.pop("enable_weighting", None))):
            key = ("prompt_settings", "enable_weighting")
            self.refusals.append(
                self.make_problem(key, "automatic weighting is not supported; write (word:1.5) in the template")
            )
