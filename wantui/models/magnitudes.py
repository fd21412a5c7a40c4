"""Measured magnitudes: the contribution of a model's blocks at each noise level, which decides what `speed: cached`
skips.

MagCache (Ma et al. 2025, arXiv 2506.09045): the ratio of what the blocks add at a step to what they added at the step
before is nearly the same for every prompt. Here its logarithm is summed from the first step on, so that the ratio
between any two noise levels can be read off, for any number of steps.
"""

import hashlib
from pathlib import Path

from platformdirs import user_data_path

from wantui.json_files import UnreadableFileError, read_json
from wantui.models.catalogue import NANO, WanModel

Magnitudes = tuple[tuple[float, float], ...]
"""(noise level, logarithm of the magnitude there over that at the first), from high noise levels to low ones."""
OF_NANO = Path(__file__).with_name("nano") / "magnitudes.json"


def path_of(model: WanModel, revision: str) -> Path:
    """Return the file of a model's magnitudes on this machine.

    Args:
        revision: what tells its weights from others.
    """
    name = hashlib.sha256(f"{model.location}\n{revision}".encode()).hexdigest()[:16]
    return user_data_path("wantui") / "magnitudes" / f"{name}.json"


def magnitudes_of(model: WanModel, revision: str | None) -> Magnitudes:
    """Return the magnitudes of a model with these weights; empty if they were not measured."""
    if revision is None:
        return ()
    paths = [path_of(model, revision), *([OF_NANO] if model is NANO else [])]
    for path in paths:
        try:
            kept = read_json(path)
            if kept["revision"] == revision:
                return tuple((float(level), float(value)) for level, value in kept["magnitudes"])
        except (OSError, UnreadableFileError, ValueError, KeyError, TypeError):
            continue
    return ()
