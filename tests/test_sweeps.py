"""Sweeps: a batch is variations x cells x seeds; held to brute-force products and to batches planned alone."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from wantui.config import ConfigError, dump_settings, parse_config
from wantui.planning import Batch, PlanError, plan_batch, preview_batch
from wantui.planning.disk_estimate import estimate_batch_disk, estimate_recipe_disk
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


@pytest.mark.parametrize(
    ("sweeps", "reason"),
    [
        ("cfg_scal=1", "unknown setting; did you mean cfg_scale?"),
        ("model_settings.cfgscale=1", "model_settings has no key cfgscale; did you mean cfg_scale?"),
        ("model_settings=1", "it is a section"),
        ("cfg_scale.x=1", "model_settings.cfg_scale has no settings of its own"),
        ("seed=1,2", "--seeds"),
        ("videos_per_variation=1,2", "--seeds"),
        ("output_dir=a,b", "does not change the video"),
        ("device=cpu,cuda", "does not change the video"),
        ("model_settings.dtype=bfloat16,float32", "Queue one batch for each value"),
        ("store_latents=true,false", "not the video"),
        ("latent_analysis_settings.storage_interval=1,2", "not the video"),
        ("storage_interval=1,2", "not the video"),
        ("cfg_scale=a", "should be a number"),
        ("steps=1.5", "should be a whole number"),
        ("steps=1..2:0.5", "not whole"),
        ("cfg_scale=4,4.0", "4 occurs twice"),
        ("cfg_scale=1,2;model_settings.cfg_scale=3", "cannot sweep model_settings.cfg_scale twice"),
        ("cfg_scale=1,2+steps=1,2,3", "they have 2 and 3 values"),
        ("cfg_scale=0..50:0.01;steps=1..3", "at most 10,000 are possible"),
    ],
)
def test_impossible_sweep_is_refused_before_planning(sweeps: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(f"{SMALL}sweeps: '{sweeps}'", "test.yaml")
    assert reason in str(raised.value)
    assert str(raised.value).startswith("test.yaml:3: sweeps: ")


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


def test_impossible_cells_are_left_out_on_request() -> None:
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


def test_disk_estimate_is_the_sum_over_videos() -> None:
    batch = plan("frames=5,9; steps=2,4", more="latent_analysis_settings: {store_latents: true}\n")
    expected = [estimate_recipe_disk(video.recipe, batch.model) for video in batch.videos]
    estimate = estimate_batch_disk(batch)
    assert estimate.sum_capture_bytes("latents") == sum(part.sum_capture_bytes("latents") for part in expected)
    assert abs(estimate.video_bytes - sum(part.video_bytes for part in expected)) <= len(expected)


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
