"""What NVIDIA's management library tells about the GPUs of this machine."""
