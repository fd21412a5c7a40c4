"""Cost of captures, word weights and bends, in percent of a guided step.

Run python tests/benchmarks/capture.py [--model NAME].

Nano runs with its own weights; the published sizes are built with random ones, in which time and memory are the same.
Steps of all ways to capture are made in turns in one process; the peer is the same loop without any.
"""

import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline

from wantui.captures.attention import AttentionRequest
from wantui.captures.contributions import CONTRIBUTIONS, ContributionRequest
from wantui.controls.attention_bending import AttentionBendingRequest, BendRequest
from wantui.generation.bench import build_random_transformer
from wantui.generation.captures import attention as attention_capture
from wantui.generation.captures import contributions as contribution_capture
from wantui.generation.captures import guidance_gap as guidance_gap_capture
from wantui.generation.captures import make_hooks
from wantui.generation.captures import trajectory as trajectory_capture
from wantui.generation.captures.base import CaptureRecorder
from wantui.generation.controls import apply_controls
from wantui.generation.denoise import create_scheduler, denoise_latents, prepare_inputs
from wantui.generation.denoising_state import DenoisingInputs
from wantui.generation.fuse import fuse_blocks
from wantui.generation.guidance import GuidedVelocity
from wantui.generation.load import load_pipeline
from wantui.generation.placement import apply_memory_plan
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.prompt_sequence import EncodedPrompt, PromptSequence
from wantui.generation.token_spans import tokenize_prompt
from wantui.models.catalogue import NANO, find_model
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.planning import CaptureRequests, PromptMark, Recipe
from wantui.planning.guidance_plan import plan_guidance, uses_unconditional_pass
from wantui.planning.memory_plan import RESIDENT_PLAN
from wantui.storage.background_writer import BackgroundWriter

PROMPT = "a large red circle moving left and a small blue star moving right over a dark background"
SIZES = ("wan2.1-1.3b", "wan2.1-14b")
EARLIER = 25
"""States before the step that is timed: the middle of 50, for the row of the Gram matrix."""
MARKS = tuple(
    PromptMark(text=word, start=PROMPT.index(word), end=PROMPT.index(word) + len(word))
    for word in ("circle", "star", "background")
)
CAPTURES = {
    "guidance gap alone": CaptureRequests(geometry=False),
    "trajectory (Gram matrix, projection)": CaptureRequests(guidance_gap=False),
    "and latents, float32": CaptureRequests(guidance_gap=False, latents=True),
    "and attention of three words": CaptureRequests(guidance_gap=False, attention=AttentionRequest()),
    "and attention, each block": CaptureRequests(guidance_gap=False, attention=AttentionRequest(per_block=True)),
    "and attention, each block and head": CaptureRequests(
        guidance_gap=False, attention=AttentionRequest(per_block=True, per_head=True)
    ),
    "and contributions of three words": CaptureRequests(
        guidance_gap=False, more={CONTRIBUTIONS.name: ContributionRequest()}
    ),
}
WEIGHTS = {"weight 1.5 of three words, no capture": 1.5, "weight 0.5 of three words, no capture": 0.5}
"""Weights from 1 on correct the kernel's output; those below 1 take the sum anew."""
TRANSLATE, ROTATE = {"mode": "translate", "translate_x": 0.2}, {"mode": "rotate", "rotate_degrees": 20.0}
BENDS: dict[str, dict[str, object]] = {
    "one bent word, translate": {"words": ("circle",), "transform": TRANSLATE},
    "one bent word, rotate": {"words": ("circle",), "transform": ROTATE},
    "one bent word, renormalised": {"words": ("circle",), "transform": TRANSLATE, "renormalise": True},
    "all tokens bent": {"words": ("all",), "transform": TRANSLATE},
    "all tokens and padding bent": {"words": ("all",), "transform": TRANSLATE, "padding": True},
}


def build_random_pipeline(name: str, device: torch.device) -> WanPipeline:
    """A pipeline of a published size with random weights; without a text encoder."""
    model = find_model(name)
    transformer = build_random_transformer(
        model.head_count, model.feed_forward_width, model.block_count, device, torch.bfloat16
    )
    vae = AutoencoderKLWan(base_dim=3, num_res_blocks=1)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = WanPipeline(build_nano_tokenizer(), None, vae, scheduler, transformer)
    apply_memory_plan(pipeline, device, RESIDENT_PLAN)
    return pipeline


def prepare_inputs_with_random_text(pipeline: WanPipeline, recipe: Recipe) -> DenoisingInputs:
    """As `prepare`, with random embeddings where there is no text encoder."""
    if pipeline.text_encoder is not None:
        return prepare_inputs(pipeline, recipe)
    device = pipeline._execution_device
    generator = torch.Generator("cpu").manual_seed(0)
    length = tokenize_prompt(pipeline.tokenizer, recipe.prompt, ()).token_count
    embeds = torch.zeros(1, 512, pipeline.transformer.config.text_dim)
    embeds[:, :length] = torch.randn(1, length, embeds.shape[2], generator=generator)
    embeds = embeds.to(device, pipeline.transformer.dtype)
    scheduler = create_scheduler(recipe, device)
    frames, height, width = (recipe.frames - 1) // 4 + 1, recipe.height // 8, recipe.width // 8
    negative_embeds = embeds.flip(2) if uses_unconditional_pass(recipe) else None
    prompts = PromptSequence([EncodedPrompt(recipe.prompt, recipe.marks, embeds)])
    preparation = DenoisingPreparation(pipeline, recipe, len(scheduler.timesteps), prompts, negative_embeds)
    apply_controls(preparation)
    noise = torch.randn(1, 16, frames, height, width, generator=generator).to(device)
    return DenoisingInputs(
        noise,
        tuple(scheduler.sigmas.tolist()),
        tuple(scheduler.timesteps.tolist()),
        scheduler,
        preparation.prompts,
        negative_embeds,
        make_hooks(preparation),
        GuidedVelocity(plan_guidance(recipe)),
    )


class CaptureVariant:
    """A denoising loop with one way to capture, of which one step is made at a time."""

    def __init__(self, pipeline: WanPipeline, recipe: Recipe, capture: CaptureRequests | None, folder: Path) -> None:
        self.device = pipeline._execution_device
        recipe = recipe.model_copy(update={"capture": capture or CaptureRequests()})
        self.make: Callable[[], DenoisingInputs] = lambda: prepare_inputs_with_random_text(pipeline, recipe)
        start = self.make()
        self.background = BackgroundWriter()
        self.recorders: list[CaptureRecorder] = []
        if capture is not None and capture.guidance_gap:
            gap = guidance_gap_capture.Recorder(folder / "g.zarr", recipe, self.background, (), is_resumable=False)
            gap.on_start(start, 0)
            self.recorders.append(gap)
        if capture is not None and capture.geometry:
            trajectory = trajectory_capture.Recorder(folder / "v.zarr", recipe, self.background, (), is_resumable=False)
            self.recorders.append(trajectory)
            if capture.attention is not None:
                self.recorders.append(
                    attention_capture.Recorder(folder / "a.zarr", recipe, self.background, (), is_resumable=False)
                )
            if CONTRIBUTIONS.name in capture.more:
                self.recorders.append(
                    contribution_capture.Recorder(folder / "c.zarr", recipe, self.background, (), is_resumable=False)
                )
            for recorder in self.recorders:
                recorder.on_start(start, 0)
            for _ in range(EARLIER - 1):
                trajectory.gram_matrix.add_state(torch.randn_like(start.noise))
        self.steps = denoise_latents(pipeline, recipe, start)
        self.peak = 0
        self.time_next_step()

    def time_next_step(self) -> float:
        """Seconds of the next step, with all that is done about it before the step after it can begin."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        step = next(self.steps)
        self.latents = step.latents
        for recorder in self.recorders:
            recorder.on_step(step)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        return time.perf_counter() - began

    def close(self) -> None:
        """End it, and free what it holds."""
        self.steps.close()
        self.background.close()


@click.command()
@click.option("--model", type=click.Choice(["nano", *SIZES]), default="nano", show_default=True)
@click.option("--rounds", type=click.IntRange(1, 50 - EARLIER - 1), default=12, show_default=True)
@click.option("--threads", type=int, help="Of torch on a CPU.")
@click.option("--speed", type=click.Choice(["reference", "fused"]), default="reference", show_default=True)
@click.option("--only", default="", help="Ways to capture whose name holds this.")
def main(model: str, rounds: int, threads: int | None, speed: str, only: str) -> None:
    """Print the cost of each way to capture in percent of a guided step, in time and in peak memory."""
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() and model != "nano" else "cpu")
    real = model != "nano"
    pipeline = build_random_pipeline(model, device) if real else load_pipeline(NANO, None, "float32", device)
    if speed == "fused" and device.type == "cuda":
        fuse_blocks(pipeline.transformer)
    recipe = Recipe(
        model=find_model(model).name,
        revision=None,
        prompt=PROMPT,
        negative_prompt="",
        marks=MARKS,
        seed=1,
        sampler="unipc",
        steps=50,
        flow_shift=3.0,
        guidance_scale=5.0,
        width=832 if real else 128,
        height=480 if real else 128,
        frames=81 if real else 17,
        fps=16,
        dtype="bfloat16" if real else "float32",
    )
    folder = Path(tempfile.mkdtemp())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    size = f"{recipe.width}x{recipe.height}x{recipe.frames}"
    click.echo(f"{model}, {size}, guided, {speed}, on {name}, torch {torch.__version__}")
    click.echo(f"medians of {rounds} pairs of steps, the {EARLIER}th of 50; peak of one step, both over the plain loop")
    ways: dict[str, tuple[Recipe, CaptureRequests | None]] = {
        label: (recipe, capture) for label, capture in CAPTURES.items()
    }
    for label, weight in WEIGHTS.items():
        marks = tuple(mark.model_copy(update={"weight": weight}) for mark in MARKS)
        ways[label] = recipe.model_copy(update={"marks": marks, "weighting": "attention"}), None
    for label, bend in BENDS.items():
        bends = AttentionBendingRequest(bends=(BendRequest.model_validate({"name": "bend", **bend}),))
        ways[label] = recipe.model_copy(update={"controls": {"attention_bending": bends}}), None
    for number, (label, (changed, capture)) in enumerate(ways.items()):
        if only not in label:
            continue
        plain = CaptureVariant(pipeline, recipe, None, folder)
        captured = CaptureVariant(pipeline, changed, capture, folder / str(number))
        pairs = []
        for turn in range(rounds):
            first, second = (plain, captured) if turn % 2 else (captured, plain)
            times = {first: first.time_next_step(), second: second.time_next_step()}
            pairs.append((times[plain], times[captured]))
        added = sorted(100 * (with_it / without - 1) for without, with_it in pairs)
        quarter = len(added) // 4
        line = f"{label:<40} {statistics.median(added):+6.2f} %"
        line += f" (middle half {added[quarter]:+.2f} to {added[-1 - quarter]:+.2f})"
        line += f"  step {statistics.median(without for without, _ in pairs):.3f} s"
        if device.type == "cuda":
            more = 100 * (captured.peak / plain.peak - 1)
            line += f"  peak {captured.peak / 2**30:.2f} GiB, {more:+.2f} %"
        if label in BENDS:
            change = float((captured.latents - plain.latents).norm() / plain.latents.norm())
            assert change > 0, f"{label}: the latents are those without a bend"
            line += f"  latents change by {change:.1e} of their norm"
        if "attention" in label:
            attention = captured.recorders[1]
            assert isinstance(attention, attention_capture.Recorder)
            check = attention.observer.check_results
            line += f"  check {check.max_output_error:.1e}, maps {check.max_map_error:.1e}"
            line += f", collapsed {check.is_padding_merged}"
        click.echo(line)
        plain.close()
        captured.close()
        del plain, captured
        shutil.rmtree(folder / str(number), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
