"""Time that a user waits at the start: python tests/benchmarks/start.py.

* The first paint of `wantui` beside that of a bare Textual application, in turns on the same pseudo-terminal.
* `wantui --help`.
* `wantui run` of one video from nothing: a new state directory without an engine; each part by the times of the events
  in the queue. `--model wan2.1-1.3b` measures random weights of the published size on a GPU, beside a plain
  diffusers script that loads the same folder in a process of its own; both end at the first step.

The machine should be idle otherwise: medians are of wall time, and CPU seconds stand beside them.
"""

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.terminal import compare_first_paints

from wantui.models.catalogue import NANO
from wantui.queue.database import DATABASE_FILE
from wantui.queue.state_dir import find_state_directory
from wantui.tui.drafts import Drafts, save_drafts

PROMPT = "a large red (circle) moving left"
MARKS = (
    ("added", "command line: import, plan, queue the batch"),
    ("worker_starting", "engine: start, open the queue"),
    ("worker_ready", "worker: start, import torch and diffusers"),
    ("loading", "worker: claim the video, import the loading code"),
)
"""First event of a kind -> the part of a run that ends there."""
FIRST_STEP_PART, DENOISING_PART = "first step", "denoising: other steps"
PLAIN = """
import sys, time
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
folder, width, height, frames, steps, dtype = sys.argv[1], *map(int, sys.argv[2:6]), getattr(torch, sys.argv[6])
vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", dtype=torch.float32)
device = "cuda" if torch.cuda.is_available() else "cpu"
pipeline = WanPipeline.from_pretrained(folder, vae=vae, dtype=dtype).to(device)
pipeline.set_progress_bar_config(disable=True)
def first_step(pipeline, index, timestep, values):
    values["latents"].cpu()
    print("first step", flush=True)
    sys.exit()
pipeline(PROMPT, "", height, width, frames, steps, 5.0, callback_on_step_end=first_step)
""".replace("PROMPT", repr(PROMPT.replace("(", "").replace(")", "")))


class Run(NamedTuple):
    """One `wantui run` from nothing."""

    seconds_by_part: dict[str, float]
    total_seconds: float
    """Until the command ended."""
    first_step_seconds: float
    """Until the end of the first step."""


def time_help(rounds: int) -> None:
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "wantui", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    click.echo(f"wantui --help: {statistics.median(times[1:]):.2f} s, median of {rounds}")


def read_event_times(database: Path) -> list[tuple[str, float, str]]:
    """Return kind, time in seconds since 1970 and data of every event."""
    with closing(sqlite3.connect(database)) as db:
        return db.execute("SELECT kind, time, data FROM event ORDER BY seq").fetchall()


def split_run(began: float, ended: float, events: list[tuple[str, float, str]]) -> Run:
    """Return the parts of a run in order, from its start and end in seconds since 1970, and its events."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    stages = []
    for kind, at, data in events:
        first.setdefault(kind, at)
        last[kind] = at
        if kind == "loading_stage" and "step" not in first:
            stages.append((data.partition('"stage":')[2].split('"')[1], at))
    ends = [(part, first[kind]) for kind, part in MARKS]
    names = [name for name, _ in stages]
    ends += [
        (f"model: {name}", at)
        for name, at in zip(["before the stages", *names], [at for _, at in stages] + [0.0], strict=True)
        if at
    ]
    ends += [
        (f"model: {names[-1]}, and {FIRST_STEP_PART}" if names else FIRST_STEP_PART, first["step"]),
        (DENOISING_PART, last["step"]),
        ("decoding", last.get("decoded", last["step"])),
        ("writing and measuring files", last["done"]),
        ("command line: end", ended),
    ]
    seconds, before = {}, began
    for part, at in ends:
        seconds[part], before = at - before, at
    return Run(seconds, ended - began, first["step"] - began)


def run_from_nothing(folder: Path, model: str, size: tuple[int, int, int] | None, steps: int) -> Run:
    """Generate one video with a new state directory and no engine; stop the engine afterwards.

    Raises:
        click.ClickException: the command failed; its output is the message.
    """
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    settings = {"model_settings.model_id": model, "model_settings.steps": str(steps), "output_dir": str(folder / "out")}
    if size is not None:
        names = ("width", "height", "frames")
        settings |= {f"video_settings.{name}": str(value) for name, value in zip(names, size, strict=True)}
    command = [sys.executable, "-m", "wantui", "run", "-t", PROMPT, "-n", "1"]
    command += ["-c", NANO.name] if size is None else []
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    try:
        began = time.time()
        result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, check=False)
        ended = time.time()
        if result.returncode:
            raise click.ClickException(f"wantui run ended with {result.returncode}: {result.stderr[-2000:]}")
        (database,) = (folder / "state").rglob(DATABASE_FILE)
        return split_run(began, ended, read_event_times(database))
    finally:
        stop = [sys.executable, "-m", "wantui", "engine", "stop"]
        subprocess.run(stop, env=environment, capture_output=True, check=False)


def time_plain_script(model: Path, size: tuple[int, int, int], steps: int, dtype: str) -> float:
    """Return the seconds of a plain diffusers script, from its start to the end of its first step."""
    command = [sys.executable, "-c", PLAIN, str(model), *map(str, size), str(steps), dtype]
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - began


def compare_runs(model: str, size: tuple[int, int, int] | None, steps: int, rounds: int, base: Path) -> None:
    """Print the parts of a run from nothing, and the time of a plain script to its first step."""
    location = Path(NANO.location)
    if model != NANO.name:
        from benchmarks.batch import build_model_directory  # imports torch, which takes seconds

        location = build_model_directory(model, base / "model")
    plain_size = size or (128, 128, 17)
    dtype = "float32" if model == NANO.name else "bfloat16"
    runs, plain = [], []
    for turn in range(rounds):
        folder = base / str(turn)
        folder.mkdir()
        runs.append(run_from_nothing(folder, str(location) if model != NANO.name else model, size, steps))
        plain.append(time_plain_script(location, plain_size, steps, dtype))
    click.echo(f"wantui run of one video of {model} from nothing, {steps} steps; medians (minima) of {rounds}, seconds")
    for part in runs[0].seconds_by_part:
        values = [run.seconds_by_part.get(part, 0.0) for run in runs]
        click.echo(f"  {statistics.median(values):6.2f} ({min(values):.2f})  {part}")
    for name, values in (
        ("all", [run.total_seconds for run in runs]),
        ("until the end of the first step", [run.first_step_seconds for run in runs]),
        ("a plain diffusers script, until the end of its first step", plain),
    ):
        click.echo(f"  {statistics.median(values):6.2f} ({min(values):.2f})  {name}")


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Starts of the terminal application and of `--help`.")
@click.option("--runs", default=3, show_default=True, help="Runs from nothing; 0 for none.")
@click.option("--model", default=NANO.name, show_default=True, help="nano, or a published model with random weights.")
@click.option("--size", type=(int, int, int), help="Width, height and frames.  [default: those of nano, or 832 480 81]")
@click.option("--steps", type=click.IntRange(2), help="Steps.  [default: 20 for nano, else 2]")
def main(rounds: int, runs: int, model: str, size: tuple[int, int, int] | None, steps: int | None) -> None:
    """Print all figures."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has compiled modules
    base = Path(tempfile.mkdtemp())
    os.environ["XDG_STATE_HOME"] = str(base / "state")
    try:
        if rounds:
            save_drafts(find_state_directory().directory, Drafts(welcomed=True))
            compare_first_paints(rounds)
            time_help(rounds)
        if runs:
            is_nano = model == NANO.name
            compare_runs(
                model, size if is_nano or size else (832, 480, 81), steps or (20 if is_nano else 2), runs, base
            )
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
