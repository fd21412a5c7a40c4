"""Print what the metrics respond to, frequency or appearance: python tests/benchmarks/calibration.py

`frequency_models.py` trains models with exchanged frequencies of the shapes, `calibration_measurements.py` measures
them, and `--collect FOLDER` reduces its files to the data from which this command prints its tables.
"""

import json
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import click
import numpy as np
from benchmarks.calibration_fits import (
    COLOURS,
    CONDITIONS,
    FORMS,
    ModelValues,
    SlopeFit,
    average_replicates,
    collect_model,
    compute_placebo_slopes,
    compute_ratio,
    compute_relative_means,
    compute_slope,
    find_held_out_key,
    fit_colours,
    fit_information,
    fit_kept_range,
    fit_measure,
    list_measures,
    read_models,
)
from scipy import stats

from wantui.analysis.arrays import FloatArray
from wantui.analysis.calibrated import TABLE_PATH
from wantui.analysis.metrics import METRICS
from wantui.formatting import format_count, format_share
from wantui.models.nano.attributes import SHAPES
from wantui.models.nano.frequency_models import FREQUENCY_MODELS_BY_NAME

DATA_FOLDER = Path(__file__).parents[1] / "data" / "calibration"
REPLICATE_NAMES = ("natural", "natural-again")
"""Two models of equal frequencies."""
INFORMATION_GAP = "information_gap"
"""Measure whose passes use no guidance."""
PRIMARY_KEYS = ("log_volume|guidance-1 main", "effective_dimension|guidance-1 main", "turning|guidance-4 main")
"""Primary measures, fixed with the predictions."""


def format_amount(value: float, key: str) -> str:
    """Format a change of a measure: percent of the mean, or nats without a unit."""
    metric = key.partition("|")[0]
    is_logarithm = metric in METRICS and not METRICS[metric].has_ratio_scale
    return f"{value:+.3f}" if is_logarithm else f"{100 * value:+.1f} %"


def print_sensitivities(models: Sequence[ModelValues], replicates: Sequence[ModelValues], condition: str) -> None:
    """Print what each measure responds to under a condition, in the first sentence form and in the second.

    Args:
        replicates: two models of equal frequencies.
    """
    click.echo(f"\n### {condition}\n")
    heads = (
        "measure",
        "per factor of e in frequency (95 %)",
        "p",
        "held-out sentence",
        "appearance",
        "frequency / appearance",
        "replicates",
        "placebo",
        "slope over colours (p)",
        "largest of 15 pairs of colours",
    )
    click.echo(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for key in list_measures(models, f"{condition} main"):
        fit = fit_measure(models, key)
        placebo = float(np.quantile(np.abs(compute_placebo_slopes(models, key)), 0.95))
        cells = [
            key.partition("|")[0],
            format_slope(fit, key),
            f"{fit.p:.2g}",
            format_held_out_slope(models, key),
            format_amount(float(fit.unit_effects.std()), key).lstrip("+"),
            f"{compute_ratio(fit):.2f}",
            format_replicates(replicates, key),
            f"±{format_amount(placebo, key).lstrip('+')}",
            format_colour_slope(fit_colours(models, key), key),
            format_largest_pair(compute_relative_means(models, key, unit_axis=2).mean(0), key),
        ]
        click.echo(f"| {' | '.join(cells)} |")


def format_slope(fit: SlopeFit, key: str) -> str:
    """Format a slope with its interval."""
    low, high = fit.interval
    return f"{format_amount(fit.slope, key)} ({format_amount(low, key)} to {format_amount(high, key)})"


def format_colour_slope(fit: SlopeFit, key: str) -> str:
    """Format the slope over frequencies that were assigned to the colours, with its p."""
    return f"{format_amount(fit.slope, key)} ({fit.p:.2g})"


def format_held_out_slope(models: Sequence[ModelValues], key: str) -> str:
    """Format the slope of a measure in the second sentence form; empty if it was not measured there."""
    held_out_key = find_held_out_key(models, key)
    return format_slope(fit_measure(models, held_out_key), held_out_key) if held_out_key else ""


def format_replicates(replicates: Sequence[ModelValues], key: str) -> str:
    """Format the standard deviation of a measure between two models of equal frequencies; empty if not measured."""
    if key not in replicates[0].values_by_measure:
        return ""
    first, second = compute_relative_means(replicates, key)
    return format_amount(float((first - second).std() / np.sqrt(2)), key).lstrip("+")


def format_largest_pair(colour_means: FloatArray, key: str) -> str:
    """Format the pair of colours with the largest difference."""
    pairs = combinations(range(len(COLOURS)), 2)
    first, second = max(pairs, key=lambda pair: abs(colour_means[pair[0]] - colour_means[pair[1]]))
    return (
        f"{COLOURS[first]} - {COLOURS[second]} {format_amount(float(colour_means[first] - colour_means[second]), key)}"
    )


def build_table(models: Sequence[ModelValues]) -> dict[str, object]:
    """Return the table of `wantui.analysis.calibrated`."""
    table: dict[str, dict[str, dict[str, object]]] = {}
    for condition in CONDITIONS:
        for key in list_measures(models, f"{condition} main"):
            name = key.partition("|")[0]
            held_out_key = find_held_out_key(models, key)
            if held_out_key is None:
                continue
            fits = [fit_measure(models, k) for k in (key, held_out_key)]
            slopes = [[round(value, 5) for value in (fit.slope, *fit.interval)] for fit in fits]
            table.setdefault(name.replace(" ", "_"), {})[condition] = {
                "frequency": slopes[0],
                "held_out_frequency": slopes[1],
                "p": round(fits[0].p, 5),
                "appearance": round(float(fits[0].unit_effects.std()), 5),
                "ratio": round(compute_ratio(fits[0]), 3),
            }
    complete = {
        name: rows
        for name, rows in table.items()
        if "(" not in name and (len(rows) == len(CONDITIONS) or name == INFORMATION_GAP)
    }
    return {"models": [model.name for model in models], "metrics": complete}


def print_predictions(models: Sequence[ModelValues], replicates: Sequence[ModelValues]) -> None:
    """Print the figures by which docs/calibration-predictions.md is judged."""
    click.echo("\n### Predictions\n")
    for key in PRIMARY_KEYS:
        for form_key in filter(None, (key, find_held_out_key(models, key))):
            print_pair_slopes(models, form_key)
            print_replicates(models, replicates, form_key)
    for condition in CONDITIONS:
        print_agreement(models, condition)
    for form in FORMS:
        slopes = [
            f"{model.name} {fit_information(model, form):.2f}" for model in models if np.ptp(model.log_frequencies) > 0
        ]
        click.echo(f"* information gap, {form}: slope over -ln(frequency) {', '.join(slopes)}")
        print_information_of_equal_frequencies(models, form)
    for condition, form in product(CONDITIONS, FORMS):
        count, slope = fit_kept_range(models, condition, form)
        click.echo(
            f"* kept range, {condition} {form}: {slope:+.1%} per factor of e at equal shares in the generic prompt; at "
            f"least {format_count(count, 'video')} of 60 of each shape"
        )


def print_information_of_equal_frequencies(models: Sequence[ModelValues], form: str) -> None:
    """Print how far the information gaps of shapes differ in models in which all shapes are equally frequent."""
    for model in models:
        if np.ptp(model.log_frequencies) == 0:
            gaps = model.values_by_measure[f"information gap|guidance-1 {form}"].mean((0, 2))
            click.echo(f"  {model.name}: gaps of the shapes from {gaps.min():.2f} to {gaps.max():.2f} nats")


def list_unequal_pairs(models: Sequence[ModelValues]) -> list[tuple[ModelValues, ModelValues]]:
    """Return all pairs of models of other frequencies."""
    return [pair for pair in combinations(models, 2) if (pair[0].log_frequencies != pair[1].log_frequencies).any()]


def print_pair_slopes(models: Sequence[ModelValues], key: str) -> None:
    """Print the range of the slopes of a measure in all pairs of models of other frequencies."""
    slopes = [
        compute_slope(*average_replicates(pair, compute_relative_means(pair, key)))
        for pair in list_unequal_pairs(models)
    ]
    click.echo(
        f"* {key}: slopes of {len(slopes)} pairs of models from {format_amount(min(slopes), key)} to "
        f"{format_amount(max(slopes), key)}, {sum(slope < 0 for slope in slopes)} of them negative"
    )


def print_replicates(models: Sequence[ModelValues], replicates: Sequence[ModelValues], key: str) -> None:
    """Print how far two models of equal frequencies differ, and any two models of other frequencies."""
    first, second = compute_relative_means(replicates, key)
    others = [np.subtract(*compute_relative_means(pair, key)).std() for pair in list_unequal_pairs(models)]
    equal, least, most = (
        format_amount(float(value), key).lstrip("+") for value in ((first - second).std(), min(others), max(others))
    )
    click.echo(
        f"  standard deviation of the difference between two models: {equal} for equal frequencies, {least} to {most} "
        "for others"
    )


def print_agreement(models: Sequence[ModelValues], condition: str) -> None:
    """Print how many measures have the same sign in both sentence forms, and how many follow colours."""
    keys = list_measures(models, f"{condition} main")
    fits = {key: fit_measure(models, key) for key in keys}
    clear = [key for key, fit in fits.items() if fit.interval[0] > 0 or fit.interval[1] < 0]
    opposite = [
        key.partition("|")[0]
        for key in clear
        if (held_out_key := find_held_out_key(models, key))
        and fits[key].slope * fit_measure(models, held_out_key).slope <= 0
    ]
    small = [key.partition("|")[0] for key in keys if fit_colours(models, key).p < 0.05]
    click.echo(
        f"* {condition}: the interval of {len(clear)} of {len(keys)} measures excludes 0; the held-out form has the "
        f"opposite sign for {', '.join(opposite) or 'none'}"
    )
    click.echo(f"  p below .05 over colours: {len(small)} of {len(keys)}: {', '.join(small) or 'none'}")


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
            "frequency in training": [format_share(share) for share in shares],
            "right shape, guidance 4": [f"{v:.2f}" for v in model.shapes_right_by_condition["guidance-4 main"]],
            "right shape, guidance 1": [f"{v:.2f}" for v in model.shapes_right_by_condition["guidance-1 main"]],
        }
        for condition, counts in model.generic_counts_by_condition.items():
            rows[f'drawn for "shape", {condition}'] = [format_share(count / counts.sum()) for count in counts]
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
    """Print what each metric responds to, from stored values of each video."""
    if measured_folder:
        data_folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(measured_folder.glob("*.npz")):
            np.savez_compressed(data_folder / path.name, **collect_model(path))  # type: ignore[arg-type]
    models = read_models(data_folder)
    replicates = [model for model in models if model.name in REPLICATE_NAMES]
    click.echo(f"{len(models)} models: {', '.join(model.name for model in models)}")
    if write_table:
        TABLE_PATH.write_text(json.dumps(build_table(models), indent=1) + "\n", encoding="utf-8")
    print_models(models)
    for condition in (*CONDITIONS, "unipc-20"):
        print_sensitivities(models, replicates, condition)
    print_predictions(models, replicates)
    for condition in CONDITIONS:
        print_slopes_by_model(models, f"{condition} main")


if __name__ == "__main__":
    main()
