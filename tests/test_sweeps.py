"""Sweeps: a batch is variations x cells x seeds; compared with brute-force products and with batches planned alone."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui
from gpu_samples import make_gpu_sample, make_gpu_state

from wantui.batches.batch_cost import estimate_batch_costs
from wantui.batches.cell_cost import describe_cells, drop_oversized_cells, estimate_cell_costs
from wantui.config import ConfigError, dump_settings, load_config, parse_config
from wantui.config.sweep import find_matching_value_indices, format_value_label, format_value_labels
from wantui.config.sweep_syntax import SweepError, parse_seeds
from wantui.errors import UserError
from wantui.formatting import format_bytes, format_duration
from wantui.gpu.nvml import Gpu
from wantui.planning import Batch, PlanError, TimedVideo, estimate_video_seconds, plan_batch, preview_batch
from wantui.planning.disk_estimate import estimate_batch_disk, estimate_recipe_disk
from wantui.planning.sweep import extract_cell_settings
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, create_manifest

SMALL = "model_settings: {model_id: nano, steps: 3}\nvideo_settings: {width: 64, height: 64, frames: 9}\n"
TEMPLATE = "a [red|blue] (circle:1.5)"


def swept(path: str, *texts: str) -> list[dict[str, str]]:
    return [{path: text} for text in texts]


def plan(sweeps: str, template: str = TEMPLATE, more: str = "seeds: 7,11\n") -> Batch:
    return plan_batch(parse_config(f"{SMALL}{more}sweeps: {sweeps}\n", "test"), template)


def plan_alone(overrides: list[str]) -> Batch:
    return plan_batch(parse_config(f"{SMALL}seeds: 7,11\n", "test", overrides), TEMPLATE)


@pytest.mark.parametrize(
    ("sweeps", "axes"),
    [
        ("cfg_scale=1,4.5", [swept("model_settings.cfg_scale", "1", "4.5")]),
        (
            "cfg_scale=2..4:2; sampler=unipc,euler",
            [swept("model_settings.cfg_scale", "2", "4"), swept("model_settings.sampler", "unipc", "euler")],
        ),
        (
            "width=64,96+height=96,64; steps=3,4; negative_prompt=, 'blur, noise'",
            [
                [
                    {"video_settings.width": "64", "video_settings.height": "96"},
                    {"video_settings.width": "96", "video_settings.height": "64"},
                ],
                swept("model_settings.steps", "3", "4"),
                swept("prompt_settings.negative_prompt", "", "blur, noise"),
            ],
        ),
        ("embedding_method=attention,multiply", [swept("prompt_settings.embedding_method", "attention", "multiply")]),
        ("speed=reference,fused", [swept("model_settings.speed", "reference", "fused")]),
    ],
)
def test_recipes_equal_those_of_batches_planned_alone(sweeps: str, axes: list[list[dict[str, str]]]) -> None:
    batch = plan(f'"{sweeps}"')
    expected = []
    for cell_index, combination in enumerate(product(*axes)):
        alone = plan_alone([f"{path}={value}" for part in combination for path, value in part.items()])
        expected += [(v.variation_index, cell_index, v.seed_number, v.recipe.digest) for v in alone.videos]
    found = [(v.variation_index, v.cell_index, v.seed_number, v.recipe.digest) for v in batch.videos]
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == len(found) == 2 * 2 * len(list(product(*axes)))


def test_videos_are_ordered_by_variation_cell_and_seed_with_paired_seeds() -> None:
    batch = plan("cfg_scale=2,4,6")
    assert [(v.variation_index, v.cell_index, v.recipe.seed) for v in batch.videos] == list(
        product(range(2), range(3), (7, 11))
    )
    assert batch.sweep is not None
    assert [cell.label for cell in batch.sweep.cells] == ["cfg_scale 2", "cfg_scale 4", "cfg_scale 6"]


def test_baseline_is_the_batch_without_the_sweep() -> None:
    batch = plan("cfg_scale=2,4", more="seeds: 7,11\nsweeps_baseline: true\n")
    baseline = [video.recipe.digest for video in batch.videos if video.cell_index == 0]
    assert baseline == [video.recipe.digest for video in plan_alone([]).videos]
    assert batch.sweep is not None
    assert (batch.sweep.cells[0].label, batch.sweep.cells[0].is_baseline) == ("baseline", True)


def test_cell_with_the_config_values_is_the_baseline() -> None:
    batch = plan("cfg_scale=2,5,6", more="sweeps_baseline: true\n")
    assert batch.sweep is not None
    assert [(cell.label, cell.is_baseline) for cell in batch.sweep.cells] == [
        ("cfg_scale 2", False),
        ("cfg_scale 5", True),
        ("cfg_scale 6", False),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweeps", "reason"),
    [
        ("cfg_scal=1", "unknown setting; did you mean cfg_scale?"),
        ("model_settings.cfgscale=1", "model_settings has no key cfgscale; did you mean cfg_scale?"),
        ("model_settings=1", "it is a section"),
        ("cfg_scale.x=1", "model_settings.cfg_scale has no settings of its own"),
        ("lora.other.strength=1", "lora_settings.adapters is empty. Add other to it before you sweep it"),
        ("seed=1,2", "--seeds"),
        ("videos_per_variation=1,2", "--seeds"),
        ("output_dir=a,b", "does not change the video"),
        ("device=cpu,cuda", "does not change the video"),
        ("sweeps_skip_impossible=yes,no", "does not change the video"),
        ("model_settings.dtype=bfloat16,float32", "Queue one batch for each value"),
        ("store_latents=true,false", "not the video"),
        ("latent_analysis_settings.storage_interval=1,2", "not the video"),
        ("storage_interval=1,2", "not the video"),
        ("cfg_scale=a", "should be a number"),
        ("steps=1.5", "should be a whole number"),
        ("steps=1..2:0.5", "not whole"),
        (
            "cfg_scale=",
            "cannot sweep model_settings.cfg_scale: a value is empty. Write the values after the equals sign",
        ),
        ("steps=3,", "a value is empty"),
        ("store_latents=", "not the video"),
        ("speed=,fused", "a value is empty"),
        ("cfg_schedule_settings.enabled=", "a value is empty"),
        ('cfg_scale=""', "should be a number in decimal digits, got ''"),
        ("cfg_scale=4,4.0", "4 occurs twice"),
        ("cfg_scale=1,2;model_settings.cfg_scale=3", "cannot sweep model_settings.cfg_scale twice"),
        ("cfg_scale=1,2+steps=1,2,3", "they have 2 and 3 values"),
        ("cfg_scale=0..50:0.01;steps=1..3", "at most 10,000 are allowed"),
    ],
)
def test_impossible_sweep_is_refused_before_planning(sweeps: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(f"{SMALL}sweeps: '{sweeps}'", "test.yaml")
    assert reason in str(raised.value)
    assert str(raised.value).startswith("test.yaml:3: sweeps: ")


@pytest.mark.parametrize(
    ("written", "range_text"),
    [("2-8", "2..8"), ("2:8", "2..8"), ("2 to 8", "2..8"), ("2...8", "2..8"), ("0.5 - 2", "0.5..2:0.1")],
)
def test_range_written_in_another_way_is_refused_with_its_syntax(written: str, range_text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_config(f"sweeps: cfg_scale={written}\n", "my.yaml")
    assert f"{written} is not a number. Write a range as {range_text}" in str(raised.value)
    with pytest.raises(SweepError, match=f"Write a range as {range_text}"):
        parse_seeds(written)


def test_impossible_cells_are_refused_by_name() -> None:
    config = parse_config(f"{SMALL}sweeps: cfg_scale=2,60; width=64,70", "test")
    preview = preview_batch(config, TEMPLATE)
    assert [(cell.label, bool(cell.refusals)) for cell in preview.cells] == [
        ("cfg_scale 2, width 64", False),
        ("cfg_scale 2, width 70", True),
        ("cfg_scale 60, width 64", True),
        ("cfg_scale 60, width 70", True),
    ]
    assert any(text.startswith("cfg_scale 2, width 70: video_settings.width: 70 is not") for text in preview.refusals)
    assert any(
        text.startswith("cfg_scale 60, width 64 and 1 more cell: model_settings.cfg_scale: Input should be less than")
        for text in preview.refusals
    )
    with pytest.raises(PlanError, match="cannot generate this batch"):
        plan_batch(config, TEMPLATE)


def test_impossible_cells_are_skipped_on_request() -> None:
    more = "sweeps_skip_impossible: true\n"
    batch = plan("cfg_scale=2,60; width=64,70", more=more)
    assert batch.sweep is not None
    assert [cell.label for cell in batch.sweep.cells] == ["cfg_scale 2, width 64"]
    assert len(batch.sweep.skipped_cells) == 3
    assert {video.cell_index for video in batch.videos} == {0}
    assert any("left out: " in warning for warning in batch.warnings)
    assert not batch.refusals


def test_batch_without_a_possible_cell_is_refused_with_all_reasons() -> None:
    with pytest.raises(PlanError, match="no cell of the sweep can be generated"):
        plan("cfg_scale=60,70", more="sweeps_skip_impossible: true\n")


def test_cells_with_the_same_videos_are_refused() -> None:
    preview = preview_batch(parse_config(f"{SMALL}sweeps: frames=9,10", "test"), TEMPLATE)
    assert any("frames 10: it gives the same videos as frames 9" in text for text in preview.refusals)


UNGUIDED = (
    "model_settings: {model_id: nano, steps: 3, cfg_scale: 1}\nvideo_settings: {width: 64, height: 64, frames: 9}\n"
)
SCHEDULED = f"{SMALL}cfg_schedule_settings: {{schedule: {{0: 7, 2: 3}}}}\n"
SWITCHED = f"{SMALL}prompt_schedule_settings: {{schedule: {{2: 'a [red|blue] (ring)'}}}}\n"


def find_equal_cells(config_text: str, template: str = TEMPLATE) -> list[str]:
    """Return "label = label of an earlier cell" for each cell that is refused for giving the same videos."""
    pairs = []
    for cell in preview_batch(parse_config(config_text, "test"), template).cells:
        for text in cell.refusals:
            reason = re.fullmatch(r"it gives the same videos as (.+)\. Remove one of the values", text)
            assert reason, text
            pairs.append(f"{cell.label} = {reason[1]}")
    return pairs


@pytest.mark.parametrize(
    ("config_text", "pairs"),
    [
        (f"{SMALL}sweeps: cfg_scale=0..2:0.5", [f"cfg_scale {scale} = cfg_scale 0" for scale in ("0.5", "1")]),
        (f"{UNGUIDED}sweeps: 'negative_prompt=a,b'", ["negative_prompt b = negative_prompt a"]),
        (
            f"{SMALL}sweeps: 'cfg_scale=1,4; negative_prompt=a,b'",
            ["cfg_scale 1, negative_prompt b = cfg_scale 1, negative_prompt a"],
        ),
        (f"{SCHEDULED}sweeps: cfg_scale=2,4", ["cfg_scale 4 = cfg_scale 2"]),
        (
            f"{SMALL}sweeps: [{{cfg_schedule_settings.schedule: [{{0: 1}}, {{0: 7, 2: 3}}, {{0: 1, 2: 1}}]}}]",
            ["schedule 0: 1, 2: 1 = schedule 0: 1"],
        ),
        (f"{SMALL}sweeps: cfg_scale=2,4\nsweeps_baseline: true", []),
        (f"{UNGUIDED}sweeps: cfg_scale=0.5,1,4\nsweeps_baseline: true", ["cfg_scale 0.5 = cfg_scale 1"]),
    ],
)
def test_cells_whose_settings_have_no_effect_are_refused(config_text: str, pairs: list[str]) -> None:
    assert find_equal_cells(config_text) == pairs


@pytest.mark.parametrize(
    ("config_text", "baseline", "count"),
    [
        (f"{SMALL}sweeps: cfg_scale=2,5", "cfg_scale 5", 2),
        (f"{UNGUIDED}sweeps: cfg_scale=0.5,4", "cfg_scale 0.5", 2),
    ],
)
def test_cell_with_the_videos_of_the_baseline_takes_its_place(config_text: str, baseline: str, count: int) -> None:
    cells = preview_batch(parse_config(f"{config_text}\nsweeps_baseline: true", "test"), TEMPLATE).cells
    assert [planned.label for planned in cells if planned.cell and planned.cell.is_baseline] == [baseline]
    assert len(cells) == count
    assert not any(planned.refusals for planned in cells)


@pytest.mark.parametrize(
    ("sweeps", "template"),
    [
        ("embedding_method=attention,multiply", "a [red|(blue:2)] circle"),
        (
            "[{prompt_schedule_settings.schedule: [{2: 'a [red|(blue:2)] ring'}, {2: 'a [red|(blue:3)] ring'}]}]",
            "a [red|blue] circle",
        ),
    ],
)
def test_cells_that_differ_only_in_later_variations_are_generated(sweeps: str, template: str) -> None:
    assert find_equal_cells(f"{SWITCHED}sweeps: {sweeps}", template) == []
    recipes = [video.recipe for video in plan(sweeps, template, f"seeds: 7,11\n{SWITCHED.removeprefix(SMALL)}").videos]
    assert len({recipe.digest for recipe in recipes}) == 6  # the first variation is the same in both cells


def test_disk_estimate_is_the_sum_over_videos() -> None:
    batch = plan("frames=5,9; steps=2,4", more="latent_analysis_settings: {store_latents: true}\n")
    expected = [estimate_recipe_disk(video.recipe, batch.model) for video in batch.videos]
    estimate = estimate_batch_disk(batch)
    assert estimate.sum_capture_bytes("latents") == sum(part.sum_capture_bytes("latents") for part in expected)
    assert abs(estimate.video_bytes - sum(part.video_bytes for part in expected)) <= len(expected)


def test_disk_estimate_explains_cells_of_equal_size_once() -> None:
    batch = plan("cfg_scale=2,4,6,8", more="latent_analysis_settings: {store_latents: true}\n")
    (latents,) = [part for part in estimate_batch_disk(batch).capture_parts if part.name == "latents"]
    assert latents.basis.startswith(f"{len(batch.videos)} videos x ")
    assert ";" not in latents.basis


def test_too_many_videos_are_refused_with_cells_counted() -> None:
    with pytest.raises(PlanError, match=r"cannot plan 120,000 videos: .* fewer options or cells"):
        plan("steps=1..100; cfg_scale=1..10", more="videos_per_variation: 60\n")


def test_manifest_stores_axes_and_cells_once() -> None:
    manifest = create_manifest(plan("cfg_scale=2,4+steps=3,4", more="sweeps_baseline: true\nseeds: 7,11\n"), "n")
    document: dict[str, Any] = manifest.model_dump(mode="json")
    assert document["sweep"]["axes"] == [
        {
            "paths": ["model_settings.cfg_scale", "model_settings.steps"],
            "names": ["cfg_scale", "steps"],
            "values": [[2.0, 3], [4.0, 4]],
        }
    ]
    assert [video["cell"] for video in document["videos"]] == [0, 0, 1, 1, 2, 2] * 2
    assert Manifest.model_validate(document) == manifest
    folder = BatchFolder(Path("batch"))
    clips = {folder.make_clip_path(v.variation, v.number, manifest.find_cell_folder(v)) for v in manifest.videos}
    assert len(clips) == len(manifest.videos)


def test_manifest_without_a_sweep_has_no_new_fields() -> None:
    document = create_manifest(plan_batch(parse_config(SMALL, "test"), TEMPLATE), "n").model_dump(mode="json")
    assert "sweep" not in document
    assert not any("cell" in video for video in document["videos"])
    assert not {"sweeps", "seeds", "sweeps_baseline", "sweeps_skip_impossible"} & set(document["config"])


def test_dumped_settings_with_a_sweep_plan_the_same_batch() -> None:
    config = parse_config(f"{SMALL}seeds: 3..9\nsweeps:\n- cfg_scale: [2, 4]\n- negative_prompt: ['a, b', '']", "test")
    again = parse_config(dump_settings(config.settings), "test")
    assert again.settings == config.settings
    assert [v.recipe for v in plan_batch(again, "a").videos] == [v.recipe for v in plan_batch(config, "a").videos]


@pytest.mark.parametrize("option", ["model_settings.seed=3", "videos_per_variation=2"])
def test_seed_options_cannot_be_combined_with_seeds(option: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be combined with seeds \(7,11\)"):
        parse_config("seeds: 7,11", "test", [option])


LARGE = "model_settings: {model_id: wan2.1-1.3b}\nvideo_settings: {width: 832, height: 480, frames: 81}\n"


def test_memory_plan_of_each_cell_equals_that_of_its_size() -> None:
    gpu_sample = make_gpu_sample(make_gpu_state(24_000_000_000, 0))
    preview = preview_batch(parse_config(f"{LARGE}sweeps: width=64,832+height=64,480", "test"), "a circle")
    alone = []
    for width, height in ((64, 64), (832, 480)):
        overrides = [f"video_settings.width={width}", f"video_settings.height={height}"]
        preview_alone = preview_batch(parse_config(LARGE, "test", overrides), "a circle")
        alone += estimate_cell_costs(preview_alone, [], gpu_sample)
    assert [cost.chosen_plan for cost in estimate_cell_costs(preview, [], gpu_sample)] == [c.chosen_plan for c in alone]
    peaks = [cost.chosen_plan.peak_bytes or 0 for cost in alone if cost.chosen_plan is not None]
    (memory_line,) = [line for line in estimate_batch_costs(preview, [], gpu_sample) if line.name == "memory"]
    assert memory_line.text.startswith(format_bytes(max(peaks)))
    assert max(peaks) > min(peaks)


def test_memory_of_a_cell_equals_that_of_its_variation_with_the_most_maps() -> None:
    attention = "attention_analysis_settings: {store_attention: true, store_per_block: true}\n"
    template = "a [red|big (blue) (round)|(green)] (circle)"
    preview = preview_batch(parse_config(f"{LARGE}{attention}sweeps: steps=3,10", "test"), template)
    costs = estimate_cell_costs(preview, [], make_gpu_sample(make_gpu_state(24_000_000_000, 0)))
    assert [cost.largest_recipe.prompt for cost in costs] == ["a big blue round circle"] * 2
    assert [cost.largest_recipe.steps for cost in costs] == [3, 10]


def test_cells_with_different_passes_have_other_times_and_memory() -> None:
    """Reuse from 60 % or 80 % leaves the median number of passes; a scale of 1 halves the cache of `speed: cached`."""
    batch = plan("reuse_from=60%,80%; steps=10,20", more="seeds: 7,11\n")
    past_videos = [TimedVideo(plan_alone([]).first_recipe, "cpu", 2.0, 0.5, None, "resident")]
    costs = estimate_cell_costs(batch, past_videos, None)
    expected = [estimate_video_seconds(cell.recipe, "cpu", past_videos).value for cell in batch.cells]
    assert [cost.video_seconds.value for cost in costs] == expected
    assert len(set(expected)) == 4
    overrides = ["model_settings.model_id=wan2.1-14b", "model_settings.speed=cached", "memory_settings.plan=sequential"]
    cached = parse_config(f"{LARGE}sweeps: cfg_scale=1,4", "test", overrides)
    costs = estimate_cell_costs(
        preview_batch(cached, "a circle"), [], make_gpu_sample(make_gpu_state(24_000_000_000, 0))
    )
    peaks = [cost.chosen_plan.working_bytes for cost in costs if cost.chosen_plan is not None]
    assert len(set(peaks)) == 2


def test_time_of_a_batch_is_the_sum_over_its_cells() -> None:
    batch = plan("steps=3,10; cfg_scale=1,4", more="seeds: 1..3\n")
    past_videos = [
        TimedVideo(video.recipe, "cpu", 2.0 + (video.cell_index or 0), 0.5, None, "resident") for video in batch.videos
    ]
    costs = estimate_cell_costs(batch, past_videos, None)
    expected = [estimate_video_seconds(video.recipe, "cpu", past_videos).value for video in batch.videos]
    assert sum(cost.total_seconds or 0 for cost in costs) == pytest.approx(sum(value or 0 for value in expected))
    (time_line,) = [line for line in estimate_batch_costs(batch, past_videos, None) if line.name == "time"]
    assert time_line.text.startswith(format_duration(sum(value or 0 for value in expected)))


def test_cells_without_enough_memory_are_refused_by_name_or_skipped() -> None:
    gpus = [Gpu(0, "GPU-0", "NVIDIA A", 24_000_000_000, 0)]
    text = f"{LARGE}memory_settings: {{plan: resident}}\nsweeps: width=64,2048+height=64,2048\n"
    with pytest.raises(UserError, match=r"width 2048, height 2048: it needs more GPU memory than the 24\.0 GB"):
        drop_oversized_cells(plan_batch(parse_config(text, "test"), "a circle"), gpus)
    batch = plan_batch(parse_config(f"{text}sweeps_skip_impossible: true\n", "test"), "a circle")
    reduced_batch = drop_oversized_cells(batch, gpus)
    assert reduced_batch.sweep is not None
    assert [cell.label for cell in reduced_batch.sweep.cells] == ["width 64, height 64"]
    assert [skipped.cell.label for skipped in reduced_batch.sweep.skipped_cells] == ["width 2048, height 2048"]
    assert [video.cell_index for video in reduced_batch.videos] == [0, 0, 0]
    assert create_manifest(reduced_batch, "n").videos[0].cell == 0


BEND = "attention_bending_settings: {bends: [{words: circle, name: circle, mode: scale, scale_factor: 2}]}\n"


@pytest.mark.parametrize("captures", [True, False])
@pytest.mark.parametrize(
    ("sweeps", "alone_options"),
    [
        ("sampler=unipc,lcm,euler", [f"model_settings.sampler={name}" for name in ("unipc", "lcm", "euler")]),
        ("speed=fused,cached", [f"model_settings.speed={name}" for name in ("fused", "cached")]),
        ("cfg_scale=0,1,5", [f"model_settings.cfg_scale={scale}" for scale in (0, 1, 5)]),
        (
            "negative_prompt='',\"(blur:1.5)\",zzz",
            [f"prompt_settings.negative_prompt={text}" for text in ("", "(blur:1.5)", "zzz")],
        ),
        ("frames=5,7,9", [f"video_settings.frames={count}" for count in (5, 7, 9)]),
        (
            "bend.circle.blocks=1,900",
            [
                f"attention_bending_settings.bends=[{{words: circle, name: circle, mode: scale, scale_factor: 2, "
                f"blocks: {blocks}}}]"
                for blocks in (1, 900)
            ],
        ),
        (
            "bend.circle.words=circle,star",
            [
                f"attention_bending_settings.bends=[{{words: {word}, name: circle, mode: scale, scale_factor: 2}}]"
                for word in ("circle", "star")
            ],
        ),
    ],
)
def test_checks_of_cells_equal_those_of_batches_alone(sweeps: str, alone_options: list[str], captures: bool) -> None:
    base = f"{SMALL}{BEND}latent_analysis_settings: {{store_latents: {str(captures).lower()}}}\n"
    preview = preview_batch(parse_config(f"{base}sweeps: |-\n  {sweeps}\n", "test"), TEMPLATE)
    for cell, option in zip(preview.cells, alone_options, strict=True):
        (alone,) = preview_batch(parse_config(base, "test", [option]), TEMPLATE).cells
        assert (cell.warnings, cell.first_recipe) == (alone.warnings, alone.first_recipe)
        assert tuple(text for text in cell.refusals if "gives the same videos" not in text) == alone.refusals


@pytest.mark.parametrize(
    ("name", "texts"), [("attention_bending_settings.enabled", ("no", "yes")), ("model_settings.cfg_scale", ("1", "4"))]
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_checks_of_cells_do_not_depend_on_the_cells_before(
    name: str, texts: tuple[str, ...], is_reversed: bool
) -> None:
    values = texts[::-1] if is_reversed else texts
    base = (
        "model_settings: {model_id: nano, gpus_per_video: 2}\ncontribution_settings: {store_contributions: yes}\n"
        "prompt_settings: {negative_prompt: a square}\nprimary_metric: guidance_gap\n"
        "attention_bending_settings: {bends: [{words: all, mode: flip, flip_horizontal: yes}]}\n"
    )
    preview = preview_batch(parse_config(f"{base}sweeps: {name}={','.join(values)}\n", "test"), TEMPLATE)
    for cell, value in zip(preview.cells, values, strict=True):
        (alone,) = preview_batch(parse_config(base, "test", [f"{name}={value}"]), TEMPLATE).cells
        assert (cell.warnings, cell.refusals) == (alone.warnings, alone.refusals)


def test_cells_with_another_pipeline_are_rendered_one_after_the_other() -> None:
    batch = plan("steps=3,4; width=64,96")
    assert [video.recipe.width for video in batch.videos] == [64] * 8 + [96] * 8
    assert [(v.variation_index, v.recipe.steps, v.recipe.seed) for v in batch.videos] == 2 * list(
        product(range(2), (3, 4), (7, 11))
    )


@pytest.mark.parametrize(
    ("sweeps", "baseline", "cell", "expected"),
    [
        ("cfg_scale=2,4+steps=5,6", False, 1, {"cfg_scale": 4.0, "steps": 6}),
        ("cfg_scale=2,4", True, 0, {"cfg_scale": 5.0, "steps": 3}),
    ],
)
def test_settings_of_one_cell_give_its_recipes(
    sweeps: str, baseline: bool, cell: int, expected: dict[str, float]
) -> None:
    batch = plan(sweeps, more=f"seeds: 7,11\nsweeps_baseline: {str(baseline).lower()}\n")
    assert batch.sweep is not None
    settings = extract_cell_settings(batch.config.settings, batch.sweep.cells[cell].values, 11)
    assert {key: getattr(settings.model_settings, key) for key in expected} == expected
    alone = plan_batch(parse_config(dump_settings(settings), "test"), TEMPLATE)
    assert [v.recipe for v in alone.videos] == [
        v.recipe for v in batch.videos if v.cell_index == cell and v.recipe.seed == 11
    ]


def test_baseline_has_no_swept_bend() -> None:
    more = f"{BEND}sweeps_baseline: true\n"
    preview = preview_batch(parse_config(f"{SMALL}{more}sweeps: bend.circle.scale_factor=0.5,1.5", "test"), TEMPLATE)
    bends = [cell.settings.attention_bending_settings.bends for cell in preview.cells]
    assert [[bend.scale_factor for bend in cell_bends] for cell_bends in bends] == [[], [0.5], [1.5]]
    assert [cell.label for cell in preview.cells][1:] == ["circle.scale_factor 0.5", "circle.scale_factor 1.5"]
    settings = extract_cell_settings(preview.config.settings, {}, 5)
    assert settings.attention_bending_settings.bends == ()


def test_baseline_keeps_bends_that_are_not_swept() -> None:
    names = [f"bend_{index}" for index in range(12)]
    bends = ", ".join(f"{{words: circle, mode: scale, scale_factor: 2, name: {name}}}" for name in names)
    more = f"attention_bending_settings: {{bends: [{bends}]}}\nsweeps_baseline: true\n"
    sweeps = "bend.bend_9.scale_factor=0.5; bend.bend_10.scale_factor=0.5"
    preview = preview_batch(parse_config(f"{SMALL}{more}sweeps: {sweeps}", "test"), TEMPLATE)
    kept_names = [bend.name for bend in preview.cells[0].settings.attention_bending_settings.bends]
    assert kept_names == [*names[:9], "bend_11"]


def test_switch_of_a_control_is_swept() -> None:
    schedule = "prompt_schedule_settings: {schedule: {1: a red star}}\n"
    batch = plan("prompt_schedule_settings.enabled=true,false", "a ring", f"{schedule}seeds: 7\n")
    assert [len(video.recipe.prompts) for video in batch.videos] == [2, 1]


def test_cell_texts_name_videos_and_time_of_each_possible_cell() -> None:
    preview = preview_batch(parse_config(f"{SMALL}seeds: 7,11\nsweeps: cfg_scale=2,60", "test"), TEMPLATE)
    assert describe_cells(estimate_cell_costs(preview, [], None)) == {"cfg_scale 2": "4 videos, unknown time"}


def test_predicted_time_says_that_bends_are_not_counted() -> None:
    bends = "attention_bending_settings.bends=[{words: circle, mode: blur, blur_sigma: 1}]"
    for overrides, is_said in (([], False), ([bends], True)):
        batch = plan_batch(load_config("nano", overrides), "a circle")
        past_videos = [TimedVideo(batch.videos[0].recipe, "cpu", 2.0, 0.5, None, "resident")]
        (time_line,) = [line for line in estimate_batch_costs(batch, past_videos, None) if line.name == "time"]
        assert ("bends are not counted" in time_line.basis) == is_said


SHAPE, THING = "a red shape", "a thing"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([2.0, 4, None, True, "x"], ["2", "4", "none", "on", "x"]),
        ([{"5%": SHAPE}, {"10%": SHAPE}], ["5%", "10%"]),
        ([None, {"5%": SHAPE}, {"10%": SHAPE}], ["none", "5%", "10%"]),
        (["", "dark"], ["empty", "dark"]),
        ([[], [{"name": "style"}]], ["none", "style"]),
        ([{}, {"5%": SHAPE}, {"10%": SHAPE}], ["none", "5%", "10%"]),
        ([{"5%": SHAPE}, {"5%": THING}], [SHAPE, THING]),
        ([{"5%": SHAPE, "9%": THING}, {"5%": SHAPE, "9%": SHAPE}], [THING, SHAPE]),
        ([{"5%": SHAPE, "9%": THING}, {"5%": SHAPE, "10%": THING}], ["5%, 9%", "5%, 10%"]),
        ([{"5%": SHAPE}, {"10%": THING}], [f"5%: {SHAPE}", f"10%: {THING}"]),
        ([{"5%": SHAPE}], [f"5%: {SHAPE}"]),
        ([{"0": 5.0, "50%": 2.0}, {"0": 5.0, "50%": 3.5}], ["2", "3.5"]),
        ([{}, {"5%": "none"}, {"5%": SHAPE}], ["none", "5%: none", f"5%: {SHAPE}"]),
    ],
)
def test_values_of_a_swept_setting_are_labelled_by_what_differs(values: list[Any], labels: list[str]) -> None:
    assert format_value_labels(values) == labels
    for index, label in enumerate(labels):
        assert find_matching_value_indices(values, label) == [index]
    for index, value in enumerate(values):
        assert index in find_matching_value_indices(values, format_value_label(value))


@pytest.mark.parametrize(
    ("values", "text", "indices"),
    [
        ([None, 4.0], "none", [0]),
        ([None, 4.0], "empty", [0]),
        (["", "none"], "none", [1]),
        (["", "none"], "empty", [0]),
        ([{}, {"5%": SHAPE}], "empty", [0]),
        ([{}, {"5%": SHAPE}], "", []),
        (["", "dark"], "none", []),
    ],
)
def test_all_words_for_no_value_are_equivalent(values: list[Any], text: str, indices: list[int]) -> None:
    assert find_matching_value_indices(values, text) == indices


def test_cells_of_a_prompt_schedule_are_labelled_by_their_moments() -> None:
    values = ",".join(f"""'{{"{moment}": "a red shape"}}'""" for moment in (1, 2))
    sweep = f"sweeps=prompt_schedule_settings.schedule={values}"
    batch = plan_batch(parse_config(f"{SMALL}seeds: 7\n", "test", [sweep]), "a ring")
    assert batch.sweep is not None
    assert [cell.label for cell in batch.sweep.cells] == ["schedule 1", "schedule 2"]


def test_preview_of_a_sweep_names_the_cell_whose_settings_it_shows(wantui: Wantui) -> None:
    result = wantui("preview", "-t", "a red circle", "-c", "nano", "--sweep", "cfg_scale=1,4", "--seeds", "1..6")
    text = " ".join(result.out.split())
    assert "cfg_scale 1, shift 3, float32 (first cell; the sweep changes cfg_scale)" in text
