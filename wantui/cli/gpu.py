"""wantui gpu: print a snapshot of the GPUs."""

from collections.abc import Callable
from dataclasses import asdict

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_json_option
from wantui.cli.output import echo, print_columns, print_json
from wantui.formatting import format_bytes


@click.command("gpu", cls=WantuiCommand)
@add_json_option
def command(as_json: bool) -> None:
    """Show the memory, load and processes of each GPU; without a GPU, the main memory."""
    from wantui.gpu.monitor import GpuMonitor

    gpu_monitor = GpuMonitor(lambda _: None)
    gpu_monitor.reads_processes = True
    gpu_sample = gpu_monitor.read_sample()
    if as_json:
        print_json(asdict(gpu_sample))
        return
    if not gpu_sample.gpus:
        echo(f"no GPU: {gpu_sample.reason}", err=True)
        echo(f"memory {format_bytes(gpu_sample.memory_used)} of {format_bytes(gpu_sample.memory_total)}")
        return
    table_rows = [("gpu", "name", "state", "used", "total", "load", "power", "temperature")]
    for gpu in gpu_sample.gpus:
        table_rows.append(
            (
                str(gpu.index),
                gpu.name,
                gpu.state + (", MIG" if gpu.is_mig_enabled else ""),
                _format_value_or_na(gpu.memory_used, format_bytes),
                _format_value_or_na(gpu.memory_total, format_bytes),
                _format_value_or_na(gpu.utilisation, lambda value: f"{value:.0f}%"),
                _format_value_or_na(gpu.power, lambda value: f"{value:.0f} W"),
                _format_value_or_na(gpu.temperature, lambda value: f"{value:.0f} °C"),
            )
        )
    print_columns(*table_rows)
    for gpu in gpu_sample.gpus:
        for gpu_process in gpu.processes:
            memory_text = _format_value_or_na(gpu_process.memory, format_bytes)
            echo(f"gpu {gpu.index}: process {gpu_process.process} ({gpu_process.name}) uses {memory_text}")


def _format_value_or_na(value: float | None, format_value: Callable[[float], str]) -> str:
    return "N/A" if value is None else format_value(value)
