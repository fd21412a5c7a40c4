"""similarity.json: the similarity of a batch's videos to a baseline, as last measured by `wantui similarity`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wantui.atomic_files import write_text_atomically
from wantui.json_files import UnreadableFileError, describe_first_validation_error, read_json_object
from wantui.storage.locks import lock_manifest
from wantui.storage.manifest import Manifest
from wantui.storage.mp4 import Frame
from wantui.storage.video_files import make_parent_folders

MAX_SIMILARITY_BYTES = 64 << 20
FrameMeasure = Callable[[Frame, Frame], float]
"""Measure of two frames, uint8 [height, width, rgb]."""
Score = Annotated[float, Field(allow_inf_nan=False)] | None


class VideoSimilarity(BaseModel):
    """Similarity of one video to its baseline; None for scores that were not measured or cannot be measured."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    baseline: str
    """Id of the baseline."""
    clip_checksums: tuple[str, str] = ("", "")
    """SHA-256 of the clip and of the baseline's clip when they were measured; empty if unknown."""
    ssim: Score = None
    """Mean structural similarity of the frames: 1 for equal frames."""
    psnr: Score = None
    """Peak signal-to-noise ratio of all frames in dB; None for equal frames, where it is infinite."""
    frames_equal: bool = False
    """True if all frames are equal."""
    clip_cosine: Score = None
    """Mean cosine of the CLIP image embeddings of the frames: 1 for equal frames."""
    clip_model: str = ""
    """Folder or name of the CLIP model."""
    lpips: Score = None
    """Mean LPIPS distance of the frames: 0 for equal frames."""
    latent_distance: Score = None
    """Distance of the final latents / sqrt(D)."""
    latents: Literal["stored", "projected", ""] = ""
    """Source of the distance: stored latents, or projections of them (1 % standard error)."""

    def list_scores(self) -> list[str]:
        """Return the scores for people, such as "SSIM 0.91"."""
        sign = "≈" if self.latents == "projected" else ""
        return [
            *([] if self.ssim is None else [f"SSIM {self.ssim:.3f}"]),
            *([] if self.psnr is None else [f"PSNR {self.psnr:.1f} dB"]),
            *(["equal frames"] if self.frames_equal else []),
            *([] if self.clip_cosine is None else [f"CLIP {self.clip_cosine:.3f}"]),
            *([] if self.lpips is None else [f"LPIPS {self.lpips:.3f}"]),
            *([] if self.latent_distance is None else [f"latent distance {sign}{self.latent_distance:.3g}"]),
        ]


SCORE_LABELS = {
    "ssim": "SSIM",
    "psnr": "PSNR",
    "clip_cosine": "CLIP",
    "lpips": "LPIPS",
    "latent_distance": "latent distance",
}
"""Names of the scores for people, by field of `VideoSimilarity`."""
DISTANCE_SCORES = ("lpips", "latent_distance")
"""Scores that are smaller for more similar videos."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore")

    format: Literal[1] = 1
    baseline: str
    created: str
    videos: dict[str, VideoSimilarity]


@dataclass(frozen=True)
class BatchSimilarity:
    """Content of similarity.json."""

    baseline: str = ""
    """Baseline as the user wrote it; empty without a measurement."""
    created: str = ""
    """Time of the measurement, in UTC."""
    by_video: Mapping[str, VideoSimilarity] = field(default_factory=dict)
    """Similarity by video id."""
    fault: str = ""
    """Reason why the file cannot be read."""


NO_SIMILARITY = BatchSimilarity()
"""Similarity of a batch that was not measured."""


def get_similarity_path(batch_folder: Path) -> Path:
    """Return the path of similarity.json in a batch folder."""
    return batch_folder / "analysis" / "similarity.json"


def write_similarity(batch_folder: Path, similarity: BatchSimilarity) -> Path:
    """Replace similarity.json atomically while the batch is locked, because several processes may write the file.

    Raises:
        OSError: the file cannot be written.
    """
    path = get_similarity_path(batch_folder)
    make_parent_folders(batch_folder, path)
    document = _Document(baseline=similarity.baseline, created=similarity.created, videos=dict(similarity.by_video))
    with lock_manifest(batch_folder):
        write_text_atomically(path, document.model_dump_json(indent=1) + "\n")
    return path


def read_similarity(batch_folder: Path, manifest: Manifest) -> BatchSimilarity:
    """Read similarity.json, without videos whose clip or baseline has changed since; a damaged file has a `fault`."""
    path = get_similarity_path(batch_folder)
    try:
        document = _Document.model_validate(read_json_object(path, MAX_SIMILARITY_BYTES))
    except FileNotFoundError:
        return BatchSimilarity()
    except UnreadableFileError as error:
        return BatchSimilarity(fault=str(error))
    except ValidationError as error:
        return BatchSimilarity(fault=f"{path} is damaged: {describe_first_validation_error(error)}")
    checksums = {entry.id: entry.sha256.get("clip", "") for entry in manifest.videos}
    current = {
        video_id: similarity
        for video_id, similarity in document.videos.items()
        if (checksums.get(video_id), checksums.get(similarity.baseline)) == similarity.clip_checksums
    }
    return BatchSimilarity(document.baseline, document.created, current)


def to_json_score(value: float) -> float | None:
    """Return a score for the JSON file; None if it is not finite."""
    return float(value) if math.isfinite(value) else None
