"""Choose the fastest attention kernel on this machine whose results equal torch's up to rounding."""

from collections.abc import Callable
from functools import partial

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)

from wantui.generation.timing import measure_median_seconds
from wantui.planning.throughput import NATIVE_ATTENTION

KERNEL_NAMES = (NATIVE_ATTENTION, "_native_cudnn", "_native_flash", "flash", "_flash_3")
"""Names of the kernels in diffusers; the last two are flash-attn 2 and 3, which may not be installed."""
POSITION_COUNT, HEAD_COUNT, HEAD_DIM = 32_760, 12, 128
"""Shape of the self-attention in Wan 2.1 1.3B at 832x480x81."""
MAX_RELATIVE_ERROR = 1e-2
"""Largest relative difference from the result of torch's kernel."""
MIN_SPEEDUP = 1.02
"""Smallest speed-up over torch's kernel at which another kernel is chosen."""


def check_kernel_installed(kernel_name: str) -> None:
    """Raise RuntimeError if a kernel is not installed."""
    _check_attention_backend_requirements(AttentionBackendName(kernel_name))


@torch.no_grad()
def find_fastest_attention_kernel(device: torch.device, report_line: Callable[[str], None]) -> str:
    """Time each kernel, and return the name of the fastest one.

    Args:
        report_line: receives a line for each kernel, with the reason if it cannot be used.
    """
    generator = torch.Generator().manual_seed(0)
    query_key_value = [
        torch.randn(1, POSITION_COUNT, HEAD_COUNT, HEAD_DIM, generator=generator).to(device, torch.bfloat16)
        for _ in range(3)
    ]
    seconds_by_kernel: dict[str, float] = {}
    native_output = torch.empty(0)
    for name in KERNEL_NAMES:
        try:
            backend = AttentionBackendName(name)
            check_kernel_installed(name)
            kernel_output = dispatch_attention_fn(*query_key_value, backend=backend).float()
            if name == NATIVE_ATTENTION:
                native_output = kernel_output
            relative_error = float((kernel_output - native_output).norm() / native_output.norm())
            if not relative_error <= MAX_RELATIVE_ERROR:
                report_line(
                    f"attention by {name}: not used (relative error {relative_error:.1e} against torch's kernel)"
                )
                continue
            run_kernel = partial(dispatch_attention_fn, *query_key_value, backend=backend)
            seconds_by_kernel[name] = measure_median_seconds(run_kernel, device)
        except Exception as error:  # unavailable kernels raise many types
            if name == NATIVE_ATTENTION:
                raise
            reason_lines = str(error).strip().splitlines()
            report_line(
                f"attention by {name}: not available ({reason_lines[0][:80] if reason_lines else type(error).__name__})"
            )
            continue
        report_line(f"attention by {name}: {1000 * seconds_by_kernel[name]:.2f} ms")
    fastest = min(seconds_by_kernel, key=lambda name: seconds_by_kernel[name])
    return (
        fastest if seconds_by_kernel[NATIVE_ATTENTION] > MIN_SPEEDUP * seconds_by_kernel[fastest] else NATIVE_ATTENTION
    )
