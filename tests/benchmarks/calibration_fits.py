"""Values of the models of the frequency calibration, and the fits that separate frequency from appearance.

For the mean y of a shape in a model, y = model + shape + slope x ln(frequency) is fitted by least squares. The model is
the unit: only the change of a shape from model to model determines the slope. Models of equal frequencies are averaged
first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wantui.analysis.arrays import FloatArray
from wantui.analysis.decodability import score_held_out_seeds
from wantui.analysis.dispersion import compute_distances_to_median
from wantui.analysis.guidance_gap import EARLY_WINDOW, LATE_WINDOW, WHOLE_WINDOW, GuidanceGap
from wantui.analysis.level_states import average_over_sigma
from wantui.analysis.metrics import METRICS, get_ratio_origin
from wantui.models.nano.attributes import RGB_BY_COLOUR, SHAPES
from wantui.models.nano.frequency_models import FREQUENCY_MODELS_BY_NAME

COLOURS = tuple(RGB_BY_COLOUR)
FORMS, CONDITIONS = ("main", "held-out"), ("guidance-1", "guidance-4")
INFORMATION_WINDOW_MIN_SIGMA = 0.9
"""Lowest noise level of the information gap; fixed with the predictions."""
GAP_WINDOWS_BY_METRIC = {
    "guidance_gap": WHOLE_WINDOW,
    "guidance_gap_early": EARLY_WINDOW,
    "guidance_gap_late": LATE_WINDOW,
}
REASSIGNMENT_COUNT = 20_000
INTERVAL_LEVEL = 0.95


@dataclass(frozen=True)
class ModelValues:
    """Values of one model: for each measure, [seeds, shapes, colours]."""

    name: str
    values_by_measure: dict[str, FloatArray]
    shapes_right_by_condition: dict[str, FloatArray]
    """Fraction of clips with the right shape, for each shape."""
    generic_counts_by_condition: dict[str, NDArray[np.int64]]
    """Clips of the generic prompt in which each shape was seen."""

    @property
    def log_frequencies(self) -> FloatArray:
        """Return ln(frequency) of the shapes in training."""
        return np.log(FREQUENCY_MODELS_BY_NAME[self.name].shape_frequencies)


@dataclass(frozen=True)
class SlopeFit:
    """Least-squares fit of y = model + unit + slope x ln(frequency) to [models, units]."""

    slope: float
    standard_error: float
    degrees_of_freedom: int
    p: float
    """Two-sided p over random reassignments of the frequencies among the units within each model; the statistic is the
    correlation of the twice centred values, which orders reassignments as t does."""
    unit_effects: FloatArray
    """[units] effects of the units, with mean 0."""

    @property
    def interval(self) -> tuple[float, float]:
        """Return the t interval of the slope."""
        half_width = float(stats.t.ppf((1 + INTERVAL_LEVEL) / 2, self.degrees_of_freedom)) * self.standard_error
        return self.slope - half_width, self.slope + half_width


def centre_twice(values: FloatArray) -> FloatArray:
    """Subtract the means of rows and columns from [..., models, units]."""
    rows, columns = values.mean(-1, keepdims=True), values.mean(-2, keepdims=True)
    centred: FloatArray = values - rows - columns + values.mean((-2, -1), keepdims=True)
    return centred


def compute_slope(values: FloatArray, log_frequencies: FloatArray) -> float:
    """Return the least-squares slope of values [models, units] over ln(frequency).

    In a balanced table with row and column effects, the slope is that of the twice centred values (Frisch and Waugh
    1933).
    """
    predictor = centre_twice(log_frequencies)
    return float((centre_twice(values) * predictor).sum() / (predictor**2).sum())


def compute_controlled_slope(values: FloatArray, log_frequencies: FloatArray, covariate: FloatArray) -> float:
    """Return the least-squares slope of values [models, units] over ln(frequency), with a covariate in the fit."""
    predictors = [centre_twice(each).ravel() for each in (log_frequencies, covariate)]
    coefficients = np.linalg.lstsq(np.column_stack(predictors), centre_twice(values).ravel(), rcond=None)[0]
    return float(coefficients[0])


def fit_slope(values: FloatArray, log_frequencies: FloatArray, seed: int = 0) -> SlopeFit:
    """Fit the slope of values [models, units] over ln(frequency), with its standard error and p."""
    model_count, unit_count = values.shape
    centred, predictor = centre_twice(values), centre_twice(log_frequencies)
    slope = compute_slope(values, log_frequencies)
    residuals = centred - slope * predictor
    degrees_of_freedom = model_count * unit_count - model_count - unit_count
    standard_error = float(np.sqrt((residuals**2).sum() / degrees_of_freedom / (predictor**2).sum()))
    shuffled = np.random.default_rng(seed).permuted(
        np.broadcast_to(log_frequencies, (REASSIGNMENT_COUNT, *log_frequencies.shape)), axis=-1
    )
    shuffled_predictors = centre_twice(shuffled)
    statistic = abs(float((predictor * centred).sum())) / np.sqrt((predictor**2).sum())
    shuffled_statistics = np.abs((shuffled_predictors * centred).sum((-2, -1))) / np.sqrt(
        (shuffled_predictors**2).sum((-2, -1))
    )
    p = (1 + np.sum(shuffled_statistics >= statistic * (1 - 1e-9))) / (REASSIGNMENT_COUNT + 1)
    unit_effects = (values - slope * log_frequencies).mean(0)
    return SlopeFit(slope, standard_error, degrees_of_freedom, float(p), unit_effects - unit_effects.mean())


def integrate_information(
    integrand: NDArray[np.floating], level_edges: FloatArray, window_min_sigma: float
) -> FloatArray:
    """Integrate (1 - s) / s times an integrand [levels, n] over the noise levels s from a start to 1.

    Args:
        level_edges: [levels + 1] edges of the intervals at whose midpoints the integrand was measured.
    """
    levels = (level_edges[1:] + level_edges[:-1]) / 2
    weights = (1 - levels) / levels * np.diff(level_edges) * (levels >= window_min_sigma)
    result: FloatArray = weights @ integrand.astype(np.float64)
    return result


def collect_model(path: Path) -> dict[str, NDArray[np.generic]]:
    """Reduce a file of `calibration_measurements.py` to one value for each video and measure."""
    measured = np.load(path)
    edges = measured["information_edges"]
    columns = list(zip(measured["metric_names"].tolist(), measured["metric_strides"].tolist(), strict=True))
    reduced: dict[str, NDArray[np.generic]] = {}
    for key in measured.files:
        kind, _, condition = key.partition(" ")
        if kind == "metrics":
            for column, (metric, stride) in enumerate(columns):
                values = measured[key][:, column]
                if not np.isnan(values).all():
                    reduced[f"{metric}{'' if stride == 1 else f' (stride {stride})'}|{condition}"] = values
        elif kind == "gap_products":
            gaps = np.sqrt(np.maximum(measured[key] @ np.array([1.0, 1.0, -2.0]), 0))  # [steps, n]
            videos = [GuidanceGap(measured[f"sigmas {condition}"], differences) for differences in gaps.T]
            for name, window in GAP_WINDOWS_BY_METRIC.items():
                reduced[f"{name}|{condition}"] = np.array([video.compute_mean(window) for video in videos])
        elif kind == "final_distances":
            reduced |= {f"{name}|{condition}": v for name, v in compute_spreads(measured[key]).items()}
        elif kind in ("information_gap", "information_pointwise"):
            name = kind.replace("_", " ")
            within_window = integrate_information(measured[key], edges, INFORMATION_WINDOW_MIN_SIGMA)
            reduced[f"{name}|guidance-1 {condition}"] = within_window
            reduced[f"{name}, all levels|guidance-1 {condition}"] = integrate_information(measured[key], edges, 0)
        elif kind == "projections":
            separations = compute_separations(measured[key].astype(np.float64), measured[f"sigmas {condition}"])
            reduced |= {f"{name}|{condition}": v for name, v in separations.items()}
        elif kind in ("contribution_share", "ablation_share", "kept_range"):
            reduced[f"{kind.replace('_', ' ')}|{condition}"] = measured[key]
        elif kind in ("shapes", "generic_shapes"):
            reduced[f"{kind}|{condition}"] = measured[key]
    return {name: v.astype(np.float32) if v.dtype.kind == "f" else v for name, v in reduced.items()}


def compute_spreads(packed_distances: NDArray[np.floating]) -> dict[str, FloatArray]:
    """Return the distance of each video to the median of its shape, and to that of its sentence."""
    video_count = round((1 + np.sqrt(1 + 8 * len(packed_distances))) / 2)
    distances = np.zeros((video_count, video_count))
    distances[np.triu_indices(video_count, k=1)] = packed_distances
    distances += distances.T
    cells = np.arange(video_count).reshape(-1, len(SHAPES), len(COLOURS))
    spreads = {"spread": np.empty(video_count), "spread within a sentence": np.empty(video_count)}
    for shape in range(len(SHAPES)):
        videos = cells[:, shape].ravel()
        spreads["spread"][videos] = compute_distances_to_median(distances[np.ix_(videos, videos)])
        for colour in range(len(COLOURS)):
            videos = cells[:, shape, colour]
            spreads["spread within a sentence"][videos] = compute_distances_to_median(distances[np.ix_(videos, videos)])
    return spreads


def compute_separations(projections: FloatArray, sigmas: FloatArray) -> dict[str, FloatArray]:
    """Return how well a shape is separated from the others in each colour, [shapes x colours] averaged over sigma.

    `decodability` is the mean accuracy with which it is sorted from each other shape, and `variance share` the squared
    distance between its mean and that of all shapes, as a share of the mean square around the mean of all videos.

    Args:
        projections: [states, n, values] of videos that are ordered by seed, shape and colour.
        sigmas: [steps + 1] noise levels of the path, of which the projected states are equally spaced.
    """
    levels = sigmas[np.linspace(0, len(sigmas) - 1, len(projections)).round().astype(int)]
    states = projections.reshape(len(projections), -1, len(SHAPES), len(COLOURS), projections.shape[-1])
    no_flip = np.ones((1, states.shape[1]))
    accuracy = np.full((len(SHAPES), len(SHAPES), len(COLOURS), len(levels)), np.nan)
    for (first, second), colour, level in product(
        combinations(range(len(SHAPES)), 2), range(len(COLOURS)), range(len(levels))
    ):
        differences = states[level, :, first, colour] - states[level, :, second, colour]
        accuracy[first, second, colour, level] = score_held_out_seeds(differences[:, None], no_flip).mean()
        accuracy[second, first, colour, level] = accuracy[first, second, colour, level]
    around_mean = states - states.mean((1, 2), keepdims=True)
    totals = (around_mean**2).sum(-1).mean((1, 2))  # [levels, colours]
    distances = (around_mean.mean(1) ** 2).sum(-1)  # [levels, shapes, colours]
    shares = np.moveaxis(distances / totals[:, None], 0, -1)
    return {
        "decodability": average_over_sigma(np.nanmean(accuracy, axis=1), levels).ravel(),
        "variance share": average_over_sigma(shares, levels).ravel(),
    }


def read_model(path: Path) -> ModelValues:
    """Read the collected values of a model."""
    stored = np.load(path)
    values, right, generic = {}, {}, {}
    for key in stored.files:
        measure, _, condition = key.partition("|")
        if measure == "shapes":
            seen = stored[key].reshape(-1, len(SHAPES), len(COLOURS))
            right[condition] = (seen == np.arange(len(SHAPES))[:, None]).mean((0, 2))
        elif measure == "generic_shapes":
            generic[condition] = np.array([(stored[key] == index).sum() for index in range(len(SHAPES))])
        else:
            distances = stored[key].astype(np.float64) - get_ratio_origin(measure.partition(" (")[0])
            values[key] = distances.reshape(-1, len(SHAPES), len(COLOURS))
    return ModelValues(path.stem, values, right, generic)


def read_models(folder: Path) -> list[ModelValues]:
    """Read the collected values of all models in a folder, in the order of `FREQUENCY_MODELS_BY_NAME`."""
    return [read_model(path) for name in FREQUENCY_MODELS_BY_NAME if (path := folder / f"{name}.npz").exists()]


def compute_relative_means(models: Sequence[ModelValues], key: str, unit_axis: int = 1) -> FloatArray:
    """Return the means [models, units] of a measure, as shares of the mean of each model; nats stay as they are.

    The shares of a metric that varies in its distance from 1 are of the distance, as in comparisons of groups. Videos
    without a value (NaN) are left out: only `kept range` has some.

    Args:
        unit_axis: 1 for shapes as units, 2 for colours.
    """
    means = np.array([np.nanmean(model.values_by_measure[key], (0, 3 - unit_axis)) for model in models])
    metric = key.partition("|")[0]
    if metric in METRICS and not METRICS[metric].has_ratio_scale:
        return means
    relative: FloatArray = means / np.abs(means.mean(1, keepdims=True))
    return relative


def average_replicates(models: Sequence[ModelValues], values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return values and ln(frequency) [assignments, units]: models of equal frequencies become one row.

    They share one assignment, so that a response of a shape to its frequency would repeat in both.
    """
    frequencies = np.array([model.log_frequencies for model in models])
    rows, row_of_model = np.unique(frequencies, axis=0, return_inverse=True)
    means = np.array([values[row_of_model.ravel() == row].mean(0) for row in range(len(rows))])
    return means, rows


def fit_measure(models: Sequence[ModelValues], key: str) -> SlopeFit:
    """Fit the slope of a measure over the frequencies of the shapes."""
    return fit_slope(*average_replicates(models, compute_relative_means(models, key)))


def fit_colours(models: Sequence[ModelValues], key: str) -> SlopeFit:
    """Fit the slope of a measure over the frequencies of the shapes, assigned to the colours in order."""
    return fit_slope(*average_replicates(models, compute_relative_means(models, key, unit_axis=2)))


def compute_placebo_slopes(models: Sequence[ModelValues], key: str, draw_count: int = 2000) -> FloatArray:
    """Return the slopes over frequencies that are assigned to colours at random, all uniform in training."""
    means, frequencies = average_replicates(models, compute_relative_means(models, key, unit_axis=2))
    values = centre_twice(means)
    orders = np.argsort(np.random.default_rng(1).random((draw_count, len(COLOURS))), axis=1)
    predictors = centre_twice(np.moveaxis(frequencies[:, orders], 0, 1))
    slopes: FloatArray = (predictors * values).sum((-2, -1)) / (predictors**2).sum((-2, -1))
    return slopes


def fit_kept_range(models: Sequence[ModelValues], condition: str, form: str) -> tuple[int, float]:
    """Return the least number of videos of a shape in a model, and the slope of the kept range at equal generic shares.

    The covariate is the share of a shape in the clips of the generic prompt: a shape that it often draws is kept for
    that reason alone.
    """
    key = f"kept range|{condition} {form}"
    counts = [np.isfinite(model.values_by_measure[key]).sum((0, 2)).min() for model in models]
    drawn = np.array([model.generic_counts_by_condition[condition] for model in models], dtype=np.float64)
    values, frequencies = average_replicates(models, compute_relative_means(models, key))
    shares = average_replicates(models, drawn / drawn.sum(1, keepdims=True))[0]
    return int(min(counts)), compute_controlled_slope(values, frequencies, shares)


def list_measures(models: Sequence[ModelValues], condition: str) -> list[str]:
    """Return the keys of the measures under a condition."""
    return [key for key in models[0].values_by_measure if key.endswith(f"|{condition}")]


def find_held_out_key(models: Sequence[ModelValues], key: str) -> str | None:
    """Return the key of a measure in the second sentence form; None if it was not measured there."""
    name, _, condition = key.partition("|")
    held_out_key = f"{name}|{condition.partition(' ')[0]} held-out"
    return held_out_key if held_out_key in models[0].values_by_measure else None


def fit_information(model: ModelValues, form: str) -> float:
    """Return the least-squares slope of a model's information gap over -ln(frequency) of the shapes, in nats."""
    gaps = model.values_by_measure[f"information gap|guidance-1 {form}"].mean((0, 2))
    return float(np.polyfit(-model.log_frequencies, gaps, 1)[0])


def compute_ratio(fit: SlopeFit) -> float:
    """Return the standard deviation that frequency causes between the shapes of nano, over that of appearance."""
    log_frequencies = np.log(FREQUENCY_MODELS_BY_NAME["natural"].shape_frequencies)
    return float(abs(fit.slope) * log_frequencies.std() / fit.unit_effects.std())
