"""`wantui decode`: decoded states equal the clip, stored predictions and brute force; missing states are explained."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import zarr
from clip_batches import write_clip_batch
from conftest import MakeOnce, Wantui, generate_batch, only_queued, recipe_for
from PIL import Image

from wantui.analysis.denoising_states import DenoisingStates, MissingStatesError
from wantui.analysis.latent_colours import RIDGE, fit_latent_colours
from wantui.analysis.sampler_response import SOLVERS
from wantui.batches.decode_states import TAG_NAME
from wantui.cli import decode as decode_command
from wantui.gallery import labelled_grid
from wantui.generation import load_vae
from wantui.generation.decode import decode_frames
from wantui.generation.errors import LoadError
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import WanModel, find_model
from wantui.planning import Recipe
from wantui.planning.memory_plan import ALLOCATOR_OVERHEAD_FACTOR, estimate_decode_bytes
from wantui.samplers import SamplerName
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import ClipError, open_container, read_clip_tags, read_frames, write_mp4
from wantui.storage.video_selection import label_videos, select_videos

pytestmark = pytest.mark.torch

STORE = ("--store-latents", "--set", "latent_analysis_settings.store_predicted_clean=true")


@pytest.fixture
def generated_batch(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    """A copy of a batch of two videos of four steps, with all states and predictions."""
    options = ["-t", "a [red|blue] circle", "-n", 1, *small, *STORE, "--set", "model_settings.steps=4"]
    shutil.copytree(make_once("decodable", lambda folder: generate_batch(folder, *options)) / "batch", "batch")
    return BatchFolder(Path("batch"))


def open_states(generated_batch: BatchFolder, variation: int = 0) -> DenoisingStates:
    entry = read_manifest(generated_batch).videos[variation]
    return DenoisingStates(generated_batch.make_trajectory_path(variation, 1), entry.recipe, f"video {variation}")


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(read_frames(path)))


def step_clip(name: str, variation: int = 0) -> Path:
    return Path(f"batch/exports/steps/prompt_{variation:03d}/video_001/{name}.mp4")


def test_decoded_last_latents_equal_the_clip_bit_for_bit(generated_batch: BatchFolder, wantui: Wantui) -> None:
    result = wantui("decode", "batch", "--steps", "end", "--device", "cpu", "--json")
    assert result.code == 0, result.err
    for variation, record in enumerate(json.loads(result.out)["states"]):
        assert (record["state"], record["clip_difference"]) == ("video", 0)
        assert np.array_equal(frames_of(Path(record["path"])), frames_of(generated_batch.make_clip_path(variation, 1)))


def test_damaged_clip_of_a_video_does_not_prevent_the_decoding_of_its_latents(
    generated_batch: BatchFolder, wantui: Wantui
) -> None:
    clip = generated_batch.make_clip_path(0, 1)
    expected = frames_of(clip)
    clip.write_bytes(b"damaged")
    result = wantui("decode", "batch", "--variation", "red", "--steps", "end", "--device", "cpu", "--json")
    assert result.code == 0, result.err
    (record,) = json.loads(result.out)["states"]
    assert record["clip_difference"] is None
    assert "cannot be compared with its clip: " in result.err
    assert f"{clip} is not a readable clip: " in result.err
    assert np.array_equal(frames_of(Path(record["path"])), expected)


def test_decoded_states_equal_the_decoded_stored_arrays(
    generated_batch: BatchFolder, wantui: Wantui, tiny_models: dict[str, WanModel]
) -> None:
    assert wantui("decode", "batch", "--steps", "1,100%", "--state", "both", "--device", "cpu").code == 0
    group: Any = zarr.open_group(generated_batch.make_trajectory_path(1, 1), mode="r")
    pipeline = load_pipeline(tiny_models["wan2.1"], None, "float32", torch.device("cpu"))
    for name, state in (
        ("noisy_step_001", group["latents"][1]),
        ("clean_step_001", group["predicted_clean"][1]),
        ("clean_step_003", group["predicted_clean"][3]),
    ):
        frames = list(decode_frames(pipeline, torch.from_numpy(state)[None]))
        write_mp4(Path("expected.mp4"), frames, 8, 9, {})
        assert np.array_equal(frames_of(step_clip(name, 1)), frames_of(Path("expected.mp4")))


@pytest.mark.parametrize("sampler", SOLVERS)
def test_predictions_computed_from_states_equal_the_stored_ones(
    sampler: SamplerName, wantui: Wantui, small: list[str]
) -> None:
    settings = ["--set", f"model_settings.sampler={sampler}", "--set", "model_settings.steps=6"]
    settings += ["--set", "model_settings.dtype=float32"]
    result = wantui("run", "-t", "a circle", "-n", 1, *small, *STORE, *settings)
    folder = BatchFolder(Path(result.out.strip()))
    states = open_states(folder)
    stored = [states.read_state(moment) for moment in states.list_all_moments("clean")[:-1]]
    states.predicted_clean = None
    states.moments_by_kind["clean"] = states._list_clean_moments()
    if sampler == "heun":  # only the states of complete steps are stored
        assert "needs the states of all evaluations" in states.missing_clean_reason
        return
    computed = [states.read_state(moment) for moment in states.list_all_moments("clean")[:-1]]
    assert len(computed) == len(stored) == 6
    assert np.stack(computed) == pytest.approx(np.stack(stored), rel=1e-4, abs=1e-4)


def test_moments_choose_stored_steps_and_name_missing_ones(generated_batch: BatchFolder) -> None:
    states = open_states(generated_batch)
    sigmas = states.sigmas.tolist()
    chosen = states.choose_moments("clean", ["end", "0", "100%", f"sigma {sigmas[1] + 0.001:.4f}", "1"])
    assert [(moment.step, moment.evaluation) for moment in chosen] == [(0, 0), (1, 1), (3, 3), (None, 4)]
    assert [moment.label for moment in chosen][-2:] == [f"step 3, σ {sigmas[3]:.3g}", "end"]
    (middle,) = states.choose_moments("clean", ["50%"])
    assert middle.step == 2  # the step at which a schedule with 50% switches
    states.moments_by_kind["noisy"] = states.moments_by_kind["noisy"][::2]
    with pytest.raises(MissingStatesError, match=r"video 0 has no noisy state of step 1\. Stored steps: 0, 2, and end"):
        states.choose_moments("noisy", ["1"])
    with pytest.raises(MissingStatesError, match=r"has no noisy state of step 4: the video has the steps 0 to 3"):
        states.choose_moments("noisy", ["4"])


def test_bfloat16_states_of_euler_refuse_predictions_that_rounding_would_change(
    wantui: Wantui, small: list[str]
) -> None:
    settings = ["--set", "model_settings.sampler=euler", "--set", "model_settings.dtype=bfloat16"]
    settings += ["--set", "model_settings.steps=20"]
    folder = wantui("run", "-t", "a circle", "-n", 1, *small, "--store-latents", *settings).out.strip()
    refused = wantui("decode", folder, "--steps", "0", "--fast")
    assert refused.code == 2
    assert "computing them from states in bfloat16 would have rounding errors" in refused.err


def test_float16_states_refuse_predictions_that_rounding_would_change(wantui: Wantui, small: list[str]) -> None:
    options = ["--store-latents", "--set", "latent_analysis_settings.storage_dtype=float16"]
    folder = Path(
        wantui("run", "-t", "a circle", "-n", 1, *small, *options, "--set", "model_settings.steps=20").out.strip()
    )
    refused = wantui("decode", folder, "--steps", "0", "--fast")
    assert refused.code == 2
    assert "rounding errors of up to" in refused.err
    assert "Set latent_analysis_settings.store_predicted_clean" in refused.err
    assert wantui("decode", folder, "--steps", "19,end", "--fast").code == 0


def test_decoding_again_keeps_complete_clips_and_decodes_the_missing_ones(
    generated_batch: BatchFolder, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(event: object, as_json: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decode_command, "_report_state", interrupt)
        interrupted = wantui("decode", "batch", "--fast", "--steps", "0,end")
    assert interrupted.code == 130
    assert f"interrupted: 1 clip complete in {Path('batch/exports/steps')}. The same command keeps" in interrupted.err
    kept = [path for path in Path("batch/exports").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["clean_step_000.fit.mp4"]
    before = kept[0].stat().st_mtime_ns
    records = json.loads(wantui("decode", "batch", "--fast", "--steps", "0,end", "--json").out)["states"]
    assert [record["was_kept"] for record in records] == [True, False, False, False]
    assert kept[0].stat().st_mtime_ns == before


def test_clip_of_another_state_is_replaced(generated_batch: BatchFolder, wantui: Wantui) -> None:
    wantui("decode", "batch", "--fast", "--steps", "0,end")
    shutil.copy(step_clip("end.fit"), step_clip("clean_step_000.fit"))
    records = json.loads(wantui("decode", "batch", "--fast", "--steps", "0", "--json").out)["states"]
    assert [record["was_kept"] for record in records] == [False, True]


def add_to_tag(clip: Path, tag_name: str, changes: dict[str, str]) -> None:
    """Change fields of a JSON object in a tag of a clip."""
    with open_container(clip) as container:
        tags = dict(container.metadata)
    tags[tag_name] = json.dumps(json.loads(tags[tag_name]) | changes)
    write_mp4(clip, list(read_frames(clip)), 8, 9, tags)


def test_decoder_in_a_decoded_clip_is_the_one_that_decoded_it(generated_batch: BatchFolder, wantui: Wantui) -> None:
    path = generated_batch.make_clip_path(0, 1)
    add_to_tag(path, "wantui_made_with", {"decoder": "fused"})
    assert read_clip_tags(path)[1]["decoder"] == "fused"
    assert wantui("decode", path, "--steps", "end", "--device", "cpu").code == 0
    with open_container(step_clip("end")) as container:
        assert json.loads(container.metadata[TAG_NAME])["decoder"] == "vae"  # the CPU never fuses


@pytest.mark.parametrize("decoder", ["vae", "fused vae"])
def test_states_that_either_decoder_decoded_are_kept_without_the_device(
    generated_batch: BatchFolder, wantui: Wantui, decoder: str
) -> None:
    path = generated_batch.make_clip_path(0, 1)
    add_to_tag(path, "wantui_made_with", {"decoder": "fused"})
    arguments = ("decode", path, "--steps", "end", "--json", "--device")
    assert wantui(*arguments, "cpu").code == 0
    add_to_tag(step_clip("end"), TAG_NAME, {"decoder": decoder})
    result = wantui(*arguments, "cuda:7")
    assert result.code == 0, result.err
    assert [record["was_kept"] for record in json.loads(result.out)["states"]] == [True]
    missing = wantui("decode", path, "--steps", "0", "--device", "cuda:7")
    assert (missing.code, "cuda:7 is not available" in missing.err) == (3, True)


def test_grid_shows_each_state_in_its_cell(
    generated_batch: BatchFolder, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts: list[labelled_grid.GridLayout] = []
    arrange = labelled_grid.arrange_grid

    def record_layout(*arguments: Any) -> labelled_grid.GridLayout:
        layouts.append(arrange(*arguments))
        return layouts[-1]

    monkeypatch.setattr(labelled_grid, "arrange_grid", record_layout)
    result = wantui("decode", "batch", "--fast", "--steps", "0,2,end", "--state", "both", "--grid", "--cell-width", 40)
    assert result.code == 0, result.err
    assert result.out.splitlines()[-2:] == ["batch/exports/steps_both_fit.png", "batch/exports/steps_both_fit.mp4"]
    picture = np.asarray(Image.open("batch/exports/steps_both_fit.png")).astype(float)
    for row, (kind, variation) in enumerate([("noisy", 0), ("clean", 0), ("noisy", 1), ("clean", 1)]):
        for column, name in enumerate([f"{kind}_step_000.fit", f"{kind}_step_002.fit", "end.fit"]):
            left, top = layouts[0].cell_origin(row, column)
            middle = frames_of(step_clip(name, variation))[4]
            expected = np.asarray(Image.fromarray(middle).resize((40, 40), Image.Resampling.LANCZOS)).astype(float)
            assert np.abs(picture[top : top + 40, left : left + 40] - expected).max() == 0
    assert len(frames_of(Path("batch/exports/steps_both_fit.mp4"))) == 9


def test_single_clip_is_decoded_by_its_path(generated_batch: BatchFolder, wantui: Wantui) -> None:
    result = wantui("decode", generated_batch.make_clip_path(1, 1), "--fast", "--steps", "end")
    assert result.out.split() == [str(step_clip("end.fit", 1).absolute())]
    shutil.copy(generated_batch.make_clip_path(1, 1), "loose.mp4")
    assert "loose.mp4 is not in a batch folder" in wantui("decode", "loose.mp4", "--fast").err


def test_damaged_and_missing_states_are_reported_and_skipped(generated_batch: BatchFolder, wantui: Wantui) -> None:
    chunk = generated_batch.make_trajectory_path(0, 1) / "latents" / "c" / "4" / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-4])
    result = wantui("decode", "batch", "--fast", "--steps", "end")
    assert result.code == 1
    assert "left out: red seed 42" in result.err
    assert "CRC-32 does not match" in result.err
    assert result.out.split() == [str(step_clip("end.fit", 1))]
    chunk.unlink()
    assert "1 of the 5 chunks of" in wantui("decode", "batch", "--fast", "--steps", "end").err


def test_unfinished_videos_are_skipped_and_their_state_is_named(wantui: Wantui, small: list[str]) -> None:
    with only_queued():
        folder = Path(wantui("run", "-t", "a circle", "-n", 1, *small, *STORE, "--detach").out.strip().splitlines()[-1])
    result = wantui("decode", folder, "--fast")
    assert (result.code, result.out) == (1, "")
    assert "left out: " in result.err
    assert "it is queued" in result.err


@pytest.mark.parametrize(
    ("video_count", "subject"), [(1, "circle seed 42 has"), (2, "none of the 2 videos with a trajectory has")]
)
def test_batch_without_latents_names_the_setting_once(
    wantui: Wantui, small: list[str], video_count: int, subject: str
) -> None:
    folder = Path(wantui("run", "-t", "a [circle]", "-n", video_count, *small).out.strip())
    result = wantui("decode", folder)
    assert result.code == 2
    assert f"{subject} " in result.err
    assert result.err.count("Set latent_analysis_settings.store_latents (--store-latents)") == 1
    assert "left out" not in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "7"], "has no clean state of step 7: the video has the steps 0 to 3"),
        (["--steps", ""], "cannot read the moment ''. Write the index of a step from 0 (10)"),
        (["--steps", "half"], "cannot read the moment 'half'. Write the index of a step from 0 (10)"),
        (["--steps", "0", "--all"], "cannot combine --all and --steps"),
        (["--seed", "9"], "--seed: no video has 9. Choose from: 42"),
        (["--variation", ""], "--variation: no video has ''. Choose from: blue, red"),
        (["--fast", "--device", "cpu"], "cannot use --device or --fetch with --fast"),
        (["--cell-width", "40"], "applies only to --grid"),
    ],
)
def test_wrong_options_are_refused(
    generated_batch: BatchFolder, wantui: Wantui, options: list[str], message: str
) -> None:
    result = wantui("decode", "batch", *options)
    assert result.code == 2
    assert message in " ".join(result.err.split())


def test_fit_equals_a_brute_force_ridge_regression(generated_batch: BatchFolder, tmp_path: Path) -> None:
    states, clip = open_states(generated_batch), generated_batch.make_clip_path(0, 1)
    latents = states.read_state(states.end)
    colours = fit_latent_colours(latents, clip)
    video = frames_of(clip) / 255
    rows, targets = [], []
    for f, t in enumerate([range(1), range(1, 5), range(5, 9)]):
        for y in range(4):
            for x in range(4):
                rows.append([*latents[:, f, y, x], 1.0])
                targets.append(video[t.start : t.stop, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean((0, 1, 2)))
    penalty = np.sqrt(RIDGE * len(rows)) * np.eye(16, 17)
    stacked = np.concatenate([np.array(rows), penalty]), np.concatenate([np.array(targets), np.zeros((16, 3))])
    expected = np.linalg.lstsq(*stacked, rcond=None)[0]
    assert colours.weights == pytest.approx(expected, abs=1e-9)
    write_mp4(tmp_path / "short.mp4", [np.zeros((32, 32, 3), np.uint8)] * 4, 8, 4, {})
    with pytest.raises(ClipError, match="does not match its latents: 4 frames, but 3 latent frames"):
        fit_latent_colours(latents, tmp_path / "short.mp4")


def test_batch_without_trajectories_is_skipped(wantui: Wantui) -> None:
    write_clip_batch(Path("clips"), unfinished=(0,))
    result = wantui("decode", "clips", "--fast")
    assert result.code == 1
    assert "it is failed" in result.err
    assert "no trajectory was stored" in result.err


def test_recipe_of_an_unknown_sampler_shows_noisy_states_only(generated_batch: BatchFolder) -> None:
    entry = read_manifest(generated_batch).videos[0]
    recipe = Recipe.model_construct(**{**dict(entry.recipe), "sampler": "random"})
    group = zarr.open_group(generated_batch.make_trajectory_path(0, 1), mode="r+")
    del group.attrs["checksums"], group.attrs["recipe"]
    states = DenoisingStates(generated_batch.make_trajectory_path(0, 1), recipe, "x")
    states.predicted_clean = None
    assert states._list_clean_moments() == []
    assert "the states of the sampler random do not determine them" in states.missing_clean_reason
    assert len(states.list_all_moments("noisy")) == 5


@pytest.mark.parametrize("sampler", sorted(set(get_args(SamplerName)) - set(SOLVERS)))
def test_states_of_samplers_that_add_noise_are_decoded_without_predictions(
    sampler: SamplerName, wantui: Wantui, small: list[str]
) -> None:
    settings = ["--set", f"model_settings.sampler={sampler}", "--set", "model_settings.force_capture=true"]
    result = wantui("run", "-t", "a circle", "-n", 1, *small, "--store-latents", *settings)
    assert result.code == 0, result.err
    folder = BatchFolder(Path(result.out.strip()))
    states = open_states(folder)
    assert f"the states of the sampler {sampler} do not determine them" in states.missing_clean_reason
    assert len(states.list_all_moments("noisy")) == 4
    decoded = wantui("decode", folder.root, "--fast", "--steps", "0,end", "--state", "noisy")
    assert (decoded.code, len(decoded.out.split())) == (0, 2), decoded.err
    refused = wantui("decode", folder.root, "--fast")
    assert refused.code == 2
    assert "cannot show the clean states of single seed 42: the predicted clean latents are not stored" in refused.err


def test_cells_of_a_sweep_have_clips_and_rows_of_their_own(wantui: Wantui, small: list[str]) -> None:
    options = ["-n", 1, *small, *STORE, "--sweep", "model_settings.cfg_scale=1,4"]
    folder = Path(wantui("run", "-t", "a circle", *options).out.strip())
    result = wantui("decode", folder, "--fast", "--steps", "0,end", "--grid", "--json")
    assert result.code == 0, result.err
    states = json.loads(result.out)["states"]
    assert len({state["path"] for state in states}) == 4
    assert not any(state["was_kept"] for state in states)
    videos = select_videos([folder])
    assert label_videos(videos) == [videos[0].manifest.find_cell(video.entry).label for video in videos]  # type: ignore[union-attr]


def test_tiles_are_chosen_by_the_memory_beside_the_weights_of_the_vae(
    monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, WanModel]
) -> None:
    model, weight_bytes, unused_bytes = find_model("wan2.1-1.3b"), 500_000_000, 200_000_000
    recipe = recipe_for(model, width=832, height=480, frames=81)
    pipeline = load_pipeline(tiny_models["wan2.1"], None, "float32", torch.device("cpu"))
    monkeypatch.setattr(load_vae, "find_device", lambda pipeline: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: weight_bytes + unused_bytes)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: weight_bytes)

    def choose_side(free_bytes: int, first_side: int | None = None) -> int | None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes - unused_bytes, 80_000_000_000))
        return load_vae.choose_tile_side(pipeline, model, recipe, first_side)

    needs = {
        side: int(ALLOCATOR_OVERHEAD_FACTOR * estimate_decode_bytes(model, recipe, side)) for side in (None, 256, 128)
    }
    assert choose_side(needs[None]) is None
    assert choose_side(needs[None] - 1) == 256
    assert choose_side(needs[256], 256) == 256
    assert choose_side(needs[256] - 1, 256) == 128
    with pytest.raises(LoadError, match="too little free memory to decode 832x480 pixels, even in tiles"):
        choose_side(needs[128] - 1)
