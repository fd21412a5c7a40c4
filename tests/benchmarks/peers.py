"""The official code, diffusers and wantui on one GPU: python tests/benchmarks/peers.py --official CLONE.

A clone of https://github.com/Wan-Video/Wan2.1 is imported for the official code; leave the option out for the others.
All have the same random weights, noise, texts of 20 tokens, guidance and sampler (UniPC); none loads the text encoder
or the VAE. Each runs its own loop in its own process:

official           the official transformer and loop, with weights in float32 under autocast, as it loads them
official-bfloat16  the same with the weights of its products in bfloat16
diffusers          WanPipeline, eager; all ratios are over its time
compiled           WanPipeline with torch.compile of its blocks
reference, fused, fp8            wantui's speeds with torch's attention
fused-fa4, fp8-fa4               the same with FlashAttention-4
cached             wantui's cached with published magnitudes, by the fastest installed attention: the mean over 50 steps

The first evaluation of a process includes compilation. Then a video of `--rounds` + 1 steps is denoised; the time is
the median of its last `--rounds` steps, and the peak is that of the loop. The last column compares both velocities at
timestep 500 with those of diffusers. Peers for which there is no time are named. `--tiny` runs on a CPU.
"""

import datetime
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import diffusers
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.gpu import GB, Cell, build_cell_recipe, build_guided_step, embed_any_prompt
from benchmarks.official_wan import (
    GUIDANCE_SCALE,
    build_official_model,
    check_clone,
    denoise_official,
    describe_version,
    evaluate_official,
    import_official_code,
)

from wantui.generation.bench import build_random_transformer
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.fuse import fuse_blocks, quantize_blocks
from wantui.generation.placement import PipelinePlacement
from wantui.models.catalogue import WanModel, find_model
from wantui.models.magnitudes import read_published_magnitudes
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.planning import Recipe
from wantui.planning.memory_plan import RESIDENT_PLAN
from wantui.planning.step_skipping import count_computed_steps
from wantui.planning.throughput import FLASH_ATTENTION_4, NATIVE_ATTENTION

PEERS = (
    *("diffusers", "official", "compiled", "fused", "fused-fa4", "fp8", "fp8-fa4", "reference", "cached"),
    "official-bfloat16",
)
MODELS = ("wan2.1-1.3b", "wan2.1-14b")
SIZE, TINY_SIZE = (832, 480, 81), (64, 64, 5)
FLOW_SHIFT, TOKEN_COUNT, CACHED_STEP_COUNT = 3.0, 20, 50
MIN_SECONDS_LEFT = 25.0
"""Seconds below which no process is started."""
OUTPUT_MARK = "RESULT "


@dataclass(frozen=True)
class Result:
    """What one peer took."""

    peer: str
    attention: str
    step_seconds: float
    """Seconds of a guided step."""
    first_seconds: float
    """Seconds of the first guided evaluation of the process."""
    peak_bytes: int
    """Peak of the memory that torch allocated in the loop; 0 on a CPU."""
    note: str = ""


class Bench:
    """The work that all peers have in common, and its clock."""

    def __init__(self, model_name: str, is_tiny: bool, rounds: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, self.rounds = find_model(model_name), rounds
        if is_tiny:
            model = replace(model, head_count=2, transformer_width=256, feed_forward_width=512, block_count=4)
        self.model: WanModel = model
        self.size = TINY_SIZE if is_tiny else SIZE
        shape = (1, *model.compute_latent_shape(*self.size))
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        self.step_ends: list[float] = []

    def build_transformer(self) -> Any:
        torch.manual_seed(0)
        model = self.model
        sizes = model.head_count, model.feed_forward_width, model.block_count
        return build_random_transformer(*sizes, self.device, torch.bfloat16)

    def embed_prompt(self, prompt: str) -> Tensor:
        """Return the embedding [1, 512, 4096] of the prompt, or its negative for the empty prompt."""
        return embed_any_prompt(prompt, self.device) * (1 if prompt else -1)

    def build_recipe(self, step_count: int) -> Recipe:
        return build_cell_recipe(self.model, Cell(self.model.name, *self.size)).model_copy(update={"steps": step_count})

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def end_step(self) -> None:
        self.synchronize()
        self.step_ends.append(time.perf_counter())

    def measure(
        self,
        peer: str,
        attention: str,
        evaluate: Callable[[], Tensor],
        denoise: Callable[[int], object],
        output: Path | None,
    ) -> Result:
        """Measure an evaluation and a short video.

        Args:
            evaluate: returns both velocities for the noise at timestep 500.
            denoise: denoises a video in a number of steps, and calls `end_step` after each.
            output: file for the velocities.
        """
        self.synchronize()
        began = time.perf_counter()
        velocities = evaluate()
        self.synchronize()
        first_seconds = time.perf_counter() - began
        if output is not None:
            torch.save(velocities.float().cpu(), output)
        del velocities
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.end_step()
        denoise(self.rounds + 1)
        seconds = [end - start for start, end in pairwise(self.step_ends)]
        assert len(seconds) == self.rounds + 1
        return Result(peer, attention, statistics.median(seconds[1:]), first_seconds, self.read_peak_bytes())

    def read_peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0


def measure_official(bench: Bench, peer: str, clone: Path, output: Path | None) -> Result:
    """Measure the official transformer in its loop."""
    code = import_official_code(clone, bench.device)
    model = build_official_model(code, bench.model, bench.build_transformer(), peer == "official")
    noise = bench.noise[0]
    texts = (bench.embed_prompt("x")[0, :TOKEN_COUNT], bench.embed_prompt("")[0, :TOKEN_COUNT])
    timestep = torch.tensor([500.0], device=bench.device)

    def denoise(step_count: int) -> Tensor:
        return denoise_official(code, model, noise, texts, step_count, FLOW_SHIFT, bench.end_step)

    return bench.measure(
        peer, code.attention, partial(evaluate_official, model, noise, timestep, texts), denoise, output
    )


def build_pipeline(transformer: Any) -> WanPipeline:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT)
    pipeline = WanPipeline(build_nano_tokenizer(), None, None, scheduler, transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_evaluation(bench: Bench, transformer: Any) -> Callable[[], Tensor]:
    return torch.no_grad()(build_guided_step(transformer, bench.noise.to(torch.bfloat16)))


def measure_diffusers(bench: Bench, peer: str, output: Path | None) -> Result:
    """Measure the stock pipeline, eager or with compiled blocks."""
    transformer = bench.build_transformer()
    if peer == "compiled":
        transformer.compile_repeated_blocks(fullgraph=True)
    pipeline = build_pipeline(transformer)
    width, height, frame_count = bench.size

    def end_step(*arguments: Any) -> dict[str, Any]:
        bench.end_step()
        return {}

    def denoise(step_count: int) -> object:
        return pipeline(
            height=height,
            width=width,
            num_frames=frame_count,
            num_inference_steps=step_count,
            guidance_scale=GUIDANCE_SCALE,
            latents=bench.noise,
            prompt_embeds=bench.embed_prompt("x"),
            negative_prompt_embeds=bench.embed_prompt(""),
            output_type="latent",
            callback_on_step_end=end_step,
        )

    return bench.measure(peer, "torch SDPA", build_evaluation(bench, transformer), denoise, output)


def measure_wantui(bench: Bench, peer: str, output: Path | None) -> Result:
    """Measure wantui's loop with one of its speeds."""
    transformer, speed = bench.build_transformer(), peer.removesuffix("-fa4")
    uses_version_4 = peer.endswith("-fa4") or (peer == "cached" and find_missing_package("fused-fa4") is None)
    if speed != "reference":
        fuse_blocks(transformer, FLASH_ATTENTION_4 if uses_version_4 else NATIVE_ATTENTION)
    if speed == "fp8":
        quantize_blocks(transformer, bench.device)
    pipeline = build_pipeline(transformer)
    pipeline.wantui_placement = PipelinePlacement(pipeline, bench.device, RESIDENT_PLAN)

    def denoise(recipe: Recipe) -> None:
        inputs = prepare_inputs(pipeline, recipe, bench.embed_prompt)
        for _ in denoise_latents(pipeline, recipe, inputs):
            bench.end_step()

    result = bench.measure(
        peer,
        "FlashAttention-4" if uses_version_4 else "torch SDPA",
        build_evaluation(bench, transformer),
        lambda step_count: denoise(bench.build_recipe(step_count)),
        output,
    )
    if peer != "cached":
        return result
    magnitudes = read_published_magnitudes()[bench.model.name]
    recipe = bench.build_recipe(CACHED_STEP_COUNT).model_copy(update={"speed": "cached", "magnitudes": magnitudes})
    bench.synchronize()
    began = time.perf_counter()
    denoise(recipe)
    mean_seconds = (time.perf_counter() - began) / CACHED_STEP_COUNT
    note = f"mean of {CACHED_STEP_COUNT} steps, {count_computed_steps(recipe)} computed"
    return replace(result, step_seconds=mean_seconds, peak_bytes=bench.read_peak_bytes(), note=note)


def find_missing_package(peer: str) -> str | None:
    """Return what a peer needs and this Python lacks; None if nothing is missing."""
    if not peer.endswith("-fa4"):
        return None
    has_parent = importlib.util.find_spec("flash_attn") is not None
    if has_parent and importlib.util.find_spec("flash_attn.cute") is not None:
        return None
    return "flash-attn-4 is not installed: pip install 'wantui[flash-attention-4]'"


def measure_peer(bench: Bench, peer: str, clone: Path | None, output: Path | None) -> Result:
    """Measure one peer in this process."""
    if peer.startswith("official"):
        assert clone is not None
        return measure_official(bench, peer, clone, output)
    if peer in ("diffusers", "compiled"):
        return measure_diffusers(bench, peer, output)
    return measure_wantui(bench, peer, output)


def run_peer(peer: str, command: list[str], seconds_left: float) -> Result | str:
    """Measure one peer in its own process; return its result, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds_left)
    except subprocess.TimeoutExpired:
        return f"stopped, no result after {seconds_left:.0f} s"
    for line in done.stdout.splitlines():
        if line.startswith(OUTPUT_MARK):
            return Result(**json.loads(line.removeprefix(OUTPUT_MARK)))
    click.echo(done.stderr, err=True)
    return f"FAILED: {(done.stderr.strip().splitlines() or ['no message'])[-1][:150]}"


def format_table(results: list[Result], differences: dict[str, float]) -> list[str]:
    """Return the lines of a Markdown table; ratios are over diffusers, if it was measured."""
    plain = next((result.step_seconds for result in results if result.peer == "diffusers"), None)
    titles = ("", "attention", "guided step, s", "over diffusers", "peak, GB", "first evaluation, s", "differs by", "")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for result in results:
        cells = [
            result.peer,
            result.attention,
            f"{result.step_seconds:.3f}",
            "" if plain is None else f"{plain / result.step_seconds:.3f}",
            f"{result.peak_bytes / GB:.2f}",
            f"{result.first_seconds:.1f}",
            f"{differences[result.peer]:.1e}" if result.peer in differences else "",
            result.note,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def compare_velocities(results: list[Result], folder: Path) -> dict[str, float]:
    """Return the norm of each peer's difference from diffusers, relative to that of diffusers."""
    if not (folder / "diffusers").exists():
        return {}
    wanted = torch.load(folder / "diffusers")
    norm = wanted.norm()
    return {result.peer: float((torch.load(folder / result.peer) - wanted).norm() / norm) for result in results}


def run_peers(peers: list[str], options: list[str], deadline: float, reasons: list[str]) -> list[str]:
    """Measure peers one after the other, append to `reasons` why there is no result, and return the table."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for peer in peers:
            seconds_left = deadline - time.monotonic()
            if seconds_left < MIN_SECONDS_LEFT:
                reasons.append(f"{peer}: left out, the time is over")
                continue
            command = [sys.executable, __file__, *options, "--measure", peer, "--output", str(Path(folder, peer))]
            outcome = run_peer(peer, command, seconds_left)
            if isinstance(outcome, str):
                reasons.append(f"{peer}: {outcome}")
            else:
                results.append(outcome)
                click.echo(f"{peer}: {outcome.step_seconds:.3f} s", err=True)
        return format_table(results, compare_velocities(results, Path(folder)))


@click.command()
@click.option("--official", type=click.Path(path_type=Path, file_okay=False), help="Clone of Wan-Video/Wan2.1.")
@click.option("--model", "model_name", type=click.Choice(MODELS), default=MODELS[0], show_default=True)
@click.option("--only", type=click.Choice(PEERS), multiple=True, help="Peer; repeatable. All by default.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Timed steps.")
@click.option("--seconds", default=450.0, show_default=True, help="Longest duration of all, after the imports.")
@click.option("--tiny", is_flag=True, help="Measure a tiny model, on a CPU too.")
@click.option("--measure", type=click.Choice(PEERS), help="Measure one peer in this process, and print it as JSON.")
@click.option("--output", type=click.Path(path_type=Path), help="File for the velocities of --measure.")
def main(
    official: Path | None,
    model_name: str,
    only: tuple[str, ...],
    rounds: int,
    seconds: float,
    tiny: bool,
    measure: str | None,
    output: Path | None,
) -> None:
    """Print the table of all peers."""
    deadline = time.monotonic() + seconds
    if official is not None:
        check_clone(official)
    if not tiny and not torch.cuda.is_available():
        raise click.UsageError("this benchmark needs a GPU; --tiny runs on a CPU.")
    if measure is not None:
        result = measure_peer(Bench(model_name, tiny, rounds), measure, official, output)
        click.echo(OUTPUT_MARK + json.dumps(asdict(result)))
        return
    reasons, peers = [], []
    for peer in only or PEERS:
        reason = find_missing_package(peer)
        if peer.startswith("official") and official is None:
            reason = "no clone was given by --official"
        if reason is None:
            peers.append(peer)
        else:
            reasons.append(f"{peer}: left out, {reason}")
    options = ["--model", model_name, "--rounds", str(rounds), *(["--tiny"] if tiny else [])]
    options += [] if official is None else ["--official", str(official)]
    table = run_peers(peers, options, deadline, reasons)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    width, height, frames = TINY_SIZE if tiny else SIZE
    click.echo(
        f"{model_name}{' (tiny)' if tiny else ''}, {width}x{height}x{frames}, guidance {GUIDANCE_SCALE:g}, bfloat16, "
        f"random weights, median of {rounds} steps\n{card}, torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}, {datetime.date.today()}, official code: "
        f"{'not measured' if official is None else describe_version(official)}\n"
    )
    click.echo("\n".join([*table, "", *reasons]))


if __name__ == "__main__":
    main()
