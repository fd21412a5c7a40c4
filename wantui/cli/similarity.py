"""wantui similarity: how similar the videos of a batch are to a baseline with the same seed."""

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.analyze_output import check_csv_file, write_csv_table
from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_device_option, add_json_option
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.progress_line import open_progress_line
from wantui.cli.types import BATCH_FOLDER_TYPE, UserPath
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.storage.manifest import Manifest
    from wantui.storage.similarity_file import BatchSimilarity, FrameMeasure, VideoSimilarity

SCORE_FIELD_BY_METRIC = {
    "ssim": "ssim",
    "psnr": "psnr",
    "clip": "clip_cosine",
    "lpips": "lpips",
    "latents": "latent_distance",
}
"""Field of `VideoSimilarity` by metric."""
DEFAULT_METRICS = ("ssim", "psnr", "latents")
"""Metrics that need no network."""


@click.command("similarity", cls=WantuiCommand)
@click.argument("batch", type=BATCH_FOLDER_TYPE)
@click.option(
    "--baseline",
    required=True,
    metavar="WHICH",
    help="Videos to compare with: `baseline` (the sweep's --baseline), values of swept settings (cfg_scale=1), a "
    "cell, a variation ID, or a video ID.",
)
@click.option(
    "--metrics",
    default=",".join(DEFAULT_METRICS),
    show_default=True,
    help=f"Comma-separated metrics, any of {', '.join(SCORE_FIELD_BY_METRIC)}.",
)
@click.option(
    "--clip-model",
    default="openai/clip-vit-base-patch32",
    show_default=True,
    metavar="MODEL",
    help="CLIP model of --metrics clip: a folder, or a name in the Hugging Face cache.",
)
@add_device_option
@click.option(
    "--sort",
    type=click.Choice(tuple(SCORE_FIELD_BY_METRIC)),
    help="Metric to sort by, most similar first.  [default: unsorted]",
)
@add_json_option
@click.option("--csv", "csv_path", type=UserPath(allow_dash=True), help="CSV file to write; - writes to stdout.")
def command(
    batch: Path,
    baseline: str,
    metrics: str,
    clip_model: str,
    device: str,
    sort: str | None,
    as_json: bool,
    csv_path: Path | None,
) -> None:
    """Measure how similar each video of BATCH is to its baseline, which has the same seed unless WHICH is one video.

    SSIM, PSNR, CLIP and LPIPS compare frames; `latents` compares the final latents. The result is stored in
    BATCH/analysis/similarity.json; the library and the gallery show it. Measurements that are impossible are reported
    on stderr; the exit code is then 1.
    """
    from wantui.analysis.similarity import measure_pair, pair_with_baseline, require_ssim
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest
    from wantui.storage.similarity_file import BatchSimilarity, get_similarity_path, write_similarity
    from wantui.storage.write_checks import check_result_path, explain_write_error

    names = _parse_metrics(metrics, sort)
    get_source = click.get_current_context().get_parameter_source
    if "clip" not in names and get_source("clip_model") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("cannot use --clip-model here: it applies only to --metrics clip")
    if as_json and csv_path is not None:
        raise UserError("cannot combine --json and --csv. Choose one")
    check_csv_file(csv_path)
    manifest = read_manifest(BatchFolder(batch))
    pairs = pair_with_baseline(manifest, baseline.strip(), batch)
    if "ssim" in names:
        require_ssim()
    check_result_path(batch, get_similarity_path(batch))
    frame_measures = _load_frame_measures(names, clip_model, device)
    by_video: dict[str, VideoSimilarity] = {}
    faults: list[str] = []
    with open_progress_line() as line:
        for number, pair in enumerate(pairs):
            line.show_count(f"comparing with {baseline}: {number} of {format_count(len(pairs), 'video')}")
            similarity, reasons = measure_pair(batch, pair, names, frame_measures)
            if similarity.clip_cosine is not None:
                similarity = similarity.model_copy(update={"clip_model": clip_model})
            faults += [f"{manifest.make_video_title(pair.video)}: {reason}" for reason in reasons]
            if similarity.list_scores() or not reasons:
                by_video[pair.video.id] = similarity
    if not by_video:
        raise UserError(f"cannot compare any video with {baseline}: {faults[0]}")
    result = BatchSimilarity(baseline.strip(), datetime.now(UTC).isoformat(timespec="seconds"), by_video)
    try:
        path = write_similarity(batch, result)
    except OSError as error:
        raise UserError(explain_write_error(error, get_similarity_path(batch))) from None
    _print_result(manifest, result, names, sort, as_json, csv_path)
    echo(f"written: {path}", err=True)
    for fault in faults:
        echo(fault, err=True)
    if faults:
        sys.exit(1)


def _load_frame_measures(names: Sequence[str], clip_model: str, device: str) -> "dict[str, FrameMeasure]":
    """Load the networks of the metrics that need one.

    Raises:
        UserError: a network is not on this machine.
    """
    measures: dict[str, FrameMeasure] = {}
    if "clip" in names:
        from wantui.generation.perceptual import load_clip_measure

        measures[SCORE_FIELD_BY_METRIC["clip"]] = load_clip_measure(clip_model, device)
    if "lpips" in names:
        from wantui.generation.perceptual import load_lpips_measure

        measures[SCORE_FIELD_BY_METRIC["lpips"]] = load_lpips_measure(device)
    return measures


def _parse_metrics(written: str, sort: str | None) -> list[str]:
    names = list(dict.fromkeys(filter(None, (word.strip() for word in written.split(",")))))
    unknown = [name for name in names if name not in SCORE_FIELD_BY_METRIC]
    if unknown or not names:
        raise UserError(
            f"--metrics: unknown metric {', '.join(unknown) or written!r}. Choose from: "
            f"{', '.join(SCORE_FIELD_BY_METRIC)}"
        )
    if sort is not None and sort not in names:
        raise UserError(f"--sort: {sort} is not measured. Add it to --metrics")
    return names


def _print_result(
    manifest: "Manifest",
    result: "BatchSimilarity",
    names: list[str],
    sort: str | None,
    as_json: bool,
    csv_path: Path | None,
) -> None:
    from wantui.storage.similarity_file import DISTANCE_SCORES

    entries = [entry for entry in manifest.videos if entry.id in result.by_video]
    if sort is not None:
        score_name = SCORE_FIELD_BY_METRIC[sort]
        sign = 1 if score_name in DISTANCE_SCORES else -1

        def find_rank(similarity: "VideoSimilarity") -> float:
            score = getattr(similarity, score_name)
            if score is None:
                return -math.inf if similarity.frames_equal and sort == "psnr" else math.inf
            return float(sign * score)

        entries.sort(key=lambda entry: find_rank(result.by_video[entry.id]))
    if as_json:
        print_json(
            [
                {
                    "id": entry.id,
                    "video": manifest.make_video_title(entry),
                    "variation": manifest.variations[entry.variation].id,
                    "seed": entry.seed,
                    **result.by_video[entry.id].model_dump(mode="json", exclude={"clip_checksums"}),
                }
                for entry in entries
            ]
        )
        return
    score_names = [SCORE_FIELD_BY_METRIC[name] for name in names]
    rows = []
    for entry in entries:
        scores = [getattr(result.by_video[entry.id], name) for name in score_names]
        rows.append((manifest.make_video_title(entry), ["" if score is None else f"{score:.5g}" for score in scores]))
    if csv_path is not None:
        write_csv_table(csv_path, [["video", *score_names], *([title, *cells] for title, cells in rows)])
        return
    print_columns(("video", *score_names), *((title, *(cell or "-" for cell in cells)) for title, cells in rows))
