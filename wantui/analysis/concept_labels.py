"""The concept that a video shows, from the nearest reference in latent space or from external labels.

The nearest reference is among the videos of the concepts with the same seed. They share the initial noise, so
places and sizes are similar, and the distance of the final latents reflects the concept. A video is always assigned to
one of the given concepts, even if it shows something else: only labels can say "other".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.label_rows import LabelError, quote, read_csv_rows
from wantui.errors import UserError
from wantui.models.nano.attributes import DIRECTION_BY_MOTION, RGB_BY_COLOUR, SHAPES
from wantui.storage.manifest import VideoEntry
from wantui.storage.zarr_group import CaptureError, convert_to_capture_error, open_capture

WORDS_BY_ATTRIBUTE: Mapping[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(RGB_BY_COLOUR),
    "motion": tuple(DIRECTION_BY_MOTION),
}
"""Words that nano's judge can distinguish, by attribute."""
ID_COLUMN, LABEL_COLUMN = "id", "label"


class CannotLabelError(UserError):
    """Raised for videos whose concept cannot be determined; the message names the first such video."""


def find_judged_attribute(concepts: Sequence[str]) -> str | None:
    """Return the attribute of nano's scenes whose words include all concepts; None if there is none.

    The attributes are shape, colour and motion.
    """
    return next((name for name, words in WORDS_BY_ATTRIBUTE.items() if set(concepts) <= set(words)), None)


def read_final_state(folder: Path, entry: VideoEntry) -> FloatArray:
    """Return the projection [k] of a finished video's final latents.

    Raises:
        CannotLabelError: the video has no stored projection, or it is damaged.
    """
    if "latents" not in entry.files:
        raise CannotLabelError(
            f"video {entry.id} has no stored trajectory, which labelling by the nearest reference needs. "
            "Use --labels FILE, or generate it with model_settings.force_capture"
        )
    path = folder / entry.files["latents"]
    try:
        group = open_capture(path, entry.recipe)
        with convert_to_capture_error(path):
            state = np.asarray(group["projection"][-1], dtype=np.float64)
    except CaptureError as error:
        raise CannotLabelError(f"video {entry.id}: {error}") from None
    if not np.isfinite(state).all():
        raise CannotLabelError(f"video {entry.id}: its projection contains NaN or infinity")
    return state


def find_nearest_concept(state: FloatArray, reference_by_concept: Mapping[str, FloatArray]) -> str:
    """Return the concept whose reference [k] is nearest to a state [k]; the first of several that are equally near.

    Raises:
        CannotLabelError: the states have different numbers of values.
    """
    for reference in reference_by_concept.values():
        if reference.shape != state.shape:
            raise CannotLabelError(
                f"cannot compare final states of {len(state)} and {len(reference)} values: the videos differ in size"
            )
    distances = {name: float(np.linalg.norm(state - reference)) for name, reference in reference_by_concept.items()}
    return min(distances, key=lambda name: distances[name])


def read_concept_labels(path: Path, known_ids: Sequence[str]) -> dict[str, str]:
    """Read a CSV table with the columns `id` (an id or its first characters) and `label`; return the labels by id.

    Raises:
        LabelError: the file lacks a column, or names no known video; an id matches several or occurs twice.
        UserError: the file cannot be read.
    """
    table = read_csv_rows(path)
    prefix = f"cannot use {quote(str(path))}: "
    if missing := [name for name in (ID_COLUMN, LABEL_COLUMN) if name not in table.header]:
        raise LabelError(
            f"{prefix}it has no column {' and no column '.join(missing)}. Its first line must be a header with "
            f"{ID_COLUMN} and {LABEL_COLUMN}, such as id,label"
        )
    table.check_body()
    label_by_id: dict[str, str] = {}
    for line_number, row in table.body:
        written_id, label = row[table.header.index(ID_COLUMN)], row[table.header.index(LABEL_COLUMN)]
        ids = [video_id for video_id in known_ids if written_id and video_id.startswith(written_id)]
        ids = [written_id] if written_id in ids else ids  # the ID of a U-turn begins with that of its video
        line_prefix = f"{prefix}line {line_number}: {quote(written_id)}"
        if len(ids) > 1:
            raise LabelError(f"{line_prefix} matches {len(ids)} videos. Write the whole ID")
        if ids and not label:
            raise LabelError(f"{line_prefix} has no label. Write `other` if the video shows no concept")
        if ids and label_by_id.setdefault(ids[0], label) != label:
            raise LabelError(f"{line_prefix} has a second label. Keep one")
    if not label_by_id:
        raise LabelError(
            f"{prefix}it names no video of these batches. List their IDs: wantui analyze BATCH --list-videos"
        )
    return label_by_id
