"""The attention kernels of fused blocks, and the choice of the fastest one on this machine."""

import importlib
import importlib.metadata
from collections.abc import Callable
from functools import partial

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)
from torch import Tensor

from wantui.generation.timing import measure_median_seconds
from wantui.planning.throughput import FLASH_ATTENTION_4, NATIVE_ATTENTION, PACKAGE_BY_KERNEL

KERNEL_NAMES = (NATIVE_ATTENTION, "_native_cudnn", "_native_flash", *PACKAGE_BY_KERNEL)
"""Names of the kernels; all except FlashAttention-4 have their names in diffusers."""
PROCESS_WIDE_KERNELS = frozenset({"_native_cudnn", "_native_flash"})
"""Kernels that diffusers selects with `sdpa_kernel`, which sets flags of torch for all threads: concurrent threads
would reset each other's flags, and torch would silently compute with another kernel."""
POSITION_COUNT, HEAD_COUNT, HEAD_DIM = 32_760, 12, 128
"""Shape of the self-attention in Wan 2.1 1.3B at 832x480x81."""
MAX_RELATIVE_ERROR = 1e-2
"""Largest relative difference from the result of torch's kernel."""
MIN_SPEEDUP = 1.02
"""Smallest speed-up over torch's kernel at which another kernel is chosen."""
MAX_MEMORY_RATIO = 1.1
"""Largest peak memory of a kernel, relative to torch's kernel, whose memory `planning.memory_plan` predicts."""


def run_attention_kernel(query: Tensor, key: Tensor, value: Tensor, kernel_name: str) -> Tensor:
    """Return the attention of bfloat16 tensors [batch, positions, heads, dim] by one of `KERNEL_NAMES`."""
    if kernel_name != FLASH_ATTENTION_4:
        return dispatch_attention_fn(query, key, value, backend=AttentionBackendName(kernel_name))
    from flash_attn.cute import flash_attn_func

    attention_output: Tensor | tuple[Tensor, ...] = flash_attn_func(query, key, value)
    return attention_output if isinstance(attention_output, Tensor) else attention_output[0]


def split_projections(projected: Tensor, head_count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value [batch, positions, heads, dim], parts of a tensor [batch, positions, 3 * width]."""
    query, key, value = (part.unflatten(2, (head_count, -1)) for part in projected.chunk(3, 2))
    return query, key, value


def check_kernel_installed(kernel_name: str) -> None:
    """Raise RuntimeError if a kernel is not installed."""
    if kernel_name != FLASH_ATTENTION_4:
        _check_attention_backend_requirements(AttentionBackendName(kernel_name))
        return
    try:
        importlib.import_module("flash_attn.cute")
    except Exception as error:  # it loads libraries, which may be missing
        raise RuntimeError(f"the package {PACKAGE_BY_KERNEL[kernel_name]} cannot be imported: {error}") from error


def find_kernel_version(kernel_name: str) -> str | None:
    """Return the version of a kernel's package; None for torch's kernels and for a package that is missing."""
    try:
        return importlib.metadata.version(PACKAGE_BY_KERNEL[kernel_name])
    except (KeyError, importlib.metadata.PackageNotFoundError):
        return None


@torch.no_grad()
def find_fastest_attention_kernel(device: torch.device, report_line: Callable[[str], None]) -> str:
    """Time each kernel that gives equal bits in two runs and needs no more memory; return the name of the fastest one.

    Query, key and value are parts of one tensor, as in fused blocks: some kernels copy such parts first.

    Args:
        report_line: receives a line for each kernel, with the reason if it cannot be used.
    """
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(1, POSITION_COUNT, 3 * HEAD_COUNT * HEAD_DIM, generator=generator)
    query, key, value = split_projections(projected.to(device, torch.bfloat16), HEAD_COUNT)
    seconds_by_kernel: dict[str, float] = {}
    native_output, native_bytes = torch.empty(0), 0
    for name in KERNEL_NAMES:
        run_kernel = partial(run_attention_kernel, query, key, value, name)
        try:
            check_kernel_installed(name)
            kernel_output, peak_bytes = _run_and_measure_memory(run_kernel, device)
            if name == NATIVE_ATTENTION:
                native_output, native_bytes = kernel_output, peak_bytes
            elif reason := _explain_rejection(run_kernel, kernel_output, native_output, peak_bytes, native_bytes):
                report_line(f"attention by {name}: not used ({reason})")
                continue
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


def _run_and_measure_memory(run_kernel: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, int]:
    """Return the output of a kernel, and the kernel's peak bytes on a GPU, including the output; 0 on a CPU."""
    if device.type != "cuda":
        return run_kernel(), 0
    bytes_before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    kernel_output = run_kernel()
    return kernel_output, torch.cuda.max_memory_allocated(device) - bytes_before


def _explain_rejection(
    run_kernel: Callable[[], Tensor], kernel_output: Tensor, native_output: Tensor, peak_bytes: int, native_bytes: int
) -> str | None:
    """Explain why a kernel with this output and peak must not be used; None if it can be used."""
    if peak_bytes > MAX_MEMORY_RATIO * native_bytes:
        return f"{peak_bytes / native_bytes:.1f} times the memory of torch's kernel"
    relative_error = float((kernel_output.float() - native_output.float()).norm() / native_output.float().norm())
    if not relative_error <= MAX_RELATIVE_ERROR:  # also refuses NaN
        return f"relative error {relative_error:.1e} against torch's kernel"
    if not torch.equal(run_kernel(), kernel_output):  # a rerun would have other bits
        return "two runs with the same inputs differ"
    return None
