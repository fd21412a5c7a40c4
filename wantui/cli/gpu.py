"""wantui gpu: print a snapshot of the GPUs."""

from collections.abc import Callable
from dataclasses import asdict

import click

from wantui.cli.commands import Command
from wantui.cli.output import echo, print_columns, print_json
from wantui.formatting import format_bytes


@click.command("gpu", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show memory, load and processes of each GPU; without a GPU, the main memory."""
    from wantui.gpu.monitor import GpuMonitor

    monitor = GpuMonitor(lambda _: None)
    monitor.reads_processes = True
    sample = monitor.take_sample()
    if as_json:
        print_json(asdict(sample))
        return
    if not sample.gpus:
        echo(f"no GPU: {sample.reason}", err=True)
        echo(f"memory {format_bytes(sample.memory_used)} of {format_bytes(sample.memory_total)}")
        return
    rows = [("gpu", "name", "state", "used", "total", "load", "power", "temperature")]
    for gpu in sample.gpus:
        rows.append(
            (
                str(gpu.index),
                gpu.name,
                gpu.state + (", MIG" if gpu.is_mig_enabled else ""),
                _format_or_na(gpu.memory_used, format_bytes),
                _format_or_na(gpu.memory_total, format_bytes),
                _format_or_na(gpu.utilisation, lambda value: f"{value:.0f} %"),
                _format_or_na(gpu.power, lambda value: f"{value:.0f} W"),
                _format_or_na(gpu.temperature, lambda value: f"{value:.0f} °C"),
            )
        )
    print_columns(*rows)
    for gpu in sample.gpus:
        for process in gpu.processes:
            memory = _format_or_na(process.memory, format_bytes)
            echo(f"gpu {gpu.index}: process {process.process} ({process.name}) uses {memory}")


def _format_or_na(value: float | None, formatter: Callable[[float], str]) -> str:
    return "N/A" if value is None else formatter(value)
