"""Sections of a report about the compared batches: recipe and pictures."""

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from clip_batches import FPS, FRAME_COUNT, choose_colour, draw_clip, write_clip_batch
from PIL import Image

from wantui.analysis.group import Group
from wantui.analysis.report_batches import MAX_PICTURES_PER_GROUP, render_picture_section, render_recipe_section
from wantui.analysis.video import Video
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, write_manifest
from wantui.storage.mp4 import write_mp4

BATCH = Path("batch")


def make_videos(manifest: Manifest, variation: int) -> tuple[Video, ...]:
    """Return the analysed videos of a variation, without trajectories."""
    return tuple(
        Video(
            folder=BATCH,
            video_index=index,
            id=entry.id,
            variation=manifest.variations[variation].id,
            prompt=entry.recipe.prompt,
            choices_by_bracket={},
            seed=entry.seed,
        )
        for index, entry in enumerate(manifest.videos)
        if entry.variation == variation
    )


def test_report_shows_the_middle_frame_of_each_video() -> None:
    manifest = write_clip_batch(BATCH)
    groups = [Group("red", make_videos(manifest, 0)), Group("blue", make_videos(manifest, 2))]
    section = "".join(render_picture_section(groups))
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', section)
    assert len(sources) == 4
    for source, entry in zip(sources, [video for video in manifest.videos if video.variation in (0, 2)], strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))), dtype=float)
        expected = draw_clip(choose_colour(entry))[FRAME_COUNT // 2].astype(float)
        assert np.abs(picture.mean((0, 1)) - expected.mean((0, 1))).max() < 12
    assert section.count("Middle frames with variation and seed, seeds 42, 43.") == 2


def test_report_names_videos_without_a_readable_clip() -> None:
    manifest = write_clip_batch(BATCH, "one circle", seeds=3, unfinished=(0,))
    (BATCH / manifest.videos[1].files["clip"]).write_bytes(b"not a clip")
    section = "".join(render_picture_section([Group("one circle", make_videos(manifest, 0))]))
    assert "[seed 42: no readable clip]" in section
    assert "[seed 43: no readable clip]" in section
    assert section.count("<img ") == 1


@pytest.mark.slow
def test_report_limits_the_pictures_of_a_group() -> None:
    count = MAX_PICTURES_PER_GROUP + 2
    manifest = write_clip_batch(BATCH, "one circle", seeds=count)
    section = "".join(render_picture_section([Group("one circle", make_videos(manifest, 0))]))
    assert section.count("<img ") == MAX_PICTURES_PER_GROUP
    assert "2 more are not shown" in section


def test_report_contains_the_recipe_of_each_batch() -> None:
    template = 'a [red|<b>"blue"</b>] circle'
    manifest = write_clip_batch(BATCH, template)
    section = "".join(render_recipe_section(make_videos(manifest, 0)))
    assert html.escape(template) in section
    recipe = manifest.videos[0].recipe
    for text in (manifest.created, recipe.sampler, str(recipe.guidance_scale), "2 variations with the seeds 42, 43"):
        assert text in section
    assert "<b>&quot;" not in section


def test_report_names_a_batch_whose_recipe_cannot_be_read() -> None:
    manifest = write_clip_batch(BATCH, "one circle", seeds=1)
    videos = make_videos(manifest, 0)
    BatchFolder(BATCH).manifest_path.unlink()
    assert "batch is not a batch folder" in "".join(render_recipe_section(videos))
    assert "no readable clip" in "".join(render_picture_section([Group("one", videos)]))


@pytest.mark.parametrize("version", ["", "0.1.0"])
def test_report_names_the_version_that_wrote_a_batch(version: str) -> None:
    manifest = write_clip_batch(BATCH, "one circle", seeds=1)
    videos = make_videos(manifest, 0)
    write_manifest(BatchFolder(BATCH), manifest)
    text = BatchFolder(BATCH).manifest_path.read_text()
    text = re.sub(r'"wantui": "[^"]*"', f'"wantui": "{version}"', text)
    text = re.sub(r'"checksum": "[^"]*"', '"checksum": ""', text)
    BatchFolder(BATCH).manifest_path.write_text(text)
    expected = f"wantui {version}" if version else "wantui before 0.2"
    assert expected in "".join(render_recipe_section(videos))


def test_report_names_all_devices_and_versions_of_a_batch() -> None:
    manifest = write_clip_batch(BATCH, "one circle", seeds=4, unfinished=(3,))

    def render(*provenances: dict[str, str]) -> str:
        for entry, provenance in zip(manifest.videos, provenances, strict=False):
            tags = {"wantui": entry.recipe.to_json(), "wantui_made_with": json.dumps(provenance)}
            write_mp4(BATCH / entry.files["clip"], draw_clip(choose_colour(entry)), FPS, FRAME_COUNT, tags)
        return html.unescape("".join(render_recipe_section(make_videos(manifest, 0))))

    first, second = {"torch": "2.11", "device": "NVIDIA H200"}, {"torch": "2.11", "device": "NVIDIA A100"}
    assert "torch 2.11, device NVIDIA H200<" in render(first, first, first)
    mixed = "torch 2.11, device NVIDIA H200 (2 clips); torch 2.11, device NVIDIA A100 (1 clip)"
    assert mixed in render(first, second, first)
    assert "device NVIDIA H200 (2 clips); unknown programs (1 clip)" in render(first, {}, first)
