"""Replays of stored states: ablations and U-turns, against the denoising loop itself and closed forms."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attention_reference import PROMPT, marks
from conftest import LoadOnce, MakeOnce, Wantui, generate_batch, recipe_for
from diffusers import WanPipeline
from tiny import FORMS

from wantui.batches import ablation, decode_states, generating_model, score, uturns
from wantui.batches.ablation import build_conditional_recipe
from wantui.batches.generating_model import GeneratingModel
from wantui.batches.stored_videos import predict_pass_seconds
from wantui.batches.uturns import find_uturn_evaluation
from wantui.errors import UserError
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.errors import NotFiniteError
from wantui.generation.replay import continue_denoising, draw_uturn_noise, evaluate_velocity
from wantui.generic_words import GenericWord
from wantui.models.catalogue import NANO, WanModel
from wantui.planning import Recipe
from wantui.samplers import compute_noise_levels
from wantui.storage.uturn_file import UTurnEntry, UTurnFileError, read_uturn_frames, read_uturn_state, read_uturns
from wantui.storage.video_selection import select_videos

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def to_state(latents: torch.Tensor) -> np.ndarray:
    return latents[0].float().numpy()


@pytest.mark.parametrize("sampler", ["euler", "unipc", "heun"])
@pytest.mark.parametrize("form", FORMS)
def test_velocity_at_a_state_is_bit_identical_to_that_of_the_denoising(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, sampler: str
) -> None:
    pipeline = load_once(tiny_models[form], "float32")
    recipe = recipe_for(tiny_models[form], sampler=sampler, flow_shift=12.0 if form == "a14b" else 3.0)
    steps = list(denoise_latents(pipeline, recipe))
    inputs = prepare_inputs(pipeline, recipe)
    for step in (steps[2], steps[0], steps[-1]):
        velocity = evaluate_velocity(pipeline, recipe, inputs, to_state(step.latents_before), step.evaluation_index)
        assert torch.equal(velocity, step.velocity)


def test_model_is_reloaded_only_for_videos_of_another_size(
    tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory plan that fits a video may not fit a larger one."""
    small = recipe_for(tiny_models["wan2.1"])
    other_prompt = small.model_copy(update={"prompt": "a ring"})
    large = small.model_copy(update={"width": 2 * small.width})
    calls: list[tuple[Recipe, list[Recipe]]] = []

    def load(recipe: Recipe, device: str, plan: object, later_recipes: list[Recipe], may_fetch: bool) -> object:
        calls.append((recipe, later_recipes))
        return object()

    monkeypatch.setattr(generating_model, "load_recipe_pipeline", load)
    monkeypatch.setattr(generating_model, "check_weight_fingerprints", lambda recipe: None)
    model = GeneratingModel([small, other_prompt, large], "cpu", may_fetch=False)
    event_counts = [len(list(model.load(recipe))) for recipe in (small, other_prompt, large, large, small)]
    assert event_counts == [1, 0, 1, 0, 1]
    assert calls == [(small, [small, other_prompt]), (large, [large]), (small, [small, other_prompt])]


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_denoising_continues_from_a_state_to_the_same_end(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], sampler: str
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], sampler=sampler, steps=5)
    steps = list(denoise_latents(tiny, recipe))
    start = 4 if sampler == "heun" else 2
    inputs = prepare_inputs(tiny, recipe)
    for _ in range(2):  # inputs serve several times
        continued = list(continue_denoising(tiny, recipe, inputs, to_state(steps[start].latents_before), start))
        assert [step.evaluation_index for step in continued] == list(range(start, len(steps)))
        assert torch.equal(continued[-1].latents, steps[-1].latents)


def test_difference_that_a_late_start_lacks_is_measured_before_it_is_reused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    def make_recipe(reuse_from: int) -> Recipe:
        guidance = {"rule": "cfg", "reuse_from": {"unit": "step", "moments": [reuse_from]}}
        return recipe_for(tiny_models["wan2.1"], sampler="euler", steps=5, controls={"guidance": guidance})

    recipe, later_recipe = make_recipe(1), make_recipe(3)
    steps = list(denoise_latents(tiny, later_recipe))  # both passes at step 2, whose difference steps 3 and 4 reuse
    state = to_state(steps[2].latents_before)
    continued = list(continue_denoising(tiny, recipe, prepare_inputs(tiny, recipe), state, 2))
    assert [torch.equal(step.velocity, other.velocity) for step, other in zip(continued, steps[2:], strict=True)] == (
        [True] * 3
    )
    assert uturns._count_passes(recipe, 2) == 2 + 1 + 1


def test_multistep_sampler_starts_with_its_first_order(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], sampler="unipc", steps=5)
    steps = list(denoise_latents(tiny, recipe))
    first = next(continue_denoising(tiny, recipe, prepare_inputs(tiny, recipe), to_state(steps[2].latents_before), 2))
    clean = first.predicted_clean
    ratio = first.sigma_next / first.sigma
    # First order in the logarithm of the noise-to-signal ratio: exact for constant clean latents.
    expected = ratio * first.latents_before + (1 - ratio) * clean
    assert torch.allclose(first.latents, expected, atol=1e-4)
    assert not torch.allclose(first.latents, steps[2].latents, atol=1e-4)


def test_ablated_velocity_equals_that_of_a_prompt_with_weight_zero(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = recipe_for(
        tiny_models["wan2.1"], prompt=PROMPT, marks=marks(PROMPT, ("red", 1.0), ("star", 2.0)), weighting="attention"
    )
    ablated = build_conditional_recipe(recipe, "star")
    assert ablated.guidance_scale == 1
    assert [(mark.text, mark.weight) for mark in ablated.marks] == [("red", 1.0), ("star", 0.0)]
    first = next(denoise_latents(tiny, recipe))
    expected = next(denoise_latents(tiny, ablated))
    inputs = prepare_inputs(tiny, ablated)
    velocity = evaluate_velocity(tiny, ablated, inputs, to_state(first.latents_before), 0)
    assert torch.equal(velocity, expected.velocity)
    plain = build_conditional_recipe(recipe)
    assert not torch.equal(velocity, next(denoise_latents(tiny, plain)).velocity)


def test_every_unmarked_occurrence_of_a_word_is_ablated() -> None:
    recipe = recipe_for(NANO, prompt="a red star and a blue star, starry", marks=marks("a red", ("red", 1.0)))
    ablated = build_conditional_recipe(recipe, "star")
    assert [(mark.text, mark.start, mark.weight) for mark in ablated.marks] == [
        ("red", 2, 1.0), ("star", 6, 0.0), ("star", 22, 0.0)
    ]  # fmt: skip


def test_ablated_word_inside_a_longer_mark_leaves_the_weight_of_its_other_words(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    longer_mark = marks(PROMPT, ("moving left", 2.0))
    recipe = recipe_for(tiny_models["wan2.1"], prompt=PROMPT, marks=longer_mark, weighting="attention")
    split_marks = marks(PROMPT, ("moving", 2.0), ("left", 0.0))
    expected = build_conditional_recipe(recipe.model_copy(update={"marks": split_marks}))
    ablated = build_conditional_recipe(recipe, "left")
    state = to_state(next(denoise_latents(tiny, recipe)).latents_before)
    velocities = [evaluate_velocity(tiny, each, prepare_inputs(tiny, each), state, 0) for each in (ablated, expected)]
    assert torch.equal(*velocities)


@pytest.mark.parametrize("sampler", ["euler", "unipc", "heun"])
def test_uturn_starts_at_the_nearest_step_that_can_be_a_start(sampler: str) -> None:
    recipe = recipe_for(NANO, sampler=sampler, steps=8)
    levels = compute_noise_levels(sampler, 8, recipe.flow_shift)
    for sigma in (0.99, 0.8, 0.5, 0.05):
        index, level = find_uturn_evaluation(recipe, sigma)
        assert level == pytest.approx(levels[index], abs=1e-6)
        assert index > 0
        if sampler == "heun":
            assert index % 2 == 0
        starts = levels[2::2] if sampler == "heun" else levels[1:]
        assert abs(level - sigma) == pytest.approx(min(abs(start - sigma) for start in starts), abs=1e-6)
    with pytest.raises(UserError, match="only one denoising step"):
        find_uturn_evaluation(recipe_for(NANO, sampler="euler", steps=1), 0.5)


def test_noise_of_uturns_depends_on_the_seed_and_is_not_that_of_the_video(tiny: WanPipeline) -> None:
    noise = draw_uturn_noise((16, 3, 4, 4), 7)
    assert np.array_equal(noise, draw_uturn_noise((16, 3, 4, 4), 7))
    assert not np.array_equal(noise, draw_uturn_noise((16, 3, 4, 4), 8))
    initial = torch.randn((16, 3, 4, 4), generator=torch.Generator("cpu").manual_seed(7)).numpy()
    assert abs(float(np.corrcoef(noise.ravel(), initial.ravel())[0, 1])) < 0.1
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


SIZE = ("video_settings.width=32", "video_settings.height=32", "video_settings.frames=5", "model_settings.device=cpu",
        "model_settings.steps=4")  # fmt: skip


@pytest.fixture
def batch(make_once: MakeOnce, tmp_path: Path) -> Path:
    """Return a copy of a batch of nano with stored latents: a circle and a ring, two seeds each."""
    options = ("-t", "a red [(circle)|(ring)]", "-n", "2", "--store-latents")
    settings = [word for setting in SIZE for word in ("--set", setting)]
    made = make_once("replayed", lambda folder: generate_batch(folder, *options, *settings))
    return Path(shutil.copytree(made / "batch", tmp_path / "batch"))


def test_ablate_prints_the_cost_first_and_the_change_without_each_word(wantui: Wantui, batch: Path) -> None:
    plan = wantui("ablate", batch, "--word", "red", "--word", "ring", "--dry-run")
    assert "ring seed 42" not in plan.out
    assert "2 videos: 24 passes through the model, about" in plan.err
    assert "left out: circle seed 42; circle seed 43: its prompt 'a red circle' has no word 'ring'" in plan.err
    assert plan.code == 1
    result = wantui("ablate", batch, "--variation", "ring", "--steps", "0,3", "--json")
    records = json.loads(result.out)
    assert [record["seed"] for record in records] == [42, 43]
    (word,) = records[0]["words"]
    assert (word["word"], word["steps"]) == ("ring", [0, 3])
    assert all(0 < share < 2 for share in word["share"])
    assert word["guided_change"] == pytest.approx([4 * change for change in word["change"]])


def test_pass_is_predicted_from_the_passes_of_the_step_with_the_median_seconds() -> None:
    keyframes = {"times": {"unit": "step", "moments": [0, 1]}, "scales": [7.0, 1.0]}
    controls = {"guidance_schedule": {"schedule": keyframes, "interpolation": "step"}}
    recipe = recipe_for(NANO, sampler="euler", steps=4, controls=controls)  # two passes, then one at each step
    video: Any = SimpleNamespace(entry=SimpleNamespace(recipe=recipe, seconds={"step": 0.5}, gpus=None))
    assert predict_pass_seconds([(video, 6)]) == pytest.approx(6 * 0.5)


@pytest.mark.parametrize(("gpus", "seconds"), [(None, 0.25), (2, 0.5)])
def test_pass_of_a_video_on_two_gpus_took_the_whole_step(gpus: int | None, seconds: float) -> None:
    recipe = recipe_for(NANO, sampler="euler", steps=4, guidance_scale=4.0)  # two passes at each step
    video: Any = SimpleNamespace(entry=SimpleNamespace(recipe=recipe, seconds={"step": 0.5}, gpus=gpus))
    assert predict_pass_seconds([(video, 6)]) == pytest.approx(6 * seconds)


def test_guided_change_of_a_video_without_guidance_is_the_change(wantui: Wantui, tmp_path: Path) -> None:
    settings = [word for setting in (*SIZE, "model_settings.cfg_scale=0.5") for word in ("--set", setting)]
    generate_batch(tmp_path, "-t", "a red (ring)", "-n", "1", "--store-latents", *settings)
    (record,) = json.loads(wantui("ablate", tmp_path / "batch", "--steps", "0,3", "--json").out)
    (word,) = record["words"]
    assert all(change > 0 for change in word["change"])
    assert word["guided_change"] == word["change"]


def test_interrupted_ablation_prints_the_finished_videos(
    wantui: Wantui, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = ablation.measure_ablation

    def interrupt_after_a_video(*values: Any) -> Iterator[object]:
        for event in measure(*values):
            yield event
            if isinstance(event, ablation.VideoMeasured):
                raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "measure_ablation", interrupt_after_a_video)
    result = wantui("ablate", batch, "--variation", "ring", "--steps", "0", "--json")
    assert result.code == 130
    assert [record["seed"] for record in json.loads(result.out)] == [42]
    assert "interrupted: 1 video of 2 measured" in result.err


def test_ablate_refuses_words_and_steps_that_do_not_exist(wantui: Wantui, batch: Path) -> None:
    assert "has no word 'star'" in wantui("ablate", batch, "--word", "star").err
    assert "circle seed 42 has no noisy state of step 9" in wantui("ablate", batch, "--steps", "9").err
    assert "contains only `end`" in wantui("ablate", batch, "--steps", "end").err
    assert wantui("ablate", batch, "--word", " ").code == 2


GENERIC = ("--generic", "circle|ring: shape")


def generate_uturns(wantui: Wantui, batch: Path, *options: object) -> Any:
    return wantui("commitment", "uturn", batch, *GENERIC, "--levels", "0.9,0.5", *options)


def test_uturns_are_made_once_and_measured(wantui: Wantui, batch: Path) -> None:
    plan = generate_uturns(wantui, batch, "--dry-run")
    assert "generic prompt: a red shape" in plan.err
    # From steps 1 and 3 of 4 to the end, with two passes each: (3 + 1) x 2 for each of 4 videos.
    assert "8 U-turns: 32 passes through the model, about" in plan.err
    result = generate_uturns(wantui, batch)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 8
    assert all(Path(line).exists() for line in result.out.splitlines())
    again = generate_uturns(wantui, batch)
    assert (again.code, again.out) == (0, "")
    assert "0 U-turns (8 already exist)" in again.err
    shown = wantui("commitment", "show", batch, "--uturns", "--json")
    (family,) = json.loads(shown.out)
    assert family["judge"] == "nearest"
    assert [each["concept"] for each in family["concepts"]] == ["circle", "ring"]
    assert [level["total"] for each in family["concepts"] for level in each["levels"]] == [2] * 4
    assert len(family["pairs"]) == 1


def test_uturn_of_a_video_with_word_weights_is_refused(wantui: Wantui, tmp_path: Path) -> None:
    settings = [word for setting in SIZE for word in ("--set", setting)]
    generate_batch(tmp_path, "-t", "a (red:2) ring", "-n", "1", "--store-latents", *settings)
    result = generate_uturns(wantui, tmp_path / "batch", "--dry-run")
    assert (result.code, result.out) == (2, "")
    assert "single seed 42: it was generated with word weights, which a U-turn cannot apply" in result.err


def test_uturns_of_several_processes_are_all_kept_and_made_once(wantui: Wantui, batch: Path) -> None:
    words = [GenericWord("shape", ("circle", "ring"))]
    plans = [
        uturns.plan_uturns(batch, select_videos([batch], (variation,), (42,), ()), words, [0.9, 0.5])
        for variation in ("ring", "circle", "ring")
    ]
    counts = [sum(isinstance(event, uturns.UTurnDone) for event in uturns.generate_uturns(plan)) for plan in plans]
    assert counts == [2, 2, 0]  # the third plan was made before the first ended
    index = read_uturns(batch)
    assert {entry.id for entry in index} == {task.entry.id for plan in plans for task in plan.tasks}
    plan = replace(
        plans[0],
        tasks=tuple(
            replace(task, entry=task.entry.model_copy(update={"generic_prompt": "a red thing"}))
            for task in plans[0].tasks
        ),
    )
    with pytest.raises(UserError, match="has U-turns with the generic prompt 'a red shape', not 'a red thing'"):
        list(uturns.generate_uturns(plan))
    assert read_uturns(batch) == index


def test_uturn_that_another_process_is_making_is_left_out(wantui: Wantui, batch: Path) -> None:
    words = [GenericWord("shape", ("circle", "ring"))]
    plan = uturns.plan_uturns(batch, select_videos([batch], ("ring",), (42,), ()), words, [0.9, 0.5])
    child = hold_uturn_lock(batch, plan.tasks[0].entry)
    try:
        result = generate_uturns(wantui, batch, "--variation", "ring", "--seed", "42")
    finally:
        child.terminate()
        child.communicate()
    assert (result.code, len(result.out.splitlines())) == (1, 1)
    assert re.search(r"ring seed 42, noise level 0\.\d+: another process is generating this U-turn", result.err)


def hold_uturn_lock(batch: Path, entry: UTurnEntry) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of a U-turn until it is terminated."""
    code = (
        "import sys, time; from pathlib import Path; from wantui.storage.uturn_file import *\n"
        "with try_lock_uturn(Path(sys.argv[1]), UTurnEntry.model_validate_json(sys.argv[2])) as is_locked:\n"
        "    print(is_locked, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(batch), entry.model_dump_json()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    return child


@pytest.mark.parametrize("kind", ["npy", "mp4"])
def test_files_of_another_uturn_are_refused_and_made_again(wantui: Wantui, batch: Path, kind: str) -> None:  # R5
    assert generate_uturns(wantui, batch, "--seed", "42").code == 0
    first, second, *_ = read_uturns(batch)
    path, other_path = (batch / f"analysis/uturns/{entry.id}.{kind}" for entry in (first, second))
    content = path.read_bytes()
    assert wantui("library", "check", batch).code == 0
    path.write_bytes(other_path.read_bytes())
    (line,) = wantui("library", "check", batch).out.splitlines()
    assert f"{path} is damaged or was changed" in line
    readers: dict[str, Callable[[Path, UTurnEntry], object]] = {
        "npy": read_uturn_state,
        "mp4": lambda folder, entry: list(read_uturn_frames(folder, entry)),
    }
    read = readers[kind]
    with pytest.raises(UTurnFileError, match=r"its SHA-256 differs from the recorded SHA-256\. Delete it, and run"):
        read(batch, first)
    path.unlink()
    assert generate_uturns(wantui, batch, "--seed", "42").code == 0
    assert path.read_bytes() == content
    read(batch, first)


def test_uturn_equals_the_generic_prompt_continued_from_the_noised_video(
    wantui: Wantui, batch: Path, nano: WanPipeline
) -> None:
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest
    from wantui.storage.zarr_group import open_capture

    assert generate_uturns(wantui, batch, "--variation", "ring", "--seed", "42").code == 0
    entry = read_uturns(batch)[0]
    source = next(video for video in read_manifest(BatchFolder(batch)).videos if video.id == entry.source)
    final = open_capture(batch / source.files["latents"])["latents"][-1].astype(np.float64)
    sigma = compute_noise_levels(source.recipe.sampler, 4, source.recipe.flow_shift)[entry.evaluation]
    state = ((1 - sigma) * final + sigma * draw_uturn_noise(final.shape, 42)).astype(np.float32)
    generic: Recipe = source.recipe.model_copy(update={"prompt": "a red shape", "marks": ()})
    inputs = prepare_inputs(nano, generic)
    *_, last = continue_denoising(nano, generic, inputs, state, entry.evaluation)
    assert np.allclose(read_uturn_state(batch, entry), last.latents.numpy().ravel(), atol=1e-4)


def fail_once(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
    """Let the first call of a function of a module fail with NaN."""
    function, calls = getattr(module, name), [0]

    def fail_first(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise NotFiniteError("the latents hold NaN or infinity")
        return function(*arguments)

    monkeypatch.setattr(module, name, fail_first)


def test_video_with_nan_is_named_and_the_others_are_measured(
    wantui: Wantui, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "the latents hold NaN or infinity"
    fail_once(monkeypatch, ablation, "_measure_task")
    result = wantui("ablate", batch, "--variation", "ring", "--steps", "0", "--json")
    assert (result.code, [record["seed"] for record in json.loads(result.out)]) == (1, [43])
    assert f"left out: ring seed 42: {reason}" in result.err
    fail_once(monkeypatch, uturns, "_run_uturn")
    result = generate_uturns(wantui, batch, "--variation", "ring", "--seed", "42")
    assert (result.code, len(result.out.splitlines())) == (1, 1)
    assert re.search(rf"left out: ring seed 42, noise level 0\.\d+: {reason}", result.err)
    fail_once(monkeypatch, score, "_measure_task")
    result = wantui("score", batch, "--generic", "circle|ring: shape", "--variation", "ring", "--json")
    assert (result.code, len(json.loads(result.out)["videos"])) == (1, 1)
    assert f"left out: ring seed 42: {reason}" in result.err
    fail_once(monkeypatch, decode_states, "_decode_video")
    result = wantui("decode", batch, "--variation", "ring", "--steps", "end", "--fast")
    assert (result.code, len(result.out.splitlines())) == (1, 1)
    assert f"left out: ring seed 42: {reason}" in result.err


@pytest.mark.parametrize("command", [["ablate"], ["commitment", "uturn", *GENERIC], ["score", *GENERIC]])
def test_dry_run_with_a_video_left_out_exits_with_1(wantui: Wantui, batch: Path, command: list[str]) -> None:
    assert wantui(*command, batch, "--dry-run").code == 0
    (batch / "latents/prompt_000/vid_001.zarr/latents/zarr.json").write_text("damaged")
    result = wantui(*command, batch, "--dry-run")
    assert result.code == 1
    assert "left out: circle seed 42: " in result.err


@pytest.mark.parametrize("command", [["commitment", "uturn"], ["score"]])
def test_target_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    wantui: Wantui, batch: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating_model.GeneratingModel, "load", None)  # must not be called
    (batch / "analysis").write_text("a file")
    result = wantui(*command, batch, "--generic", "circle|ring: shape")
    assert result.code == 2
    assert "analysis is not a folder" in result.err


@pytest.mark.parametrize("suffix", ["mp4", "npy"])
def test_folder_with_the_name_of_a_uturn_clip_is_refused_before_loading(
    wantui: Wantui, batch: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate_uturns(wantui, batch, "--variation", "ring", "--seed", "42").code == 0
    entry = read_uturns(batch)[0]
    (batch / f"analysis/uturns/{entry.id}.mp4").unlink()
    target = batch / f"analysis/uturns/{entry.id}.{suffix}"
    target.unlink(missing_ok=True)
    target.mkdir()
    monkeypatch.setattr(generating_model.GeneratingModel, "load", None)  # must not be called
    result = generate_uturns(wantui, batch, "--variation", "ring", "--seed", "42")
    assert result.code == 2
    assert f"{target.name}: it is a folder. Move it out of the batch folder" in result.err


def test_damaged_uturns_are_reported(wantui: Wantui, batch: Path) -> None:
    assert generate_uturns(wantui, batch, "--seed", "42").code == 0
    entry = read_uturns(batch)[0]
    (batch / f"analysis/uturns/{entry.id}.npy").write_bytes(b"broken")
    with pytest.raises(UTurnFileError, match=r"recorded SHA-256\. Delete it, and run"):
        read_uturn_state(batch, entry)
    assert "cannot label the videos by their nearest reference" in wantui("commitment", "show", batch, "--uturns").err
    (batch / "analysis/uturns/uturns.json").write_text("{}{")
    assert "uturns.json" in wantui("commitment", "show", batch, "--uturns").err


def test_uturns_without_a_generic_word_or_levels_are_refused(wantui: Wantui, batch: Path) -> None:
    levels = wantui("commitment", "uturn", batch, "--levels", "0.5,1.5")
    assert (levels.code, "between 0 and 1" in levels.err) == (2, True)
    words = wantui("commitment", "uturn", batch, "--generic", "star: shape")
    assert "has none of the declared words" in words.err
    none = wantui("commitment", "show", batch, "--uturns")
    assert "these batches have no U-turns" in none.err
    switches = wantui("commitment", "show", batch)
    assert "no finished video switches to a generic prompt" in switches.err
