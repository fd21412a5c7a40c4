"""Variations of a template with a prompt schedule, their recipes, and what is refused while planning."""

import json
from itertools import product

import pytest
from conftest import Wantui

from wantui.batches.batch_cost import estimate_batch_costs
from wantui.config import Config, ConfigError
from wantui.config.dump import dump_settings
from wantui.config.load import load_config, parse_config
from wantui.errors import UserError
from wantui.planning import Batch, plan_batch, preview_batch
from wantui.planning.evaluation_prompts import EvaluationPrompt, describe_evaluation_prompts, list_evaluation_prompts
from wantui.planning.variations import list_scheduled_moments
from wantui.prompts import TooManyVariationsError, Variation, expand_schedule, expand_template, parse_template
from wantui.storage.manifest import create_manifest
from wantui.storage.manifest_labels import make_variation_labels

SCHEDULE = "prompt_schedule_settings.schedule"


def expanded(template: str, *scheduled: str, limit: int = 1000, replaces_start: bool = False) -> list[Variation]:
    templates = [parse_template(text) for text in scheduled]
    return expand_schedule(parse_template(template), templates, limit, replaces_start=replaces_start)


def texts(variations: list[Variation]) -> list[tuple[str, ...]]:
    return [(v.prompt, *(scheduled.prompt for scheduled in v.scheduled_prompts)) for v in variations]


def scheduled_config(schedule: str, *overrides: str) -> Config:
    return load_config("nano", [f"{SCHEDULE}={schedule}", "model_settings.steps=10", *overrides])


def planned(template: str, schedule: str, *overrides: str) -> Batch:
    return plan_batch(scheduled_config(schedule, *overrides), template)


def test_brackets_with_the_same_options_vary_together() -> None:
    variations = expanded("a [red|blue] ball", "a [ red|(blue:2) ] cube", "the [red|blue] sky")
    assert texts(variations) == [
        ("a red ball", "a red cube", "the red sky"),
        ("a blue ball", "a blue cube", "the blue sky"),
    ]
    assert [v.id for v in variations] == ["red", "blue"]
    assert [[choice.bracket_number for choice in v.choices] for v in variations] == [[1], [1]]


def test_brackets_with_different_options_multiply() -> None:
    variations = expanded("a [red|blue] ball", "a [blue|red] cube")
    colours = ("red", "blue")
    assert texts(variations) == [(f"a {a} ball", f"a {b} cube") for a, b in product(colours, reversed(colours))]
    assert [v.id for v in variations] == ["red_blue", "red_red", "blue_blue", "blue_red"]


def test_repeated_brackets_vary_with_the_bracket_of_the_same_rank() -> None:
    assert texts(expanded("[a|b] or [a|b]", "[a|b]", "[a|b] and [a|b] and [a|b]")) == [
        (f"{x} or {y}", x, f"{x} and {y} and {z}") for x, y, z in product("ab", repeat=3)
    ]


def test_nested_bracket_varies_with_an_equal_bracket_if_it_is_chosen() -> None:
    assert texts(expanded("a [[red|blue] ball|cube]", "[red|blue] sky")) == [
        ("a red ball", "red sky"),
        ("a blue ball", "blue sky"),
        ("a cube", "red sky"),
        ("a cube", "blue sky"),
    ]


def test_template_under_a_schedule_without_brackets_keeps_its_variations() -> None:
    template = "a [x|[y|z] w] b [1|2|]"
    plain = expand_template(parse_template(template))
    assert [v._replace(scheduled_prompts=()) for v in expanded(template, "q")] == plain


def test_joint_expansion_equals_the_filtered_product() -> None:
    templates = ["[a|b|c] [1|2]", "[1|2] [x|y]", "[x|y] [a|b|c] [1|2]"]
    brackets = [["abc", "12"], ["12", "xy"], ["xy", "abc", "12"]]
    expected = []
    for options in product("abc", "12", "12", "xy", "xy", "abc", "12"):
        chosen: dict[str, set[str]] = {}
        for bracket, option in zip([name for names in brackets for name in names], options, strict=True):
            chosen.setdefault(bracket, set()).add(option)
        if all(len(values) == 1 for values in chosen.values()):
            expected.append((" ".join(options[:2]), " ".join(options[2:4]), " ".join(options[4:])))
    assert texts(expanded(*templates)) == expected


def test_spans_of_choices_equal_those_of_the_prompt_at_the_start() -> None:
    for variation in expanded("[cat|dog]", "a [red|blue] (start) [cat|dog]", "[x|y] end", replaces_start=True):
        assert [variation.prompt[mark.start : mark.end] for mark in variation.marks] == ["start"]
        spans = {c.bracket_number: variation.prompt[c.start : c.end] for c in variation.choices}
        chosen = {c.bracket_number: c.text for c in variation.choices}
        assert spans == {**chosen, 4: ""}
        for scheduled in variation.scheduled_prompts:
            assert all(scheduled.prompt[c.start : c.end] == c.text for c in scheduled.choices)


def test_too_many_joint_variations_are_refused() -> None:
    assert len(expanded("[a|b] [c|d]", "[e|f]", limit=8)) == 8
    with pytest.raises(TooManyVariationsError, match="at least 8 variations, more than the limit of 7"):
        expanded("[a|b] [c|d]", "[e|f]", limit=7)


def test_recipes_have_the_prompts_of_their_variation() -> None:
    batch = planned("a [red|blue] (circle)", "{50%: 'a [red|blue] (star:2)', 80%: 'a [ring|cross]'}")
    prompts = [tuple(p.prompt for p in video.recipe.prompts) for video in batch.videos[::2]]
    assert prompts == [
        (f"a {colour} circle", f"a {colour} star", f"a {shape}")
        for colour, shape in product(("red", "blue"), ("ring", "cross"))
    ]
    marks = [p.marks for p in batch.first_recipe.prompts]
    assert [[(mark.text, mark.weight) for mark in each] for each in marks] == [[("circle", 1)], [("star", 2)], []]
    assert batch.first_recipe.weighting == "attention"
    assert len({video.recipe.digest for video in batch.videos}) == len(batch.videos)
    manifest = create_manifest(batch, "scheduled")
    labels = make_variation_labels(manifest, range(4))
    assert [label.label for label in labels] == ["red, ring", "red, cross", "blue, ring", "blue, cross"]


def test_prompt_at_the_start_replaces_the_template() -> None:
    batch = planned("a circle", "{0: 'a red star', 5: 'a ring'}")
    assert [p.prompt for p in batch.first_recipe.prompts] == ["a red star", "a ring"]
    assert any("only its brackets are used" in warning for warning in batch.warnings)
    alone = planned("a circle", "{0: 'a red star'}")
    assert (
        alone.first_recipe.digest
        == plan_batch(load_config("nano", ["model_settings.steps=10"]), "a red star").first_recipe.digest
    )
    assert not planned("a red star", "{0: 'a red star', 5: 'a ring'}").warnings


def test_disabled_schedule_changes_no_recipe() -> None:
    plain = plan_batch(load_config("nano", ["model_settings.steps=10"]), "a red star").first_recipe
    assert planned("a red star", "{5: 'a ring'}", "prompt_schedule_settings.enabled=no").first_recipe == plain
    assert plain.controls == {}


@pytest.mark.parametrize("values", ["no,yes", "yes,no"])
def test_sweep_can_switch_a_schedule_off(values: str) -> None:
    preview = planned("a red star", "{5: 'a ring'}", f"sweeps=prompt_schedule_settings.enabled={values}")
    assert not preview.refusals
    assert ["prompt_schedule" in cell.recipe.controls for cell in preview.cells] == [
        v == "yes" for v in values.split(",")
    ]
    assert list_scheduled_moments(preview.config.settings) == ["step 5"]
    assert [scheduled.prompt for scheduled in preview.variations[0].scheduled_prompts] == ["a ring"]


def test_each_evaluation_names_its_prompt() -> None:
    step = planned("a", "{3: b, 6: c}", "prompt_schedule_settings.interpolation=step").first_recipe
    assert [each.prompt for each in list_evaluation_prompts(step)] == ["a"] * 3 + ["b"] * 3 + ["c"] * 4
    assert describe_evaluation_prompts(step) == {
        "evaluations 0 to 2": "a",
        "evaluations 3 to 5": "b",
        "evaluations 6 to 9": "c",
    }
    line = planned("a", "{2: b}", "prompt_schedule_settings.interpolation=lerp").first_recipe
    assert list_evaluation_prompts(line) == [
        EvaluationPrompt("a"),
        EvaluationPrompt("a", "b", 0.5),
        *[EvaluationPrompt("b")] * 8,
    ]
    assert describe_evaluation_prompts(line) == {
        "evaluation 0": "a",
        "evaluation 1": "a → b",
        "evaluations 2 to 9": "b",
    }
    assert describe_evaluation_prompts(line.model_copy(update={"controls": {}})) == {}
    shortened = describe_evaluation_prompts(step.model_copy(update={"steps": 5}))
    assert "a keyframe is at step 6, but the steps are 0 to 4" in shortened["evaluations"]


@pytest.mark.parametrize(
    ("schedule", "overrides", "reason"),
    [
        ("{10: a}", [], "a keyframe is at step 10, but the steps are 0 to 9"),
        ("{50%: a, 51%: b}", ["prompt_schedule_settings.interpolation=step"], "the prompt at 50% has no effect"),
        (
            "{sigma 0.001: a}",
            ["prompt_schedule_settings.interpolation=step"],
            "the prompt at sigma 0.001 has no effect",
        ),
        ("{5: a}", ["model_settings.speed=cached"], "cannot be combined with model_settings.speed: cached"),
        (f"{{5: '{'circle ' * 600}'}}", [], "has 600 words, but the model reads only 512 tokens"),
        (f"{{5: '{'redder ' * 300}'}}", [], "tokens, but the model reads only 512"),
        ("{5: 'a (北京:2)'}", [], "has no tokens for the marked 北京"),
    ],
)
def test_schedule_that_does_not_fit_is_refused_by_name(schedule: str, overrides: list[str], reason: str) -> None:
    refusals = preview_batch(scheduled_config(schedule, *overrides), "a circle").refusals
    assert any(reason in refusal for refusal in refusals), refusals


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("{5: '', 8: a}", "the prompt at step 5 cannot be used: the template is empty"),
        ("{5: ' [a|] '}", "the prompt at step 5 cannot be used: .* one of its variations has no text"),
        ("{50%: 'a [b'}", "the prompt at 50% cannot be used: '\\[' is never closed"),
        ("{0: 'a (b'}", "the prompt at the start cannot be used: '\\(' is never closed"),
        ("{5: a, 5.0: b}", "two keyframes, '5' and '5.0', have the same step"),
        ("{5: a, 50%: b}", "'5' is a step, but '50%' is a percentage"),
        ("{-1: a}", "cannot use the moment '-1'"),
        ("{soon: a}", "cannot read the moment 'soon'"),
        ("{5: [a, b]}", "should be a single value"),
    ],
)
def test_unreadable_schedule_is_refused_by_name(schedule: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        preview_batch(scheduled_config(schedule), "a circle")
    assert SCHEDULE in str(error.value)


def test_repeated_moment_in_a_file_is_refused() -> None:
    text = "prompt_schedule_settings:\n  schedule:\n    5: a\n    5: b\n"
    with pytest.raises(ConfigError, match=r"prompt_schedule_settings\.schedule\.5: occurs again in line 4"):
        parse_config(text, "a.yaml")


def test_section_of_the_older_system_holds_its_first_prompt_from_the_start() -> None:
    text = "model_settings: {model_id: nano, steps: 10}\nvideo_settings: {width: 128, height: 128, frames: 17}\n"
    section = "prompt_schedule_settings: {enabled: true, schedule: {4: a ring, 8: a star}, verbose: true}\n"
    config = parse_config(text + section, "older.yaml")
    assert any("so the template is ignored" in str(warning) for warning in config.warnings)
    recipe = plan_batch(config, "a circle").first_recipe
    steps = list_evaluation_prompts(recipe)
    assert [each.prompt for each in steps[:5]] == ["a ring"] * 5
    assert steps[8:] == [EvaluationPrompt("a star")] * 2
    assert recipe.controls["prompt_schedule"].interpolation == "slerp"
    ambiguous = parse_config(text + section.replace(", verbose: true", ""), "mine.yaml")
    assert any("the template is used" in str(warning) for warning in ambiguous.warnings)
    assert plan_batch(ambiguous, "a circle").first_recipe.prompt == "a circle"
    off = parse_config(text + section.replace("enabled: true", "enabled: false"), "off.yaml")
    assert plan_batch(off, "a circle").first_recipe.controls == {}


def test_schedule_survives_the_config_of_its_batch() -> None:
    config = scheduled_config("{50%: 'a [red|blue] (star:2)', 0: \"it's: a\"}")
    again = parse_config(dump_settings(config.settings), "config.yaml")
    assert again.settings == config.settings
    assert again.warnings == config.warnings


def test_variations_that_differ_only_in_the_schedule_are_no_duplicates() -> None:
    assert not any("same prompt" in warning for warning in planned("a", "{5: '[red|blue]'}").warnings)
    warnings = planned("[red|blue]", "{0: a, 5: ring}").warnings
    assert any("variations red and blue have the same prompts" in warning for warning in warnings)


def test_schedule_adds_no_model_evaluations_to_the_cost() -> None:
    plain = preview_batch(load_config("nano", ["model_settings.steps=10"]), "a circle")
    scheduled = preview_batch(scheduled_config("{5: a star}"), "a circle")
    lines = [[line for line in estimate_batch_costs(p, [], None) if line.name == "time"] for p in (plain, scheduled)]
    assert lines[0] == lines[1]


def test_preview_shows_the_schedule_of_the_batch_beside_cells_without_it(wantui: Wantui) -> None:
    schedule = "prompt_schedule_settings.schedule={10: a red star}"
    options = ("-t", "a ring", "--set", schedule, "--sweep", "prompt_schedule_settings.enabled=false,true")
    result = wantui("preview", *options)
    assert (result.code, "at step 10" in result.out, "a red star" in result.out) == (0, True, True)
    (variation,) = json.loads(wantui("preview", *options, "--json").out)["variations"]
    assert variation["scheduled_prompts"] == [{"moment": "step 10", "prompt": "a red star", "marks": []}]
