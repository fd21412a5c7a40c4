"""Composing chosen videos again: the new batch is the product of their variations, cells and seeds."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wantui.batches.recompose import recompose_batch
from wantui.config import dump_settings, parse_config
from wantui.errors import UserError
from wantui.planning import Batch, plan_batch
from wantui.prompts import expand_template, parse_template
from wantui.prompts.unparse import format_prompts_as_template
from wantui.storage.manifest import VideoEntry, create_manifest

pytestmark = pytest.mark.slow

SMALL = "model_settings: {model_id: nano, steps: 4}\nvideo_settings: {width: 64, height: 64, frames: 9}\n"
TEMPLATE = r"a [red|\[blue\]|(dark:1.2345678) green] [(circle)|\(square\)|] at 16\:9"
BEND = "attention_bending_settings: {bends: [{words: circle, mode: scale, scale_factor: 2}]}\n"
SCHEDULE = "prompt_schedule_settings: {schedule: {'50%': 'a [red|blue] (circle:1.5)', '75%': 'a [red|blue] star'}}\n"
SCHEDULED_START = "prompt_schedule_settings: {schedule: {'0': 'one [red|blue] dot', '2': 'a [red|blue] star'}}\n"


def plan(more: str, template: str) -> Batch:
    return plan_batch(parse_config(SMALL + more, "test"), template)


def recompose(batch: Batch, entries: Sequence[VideoEntry]) -> tuple[Batch, str]:
    """Return the batch that Compose plans for these videos, and its note."""
    result = recompose_batch(batch.config.settings, create_manifest(batch, "test"), entries)
    return plan_batch(parse_config(dump_settings(result.settings), "test"), result.template), result.note


def list_product(batch: Batch, entries: Sequence[VideoEntry]) -> set[str]:
    """Return the digests of all videos of the batch whose variation, cell and seed are among those of the entries."""
    variations = {entry.variation for entry in entries}
    cells = {entry.cell for entry in entries}
    seeds = {entry.seed for entry in entries}
    return {
        video.recipe.digest
        for video in batch.videos
        if video.variation_index in variations and video.cell_index in cells and video.recipe.seed in seeds
    }


@pytest.mark.parametrize(
    ("more", "template"),
    [
        ("videos_per_variation: 3\n", TEMPLATE),
        ("seeds: 7,5,9223372036854775807\n", TEMPLATE),
        ("seeds: 7,11\nsweeps: cfg_scale=1,4.5,8; steps=3,5+sampler=unipc,euler\n", "a [red|blue|green] dot"),
        ("sweeps: cfg_scale=1,5; steps=3,4\nsweeps_baseline: true\n", "a [red|blue] dot"),
        ("sweeps: negative_prompt=,'a, ''b''',1..3x\n", "a [red|blue] dot"),
        (f"{BEND}sweeps: bend.circle.scale_factor=0.5,1.5\nsweeps_baseline: true\n", "a [red|blue] (circle)"),
        (f"{SCHEDULE}seeds: 7,11\n", "a [red|blue] dot"),
        (f"{SCHEDULE}sweeps: prompt_schedule_settings.interpolation=lerp,step\n", "a [red|blue] dot"),
        (f"{SCHEDULED_START}seeds: 7,11\n", "[red|blue]"),
    ],
)
def test_new_batch_is_the_product_of_the_chosen_videos(more: str, template: str) -> None:
    batch = plan(more, template)
    entries = create_manifest(batch, "test").videos
    chooser = random.Random(0)
    for _ in range(25):
        chosen = chooser.sample(entries, chooser.randint(1, min(9, len(entries))))
        again, note = recompose(batch, chosen)
        expected = list_product(batch, chosen)
        assert {video.recipe.digest for video in again.videos} == expected
        assert len(again.videos) == len(expected)
        added_count = len(expected) - len(chosen)
        assert (f"has {len(expected)} videos, {added_count} more than" in note) if added_count else note == ""
    assert recompose(batch, entries)[0].template == template


def test_schedule_of_one_cell_is_kept_when_schedules_are_swept() -> None:
    batch = plan(f"{SCHEDULE}sweeps: prompt_schedule_settings.enabled=true,false\n", "a [red|blue] dot")
    entries = create_manifest(batch, "test").videos
    one_cell = [entry for entry in entries if entry.cell == 0 and entry.variation == 1]
    assert [video.recipe for video in recompose(batch, one_cell)[0].videos] == [entry.recipe for entry in one_cell]
    both_cells = [entry for entry in entries if entry.variation == 1]
    with pytest.raises(UserError, match="Select only videos of one cell, or videos of all variations"):
        recompose(batch, both_cells)
    assert {video.recipe.digest for video in recompose(batch, entries)[0].videos} == list_product(batch, entries)


def test_variations_whose_scheduled_brackets_would_multiply_are_refused() -> None:
    more = "prompt_schedule_settings: {schedule: {'50%': 'a [red|blue|green] star in [red|blue|green]'}}\n"
    batch = plan(more, "a [red|blue|green] dot")
    entries = create_manifest(batch, "test").videos
    assert [v.recipe for v in recompose(batch, entries[:1])[0].videos] == [entries[0].recipe]
    with pytest.raises(UserError, match="brackets of their prompt schedule vary separately"):
        recompose(batch, [entries[0], entries[-1]])


WORDS = st.lists(
    st.sampled_from(["a", "red", "16:9", "[x]", "\\", "|", "(", "b)", "é", "(c:2)"]), min_size=1, max_size=5
)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=5), st.data())
def test_template_of_prompts_expands_to_them(word_lists: list[list[str]], data: st.DataObject) -> None:
    prompts = []
    for words in word_lists:
        prompt = " ".join(words)
        first = data.draw(st.integers(0, len(words) - 1))
        last = data.draw(st.integers(first, len(words) - 1))
        start = len("".join(f"{word} " for word in words[:first]))
        end = start + len(" ".join(words[first : last + 1]))
        weight = data.draw(st.sampled_from([1.0, 0.5, 1.23456789, 1e-7]))
        prompts.append((prompt, ((start, end, weight),)))
    variations = expand_template(parse_template(format_prompts_as_template(prompts)))
    found = [(v.prompt, tuple((mark.start, mark.end, mark.weight) for mark in v.marks)) for v in variations]
    assert found == list(dict.fromkeys(prompts))
