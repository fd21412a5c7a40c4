"""The clock of the player, and the labels and recipes of compared clips."""

from pathlib import Path

import pytest
from conftest import recipe_for

from wantui.models.catalogue import NANO
from wantui.planning import PromptMark, Recipe
from wantui.tui.number_formats import align_decimals
from wantui.tui.player.clip_labels import describe_common_part, label_clips, number_equal_labels
from wantui.tui.player.clip_layout import choose_grid_columns
from wantui.tui.player.clips import PlayerClip
from wantui.tui.player.playback import Playback
from wantui.tui.player.recipe_table import (
    GROUPS,
    compare_recipes,
    list_recipe_fields,
)
from wantui.tui.widgets.playback_bar import format_position


def advance(playback: Playback, seconds: float) -> int:
    playback.move_forward(*playback.find_next_index(seconds))
    return playback.frame_index


def test_clock_follows_the_time_for_any_ticks() -> None:
    playback = Playback(fps=16.0, frame_count=100)
    ticks = [0.01, 0.09, 0.0625, 0.02, 0.2, 0.0034, 0.15, 0.6]
    for count in range(1, len(ticks) + 1):
        index = advance(playback, ticks[count - 1])
        assert abs(index - 16 * sum(ticks[:count])) <= 0.5 + 1e-9


def test_clock_shows_each_frame_once_if_the_ticks_jitter() -> None:
    playback = Playback(fps=8.0, frame_count=1000)
    shown = [advance(playback, 0.125 + (0.04 if tick % 2 else -0.04)) for tick in range(50)]
    assert shown == list(range(1, 51))


@pytest.mark.parametrize(("speed", "frames"), [(0.25, 2), (1.0, 8), (4.0, 32)])
def test_speed_multiplies_the_frames_of_a_second(speed: float, frames: int) -> None:
    assert advance(Playback(fps=8.0, frame_count=100, speed=speed), 1.0) == frames


def test_looped_clip_starts_again_and_another_stops_at_its_end() -> None:
    assert advance(Playback(fps=10.0, frame_count=8), 1.0) == 2
    playback = Playback(fps=10.0, frame_count=8, is_looping=False)
    assert advance(playback, 1.0) == 7
    assert not playback.is_playing
    playback.toggle_pause()
    assert (playback.frame_index, playback.is_playing) == (0, True)


def test_steps_pause_and_stay_inside_the_clip() -> None:
    playback = Playback(fps=10.0, frame_count=8)
    playback.step(-1)
    assert (playback.frame_index, playback.is_playing) == (7, False), "one frame back from the first is the last"
    playback.step(10)
    assert playback.frame_index == 7
    playback.step(-10)
    assert playback.frame_index == 0


def test_speed_stays_between_a_quarter_and_four() -> None:
    playback = Playback(fps=10.0)
    for _ in range(20):
        playback.change_speed(1)
    assert playback.speed == 4.0
    for _ in range(20):
        playback.change_speed(-1)
    assert playback.speed == 0.25


def test_clips_with_different_frame_rates_are_shown_at_the_same_second() -> None:
    playback = Playback(fps=16.0)
    playback.update_count([(81, 16.0), (17, 8.0)])
    assert playback.frame_count == 81
    playback.seek(24)
    assert playback.convert_index(16.0) == 24
    assert playback.convert_index(8.0) == 12


def test_empty_clip_does_not_break_the_clock() -> None:
    playback = Playback(fps=8.0)
    assert advance(playback, 5.0) == 0
    playback.step(1)
    assert playback.frame_index == 0
    assert format_position(playback) == "‖ 0/0  0.00/0.00 s  1×  ↻"


def test_position_text_keeps_its_width_during_playback() -> None:
    playback = Playback(fps=16.0, frame_count=200)
    widths = set()
    for index in range(200):
        playback.seek(index)
        widths.add(len(format_position(playback)))
    assert len(widths) == 1
    assert format_position(playback) == "▶ 200/200  12.50/12.50 s  1×  ↻"


@pytest.mark.parametrize(
    ("count", "aspect_ratio", "size", "columns"),
    [(1, 1.0, (80, 22), 1), (2, 1.0, (80, 22), 2), (2, 16 / 3, (80, 38), 1), (4, 832 / 480, (140, 38), 2)],
)
def test_grid_makes_clips_as_large_as_possible(
    count: int, aspect_ratio: float, size: tuple[int, int], columns: int
) -> None:
    assert choose_grid_columns(count, aspect_ratio, *size) == columns


def make_clip(options: tuple[str, ...], batch_name: str = "batch", **changes: object) -> PlayerClip:
    values = {"prompt": f"a {' '.join(options)}"} | changes
    return PlayerClip(Path("clip.mp4"), recipe_for(NANO, **values), "_".join(options), options, Path(batch_name), "1")


def test_labels_name_only_what_differs() -> None:
    seeds = [make_clip(("red", "circle"), seed=seed) for seed in (42, 43)]
    assert label_clips(seeds) == ["seed 42", "seed 43"]
    assert describe_common_part(seeds) == "red · circle"
    options = [make_clip(("red", "circle"), steps=20), make_clip(("blue", "circle"), steps=50)]
    assert label_clips(options) == ["red · steps 20", "blue · steps 50"]
    assert describe_common_part(options) == "circle · seed 7"
    batches = [make_clip(("red",), "one"), make_clip(("red",), "two", guidance_scale=6.0)]
    assert label_clips(batches) == ["one · cfg scale 4", "two · cfg scale 6"]


def test_labels_of_clips_that_do_not_differ_are_numbered() -> None:
    assert label_clips([make_clip(("red",))] * 2) == ["red · seed 7 (1)", "red · seed 7 (2)"]


def test_equal_labels_are_numbered() -> None:
    twice, once = make_clip(("red",), seed=42), make_clip(("red",), seed=43)
    assert label_clips([twice, once, twice]) == ["seed 42 (1)", "seed 43", "seed 42 (2)"]
    long_texts = ["a" * 40 + end for end in "xy"]
    clips = [make_clip(("red",), negative_prompt=text, prompt="red") for text in long_texts]
    assert label_clips(clips) == [f"negative prompt …{'a' * 22}{end}" for end in "xy"]
    assert number_equal_labels(["a", "a", "a (1)", "b"]) == ["a (2)", "a (3)", "a (1)", "b"]


def test_labels_of_clips_of_different_templates_name_the_variation() -> None:
    assert label_clips([make_clip(("red",)), make_clip(("blue", "star"))]) == ["red", "blue_star"]


def test_recipe_fields_are_grouped_and_named_as_in_the_config() -> None:
    fields = list_recipe_fields(recipe_for(NANO, fps=8, frames=9))
    groups = [field.group for field in fields]
    assert sorted(groups, key=GROUPS.index) == groups
    assert set(groups) == set(GROUPS)
    value_by_name = {field.full_name: (field.value, field.unit) for field in fields}
    assert len(value_by_name) == len(fields)
    assert value_by_name["cfg_scale"] == ("4", "")
    assert value_by_name["width"] == ("32", "px")
    assert value_by_name["duration"] == ("1.12", "s")


def test_every_field_of_a_recipe_is_in_the_table() -> None:
    recipe = recipe_for(NANO)
    capture = recipe.capture.model_copy(update={"latents": True})
    changes: dict[str, object] = {
        "model": "other",
        "revision": "abc",
        "prompt": "a star",
        "negative_prompt": "blurry",
        "marks": (PromptMark(text="star", start=2, end=6),),
        "weighting": "multiply",
        "seed": 99,
        "sampler": "euler",
        "steps": 77,
        "flow_shift": 9.5,
        "guidance_scale": 8.5,
        "guidance_scale_2": 3.5,
        "width": 640,
        "height": 320,
        "frames": 33,
        "fps": 24,
        "dtype": "bfloat16",
        "weights": "int8",
        "speed": "cached",
        "magnitudes": ((1.0, 1.0),),
        "capture": capture,
    }
    assert set(changes) == set(Recipe.model_fields) - {"format", "transformer_file", "controls"}
    for name, value in changes.items():
        assert compare_recipes([recipe, recipe.model_copy(update={name: value})]).differences, name


def test_differences_are_summarised() -> None:
    red = recipe_for(NANO, seed=1)

    def describe(*recipes: Recipe) -> str:
        return compare_recipes(recipes).summary

    field_count = len(list_recipe_fields(red))
    assert describe(red, red) == "the recipes are identical"
    assert describe(red, recipe_for(NANO, seed=2)) == f"only the seed differs; {field_count - 1} fields are equal"
    text = describe(red, recipe_for(NANO, seed=1, guidance_scale=9))
    assert text == f"only the cfg scale differs; {field_count - 1} fields are equal"
    assert describe(red, recipe_for(NANO, seed=2, steps=9)) == f"2 fields differ; {field_count - 2} fields are equal"
    marked = recipe_for(NANO, seed=1, marks=(PromptMark(text="red", start=2, end=5, weight=2.0),))
    assert describe(marked, recipe_for(NANO, seed=1, marks=(PromptMark(text="red", start=2, end=5),))) == (
        "the recipes differ in details that only the JSON shows"
    )


def test_decimal_points_are_aligned() -> None:
    assert align_decimals(["42", "4.0", "12.25"]) == ["42   ", " 4.0 ", "12.25"]
