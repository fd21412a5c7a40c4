"""What do the metrics answer to: frequency, or appearance? python tests/benchmarks/calibration.py

`frequency_models.py` trains models with exchanged frequencies of the shapes, `calibration_measurements.py` measures
them, and `--collect FOLDER` reduces its files to the data from which this command prints its tables. For the mean y of
a shape in a model, y = model + shape + slope x ln(frequency) is fitted by least squares. The model is the unit: only
the change of a shape from model to model determines the slope. Models of equal frequencies are averaged first.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wantui.analysis.calibrated import TABLE_PATH
from wantui.analysis.dispersion import compute_distances_to_median
from wantui.analysis.guidance_gap import EARLY_WINDOW, LATE_WINDOW, WHOLE_WINDOW, GuidanceGap
from wantui.analysis.metrics import METRICS
from wantui.models.nano.attributes import RGB_BY_COLOUR, SHAPES
from wantui.models.nano.frequency_models import FREQUENCY_MODELS_BY_NAME

FloatArray = NDArray[np.float64]
DATA_FOLDER = Path(__file__).parents[1] / "data" / "calibration"
COLOURS = tuple(RGB_BY_COLOUR)
FORMS, CONDITIONS = ("main", "held-out"), ("guidance-1", "guidance-4")
INFORMATION_WINDOW_START = 0.9
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


def fit_slope(values: FloatArray, log_frequencies: FloatArray, seed: int = 0) -> SlopeFit:
    """Fit the slope of values [models, units] over ln(frequency).

    In a balanced table with row and column effects, the slope is that of the twice centred values (Frisch and Waugh
    1933).
    """
    model_count, unit_count = values.shape
    centred, predictor = centre_twice(values), centre_twice(log_frequencies)
    slope = float((centred * predictor).sum() / (predictor**2).sum())
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


def integrate_information(integrand: NDArray[np.floating], level_edges: FloatArray, window_start: float) -> FloatArray:
    """Integrate (1 - s) / s times an integrand [levels, n] over the noise levels s from a start to 1.

    Args:
        level_edges: [levels + 1] edges of the intervals at whose midpoints the integrand was measured.
    """
    levels = (level_edges[1:] + level_edges[:-1]) / 2
    weights = (1 - levels) / levels * np.diff(level_edges) * (levels >= window_start)
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
            within_window = integrate_information(measured[key], edges, INFORMATION_WINDOW_START)
            reduced[f"{name}|guidance-1 {condition}"] = within_window
            reduced[f"{name}, all levels|guidance-1 {condition}"] = integrate_information(measured[key], edges, 0)
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


def measure_from_bound(metric: str, values: FloatArray) -> FloatArray:
    """Return the distance of a metric from its bound, which is what varies near it; other metrics as they are."""
    if metric == "effective_dimension":
        return values - 1
    return 1 - values if metric == "commitment" else values


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
            values[key] = measure_from_bound(measure.partition(" (")[0], stored[key].astype(np.float64)).reshape(
                -1, len(SHAPES), len(COLOURS)
            )
    return ModelValues(path.stem, values, right, generic)


def compute_relative_means(models: Sequence[ModelValues], key: str, unit_axis: int = 1) -> FloatArray:
    """Return the means [models, units] of a measure, as shares of the mean of each model; nats stay as they are.

    Args:
        unit_axis: 1 for shapes as units, 2 for colours.
    """
    means = np.array([model.values_by_measure[key].mean((0, 3 - unit_axis)) for model in models])
    metric = key.partition("|")[0]
    if metric in METRICS and not METRICS[metric].has_ratio_scale:
        return means
    relative: FloatArray = means / means.mean(1, keepdims=True)
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


def compute_placebo_slopes(models: Sequence[ModelValues], key: str, draw_count: int = 2000) -> FloatArray:
    """Return the slopes over frequencies that are assigned to colours at random, all uniform in training."""
    means, frequencies = average_replicates(models, compute_relative_means(models, key, unit_axis=2))
    values = centre_twice(means)
    orders = np.argsort(np.random.default_rng(1).random((draw_count, len(COLOURS))), axis=1)
    predictors = centre_twice(np.moveaxis(frequencies[:, orders], 0, 1))
    slopes: FloatArray = (predictors * values).sum((-2, -1)) / (predictors**2).sum((-2, -1))
    return slopes


def format_amount(value: float, key: str) -> str:
    """Format a change of a measure: percent of the mean, or nats without a unit."""
    metric = key.partition("|")[0]
    is_logarithm = metric in METRICS and not METRICS[metric].has_ratio_scale
    return f"{value:+.3f}" if is_logarithm else f"{100 * value:+.1f} %"


def list_measures(models: Sequence[ModelValues], condition: str) -> list[str]:
    """Return the keys of the measures under a condition."""
    return [key for key in models[0].values_by_measure if key.endswith(f"|{condition}")]


def print_sensitivities(models: Sequence[ModelValues], condition: str) -> None:
    """Print what each measure answers to under a condition, in the first sentence form and in the second."""
    names = [model.name for model in models]
    click.echo(f"\n### {condition}\n")
    heads = (
        "measure",
        "per factor e of frequency (95 %)",
        "p",
        "held-out sentence",
        "appearance",
        "frequency / appearance",
        "replicates",
        "placebo",
        "largest of 15 pairs of colours",
    )
    click.echo(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for key in list_measures(models, f"{condition} main"):
        values, fit = compute_relative_means(models, key), fit_measure(models, key)
        replicates = values[names.index("natural")] - values[names.index("natural-again")]
        placebo = float(np.quantile(np.abs(compute_placebo_slopes(models, key)), 0.95))
        name = key.partition("|")[0]
        cells = [
            name,
            format_slope(fit, key),
            f"{fit.p:.2g}",
            format_held_out_slope(models, f"{name}|{condition} held-out"),
            format_amount(float(fit.unit_effects.std()), key).lstrip("+"),
            f"{compute_ratio(fit):.2f}",
            format_amount(float(replicates.std() / np.sqrt(2)), key).lstrip("+"),
            f"±{format_amount(placebo, key).lstrip('+')}",
            format_largest_pair(compute_relative_means(models, key, unit_axis=2).mean(0), key),
        ]
        click.echo(f"| {' | '.join(cells)} |")


def format_slope(fit: SlopeFit, key: str) -> str:
    """Format a slope with its interval."""
    low, high = fit.interval
    return f"{format_amount(fit.slope, key)} ({format_amount(low, key)} to {format_amount(high, key)})"


def format_held_out_slope(models: Sequence[ModelValues], key: str) -> str:
    """Format the slope of a measure in the second sentence form; empty if it was not measured there."""
    if key not in models[0].values_by_measure:
        return ""
    return format_slope(fit_measure(models, key), key)


def format_largest_pair(colour_means: FloatArray, key: str) -> str:
    """Format the pair of colours with the largest difference."""
    pairs = combinations(range(len(COLOURS)), 2)
    first, second = max(pairs, key=lambda pair: abs(colour_means[pair[0]] - colour_means[pair[1]]))
    return (
        f"{COLOURS[first]} - {COLOURS[second]} {format_amount(float(colour_means[first] - colour_means[second]), key)}"
    )


def compute_ratio(fit: SlopeFit) -> float:
    """Return the standard deviation that frequency causes between the shapes of nano, over that of appearance."""
    log_frequencies = np.log(FREQUENCY_MODELS_BY_NAME["natural"].shape_frequencies)
    return float(abs(fit.slope) * log_frequencies.std() / fit.unit_effects.std())


def build_table(models: Sequence[ModelValues]) -> dict[str, object]:
    """Return the table of `wantui.analysis.calibrated`."""
    table: dict[str, dict[str, dict[str, object]]] = {}
    for condition in CONDITIONS:
        for key in list_measures(models, f"{condition} main"):
            name = key.partition("|")[0]
            held_out_key = f"{name}|{condition} held-out"
            fits = [fit_measure(models, k) for k in (key, held_out_key)]
            slopes = [[round(value, 5) for value in (fit.slope, *fit.interval)] for fit in fits]
            table.setdefault(name.replace(" ", "_"), {})[condition] = {
                "frequency": slopes[0],
                "held_out_frequency": slopes[1],
                "p": round(fits[0].p, 5),
                "appearance": round(float(fits[0].unit_effects.std()), 5),
                "ratio": round(compute_ratio(fits[0]), 3),
            }
    complete = {name: rows for name, rows in table.items() if len(rows) == len(CONDITIONS) and "(" not in name}
    return {"models": [model.name for model in models], "metrics": complete}


def print_slopes_by_model(models: Sequence[ModelValues], condition: str) -> None:
    """Print the slope over ln(frequency) and the rank correlation in each model alone, which mix both causes."""
    models = [model for model in models if np.ptp(model.log_frequencies) > 0]
    click.echo(f"\n### {condition}, each model alone: slope, rank correlation\n")
    click.echo(f"| measure | {' | '.join(model.name for model in models)} |\n|{'---|' * (len(models) + 1)}")
    for key in list_measures(models, condition):
        cells = []
        for model, values in zip(models, compute_relative_means(models, key), strict=True):
            slope = float(np.polyfit(model.log_frequencies, values, 1)[0])
            rank = stats.spearmanr(values, model.log_frequencies).statistic
            cells.append(f"{format_amount(slope, key)}, {rank:+.2f}")
        click.echo(f"| {key.partition('|')[0]} | {' | '.join(cells)} |")


def print_models(models: Sequence[ModelValues]) -> None:
    """Print the quality of each model, what its generic prompt draws, and its information gaps."""
    click.echo("\n### Models\n\n| model | " + " | ".join(SHAPES) + " |\n|" + "---|" * (len(SHAPES) + 1))
    for model in models:
        shares = FREQUENCY_MODELS_BY_NAME[model.name].shape_frequencies
        rows = {
            "frequency in training": [f"{share:.0%}" for share in shares],
            "right shape, guidance 4": [f"{v:.2f}" for v in model.shapes_right_by_condition["guidance-4 main"]],
            "right shape, guidance 1": [f"{v:.2f}" for v in model.shapes_right_by_condition["guidance-1 main"]],
        }
        for condition, counts in model.generic_counts_by_condition.items():
            rows[f'drawn for "shape", {condition}'] = [f"{count / counts.sum():.0%}" for count in counts]
        for form in FORMS:
            gaps = model.values_by_measure[f"information gap|guidance-1 {form}"].mean((0, 2))
            rows[f"information gap, nats, {form}"] = [f"{gap:.2f}" for gap in gaps]
        rows["-ln(frequency)"] = [f"{-value:.2f}" for value in model.log_frequencies]
        for name, cells in rows.items():
            click.echo(f"| {model.name}: {name} | {' | '.join(cells)} |")


@click.command()
@click.option("--data", "data_folder", type=click.Path(path_type=Path), default=DATA_FOLDER, show_default="stored data")
@click.option(
    "--collect",
    "measured_folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="First reduce the files of calibration_measurements.py in this folder to the data.",
)
@click.option("--write-table", is_flag=True, help="Also write the table that wantui shows beside its metrics.")
def main(data_folder: Path, measured_folder: Path | None, write_table: bool) -> None:
    """Print what each metric answers to, from stored values of each video."""
    if measured_folder:
        data_folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(measured_folder.glob("*.npz")):
            np.savez_compressed(data_folder / path.name, **collect_model(path))  # type: ignore[arg-type]
    models = [read_model(path) for name in FREQUENCY_MODELS_BY_NAME if (path := data_folder / f"{name}.npz").exists()]
    click.echo(f"{len(models)} models: {', '.join(model.name for model in models)}")
    if write_table:
        TABLE_PATH.write_text(json.dumps(build_table(models), indent=1) + "\n", encoding="utf-8")
    print_models(models)
    for condition in (*CONDITIONS, "unipc-20"):
        print_sensitivities(models, condition)
    for condition in CONDITIONS:
        print_slopes_by_model(models, f"{condition} main")


if __name__ == "__main__":
    main()
