"""Measure nano's adapters: python -m wantui.models.nano.evaluate_adapters.

The stock WanPipeline loads each adapter with `load_lora_weights` (it needs peft) and generates clips from the captions
and seeds of `evaluate.py`, so the figures can be compared with those of the model card. Pixel rules score the clips.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

import click
import numpy as np
import torch
from diffusers import FlowMatchLCMScheduler, UniPCMultistepScheduler, WanPipeline
from torch import Tensor

from wantui.models.nano import NANO_ADAPTERS_FOLDER, NANO_WEIGHTS_FOLDER
from wantui.models.nano.dip import is_object_dipped
from wantui.models.nano.distillation import FLOW_SHIFT, STUDENT_STEP_COUNT
from wantui.models.nano.evaluate import (
    FIRST_EVALUATION_SEED,
    generate_clips,
    load_stock_pipeline,
    sample_scenes_of_each_shape,
    score_by_shape,
    score_clips,
)
from wantui.models.nano.world import Scenes, sample_scenes, write_captions
from wantui.samplers import SCHEDULES

STYLE_STRENGTHS = (0.0, 0.5, 1.0)
SCENE_KINDS = ("one", "two", "each-shape")


@contextmanager
def fuse_adapters(pipeline: WanPipeline, strength_by_name: dict[str, float]) -> Iterator[None]:
    """Load adapters, and unload them at the end."""
    for name in strength_by_name:
        pipeline.load_lora_weights(NANO_ADAPTERS_FOLDER / f"{name}.safetensors", adapter_name=name)
    pipeline.set_adapters(list(strength_by_name), list(strength_by_name.values()))
    pipeline.fuse_lora()
    yield
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()


def build_lcm_scheduler(seed: int) -> FlowMatchLCMScheduler:
    """Return the scheduler of the sampler `lcm`, with noise from a generator with a seed."""
    scheduler = FlowMatchLCMScheduler(shift=FLOW_SHIFT)
    times = SCHEDULES["lcm"].compute_times(STUDENT_STEP_COUNT, FLOW_SHIFT)
    scheduler.set_timesteps = partial(scheduler.set_timesteps, sigmas=times)
    scheduler.step = partial(scheduler.step, generator=torch.Generator().manual_seed(seed + 1))
    return scheduler


def build_unipc_scheduler() -> UniPCMultistepScheduler:
    """Return the scheduler of the sampler `unipc`."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT)


def generate_scene_clips(pipeline: WanPipeline, scenes: Scenes, seed: int, is_few_step: bool) -> Tensor:
    """Generate a clip of each scene, with four steps of `lcm` or with 20 steps and guidance."""
    pipeline.scheduler = build_lcm_scheduler(seed) if is_few_step else build_unipc_scheduler()
    captions = [caption.text for caption in write_captions(scenes)]
    step_count, guidance_scale = (STUDENT_STEP_COUNT, 1.0) if is_few_step else (20, 4.0)
    return generate_clips(pipeline, captions, seed, step_count, guidance_scale)[0]


def measure_scenes(
    pipeline: WanPipeline, clip_count: int, kinds: Collection[str], is_few_step: bool
) -> dict[str, dict[str, float]]:
    """Return the clips' scores by kind of scene; equal numbers of clips have equal scenes and initial noise."""
    rng = np.random.default_rng(2)
    one_object_scenes = sample_scenes(clip_count, rng, two_object_fraction=0.0, is_evaluation=True)
    two_object_scenes = sample_scenes(clip_count // 2, rng, two_object_fraction=1.0, is_evaluation=True)
    scenes_of_each_shape = sample_scenes_of_each_shape(clip_count, rng)
    generate_scene_clips(pipeline, one_object_scenes[:1], 0, is_few_step)  # warm-up
    start_time = time.perf_counter()
    generate_scene_clips(pipeline, one_object_scenes[:1], 0, is_few_step)
    seconds = time.perf_counter() - start_time
    measurements = {}
    for number, (kind, title, scenes, score) in enumerate(
        (
            ("one", f"one object (n = {clip_count})", one_object_scenes, score_clips),
            ("two", f"two objects, both right (n = {clip_count // 2})", two_object_scenes, score_clips),
            ("each-shape", "correct shape of one object", scenes_of_each_shape, score_by_shape),
        ),
        start=1,
    ):
        if kind in kinds:
            clips = generate_scene_clips(pipeline, scenes, number * FIRST_EVALUATION_SEED, is_few_step)
            measurements[title] = score(clips, scenes)
    return {**measurements, "speed": {f"seconds for one clip, {pipeline.device.type}": seconds}}


def measure_style(pipeline: WanPipeline, clip_count: int, is_few_step: bool) -> dict[str, float]:
    """Return the scores of one-object clips, and the fraction of dipped objects."""
    scenes = sample_scenes(clip_count, np.random.default_rng(2), two_object_fraction=0.0, is_evaluation=True)
    clips = generate_scene_clips(pipeline, scenes, FIRST_EVALUATION_SEED, is_few_step)
    colours = scenes.colour[:, 0].tolist()
    dips = [is_object_dipped(clip, colour) for clip, colour in zip(clips, colours, strict=True)]
    return {**score_clips(clips, scenes), "dipped": float(np.mean(dips))}


@click.command()
@click.option(
    "--clips",
    "clip_count",
    default=192,
    show_default=True,
    help="One-object clips of nano-4step and of nano; half as many have two objects.",
)
@click.option("--style-clips", "style_clip_count", default=48, show_default=True, help="Clips for each style strength.")
@click.option(
    "--part",
    type=click.Choice(["nano", "4step", "style", "both"]),
    multiple=True,
    default=["4step", "style", "both"],
    show_default=True,
    help="Adapters to measure; both: nano-style and nano-4step together; nano: no adapter, 20 steps with guidance.",
)
@click.option(
    "--scenes",
    "kinds",
    type=click.Choice(SCENE_KINDS),
    multiple=True,
    default=SCENE_KINDS,
    show_default=True,
    help="Scenes of nano-4step and of nano.",
)
@torch.no_grad()
def main(clip_count: int, style_clip_count: int, part: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    """Measure nano's adapters on held-out captions and seeds."""
    pipeline = load_stock_pipeline(NANO_WEIGHTS_FOLDER)
    measurements: dict[str, dict[str, float]] = {}
    if "nano" in part:
        measured = measure_scenes(pipeline, clip_count, kinds, is_few_step=False)
        measurements |= {f"nano, {name}": values for name, values in measured.items()}
    if "4step" in part:
        with fuse_adapters(pipeline, {"nano-4step": 1.0}):
            measured = measure_scenes(pipeline, clip_count, kinds, is_few_step=True)
        measurements |= {f"nano-4step, {name}": values for name, values in measured.items()}
    if "style" in part:
        for strength in STYLE_STRENGTHS:
            with fuse_adapters(pipeline, {"nano-style": strength}):
                measured_style = measure_style(pipeline, style_clip_count, is_few_step=False)
            measurements[f"nano-style, strength {strength:g} (n = {style_clip_count})"] = measured_style
    if "both" in part:
        with fuse_adapters(pipeline, {"nano-style": 1.0, "nano-4step": 1.0}):
            measured_style = measure_style(pipeline, style_clip_count, is_few_step=True)
        measurements[f"nano-style and nano-4step, four steps (n = {style_clip_count})"] = measured_style
    for section, values in measurements.items():
        click.echo(section)
        for name, value in values.items():
            click.echo(f"  {name:<44} {value:8.3f}")


if __name__ == "__main__":
    main()
