"""Measure the duration of operations on a device."""

import statistics
import time
from collections.abc import Callable

import torch


def measure_median_seconds(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Return the median seconds of several rounds, after an untimed first round."""
    return measure_median_and_launch(run, device, rounds)[0]


def measure_median_and_launch(
    run: Callable[[], object], device: torch.device, rounds: int = 3, seconds: float = 0.0
) -> tuple[float, float]:
    """Return the median seconds of a round, and the median seconds to submit its operations to the device.

    Args:
        rounds: minimum number of rounds.
        seconds: minimum total duration.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    wait()
    whole: list[float] = []
    launched: list[float] = []
    while len(whole) < rounds or sum(whole) < seconds:
        started_at = time.perf_counter()
        run()
        launched.append(time.perf_counter() - started_at)
        wait()
        whole.append(time.perf_counter() - started_at)
    return statistics.median(whole), statistics.median(launched)
