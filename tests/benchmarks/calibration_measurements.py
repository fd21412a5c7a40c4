"""Measure a model of the frequency calibration: python tests/benchmarks/calibration_measurements.py MODEL_FOLDER FILE.

`python -m wantui.models.nano.frequency_models` trains the models. This command generates the same prompts with the same
initial noise in each of them, in batches, and writes what `calibration.py` analyses: metrics of each trajectory at
several strides, inner products, guidance gaps, distances between final states, information gaps, the share of the
shape's word in the cross-attention and in the velocity, how early the shape is kept without its word, and what the
pixel rules of nano see in decoded clips.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from benchmarks.calibration_words import (
    choose_switch_steps,
    compute_kept_range_of_shapes,
    find_word_positions,
    measure_word,
)
from diffusers import WanPipeline
from numpy.typing import NDArray
from torch import Tensor

from wantui.analysis.arrays import FloatArray
from wantui.analysis.metrics import METRICS, compute_metric
from wantui.analysis.strided_states import MIN_PATH_STATES, select_strided_states
from wantui.analysis.strides import STRIDE_METRICS, STRIDE_MULTIPLES
from wantui.analysis.trajectory import build_trajectory
from wantui.generation.samplers import build_scheduler
from wantui.models.nano.attributes import RGB_BY_COLOUR, SHAPES
from wantui.models.nano.evaluate import decode_latents
from wantui.models.nano.judge import MIN_VISIBLE_PIXELS, detect_shape, find_object_pixels
from wantui.samplers import SamplerName

FLOW_SHIFT = 3.0
FIRST_SEED = 1_000_000
LATENT_SHAPE = (16, 5, 16, 16)
VALUE_COUNT = 16 * 5 * 16 * 16
COLOURS = tuple(RGB_BY_COLOUR)
GENERIC_WORD = "shape"
SENTENCES = {
    "main": "a large {colour} {shape} moving left over a dark background",
    "held-out": "A small {colour} {shape} moving up over a grey background.",
}
"""Sentence forms by name; the analysis is written for the first one and repeated on the second."""
MEASURED_METRICS = tuple(
    (name, multiple)
    for name, metric in METRICS.items()
    if not metric.needs_guidance_gap
    for multiple in STRIDE_MULTIPLES
)
"""Metrics and strides of the stored columns; only metrics of `STRIDE_METRICS` are measured at strides above 1."""
PROJECTED_STEP_COUNT, PROJECTION_DIMENSION = 10, 64
INFORMATION_EDGES = np.concatenate([np.linspace(0.02, 0.9, 13), np.linspace(0.9, 0.9995, 13)[1:]])
"""Edges of the noise levels of the information gap; the levels are their midpoints."""


@dataclass(frozen=True)
class Condition:
    """How trajectories are generated."""

    sampler: SamplerName
    step_count: int
    guidance_scale: float


def build_conditions(step_count: int) -> dict[str, Condition]:
    """Return the conditions by name, with a number of Euler steps."""
    return {
        "guidance-1": Condition("euler", step_count, 1.0),
        "guidance-4": Condition("euler", step_count, 4.0),
        "unipc-20": Condition("unipc", 20, 4.0),
    }


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of n videos on the device."""

    sigmas: NDArray[np.float64]  # [steps + 1]
    timesteps: Tensor  # [steps] as the transformer reads them
    states: Tensor  # float32 [steps + 1, n, values]
    gap_products: Tensor  # float64 [steps, n, 3]: |v_c|^2, |v_u|^2 and their inner product, divided by D


class Model:
    """A pipeline that generates in batches, in float32."""

    def __init__(self, folder: Path, device: str) -> None:
        self.pipeline = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
        self.device = device

    def encode(self, prompts: list[str]) -> Tensor:
        """Return text embeddings [n, 512, 128]."""
        embeddings: Tensor = self.pipeline.encode_prompt(
            prompts, "", False, max_sequence_length=512, device=self.device
        )[0]
        return embeddings.float()

    def predict(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Return the velocity at latents [n, ...]; `text` has one row, or a row for each video."""
        velocity: Tensor = self.pipeline.transformer(
            hidden_states=latents,
            timestep=timestep.expand(len(latents)),
            encoder_hidden_states=text.expand(len(latents), -1, -1),
            return_dict=False,
        )[0]
        return velocity.float()

    @staticmethod
    def shape_latents(states: Tensor) -> Tensor:
        """Return states [n, values] as latents [n, channels, frames, height, width]."""
        return states.view(-1, *LATENT_SHAPE)

    def start_scheduler(self, condition: Condition) -> Any:
        """Return the scheduler of a condition, at its first step."""
        scheduler = build_scheduler(condition.sampler, FLOW_SHIFT, seed=0)
        scheduler.set_timesteps(condition.step_count, device=self.device)
        return scheduler

    def generate(self, text: Tensor, noise: Tensor, condition: Condition) -> Trajectories:
        """Denoise from initial noise [n, ...]; the conditional and unconditional passes run at every step."""
        scheduler = self.start_scheduler(condition)
        empty_text = self.encode([""])
        latents, states, products = noise, [noise.flatten(1)], []
        for timestep in scheduler.timesteps:
            conditional = self.predict(latents, timestep, text)
            unconditional = self.predict(latents, timestep, empty_text)
            pair = torch.stack([conditional.flatten(1), unconditional.flatten(1)], dim=1).double()
            gram = pair @ pair.mT / VALUE_COUNT
            products.append(torch.stack([gram[:, 0, 0], gram[:, 1, 1], gram[:, 0, 1]], dim=1))
            velocity = unconditional + condition.guidance_scale * (conditional - unconditional)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            states.append(latents.flatten(1))
        sigmas = scheduler.sigmas.double().cpu().numpy()
        return Trajectories(sigmas, scheduler.timesteps, torch.stack(states), torch.stack(products))

    def continue_from(self, states: Tensor, first_step: int, text: Tensor, condition: Condition) -> Tensor:
        """Denoise states [n, values] from a step of a sampler without memory on; return the final states."""
        scheduler = self.start_scheduler(condition)
        scheduler.set_begin_index(first_step)
        empty_text = self.encode([""])
        latents = self.shape_latents(states)
        for timestep in scheduler.timesteps[first_step:]:
            velocity = self.predict(latents, timestep, text)
            if condition.guidance_scale != 1:
                unconditional = self.predict(latents, timestep, empty_text)
                velocity = unconditional + condition.guidance_scale * (velocity - unconditional)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return latents.flatten(1)

    def detect_shapes(self, latents: Tensor) -> NDArray[np.int8]:
        """Return the index of the shape in each clip, -1 where nothing is visible."""
        found = []
        for batch in torch.split(latents.view(-1, *LATENT_SHAPE), 48):
            for clip in decode_latents(self.pipeline.vae, batch).cpu():
                middle = clip.shape[1] // 2
                mask = find_object_pixels(clip, slice(middle, middle + 1))[0]
                found.append(SHAPES.index(detect_shape(mask)) if mask.sum() >= MIN_VISIBLE_PIXELS else -1)
        return np.array(found, dtype=np.int8)


def draw_initial_noise(first_seed: int, seed_count: int, device: str) -> Tensor:
    """Return the initial noise of consecutive seeds [seeds, 16, 5, 16, 16], as the pipeline draws it."""
    seeds = range(first_seed, first_seed + seed_count)
    noise = [torch.randn(1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(noise).to(device)


def write_prompts(sentence: str, words: tuple[str, ...]) -> list[str]:
    """Return the prompts of all words and colours; colours vary fastest."""
    return [sentence.format(colour=colour, shape=word) for word in words for colour in COLOURS]


def compute_gram(states: Tensor) -> NDArray[np.float64]:
    """Return the inner products of states [steps + 1, n, values] as [n, steps + 1, steps + 1]."""
    grams = []
    for video in states.transpose(0, 1):
        columns = video.double()
        grams.append((columns @ columns.mT).cpu())
    return torch.stack(grams).numpy()


def measure_metrics(sigmas: NDArray[np.float64], grams: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value of each of `MEASURED_METRICS` [n, columns]; NaN where none is measured."""
    values = np.full((len(grams), len(MEASURED_METRICS)), np.nan)
    for row, gram in zip(values, grams, strict=True):
        trajectory = build_trajectory(gram, sigmas, VALUE_COUNT)
        paths = {
            multiple: select_strided_states(trajectory, multiple)
            for multiple in STRIDE_MULTIPLES
            if len(sigmas) > MIN_PATH_STATES * multiple
        }
        for column, (metric, multiple) in enumerate(MEASURED_METRICS):
            if multiple in paths and (multiple == 1 or metric in STRIDE_METRICS):
                row[column] = compute_metric(paths[multiple], metric)
    return values


def pack_steps(grams: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the upper triangles of the inner products of x_0 and the steps, which determine the Gram matrix.

    Rounding to float32 changes an angle between steps by less than 1e-3; the Gram matrix itself would lose it.
    """
    state_count = grams.shape[1]
    to_steps = np.eye(state_count) - np.eye(state_count, k=-1)  # x_0, x_1 - x_0, ...
    products: NDArray[np.float64] = to_steps @ grams @ to_steps.T
    return products[:, *np.triu_indices(state_count)].astype(np.float32)


def compute_distances(states: Tensor) -> NDArray[np.float32]:
    """Return the squared distances of the upper triangle between states [n, values], divided by D."""
    columns = states.double()
    gram = (columns @ columns.mT / VALUE_COUNT).cpu().numpy()
    squares = np.diagonal(gram)
    distances: NDArray[np.float64] = squares[:, None] + squares[None, :] - 2 * gram
    return distances[np.triu_indices(len(distances), k=1)].astype(np.float32)


def project_states(states: Tensor) -> NDArray[np.float16]:
    """Return random projections of `PROJECTED_STEP_COUNT` + 1 states of each video [states, n, dimensions]."""
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(VALUE_COUNT, PROJECTION_DIMENSION, generator=generator) / PROJECTION_DIMENSION**0.5
    indices = np.linspace(0, len(states) - 1, PROJECTED_STEP_COUNT + 1).round().astype(int).tolist()
    return torch.stack([states[i] @ matrix.to(states.device) for i in indices]).half().cpu().numpy()


def measure_information(
    model: Model,
    finals: Tensor,
    text: Tensor,
    generic_text: Tensor,
    seed_of_video: Tensor,
    level_edges: NDArray[np.float64] = INFORMATION_EDGES,
) -> dict[str, NDArray[np.float32]]:
    """Return |v_c - v_0|^2 and |v_0 - v*|^2 - |v_c - v*|^2 of renoised final states, each [levels, n].

    The squares are sums over all values, and v* = noise - video. Videos of one seed are renoised with the same noise.
    """
    finals = finals.view(-1, *LATENT_SHAPE)
    generator = torch.Generator().manual_seed(11)
    gaps, pointwise = [], []
    for low, high in pairwise(level_edges):
        sigma = (low + high) / 2
        noise_by_seed = torch.randn(int(seed_of_video.max()) + 1, *LATENT_SHAPE, generator=generator)
        noise = noise_by_seed[seed_of_video].to(finals.device)
        noisy = torch.lerp(finals, noise, sigma)
        timestep = torch.tensor([1000 * sigma], device=finals.device, dtype=torch.float32)
        conditional = model.predict(noisy, timestep, text).double()
        generic = model.predict(noisy, timestep, generic_text).double()
        truth = (noise - finals).double()
        difference = conditional - generic
        gaps.append(difference.square().flatten(1).sum(1).cpu())
        # |v_0 - v*|^2 - |v_c - v*|^2 = (v_c - v_0) . (2 v* - v_0 - v_c), in which the large squares cancel beforehand
        pointwise.append((difference * (2 * truth - generic - conditional)).flatten(1).sum(1).cpu())
    return {
        "information_gap": torch.stack(gaps).float().numpy(),
        "information_pointwise": torch.stack(pointwise).float().numpy(),
    }


def measure_generic_share(
    model: Model, sentence: str, seed_count: int, conditions: dict[str, Condition]
) -> dict[str, NDArray[np.int8]]:
    """Return the shapes that the pixel rules see for the generic word [seeds, colours], for each guidance scale."""
    prompts = write_prompts(sentence, (GENERIC_WORD,))
    noise = draw_initial_noise(FIRST_SEED + 5000, seed_count, model.device)
    text = model.encode(prompts)
    shapes = {}
    for name in ("guidance-1", "guidance-4"):
        trajectories = model.generate(
            text.repeat(seed_count, 1, 1), noise.repeat_interleave(len(prompts), dim=0), conditions[name]
        )
        shapes[f"generic_shapes {name}"] = model.detect_shapes(trajectories.states[-1]).reshape(seed_count, -1)
    return shapes


@dataclass(frozen=True)
class Form:
    """Videos of a sentence form, ordered by seed, shape and colour."""

    name: str
    text: Tensor  # [n, 512, 128]
    generic_text: Tensor  # the same with the generic word for the shape
    is_shape_word: Tensor  # bool [n, 512], True at the tokens of the shape's word
    seed_of_video: Tensor  # int64 [n]
    shape_of_video: NDArray[np.int64]  # [n]


def build_form(model: Model, name: str, seed_count: int) -> Form:
    """Encode the prompts of a sentence form, for all seeds."""
    prompts, generic_prompts = (write_prompts(SENTENCES[name], words) for words in (SHAPES, (GENERIC_WORD,)))
    shape_of_prompt = np.arange(len(SHAPES)).repeat(len(COLOURS))
    words = [SHAPES[shape] for shape in shape_of_prompt]
    return Form(
        name,
        model.encode(prompts).repeat(seed_count, 1, 1),
        model.encode(generic_prompts).repeat(seed_count * len(SHAPES), 1, 1),
        find_word_positions(model.pipeline.tokenizer, prompts, words).repeat(seed_count, 1),
        torch.arange(seed_count).repeat_interleave(len(prompts)),
        np.tile(shape_of_prompt, seed_count),
    )


def measure_form(model: Model, form: Form, noise: Tensor, conditions: dict[str, Condition]) -> dict[str, Any]:
    """Return all measurements of a sentence form by name."""
    measurements: dict[str, Any] = {}
    for name, condition in conditions.items():
        key = f"{name} {form.name}"
        trajectories = model.generate(form.text, noise[form.seed_of_video.to(noise.device)], condition)
        grams = compute_gram(trajectories.states)
        measurements[f"sigmas {key}"] = trajectories.sigmas
        measurements[f"metrics {key}"] = measure_metrics(trajectories.sigmas, grams)
        measurements[f"gap_products {key}"] = trajectories.gap_products.float().cpu().numpy()
        measurements[f"final_distances {key}"] = compute_distances(trajectories.states[-1])
        measurements[f"shapes {key}"] = model.detect_shapes(trajectories.states[-1])
        word_measures = measure_word(model, trajectories.states, trajectories.timesteps, form.text, form.is_shape_word)
        measurements |= {f"{measure.replace(' ', '_')} {key}": values for measure, values in word_measures.items()}
        if condition.sampler == "euler":
            measurements[f"projections {key}"] = project_states(trajectories.states)
            measurements[f"kept_range {key}"] = measure_kept_range(
                model, trajectories, form, condition, measurements[f"shapes {key}"]
            )
            if form.name == "main":
                measurements[f"steps {key}"] = pack_steps(grams)
        if name == "guidance-1":
            information = measure_information(
                model, trajectories.states[-1], form.text, form.generic_text, form.seed_of_video
            )
            measurements |= {f"{measure} {form.name}": values for measure, values in information.items()}
    return measurements


def measure_kept_range(
    model: Model, trajectories: Trajectories, form: Form, condition: Condition, seen_shapes: NDArray[np.int8]
) -> FloatArray:
    """Return up to which noise level each video keeps its shape if the prompt switches to the generic one, [n].

    NaN where the video does not show its shape without a switch, `seen_shapes`; `wantui commitment` leaves it out, too.
    """
    switch_steps = choose_switch_steps(condition.step_count)
    finals = [
        model.detect_shapes(model.continue_from(trajectories.states[step], step, form.generic_text, condition))
        for step in switch_steps
    ]
    kept_ranges = compute_kept_range_of_shapes(trajectories.sigmas[switch_steps], np.stack(finals), form.shape_of_video)
    kept_ranges[seen_shapes != form.shape_of_video] = np.nan
    return kept_ranges


@torch.no_grad()
def measure_model(
    folder: Path, seed_count: int, generic_seed_count: int, step_count: int, device: str
) -> dict[str, Any]:
    """Return all measurements of a model by name; videos are ordered by seed, shape and colour."""
    model, conditions = Model(folder, device), build_conditions(step_count)
    noise = draw_initial_noise(FIRST_SEED, seed_count, device)
    measurements: dict[str, Any] = {
        "metric_names": np.array([metric for metric, _ in MEASURED_METRICS]),
        "metric_strides": np.array([multiple for _, multiple in MEASURED_METRICS]),
        "information_edges": INFORMATION_EDGES,
    }
    for form in SENTENCES:
        measurements |= measure_form(model, build_form(model, form, seed_count), noise, conditions)
    return measurements | measure_generic_share(model, SENTENCES["main"], generic_seed_count, conditions)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output_path", type=click.Path(path_type=Path))
@click.option("--seeds", "seed_count", default=10, show_default=True)
@click.option("--generic-seeds", "generic_seed_count", default=32, show_default=True)
@click.option("--steps", "step_count", default=50, show_default=True, help="Euler steps.")
def main(folder: Path, output_path: Path, seed_count: int, generic_seed_count: int, step_count: int) -> None:
    """Measure the model in FOLDER, and write the measurements to the npz file OUTPUT_PATH."""
    start_time = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measurements = measure_model(folder, seed_count, generic_seed_count, step_count, device)
    np.savez_compressed(output_path, **measurements)
    click.echo(f"measured {folder.name} in {time.monotonic() - start_time:.0f} s: {output_path}")


if __name__ == "__main__":
    main()
