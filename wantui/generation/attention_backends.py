"""Choice of the quickest attention kernel on this machine whose results equal torch's own up to rounding."""

from collections.abc import Callable

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)

from wantui.generation.timing import median_seconds
from wantui.planning.throughput import NATIVE_ATTENTION

KERNELS = (NATIVE_ATTENTION, "_native_cudnn", "_native_flash", "flash", "_flash_3")
"""Kernels by their names in diffusers; the last two are flash-attn 2 and 3, where they are installed."""
PLACES, HEADS, DIM = 32_760, 12, 128
"""Shape of the self-attention of Wan 2.1 1.3B at 832x480x81."""
ROUNDING = 1e-2
"""Largest relative difference from torch's own."""
GAIN = 1.02
"""Speed-up over torch's own kernel from which another one is chosen."""


def check_kernel(name: str) -> None:
    """Raise RuntimeError if a kernel is not installed."""
    _check_attention_backend_requirements(AttentionBackendName(name))


@torch.no_grad()
def quickest_attention(device: torch.device, show: Callable[[str], None]) -> str:
    """Try each kernel for a moment.

    Args:
        show: receives a line for each kernel, with the reason if it cannot be used.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, PLACES, HEADS, DIM, generator=generator).to(device, torch.bfloat16) for _ in range(3)]
    seconds: dict[str, float] = {}
    reference = torch.empty(0)
    for name in KERNELS:
        try:
            backend = AttentionBackendName(name)
            check_kernel(name)
            attended = dispatch_attention_fn(*parts, backend=backend).float()
            if name == NATIVE_ATTENTION:
                reference = attended
            away = float((attended - reference).norm() / reference.norm())
            if not away <= ROUNDING:
                show(f"attention by {name}: not used, it is {away:.1e} of its norm away from torch's own")
                continue
            seconds[name] = median_seconds(lambda b=backend: dispatch_attention_fn(*parts, backend=b), device)  # type: ignore[misc]
        except Exception as error:  # kernels that are not here, or not for this GPU, say so in many ways
            if name == NATIVE_ATTENTION:
                raise
            reason = str(error).strip().splitlines()
            show(f"attention by {name}: not available ({reason[0][:80] if reason else type(error).__name__})")
            continue
        show(f"attention by {name}: {1000 * seconds[name]:.2f} ms")
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[NATIVE_ATTENTION] > GAIN * seconds[best] else NATIVE_ATTENTION
