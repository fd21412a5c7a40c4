"""How long something takes on a device."""

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Of some rounds, after one that does not count."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    wait()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)
