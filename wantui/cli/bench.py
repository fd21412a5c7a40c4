"""wantui bench: how fast this machine is, for estimates of videos that were not made here yet."""

from dataclasses import asdict

import click

from wantui.cli.output import echo, print_json
from wantui.cli.types import SPEED

MIN_SECONDS = 1e-20
"""No device does anything in less."""


@click.command("bench")
@click.option("--device", default="cuda", show_default=True, help="Device: cuda or cuda:N.")
@click.option(
    "--speed",
    type=SPEED,
    default="fused",
    show_default=True,
    help="Speed to measure, as in model_settings.speed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(device: str, speed: str, as_json: bool) -> None:
    """Measure a GPU with random weights; save the result for time estimates."""
    from wantui.generation.bench import measure
    from wantui.generation.errors import NoSuchDeviceError
    from wantui.generation.load import resolve_device
    from wantui.queue.benchmark_store import save_throughput
    from wantui.queue.state_dir import state_place

    state_dir, where = state_place(), resolve_device(device)
    if where.type != "cuda":
        raise NoSuchDeviceError(
            f"cannot measure {where}: bench needs a CUDA GPU. Time estimates for nano come from videos already made"
        )
    throughput = measure(where, speed, lambda line: echo(line, err=True))  # type: ignore[arg-type]
    path = save_throughput(state_dir.directory, throughput)
    if as_json:
        print_json(asdict(throughput))
        return
    echo(f"{throughput.device}, {throughput.speed}, torch {throughput.torch}:")
    echo(f"  self-attention  {_rate(1e-12, throughput.attention_operation)} TFLOP/s")
    echo(f"  other matmuls   {_rate(1e-12, throughput.product_operation)} TFLOP/s")
    echo(f"  attention by    {throughput.attention:>8}")
    echo(f"  decoding        {_rate(1e-6, throughput.decoded_value)} million pixels/s")
    echo(f"  launch          {1e3 * throughput.launch:8.2f} ms a block, at least")
    echo(f"the measured blocks follow from these within {100 * throughput.error:.1f} %; kept in {path}")


def _rate(unit: float, seconds: float) -> str:
    """Format units per second from seconds per unit; `?` if the fit attributes no time to it."""
    return f"{unit / seconds:8.2f}" if seconds > MIN_SECONDS else f"{'?':>8}"
