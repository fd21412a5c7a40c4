"""Does the instrument see what nano was trained to? python tests/benchmarks/calibration.py [--seeds 24].

Nano saw circles in 45 of 100 objects and rings in 3; colours were equally frequent. With held-out seeds this asks
whether any measure of spread orders the shapes by their frequency, whether equally frequent colours come out alike,
how often halves of one prompt are called different, and whether attention to a word lies on what it names.
The videos are made first, 576 and 96 of them with 24 seeds, by several processes; then everything is analysed.
"""

import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from wantui.analysis.compare import SPREAD, Comparison, compare
from wantui.analysis.read import read_batch
from wantui.analysis.statistics import effect, null_splits
from wantui.analysis.trajectory import METRICS
from wantui.analysis.video import Video
from wantui.config import load_config
from wantui.generation.capture import AttentionTap, TrajectoryTap
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import denoise, prepare
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import NANO
from wantui.models.nano.world import BACKGROUNDS, SHAPE_FREQUENCIES, SHAPES
from wantui.planning import Recipe, plan_batch
from wantui.storage.attention import open_maps
from wantui.storage.background import BackgroundWriter
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest, start_folder, write_manifest

SHAPES_TEMPLATE = f"a large ([red|blue]) ([{'|'.join(SHAPES)}]) moving [left|right] over a dark background"
ONE_TEMPLATE = "a large red circle moving left over a dark background"
FIRST_SEED = 1_000_000
ON_OBJECT = 0.25
"""Distance from the background's colour, of 1, from which a pixel belongs to an object."""


def make(job: tuple[Path, int, Recipe, int, int], device: str) -> None:
    """Make one video as far as it is analysed: trajectory, attention maps, and where the object is."""
    global pipeline
    root, index, recipe, variation, number = job
    folder, background = BatchFolder(root), BackgroundWriter()
    if "pipeline" not in globals():
        torch.set_num_threads(1)
        pipeline = load_pipeline(NANO, None, "float32", torch.device(device))
    taps = [TrajectoryTap(folder.latents(variation, number), recipe, background, (), resumable=False)]
    if recipe.capture.attention is not None:
        taps.append(AttentionTap(folder.attention(variation, number), recipe, background, ()))
    start = prepare(pipeline, recipe)
    for tap in taps:
        tap.on_start(start, 0)
    for step in denoise(pipeline, recipe, start):
        for tap in taps:
            tap.on_step(step)
        latents = step.latents
    for tap in taps:
        tap.on_end()
    background.close()
    frames = np.stack(list(decode_frames(pipeline, latents)))
    np.save(root / f"object_{index:05d}.npy", where_the_object_is(frames))


def where_the_object_is(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """[latent frames, 8, 8] share of pixels that are no background, of frames [17, 128, 128, 3]."""
    distance = np.abs(frames - np.array(BACKGROUNDS["dark"], dtype=np.float32)).max(3) > ON_OBJECT
    cells = distance.reshape(len(frames), 8, 16, 8, 16).mean((2, 4))
    return np.stack([cells[0], *(cells[i : i + 4].mean(0) for i in range(1, len(frames), 4))]).astype(np.float32)


def make_batch(root: Path, template: str, seeds: int, attention: bool, processes: int, device: str) -> None:
    """A batch folder whose videos have trajectories (and maps), without clips."""
    settings = ["use_timestamp=false", f"videos_per_variation={seeds}", f"model_settings.seed={FIRST_SEED}"]
    if attention:
        settings.append("attention_analysis_settings.store_attention=true")
    batch = plan_batch(load_config("nano", settings), template)
    folder = BatchFolder(root)
    manifest = start_folder(folder, batch)
    jobs = [(root, i, video.recipe, video.variation, video.number) for i, video in enumerate(batch.videos)]
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(partial(make, device=device), jobs), start=1):
            if done % 50 == 0:
                click.echo(f"{done} of {len(jobs)} in {time.time() - began:.0f} s", err=True)
    for entry in manifest.videos:
        entry.state = "done"
        entry.files = {"latents": folder.latents(entry.variation, entry.number).relative_to(root).as_posix()}
        if attention:
            entry.files["attention"] = folder.attention(entry.variation, entry.number).relative_to(root).as_posix()
    write_manifest(folder, manifest)


def by_frequency(found: Comparison, metric: str, values: NDArray[np.float64], controls: Sequence[Comparison]) -> str:
    """A row: mean for each shape, the slope over ln frequency (one for each seed), and what the controls show."""
    frequencies = np.log([SHAPE_FREQUENCIES[group.name] for group in found.groups])
    centred = frequencies - frequencies.mean()
    slopes = values @ centred / (centred @ centred)
    said, means = effect(slopes), values.mean(0)
    ranks = np.corrcoef(np.argsort(np.argsort(means)), np.argsort(np.argsort(frequencies)))[0, 1]
    shown = " | ".join(f"{mean:.4g}" for mean in means)
    if metric in METRICS and not METRICS[metric].is_ratio:
        slope = f"{said.mean:+.3f} ({said.low:+.3f} to {said.high:+.3f}) {METRICS[metric].unit}"
    else:
        mean = abs(float(values.mean()))
        slope = f"{said.mean / mean:+.1%} ({said.low / mean:+.1%} to {said.high / mean:+.1%})"
    beside = []
    for control in controls:
        same = next((d for d in control.differences if d.metric == metric), None)
        if same is None:
            beside.append("")
        elif math.isfinite(same.share):
            beside.append(f"{same.share:+.1%} ({same.low:+.1%} to {same.high:+.1%})")
        else:
            beside.append(f"{same.effect.mean:+.3f} ({same.effect.low:+.3f} to {same.effect.high:+.3f})")
    return f"| {metric} | {shown} | {slope} | {said.size:.2f} | {said.p:.2g} | {ranks:+.2f} | {' | '.join(beside)} |"


def of_seeds(found: Comparison, metric: str) -> NDArray[np.float64]:
    """[seeds, groups], mean over wordings."""
    columns = [np.array([video.value(metric) for video in group.videos]) for group in found.groups]
    return np.stack([column.reshape(len(found.seeds), -1).mean(1) for column in columns], axis=1)


def spread_of_seeds(found: Comparison) -> NDArray[np.float64]:
    """[seeds, groups] of `spread`: distance to the centroid of the videos of the same shape."""
    columns = []
    for group in found.groups:
        final = np.stack([video.projection()[-1] for video in group.videos]).astype(np.float64)
        n = len(final)
        distance = np.linalg.norm(final - final.mean(0), axis=1) * math.sqrt(n / (n - 1) / group.videos[0].dimension)
        columns.append(distance.reshape(len(found.seeds), -1).mean(1))
    return np.stack(columns, axis=1)


def within_wording(found: Comparison) -> NDArray[np.float64]:
    """[seeds, groups] distance to the centroid of the videos of the same sentence."""
    columns = []
    for group in found.groups:
        own: dict[str, list[Video]] = {}
        for video in group.videos:
            own.setdefault(video.prompt, []).append(video)
        each = []
        for videos in own.values():
            final = np.stack([video.projection()[-1] for video in videos]).astype(np.float64)
            n = len(final)
            each.append(np.linalg.norm(final - final.mean(0), axis=1) * math.sqrt(n / (n - 1) / videos[0].dimension))
        columns.append(np.mean(each, axis=0))
    return np.stack(columns, axis=1)


def localisation(root: Path) -> Iterable[str]:
    """How well attention to the colour and to the shape tells the object's places from the others (area under ROC)."""
    manifest = read_manifest(BatchFolder(root))
    scores: dict[str, dict[int, list[float]]] = {"colour": {}, "shape": {}}
    shares: dict[str, list[float]] = {"colour": [], "shape": []}
    areas = []
    for index, entry in enumerate(manifest.videos):
        maps = open_maps(root / entry.files["attention"])
        covered = np.load(root / f"object_{index:05d}.npy")
        on = covered > 0.5
        if not 0 < on.sum() < on.size:
            continue
        areas.append(float(on.mean()))
        for kind, word in zip(("colour", "shape"), maps.words, strict=True):
            a = maps.mean(word).mean(0)
            order = np.argsort(np.argsort(a.ravel())).reshape(a.shape)
            n = on.sum()
            area = (order[on].sum() - n * (n - 1) / 2) / (n * (on.size - n))
            scores[kind].setdefault(entry.seed, []).append(float(area))
            shares[kind].append(float(a[on].sum() / a.sum()))
    for kind, by_seed in scores.items():
        said = effect(np.array([np.mean(own) for own in by_seed.values()]) - 0.5)
        yield (
            f"| {kind} | {0.5 + said.mean:.3f} ({0.5 + said.low:.3f} to {0.5 + said.high:.3f}) | "
            f"{np.mean(shares[kind]):.1%} | {np.mean(areas):.1%} |"
        )


def false_positives(videos: Sequence[Video]) -> Iterable[str]:
    """A/A: share of 500 random splits of one prompt's seeds that a test at 5 % calls different."""
    final = np.stack([video.projection()[-1] for video in videos]).astype(np.float64)
    distances = np.linalg.norm(final - final.mean(0), axis=1)
    for metric in (SPREAD, "length", "turning", "curvature", "effective_dimension", "commitment"):
        values = distances if metric == SPREAD else np.array([video.value(metric) for video in videos])
        _, p = null_splits(values)
        yield f"| {metric} | {np.mean(p <= 0.05):.1%} | {np.mean(p <= 0.01):.1%} |"


def report(shapes: Path, one: Path) -> None:
    """Print everything, as tables in Markdown."""
    videos = list(read_batch(shapes))
    found = compare(videos, by="2")
    names = " | ".join(f"{group.name} {SHAPE_FREQUENCIES[group.name]:.0%}" for group in found.groups)
    click.echo(f"{len(videos)} videos, {len(found.seeds)} seeds, {found.groups[0].wordings} wordings for each shape\n")
    controls = (compare(videos, by="1"), compare(videos, by="3"))
    heads = ("for e times the frequency", "d_z", "p", "rank correlation", "red - blue", "left - right")
    click.echo(f"| metric | {names} | {' | '.join(heads)} |")
    click.echo("|---|" + "---|" * (len(found.groups) + len(heads)))
    click.echo(by_frequency(found, "spread", spread_of_seeds(found), controls))
    click.echo(by_frequency(found, "spread within a sentence", within_wording(found), controls))
    for metric in METRICS:
        click.echo(by_frequency(found, metric, of_seeds(found, metric), controls))
    click.echo("\nVerdicts on spread, circle against the others:\n")
    for verdict in found.verdicts:
        if verdict.one == "circle":
            click.echo(f"- {verdict.text}")
    click.echo("\nThe same of colours and of directions, which were equally frequent:\n")
    for control in controls:
        click.echo(f"- {control.verdicts[0].text}")
    click.echo(
        "\n| word | area under ROC of its attention | attention on the object | area of the object |\n|---|---|---|---|"
    )
    for row in localisation(shapes):
        click.echo(row)
    alone = list(read_batch(one))
    click.echo(f"\nOne prompt, {len(alone)} seeds, 500 random splits in halves:\n")
    click.echo("| metric | called different at 5 % | at 1 % |\n|---|---|---|")
    for row in false_positives(alone):
        click.echo(row)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("outputs/calibration"), show_default=True)
@click.option("--seeds", default=24, show_default=True)
@click.option("--processes", default=os.cpu_count() or 1, show_default="one for each core")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(folder: Path, seeds: int, processes: int, device: str) -> None:
    """Make the videos, unless the folder holds them, and print what the instrument says of them."""
    shapes, one = folder / "shapes", folder / "one"
    if not (shapes / "batch.json").exists():
        make_batch(shapes, SHAPES_TEMPLATE, seeds, True, processes, device)
    if not (one / "batch.json").exists():
        make_batch(one, ONE_TEMPLATE, 4 * seeds, False, processes, device)
    report(shapes, one)


if __name__ == "__main__":
    main()
