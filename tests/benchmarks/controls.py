"""Controls from the command line to the clip, with a killed worker: python tests/benchmarks/controls.py.

For each speed and control, one video is generated undisturbed, again with the worker killed (SIGKILL) in the middle,
and again by `wantui rerun` from its recipe. Printed are whether the stored latents and frames have equal bits, how far
the final latents are from those of the first speed with the same control, and how far the control moves them from those
without it, both in shares of the latents' norm. `--plans` compares all memory plans at one speed, `--plan` (repeatable)
some of them with the first one, and `--two-gpus` two GPUs with one.

A model of a published size has random weights, because bits, plans and kernels do not depend on them; its text encoder
has one layer, and its LoRA adapter is random too. Without `--model`, nano is used: a test of this script.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.batch import build_model_directory
from lora_files import diffusers_tensors, make_factors, write_adapter

from wantui.models.catalogue import NANO, find_model
from wantui.notebook import open_batch
from wantui.planning.memory_plan import PLAN_SLUGS

Settings = Mapping[str, Mapping[str, Any]]
"""Sections of a config: section -> setting -> value."""

WANTUI = (sys.executable, "-m", "wantui")
NO_CONTROL = "no control"
TEMPLATE = "a large red circle moving left"
WEIGHTED_TEMPLATE = "a large red (circle:1.6) moving left"
SIZE = (480, 272, 17)
STEPS = 40
KILLED_AFTER_STEP = 3
SPEEDS = ("reference", "fused", "fp8")


class Case(NamedTuple):
    """A control, or several."""

    name: str
    settings: Settings
    template: str = TEMPLATE


class Video(NamedTuple):
    """What is compared of a generated video."""

    states: NDArray[np.float32]
    """Latents before each step and after the last, [steps + 1, channels, frames, height, width]."""
    frames: NDArray[np.uint8]
    """[frames, height, width, 3]."""
    clip: Path


def list_cases(adapter: Path) -> list[Case]:
    """Return each control alone, and three together."""
    lora: Settings = {"lora_settings": {"adapters": [{"path": str(adapter), "strength": 0.7}]}}
    bend = {"words": "circle", "mode": "rotate", "rotate_degrees": 30.0}
    bending: Settings = {"attention_bending_settings": {"bends": [bend]}}
    renormalised: Settings = {"attention_bending_settings": {"bends": [{**bend, "renormalise": True}]}}
    guidance: Settings = {"guidance_settings": {"rule": "apg", "momentum": -0.5}}
    return [
        Case(NO_CONTROL, {}),
        Case("LoRA", lora),
        Case("bend", bending),
        Case("bend, renormalised", renormalised),
        Case("word weight", {}, WEIGHTED_TEMPLATE),
        Case("rule cfg-zero-star", {"guidance_settings": {"rule": "cfg-zero-star"}}),
        Case("rule apg", guidance),
        Case("rule tcfg", {"guidance_settings": {"rule": "tcfg"}}),
        Case("reused guidance", {"guidance_settings": {"reuse_from": "50%"}}),
        Case("guidance schedule", {"cfg_schedule_settings": {"schedule": {0: 7.5, 3: 3.0}}}),
        Case("prompt schedule", {"prompt_schedule_settings": {"schedule": {2: "a blue star moving left"}}}),
        Case("lcm, stochastic", {"model_settings": {"sampler": "lcm", "force_capture": True}}),
        Case("LoRA, bend and rule apg", {**lora, **bending, **guidance}),
    ]


def merge(*layers: Settings) -> dict[str, dict[str, Any]]:
    """Return the sections of all layers; later layers overwrite settings of earlier ones."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, settings in layer.items():
            merged.setdefault(section, {}).update(settings)
    return merged


class Trial(NamedTuple):
    """An undisturbed video, and whether the resumed one and that of `wantui rerun` have its bits."""

    video: Video
    bits: str


class Runner:
    """Generates videos with an engine and a queue of its own.

    Args:
        base: new folder for configs, batches and the queue.
        model: path of the model, or nano.
        size: width and height in pixels, and frames.
    """

    def __init__(self, base: Path, model: str, size: tuple[int, int, int]) -> None:
        base.mkdir()
        self.base = base
        self.environment = {**os.environ, "XDG_STATE_HOME": str(base / "state")}
        self.numbers = itertools.count()
        width, height, frames = size
        self.settings: Settings = {
            "model_settings": {"model_id": model, "steps": STEPS, "cfg_scale": 5.0, "flow_shift": 3.0, "seed": 7},
            "video_settings": {"width": width, "height": height, "frames": frames, "fps": 8, "duration": None},
            "latent_analysis_settings": {"store_latents": True},
        }

    def try_case(self, case: Case, settings: Settings) -> Trial:
        """Generate the video of a case undisturbed, resumed, and from its recipe."""
        video = self.generate(case, settings)
        resumed = self.generate(case, settings, KILLED_AFTER_STEP)
        rerun = [*WANTUI, "rerun", str(video.clip)]
        is_equal = subprocess.run(rerun, env=self.environment, capture_output=True, check=False).returncode == 0
        return Trial(video, f"resumed {describe_bits(resumed, video)}, rerun {'equal' if is_equal else 'DIFFERENT'}")

    def stop(self) -> None:
        """Stop the engine."""
        subprocess.run([*WANTUI, "engine", "stop"], env=self.environment, capture_output=True, check=False)

    def generate(self, case: Case, settings: Settings, killed_after: int | None = None) -> Video:
        """Return the video of a case, whose worker is killed after a step if one is given.

        Raises:
            click.ClickException: the video failed, or was not resumed after a kill; the message holds the last output.
        """
        folder = self.base / f"{next(self.numbers):03d}"
        folder.mkdir()
        config = merge(self.settings, case.settings, settings)
        config_path = folder / "config.yaml"
        config_path.write_text(yaml.safe_dump({**config, "videos_per_variation": 1, "output_dir": str(folder / "out")}))
        command = [*WANTUI, "run", "--json", "-c", str(config_path), "-t", case.template]
        lines: list[str] = []
        is_killed, worker_id, resumed_step = killed_after is not None, 0, None
        with subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                event = json.loads(line) if line.startswith("{") else {}
                match event.get("event"):
                    case "started":
                        worker_id = int(event["worker"].rpartition(":")[2])
                    case "step" if worker_id and killed_after and event["step"] >= killed_after:
                        with suppress(ProcessLookupError):
                            os.kill(worker_id, signal.SIGKILL)
                        worker_id, killed_after = 0, None
                    case "video_resumed":
                        resumed_step = event["steps_done"]
        output = "".join(lines[-5:])
        if process.returncode:
            raise click.ClickException(f"{case.name}: wantui run ended with {process.returncode}: {output}")
        if is_killed and not resumed_step:
            raise click.ClickException(f"{case.name}: no video was resumed from a checkpoint: {output}")
        (manifest,) = (folder / "out").glob("*/batch.json")
        (video,) = open_batch(manifest.parent).videos
        return Video(video.read_latents().states, video.read_frames(), video.files["clip"])


def measure_distance(video: Video, reference: Video) -> float:
    """Return the norm of the difference of two final latents, in shares of the reference's norm."""
    final, expected = video.states[-1].astype(np.float64), reference.states[-1].astype(np.float64)
    return float(np.linalg.norm(final - expected) / np.linalg.norm(expected))


def describe_bits(video: Video, reference: Video) -> str:
    """Return `equal` or what differs."""
    parts = {
        "latents": np.array_equal(video.states, reference.states),
        "frames": np.array_equal(video.frames, reference.frames),
    }
    different_names = [name for name, is_equal in parts.items() if not is_equal]
    return f"DIFFERENT {' and '.join(different_names)}" if different_names else "equal"


def build_adapter(model: str, path: Path) -> Path:
    """Write a random LoRA adapter of rank 4 for the attention layers of a model."""
    wan_model = find_model(model)
    width = wan_model.transformer_width
    shapes = {
        f"blocks.{block}.{attention}.{projection}": (width, width)
        for block in range(wan_model.block_count)
        for attention in ("attn1", "attn2")
        for projection in ("to_q", "to_out.0")
    }
    factors = {name: (down, 0.02 * up) for name, (down, up) in make_factors(shapes).items()}
    return write_adapter(path, diffusers_tensors(factors))


def list_ways(speeds: tuple[str, ...], plans: Sequence[str], compares_gpus: bool) -> dict[str, Settings]:
    """Return the names and settings of what is compared with each control; the first is what others are compared to."""
    ways: dict[str, Settings] = {speed: {"model_settings": {"speed": speed}} for speed in speeds}
    name, settings = next(iter(ways.items()))
    if plans:
        ways = {f"{name}, {plan}": merge(settings, {"memory_settings": {"plan": plan}}) for plan in plans}
    if compares_gpus:
        ways[f"{name}, two GPUs"] = merge(settings, {"model_settings": {"gpus_per_video": 2}})
    return ways


def generate_all(
    runners: Sequence[Runner], ways: Mapping[str, Settings], cases: Sequence[Case], minutes: float
) -> dict[tuple[str, str], Trial]:
    """Return the trials by way and control; each runner takes the next one when it is free."""
    began = time.monotonic()
    free_runners: Queue[Runner] = Queue()
    for runner in runners:
        free_runners.put(runner)

    def try_case(way: str, case: Case) -> Trial | None:
        if time.monotonic() - began > 60 * minutes:
            click.echo(f"{way}, {case.name}: left out, {minutes:g} minutes are over")
            return None
        runner = free_runners.get()
        try:
            trial = runner.try_case(case, ways[way])
        except click.ClickException as error:  # the other trials are still wanted
            click.echo(f"{way}, {case.name}: FAILED: {error.message}")
            return None
        finally:
            free_runners.put(runner)
        click.echo(f"{time.monotonic() - began:4.0f} s: {way}, {case.name}: {trial.bits}")
        return trial

    with ThreadPoolExecutor(len(runners)) as executor:
        futures = {(way, case.name): executor.submit(try_case, way, case) for way in ways for case in cases}
        trials = {key: future.result() for key, future in futures.items()}
    return {key: trial for key, trial in trials.items() if trial is not None}


def describe_trials(trials: Mapping[tuple[str, str], Trial]) -> Iterator[str]:
    """Yield a line for each way and control."""
    first_way = next(iter(trials))[0]
    for (way, name), trial in trials.items():
        line = f"{way}, {name}: {trial.bits}"
        if way != first_way and (first_way, name) in trials:
            expected = trials[first_way, name].video
            distance = measure_distance(trial.video, expected)
            line += f"; {describe_bits(trial.video, expected)} to {first_way} ({distance:.1e})"
        if name != NO_CONTROL and (way, NO_CONTROL) in trials:
            line += f"; the latents move by {measure_distance(trial.video, trials[way, NO_CONTROL].video):.2g}"
        yield line


@click.command()
@click.option("--model", default=NANO.name, show_default=True, help="nano, or a published model with random weights.")
@click.option("--speed", "speeds", type=click.Choice(SPEEDS), multiple=True, help="Repeatable.  [default: reference]")
@click.option("--only", multiple=True, help="Part of a control's name; repeatable.")
@click.option("--plans", "compares_all_plans", is_flag=True, help="Compare all memory plans at the first speed.")
@click.option("--plan", "plans", type=click.Choice(PLAN_SLUGS), multiple=True, help="Compare these plans; repeatable.")
@click.option("--two-gpus", is_flag=True, help="Compare two GPUs with one at the first speed.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Engines that work at a time.")
@click.option("--minutes", default=9.0, show_default=True, help="Begin no comparison after this time.")
def main(
    model: str,
    speeds: tuple[str, ...],
    only: tuple[str, ...],
    compares_all_plans: bool,
    plans: tuple[str, ...],
    two_gpus: bool,
    jobs: int,
    minutes: float,
) -> None:
    """Print a line for each speed, plan and control."""
    base = Path(tempfile.mkdtemp())
    is_nano = model == NANO.name
    runners: list[Runner] = []
    try:
        location = NANO.name if is_nano else str(build_model_directory(model, base / "model"))
        size = (64, 64, 9) if is_nano else SIZE
        runners += [Runner(base / str(number), location, size) for number in range(jobs)]
        cases = list_cases(build_adapter(model, base / "adapter.safetensors"))
        cases = [case for case in cases if not only or any(part in case.name for part in (NO_CONTROL, *only))]
        ways = list_ways(speeds or SPEEDS[:1], PLAN_SLUGS if compares_all_plans else plans, two_gpus)
        trials = generate_all(runners, ways, cases, minutes)
        if not trials:
            raise click.ClickException("no video could be compared")
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        click.echo(f"\n{model}, {device}, torch {torch.__version__}, {STEPS} steps")
        for line in describe_trials(trials):
            click.echo(line)
    finally:
        for runner in runners:
            runner.stop()
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
