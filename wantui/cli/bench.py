"""wantui bench: measure the speed of a GPU, for time estimates before the first video."""

from dataclasses import asdict

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_json_option
from wantui.cli.output import echo, print_json
from wantui.cli.types import SPEED_TYPE

MIN_SECONDS_PER_OPERATION = 1e-20
"""Fitted seconds per operation below which the operation counts as free."""


@click.command("bench", cls=WantuiCommand)
@click.option("--device", default="cuda", show_default=True, help="CUDA device: cuda or cuda:N.")
@click.option(
    "--speed",
    type=SPEED_TYPE,
    default="fused",
    show_default=True,
    help="Value of model_settings.speed to measure.",
)
@add_json_option
def command(device: str, speed: str, as_json: bool) -> None:
    """Measure the speed of a GPU with random weights, and save the result for time estimates."""
    from wantui.generation.bench import measure_throughput
    from wantui.generation.errors import NoSuchDeviceError
    from wantui.generation.load import resolve_device
    from wantui.queue.benchmark_store import save_throughput
    from wantui.queue.state_dir import find_state_directory

    state_dir, torch_device = find_state_directory(), resolve_device(device)
    if torch_device.type != "cuda":
        raise NoSuchDeviceError(
            f"cannot measure {torch_device}: bench needs a CUDA GPU. On the CPU, time estimates come from videos "
            f"already generated"
        )
    throughput = measure_throughput(torch_device, speed, lambda line: echo(line, err=True))  # type: ignore[arg-type]
    throughput_path = save_throughput(state_dir.directory, throughput)
    if as_json:
        print_json(asdict(throughput))
        return
    echo(f"{throughput.device}, {throughput.speed}, torch {throughput.torch}:")
    echo(f"  self-attention  {_format_rate(1e-12, throughput.attention_operation)} TFLOP/s")
    echo(f"  other matmuls   {_format_rate(1e-12, throughput.product_operation)} TFLOP/s")
    echo(f"  attention       {throughput.attention:>8}")
    echo(f"  decoding        {_format_rate(1e-6, throughput.decoded_value)} million pixels/s")
    if throughput.fused_decoded_value is not None:
        echo(f"  fused decoding  {_format_rate(1e-6, throughput.fused_decoded_value)} million pixels/s")
    echo(f"  kernel launches {1e3 * throughput.launch:8.2f} ms per block at least")
    echo(
        f"these rates predict the measured block times to within {100 * throughput.error:.1f}%; saved in "
        f"{throughput_path}"
    )


def _format_rate(display_units: float, operation_seconds: float) -> str:
    """Format units per second from seconds per operation; `?` if the fit attributes no time to the operation."""
    return f"{display_units / operation_seconds:8.2f}" if operation_seconds > MIN_SECONDS_PER_OPERATION else f"{'?':>8}"
