"""Batches with a sweep are generated, resumed and rendered again; each cell equals a separate batch bit for bit."""

from pathlib import Path

import pytest
from conftest import Wantui, batch

from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import read_clip_tags

pytestmark = pytest.mark.torch
SWEEP = ("--sweep", "cfg_scale=1,6+steps=2,3", "--seeds", "7,11", "--baseline")
LEGACY_CONFIG = """
model_settings: {model_id: nano, steps: 2, device: cpu}
video_settings: {width: 64, height: 64, frames: 5}
attention_bending_variations:
  enabled: true
  operations: [{operation: translate_x, values: [0.5, -0.5], target_token: circle}]
videos_per_variation: 1
"""


def test_cells_equal_batches_of_their_own_and_survive_a_resume(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "-t", "a [red|blue] star", *SWEEP, *small)
    assert result.code == 0, result.err
    folder = batch(result)
    manifest = read_manifest(folder)
    assert "12 of 12 videos done" in result.err
    found = {(v.cell, v.variation, v.seed): v.latents_sha256 for v in manifest.videos}
    alone = [
        ("--set", "model_settings.steps=3"),
        ("--set", "model_settings.cfg_scale=1", "--set", "model_settings.steps=2"),
        ("--set", "model_settings.cfg_scale=6", "--set", "model_settings.steps=3"),
    ]
    for cell_index, options in enumerate(alone):
        expected = read_manifest(batch(wantui("run", "-t", "a [red|blue] star", "--seeds", "7,11", *small, *options)))
        for video in expected.videos:
            assert found[cell_index, video.variation, video.seed] == video.latents_sha256
    clips = [folder.root / video.files["clip"] for video in manifest.videos]
    assert [read_clip_tags(clip)[0] for clip in clips] == [video.recipe for video in manifest.videos]
    assert clips[2] == folder.root / "videos/prompt_000/cell_001_cfg_scale_1_steps_2/video_001.mp4"
    assert wantui("library", "check", folder.root).code == 0
    clips[5].unlink()
    resumed = wantui("run", "--resume", folder.root, *SWEEP)
    assert (resumed.code, "1 video in " in resumed.err) == (0, True)
    assert {(v.cell, v.variation, v.seed): v.latents_sha256 for v in read_manifest(folder).videos} == found
    other = wantui(
        "run", "--resume", folder.root, "--sweep", "cfg_scale=1,5+steps=2,3", "--seeds", "7,11", "--baseline"
    )
    assert (other.code, "its model_settings.cfg_scale is 6.0" in other.err) == (2, True)
    assert wantui("rerun", clips[3]).code == 0


def test_sweep_file_of_the_older_system_runs(wantui: Wantui) -> None:
    Path("older.yaml").write_text(LEGACY_CONFIG)
    result = wantui("run", "-c", "older.yaml", "-t", "a red circle")
    assert result.code == 0, result.err
    manifest = read_manifest(batch(result))
    assert [manifest.make_video_title(video) for video in manifest.videos] == [
        "single seed 42, baseline",
        "single seed 42, bends translate_x_0.5_circle_tALL_lALL",
        "single seed 42, bends translate_x_-0.5_circle_tALL_lALL",
    ]
    assert len({video.latents_sha256 for video in manifest.videos}) == 3


def test_refused_cells_are_named_or_skipped(wantui: Wantui, small: list[str]) -> None:
    sweep = ("--sweep", "cfg_scale=2,60", "-n", 1)
    refused = wantui("run", "-t", "a star", *small, *sweep)
    assert (refused.code, "cfg_scale 60: model_settings.cfg_scale: Input should be" in refused.err) == (2, True)
    assert not Path("outputs").exists()
    result = wantui("run", "-t", "a star", *small, *sweep, "--skip-impossible")
    assert result.code == 0
    folder = batch(result)
    manifest = read_manifest(folder)
    assert manifest.sweep is not None
    assert [(cell.label, cell.positions) for cell in manifest.sweep.skipped] == [("cfg_scale 60", [1])]
    assert [manifest.make_video_title(video) for video in manifest.videos] == ["single seed 42, cfg_scale 2"]
    assert wantui("run", "--resume", folder.root, *sweep, "--skip-impossible").code == 0
