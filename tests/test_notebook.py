"""`wantui.open_batch`: what a notebook reads equals what is on disk, and what the command line prints."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import zarr
from clip_batches import FRAME_COUNT, SIDE, choose_colour, write_clip_batch
from conftest import TEMPLATE, Wantui, batch

import wantui as package
from wantui.analysis.metrics import METRICS
from wantui.errors import UserError
from wantui.gallery.batch_grid import read_batch_grid
from wantui.gallery.page import write_gallery
from wantui.notebook import MissingDataError
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import write_manifest
from wantui.storage.manifest_errors import ManifestError


def test_opened_batch_describes_every_requested_video() -> None:
    manifest = write_clip_batch(Path("clips"), unfinished=(3,))
    opened = package.open_batch("clips")
    assert [video.id for video in opened.videos] == [entry.id for entry in manifest.videos]
    assert opened.template == manifest.template
    failed, done = opened.videos[3], opened.find_video("blue_square", 43)
    assert (failed.state, failed.error, dict(failed.files)) == ("failed", "out of memory", {})
    assert (done.prompt, dict(done.choices)) == ("a blue square on black", {1: "blue", 2: "square"})
    assert done.recipe == manifest.videos[7].recipe


def test_opened_batch_is_readable_from_another_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip_batch(Path("clips"))
    opened = package.open_batch("clips")
    folder = Path.cwd() / "clips"
    Path("other").mkdir()
    monkeypatch.chdir("other")
    assert opened.folder == folder
    assert opened.videos[0].read_frames().shape == (FRAME_COUNT, SIDE, SIDE, 3)
    assert [record["id"] for record in opened.metrics()] == [video.id for video in opened.videos]


@pytest.mark.slow
def test_videos_and_records_of_a_sweep_have_its_settings() -> None:
    manifest = write_clip_batch(Path("clips"), "a circle", more=("sweeps=cfg_scale=1,4.5; sampler=unipc,euler",))
    opened = package.open_batch("clips")
    assert dict(opened.videos[2].settings) == {"cfg_scale": 1.0, "sampler": "euler"}
    assert opened.find_video("single", 43, cfg_scale=4.5, sampler="euler").recipe == manifest.videos[7].recipe
    with pytest.raises(UserError, match=r"has 2 such videos. Name the swept settings too: cfg_scale 4.5, s"):
        opened.find_video("single", 43, cfg_scale=4.5)
    with pytest.raises(UserError, match=r"no video 'single' with seed 43, cfg_scale 2"):
        opened.find_video("single", 43, cfg_scale=2)
    with pytest.raises(UserError, match=r"no video 'single' with seed 43, cfg_scale True, sampler 'euler'"):
        opened.find_video("single", 43, cfg_scale=True, sampler="euler")
    records = opened.metrics()
    assert [(r["cfg_scale"], r["sampler"], r["cell"]) for r in records[-1:]] == [
        (4.5, "euler", "cfg_scale 4.5, sampler euler")
    ]
    assert package.open_batch("clips").axes[0].names == ["cfg_scale"]


SCHEDULE = (
    "prompt_schedule_settings.schedule={2: 'a ring'}",
    "prompt_schedule_settings.interpolation=lerp",
    "model_settings.steps=4",
)


def test_step_prompts_are_equal_in_notebook_library_and_gallery(wantui: Wantui) -> None:
    write_clip_batch(Path("clips"), "a circle", more=SCHEDULE)
    expected = [
        {"prompt": "a circle"},
        {"prompt": "a circle", "next_prompt": "a ring", "share": 0.5},
        *[{"prompt": "a ring"}] * 2,
    ]
    for video in package.open_batch("clips").videos:
        assert [step_prompt.to_json() for step_prompt in video.step_prompts] == expected
    shown = json.loads(wantui("library", "show", "clips", "--json").out)
    assert [video["step_prompts"] for video in shown["videos"]] == [expected] * 2
    page = write_gallery(read_batch_grid(Path("clips")), Path("clips/gallery.html")).read_text()
    described = {"evaluation 0": "a circle", "evaluation 1": "a circle → a ring", "evaluations 2 to 3": "a ring"}
    assert page.count(json.dumps(described)[1:-1].replace(">", r"\u003e")) == 2


def test_library_names_a_schedule_that_does_not_fit_an_edited_recipe(wantui: Wantui) -> None:
    manifest = write_clip_batch(Path("clips"), "a circle", more=SCHEDULE)
    entry = manifest.videos[1]
    entry.recipe = entry.recipe.model_copy(update={"steps": 2})
    write_manifest(BatchFolder(Path("clips")), manifest)
    result = wantui("library", "show", "clips", "--json")
    assert result.code == 1
    assert f"cannot list the prompts of video {entry.id}: a keyframe is at step 2" in result.err
    assert ["step_prompts" in video for video in json.loads(result.out)["videos"]] == [True, False]


@pytest.mark.slow
def test_frames_equal_those_of_the_clip() -> None:
    manifest = write_clip_batch(Path("clips"))
    frames = package.open_batch("clips").videos[1].read_frames()
    assert frames.shape == (FRAME_COUNT, SIDE, SIDE, 3)
    assert frames.dtype == np.uint8
    colour = frames[0, SIDE // 2 + 4 :].astype(float).mean((0, 1))
    assert np.abs(colour - choose_colour(manifest.videos[1])).max() < 8


def test_missing_data_are_named_with_the_reason() -> None:
    write_clip_batch(Path("clips"), unfinished=(0,))
    opened = package.open_batch("clips")
    with pytest.raises(MissingDataError, match=r"red_circle seed 42 has no clip: it is failed"):
        opened.videos[0].read_frames()
    with pytest.raises(MissingDataError, match=r"red_circle seed 43 has no trajectory: none was stored"):
        opened.videos[1].read_latents()
    with pytest.raises(MissingDataError, match="has no attention maps"):
        opened.videos[1].open_attention()
    with pytest.raises(UserError, match=r"no video 'green' with seed 42. Variations: red_circle, .* Seeds: 42, 43"):
        opened.find_video("green", 42)


def test_unknown_names_of_settings_and_states_are_refused() -> None:
    write_clip_batch(Path("clips"))
    write_clip_batch(Path("swept"), "a red circle", more=("sweeps=cfg_scale=1,4; steps=3,5",))
    opened, swept = package.open_batch("clips"), package.open_batch("swept")
    with pytest.raises(UserError, match=r"cannot find a video by cfg_scale: .*clips has no sweep"):
        opened.find_video("red_circle", 43, cfg_scale=4)
    with pytest.raises(UserError, match=r"cannot find a video by cfg: .*swept sweeps only cfg_scale, steps"):
        swept.find_video("single", 43, cfg=4)
    with pytest.raises(UserError, match="has no video 'red_circle' with seed '43'"):
        opened.find_video("red_circle", "43")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cannot draw the states 'final'\. Choose clean or noisy"):
        opened.videos[0].draw_steps(state="final")  # type: ignore[arg-type]


def test_folder_that_is_no_batch_is_refused() -> None:
    Path("empty").mkdir()
    with pytest.raises(ManifestError, match="empty is not a batch folder"):
        package.open_batch("empty")


def test_package_has_no_other_lazy_attributes() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'opne_batch'"):
        package.opne_batch  # noqa: B018


@pytest.mark.torch
def test_captures_and_metrics_equal_those_on_disk_and_of_analyze(wantui: Wantui, small: list[str]) -> None:
    options = ["--store-latents", "--store-attention", "-n", 2]
    folder = batch(wantui("run", "-t", TEMPLATE, *options, *small)).root
    opened = package.open_batch(folder)
    video = opened.videos[1]

    group = zarr.open_group(video.files["latents"], mode="r")
    latents = video.read_latents()
    assert np.array_equal(latents.states, np.asarray(group["latents"]))
    assert latents.sigmas.tolist() == np.asarray(group["sigmas"])[np.asarray(group["steps"])].tolist()
    assert latents.sigmas[[0, -1]] == pytest.approx([1, 0], abs=1e-5)
    maps = video.open_attention()
    assert maps.read_mean_map("circle").shape[0] == len(maps.evaluations) == 3
    with pytest.raises(UserError, match=r"no map of 'square' is stored.*Stored maps: circle"):
        maps.read_mean_map("square")

    drawn = [video.draw_steps(steps) for steps in (["1"], [1], 1, 1.0, "1")]
    assert {(len(steps), steps[0].moment.step) for steps in drawn} == {(1, 1)}
    assert all(np.array_equal(steps[0].frames, drawn[0][0].frames) for steps in drawn)

    records = opened.metrics()
    printed = json.loads(wantui("analyze", folder, "--json", "--metrics", ",".join(METRICS)).out)
    assert len(records) == len(printed) == 4
    for record, expected in zip(records, printed, strict=True):
        assert (record["id"], record["seed"], record["bracket_1"]) == (
            expected["id"],
            expected["seed"],
            expected["variation"],
        )
        for name in METRICS:
            value = expected["metrics"][name]["value"]
            assert math.isnan(record[name]) if value is None else record[name] == value
