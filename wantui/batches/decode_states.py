"""Decode stored states of videos to clips, by the VAE or a linear fit; existing clips of the same states are kept."""

import json
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.denoising_states import DenoisingStates, MissingStatesError, StateKind, StateMoment
from wantui.analysis.latent_colours import LatentColours, fit_latent_colours
from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut
from wantui.errors import UserError
from wantui.generation.errors import NotFiniteError
from wantui.models.catalogue import find_model
from wantui.models.fingerprint import fingerprint_model
from wantui.storage.mp4 import (
    ClipError,
    ClipWriter,
    Frame,
    measure_largest_difference,
    open_container,
    read_clip_tags,
)
from wantui.storage.video_files import make_parent_folders
from wantui.storage.video_selection import SelectedVideo
from wantui.storage.zarr_group import CaptureError

if TYPE_CHECKING:
    from diffusers import WanPipeline

MIN_CELL_PIXELS, MIN_FIT_WIDTH = 4, 160
"""Side of a latent cell in clips of the linear fit, and the least width of these clips, in pixels."""
VAE_DECODERS = ("vae", "fused vae")
"""Decoders of the VAE in identities: the reference and the fused one, which only GPUs have. A clip by either is kept;
otherwise a machine without a GPU would decode the clips of a GPU again."""
TAG_NAME = "wantui_decoded"
"""Tag of a decoded clip with the identity of its state."""


@dataclass(frozen=True)
class DecodeRequest:
    """Which states are decoded, and how."""

    kinds: tuple[StateKind, ...]
    written_moments: tuple[str, ...] | None
    """Moments for `DenoisingStates.choose_moments`; None for all stored states."""
    uses_fit: bool = False
    """True for the linear fit, which needs no torch."""
    device: str = "auto"
    may_fetch: bool = False


@dataclass(frozen=True)
class StateFrameDecoded:
    """Event: a frame of a state was decoded."""

    video: SelectedVideo
    moment: StateMoment
    decoded_count: int
    frame_count: int


@dataclass(frozen=True)
class StateDecoded:
    """Event: the clip of a state is complete."""

    video: SelectedVideo
    moment: StateMoment
    path: Path
    was_kept: bool
    """True if the clip existed before."""
    fit_r2: float | None
    """Share of the colour variance that the linear fit explains; None for the VAE."""
    clip_difference: int | None = None
    """Largest difference of a channel, of 255, from the video's own clip; None unless its last latents were decoded."""
    difference_reason: str = ""
    """Likely reason of a difference from the video's own clip, or why the two cannot be compared."""


DecodeEvent = ModelLoadStarted | StateFrameDecoded | StateDecoded | VideoLeftOut


def decode_states(
    videos: Iterable[SelectedVideo], request: DecodeRequest, folder_by_batch: dict[Path, Path]
) -> Iterator[DecodeEvent]:
    """Decode states of videos one after another; yield the progress. The VAE is loaded once per model, when needed.

    Args:
        folder_by_batch: folder for the clips of each batch.

    Raises:
        MissingStatesError: a requested moment is not stored, or no video has latents.
        OSError: a clip cannot be written.
    """
    vaes = _VaeLoader(request)
    errors_by_name: dict[str, MissingStatesError] = {}  # of videos without latents
    has_states = False
    for video in videos:
        path = video.find_file("latents")
        if path is None:
            reason = f"it is {video.entry.state}" if video.entry.state != "done" else "no trajectory was stored"
            yield VideoLeftOut(video.name, reason)
            continue
        try:
            states = DenoisingStates(path, video.entry.recipe, video.name)
        except MissingStatesError as error:
            errors_by_name[video.name] = error
            continue
        except CaptureError as error:
            yield VideoLeftOut(video.name, str(error))
            continue
        has_states = True
        moments = choose_moments(states, request)  # an unknown moment is an error of the request, not of a video
        try:
            yield from _decode_video(video, states, moments, request, vaes, folder_by_batch[video.folder])
        except (CaptureError, ClipError, NotFiniteError) as error:
            yield VideoLeftOut(video.name, str(error))
    if has_states:
        yield from (VideoLeftOut(name, "it has no stored latents") for name in errors_by_name)
    elif len(errors_by_name) == 1:
        raise next(iter(errors_by_name.values()))
    elif errors_by_name:
        raise MissingStatesError(
            f"none of the {len(errors_by_name)} videos with a trajectory has stored latents. Set "
            "latent_analysis_settings.store_latents (--store-latents) for future videos"
        )


def choose_moments(states: DenoisingStates, request: DecodeRequest) -> list[StateMoment]:
    """Return the requested moments of a video in the order of the denoising, clean states after noisy ones.

    Raises:
        MissingStatesError: a moment is not stored.
    """
    moments: list[StateMoment] = []
    for kind in request.kinds:
        written = request.written_moments
        moments += states.list_all_moments(kind) if written is None else states.choose_moments(kind, written)
    return sorted(dict.fromkeys(moments), key=lambda moment: (moment.evaluation, moment.kind == "clean"))


def make_state_path(folder: Path, video: SelectedVideo, moment: StateMoment, uses_fit: bool) -> Path:
    """Return the path of a decoded state's clip, in its batch's folder for decoded states."""
    suffix = ".fit.mp4" if uses_fit else ".mp4"
    variation_folder = folder / f"prompt_{video.entry.variation:03d}" / video.manifest.find_cell_folder(video.entry)
    video_folder = variation_folder / f"video_{video.entry.number:03d}"
    return video_folder / f"{moment.slug}{suffix}"


def _decode_video(
    video: SelectedVideo,
    states: DenoisingStates,
    moments: Sequence[StateMoment],
    request: DecodeRequest,
    vaes: "_VaeLoader",
    folder: Path,
) -> Iterator[DecodeEvent]:
    colours: LatentColours | None = None
    if request.uses_fit:
        clip = video.find_verified_clip()
        if clip is None:
            raise ClipError(f"{video.name} has no clip, but --fast needs one to fit the colours. Omit --fast")
        colours = fit_latent_colours(states.read_state(states.end), clip)
    has_fused_clip, clip_tile = _read_clip_decoding(video)
    accepted_decoders = ("fit",) if request.uses_fit else VAE_DECODERS
    for moment in moments:
        path = make_state_path(folder, video, moment, request.uses_fit)
        accepted_identities = [_make_clip_identity(video, moment, decoder) for decoder in accepted_decoders]
        is_kept = _read_identity(path) in accepted_identities
        decoder, tile_note = "fit", ""
        if not is_kept:
            make_parent_folders(video.folder if path.is_relative_to(video.folder) else folder, path)
            if colours is not None:
                frames = _draw_fitted_frames(states.read_state(moment), colours, video.entry.recipe.frames)
            else:
                decoder = yield from vaes.load(video, has_fused_clip)
                frames, tile_note = vaes.decode(video, states.read_state(moment), clip_tile)
            identity = json.dumps(_make_clip_identity(video, moment, decoder))
            yield from _write_clip(video, moment, path, frames, {TAG_NAME: identity, **_build_clip_tags(video, moment)})
        difference, reason = None, ""
        if moment.step is None and colours is None and (clip := video.find_file("clip")) is not None:
            try:
                difference = measure_largest_difference(clip, path)
                reason = tile_note or _explain_difference(video, states) if difference else ""
            except ClipError as error:
                reason = str(error)
        r2 = None if colours is None else colours.r2
        yield StateDecoded(video, moment, path, is_kept, r2, difference, reason)


def _write_clip(
    video: SelectedVideo, moment: StateMoment, path: Path, frames: Generator[Frame, None, None], tags: dict[str, str]
) -> Iterator[DecodeEvent]:
    recipe = video.entry.recipe
    with closing(frames), ClipWriter(path, recipe.fps, recipe.frames, tags) as writer:
        for decoded_count, frame in enumerate(frames, start=1):
            writer.write_frame(frame)
            yield StateFrameDecoded(video, moment, decoded_count, recipe.frames)
        writer.finish_clip()


def _build_clip_tags(video: SelectedVideo, moment: StateMoment) -> dict[str, str]:
    kind = "video" if moment.step is None else {"clean": "predicted clean state", "noisy": "noisy state"}[moment.kind]
    return {"title": f"{video.name}, {kind} at {moment.label}", "comment": video.entry.recipe.prompt}


def _make_clip_identity(video: SelectedVideo, moment: StateMoment, decoder: str) -> dict[str, Any]:
    """Return the identity of a decoded clip: the video with its latents, the state, and the decoder."""
    return {
        "recipe": video.entry.recipe.digest,
        "latents_sha256": video.entry.latents_sha256,
        "state": moment.slug,
        "evaluation": moment.evaluation,
        "decoder": decoder,
    }


def _read_identity(path: Path) -> dict[str, Any] | None:
    """Return the identity in an existing clip; None if this command wrote no such clip."""
    try:
        with open_container(path) as container:
            identity = json.loads(dict(container.metadata).get(TAG_NAME, "null"))
    except (ClipError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


def _draw_fitted_frames(
    latents: NDArray[np.float32], colours: LatentColours, frame_count: int
) -> Generator[Frame, None, None]:
    """Yield the frames of a clip from colours of latents: each picture lasts as long as its latent frame."""
    from PIL import Image

    pictures = colours.draw_frames(latents)
    latent_frames, height, width = pictures.shape[:3]
    scale = max(MIN_CELL_PIXELS, 2 * math.ceil(MIN_FIT_WIDTH / width / 2))
    frames_per_latent = (frame_count - 1) // max(1, latent_frames - 1)
    for index, picture in enumerate(pictures):
        size = (width * scale, height * scale)
        frame = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
        for _ in range(frames_per_latent if index else 1):
            yield frame


class _VaeLoader:
    """Loader that keeps the latest VAE, and its decoding settings."""

    def __init__(self, request: DecodeRequest) -> None:
        self.request = request
        self.loaded_model: tuple[str, str | None, bool] | None = None
        self.pipeline: WanPipeline | None = None

    def load(self, video: SelectedVideo, has_fused_clip: bool) -> Generator[DecodeEvent, None, str]:
        """Load the VAE of a video's model unless it is loaded; yield an event before loading; return its decoder.

        Args:
            has_fused_clip: True if the fused decoder made the video's clip; no CPU has this decoder.
        """
        from wantui.generation.load import resolve_device
        from wantui.generation.load_vae import load_vae_pipeline
        from wantui.generation.placement import free_unused_memory

        recipe, device = video.entry.recipe, resolve_device(self.request.device)
        fuses_decoder = has_fused_clip and device.type == "cuda"
        decoder = "fused vae" if fuses_decoder else "vae"
        if self.loaded_model == (recipe.model, recipe.revision, fuses_decoder):
            return decoder
        yield ModelLoadStarted(recipe.model, str(device))
        model = find_model(recipe.model)
        if model.is_local and fingerprint_model(Path(model.location)) != recipe.revision:
            raise UserError(
                f"cannot decode {video.name}: the weights in {model.location} have changed since it was generated. "
                "Restore them, or use --fast"
            )
        self.pipeline = None  # free the previous VAE first; a fused decoder is in reference cycles
        free_unused_memory()
        self.pipeline = load_vae_pipeline(
            model, recipe.revision, device, fuses_decoder=fuses_decoder, may_fetch=self.request.may_fetch
        )
        self.loaded_model = (recipe.model, recipe.revision, fuses_decoder)
        return decoder

    def decode(
        self, video: SelectedVideo, latents: NDArray[np.float32], clip_tile: int | None
    ) -> tuple[Generator[Frame, None, None], str]:
        """Return the frames of latents, and a note if the tiles differ from the tiles of the video's clip.

        Args:
            clip_tile: side of a tile of the video's clip, in pixels; None if it has complete frames.
        """
        from wantui.generation.decode import decode_stored_frames
        from wantui.generation.load_vae import choose_tile_side
        from wantui.generation.placement import set_tile_side

        assert self.pipeline is not None
        tile_side = choose_tile_side(self.pipeline, find_model(video.entry.recipe.model), video.entry.recipe, clip_tile)
        set_tile_side(self.pipeline, tile_side)
        note = "" if tile_side == clip_tile else f"it was decoded in tiles of {tile_side} pixels, the clip was not"
        return decode_stored_frames(self.pipeline, latents), note


def _read_clip_decoding(video: SelectedVideo) -> tuple[bool, int | None]:
    """Return whether the fused decoder made a video's clip, and the side of its tiles in pixels.

    Return False and None if there is no readable clip.
    """
    clip = video.find_file("clip")
    try:
        provenance = {} if clip is None else read_clip_tags(clip)[1]
    except ClipError:
        provenance = {}
    tile = provenance.get("tile")
    return provenance.get("decoder") == "fused", tile if isinstance(tile, int) else None


def _explain_difference(video: SelectedVideo, states: DenoisingStates) -> str:
    """Return the likely reason why the decoded final latents differ from the video's clip."""
    try:
        video.find_verified_clip()
    except ClipError as error:
        return str(error)
    if str(states.latents.dtype) != "float32":
        return f"the latents are stored in {states.latents.dtype}"
    return "another device or another version of torch decoded it"
