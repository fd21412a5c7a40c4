"""State of this machine's GPUs, read from NVIDIA's management library (NVML)."""
