"""State of this machine's GPUs, from NVIDIA's management library."""
