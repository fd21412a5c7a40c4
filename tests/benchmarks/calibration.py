"""Does the instrument see what nano was trained to? python tests/benchmarks/calibration.py [--seeds 24].

Nano saw circles in 45 of 100 objects and rings in 3; colours and directions were equally frequent. With held-out seeds
this asks whether any measure orders the shapes by their frequency (the shapes are the units of that question, six of
them, so that p comes from their 720 orders), how much equally frequent colours and directions differ (all pairs of
them), what is left with a converged sampler and without guidance, how often disjoint seeds of one prompt are called
different in spread, and whether attention to a word lies on what it names. The videos are made first, by several
processes; then everything is analysed. `--only` makes and prints some parts.
"""

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray

from wantui.analysis.compare import Comparison, compare_groups
from wantui.analysis.differences import format_difference
from wantui.analysis.dispersion import compute_distances_to_median, compute_squared_distances
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.loading import read_batch_videos
from wantui.analysis.metrics import METRICS
from wantui.analysis.statistics import compute_paired_effect, run_sign_flip_test
from wantui.analysis.video import Video
from wantui.config import load_config
from wantui.generation.captures import Recorder
from wantui.generation.captures import attention as attention_capture
from wantui.generation.captures import trajectory as trajectory_capture
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import NANO
from wantui.models.nano.attributes import FREQUENCY_BY_SHAPE, RGB_BY_BACKGROUND, RGB_BY_COLOUR, SHAPES
from wantui.planning import Recipe, plan_batch
from wantui.storage.attention_maps import open_attention_maps
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest, write_batch_files, write_manifest


class Part(NamedTuple):
    """A batch of the calibration."""

    template: str
    seeds: float = 1
    """Times the seeds that are asked for."""
    settings: tuple[str, ...] = ()
    has_attention: bool = False


SHAPE = "|".join(SHAPES)
ONE_OF_EACH = f"a large red [{SHAPE}] moving left over a dark background"
CONVERGED = ("model_settings.sampler=euler", "model_settings.steps=50")
PARTS = {
    "shapes": Part(f"a large ([red|blue]) ([{SHAPE}]) moving [left|right] over a dark background", has_attention=True),
    "colours": Part(f"a large [{'|'.join(RGB_BY_COLOUR)}] circle moving left over a dark background"),
    "directions": Part("a large red circle moving [left|right|up|down] over a dark background"),
    "guided": Part(ONE_OF_EACH, 0.5, CONVERGED),
    "unguided": Part(ONE_OF_EACH, 0.5, (*CONVERGED, "model_settings.cfg_scale=1")),
    "one": Part("a large red circle moving left over a dark background", 4),
}
FIRST_SEED = 1_000_000
ON_OBJECT = 0.25
"""Distance from the background's colour, of 1, from which a pixel belongs to an object."""


@cache
def nano_on(device: str) -> WanPipeline:
    """Load nano, once in each process."""
    torch.set_num_threads(1)
    return load_pipeline(NANO, None, "float32", torch.device(device))


def make(job: tuple[Path, int, Recipe, int, int], device: str) -> None:
    """Make one video as far as it is analysed: trajectory, attention maps, and where the object is."""
    root, index, recipe, variation, number = job
    folder, background = BatchFolder(root), BackgroundWriter()
    pipeline = nano_on(device)
    trajectories = folder.make_trajectory_path(variation, number)
    recorders: list[Recorder] = [trajectory_capture.Recorder(trajectories, recipe, background, (), is_resumable=False)]
    trajectories.parent.parent.mkdir(exist_ok=True)
    if recipe.capture.attention is not None:
        maps = folder.make_attention_path(variation, number)
        recorders.append(attention_capture.Recorder(maps, recipe, background, (), is_resumable=False))
        maps.parent.parent.mkdir(exist_ok=True)
    start = prepare_inputs(pipeline, recipe)
    for recorder in recorders:
        recorder.on_start(start, 0)
    for step in denoise_latents(pipeline, recipe, start):
        for recorder in recorders:
            recorder.on_step(step)
        latents = step.latents
    for recorder in recorders:
        recorder.on_end()
    background.close()
    if recipe.capture.attention is None:
        return
    frames = np.stack(list(decode_frames(pipeline, latents)))
    np.save(root / f"object_{index:05d}.npy", where_the_object_is(frames))


def where_the_object_is(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """[latent frames, 8, 8] share of pixels that are no background, of frames [17, 128, 128, 3]."""
    distance = np.abs(frames - np.array(RGB_BY_BACKGROUND["dark"], dtype=np.float32)).max(3) > ON_OBJECT
    cells = distance.reshape(len(frames), 8, 16, 8, 16).mean((2, 4))
    return np.stack([cells[0], *(cells[i : i + 4].mean(0) for i in range(1, len(frames), 4))]).astype(np.float32)


def make_batch(root: Path, part: Part, seeds: int, processes: int, device: str) -> None:
    """Make a batch folder whose videos have trajectories (and maps), without clips."""
    count = max(2, round(part.seeds * seeds))
    settings = ["use_timestamp=false", f"videos_per_variation={count}", f"model_settings.seed={FIRST_SEED}"]
    settings += part.settings
    if part.has_attention:
        settings.append("attention_analysis_settings.store_attention=true")
    batch = plan_batch(load_config("nano", settings), part.template)
    folder = BatchFolder(root)
    manifest = write_batch_files(folder, batch)
    jobs = [(root, i, video.recipe, video.variation_index, video.seed_number) for i, video in enumerate(batch.videos)]
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(partial(make, device=device), jobs), start=1):
            if done % 50 == 0:
                click.echo(f"{done} of {len(jobs)} in {time.time() - began:.0f} s", err=True)
    for entry in manifest.videos:
        entry.state = "done"
        entry.files = {
            "latents": folder.make_trajectory_path(entry.variation, entry.number).relative_to(root).as_posix()
        }
        if part.has_attention:
            entry.files["attention"] = (
                folder.make_attention_path(entry.variation, entry.number).relative_to(root).as_posix()
            )
    write_manifest(folder, manifest)


def slope(frequencies: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slope over the frequencies of the last axis of some values."""
    centred = frequencies - frequencies.mean()
    return np.asarray(values @ centred / (centred @ centred))


def p_over_shapes(frequencies: NDArray[np.float64], means: NDArray[np.float64]) -> float:
    """Return the share of orders of the shapes with a slope as large; the least is 1 / 720."""
    orders = np.array(list(itertools.permutations(range(len(means)))))
    slopes = np.abs(slope(frequencies, means[orders]))
    return float(np.mean(slopes >= slopes[0] * (1 - 1e-9)))


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))[0, 1])


def by_frequency(result: Comparison, metric: str, values: NDArray[np.float64]) -> str:
    """Return a row: mean for each shape, the slope over ln frequency with its interval over seeds, p over shapes."""
    frequencies = np.log([FREQUENCY_BY_SHAPE[group.name] for group in result.groups])
    slopes, means = compute_paired_effect(slope(frequencies, values)), values.mean(0)
    shown = " | ".join(f"{mean:.4g}" for mean in means)
    if metric in METRICS and not METRICS[metric].has_ratio_scale:
        message = (
            f"{slopes.mean:+.3f} ({slopes.interval_low:+.3f} to {slopes.interval_high:+.3f}) {METRICS[metric].unit}"
        )
    else:
        mean = abs(float(values.mean()))
        message = f"{slopes.mean / mean:+.1%} ({slopes.interval_low / mean:+.1%} to {slopes.interval_high / mean:+.1%})"
    p = p_over_shapes(frequencies, means)
    return f"| {metric} | {shown} | {message} | {p:.2g} | {rank_correlation(means, frequencies):+.2f} |"


def of_controls(result: Comparison, metric: str) -> str:
    """Return the largest difference between equally frequent groups, and how many of the pairs are significant."""
    own = [d for d in result.differences if d.metric == metric]
    largest = max(own, key=lambda d: abs(d.paired_effect.mean))
    called = sum(d.paired_effect.p <= 0.05 for d in own)
    return f"{largest.first_group} - {largest.second_group}: {format_difference(largest)} | {called} of {len(own)}"


def of_seeds(result: Comparison, metric: str) -> NDArray[np.float64]:
    """[seeds, groups], mean over phrasings."""
    columns = [np.array([video.compute_metric(metric) for video in group.videos]) for group in result.groups]
    return np.stack([column.reshape(len(result.seeds), -1).mean(1) for column in columns], axis=1)


def spread_of_seeds(result: Comparison) -> NDArray[np.float64]:
    """[seeds, groups] of `spread`: distance to the median of the videos of the same shape."""
    return np.stack([_spread(group.videos).reshape(len(result.seeds), -1).mean(1) for group in result.groups], axis=1)


def within_phrasing(result: Comparison) -> NDArray[np.float64]:
    """[seeds, groups] distance to the median of the videos of the same sentence."""
    columns = []
    for group in result.groups:
        own: dict[str, list[Video]] = {}
        for video in group.videos:
            own.setdefault(video.prompt, []).append(video)
        columns.append(np.mean([_spread(videos) for videos in own.values()], axis=0))
    return np.stack(columns, axis=1)


def _spread(videos: Sequence[Video]) -> NDArray[np.float64]:
    final = np.stack([video.load_projection()[-1] for video in videos])
    return compute_distances_to_median(compute_squared_distances(final) / videos[0].dimension)


def localisation(root: Path) -> Iterable[str]:
    """How well attention to the colour and to the shape tells the object's places from the others (area under ROC)."""
    manifest = read_manifest(BatchFolder(root))
    scores: dict[str, dict[int, list[float]]] = {"colour": {}, "shape": {}}
    shares: dict[str, list[float]] = {"colour": [], "shape": []}
    areas = []
    for index, entry in enumerate(manifest.videos):
        maps = open_attention_maps(root / entry.files["attention"])
        covered = np.load(root / f"object_{index:05d}.npy")
        on = covered > 0.5
        if not 0 < on.sum() < on.size:
            continue
        areas.append(float(on.mean()))
        for kind, word in zip(("colour", "shape"), maps.metadata_by_word, strict=True):
            a = maps.read_mean_map(word).mean(0)
            order = np.argsort(np.argsort(a.ravel())).reshape(a.shape)
            n = on.sum()
            area = (order[on].sum() - n * (n - 1) / 2) / (n * (on.size - n))
            scores[kind].setdefault(entry.seed, []).append(float(area))
            shares[kind].append(float(a[on].sum() / a.sum()))
    for kind, by_seed in scores.items():
        message = compute_paired_effect(np.array([np.mean(own) for own in by_seed.values()]) - 0.5)
        yield (
            f"| {kind} | {0.5 + message.mean:.3f} ({0.5 + message.interval_low:.3f} to "
            f"{0.5 + message.interval_high:.3f}) | "
            f"{np.mean(shares[kind]):.1%} | {np.mean(areas):.1%} |"
        )


def false_positives(videos: Sequence[Video], splits: int = 500) -> tuple[float, float]:
    """Return how often two disjoint halves of one prompt's seeds are called different in spread, at 5 % and at 1 %.

    Halves are paired at random, and spread is computed anew in each: values of other metrics do not depend on the
    half, and would be called different as often as the test's level says whatever they are.
    """
    distances = compute_squared_distances(np.stack([video.load_projection()[-1] for video in videos]))
    random, half, p = np.random.default_rng(0), len(videos) // 2, []
    for _ in range(splits):
        order = random.permutation(len(videos))
        one, other = (
            compute_distances_to_median(distances[np.ix_(own, own)]) for own in (order[:half], order[half : 2 * half])
        )
        p.append(run_sign_flip_test(one - other))
    return float(np.mean(np.array(p) <= 0.05)), float(np.mean(np.array(p) <= 0.01))


def report_shapes(folder: Path) -> None:
    videos = list(read_batch_videos(folder))
    result = compare_groups(videos, grouping="2")
    names = " | ".join(f"{group.name} {FREQUENCY_BY_SHAPE[group.name]:.0%}" for group in result.groups)
    click.echo(
        f"{len(videos)} videos, {len(result.seeds)} seeds, {result.groups[0].phrasing_count} phrasings for each shape\n"
    )
    heads = ("for e times the frequency (95 % over seeds)", "p over shapes", "rank correlation")
    click.echo(f"| metric | {names} | {' | '.join(heads)} |")
    click.echo("|---|" + "---|" * (len(result.groups) + len(heads)))
    click.echo(by_frequency(result, "spread", spread_of_seeds(result)))
    click.echo(by_frequency(result, "spread within a sentence", within_phrasing(result)))
    for metric in METRICS:
        click.echo(by_frequency(result, metric, of_seeds(result, metric)))
    for warning in result.warnings:
        click.echo(f"- {warning}")
    click.echo("\n| word | area under ROC of its attention | attention on the object | area of the object |")
    click.echo("|---|---|---|---|")
    for row in localisation(folder):
        click.echo(row)


def report_controls(folders: Sequence[Path]) -> None:
    result = [compare_groups(list(read_batch_videos(folder)), grouping="1") for folder in folders]
    heads = [
        f"largest of {len(own.groups)} {folder.name} | p <= .05" for own, folder in zip(result, folders, strict=True)
    ]
    click.echo(f"\n{[len(own.seeds) for own in result]} seeds\n\n| metric | {' | '.join(heads)} |")
    click.echo("|---|" + "---|" * (2 * len(result)))
    for metric in (SPREAD_METRIC, *METRICS):
        click.echo(f"| {metric} | {' | '.join(of_controls(own, metric) for own in result)} |")


def report_converged(folders: Sequence[Path]) -> None:
    """Print the means of six shapes with 50 Euler steps, with and without guidance."""
    for folder in folders:
        result = compare_groups(list(read_batch_videos(folder)), grouping="1")
        names = " | ".join(group.name for group in result.groups)
        click.echo(
            f"\n{folder.name}, {len(result.seeds)} seeds\n\n| metric | {names} | p over shapes | rank correlation |"
        )
        click.echo("|---|" + "---|" * (len(result.groups) + 2))
        frequencies = np.log([FREQUENCY_BY_SHAPE[group.name] for group in result.groups])
        for metric in (SPREAD_METRIC, *METRICS):
            means = (spread_of_seeds(result) if metric == SPREAD_METRIC else of_seeds(result, metric)).mean(0)
            shown = " | ".join(f"{mean:.4g}" for mean in means)
            p = p_over_shapes(frequencies, means)
            click.echo(f"| {metric} | {shown} | {p:.2g} | {rank_correlation(means, frequencies):+.2f} |")
        for warning in result.warnings:
            click.echo(f"- {warning}")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("outputs/calibration"), show_default=True)
@click.option("--seeds", default=24, show_default=True)
@click.option("--processes", default=os.cpu_count() or 1, show_default="one for each core")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="These parts; repeatable.")
def main(folder: Path, seeds: int, processes: int, device: str, only: tuple[str, ...]) -> None:
    """Make the videos, unless the folder holds them, and print what the instrument says of them."""
    chosen = only or tuple(PARTS)
    for name in chosen:
        if not (folder / name / "batch.json").exists():
            make_batch(folder / name, PARTS[name], seeds, processes, device)
    if "shapes" in chosen:
        report_shapes(folder / "shapes")
    if controls := [folder / name for name in ("colours", "directions") if name in chosen]:
        report_controls(controls)
    if converged := [folder / name for name in ("guided", "unguided") if name in chosen]:
        report_converged(converged)
    if "one" in chosen:
        alone = list(read_batch_videos(folder / "one"))
        at_5, at_1 = false_positives(alone)
        click.echo(
            f"\n{len(alone)} seeds of one prompt, 500 splits: spread called different in {at_5:.1%}; at 1 %: {at_1:.1%}"
        )


if __name__ == "__main__":
    main()
