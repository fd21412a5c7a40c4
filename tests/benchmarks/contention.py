"""Steps of nano beside another torch process on the same cores: python tests/benchmarks/contention.py.

The other process spins while it waits, as torch does by default. The peer is the environment that torch has by default;
wantui gives its processes `wantui.environment.OPENMP_WAIT_VARIABLES`. The digests of the latents must be equal.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

import click

from wantui.environment import OPENMP_WAIT_VARIABLES

STEPS = 10


def time_steps() -> None:
    """Print the seconds of each step and a digest of the last latents, as JSON."""
    import torch

    from wantui.config import load_config
    from wantui.generation.denoise import denoise_latents
    from wantui.generation.load import load_pipeline
    from wantui.models.catalogue import NANO
    from wantui.planning import plan_batch

    config = load_config("nano", [f"model_settings.steps={STEPS}"])
    recipe = plan_batch(config, "a large red circle moving left").videos[0].recipe
    pipeline = load_pipeline(NANO, None, "float32", torch.device("cpu"))
    steps = list(denoise_latents(pipeline, recipe))
    digest = hashlib.sha256(steps[-1].latents.numpy().tobytes()).hexdigest()[:12]
    print(json.dumps({"seconds": [step.seconds for step in steps], "digest": digest}))  # noqa: T201


def keep_busy() -> None:
    """Multiply matrices until killed."""
    import torch

    matrix = torch.randn(512, 512)
    while True:
        matrix = torch.nn.functional.normalize(matrix @ matrix)


def measure(waiting: dict[str, str], beside: int) -> tuple[float, str]:
    """Return the median seconds of a step, and the digest, beside a number of busy processes."""
    environment = {
        name: value for name, value in os.environ.items() if name not in (*OPENMP_WAIT_VARIABLES, "OMP_NUM_THREADS")
    }
    environment["CUDA_VISIBLE_DEVICES"] = ""
    busy = [subprocess.Popen([sys.executable, __file__, "--busy"], env=environment) for _ in range(beside)]
    try:
        time.sleep(6 if busy else 0)  # until they have imported torch
        made = subprocess.run(
            [sys.executable, __file__, "--steps"], env=environment | waiting, check=True, capture_output=True, text=True
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    result = json.loads(made.stdout.splitlines()[-1])
    return statistics.median(result["seconds"]), result["digest"]


@click.command()
@click.option("--steps", "makes_steps", is_flag=True, hidden=True)
@click.option("--busy", is_flag=True, hidden=True)
def main(makes_steps: bool, busy: bool) -> None:
    """Print seconds of a step, alone and beside one other process, with both environments."""
    if busy:
        keep_busy()
    if makes_steps:
        time_steps()
        return
    click.echo(f"median of {STEPS} steps of nano on {os.cpu_count()} cores")
    for beside in (0, 1):
        default, one = measure({}, beside)
        ours, other = measure(OPENMP_WAIT_VARIABLES, beside)
        same = "equal bits" if one == other else "OTHER BITS"
        where = f"beside {beside} busy process" if beside else "alone"
        times = f"{default:.3f} s by default, {ours:.3f} s with threads that sleep"
        click.echo(f"{where}: {times}: {default / ours:.1f} times, {same}")


if __name__ == "__main__":
    main()
