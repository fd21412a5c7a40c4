"""Measure how much of the attention to a word lies on its object: python tests/benchmarks/attention_localisation.py
[--seeds 24].

nano's attention was supervised, so the place of an object is the known target of the maps of its words. The videos
are generated first, by several processes; then the maps are compared with the decoded clips.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from decoded_frames import decode_float_frames

from wantui.analysis.statistics import compute_paired_effect
from wantui.config import load_config
from wantui.formatting import format_share
from wantui.generation.captures import attention as attention_capture
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import NANO
from wantui.models.nano.attributes import RGB_BY_BACKGROUND, SHAPES
from wantui.planning import Recipe, plan_batch
from wantui.storage.attention_maps import open_attention_maps
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest, write_batch_files, write_manifest

TEMPLATE = f"a large ([red|blue]) ([{'|'.join(SHAPES)}]) moving [left|right] over a dark background"
FIRST_SEED = 1_000_000
MIN_OBJECT_DISTANCE = 0.25
"""Distance from the colour of the background, of 1, from which a pixel belongs to an object."""


@cache
def load_nano(device: str) -> WanPipeline:
    """Load nano, once in each process."""
    torch.set_num_threads(1)
    return load_pipeline(NANO, None, "float32", torch.device(device))


def generate_video(job: tuple[Path, int, Recipe, int, int], device: str) -> None:
    """Generate one video; store its attention maps, and where its object is."""
    root, index, recipe, variation, number = job
    folder, background = BatchFolder(root), BackgroundWriter()
    pipeline = load_nano(device)
    maps_path = folder.make_attention_path(variation, number)
    maps_path.parent.parent.mkdir(exist_ok=True)
    recorder = attention_capture.Recorder(maps_path, recipe, background, (), is_resumable=False)
    start = prepare_inputs(pipeline, recipe)
    recorder.on_start(start, 0)
    for step in denoise_latents(pipeline, recipe, start):
        recorder.on_step(step)
        latents = step.latents
    recorder.on_end()
    background.close()
    frames = decode_float_frames(pipeline, latents)
    np.save(root / f"object_{index:05d}.npy", locate_object(frames))


def locate_object(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of object pixels [latent frames, 8, 8] of frames [17, 128, 128, 3]."""
    is_object = np.abs(frames - np.array(RGB_BY_BACKGROUND["dark"], dtype=np.float32)).max(3) > MIN_OBJECT_DISTANCE
    cells = is_object.reshape(len(frames), 8, 16, 8, 16).mean((2, 4))
    return np.stack([cells[0], *(cells[i : i + 4].mean(0) for i in range(1, len(frames), 4))]).astype(np.float32)


def generate_batch(root: Path, seed_count: int, process_count: int, device: str) -> None:
    """Generate a batch folder whose videos have attention maps, without clips."""
    settings = [
        "use_timestamp=false",
        f"videos_per_variation={seed_count}",
        f"model_settings.seed={FIRST_SEED}",
        "attention_analysis_settings.store_attention=true",
    ]
    batch = plan_batch(load_config("nano", settings), TEMPLATE)
    folder = BatchFolder(root)
    manifest = write_batch_files(folder, batch)
    jobs = [(root, i, video.recipe, video.variation_index, video.seed_number) for i, video in enumerate(batch.videos)]
    start_time = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(process_count) as pool:
        for done_count, _ in enumerate(pool.imap_unordered(partial(generate_video, device=device), jobs), start=1):
            if done_count % 50 == 0:
                click.echo(f"{done_count} of {len(jobs)} in {time.monotonic() - start_time:.0f} s", err=True)
    for entry in manifest.videos:
        entry.state = "done"
        maps_path = folder.make_attention_path(entry.variation, entry.number)
        entry.files = {"attention": maps_path.relative_to(root).as_posix()}
    write_manifest(folder, manifest)


def measure_localisation(root: Path) -> Iterable[str]:
    """Yield a row for colour and shape: how well attention tells the cells of the object from the others (ROC area)."""
    manifest = read_manifest(BatchFolder(root))
    areas_by_seed: dict[str, dict[int, list[float]]] = {"colour": {}, "shape": {}}
    shares: dict[str, list[float]] = {"colour": [], "shape": []}
    object_areas = []
    for index, entry in enumerate(manifest.videos):
        maps = open_attention_maps(root / entry.files["attention"])
        is_object = np.load(root / f"object_{index:05d}.npy") > 0.5
        if not 0 < is_object.sum() < is_object.size:
            continue
        object_areas.append(float(is_object.mean()))
        for kind, word in zip(("colour", "shape"), maps.metadata_by_word, strict=True):
            attention = maps.read_mean_map(word).mean(0)
            ranks = np.argsort(np.argsort(attention.ravel())).reshape(attention.shape)
            n = is_object.sum()
            area = (ranks[is_object].sum() - n * (n - 1) / 2) / (n * (is_object.size - n))
            areas_by_seed[kind].setdefault(entry.seed, []).append(float(area))
            shares[kind].append(float(attention[is_object].sum() / attention.sum()))
    for kind, by_seed in areas_by_seed.items():
        effect = compute_paired_effect(np.array([np.mean(areas) for areas in by_seed.values()]) - 0.5)
        yield (
            f"| {kind} | {0.5 + effect.mean:.3f} ({0.5 + effect.interval_low:.3f} to {0.5 + effect.interval_high:.3f}) "
            f"| {format_share(float(np.mean(shares[kind])), 1)} | {format_share(float(np.mean(object_areas)), 1)} |"
        )


@click.command()
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("outputs/attention_localisation"), show_default=True
)
@click.option("--seeds", "seed_count", default=24, show_default=True)
@click.option("--processes", "process_count", default=os.cpu_count() or 1, show_default="one for each core")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(folder: Path, seed_count: int, process_count: int, device: str) -> None:
    """Generate the videos, unless the folder holds them, and print where attention lies."""
    if not (folder / "batch.json").exists():
        generate_batch(folder, seed_count, process_count, device)
    click.echo("| word | area under ROC of its attention | attention on the object | area of the object |")
    click.echo("|---|---|---|---|")
    for row in measure_localisation(folder):
        click.echo(row)


if __name__ == "__main__":
    main()
