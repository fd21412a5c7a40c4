"""Nano: a tiny Wan, trained from scratch on moving shapes, that makes a video in seconds on a laptop.

`WEIGHTS` is a complete diffusers directory. The model card is README.md beside this file; `train.py` made the weights
and `evaluate.py` prints their figures.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
