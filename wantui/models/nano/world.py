"""The synthetic world on which nano is trained: scenes, the frequencies of their attributes, and captions.

A scene has one or two objects on a plain background. Coordinates run from -1 (left, top) to 1 (right, bottom). Shapes
have deliberately unequal frequencies, as a known ground truth for the calibration of representation metrics. Colours,
sizes, motions and backgrounds are uniform; colours are the control.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.models.nano.attributes import (
    DIRECTION_BY_MOTION,
    FREQUENCY_BY_SHAPE,
    RADIUS_BY_SIZE,
    RGB_BY_BACKGROUND,
    RGB_BY_COLOUR,
    SHAPES,
)

NATURAL_SHAPE_FREQUENCIES = tuple(FREQUENCY_BY_SHAPE.values())
"""Frequencies of `SHAPES` in the training of the bundled weights."""
UNIFORM_SHAPE_FREQUENCIES = tuple(1 / len(SHAPES) for _ in SHAPES)

TWO_OBJECT_FRACTION = 0.35
"""Fraction of the scenes with two objects."""

OMISSION_PROBABILITY_BY_ATTRIBUTE = {"size": 0.25, "colour": 0.10, "shape": 0.08, "motion": 0.15, "background": 0.20}
"""Probability that a training caption omits an attribute, which then has a random value in the scene. An omitted shape
is called "shape", so "a red shape moving left" reveals which shape the model prefers."""

CLIP_FRAME_COUNT, CLIP_SIDE_PIXELS = 17, 128
"""Frames of a clip, and its width and height in pixels."""

FULL_SENTENCE_FRACTION = 0.15
"""Fraction of the training captions with a capital letter and a full stop."""


@dataclass(frozen=True)
class Scenes:
    """Batch of n scenes. Attributes are indices into the tables above; object 1 is hidden if `object_count` is 1."""

    object_count: NDArray[np.int64]  # [n]
    shape: NDArray[np.int64]  # [n, 2]
    colour: NDArray[np.int64]  # [n, 2], different for the two objects
    size: NDArray[np.int64]  # [n, 2]
    motion: NDArray[np.int64]  # [n, 2]
    background: NDArray[np.int64]  # [n]
    radius: NDArray[np.float32]  # [n, 2], in half widths of the picture
    start: NDArray[np.float32]  # [n, 2, xy], centre in the first frame
    travel: NDArray[np.float32]  # [n, 2, xy], displacement of the centre over the clip

    def __len__(self) -> int:
        return len(self.object_count)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> "Scenes":
        return Scenes(**{name: values[index] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Caption:
    """A caption, with the character spans of each object's shape word and full description."""

    text: str
    shape_words: tuple[tuple[int, int], ...]
    phrases: tuple[tuple[int, int], ...]


def find_held_out_scenes(scenes: Scenes) -> NDArray[np.bool_]:
    """Return a mask of the held-out scenes, which are a tenth of all combinations of first object and background."""
    combination_code = (
        7 * scenes.shape[:, 0]
        + 3 * scenes.colour[:, 0]
        + 5 * scenes.size[:, 0]
        + scenes.motion[:, 0]
        + 9 * scenes.background
    )
    return np.asarray(combination_code % 10 == 0)


def sample_scenes(
    scene_count: int,
    rng: np.random.Generator,
    two_object_fraction: float = TWO_OBJECT_FRACTION,
    is_evaluation: bool = False,
    shape_frequencies: Sequence[float] = NATURAL_SHAPE_FREQUENCIES,
) -> Scenes:
    """Sample n scenes: held-out combinations for evaluation, all other combinations for training.

    Args:
        shape_frequencies: frequencies of the shapes in the order of `SHAPES`; they sum to 1.
    """
    candidate_count = max(64, scene_count * (20 if is_evaluation else 2))
    candidates = _draw_scenes(candidate_count, rng, two_object_fraction, shape_frequencies)
    indices = np.flatnonzero(find_held_out_scenes(candidates) == is_evaluation)[:scene_count]
    if len(indices) < scene_count:
        raise RuntimeError(
            f"cannot sample {scene_count} scenes: only {len(indices)} of {len(candidates)} candidates are suitable"
        )
    return candidates[indices]


def _draw_scenes(
    scene_count: int, rng: np.random.Generator, two_object_fraction: float, shape_frequencies: Sequence[float]
) -> Scenes:
    object_count = 1 + (rng.random(scene_count) < two_object_fraction).astype(np.int64)
    first_colours = rng.integers(len(RGB_BY_COLOUR), size=scene_count)
    second_colours = (first_colours + rng.integers(1, len(RGB_BY_COLOUR), size=scene_count)) % len(RGB_BY_COLOUR)
    size_indices = rng.integers(len(RADIUS_BY_SIZE), size=(scene_count, 2))
    motion_indices = rng.integers(len(DIRECTION_BY_MOTION), size=(scene_count, 2))
    direction = np.array(list(DIRECTION_BY_MOTION.values()), dtype=np.float32)[motion_indices]
    has_one_object = (object_count == 1)[:, None, None]

    # Two objects stay in separate halves of the picture, side by side or one above the other.
    separated_axes = rng.integers(2, size=scene_count)
    side_signs = rng.choice([-1, 1], size=scene_count)
    half_centre = np.zeros((scene_count, 2, 2))
    half_centre[np.arange(scene_count), 0, separated_axes] = 0.5 * side_signs
    half_centre[np.arange(scene_count), 1, separated_axes] = -0.5 * side_signs
    jitter = rng.uniform(-1, 1, size=(scene_count, 2, 2))
    mean_centre = np.where(has_one_object, 0.25 * jitter, half_centre + 0.08 * jitter)
    travel_distance = np.where(
        has_one_object[..., 0], rng.uniform(0.8, 1.2, (scene_count, 2)), rng.uniform(0.5, 0.7, (scene_count, 2))
    )
    travel = direction * travel_distance[..., None]
    return Scenes(
        object_count=object_count,
        shape=rng.choice(len(SHAPES), size=(scene_count, 2), p=shape_frequencies),
        colour=np.stack([first_colours, second_colours], axis=1),
        size=size_indices,
        motion=motion_indices,
        background=rng.integers(len(RGB_BY_BACKGROUND), size=scene_count),
        radius=(np.array(list(RADIUS_BY_SIZE.values()))[size_indices] * rng.uniform(0.9, 1.1, (scene_count, 2))).astype(
            np.float32
        ),
        start=(mean_centre - travel / 2).astype(np.float32),
        travel=travel.astype(np.float32),
    )


def write_captions(scenes: Scenes, rng: np.random.Generator | None = None) -> list[Caption]:
    """Write a caption for each scene; with `rng`, omit attributes at random (OMISSION_PROBABILITY_BY_ATTRIBUTE)."""

    def is_included(attribute: str) -> bool:
        return rng is None or rng.random() >= OMISSION_PROBABILITY_BY_ATTRIBUTE[attribute]

    captions = []
    for scene_index in range(len(scenes)):
        text, shape_words, phrases = "", [], []
        for object_index in range(scenes.object_count[scene_index]):
            text += " and a" if object_index else "a"
            phrase_start = len(text) + 1
            if is_included("size"):
                text += " " + list(RADIUS_BY_SIZE)[scenes.size[scene_index, object_index]]
            if is_included("colour"):
                text += " " + list(RGB_BY_COLOUR)[scenes.colour[scene_index, object_index]]
            word_start = len(text) + 1
            text += " " + (SHAPES[scenes.shape[scene_index, object_index]] if is_included("shape") else "shape")
            shape_words.append((word_start, len(text)))
            if is_included("motion"):
                motion = list(DIRECTION_BY_MOTION)[scenes.motion[scene_index, object_index]]
                text += " staying still" if motion == "still" else f" moving {motion}"
            phrases.append((phrase_start, len(text)))
        if is_included("background"):
            text += f" over a {list(RGB_BY_BACKGROUND)[scenes.background[scene_index]]} background"
        if rng is not None and rng.random() < FULL_SENTENCE_FRACTION:
            text = text[0].upper() + text[1:] + "."
        captions.append(Caption(text, tuple(shape_words), tuple(phrases)))
    return captions
