"""Time of an analysis: python tests/benchmarks/analysis.py. 51 states of 480x832x81, 2.1 million values each.

From stored inner products: a whole batch, in this process. From stored latents: each in a process of its own with cold
caches, beside reading the same bytes with `read`, and beside a straightforward script with numpy and scikit-learn.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import zarr

from wantui.analysis.compare import compare_groups
from wantui.analysis.loading import read_batch_videos
from wantui.analysis.metrics import METRICS
from wantui.captures.trajectory import MAX_PROJECTION_DIMENSION
from wantui.config import load_config
from wantui.planning import plan_batch
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import write_batch_files, write_manifest

SHAPE, STEPS = (16, 21, 60, 104), 50
DIMENSION = int(np.prod(SHAPE))


def make_batch(root: Path, videos: int, latents: bool) -> Path:
    """A batch of straight paths with some bend, as if it had been made."""
    settings = ["use_timestamp=false", f"videos_per_variation={videos // 2}", f"model_settings.steps={STEPS}"]
    batch = plan_batch(load_config("nano", settings), "a [red|blue] circle")
    folder = BatchFolder(root)
    manifest = write_batch_files(folder, batch)
    rng, sigmas = np.random.default_rng(0), np.linspace(1, 0, STEPS + 1)
    bend = np.sin(np.pi * sigmas)
    for entry in manifest.videos:
        path = folder.make_trajectory_path(entry.variation, entry.number)
        group = zarr.open_group(path, mode="w")
        group.attrs["shape"] = list(SHAPE)
        mixing = np.stack([sigmas, 1 - sigmas, bend * rng.uniform(0.05, 0.15)], axis=1)
        group.create_array("gram", data=DIMENSION * mixing @ mixing.T)
        group.create_array("sigmas", data=sigmas)
        group.create_array("steps", data=np.arange(STEPS + 1) if latents else np.arange(0))
        group.create_array("channel_power", data=np.ones((STEPS + 1, SHAPE[0])))
        if latents:
            parts = rng.standard_normal((3, *SHAPE), dtype=np.float32)
            array = group.create_array(
                "latents", shape=(STEPS + 1, *SHAPE), chunks=(1, *SHAPE), dtype="float32", compressors=None
            )
            for i, weights in enumerate(mixing.astype(np.float32)):
                array[i] = np.tensordot(weights, parts, 1)
        else:
            sketch = rng.standard_normal((3, MAX_PROJECTION_DIMENSION)) * np.sqrt(DIMENSION / MAX_PROJECTION_DIMENSION)
            group.create_array("projection", data=(mixing @ sketch).astype(np.float32))
        entry.state = "done"
        entry.files = {"latents": path.relative_to(root).as_posix()}
    write_manifest(folder, manifest)
    return root


def list_latent_files(root: Path) -> list[Path]:
    """The files that the latents lie in."""
    return [path for path in root.rglob("latents/c/**/*") if path.is_file()]


def drop_page_cache(root: Path) -> None:
    """Have the kernel drop what it keeps of these files in memory."""
    for path in list_latent_files(root):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def compute_metrics_from_latents(root: Path) -> None:
    """Every metric from the stored latents."""
    for video in read_batch_videos(root, from_latents=True):
        assert video.trajectory is not None
        for metric in METRICS:
            video.compute_metric(metric)


def read_all_bytes(root: Path) -> None:
    """Nothing but reading the bytes."""
    for path in list_latent_files(root):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def compute_with_scikit_learn(root: Path) -> None:
    """Lengths, turning and principal components as one writes them down."""
    from sklearn.decomposition import PCA

    for path in sorted(root.glob("latents/*/*.zarr")):
        states = zarr.open_group(path, mode="r")["latents"][:].reshape(STEPS + 1, -1)
        steps = np.diff(states, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        cosine = (steps[1:] * steps[:-1]).sum(1) / lengths[1:] / lengths[:-1]
        np.arccos(np.clip(cosine, -1, 1)).sum()
        np.linalg.norm(states[-1] - states[0]) / lengths.sum()
        PCA(3).fit(states)


WAYS: dict[str, Callable[[Path], None]] = {
    "reading": read_all_bytes,
    "ours": compute_metrics_from_latents,
    "straightforward": compute_with_scikit_learn,
}


def measure_in_fresh_process(way: str, root: Path) -> tuple[float, float]:
    """Seconds, and gibibytes of memory at most, in a process of its own with cold caches."""
    drop_page_cache(root)
    done = subprocess.run(
        [sys.executable, __file__, "--one", way, str(root)], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    return result["seconds"], result["peak"]


@click.command()
@click.option("--videos", default=100, show_default=True, help="Of the batch with stored inner products.")
@click.option("--with-latents", default=4, show_default=True, help="Videos with latents, 0.43 GB each.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk that is measured.")
@click.option("--one", nargs=2, hidden=True)
def main(videos: int, with_latents: int, rounds: int, folder: Path | None, one: tuple[str, str] | None) -> None:
    """Print how long an analysis takes, and its ratio to a straightforward script."""
    if one is not None:
        began = time.perf_counter()
        WAYS[one[0]](Path(one[1]))
        seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        click.echo(json.dumps({"seconds": seconds, "peak": peak}))
        return
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = make_batch(Path(temporary) / "grams", videos, latents=False)
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            result = list(read_batch_videos(root))
            for video in result:
                for metric in METRICS:
                    video.compute_metric(metric)
            times.append(time.perf_counter() - began)
        click.echo(f"{videos} videos x {STEPS + 1} states, all metrics from stored inner products: ", nl=False)
        click.echo(f"{statistics.median(times):.2f} s")
        began = time.perf_counter()
        compare_groups(result)
        click.echo(f"comparing their two groups of {videos // 2}: {time.perf_counter() - began:.2f} s")
        root = make_batch(Path(temporary) / "latents", with_latents, latents=True)
        size = sum(path.stat().st_size for path in list_latent_files(root)) / 1e9
        click.echo(f"{with_latents} videos with stored latents, {size:.2f} GB, cold caches, medians of {rounds}:")
        results: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                results[way].append(measure_in_fresh_process(way, root))
        for way, measured in results.items():
            seconds, peak = statistics.median(s for s, _ in measured), max(p for _, p in measured)
            click.echo(f"  {way:<16} {seconds:6.2f} s  {size / seconds:5.2f} GB/s  peak {peak:.2f} GiB")
        ratios = [a[0] / b[0] for a, b in zip(results["ours"], results["straightforward"], strict=True)]
        click.echo(f"  ours / straightforward: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
