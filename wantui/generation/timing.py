"""Measure the duration of operations on a device."""

import statistics
import time
from collections.abc import Callable

import torch


def measure_median_seconds(operation: Callable[[], object], device: torch.device, min_rounds: int = 3) -> float:
    """Return the median seconds of several rounds, after an untimed first round."""
    return measure_round_and_launch_seconds(operation, device, min_rounds)[0]


def measure_round_and_launch_seconds(
    operation: Callable[[], object], device: torch.device, min_rounds: int = 3, min_seconds: float = 0.0
) -> tuple[float, float]:
    """Return the median seconds of a round, and the median seconds to submit its operations to the device.

    Args:
        min_rounds: minimum number of rounds.
        min_seconds: minimum total duration.
    """

    def wait_for_device() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    operation()
    wait_for_device()
    round_seconds: list[float] = []
    launch_seconds: list[float] = []
    while len(round_seconds) < min_rounds or sum(round_seconds) < min_seconds:
        started_at = time.perf_counter()
        operation()
        launch_seconds.append(time.perf_counter() - started_at)
        wait_for_device()
        round_seconds.append(time.perf_counter() - started_at)
    return statistics.median(round_seconds), statistics.median(launch_seconds)
