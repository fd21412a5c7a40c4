"""Guidance on two GPUs: latents and captures are bit-identical to those of one device, even if the second one fails.

The second GPU is a second copy of the weights on the CPU, which another thread computes with.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from conftest import LoadOnce, recipe_for
from diffusers import WanPipeline
from lora_files import comfy_tensors, make_factors, write_adapter
from tiny import FORMS

from wantui.captures.attention import AttentionRequest
from wantui.controls.guidance import DEFAULTS_BY_RULE
from wantui.controls.lora import LoraAdapter, LoraFile, LoraRequest
from wantui.generation import checkpoint as checkpoints
from wantui.generation.denoise import denoise_latents
from wantui.generation.denoising_state import DenoisingStep
from wantui.generation.fuse import fuse_pipeline
from wantui.generation.guidance_split import (
    SecondGpuError,
    find_guidance_split,
    list_transformers_and_copies,
    remove_guidance_split,
    split_guidance,
)
from wantui.generation.load import load_pipeline
from wantui.generation.make_video import GenerationResult, GenerationResumed, StepFinished, generate_video
from wantui.generation.self_check import computes_equal_bits
from wantui.models.adapter_layout import list_layer_shapes
from wantui.models.adapters import hash_adapter_file
from wantui.models.catalogue import WanModel
from wantui.planning import CaptureRequests, PromptMark, Recipe
from wantui.planning.throughput import NATIVE_ATTENTION
from wantui.storage.video_files import VideoFiles

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
LOST = RuntimeError("CUDA error: an illegal memory access was encountered")
FULL = torch.OutOfMemoryError("CUDA out of memory")
MARK = PromptMark(text="star", start=6, end=10, weight=1.6)
BEND = {
    "name": "star",
    "words": ["star"],
    "transform": {"mode": "translate", "translate_x": 0.25, "translate_y": 0.0},
    "passes": "both",
}


@pytest.fixture(autouse=True)
def _checkpoint_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_CHECKPOINT_TIME_FRACTION", float("inf"))


@contextmanager
def second_device(pipeline: WanPipeline) -> Iterator[list[tuple[str, str]]]:
    """Split a pipeline; yields the passes: name of the transformer, and of the thread that computed it."""
    split_guidance(pipeline, CPU)
    passes: list[tuple[str, str]] = []
    split = find_guidance_split(pipeline)
    assert split is not None
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: passes.append((name, threading.current_thread().name)))
        for name, module in zip(
            ["original"] * len(split.originals) + ["copy"] * len(split.copies),
            list_transformers_and_copies(pipeline),
            strict=True,
        )
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
        remove_guidance_split(pipeline)


def fail_at(pipeline: WanPipeline, error: Exception, pass_number: int) -> None:
    """Let a pass of the first transformer's copy fail."""
    split, counts = find_guidance_split(pipeline), [0]
    assert split is not None

    def count_pass(*_: Any) -> None:
        counts[0] += 1
        if counts[0] == pass_number:
            raise error

    split.copies[0].register_forward_pre_hook(count_pass)


def assert_equal_steps(steps: list[DenoisingStep], expected_steps: list[DenoisingStep]) -> None:
    assert len(steps) == len(expected_steps)
    for step, expected in zip(steps, expected_steps, strict=True):
        for name in ("latents", "velocity", "conditional_velocity", "unconditional_velocity"):
            value, expected_value = getattr(step, name), getattr(expected, name)
            assert (value is None) == (expected_value is None)
            assert value is None or torch.equal(value, expected_value), (name, step.evaluation_index)


CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "guided": ({}, [2, 2, 2, 2]),
    "without guidance": ({"guidance_scale": 1.0}, [1, 1, 1, 1]),
    "heun": ({"sampler": "heun", "steps": 3}, [2] * 5),
    "steps of scale 1": (
        {
            "controls": {
                "guidance_schedule": {
                    "schedule": {"times": {"unit": "step", "moments": [0, 1, 2]}, "scales": [1.0, 1.0, 4.0]},
                    "interpolation": "linear",
                }
            }
        },
        [1, 1, 2, 2],
    ),
    "momentum": (
        {"controls": {"guidance": {"rule": "apg", **DEFAULTS_BY_RULE["apg"], "momentum": -0.5}}},
        [2, 2, 2, 2],
    ),
    "weights": ({"marks": [MARK]}, [2, 2, 2, 2]),
    "bends of both passes": (
        {"negative_prompt": "a blue star", "controls": {"attention_bending": {"bends": [BEND]}}},
        [2, 2, 2, 2],
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_steps_are_bit_identical_to_one_device(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, case: str
) -> None:
    changes, pass_counts = CASES[case]
    recipe = recipe_for(tiny_models[form], **{"flow_shift": 12.0 if form == "a14b" else 3.0, **changes})
    pipeline = load_once(tiny_models[form], "float32")
    expected = list(denoise_latents(pipeline, recipe))
    with second_device(pipeline) as passes:
        steps = list(denoise_latents(pipeline, recipe))
    assert_equal_steps(steps, expected)
    assert {step.gpu_count for step in steps} == {2 if 2 in pass_counts else 1}
    assert {step.gpu_count for step in expected} == {1}
    assert len([name for name, _ in passes if name == "original"]) == len(pass_counts)
    copies = [thread for name, thread in passes if name == "copy"]
    assert len(copies) == sum(pass_counts) - len(pass_counts)
    assert all(thread.startswith("second-gpu") for thread in copies)


@pytest.mark.parametrize("case", ["guided", "weights", "bends of both passes"])
def test_fused_blocks_are_bit_identical_to_one_device(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], case: str
) -> None:
    recipe = recipe_for(tiny_models["a14b"], flow_shift=12.0, **CASES[case][0])
    pipeline = copy.deepcopy(load_once(tiny_models["a14b"], "float32"))
    fuse_pipeline(pipeline, NATIVE_ATTENTION)
    expected = list(denoise_latents(pipeline, recipe))
    with second_device(pipeline) as passes:
        assert computes_equal_bits(pipeline)
        assert_equal_steps(list(denoise_latents(pipeline, recipe)), expected)
        split = find_guidance_split(pipeline)
        assert split is not None
        assert not split.pass_cache._texts
        for transformer in (*split.originals, *split.copies):
            assert all(block.forward.__self__ is block for block in transformer.blocks)
    assert ("copy", "second-gpu_0") in passes


def test_copies_have_their_own_tensors_and_the_values_of_the_originals(tiny: WanPipeline) -> None:
    with second_device(tiny):
        split = find_guidance_split(tiny)
        assert split is not None
        for original, copied in zip(split.originals, split.copies, strict=True):
            copied_state = copied.state_dict()
            assert copied_state.keys() == original.state_dict().keys()
            for name, value in original.state_dict().items():
                assert torch.equal(value, copied_state[name])
                assert value.data_ptr() != copied_state[name].data_ptr()
            assert {id(m) for m in original.modules()}.isdisjoint(id(m) for m in copied.modules())


def test_copies_that_compute_different_bits_are_detected(tiny: WanPipeline) -> None:
    with second_device(tiny):
        assert computes_equal_bits(tiny)
        split = find_guidance_split(tiny)
        assert split is not None
        with torch.no_grad():
            next(iter(split.copies[0].parameters()))[0] += 1e-2
        assert not computes_equal_bits(tiny)


def test_adapters_are_in_both_copies(tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path) -> None:
    factors = make_factors(list_layer_shapes(tiny_models["wan2.1"]), rank=2)
    path = write_adapter(tmp_path / "style.safetensors", comfy_tensors(factors, alpha=0.5))
    source = LoraFile(path=str(path), fingerprint=hash_adapter_file(path))
    adapter = LoraAdapter(name="style", source=source, strength=0.7)
    pipeline = load_pipeline(tiny_models["wan2.1"], None, "float32", CPU, lora=LoraRequest(adapters=(adapter,)))
    recipe = recipe_for(tiny_models["wan2.1"])
    expected = list(denoise_latents(pipeline, recipe))
    plain = list(denoise_latents(tiny, recipe))
    assert not torch.equal(expected[-1].latents, plain[-1].latents)
    with second_device(pipeline):
        assert_equal_steps(list(denoise_latents(pipeline, recipe)), expected)


# Videos with their files


CAPTURES = CaptureRequests(
    attention=AttentionRequest(unconditional=True), more={"contributions": {"interval": 1, "per_block": True}}
)


def files_in(root: Path) -> VideoFiles:
    root.mkdir()
    names = ("trajectory", "attention", "guidance_gap", "contributions")
    return VideoFiles(
        root / "v.mp4", root / "v.jpg", {name: root / f"{name}.zarr" for name in names}, root / "v.checkpoint"
    )


def finish(pipeline: WanPipeline, recipe: Recipe, files: VideoFiles) -> tuple[GenerationResult, list[Any]]:
    events = list(generate_video(pipeline, recipe, files))
    assert isinstance(events[-1], GenerationResult)
    return events[-1], events


def read_captures(files: VideoFiles) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, path in files.capture_paths.items():
        if not path.exists():
            continue
        group: Any = zarr.open_group(path, mode="r")
        arrays |= {f"{name}/{key}": array[:] for key, array in group.arrays()}
        arrays |= {f"{name}/{sub}/{key}": a[:] for sub, inner in group.groups() for key, a in inner.arrays()}
    return arrays


def assert_equal_captures(files: VideoFiles, expected_files: VideoFiles) -> None:
    arrays, expected = read_captures(files), read_captures(expected_files)
    assert arrays.keys() == expected.keys()
    assert len(arrays) > 6
    for name, values in expected.items():
        assert np.array_equal(arrays[name], values, equal_nan=values.dtype.kind == "f"), name


def captured_recipe(model: WanModel, **changes: object) -> Recipe:
    values = {"steps": 5, "marks": [MARK], "negative_prompt": "a blue star", "capture": CAPTURES}
    return recipe_for(model, **values | changes)


def test_bent_maps_of_both_passes_are_bit_identical_to_one_device(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = captured_recipe(
        tiny_models["wan2.1"],
        capture=CaptureRequests(attention=AttentionRequest(unconditional=True, per_head=True)),
        controls={"attention_bending": {"bends": [BEND]}},
    )
    files, expected_files = files_in(tmp_path / "a"), files_in(tmp_path / "b")
    expected, _ = finish(tiny, recipe, expected_files)
    with second_device(tiny):
        result, _ = finish(tiny, recipe, files)
    assert result.latents_sha256 == expected.latents_sha256
    assert_equal_captures(files, expected_files)


def test_captures_of_both_passes_are_bit_identical_to_one_device(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe, files, expected_files = (
        captured_recipe(tiny_models["wan2.1"]),
        files_in(tmp_path / "a"),
        files_in(tmp_path / "b"),
    )
    expected, _ = finish(tiny, recipe, expected_files)
    with second_device(tiny):
        result, _ = finish(tiny, recipe, files)
    assert result.latents_sha256 == expected.latents_sha256
    assert_equal_captures(files, expected_files)


@pytest.mark.parametrize("began_on_two", [True, False])
def test_stopped_video_resumes_on_another_number_of_devices(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, began_on_two: bool
) -> None:
    recipe, files, expected_files = (
        captured_recipe(tiny_models["wan2.1"]),
        files_in(tmp_path / "a"),
        files_in(tmp_path / "b"),
    )
    expected, _ = finish(tiny, recipe, expected_files)

    def stop_after_two_steps() -> None:
        events = generate_video(tiny, recipe, files)
        for event in events:
            if isinstance(event, StepFinished) and event.step.evaluation_index == 1:
                events.close()
                return

    if began_on_two:
        with second_device(tiny):
            stop_after_two_steps()
        result, events = finish(tiny, recipe, files)
    else:
        stop_after_two_steps()
        with second_device(tiny):
            result, events = finish(tiny, recipe, files)
    assert events[0] == GenerationResumed(2)
    assert result.latents_sha256 == expected.latents_sha256
    assert_equal_captures(files, expected_files)


@pytest.mark.parametrize("failed_pass", [1, 3, 5])
def test_video_resumes_on_one_device_after_the_second_is_lost(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, failed_pass: int
) -> None:
    recipe, files, expected_files = (
        captured_recipe(tiny_models["wan2.1"]),
        files_in(tmp_path / "a"),
        files_in(tmp_path / "b"),
    )
    expected, _ = finish(tiny, recipe, expected_files)
    with second_device(tiny):
        fail_at(tiny, LOST, failed_pass)
        with pytest.raises(SecondGpuError, match="illegal memory access"):
            finish(tiny, recipe, files)
    result, events = finish(tiny, recipe, files)
    resumed = [event for event in events if isinstance(event, GenerationResumed)]
    assert resumed == ([GenerationResumed(failed_pass - 1)] if failed_pass > 1 else [])
    assert result.latents_sha256 == expected.latents_sha256
    assert_equal_captures(files, expected_files)


@pytest.mark.parametrize("failed_pass", [1, 3])
def test_step_is_completed_on_the_first_device_if_the_second_is_full(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], failed_pass: int
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    expected = list(denoise_latents(tiny, recipe))
    with second_device(tiny):
        fail_at(tiny, FULL, failed_pass)
        steps = list(denoise_latents(tiny, recipe))
        assert find_guidance_split(tiny) is None
    assert_equal_steps(steps, expected)
    assert [step.gpu_count for step in steps] == [2] * (failed_pass - 1) + [1] * (len(steps) - failed_pass + 1)


@pytest.mark.parametrize("broken", ["copy", "original"])
def test_other_errors_of_a_pass_are_raised_and_end_both_passes(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], broken: str
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    with second_device(tiny):
        split = find_guidance_split(tiny)
        assert split is not None

        def fail(*_: Any) -> None:
            raise ValueError("broken block")

        modules: dict[str, Callable[..., Any]] = {"copy": split.copies[0], "original": split.originals[0]}
        handle = modules[broken].blocks[1].register_forward_pre_hook(fail)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="broken block"):
            list(denoise_latents(tiny, recipe))
        handle.remove()
        assert split.start_pass(lambda: torch.ones(1)).result() == 1  # the thread is idle
