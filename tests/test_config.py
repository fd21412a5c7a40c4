"""Configs: files that load, including those of the older system, and the errors for all others."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic._internal._docs_extraction import extract_docstrings_from_cls
from yaml_bombs import YAML_BOMBS

from wantui import __version__
from wantui.config import (
    Config,
    ConfigError,
    OptionValue,
    dump_settings,
    find_preset_directory,
    list_preset_names,
    load_config,
    parse_config,
)
from wantui.config.fields import list_form_fields
from wantui.config.presets import find_config_path, find_example_template
from wantui.config.setting_paths import UNSWEEPABLE_SETTINGS, find_sweepable_setting
from wantui.config.settings import Settings
from wantui.config.speeds import SPEED_BY_FORMER_NAME
from wantui.config.sweep import resolve_sweep_axes
from wantui.config.sweep_syntax import SweepError
from wantui.controls.bend_settings import BendSettings
from wantui.controls.bend_transforms import Amplify
from wantui.errors import UserError
from wantui.planning import plan_batch, preview_batch
from wantui.samplers import REFUSED_SAMPLERS
from wantui.section import ConfigSection, DescribedModel, read_field_descriptions, read_field_docstrings

# As the older system's users have them: dead keys, a misspelt section, sections that nothing read.
OLDER_FILE = """\
model_settings:
  model_id: "Wan-AI/Wan2.1-T2V-14B-Diffusers"
  seed: 42
  sampler: "unipc"
  cfg_scale: 6.5
  steps: 40
  eta: 0.0
  clip_skip: 1
memory_settings:
  enable_memory_optimization: true
  use_gradient_checkpointing: true
memory_settings_2:
  clear_cache_between_videos: true
cfg_schedule_settings:
  enabled: false
  schedule: {0: 6.0, 20: 4.0}
prompt_schedule_settings:
  enabled: false
video_settings:
  width: 832
  height: 480
  fps: 16
  duration: 3.0
  frames: 49
prompt_settings:
  base_weight: 1.0
  variation_weight: 1.2
  enable_prompt_weighting: true
latent_analysis_settings:
  store_latents: true
  storage_interval: 2
  latent_storage_format: "npy"
attention_analysis_settings:
  store_attention: false
  store_per_head: false
attention_bending_settings:
  enabled: false
output_settings:
  save_individual: true
videos_per_variation: 5
output_dir: "outputs"
batch_name: "older"
use_timestamp: true
"""


def config_error(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "my.yaml", overrides)
    return str(caught.value)


def test_unknown_key_error_names_line_and_nearest_key() -> None:
    error = config_error("model_settings:\n  seed: 1\n  step: 20\n")
    assert error == "my.yaml:3: model_settings.step: unknown key; did you mean model_settings.steps?"


def test_key_in_the_wrong_section_suggests_the_right_section() -> None:
    assert "video_settings.fps" in config_error("model_settings:\n  fps: 16\n")
    assert config_error("steps: 20\n") == "my.yaml:1: steps: unknown key; did you mean model_settings.steps?"


def test_unknown_section_error_names_the_nearest_section() -> None:
    assert "did you mean video_settings?" in config_error("vido_settings:\n  fps: 16\n  width: 64\n")
    assert "did you mean video_settings?" in config_error("vido_settings:\n  fps: 16\n")
    assert "did you mean model_settings?" in config_error("model_setings:\n  steps: 16\n")


@pytest.mark.parametrize("text", ["42", "- a", "'x'"])
def test_config_that_is_not_a_mapping_is_refused_with_a_valid_example(text: str) -> None:
    error = config_error(text)
    assert "not a mapping of keys to values, such as `videos_per_variation: 3`" in error
    assert parse_config(error.split("`")[1], "my.yaml").settings.videos_per_variation == 3


def test_dotted_key_in_a_file_is_explained() -> None:
    nested = "unknown key; in a config, write it on two lines: `model_settings:`, then, indented, `steps: VALUE`"
    assert config_error("model_settings.steps: 4\n") == f"my.yaml:1: model_settings.steps: {nested}"
    assert nested in config_error("model_settings:\n  model_settings.steps: 4\n")
    assert "did you mean model_settings.steps?" in config_error("model_settings.stps: 4\n")
    assert "it is now model_settings.revision" in config_error("model_settings.model_revision: x\n")


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("model_settings:\n  steps: many\n", 2, "model_settings.steps"),
        ("model_settings:\n  steps: 0\n", 2, "model_settings.steps"),
        ("model_settings:\n  cfg_scale: .nan\n", 2, "model_settings.cfg_scale"),
        ("model_settings:\n  seed: -1\n", 2, "model_settings.seed"),
        ("model_settings:\n  steps: true\n", 2, "model_settings.steps"),
        ("model_settings:\n  sampler: ddim\n", 2, "model_settings.sampler"),
        ("model_settings:\n  device: gpu\n", 2, "model_settings.device"),
        ("video_settings:\n\n  width: [1, 2]\n", 3, "video_settings.width"),
        ("video_settings: 12\n", 1, "video_settings"),
        ("latent_analysis_settings:\n  storage_dtype: float8\n", 2, "latent_analysis_settings.storage_dtype"),
    ],
)
def test_invalid_value_error_names_line_and_key(text: str, line: int, key: str) -> None:
    assert config_error(text).startswith(f"my.yaml:{line}: {key}: ")
    assert "got " in config_error(text)


def test_all_errors_are_reported_at_once() -> None:
    error = config_error("model_settings:\n  step: 20\n  seed: x\n  sampler: karras\nvideo_settings:\n  hight: 480\n")
    assert sorted(": ".join(line.split(": ")[:2]) for line in error.splitlines()) == [
        "my.yaml:2: model_settings.step",
        "my.yaml:3: model_settings.seed",
        "my.yaml:4: model_settings.sampler",
        "my.yaml:6: video_settings.hight",
    ]


@pytest.mark.parametrize("sampler", REFUSED_SAMPLERS)
def test_samplers_that_give_wrong_videos_are_refused_with_the_reason(sampler: str) -> None:
    error = config_error(f"model_settings:\n  seed: 1\n  sampler: {sampler}\n")
    assert error == f"my.yaml:3: model_settings.sampler: {sampler} is not supported: {REFUSED_SAMPLERS[sampler]}"


@pytest.mark.parametrize(
    "text",
    [
        "model_settings: [",
        "a: b: c",
        "\tmodel_settings: x",
        "model_settings:\n  seed: 1\n seed: 2",
        "key: !!python/x 1",
        "model_settings: &a\n  seed: *a",
        "[" * 5000,
    ],
)
def test_unparsable_yaml_is_a_config_error(text: str) -> None:
    assert "not valid YAML" in config_error(text)


def test_yaml_error_names_its_line() -> None:
    assert config_error("model_settings:\n  seed: 1\n  steps: [2\nvideo_settings: {}\n").startswith("my.yaml:4: ")


def test_config_that_is_not_a_mapping_is_refused() -> None:
    assert "not a mapping of keys to values" in config_error("- a\n- b\n")


def test_empty_file_and_empty_sections_give_defaults() -> None:
    assert parse_config("", "my.yaml").settings == Settings()
    assert parse_config("model_settings:\nvideo_settings:\n", "my.yaml").settings == Settings()


def test_duplicate_key_causes_a_warning_and_the_last_value_wins() -> None:
    config = parse_config("model_settings:\n  seed: 1\n  seed: 2\n", "my.yaml")
    assert config.settings.model_settings.seed == 2
    assert "duplicate key" in str(config.warnings[0])


def test_missing_file_error_suggests_presets() -> None:
    with pytest.raises(ConfigError, match=r"no such file.*Did you mean fast_test\?.*nano"):
        load_config("fast_tst.yaml")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", ["nowhere/default.yaml", "/nowhere/configs/default.yaml", "nano.yaml", "x" * 5000])
def test_missing_file_is_never_replaced_by_a_preset(name: str) -> None:
    with pytest.raises(UserError, match=r"no such file|longer than 255 bytes"):
        load_config(name)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x.yaml", "a\0b"])
def test_config_name_that_is_not_a_path_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot use the path"):
        load_config(name)


def test_users_file_wins_over_a_preset_of_the_same_name() -> None:
    Path("nano.yaml").write_text("model_settings:\n  seed: 77\n")
    assert load_config("nano.yaml").settings.model_settings.seed == 77
    assert load_config("nano").settings.model_settings.seed == 42


def test_binary_file_is_refused() -> None:
    Path("clip.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("clip.yaml")


def test_set_changes_only_the_given_keys() -> None:
    config = load_config("nano", ["model_settings.steps=7", "video_settings.fps=12", "use_timestamp=false"])
    assert config.settings.model_settings.steps == 7
    assert config.settings.model_settings.cfg_scale == 4.0
    assert config.settings.video_settings.fps == 12
    assert config.settings.use_timestamp is False


def test_error_in_set_names_set_instead_of_a_file_line() -> None:
    text = "model_settings:\n  steps: 20\n"
    assert config_error(text, "model_settings.steps=0").startswith("--set: model_settings.steps: ")
    assert "did you mean model_settings.steps?" in config_error(text, "model_settings.stps=1")
    assert "write it as section.key=value" in config_error(text, "model_settings.steps")
    assert "use_timestamp is not a section" in config_error("use_timestamp: true\n", "use_timestamp.x=1")


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ("model_settings:\n  steps 20\n  cfg_scale: 5\n", 2, "steps: 20"),
        ("model_settings:\n  cfg_scale: 5\n  steps 20\n\n  # a: b\n  seed: 4\n", 3, "steps: 20"),
        ("videos_per_variation 3\nmodel_settings:\n  steps: 3\n", 1, "videos_per_variation: 3"),
        ("model_settings\n  steps: 20\n", 1, "model_settings:"),
        ("use_timestamp: no\nbatch_name a b\n", 2, "batch_name: a b"),
    ],
)
def test_missing_colon_is_reported_in_its_line(text: str, line: int, remedy: str) -> None:
    assert config_error(text) == (
        f"my.yaml:{line}: not valid YAML: the line has no colon after its key. Write it as `{remedy}`"
    )


def test_other_yaml_errors_are_not_blamed_on_a_missing_colon() -> None:
    assert "mapping values are not allowed" in config_error("batch_name: a: b\n")
    assert config_error("model_settings:\n  steps 20\n").endswith(
        "got 'steps 20'. Its line has no colon: write `steps: 20`"
    )


def test_all_kinds_of_errors_are_reported_in_one_run_in_the_order_of_their_lines() -> None:
    text = "model_settings:\n  stepps: 3\n  cfg_scale: abc\n  sampler: ddim\nsweeps: nosuch=3\nsweeps_baselin: no\n"
    keys = ["2: model_settings.stepps", "3: model_settings.cfg_scale", "4: model_settings.sampler", "5: sweeps"]
    lines = config_error(text).splitlines()
    assert [re.sub("^my.yaml:(.*?: .*?): .*", r"\1", line) for line in lines] == [*keys, "6: sweeps_baselin"]


def test_set_accepts_a_key_that_just_one_section_has() -> None:
    settings = load_config("nano", ["cfg_scale=5", "fps=12"]).settings
    assert (settings.model_settings.cfg_scale, settings.video_settings.fps) == (5.0, 12)
    assert config_error("", "steps=0").startswith("--set: model_settings.steps: ")
    assert config_error("", "storage_interval=2") == (
        "--set: storage_interval: several settings have this name: latent_analysis_settings.storage_interval, "
        "attention_analysis_settings.storage_interval, contribution_settings.storage_interval. Write one of these"
    )
    assert "did you mean model_settings.steps?" in config_error("", "stps=1")


@pytest.mark.parametrize(("former", "slug"), SPEED_BY_FORMER_NAME.items())
def test_former_speed_name_is_read_as_its_slug_without_a_warning(former: str, slug: str) -> None:
    for config in (
        parse_config(f"model_settings:\n  speed: {former}\n", "former.yaml"),
        parse_config("", "empty.yaml", [f"model_settings.speed={former}"]),
        parse_config(f"model_settings:\n  speed: {slug}\n", "new.yaml"),
    ):
        assert config.settings.model_settings.speed == slug
        assert config.warnings == ()
        assert f"speed: {slug}\n" in dump_settings(config.settings)


def test_legacy_config_loads_and_every_dead_key_is_reported() -> None:
    config = parse_config(OLDER_FILE, "older.yaml")
    settings = config.settings
    assert (settings.model_settings.steps, settings.model_settings.cfg_scale) == (40, 6.5)
    assert (settings.video_settings.frames, settings.videos_per_variation) == (49, 5)
    assert settings.latent_analysis_settings.storage_interval == 2
    warned_lines = {problem.key: problem.line for problem in config.warnings}
    dead = [
        "model_settings.eta",
        "model_settings.clip_skip",
        "memory_settings.enable_memory_optimization",
        "memory_settings.use_gradient_checkpointing",
        "memory_settings_2",
        "prompt_settings.base_weight",
        "prompt_settings.variation_weight",
        "prompt_settings.enable_prompt_weighting",
        "latent_analysis_settings.latent_storage_format",
        "output_settings",
    ]
    assert sorted(warned_lines) == sorted(dead)
    for key, line in warned_lines.items():
        assert line is not None
        assert OLDER_FILE.splitlines()[line - 1].strip().startswith(key.split(".")[-1] + ":")
    assert config.refusals == ()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("prompt_settings:\n  enable_weighting: true\n", "prompt_settings.enable_weighting"),
    ],
)
def test_unsupported_settings_are_refused_by_name(text: str, key: str) -> None:
    config = parse_config(text, "older.yaml")
    assert [(problem.key, problem.line) for problem in config.refusals] == [(key, 2)]
    assert plan_batch(config, "a circle").refusals


def test_legacy_method_without_effect_is_reported_and_replaced() -> None:
    config = parse_config("prompt_settings:\n  embedding_method: norm_preserving\n", "older.yaml")
    assert config.settings.prompt_settings.embedding_method == "attention"
    assert [str(problem) for problem in config.warnings] == [
        "older.yaml:2: prompt_settings.embedding_method: norm_preserving never had an effect; "
        "the method `attention` is used instead"
    ]
    older = parse_config("prompt_settings:\n  embedding_method: multiply\n", "older.yaml")
    assert older.settings.prompt_settings.embedding_method == "multiply"
    assert older.warnings == ()


def test_dumped_config_loads_to_equal_settings() -> None:
    config = load_config("romantic_scenes", ["batch_name='schön: x'"])
    again = parse_config(dump_settings(config.settings), "dumped.yaml")
    assert again.settings == config.settings
    assert again.warnings == ()


def test_every_preset_can_be_planned() -> None:
    expected = {
        "default",
        "nano",
        "nano-4step",
        "wan_14b_optimized",
        "fast_test",
        "high_quality",
        "latent_analysis_example",
        "attention_example",
        "romantic_scenes",
    }
    assert set(list_preset_names()) == expected
    for name in expected:
        config = load_config(name)
        assert config.warnings == ()
        warnings = plan_batch(config, "a [red|blue] (circle:1.5)").warnings
        assert [one for one in warnings if "are not on this machine" not in one] == []
        assert config.refusals == ()


def test_every_preset_starts_with_a_comment() -> None:
    for path in find_preset_directory().glob("*.yaml"):
        assert path.read_text().startswith("# ")


def test_every_setting_has_a_description() -> None:
    def fields(model: type[ConfigSection]) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, ConfigSection):
                fields(field.annotation)
            else:
                assert read_field_descriptions(model).get(name), f"{model.__name__}.{name}"

    fields(Settings)
    assert [field.key for field in list_form_fields() if not field.help] == []


def test_config_is_named_after_its_file() -> None:
    Path("mine.yml").write_text(yaml.safe_dump({"videos_per_variation": 1}))
    config: Config = load_config("mine.yml")
    assert config.name == "mine"


TEXTS = [
    "worst quality #1, ugly",
    "no",
    "on",
    "2024",
    "042",
    "1e3",
    "1:30",
    "2026-02-30",
    "- ugly",
    "a: b",
    "[red, ugly",
    "{x}",
    "*star",
    "&amp",
    "!!int 3",
    "'quoted'",
    "null",
    "@home",
    "%d",
    "ends with:",
]


@pytest.mark.parametrize("text", TEXTS)
def test_set_takes_text_literally(text: str) -> None:
    config = load_config("nano", [f"prompt_settings.negative_prompt={text}"])
    assert config.settings.prompt_settings.negative_prompt == text  # A8


@pytest.mark.parametrize("text", ["no", "2024", "042", "1e3", "1:30", "2026-02-30", "0x10", "1_000", "Yes", "=", "1.0"])
def test_config_file_takes_unquoted_text_literally(text: str) -> None:
    config = parse_config(f"prompt_settings:\n  negative_prompt: {text}\nbatch_name: {text}\n", "my.yaml")
    assert config.settings.prompt_settings.negative_prompt == text  # A9
    assert config.settings.batch_name == text


@pytest.mark.parametrize("text", ["no", "On", "yes", "2024", "042", "2026-02-30", "1_000", "True", "1.0"])
def test_lists_and_mappings_in_config_file_take_unquoted_text_literally(text: str) -> None:
    settings = parse_config(
        f"prompt_settings: {{generic_words: {{circle: {text}}}}}\n"
        f"attention_bending_settings: {{bends: [{{name: {text}, words: {text}, mode: blur, blur_sigma: 1}}]}}\n"
        f"sweeps: {{negative_prompt: [{text}, b]}}\n",
        "my.yaml",
    ).settings
    assert settings.prompt_settings.generic_words == f"circle: {text}"
    bend = settings.attention_bending_settings.bends[0]
    assert (bend.name, bend.words) == (text, (text,))
    assert [values for (values,) in resolve_sweep_axes(settings)[0].values] == [text, "b"]


@pytest.mark.parametrize("written", ["~", "null", "", '""'])
def test_sweep_of_text_reads_a_missing_value_as_empty(written: str) -> None:
    settings = parse_config(f"sweeps:\n- negative_prompt:\n  - b\n  - {written}\n", "my.yaml").settings
    assert resolve_sweep_axes(settings)[0].values == (("b",), ("",))


@pytest.mark.parametrize(
    ("word", "value"), [("yes", True), ("No", False), ("on", True), ("off", False), ('"no"', False)]
)
def test_flags_in_lists_accept_yes_and_no(word: str, value: bool) -> None:
    bends = f"[{{words: circle, mode: flip, flip_horizontal: yes, renormalise: {word}}}]"
    for settings in (
        parse_config(f"attention_bending_settings: {{bends: {bends}}}\n", "my.yaml").settings,
        load_config("nano", [f"attention_bending_settings.bends={bends}"]).settings,
    ):
        assert settings.attention_bending_settings.bends[0].renormalise is value


@pytest.mark.parametrize(
    ("written", "value"), [("042", 42), ("42", 42), ('"42"', 42), ("+7", 7), ("1e3", 1000), ("25.0", 25), ("0", 0)]
)
def test_decimal_integers_are_accepted_in_files_and_set(written: str, value: int) -> None:
    text = f"model_settings:\n  seed: {written}\n"
    assert parse_config(text, "my.yaml").settings.model_settings.seed == value  # A9
    if '"' not in written:
        assert load_config("nano", [f"model_settings.seed={written}"]).settings.model_settings.seed == value


@pytest.mark.parametrize(
    "written",
    ["0o17", "0x10", "0b11", "1_000", "1:30", "1,000", "2.5", ".inf", "many", "１２", "yes", "true", "--3", "9" * 5000],
)
def test_non_decimal_integers_are_refused_with_their_line(written: str) -> None:
    error = config_error(f"model_settings:\n  seed: 1\n  steps: {written}\n")
    assert error.startswith("my.yaml:3: model_settings.steps: should be a whole number")  # A9
    assert "got " in error
    assert len(error) < 600
    by_set = config_error("", f"model_settings.steps={written}")
    assert by_set.startswith("--set: model_settings.steps: should be a whole number")
    assert config_error(f'model_settings:\n  steps: "{written}"\n').startswith(
        "my.yaml:2: model_settings.steps: should"
    )


@pytest.mark.parametrize("written", [".nan", ".inf", "1e999", "1_0.5", "1:30.5", "0x1p3", "1e99999999", ""])
def test_non_decimal_floats_are_refused(written: str) -> None:
    assert "--set: model_settings.cfg_scale: should be a number" in config_error(
        "", f"model_settings.cfg_scale={written}"
    )
    assert load_config("nano", ["model_settings.cfg_scale=6.50"]).settings.model_settings.cfg_scale == 6.5  # A9


def test_negative_zero_is_normalised_to_zero() -> None:
    result = load_config("nano", ["model_settings.cfg_scale=-0.0"]).settings.model_settings.cfg_scale
    assert str(result) == "0.0"  # -0.0 had another recipe


@pytest.mark.parametrize("section", ["latent_analysis_settings", "attention_analysis_settings"])
def test_capture_interval_has_the_range_of_recipes(section: str) -> None:
    key = f"{section}.storage_interval"
    assert config_error("", f"{key}=1000001").startswith(f"--set: {key}: input should be less than or equal to 1000000")
    assert load_config("nano", [f"{key}=1000000"]).settings


def test_flags_accept_yes_and_no_and_refuse_other_words() -> None:
    for word, value in (("yes", True), ("off", False), ("True", True), ("0", False)):
        assert parse_config(f"use_timestamp: {word}\n", "my.yaml").settings.use_timestamp is value
        assert load_config("nano", [f"use_timestamp={word}"]).settings.use_timestamp is value
    assert config_error("use_timestamp: maybe\n") == "my.yaml:1: use_timestamp: should be yes or no, got 'maybe'"


def test_empty_value_clears_an_optional_setting() -> None:
    overrides = ["model_settings.revision=", "batch_name=null", "video_settings.frames=", "model_settings.flow_shift="]
    settings = load_config("nano", overrides).settings
    assert settings.model_settings.revision is None
    assert settings.batch_name is None
    assert settings.video_settings.frames is None
    assert load_config("nano", ["prompt_settings.negative_prompt="]).settings.prompt_settings.negative_prompt == ""


def test_set_refuses_a_section_as_a_whole() -> None:
    assert "model_settings: is a section; write model_settings.key=value" in config_error(
        "", "model_settings={seed: 1}"
    )


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_hostile_config_is_refused_with_a_short_message(name: str) -> None:
    error = config_error(YAML_BOMBS[name])
    assert "my.yaml" in error  # R6
    assert len(error) < 60_000
    assert max(map(len, error.splitlines())) < 1_000


@pytest.mark.parametrize("text", ["!!int ''", "1:1:1", "0x" + "f" * 20_000, "&a [*a]", "[" * 10_000, "\x00", "\udce9"])
def test_hostile_value_in_set_is_refused_with_a_short_message(text: str) -> None:
    for key in ("model_settings.steps", "model_settings.cfg_scale", "use_timestamp", "model_settings.sampler", text):
        error = config_error("", f"{key}={text}")
        assert error.startswith("--set: ")
        assert len(error) < 1_000  # R6


@pytest.mark.parametrize(
    "text",
    [
        "attention_bending_variations: [{name: a, enabled: true}]\n",
        "attention_bending_variations: []\n",
        "attention_bending_variations: text\n",
        "prompt_settings: {enable_weighting: 1}\n",
        'prompt_settings: {enable_weighting: "no, thanks"}\n',
    ],
)
def test_unsupported_settings_in_another_form_are_refused(text: str) -> None:
    refusals = parse_config(text, "older.yaml").refusals
    assert [problem.line for problem in refusals] == [1]  # R7
    assert refusals[0].key.split(".")[0] == text.split(":")[0]


@pytest.mark.parametrize(
    "text",
    [
        "attention_bending_settings:\n",
        "attention_bending_settings: {}\n",
        "prompt_settings: {enable_weighting: false}\n",
    ],
)
def test_disabled_unsupported_settings_are_accepted(text: str) -> None:
    assert parse_config(text, "older.yaml").refusals == ()


def test_merged_mapping_equals_its_written_out_form() -> None:
    text = "model_settings: &base\n  seed: 7\n  steps: 3\nvideo_settings:\n  <<: {fps: 8, width: 64}\n  width: 32\n"
    settings = parse_config(text, "my.yaml").settings
    assert (settings.video_settings.fps, settings.video_settings.width) == (8, 32)


def test_merged_mapping_does_not_change_error_lines() -> None:
    text = "model_settings:\n  steps: many\n  <<: {steps: 3, seed: 1}\n"
    assert config_error(text).startswith("my.yaml:2: model_settings.steps: ")


def test_first_of_several_merged_mappings_has_precedence() -> None:
    text = "video_settings:\n  <<: [{fps: 8, width: 64}, {fps: 9, height: 32}]\n"
    video = parse_config(text, "my.yaml").settings.video_settings
    assert (video.fps, video.width, video.height) == (8, 64, 32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_settings: !override\n  steps: 5\n", "my.yaml:1: not valid YAML for a config: the tag !override"),
        ("model_settings: !!python/object:os.x {steps: 5}\n", "the tag tag:yaml.org,2002:python/object:os.x is not"),
        ("batch_name: x\nmodel_settings: {steps: !seq [5]}\n", "my.yaml:2: not valid YAML for a config: the tag !seq"),
        ("!key batch_name: x\n", "the tag !key is not supported. Remove it"),
        (
            "video_settings:\n  <<: {fps: 8}\n  <<: {fps: 9}\n",
            "my.yaml:3: not valid YAML for a config: << occurs twice",
        ),
        ("a: &a [*a]\n", "an alias contains itself"),
        (
            "model_settings:\n\tsteps: 5\n",
            "my.yaml:2: not valid YAML: the line is indented with a tab. Indent with spaces",
        ),
        ("seed: 1\n\tsteps: 5\n", "my.yaml:2: not valid YAML: the line is indented with a tab. Indent with spaces"),
        ("a: {\n    b: [}\n", "my.yaml:2: not valid YAML: did not find expected node content"),
        ("a: {\n\tb: [}\n", "my.yaml:2: not valid YAML: did not find expected node content"),
        (
            "seed: 1\nmodel_settings:\n  steps: 5\n\x1a",
            "my.yaml:4: not valid YAML: the character U+001A is not allowed",
        ),
        ("model_settings:\u00a0\n  steps: 5\n", "Line 1 contains the invisible character U+00A0 (no-break space)"),
        ("model_settings:\n\u3000steps: 5\n", "unknown key: it contains the invisible character U+3000"),
        ("seed: 1\n---\nseed: 2\n", "my.yaml:2: not valid YAML: expected a single document in the stream, but found"),
    ],
)
def test_yaml_structure_that_would_have_no_effect_is_refused(text: str, reason: str) -> None:
    assert reason in config_error(text)


def test_null_with_a_text_tag_is_text() -> None:
    assert parse_config("batch_name: !!str null\n", "my.yaml").settings.batch_name == "null"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model_settings: [1]\n",
            "my.yaml:1: model_settings: should be a section: keys and values below it, got ['1']",
        ),
        ("model_settings:\n  steps:\n", "my.yaml:2: model_settings.steps: has no value. Give one, or remove the key"),
        ("prompt_settings: {negative_prompt: ~}\n", "prompt_settings.negative_prompt: has no value. Give one"),
    ],
)
def test_value_type_errors_say_what_to_write(text: str, message: str) -> None:
    assert message in config_error(text)


def test_setting_given_twice_on_the_command_line_causes_a_warning() -> None:
    options = {"model_settings.seed": OptionValue("--seed", 1)}
    config = parse_config("", "my.yaml", ["model_settings.seed=2", "output_dir=a", "output_dir=b"], options)
    assert (config.settings.model_settings.seed, config.settings.output_dir) == (2, "b")
    assert [str(problem) for problem in config.warnings] == [
        "command line: model_settings.seed: set twice, by --seed and --set; the last value of --set is used",
        "command line: output_dir: set twice, by --set; the last value of --set is used",
    ]


@pytest.mark.parametrize("shift", ["0", "1e-30", "1e-8"])
def test_flow_shift_without_finite_noise_levels_is_refused(shift: str) -> None:
    message = "model_settings.flow_shift: input should be greater than or equal to 0.000001"
    assert message in config_error(f"model_settings: {{flow_shift: {shift}}}\n")
    assert parse_config("model_settings: {flow_shift: 1e-6}\n", "my.yaml").settings.model_settings.flow_shift == 1e-6


def test_unknown_key_error_names_this_version() -> None:
    assert f"; valid keys here (wantui {__version__}): model_id, " in config_error(
        "model_settings:\n  xylophone: 1\n"
    )  # C3


def test_renamed_key_is_refused_with_its_current_name() -> None:
    for text in ("model_revision: x\n", "model_settings:\n  model_revision: x\n"):
        assert "unknown key; it is now model_settings.revision" in config_error(text)  # C16


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("model_settings.device=mps", "--set: model_settings.device: should be auto, cpu, cuda or cuda:N, got 'mps'"),
        (
            "model_settings.device=cuda:٣",
            "--set: model_settings.device: should be auto, cpu, cuda or cuda:N, got 'cuda",
        ),
        ("model_settings.model_id=", "--set: model_settings.model_id: should not be empty, got ''"),
        ("output_dir=\t ", r"--set: output_dir: should not be empty, got '\\t '"),
    ],
)
def test_pattern_errors_are_explained_in_words(written: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config("nano", [written])
    assert message.replace("\\\\", "\\") in str(raised.value)


def test_example_template_of_each_preset_expands_without_warnings_about_its_words() -> None:
    for name in list_preset_names():
        text = find_config_path(name).read_text()
        template = find_example_template(text)
        assert template is not None, name
        preview = preview_batch(load_config(name), template)
        assert len(preview.variations) > 1, name
        assert not [warning for warning in preview.warnings if "does not know" in warning], name
        assert not preview.refusals, name


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("# Example template: a [b|c]  \r\nseed: 1\n", "a [b|c]"),
        ("# Example template:   \nseed: 1\n", None),
        ("seed: 1  # Example template: a cat\n", None),
        ("", None),
    ],
)
def test_example_template_is_a_comment_on_a_line_of_its_own(text: str, template: str | None) -> None:
    assert find_example_template(text) == template


PROBABLE_SETTINGS = {
    "steps": "model_settings.steps",
    "stepps": "model_settings.steps",
    "model_settings.step": "model_settings.steps",
    "generation.steps": "model_settings.steps",
    "generation_settings.steps": "model_settings.steps",
    "model.steps": "model_settings.steps",
    "sampling.num_inference_steps": "model_settings.steps",
    "guidance_scale": "model_settings.cfg_scale",
    "cfg": "model_settings.cfg_scale",
    "model_settings.guidance": "model_settings.cfg_scale",
    "video.width": "video_settings.width",
    "model_settings.width": "video_settings.width",
    "num_frames": "video_settings.frames",
    "latent_analysis.storage_interval": "latent_analysis_settings.storage_interval",
    "attention_settings.storage_interval": "attention_analysis_settings.storage_interval",
    "cfg_schedule": "cfg_schedule_settings.schedule",
    "guidance_schedule": "cfg_schedule_settings.schedule",
    "prompt_schedule": "prompt_schedule_settings.schedule",
    "schedule_of_cfg.schedule": "cfg_schedule_settings.schedule",
    "attention_bending": "attention_bending_settings",
    "attention_bend": "attention_bending_settings",
}
"""Setting that an unknown name means, by the name."""


@pytest.mark.parametrize(
    ("value", "ending"),
    [
        ("primary_metric=log_volum", ", got 'log_volum'. Did you mean log_volume?"),
        ("model_settings.sampler=unipcc", ", got 'unipcc'. Did you mean unipc?"),
        ("model_settings.sampler=ddim", ", got 'ddim'"),
    ],
)
def test_mistyped_choice_gets_the_most_similar_one(value: str, ending: str) -> None:
    assert config_error("", value).endswith(ending)


@pytest.mark.parametrize(("name", "path"), PROBABLE_SETTINGS.items())
def test_every_source_gives_the_same_suggestion_for_an_unknown_setting(name: str, path: str) -> None:
    if name != "steps":  # --set accepts it: just one section has this key
        assert f"; did you mean {path}?" in config_error("", f"{name}=8")
    section, _, key = name.rpartition(".")
    yaml_text = f"{section}:\n  {key}: 8\n" if section else f"{key}: 8\n"
    assert f"; did you mean {path}?" in config_error(yaml_text)


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name, path in PROBABLE_SETTINGS.items() if path not in UNSWEEPABLE_SETTINGS and name != "steps"],
)
def test_unknown_swept_setting_is_suggested_by_its_short_name(name: str, path: str) -> None:
    with pytest.raises(SweepError) as caught:
        find_sweepable_setting(Settings(), name)
    short_name = path if path.endswith(".schedule") else path.rpartition(".")[2]  # two settings are called schedule
    assert str(caught.value).endswith(f"; did you mean {short_name}?")


@pytest.mark.parametrize("name", ["cfg_schedule", "guidance_schedule"])
@pytest.mark.parametrize("schedule", ["{0: 5}", "{0: 5, 50%: 2}"])
def test_unknown_mapping_gets_the_suggestion_of_the_matching_setting(name: str, schedule: str) -> None:
    assert "did you mean cfg_schedule_settings.schedule?" in config_error(f"{name}: {schedule}\n")


def test_unknown_section_with_several_keys_gets_a_suggestion_from_its_keys() -> None:
    assert "did you mean video_settings?" in config_error("size_of_video:\n  width: 64\n  height: 64\n  zoom: 2\n")


@pytest.mark.parametrize("name", ["zzzz", "qqq.zzzz"])
def test_error_for_a_name_unlike_any_setting_mentions_the_schema(name: str) -> None:
    assert config_error("", f"{name}=8").endswith("unknown key. `wantui config schema` lists all settings")
    with pytest.raises(SweepError, match=r"unknown setting\. `wantui config schema` lists all settings"):
        find_sweepable_setting(Settings(), name)


def test_error_for_the_setting_prompt_mentions_the_template() -> None:
    assert "prompts are written as a template: -t TEXT" in config_error("prompt: a red ring\n")


CONFIG_SECTIONS = [type(section) for _, section in Settings() if isinstance(section, ConfigSection)]


@pytest.mark.parametrize("model", [Settings, *CONFIG_SECTIONS, BendSettings, Amplify])
def test_descriptions_of_settings_are_the_docstrings_that_pydantic_extracts(model: type[DescribedModel]) -> None:
    expected: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.__module__.startswith("wantui."):
            expected |= extract_docstrings_from_cls(base, use_inspect=True)
    expected = {name: text for name, text in expected.items() if name in model.model_fields}
    assert read_field_docstrings(model) == expected
    expected = read_field_descriptions(model)
    properties = model.model_json_schema()["properties"]
    assert {name: entry["description"] for name, entry in properties.items() if "description" in entry} == expected
    # A serializer of the model can give the written object other properties, or none.
    written = model.model_json_schema(mode="serialization").get("properties", {})
    assert {name: entry.get("description") for name, entry in written.items()} == {
        name: properties[name].get("description") for name in written
    }
