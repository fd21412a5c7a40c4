"""Numbers, flags and text have one rule in lists, settings files, and files of the older system."""

from pathlib import Path

import pytest

from wantui.config import ConfigError, parse_config
from wantui.config.fields import get_setting_value
from wantui.config.load import Config
from wantui.errors import UserError
from wantui.tui.settings import SETTINGS_PATH_VARIABLE, load_settings

ADAPTER = "{{path: a.safetensors, strength: {}}}"
LEGACY_BEND = """attention_bending_settings:
  enabled: true
  apply_to_output: true
  configs: [{{token: {token}, mode: {mode}, {parameter}}}]
"""


def load_adapter(text: str, is_option: bool) -> Config:
    if is_option:
        return parse_config("", "my.yaml", [f"lora_settings.adapters=[{ADAPTER.format(text)}]"])
    return parse_config(f"lora_settings: {{adapters: [{ADAPTER.format(text)}]}}", "my.yaml")


@pytest.mark.parametrize("is_option", [False, True])
@pytest.mark.parametrize(
    ("text", "strength"), [("010", 10), (".5", 0.5), ("+3", 3), ("1e0", 1), ("-0", 0), ('"2"', 2), ("7.", 7)]
)
def test_numbers_in_lists_are_decimal(text: str, strength: float, is_option: bool) -> None:
    value = load_adapter(text, is_option).settings.lora_settings.adapters[0].strength
    assert (value, str(value)) == (strength, str(float(strength)))


@pytest.mark.parametrize("is_option", [False, True])
@pytest.mark.parametrize("text", ["1_0", '"1_0"', "0x1", "1:30", "NO", "１", "5e-401", "inf"])
def test_other_numbers_in_lists_are_refused(text: str, is_option: bool) -> None:
    with pytest.raises(ConfigError, match=r"strength: should be a number"):
        load_adapter(text, is_option)


@pytest.mark.parametrize(("text", "flag"), [("yes", True), ("NO", False), ("1", True), ('"off"', False)])
def test_flags_in_lists_have_the_words_of_all_flags(text: str, flag: bool) -> None:
    bend = f"{{words: [a], mode: flip, flip_horizontal: {text}}}"
    config = parse_config(f"attention_bending_settings: {{bends: [{bend}]}}", "my.yaml")
    assert config.settings.attention_bending_settings.bends[0].flip_horizontal is flag


@pytest.mark.parametrize("text", ["y", "t", "2", "maybe"])
def test_other_flags_in_lists_are_refused(text: str) -> None:
    bend = f"{{words: [a], mode: flip, flip_horizontal: {text}}}"
    with pytest.raises(ConfigError, match="flip_horizontal: should be yes or no"):
        parse_config(f"attention_bending_settings: {{bends: [{bend}]}}", "my.yaml")


def test_missing_prompts_of_a_schedule_are_refused() -> None:
    with pytest.raises(ConfigError, match=r'schedule\.0: has no value\. Give one, or write "" for an empty text'):
        parse_config("prompt_schedule_settings: {schedule: {0: null, 5: a circle}}", "my.yaml")
    config = parse_config("prompt_schedule_settings: {schedule: {0: '', 5: NO}}", "my.yaml")
    assert get_setting_value(config, "prompt_schedule_settings.schedule") == {"0": "", "5": "NO"}


@pytest.mark.parametrize("token", ["NO", "on", "010", "1_0", "2026-01-01"])
def test_words_of_the_older_system_are_text(token: str) -> None:
    config = parse_config(LEGACY_BEND.format(token=token, mode="amplify", parameter="amplify_factor: 2"), "my.yaml")
    assert config.settings.attention_bending_settings.bends[0].words == (token,)


def test_missing_words_of_the_older_system_are_refused() -> None:
    config = parse_config(LEGACY_BEND.format(token="~", mode="amplify", parameter="amplify_factor: 2"), "my.yaml")
    assert "the bend has no token" in config.refusals[0].message
    operations = "[{operation: blur, target_token: [null]}]"
    config = parse_config(f"attention_bending_variations: {{enabled: true, operations: {operations}}}", "my.yaml")
    assert "the bend has no token" in config.refusals[0].message


@pytest.mark.parametrize("angle", ["1_0", "NO", "0x10", "inf"])
def test_angles_of_the_older_system_are_decimal(angle: str) -> None:
    config = parse_config(LEGACY_BEND.format(token="a", mode="rotate", parameter=f"angle: {angle}"), "my.yaml")
    assert "angle should be a number in decimal digits" in config.refusals[0].message


@pytest.mark.parametrize("word", ["off", "NO", "False", '"false"', "0"])
def test_flags_of_the_older_system_are_false_in_every_spelling(word: str) -> None:
    parameter = f"angle: 10, crop_rotated: {word}, apply_before_softmax: {word}"
    config = parse_config(LEGACY_BEND.format(token="a", mode="rotate", parameter=parameter), "my.yaml")
    assert [problem.message for problem in config.refusals] == [
        "bend 1: cannot convert crop_rotated: false. Add a bend with mode scale before the rotation"
    ]


def test_numbers_of_settings_files_are_decimal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tui.yaml"
    monkeypatch.setenv(SETTINGS_PATH_VARIABLE, str(path))
    path.write_text("preview_seconds: 1_5")
    with pytest.raises(UserError, match="preview_seconds: should be a number in decimal digits, got '1_5'"):
        load_settings()
