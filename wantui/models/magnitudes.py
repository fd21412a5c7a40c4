"""Load the measured magnitudes of a model, by which `speed: cached` selects the passes to skip.

The magnitude at a noise level is the norm of what the blocks add to the hidden states there. MagCache (Ma et al. 2025,
arXiv 2506.09045): the ratio of the magnitudes of consecutive steps is nearly the same for every prompt. Its logarithm
is summed from the first step, so that the sums give the ratio between any two noise levels, for any number of steps.
"""

import hashlib
from pathlib import Path

from platformdirs import user_data_path

from wantui.json_files import UnreadableFileError, read_json
from wantui.models.catalogue import NANO, WanModel

Magnitudes = tuple[tuple[float, float], ...]
"""Pairs (noise level, log of its magnitude relative to that at the first noise level), in descending noise level."""
NANO_MAGNITUDES_PATH = Path(__file__).with_name("nano") / "magnitudes.json"


def find_magnitudes_path(model: WanModel, revision: str) -> Path:
    """Return the path of the magnitudes that were measured on this machine.

    Args:
        revision: commit or fingerprint of the weights.
    """
    file_stem = hashlib.sha256(f"{model.location}\n{revision}".encode()).hexdigest()[:16]
    return user_data_path("wantui") / "magnitudes" / f"{file_stem}.json"


def load_magnitudes(model: WanModel, revision: str | None) -> Magnitudes:
    """Return the magnitudes of a model with these weights; empty if they were not measured."""
    if revision is None:
        return ()
    paths = [find_magnitudes_path(model, revision), *([NANO_MAGNITUDES_PATH] if model is NANO else [])]
    for path in paths:
        try:
            stored_values = read_json(path)
            if stored_values["revision"] == revision:
                return tuple(
                    (float(noise_level), float(log_magnitude))
                    for noise_level, log_magnitude in stored_values["magnitudes"]
                )
        except (OSError, UnreadableFileError, ValueError, KeyError, TypeError):
            continue
    return ()
