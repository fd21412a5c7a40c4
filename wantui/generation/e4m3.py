"""The 8-bit format of `speed: fp8`, e4m3."""

import torch

E4M3 = torch.float8_e4m3fn
MAX_E4M3 = torch.finfo(E4M3).max
"""Largest finite value of e4m3, 448."""
MIN_ROW_MAXIMUM = 2.0**-100
"""Smallest divisor of a row's scale, so that rows of zeros have a finite scale."""
