"""Triton kernels; imported where there is a GPU and Triton, and never elsewhere."""
