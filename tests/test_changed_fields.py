"""Marks of the settings in a recipe that differ from the defaults of wantui, against planned batches."""

from typing import Any

import pytest
from conftest import recipe_for

from wantui.config import parse_config
from wantui.models.catalogue import NANO, find_model
from wantui.planning import Recipe, plan_batch
from wantui.tui.player.changed_fields import find_changed_fields
from wantui.tui.player.recipe_table import list_recipe_fields

NANO_TEXT = "model_settings: {model_id: nano}\nvideo_settings: {width: 128, height: 128, frames: 17}\n"


def plan_recipe(*assignments: str, template: str = "a (star)") -> Recipe:
    return plan_batch(parse_config(NANO_TEXT, "my.yaml", list(assignments)), template).first_recipe


def test_default_settings_are_not_marked() -> None:
    model = find_model("wan2.1-1.3b")
    recipe = recipe_for(
        model,
        guidance_scale=5.0,
        steps=50,
        width=832,
        height=480,
        frames=81,
        fps=16,
        dtype="bfloat16",
        speed="fused",
    )
    assert find_changed_fields(recipe) == {}
    assert find_changed_fields(recipe.model_copy(update={"model": model.name})) == {}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"dtype": "bfloat16"}, {"dtype"}),
        ({"flow_shift": 2.0}, {"flow_shift"}),
        ({"frames": 81}, {"-frames"}),
        ({"fps": 16}, {"-fps"}),
        ({"speed": "fused"}, {"-speed"}),
        ({"negative_prompt": "blurry"}, {"negative_prompt"}),
        ({"guidance_scale_2": 3.0}, {"cfg_scale_2"}),
        ({"weights": "int8"}, {"weights"}),
        ({"prompt": "a star", "seed": 9, "revision": "abc"}, set()),
    ],
)
def test_changed_field_of_a_recipe_is_marked(changes: dict[str, Any], names: set[str]) -> None:
    base = set(find_changed_fields(recipe_for(NANO)))
    assert base == {"model_id", "steps", "cfg_scale", "width", "height", "frames", "fps", "speed"}
    expected = {name for name in names if name[0] != "-"} | (base - {name[1:] for name in names if name[0] == "-"})
    assert set(find_changed_fields(recipe_for(NANO, **changes))) == expected


@pytest.mark.parametrize(
    ("assignments", "template", "names"),
    [
        (["guidance_settings.rule=apg"], "a star", {"guidance.rule"}),
        (["guidance_settings.rule=apg", "guidance_settings.eta=0.5"], "a star", {"guidance.rule", "guidance.eta"}),
        (["guidance_settings.reuse_from=50%"], "a star", {"guidance.reuse_from"}),
        ([], "a (star:1.5)", {"word_weights"}),
        (["prompt_settings.embedding_method=multiply"], "a (star:1.5)", {"word_weights", "embedding_method"}),
        (["contribution_settings.store_contributions=true"], "a (star)", {"store_contributions"}),
        (
            ["contribution_settings.store_contributions=true", "contribution_settings.store_per_block=true"],
            "a (star)",
            {"store_contributions", "contributions.per_block"},
        ),
        (
            [
                "attention_analysis_settings.store_attention=true",
                "attention_analysis_settings.compress_attention=false",
            ],
            "a (star)",
            {"store_attention", "attention.compress_attention"},
        ),
        (["latent_analysis_settings.store_latents=true"], "a (star)", {"store_latents"}),
        (["model_settings.speed=cached"], "a (star)", {"speed"}),
    ],
)
def test_changed_capture_or_control_is_marked(assignments: list[str], template: str, names: set[str]) -> None:
    base = set(find_changed_fields(plan_recipe(template="a (star)")))
    assert base == {"model_id", "width", "height", "frames"}
    assert set(find_changed_fields(plan_recipe(*assignments, template=template))) - base == names


def test_every_setting_of_a_bend_is_marked() -> None:
    bends = "[{words: star, mode: translate, translate_x: 0.25}]"
    text = f"{NANO_TEXT}attention_bending_settings:\n  bends: {bends}\n"
    recipe = plan_batch(parse_config(text, "my.yaml"), "a (star)").first_recipe
    names = {field.full_name for field in list_recipe_fields(recipe) if field.part == "attention_bending"}
    assert names
    assert names <= set(find_changed_fields(recipe))
