"""The stored guidance gap of a video: |v_c - v_u| of its passes with and without the prompt, over noise levels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.captures.guidance_gap import COLUMNS
from wantui.planning import Recipe
from wantui.storage.zarr_group import convert_to_capture_error, open_capture

WHOLE_WINDOW, EARLY_WINDOW, LATE_WINDOW = (0.0, 1.0), (0.75, 1.0), (0.0, 0.5)
"""Noise levels of the metrics: all, the first quarter, and the last half of the denoising in sigma."""


@dataclass(frozen=True)
class GuidanceGap:
    """The guidance gap of one video."""

    sigmas: FloatArray
    """[S + 1] noise level of each evaluation, and 0 for the video."""
    differences: FloatArray
    """[S] root mean square of v_c - v_u at each evaluation; NaN where the second pass did not run."""

    def compute_mean(self, window: tuple[float, float]) -> float:
        """Return the mean over a window of noise levels; NaN if no step with a second pass crosses the window.

        The weight of an evaluation is the range of noise levels that its step crosses inside the window. Heun's second
        evaluation of a step, at a predictor, therefore does not count. The mean is over the steps that have a second
        pass.
        """
        low, high = window
        widths = np.minimum(self.sigmas[:-1], high) - np.maximum(self.sigmas[1:], low)
        is_counted = (widths > 0) & np.isfinite(self.differences)
        if not is_counted.any():
            return float("nan")
        return float(np.average(self.differences[is_counted], weights=widths[is_counted]))


def load_guidance_gap(path: Path, recipe: Recipe | None = None) -> GuidanceGap:
    """Load the guidance gap of a video.

    Args:
        recipe: recipe of the video; None if unknown.

    Raises:
        CaptureError: it is missing or damaged, or belongs to another video.
    """
    group = open_capture(path, recipe)
    with convert_to_capture_error(path):
        values = np.asarray(group["values"][:], dtype=np.float64)
        sigmas = np.asarray(group["sigmas"][:], dtype=np.float64)
        if values.shape != (len(sigmas), len(COLUMNS)):
            raise ValueError(f"its values have the shape {values.shape}, but it lists {len(sigmas)} noise levels")
    return GuidanceGap(np.append(sigmas, 0.0), values[:, COLUMNS.index("difference")])
