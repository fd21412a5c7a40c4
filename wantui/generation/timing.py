"""Time measurements of operations on a device."""

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Return the median seconds of some rounds, after one that does not count."""
    return median_and_launch(run, device, rounds)[0]


def median_and_launch(
    run: Callable[[], object], device: torch.device, rounds: int = 3, seconds: float = 0.0
) -> tuple[float, float]:
    """Return `median_seconds`, and the median seconds to submit all of it to the device.

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
        began = time.perf_counter()
        run()
        launched.append(time.perf_counter() - began)
        wait()
        whole.append(time.perf_counter() - began)
    return statistics.median(whole), statistics.median(launched)
