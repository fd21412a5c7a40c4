"""Choose the fastest attention kernel on this machine whose results equal torch's up to rounding."""

from collections.abc import Callable

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)

from wantui.generation.timing import measure_median_seconds
from wantui.planning.throughput import NATIVE_ATTENTION

KERNELS = (NATIVE_ATTENTION, "_native_cudnn", "_native_flash", "flash", "_flash_3")
"""Names of the kernels in diffusers; the last two are flash-attn 2 and 3, which may not be installed."""
POSITIONS, HEADS, DIM = 32_760, 12, 128
"""Shape of the self-attention in Wan 2.1 1.3B at 832x480x81."""
MAX_RELATIVE_ERROR = 1e-2
"""Largest relative difference from the result of torch's kernel."""
MIN_SPEEDUP = 1.02
"""Smallest speed-up over torch's kernel at which another kernel is chosen."""


def check_kernel(name: str) -> None:
    """Raise RuntimeError if a kernel is not installed."""
    _check_attention_backend_requirements(AttentionBackendName(name))


@torch.no_grad()
def fastest_attention(device: torch.device, show: Callable[[str], None]) -> str:
    """Time each kernel, and return the name of the fastest one.

    Args:
        show: receives a line for each kernel, with the reason if it cannot be used.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, POSITIONS, HEADS, DIM, generator=generator).to(device, torch.bfloat16) for _ in range(3)]
    seconds: dict[str, float] = {}
    reference = torch.empty(0)
    for name in KERNELS:
        try:
            backend = AttentionBackendName(name)
            check_kernel(name)
            attended = dispatch_attention_fn(*parts, backend=backend).float()
            if name == NATIVE_ATTENTION:
                reference = attended
            relative_error = float((attended - reference).norm() / reference.norm())
            if not relative_error <= MAX_RELATIVE_ERROR:
                show(f"attention by {name}: not used (relative error {relative_error:.1e} against torch's kernel)")
                continue
            seconds[name] = measure_median_seconds(lambda b=backend: dispatch_attention_fn(*parts, backend=b), device)  # type: ignore[misc]
        except Exception as error:  # unavailable kernels raise many types
            if name == NATIVE_ATTENTION:
                raise
            reason = str(error).strip().splitlines()
            show(f"attention by {name}: not available ({reason[0][:80] if reason else type(error).__name__})")
            continue
        show(f"attention by {name}: {1000 * seconds[name]:.2f} ms")
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[NATIVE_ATTENTION] > MIN_SPEEDUP * seconds[best] else NATIVE_ATTENTION
