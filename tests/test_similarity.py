"""Similarity to a baseline: pairs, scores against closed forms and scikit-image, the stored file, and who shows it."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from clip_batches import SIDE, write_clip_batch
from conftest import MakeOnce, Wantui, generate_batch

import wantui as package
from wantui.analysis import similarity as module
from wantui.analysis.similarity import PairedVideos, compute_latent_distance, measure_pair, pair_with_baseline
from wantui.errors import UserError
from wantui.gallery.batch_grid import read_batch_grid
from wantui.gallery.page import write_gallery
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.storage.manifest_axes import AxisLayout, BatchAxes
from wantui.storage.marks import BatchMarks
from wantui.storage.mp4 import read_frames
from wantui.storage.similarity_file import get_similarity_path, read_similarity
from wantui.storage.zarr_group import open_capture
from wantui.tui.library.video_matrix import MatrixView, arrange_matrix

pytestmark = pytest.mark.slow

BATCH = Path("outputs/swept")
CLIP_METRICS = ("--metrics", "psnr")


@pytest.fixture
def manifest() -> Manifest:
    return write_clip_batch(BATCH, "a [red|blue] circle", more=("sweeps=cfg_scale=1,4; steps=3,5",))


def describe(entry: VideoEntry) -> tuple[int, float, int, int]:
    return entry.variation, entry.recipe.guidance_scale, entry.recipe.steps, entry.seed


def test_each_video_is_paired_with_the_same_seed_and_other_settings(manifest: Manifest) -> None:
    pairs = pair_with_baseline(manifest, "cfg_scale=1", BATCH)
    assert [(describe(pair.video), describe(pair.baseline)) for pair in pairs] == [
        ((v, 4.0, steps, seed), (v, 1.0, steps, seed)) for v in (0, 1) for steps in (3, 5) for seed in (42, 43)
    ]
    both = pair_with_baseline(manifest, "cfg_scale=1,steps=3", BATCH)
    assert len(both) == 12
    assert {describe(pair.baseline)[1:3] for pair in both} == {(1.0, 3)}
    assert all((p.video.variation, p.video.seed) == (p.baseline.variation, p.baseline.seed) for p in both)
    by_label = pair_with_baseline(manifest, "cfg_scale 1, steps 3", BATCH)
    assert [(p.video.id, p.baseline.id) for p in by_label] == [(p.video.id, p.baseline.id) for p in both]


def test_baseline_may_be_a_variation_or_one_video(manifest: Manifest) -> None:
    pairs = pair_with_baseline(manifest, "red", BATCH)
    assert {pair.video.variation for pair in pairs} == {1}
    assert all(describe(pair.video)[1:] == describe(pair.baseline)[1:] for pair in pairs)
    one = pair_with_baseline(manifest, manifest.videos[5].id[:8], BATCH)
    assert {pair.baseline.id for pair in one} == {manifest.videos[5].id}
    assert len(one) == len(manifest.videos) - 1


def test_own_baseline_of_a_sweep_is_found_by_its_flag() -> None:
    more = ("sweeps=cfg_scale=1,4", "sweeps_baseline=true", "model_settings.cfg_scale=3")
    manifest = write_clip_batch(BATCH, "a circle", more=more)
    pairs = pair_with_baseline(manifest, "baseline", BATCH)
    assert [describe(pair.baseline)[1] for pair in pairs] == [3.0] * 4


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("baseline", "has no baseline cell. Name a value, such as cfg_scale=1"),
        ("cfg=1", "no swept setting 'cfg'. Write NAME=VALUE; swept settings: cfg_scale, steps"),
        ("cfg_scale=2", "cfg_scale has no value '2'. Choose from: 1, 4"),
        ("green", "has no 'green'. .* one of: cfg_scale 1, steps 3"),
    ],
)
def test_unknown_baseline_is_refused_with_the_known_ones(manifest: Manifest, written: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pair_with_baseline(manifest, written, BATCH)


def test_psnr_equals_its_definition_on_decoded_frames(manifest: Manifest) -> None:
    pair = pair_with_baseline(manifest, "cfg_scale=1", BATCH)[0]
    similarity, reasons = measure_pair(BATCH, pair, ["psnr"])
    frames, reference = (
        np.stack(list(read_frames(BATCH / entry.files["clip"]))).astype(float) for entry in (pair.video, pair.baseline)
    )
    assert reasons == []
    assert similarity.psnr == pytest.approx(10 * math.log10(255**2 / ((frames - reference) ** 2).mean()))
    same, _ = measure_pair(BATCH, PairedVideos(pair.video, pair.video), ["psnr"])
    assert (same.psnr, same.frames_equal) == (None, True)


def compute_ssim_by_hand(first: np.ndarray, second: np.ndarray) -> float:
    """Return SSIM of Wang et al. 2004 with an 11x11 Gaussian window, by its formula at each position of one channel."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for y in range(5, first.shape[0] - 5):
        for x in range(5, first.shape[1] - 5):
            a, b = (image[y - 5 : y + 6, x - 5 : x + 6].astype(float) for image in (first, second))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            values.append(numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


def test_ssim_equals_its_definition() -> None:
    pytest.importorskip("skimage")
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    second = np.clip(first.astype(int) + random.integers(-40, 40, first.shape), 0, 255).astype(np.uint8)
    expected = np.mean([compute_ssim_by_hand(first[..., c], second[..., c]) for c in range(3)])
    assert module.compute_ssim(first, second) == pytest.approx(expected, abs=1e-6)
    assert module.compute_ssim(first, first) == pytest.approx(1)
    with pytest.raises(UserError, match="at least 11x11"):
        module.compute_ssim(first[:8], second[:8])


def test_ssim_without_its_package_is_refused_with_the_remedy(
    manifest: Manifest, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    result = wantui("similarity", BATCH, "--baseline", "cfg_scale=1")
    assert result.code == 2
    assert "scikit-image is not installed. Install it with pip install 'wantui[similarity]'" in result.err
    assert "--metrics psnr,latents" in result.err


def test_similarity_is_stored_printed_and_shown(manifest: Manifest, wantui: Wantui) -> None:
    result = wantui("similarity", BATCH, "--baseline", "cfg_scale=1", *CLIP_METRICS, "--sort", "psnr", "--json")
    assert result.code == 0, result.err
    records = json.loads(result.out)
    assert len(records) == 8
    assert [record["psnr"] for record in records] == sorted((record["psnr"] for record in records), reverse=True)
    stored = read_similarity(BATCH, manifest)
    assert stored.baseline == "cfg_scale=1"
    assert {video_id: video.psnr for video_id, video in stored.by_video.items()} == {
        record["id"]: record["psnr"] for record in records
    }
    grid = arrange_matrix(BATCH, manifest, BatchMarks(), similarity=stored)
    shown_text = {cell.entry.id: cell.similarity for cell in grid.cells.values()}
    assert {video_id for video_id, text in shown_text.items() if text} == stored.by_video.keys()
    for cell in grid.cells.values():
        if (video := stored.by_video.get(cell.entry.id)) is not None:
            word = ("red", "blue")[cell.entry.variation]
            assert cell.similarity.startswith(f"PSNR {video.psnr:.1f} dB to {word}")
    page = write_gallery(read_batch_grid(BATCH), BATCH / "gallery.html").read_text()
    assert '"similarity_baseline": "cfg_scale=1"' in page
    table = wantui("similarity", BATCH, "--baseline", "cfg_scale=1", *CLIP_METRICS, "--csv", "-").out
    assert table.splitlines()[0] == "video,psnr"


def test_target_that_cannot_be_written_is_refused_before_videos_are_compared(
    manifest: Manifest, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wantui.analysis.similarity.measure_pair", None)  # must not be called
    (BATCH / "analysis").write_text("a file")
    result = wantui("similarity", BATCH, "--baseline", "cfg_scale=1")
    assert (result.code, "analysis is not a folder" in result.err) == (2, True)


def test_rows_of_the_matrix_are_sorted_by_their_mean_score(manifest: Manifest, wantui: Wantui) -> None:
    wantui("similarity", BATCH, "--baseline", "cfg_scale=1,steps=3", *CLIP_METRICS)
    stored = read_similarity(BATCH, manifest)
    layouts = BatchAxes(manifest, range(len(manifest.videos))).list_layouts()
    number = layouts.index(AxisLayout(("steps",), ("cfg_scale",), ("variation", "seed")))
    plain, by_score = (
        arrange_matrix(BATCH, manifest, BatchMarks(), view=MatrixView(number, 0, score), similarity=stored)
        for score in ("", "psnr")
    )
    means = [
        np.mean([s.psnr for c in range(2) if (s := stored.by_video.get(plain.cells[r, c].entry.id)) and s.psnr])
        for r in range(2)
    ]
    order = sorted(range(2), key=lambda row: -means[row])
    assert by_score.row_labels == tuple(plain.row_labels[row] for row in order)
    assert [by_score.cells[r, 1].entry.id for r in range(2)] == [plain.cells[r, 1].entry.id for r in order]
    assert by_score.describe_axes(60).endswith(", sorted by PSNR")


def test_similarity_of_changed_clips_is_ignored(manifest: Manifest, wantui: Wantui) -> None:
    wantui("similarity", BATCH, "--baseline", "cfg_scale=1", *CLIP_METRICS)
    pair = pair_with_baseline(manifest, "cfg_scale=1", BATCH)[0]
    for entry in manifest.videos:
        entry.sha256["clip"] = "other" if entry.id == pair.baseline.id else ""
    assert len(read_similarity(BATCH, manifest).by_video) == 7


def test_damaged_similarity_is_reported_not_shown(manifest: Manifest, wantui: Wantui) -> None:
    path = get_similarity_path(BATCH)
    path.parent.mkdir()
    path.write_text('{"format": 1, "videos": {"x": {"baseline": 3}}}')
    assert "similarity.json is damaged" in read_similarity(BATCH, manifest).fault
    result = wantui("gallery", BATCH)
    assert result.code == 1
    assert "similarity.json is damaged" in result.err


def test_damaged_clip_is_reported_and_skipped(manifest: Manifest, wantui: Wantui) -> None:
    pair = pair_with_baseline(manifest, "cfg_scale=1", BATCH)[0]
    (BATCH / pair.video.files["clip"]).write_bytes(b"not a clip")
    result = wantui("similarity", BATCH, "--baseline", "cfg_scale=1", *CLIP_METRICS)
    assert result.code == 1
    assert f"{manifest.make_video_title(pair.video)}:" in result.err
    assert pair.video.id not in read_similarity(BATCH, manifest).by_video


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics", "fvd"), "--metrics: unknown metric 'fvd'. Choose from: ssim, psnr, clip, lpips, latents"),
        (("--metrics", "psnr", "--clip-model", "x"), "--clip-model here: it applies only to --metrics clip"),
        (("--metrics", "psnr", "--sort", "ssim"), "--sort: ssim is not measured"),
        (("--metrics", "psnr", "--json", "--csv", "-"), "cannot combine --json and --csv. Choose one"),
        (("--metrics", "latents"), "cannot compare any video with cfg_scale=1: .* has no stored trajectory"),
    ],
)
@pytest.mark.usefixtures("manifest")
def test_impossible_similarity_is_refused(wantui: Wantui, options: Sequence[str], message: str) -> None:
    result = wantui("similarity", BATCH, "--baseline", "cfg_scale=1", *options)
    assert result.code == 2
    assert re.search(message, result.err)


@pytest.mark.torch
@pytest.mark.parametrize("stored", [True, False])
def test_latent_distance_equals_that_of_the_final_latents(
    make_once: MakeOnce, small: list[str], stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["-t", "a [red|blue] circle", "--videos-per-variation", 2, "--store-latents", *small]
    folder = make_once("similarity-latents", lambda folder: generate_batch(folder, *options)) / "batch"
    manifest = read_manifest(BatchFolder(folder))
    videos = {video.id: video for video in package.open_batch(folder).videos}
    for pair in pair_with_baseline(manifest, "red", folder):
        ends = [videos[entry.id].read_latents().states[-1].astype(float) for entry in (pair.video, pair.baseline)]
        expected = math.sqrt(((ends[0] - ends[1]) ** 2).mean())
        if not stored:
            monkeypatch.setattr(module, "open_capture", lambda path, recipe: HiddenLatents(open_capture(path, recipe)))
        distance, source = compute_latent_distance(folder, pair)
        assert source == ("stored" if stored else "projected")
        assert distance == pytest.approx(expected, rel=1e-9 if stored else 0.1)


class HiddenLatents:
    """A capture whose latents are not stored."""

    def __init__(self, group: object) -> None:
        self.group = group
        self.attrs = group.attrs  # type: ignore[attr-defined]

    def __contains__(self, name: str) -> bool:
        return name != "latents" and name in self.group  # type: ignore[operator]

    def __getitem__(self, name: str) -> object:
        return self.group[name]  # type: ignore[index]
