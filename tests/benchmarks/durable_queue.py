"""The queue and the manifest with 10,000 videos, and what checksums and checkpoints cost.

python tests/benchmarks/durable_queue.py

The peer of every figure of the queue is a bare SQLite transaction of one row on the same disk, in the same run.
"""

import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from wantui.config import load_config
from wantui.generation.checkpoint import CheckpointListener
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.load import load_pipeline, resolve_device
from wantui.models.catalogue import find_model
from wantui.planning import plan_batch
from wantui.queue.events import StepDone
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest, write_batch_files
from wantui.storage.manifest_store import ManifestStore
from wantui.storage.trajectory_writer import TrajectoryWriter
from wantui.storage.zarr_group import verify_capture

BATCHES, VIDEOS = 10, 1000


def measure_median_ms(rounds: int, action: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def measure_queue(state: Path) -> None:
    """Claims, listing and following."""
    queue = Queue(state)
    recipe = plan_batch(load_config("nano", []), "a large red circle moving left").videos[0].recipe.to_json()
    for batch in range(BATCHES):
        queue.add_batch(
            Path(f"/outputs/{batch}"), "auto", [NewVideo(i, f"red seed {i}", recipe, 20) for i in range(VIDEOS)]
        )
    bare = sqlite3.connect(state / "bare.db", isolation_level=None)
    bare.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE t (x)")
    transaction = measure_median_ms(500, lambda: bare.execute("INSERT INTO t VALUES (1)"))

    def claim_and_finish() -> None:
        claim = queue.claim_next_video("w", ("auto", "cpu"))
        assert claim is not None
        queue.record_done(claim)

    click.echo(f"{BATCHES * VIDEOS:,} videos queued; a bare transaction of one row takes {transaction:.3f} ms")
    claim = measure_median_ms(500, lambda: queue.claim_next_video("w", ("auto", "cpu")))
    queue.recover_interrupted_videos()
    queue.resume_queue()
    click.echo(f"  claim                     {claim:8.3f} ms, {claim / transaction:.1f} bare transactions")
    both = measure_median_ms(500, claim_and_finish)
    click.echo(f"  claim and done            {both:8.3f} ms, {both / transaction:.1f} bare transactions")
    click.echo(f"  all batches with counts   {measure_median_ms(50, lambda: queue.list_batches()):8.3f} ms")
    click.echo(f"  first page of a batch     {measure_median_ms(50, lambda: queue.list_videos(5, 50)):8.3f} ms")


def measure_follower(state: Path, seconds: float) -> None:
    """Latency and processor time of one that follows as `wantui watch` does, beside a writer of ten steps a second."""
    follower = Queue(state)
    claim = Queue(state).claim_next_video("w", ("auto", "cpu"))
    assert claim is not None
    written: list[float] = []
    over = threading.Event()

    def write() -> None:
        chance, mine = random.Random(0), Queue(state)
        while not over.wait(chance.uniform(0, 0.2)):
            written.append(time.monotonic())
            mine.record_step(claim, StepDone(step=len(written), steps=10_000, seconds=0.1, sigma=0.5))

    latencies, after, version, cpu = [], follower.read_last_event_seq(), -1, 0.0
    thread = threading.Thread(target=write)
    thread.start()
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        busy = time.thread_time()
        if (now := follower.read_data_version()) != version:
            version = now
            for event in follower.list_events(after, claim.batch_number):
                after = event.seq
                if isinstance(event.payload, StepDone):
                    latencies.append(time.monotonic() - written[event.payload.step - 1])
        cpu += time.thread_time() - busy
        time.sleep(0.1)
    over.set()
    thread.join()
    click.echo(f"follower, polling every 100 ms for {seconds:.0f} s")
    click.echo(f"  notices a change after    {1000 * max(latencies):8.1f} ms at most")
    click.echo(f"  takes                     {100 * cpu / seconds:8.3f} % of a core")


def measure_listing() -> None:
    """`wantui queue ls` as a process, beside an interpreter that does nothing."""
    bare = measure_median_ms(7, lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
    program = str(Path(sys.executable).parent / "wantui")
    listed = measure_median_ms(7, lambda: subprocess.run([program, "queue", "ls"], capture_output=True, check=True))
    click.echo(f"wantui queue ls             {listed:8.1f} ms as a process, the bare interpreter {bare:.1f} ms")


def measure_checkpoints(folder: Path, rounds: int) -> None:
    """Denoising nano with and without checkpoints, in turns."""
    recipe = plan_batch(load_config("nano", []), "a large red circle moving left").videos[0].recipe
    pipeline = load_pipeline(find_model("nano"), None, recipe.dtype, resolve_device("auto"))
    spent: list[float] = []
    count = 0

    def run(with_checkpoints: bool) -> float:
        nonlocal count
        tap = CheckpointListener(pipeline, recipe, folder / "v.checkpoint", {}, time.perf_counter)
        start = prepare_inputs(pipeline, recipe)
        tap.on_start(start, 0)
        began = time.perf_counter()
        for step in denoise_latents(pipeline, recipe, start):
            if with_checkpoints:
                before, earliest = time.perf_counter(), tap.next_write_at
                tap.on_step(step)
                spent.append(time.perf_counter() - before)
                count += tap.next_write_at != earliest
        return time.perf_counter() - began

    run(True)
    spent, count = [], 0
    seconds = [run(True) for _ in range(rounds)]
    click.echo(f"checkpoints of nano on {pipeline.device}, {recipe.steps} steps, {rounds} videos")
    click.echo(f"  written                   {count / rounds:8.1f} a video")
    click.echo(f"  take                      {100 * sum(spent) / sum(seconds):8.3f} % of the time")


def measure_manifest(folder: Path, videos: int) -> None:
    """Bytes written for each finished video of a batch, beside rewriting the manifest; and what is read again."""
    batch = BatchFolder(folder / f"batch-{videos}")
    batch.root.mkdir()
    settings = ["videos_per_variation=" + str(videos), "model_settings.steps=20"]
    write_batch_files(batch, plan_batch(load_config("nano", settings), "a large red circle moving left"))
    size, record, written = batch.manifest_path.stat().st_size, ManifestStore(batch), 0

    def finish(entry: VideoEntry) -> None:
        entry.state, entry.latents_sha256, entry.bytes, entry.peak_memory = "done", "0" * 64, 123_456, 1 << 34
        entry.files = {"clip": "videos/prompt_000/video_001.mp4", "latents": "latents/prompt_000/vid_001.zarr"}
        entry.seconds, entry.sha256 = {"denoise": 12.345, "decode": 1.234, "step": 0.6172}, {"clip": "0" * 64}

    def written_so_far() -> int:
        return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])

    times = []
    for number in range(videos):
        before, began = written_so_far(), time.perf_counter()
        record.edit_video_entry(number, finish)
        times.append(time.perf_counter() - began)
        written += written_so_far() - before
    click.echo(f"a batch of {videos:,} videos, whose manifest has {size / 1e6:.1f} MB")
    click.echo(f"  written a finished video  {written / videos:8,.0f} bytes; rewriting the manifest {size:,} bytes")
    click.echo(f"  written for the batch     {written / 1e6:8.1f} MB; rewriting {size * videos / 1e6:,.0f} MB")
    click.echo(f"  recording a video takes   {1000 * statistics.median(times):8.2f} ms")
    click.echo(f"  reading both files takes  {measure_median_ms(3, lambda: read_manifest(batch)):8.1f} ms")


def measure_checksums(folder: Path) -> None:
    """Cost of verifying a capture of 51 states of a 1.3B video in 480p, 49 frames, beside reading its bytes."""
    shape, steps = (16, 13, 60, 104), 50
    recipe = plan_batch(load_config("nano", ["model_settings.steps=50", "latent_analysis_settings.store_latents=true"]),
                        "a star").videos[0].recipe  # fmt: skip
    sigmas = np.linspace(1, 0, steps + 1)
    writer = TrajectoryWriter(folder / "v.zarr", shape, list(sigmas), list(sigmas[:-1]), recipe)
    state = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for step in range(steps + 1):
        writer.write_state(step, state)
    began = time.perf_counter()
    writer.finish_group({"gram": np.eye(steps + 1)}, {})
    published = time.perf_counter() - began
    size = sum(file.stat().st_size for file in (folder / "v.zarr").rglob("*") if file.is_file())
    read = measure_median_ms(
        3, lambda: [file.read_bytes() for file in (folder / "v.zarr").rglob("*") if file.is_file()]
    )
    verified = measure_median_ms(3, lambda: verify_capture(folder / "v.zarr"))
    click.echo(f"checksums of {size / 1e6:.0f} MB of states: published (synced) in {1000 * published:.0f} ms,")
    click.echo(f"  verified in {verified:.0f} ms; its bytes alone are read in {read:.0f} ms")


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Videos for the cost of checkpoints.")
@click.option("--seconds", default=20.0, show_default=True, help="How long to follow.")
def main(rounds: int, seconds: float) -> None:
    """Print all figures."""
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        state = find_state_directory().directory
        for videos in (1_000, 10_000):
            measure_manifest(Path(folder), videos)
        measure_checksums(Path(folder))
        measure_queue(state)
        measure_listing()
        measure_follower(state, seconds)
        measure_checkpoints(Path(folder), rounds)


if __name__ == "__main__":
    main()
