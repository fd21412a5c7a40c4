"""Tables of what changes during a denoising run, in recipes and in `wantui library show`."""

import pytest
from conftest import Wantui

from wantui.batches.batch_folders import create_batch_folder
from wantui.config import load_config
from wantui.keyframes import KeyframeError
from wantui.planning import Recipe, plan_batch
from wantui.planning.step_table import StepTable, build_step_table


def plan_recipe(*overrides: str, template: str = "a red (circle)") -> Recipe:
    return plan_batch(load_config("nano", ["model_settings.steps=4", *overrides]), template).videos[0].recipe


def build_table(*overrides: str, template: str = "a red (circle)") -> StepTable:
    table = build_step_table(plan_recipe(*overrides, template=template))
    assert table is not None
    return table


def list_column(table: StepTable, header: str) -> list[str]:
    return [row[table.headers.index(header)] for row in table.rows]


def test_recipes_that_stay_the_same_have_no_table() -> None:
    assert build_step_table(plan_recipe()) is None
    assert (
        build_step_table(plan_recipe("attention_bending_settings.bends=[{words: circle, mode: blur, blur_sigma: 1}]"))
        is None
    )


def test_guidance_schedules_show_the_scale_of_every_step() -> None:
    table = build_table("cfg_schedule_settings.schedule={0: 7, 3: 1}")
    assert table.headers == ("evaluation", "sigma", "guidance")
    assert list_column(table, "evaluation") == ["0", "1", "2", "3"]
    assert list_column(table, "guidance") == ["7", "5", "3", "1 (one pass)"]  # on a line from 7 to 1
    assert list_column(table, "sigma")[0] == "1.000"


def test_reused_differences_are_named_and_equal_steps_share_a_row() -> None:
    table = build_table("guidance_settings.reuse_from=50%")
    assert list_column(table, "evaluation") == ["0 to 1", "2 to 3"]
    assert list_column(table, "guidance") == ["4", "4 (difference reused)"]


def test_prompt_schedules_show_both_prompts_of_a_mixture_and_its_share() -> None:
    table = build_table(
        "prompt_schedule_settings.schedule={2: a blue star}", "prompt_schedule_settings.interpolation=lerp"
    )
    assert list_column(table, "prompt") == [
        "a red circle",
        "a red circle → a blue star (50%)",
        "a blue star",
    ]
    assert list_column(table, "evaluation") == ["0", "1", "2 to 3"]


def test_bends_are_listed_at_the_steps_at_which_they_act() -> None:
    table = build_table(
        "attention_bending_settings.bends=[{words: circle, mode: blur, blur_sigma: 1, steps: 0..1}, "
        "{words: red, mode: flip, flip_horizontal: yes}]"
    )
    assert list_column(table, "bends") == ["circle, red", "red"]
    assert list_column(table, "evaluation") == ["0 to 1", "2 to 3"]


def test_schedules_that_do_not_fit_the_steps_are_an_error() -> None:
    recipe = plan_recipe("cfg_schedule_settings.schedule={0: 7, 3: 1}").model_copy(update={"steps": 2})
    with pytest.raises(KeyframeError, match="step 3"):
        build_step_table(recipe)


def test_library_show_lists_controls_and_their_steps_once(wantui: Wantui) -> None:
    overrides = ["model_settings.steps=4", "cfg_schedule_settings.schedule={0: 7, 3: 1}", "videos_per_variation=3"]
    batch = plan_batch(
        load_config("nano", [*overrides, "lora_settings.adapters=[nano-style:0.5]"]), "a [red|blue] star"
    )
    folder, _ = create_batch_folder(batch)
    shown = wantui("library", "show", str(folder.root)).out
    assert shown.count("controls:") == 1
    assert " ".join(shown.split()).count("lora nano-style 0.5 of nano-style") == 1
    assert [line.split()[2] for line in shown.splitlines()[-4:]] == ["7", "5", "3", "1"]


def test_library_show_has_no_controls_of_plain_batches(wantui: Wantui) -> None:
    folder, _ = create_batch_folder(plan_batch(load_config("nano"), "a star"))
    assert "controls" not in wantui("library", "show", str(folder.root)).out
