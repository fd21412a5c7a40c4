"""wantui gpu: what the GPU panel shows, once."""

from collections.abc import Callable
from dataclasses import asdict

import click

from wantui.cli.output import echo, print_columns, print_json
from wantui.formatting import format_bytes


@click.command("gpu")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Memory, load and processes of each GPU; on a machine without one, the machine's memory."""
    from wantui.gpu.monitor import GpuMonitor

    sampler = GpuMonitor(lambda _: None)
    sampler.reads_processes = True
    sample = sampler.sample()
    if as_json:
        print_json(asdict(sample))
        return
    if not sample.gpus:
        echo(f"no GPU: {sample.reason}", err=True)
        echo(f"memory {format_bytes(sample.memory_used)} of {format_bytes(sample.memory_total)}")
        return
    rows = [("gpu", "name", "state", "used", "total", "load", "power", "heat")]
    for gpu in sample.gpus:
        rows.append(
            (
                str(gpu.index),
                gpu.name,
                gpu.state + (", MIG" if gpu.is_mig_enabled else ""),
                _said(gpu.memory_used, format_bytes),
                _said(gpu.memory_total, format_bytes),
                _said(gpu.utilisation, lambda value: f"{value:.0f} %"),
                _said(gpu.power, lambda value: f"{value:.0f} W"),
                _said(gpu.temperature, lambda value: f"{value:.0f} °C"),
            )
        )
    print_columns(*rows)
    for gpu in sample.gpus:
        for process in gpu.processes:
            held = _said(process.memory, format_bytes)
            echo(f"gpu {gpu.index}: process {process.process} ({process.name}) holds {held}")


def _said(value: float | None, words: Callable[[float], str]) -> str:
    return "N/A" if value is None else words(value)
