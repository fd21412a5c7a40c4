"""Settings of attention bending: what they accept, refuse and request, and their round trip through YAML."""

import json

import pytest
from pydantic import ValidationError

from wantui.config import dump_settings
from wantui.config.load import parse_config
from wantui.config.problems import ConfigError
from wantui.controls.attention_bending import (
    AttentionBendingRequest,
    build_bend_request,
    describe_missing_words,
    find_word_spans,
)
from wantui.controls.bend_settings import BendSettings, list_bend_names, parse_blocks
from wantui.controls.bend_transforms import TRANSFORM_BY_MODE, Translate
from wantui.keyframes import KeyframeTimes
from wantui.planning import PromptMark, plan_batch, preview_batch
from wantui.planning.recipe import parse_recipe
from wantui.section import read_field_descriptions

NANO = "model_settings: {model_id: nano}\nvideo_settings: {width: 128, height: 128, frames: 17}\n"
TEMPLATE = "a large red (circle) moving [left|right]"


def section(bends: str) -> str:
    return f"{NANO}attention_bending_settings:\n  bends: {bends}\n"


def refusals(bends: str, template: str = TEMPLATE, more: str = "") -> tuple[str, ...]:
    return preview_batch(parse_config(section(bends) + more, "my.yaml"), template).refusals


def test_bends_enter_the_recipe_and_its_json() -> None:
    bends = "[{words: circle, mode: translate, translate_x: 0.25, blocks: [0, 3..5], steps: 0%..40%, renormalise: yes}]"
    batch = plan_batch(parse_config(section(bends), "my.yaml"), TEMPLATE)
    assert batch.refusals == ()
    recipe = batch.first_recipe
    request = recipe.find_control_request("attention_bending")
    assert isinstance(request, AttentionBendingRequest)
    (bend,) = request.bends
    assert (bend.name, bend.words, bend.blocks) == ("circle", ("circle",), (0, 3, 4, 5))
    assert bend.transform == Translate(translate_x=0.25)
    assert bend.steps == KeyframeTimes(unit="fraction", moments=(0, 0.4))
    assert bend.renormalise
    assert parse_recipe(json.loads(recipe.to_json())) == recipe
    assert {len({video.recipe.digest for video in batch.videos}), len(batch.videos)} == {len(batch.videos)}


def test_recipes_without_bends_do_not_change() -> None:
    plain = plan_batch(parse_config(NANO, "my.yaml"), TEMPLATE).first_recipe
    disabled = section("[{words: circle, mode: scale, scale_factor: 2}]").replace("  bends", "  enabled: no\n  bends")
    for text in (section("[]"), disabled):
        assert plan_batch(parse_config(text, "my.yaml"), TEMPLATE).first_recipe.digest == plain.digest
    assert "controls" not in json.loads(plain.to_json())


def test_settings_survive_a_round_trip_through_yaml() -> None:
    bends = """
    - {words: [red circle, all], mode: region, region_x1: 0.25, region_part: remove, border: null}
    - {name: turn, words: circle, mode: rotate, rotate_degrees: -30, border: reflect, strength: 0.5, blocks: 3}
    - {words: circle, mode: sharpen, sharpen_amount: 2, passes: both, if_missing: skip, padding: yes, steps: 5}
"""
    settings = parse_config(section(bends), "my.yaml").settings
    assert parse_config(dump_settings(settings), "again.yaml").settings == settings
    assert "frequency_low" not in dump_settings(settings)


@pytest.mark.parametrize("mode", TRANSFORM_BY_MODE)
def test_every_parameter_of_a_mode_is_a_setting_with_help(mode: str) -> None:
    transform_type = TRANSFORM_BY_MODE[mode]  # type: ignore[index]
    for name in transform_type.model_fields:
        if name != "mode":
            assert read_field_descriptions(BendSettings)[name].startswith(f"{mode}: ")
            assert read_field_descriptions(transform_type)[name]


@pytest.mark.parametrize(
    ("bend", "key", "reason"),
    [
        ("{words: a, mode: translate}", "0", "mode translate needs translate_x or translate_y"),
        ("{words: a, mode: sharpen, sharpen_sigma: 2}", "0", "mode sharpen needs sharpen_amount"),
        ("{words: a, mode: blur, translate_x: 0.1}", "0", "translate_x has no effect with mode blur. Remove it"),
        ("{words: a, mode: flip, flip_vertical: yes, border: zero}", "0", "border has no effect with mode flip"),
        ("{words: a, mode: zoom, scale_factor: 2}", "0.mode", "'amplify', 'scale'"),
        ("{words: a, mode: scale, scale_factr: 2}", "0", "unknown key 'scale_factr'; valid keys here: name"),
        ("{words: a, mode: scale, scale_factor: yes}", "0", "should be a number in decimal digits, got 'yes'"),
        ("{words: a, mode: scale, scale_factor: 0}", "0.scale_factor", "greater than or equal to 0.01"),
        ("{words: a, mode: scale, scale_factor: .nan}", "0.scale_factor", "number"),
        ("{words: a, mode: translate, translate_x: 1.5}", "0.translate_x", "less than or equal to 1"),
        ("{words: a, mode: blur, blur_sigma: -1}", "0.blur_sigma", "greater than or equal to 0"),
        ("{words: a, mode: region, region_x1: 0.6, region_x2: 0.5}", "0", "region_x1 should be below region_x2"),
        ("{words: a, mode: frequency, frequency_low: 3, frequency_high: 1}", "0", "frequency_low should not be above"),
        ("{words: [], mode: blur, blur_sigma: 1}", "0.words", "at least 1 item"),
        ('{words: " ", mode: blur, blur_sigma: 1}', "0.words", "should not be empty"),
        ("{mode: blur, blur_sigma: 1}", "0.words", "field required"),
        ("{words: a, mode: blur, blur_sigma: 1, blocks: 5..2}", "0.blocks", "cannot read '5..2'"),
        ("{words: a, mode: blur, blur_sigma: 1, blocks: [1, x]}", "0.blocks", "cannot read 'x'"),
        ("{words: a, mode: blur, blur_sigma: 1, steps: 5..2}", "0.steps", "ends before it begins"),
        ("{words: a, mode: blur, blur_sigma: 1, steps: sigma 0.2..0.8}", "0.steps", "ends before it begins"),
        ("{words: a, mode: blur, blur_sigma: 1, steps: 10%..sigma 0.5}", "0.steps", "has two units"),
        ("{words: a, mode: blur, blur_sigma: 1, steps: soon}", "0.steps", "cannot read the moment 'soon'"),
        ("{words: a, mode: blur, blur_sigma: 1, strength: 20}", "0.strength", "less than or equal to 10"),
        ("{words: a, mode: blur, blur_sigma: 1, passes: none}", "0.passes", "'cond', 'uncond' or 'both'"),
        ("3", "0", "should be a section"),
    ],
)
def test_bad_bends_are_refused_by_the_name_of_the_setting(bend: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(section(f"[{bend}]"), "my.yaml")
    problem = caught.value.problems[0]
    assert problem.key.startswith(f"attention_bending_settings.bends.{key}")
    assert reason in problem.message
    assert problem.line == 4


def test_names_are_unique() -> None:
    blur = {"mode": "blur", "blur_sigma": 1}
    named_words = ((None, "a"), (None, "a"), ("a-2", "a"), (None, "b"))
    bends = [BendSettings.model_validate({"words": words, "name": name, **blur}) for name, words in named_words]
    assert list_bend_names(bends) == ("a", "a-3", "a-2", "b")
    twice = ", ".join(f"{{name: x, words: {word}, mode: blur, blur_sigma: 1}}" for word in ("a", "b"))
    with pytest.raises(ConfigError, match="two bends have the name x"):
        parse_config(section(f"[{twice}]"), "my.yaml")


@pytest.mark.parametrize(
    ("text", "blocks"), [("0", (0,)), ("2..4", (2, 3, 4)), ("5, 0 .. 1,5", (0, 1, 5)), ("29..29", (29,))]
)
def test_blocks_are_lists_of_indices_and_ranges(text: str, blocks: tuple[int, ...]) -> None:
    assert parse_blocks(text) == blocks


def test_refusals_name_the_setting_and_the_remedy() -> None:
    blur = "words: circle, mode: blur, blur_sigma: 1"
    assert refusals(f"[{{{blur}}}]") == ()
    (block_text,) = refusals(f"[{{{blur}, blocks: 6..8}}]")
    assert "bend circle has the block 8, but the model has blocks 0 to 7" in block_text
    (step_text,) = refusals(f"[{{{blur}, steps: 10..99}}]")
    assert "a keyframe is at step 99, but the steps are 0 to 49" in step_text
    (sigma_text,) = refusals(f"[{{{blur}, steps: sigma 0.0001}}]")
    assert "has a range that contains no step" in sigma_text
    unguided = "prompt_settings: {negative_prompt: circle}\n"
    assert refusals(f"[{{{blur}, passes: uncond}}]", more=unguided) == ()
    config = parse_config(
        section(f"[{{{blur}, passes: uncond, if_missing: skip}}]"), "x", ["model_settings.cfg_scale=1"]
    )
    (pass_text,) = preview_batch(config, TEMPLATE).refusals
    assert "bend circle has passes: uncond, but without guidance there is no such pass" in pass_text


def test_missing_words_are_refused_with_their_variations_or_skipped() -> None:
    bend = "words: left, mode: blur, blur_sigma: 1"
    (text,) = refusals(f"[{{{bend}}}]")
    assert text.startswith("variation right: attention_bending_settings: the bend left needs 'left', which the prompt")
    assert text.endswith("set if_missing: skip")
    assert refusals(f"[{{{bend}, if_missing: skip}}]") == ()
    (text,) = refusals("[{words: flower, mode: blur, blur_sigma: 1}]")
    assert text.startswith("variation left and 1 other: ")
    (text,) = refusals("[{words: circle, mode: blur, blur_sigma: 1, passes: uncond}]", template="a circle")
    assert "which the negative prompt lacks" in text


def test_bends_are_described_in_words() -> None:
    bends = """
    - {words: circle, mode: translate, translate_x: 0.25, blocks: [0, 1], steps: 0%..40%, renormalise: yes}
    - {words: all, mode: flip, flip_vertical: yes, padding: yes, strength: 0.5}
"""
    recipe = plan_batch(parse_config(section(bends), "my.yaml"), TEMPLATE).first_recipe
    assert recipe.list_control_values()["attention_bending"] == {
        "circle": "translate of circle (translate_x 0.25), blocks 0, 1, steps 0%..40%, renormalised",
        "all": "flip of all and padding (flip_vertical yes), strength 0.5",
    }


def test_marks_of_bent_words_are_used() -> None:
    for words, warning_count in (("circle", 0), ("red", 1)):
        config = parse_config(section(f"[{{words: {words}, mode: blur, blur_sigma: 1}}]"), "my.yaml")
        warnings = preview_batch(config, TEMPLATE).warnings
        assert sum("(circle) stores nothing" in text for text in warnings) == warning_count


def test_bad_bends_on_the_command_line_name_the_option() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(NANO, "my.yaml", ["attention_bending_settings.bends=[{words: a, mode: blur, blur_sigma: big}]"])
    assert str(caught.value.problems[0]).startswith("--set: attention_bending_settings.bends.0.blur_sigma: ")


def test_words_that_the_tokenizer_does_not_know_are_refused() -> None:
    texts = refusals("[{words: 花, mode: blur, blur_sigma: 1}]", template="a 花")
    assert any("has no tokens for the bent 花" in text for text in texts)


def test_cached_speed_is_refused() -> None:
    overrides = ["model_settings.speed=cached", "model_settings.force_capture=yes"]
    config = parse_config(section("[{words: circle, mode: blur, blur_sigma: 1}]"), "my.yaml", overrides)
    (text,) = preview_batch(config, TEMPLATE).refusals
    assert "model_settings.speed: cached, which skips blocks" in text


def test_bends_with_a_prompt_schedule_are_refused_once() -> None:
    schedule = "prompt_schedule_settings: {schedule: {1: a blob}}\n"
    (text,) = refusals("[{words: circle, mode: blur, blur_sigma: 1}]", template="a circle", more=schedule)
    assert "cannot be combined with prompt_schedule_settings" in text


def test_older_sections_load_with_warnings() -> None:
    older = """
attention_bending_settings:
  enabled: true
  device: cuda
  apply_to_output: true
  apply_before_softmax: false
  configs:
    - {token: circle, mode: translate, translate_x: -0.5, padding_mode: zeros, apply_to_timesteps: [0, 5]}
"""
    config = parse_config(NANO + older, "older.yaml")
    (bend,) = config.settings.attention_bending_settings.bends
    assert (bend.translate_x, bend.border, bend.steps) == (0.25, "zero", "0..5")
    messages = [str(problem) for problem in config.warnings]
    assert any("attention_bending_settings.device: has no effect" in text for text in messages)
    assert any(
        "bend 1: in diffusion_latent_exploration, translate was mirrored and in units of half a width" in text
        for text in messages
    )
    assert config.refusals == ()
    refused = parse_config(NANO + older.replace("softmax: false", "softmax: true"), "older.yaml")
    assert [problem.key for problem in refused.refusals] == ["attention_bending_settings.apply_before_softmax"]
    disabled = parse_config(NANO + older.replace("enabled: true", "enabled: false"), "older.yaml")
    assert plan_batch(disabled, "a star").refusals == ()
    assert not disabled.settings.attention_bending_settings.enabled


def test_sweeps_address_bends_by_name() -> None:
    text = section("[{words: circle, mode: translate, translate_x: 0.1}, {words: circle, mode: blur, blur_sigma: 1}]")
    sweep = "bend.circle.translate_x=-0.2..0.2:0.2; bend.circle-2.blur_sigma=1,2"
    batch = plan_batch(parse_config(text + f'sweeps: "{sweep}"\n', "my.yaml"), TEMPLATE)
    assert batch.refusals == ()
    requests = {video.recipe.find_control_request("attention_bending") for video in batch.videos}
    values = {(r.bends[0].transform.translate_x, r.bends[1].transform.blur_sigma) for r in requests}  # type: ignore[union-attr]
    assert values == {(x, sigma) for x in (-0.2, 0.0, 0.2) for sigma in (1.0, 2.0)}


@pytest.mark.parametrize(
    ("word", "spans"),
    [
        ("cat", [(2, 5), (19, 22)]),
        ("red cat", [(15, 22)]),
        ("花", [(24, 25)]),
        ("!", [(26, 27)]),
        ("at", []),
        ("Cat", []),
    ],
)
def test_words_match_complete_words_except_in_scripts_without_word_separators(
    word: str, spans: list[tuple[int, int]]
) -> None:
    assert find_word_spans("a cat category red cat, 花瓶!", (), word) == spans


@pytest.mark.parametrize(
    ("prompt", "word", "spans"),
    [
        ("लाली लाल", "लाल", [(5, 8)]),  # "redness", "red": the vowel after the word is a combining mark
        ("कीरात रात", "रात", [(6, 9)]),
        ("की कीमत", "की", [(0, 2)]),
        ("ba a a", "a a", [(3, 6)]),
        ("❤️circle", "circle", [(2, 8)]),
        ("my_cat cat", "cat", [(7, 10)]),
    ],
)
def test_combining_marks_belong_to_words(prompt: str, word: str, spans: list[tuple[int, int]]) -> None:
    assert find_word_spans(prompt, (), word) == spans


def test_marked_occurrences_take_precedence() -> None:
    prompt = "a cat and a cat"
    assert find_word_spans(prompt, (PromptMark(text="cat", start=12, end=15),), "cat") == [(12, 15)]
    request = build_bend_request(
        BendSettings.model_validate({"name": "x", "words": ["cat", "dog"], "mode": "blur", "blur_sigma": 1})
    )
    (sentence,) = describe_missing_words(AttentionBendingRequest(bends=(request,)), prompt, (), "")
    assert "the bend x needs 'dog', which the prompt lacks" in sentence


def test_recipes_with_bad_bends_are_refused() -> None:
    with pytest.raises(ValidationError):
        AttentionBendingRequest.model_validate({"bends": []})
