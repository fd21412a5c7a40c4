"""Readings of made-up GPUs."""

from wantui.gpu.monitor import GpuSample, GpuState


def make_gpu_state(total: int, used: int) -> GpuState:
    return GpuState(0, "GPU-0", "NVIDIA A", memory_total=total, memory_used=used)


def make_gpu_sample(*cards: GpuState) -> GpuSample:
    return GpuSample(0.0, cards, "", "", 64_000_000_000, 0, 0.0)
