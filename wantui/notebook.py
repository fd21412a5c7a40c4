"""Batches in Python and notebooks: `wantui.open_batch`. Imports no torch.

import pandas
import wantui

batch = wantui.open_batch("outputs/nano_20261128_200212")
table = pandas.DataFrame(batch.metrics())
frames = batch.videos[0].read_frames()
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.setting_values import collect_setting_values
from wantui.errors import UserError
from wantui.paths import expand_user_path
from wantui.planning import Recipe
from wantui.planning.evaluation_prompts import EvaluationPrompt, list_evaluation_prompts
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.storage.manifest_file import list_manifest_warnings
from wantui.storage.manifest_sweep import AxisEntry
from wantui.storage.state_reader import check_stored_states

if TYPE_CHECKING:
    from wantui.analysis.denoising_states import StateKind
    from wantui.analysis.fitted_steps import FittedStep
    from wantui.storage.attention_maps import StoredAttentionMaps


class MissingDataError(UserError):
    """Raised for a clip or capture that a video does not have; the text names the reason."""


@dataclass(frozen=True)
class StoredLatents:
    """The stored states of one denoising run, from noise to video."""

    states: NDArray[np.floating[Any]]
    """Latents [n, channels, frames, height, width], float32 or float16 as stored."""
    sigmas: NDArray[np.float64]
    """Noise level [n] of each state: 1 is pure noise, 0 is the video."""
    steps: NDArray[np.int64]
    """Number of model evaluations [n] before each state."""


@dataclass(frozen=True)
class BatchVideo:
    """One requested video of a batch."""

    folder: Path
    """Batch folder."""
    id: str
    """First twelve digits of the recipe's digest."""
    variation: str
    """Id of the variation."""
    prompt: str
    choices: Mapping[int, str]
    """Text of the chosen option, by bracket number in the template, from 1."""
    seed: int
    state: str
    """queued, running, done, failed, cancelled or interrupted."""
    error: str | None
    """Why the video failed; None otherwise."""
    recipe: Recipe
    """All parameters that determine the video."""
    files: Mapping[str, Path]
    """Existing files by kind: clip, sheet, latents, attention."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values of the swept settings by short name, such as cfg_scale; empty without a sweep."""
    cell: str = ""
    """Label of the sweep cell, such as "cfg_scale 4, steps 20" or "baseline"; empty without a sweep."""
    clip_sha256: str | None = None
    """Recorded SHA-256 of the clip; None if it is unknown."""

    @property
    def name(self) -> str:
        """Return the variation, the seed, and the cell of a sweep."""
        return f"{self.variation} seed {self.seed}" + (f", {self.cell}" if self.cell else "")

    @property
    def step_prompts(self) -> list[EvaluationPrompt]:
        """Return the prompt of each model evaluation; a prompt schedule changes it.

        Each has `prompt`; a mixture of two prompts also has `next_prompt` and its weight, `share`.

        Raises:
            KeyframeError: the recipe was edited, and a keyframe does not fit its steps.
        """
        return list_evaluation_prompts(self.recipe)

    def read_frames(self) -> NDArray[np.uint8]:
        """Decode the clip to uint8 [frames, height, width, rgb].

        Raises:
            MissingDataError: the video has no clip.
            ClipError: the clip cannot be decoded, is damaged, or belongs to another video.
        """
        from wantui.storage.mp4 import read_frames

        return np.stack(list(read_frames(self._find_verified_clip())))

    def read_latents(self) -> StoredLatents:
        """Read the stored states; verifies their checksums.

        Raises:
            MissingDataError: the latents are not stored, only values derived from them, or nothing.
            CaptureError: the files are damaged.
        """
        from wantui.storage.zarr_group import convert_to_capture_error, open_capture

        path = self._find_file("latents", "trajectory")
        group = open_capture(path, self.recipe)
        if "latents" not in group:
            raise MissingDataError(
                f"{self.name} has no stored latents, only values derived from them. Set "
                "latent_analysis_settings.store_latents for future videos"
            )
        with convert_to_capture_error(path):
            steps, sigmas = np.asarray(group["steps"][:]), np.asarray(group["sigmas"][:], dtype=np.float64)
            check_stored_states(steps, group["latents"], len(sigmas))
            return StoredLatents(np.asarray(group["latents"][:]), sigmas[steps], steps.astype(np.int64))

    def draw_steps(
        self, steps: Sequence[str | float] | str | float | None = None, state: "StateKind" = "clean"
    ) -> "list[FittedStep]":
        """Draw small pictures of stored steps by a linear fit of the colours, without the VAE.

        Each result has `moment` (`step` and `sigma`), `frames` uint8 [latent frames, height, width, rgb] with one pixel
        per latent cell, and `r2`, the share of the variance of the clip's colours that the fit explains.

        Args:
            steps: moments such as 10, "50%", "sigma 0.5" and "end", or one of them; all stored steps if None. A number
                is the index of a step.
            state: clean for the clean state that the model predicts at a step, noisy for the state that it receives.

        Raises:
            UserError: a moment cannot be read, or there is no such kind of state.
            MissingDataError: the video has no trajectory or no clip.
            MissingStatesError: the latents are not stored, or not at these steps.
            CaptureError, ClipError: the files are damaged.
        """
        from wantui.analysis.denoising_states import DenoisingStates
        from wantui.analysis.fitted_steps import draw_steps

        if state not in ("clean", "noisy"):
            raise UserError(f"cannot draw the states {state!r}. Choose clean or noisy")
        latents, clip = self._find_file("latents", "trajectory"), self._find_verified_clip()
        states = DenoisingStates(latents, self.recipe, self.name)
        if steps is None:
            return list(draw_steps(states, clip, states.list_all_moments(state)))
        written_steps = [str(step) for step in ([steps] if isinstance(steps, str | int | float) else steps)]
        return list(draw_steps(states, clip, states.choose_moments(state, written_steps)))

    def open_attention(self) -> "StoredAttentionMaps":
        """Open the attention maps of the marked words; read maps with `read_map` and `read_mean_map` of the result.

        Raises:
            MissingDataError: the video has no attention maps.
            AttentionMapsError: the files are damaged.
        """
        from wantui.storage.attention_maps import open_attention_maps

        return open_attention_maps(self._find_file("attention", "attention maps"), self.recipe)

    def _find_verified_clip(self) -> Path:
        from wantui.storage.recorded_files import verify_clip

        path = self._find_file("clip", "clip")
        verify_clip(path, self.recipe, self.clip_sha256)
        return path

    def _find_file(self, kind: str, description: str) -> Path:
        if kind in self.files:
            return self.files[kind]
        reason = f"it is {self.state}" if self.state != "done" else "none was stored, or its file was removed"
        raise MissingDataError(f"{self.name} has no {description}: {reason}")


@dataclass(frozen=True)
class OpenBatch:
    """A batch folder: its settings and videos when it was opened; `metrics` reads the videos of the folder again."""

    folder: Path
    template: str
    config: Mapping[str, Any]
    """Settings of the batch, as in its config file."""
    videos: tuple[BatchVideo, ...]
    faults: tuple[str, ...] = ()
    """Unreadable lines of the journal; the states of their videos may be outdated."""
    axes: tuple[AxisEntry, ...] = ()
    """Swept settings, by axis; empty without a sweep."""

    def find_video(self, variation: str, seed: int, **settings: Any) -> BatchVideo:
        """Return the video with the id of a variation, a seed and, in a batch with a sweep, values of settings.

        Args:
            settings: values of swept settings by short name, such as `cfg_scale=4`.

        Raises:
            UserError: the batch has no such video, or several.
        """
        swept_names = [name for axis in self.axes for name in axis.names]
        if unknown_names := [name for name in settings if name not in swept_names]:
            swept_text = f"sweeps only {', '.join(swept_names)}" if swept_names else "has no sweep"
            raise UserError(f"cannot find a video by {', '.join(unknown_names)}: {self.folder} {swept_text}")
        found = [
            video
            for video in self.videos
            if (video.variation, video.seed) == (variation, seed)
            and all(
                name in video.settings and _is_same(video.settings[name], value) for name, value in settings.items()
            )
        ]
        if len(found) > 1:
            cells = "; ".join(video.cell for video in found[:10])
            raise UserError(f"{self.folder} has {len(found)} such videos. Name the swept settings too: {cells}")
        if found:
            return found[0]
        variations = ", ".join(dict.fromkeys(video.variation for video in self.videos))
        seeds = ", ".join(str(known) for known in sorted({video.seed for video in self.videos}))
        settings_text = "".join(f", {name} {value!r}" for name, value in settings.items())
        raise UserError(
            f"{self.folder} has no video {variation!r} with seed {seed!r}{settings_text}. "
            f"Variations: {variations}. Seeds: {seeds}"
        )

    def metrics(self) -> list[dict[str, Any]]:
        """Return one record per finished video; `pandas.DataFrame(batch.metrics())` is a table.

        A record contains id, variation, seed, prompt, the option of each bracket as `bracket_1` and so on, the value of
        each swept setting under its short name with the label of the cell as `cell`, every metric of
        `docs/analysis.md` as a float (NaN without a value), and `reason`, which is empty unless the trajectory is
        missing or damaged.
        """
        from wantui.analysis.loading import read_batch_videos
        from wantui.analysis.metrics import METRICS

        names = {path: name for axis in self.axes for path, name in zip(axis.paths, axis.names, strict=True)}
        return [
            {
                "id": video.id,
                "variation": video.variation,
                "seed": video.seed,
                "prompt": video.prompt,
                **{f"bracket_{number}": text for number, text in sorted(video.choices_by_bracket.items())},
                **{name: video.setting_values.get(path) for path, name in names.items()},
                **({"cell": video.cell_label} if names else {}),
                **{name: video.compute_metric(name) for name in METRICS},
                "reason": video.exclusion_reason,
            }
            for video in read_batch_videos(self.folder)
        ]


def _is_same(setting: Any, value: Any) -> bool:
    """Return whether a setting has a given value; True does not equal 1."""
    return setting == value and isinstance(setting, bool) == isinstance(value, bool)


def open_batch(path: str | Path) -> OpenBatch:
    """Open a batch folder as it is now; call this again to see later changes on disk.

    Args:
        path: batch folder; `~` and `$NAME` are expanded. The program may change its working folder later.

    Raises:
        ManifestError: the folder is not a batch folder, or its manifest is damaged.
    """
    folder = expand_user_path(path).absolute()
    manifest = read_manifest(BatchFolder(folder))
    videos = tuple(_describe_video(folder, manifest, entry) for entry in manifest.videos)
    axes = () if manifest.sweep is None else tuple(manifest.sweep.axes)
    faults = tuple(list_manifest_warnings(BatchFolder(folder), manifest))
    return OpenBatch(folder, manifest.template, manifest.config, videos, faults, axes)


def _describe_video(folder: Path, manifest: Manifest, entry: VideoEntry) -> BatchVideo:
    variation = manifest.variations[entry.variation]
    cell = manifest.find_cell(entry)
    names = {
        path: name
        for axis in (manifest.sweep.axes if manifest.sweep is not None else ())
        for path, name in zip(axis.paths, axis.names, strict=True)
    }
    setting_values = collect_setting_values(entry.recipe, manifest.config, None if cell is None else cell.values)
    files = {kind: folder / name for kind, name in entry.files.items()} if entry.state == "done" else {}
    return BatchVideo(
        folder=folder,
        id=entry.id,
        variation=variation.id,
        prompt=entry.recipe.prompt,
        choices={int(choice["bracket"]): str(choice["text"]) for choice in variation.choices},
        seed=entry.seed,
        state=entry.state,
        error=entry.error,
        recipe=entry.recipe,
        files={kind: path for kind, path in files.items() if path.exists()},
        settings={name: setting_values.get(path) for path, name in names.items()},
        cell="" if cell is None else cell.label,
        clip_sha256=entry.sha256.get("clip"),
    )
