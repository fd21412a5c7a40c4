"""Nano: a tiny Wan model, trained from scratch on moving shapes, that generates a video in seconds on a laptop.

README.md in this folder is the model card; `train.py` trained the weights and `evaluate.py` measures them.
"""

from pathlib import Path

NANO_WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""Diffusers directory of the trained model."""

NANO_ADAPTERS_FOLDER = Path(__file__).parent / "adapters"
"""Folder of nano's adapters, with their model card."""
