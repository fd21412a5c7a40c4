"""Videos per hour of a batch against a loop over plain diffusers: python tests/benchmarks/batch.py --model wan2.1-1.3b.

Both load the same directory once and make the same videos, with the same encoder and the same settings. A model of a
published size has random weights, with a text encoder of one layer. What is compared is the time from the end of the
first video to the end of the last: loading is measured separately. With `--attention flash_attn_4`, `wantui bench` runs
first, as it does for users, and then that kernel is used; `fastest` is the kernel that it chooses.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from transformers import UMT5Config, UMT5EncoderModel

from wantui.generation.attention_backends import KERNEL_NAMES, check_kernel_installed
from wantui.generation.bench import build_random_transformer
from wantui.models.catalogue import NANO, find_model
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.planning.throughput import NATIVE_ATTENTION, Throughput
from wantui.queue.benchmark_store import save_throughput
from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import read_clip_tags, write_mp4

FASTEST = "fastest"
PROMPT = "a large red circle moving left"
GUIDANCE, SHIFT, FPS = 5.0, 3.0, 16


def build_model_directory(name: str, folder: Path) -> Path:
    """A pipeline of a published size with random weights, as diffusers stores it."""
    model, device = find_model(name), torch.device("cuda")
    tokenizer = build_nano_tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=model.text_width, d_ff=64, d_kv=8, num_heads=2, num_layers=1)
    )
    transformer = build_random_transformer(
        model.head_count, model.feed_forward_width, model.block_count, device, torch.bfloat16
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
    vae = AutoencoderKLWan()
    WanPipeline(tokenizer, encoder.to(torch.bfloat16), vae, scheduler, transformer).save_pretrained(folder)
    return folder


def time_plain_loop(directory: Path, size: tuple[int, int, int], steps: int, videos: int, out: Path) -> list[float]:
    """When each video of a loop over the stock pipeline was whole, seconds from the beginning."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae = AutoencoderKLWan.from_pretrained(directory, subfolder="vae", dtype=torch.float32)
    pipeline = WanPipeline.from_pretrained(directory, vae=vae, dtype=dtype).to(device)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=SHIFT)
    pipeline.set_progress_bar_config(disable=True)
    width, height, frames = size
    ends = []
    for seed in range(videos):
        made = pipeline(
            PROMPT,
            "",
            height,
            width,
            frames,
            steps,
            GUIDANCE,
            generator=torch.Generator("cpu").manual_seed(42 + seed),
        ).frames[0]
        write_mp4(out / f"{seed}.mp4", iter(np.rint(made * 255).astype(np.uint8)), FPS, frames, {})
        ends.append(time.perf_counter() - began)
    return ends


def time_wantui_run(directory: Path, size: tuple[int, int, int], steps: int, videos: int, out: Path) -> list[float]:
    """The same of `wantui run`."""
    settings: dict[str, Any] = {
        "model_settings.model_id": directory,
        "model_settings.steps": steps,
        "model_settings.cfg_scale": GUIDANCE,
        "model_settings.flow_shift": SHIFT,
        "video_settings.width": size[0],
        "video_settings.height": size[1],
        "video_settings.frames": size[2],
        "video_settings.fps": FPS,
        "output_dir": out,
    }
    command = [sys.executable, "-m", "wantui", "run", "--json", "-t", PROMPT, "--videos-per-variation", str(videos)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    began, ends = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=out) as run:
        assert run.stdout is not None
        for line in run.stdout:
            event = json.loads(line)
            if event["event"] == "loading":
                click.echo(f"ours: {event['plan']} ({event['reason']})", err=True)
            if event["event"] == "done":
                ends.append(time.perf_counter() - began)
    if run.returncode or len(ends) != videos:
        raise click.ClickException(f"wantui run ended with {run.returncode} after {len(ends)} of {videos} videos")
    (result,) = out.glob("*/batch.json")
    last = read_manifest(BatchFolder(result.parent)).videos[-1]
    click.echo(f"ours: the last video took {last.seconds}, predicted {last.predicted}", err=True)
    _, provenance = read_clip_tags(next(result.parent.rglob("*.mp4")))
    used = [provenance["blocks"], *(provenance[key] for key in ("attention", "attention_version") if key in provenance)]
    click.echo(f"ours: {' '.join(used)}")
    return ends


def run_bench(attention: str) -> None:
    """Run `wantui bench`, and store its result with another attention kernel unless it is `fastest`."""
    if attention != FASTEST:
        check_kernel_installed(attention)
    command = [sys.executable, "-m", "wantui", "bench", "--json"]
    bench = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if bench.returncode:
        raise click.ClickException(f"wantui bench ended with {bench.returncode}")
    if attention != FASTEST:
        throughput = replace(Throughput(**json.loads(bench.stdout)), attention=attention)
        save_throughput(find_state_directory().directory, throughput)


@click.command()
@click.option("--model", default=NANO.name, show_default=True)
@click.option("--size", type=(int, int, int), default=(832, 480, 33), show_default=True, help="Width, height, frames.")
@click.option("--steps", default=10, show_default=True)
@click.option("--videos", type=click.IntRange(2), default=8, show_default=True)
@click.option(
    "--attention",
    type=click.Choice([*KERNEL_NAMES, FASTEST]),
    default=NATIVE_ATTENTION,
    show_default=True,
    help="Self-attention kernel of wantui.",
)
def main(model: str, size: tuple[int, int, int], steps: int, videos: int, attention: str) -> None:
    """Print videos per hour of both, and their ratio."""
    folder = Path(tempfile.mkdtemp())
    os.environ["XDG_STATE_HOME"] = str(folder / "state")  # a queue of its own
    try:
        if attention != NATIVE_ATTENTION:
            run_bench(attention)
        directory = Path(NANO.location) if model == NANO.name else build_model_directory(model, folder / "model")
        rates = {}
        for name, make in (("ours", time_wantui_run), ("plain", time_plain_loop)):
            out = folder / name
            out.mkdir()
            ends = make(directory, size, steps, videos, out)
            rates[name] = 3600 * (videos - 1) / (ends[-1] - ends[0])
            click.echo(f"{name:<6} {rates[name]:7.1f} videos an hour; first video after {ends[0]:.1f} s")
        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        about = f"{model}, {size[0]}x{size[1]}x{size[2]}, {steps} steps, {videos} videos, on {card}"
        click.echo(f"{about}: {rates['ours'] / rates['plain']:.2f} times")
    finally:
        subprocess.run([sys.executable, "-m", "wantui", "engine", "stop"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
