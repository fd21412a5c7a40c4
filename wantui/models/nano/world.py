"""The synthetic world on which nano is trained: scenes, the frequencies of their attributes, and captions.

A scene has one or two objects on a plain background. Coordinates run from -1 (left, top) to 1 (right, bottom). Shapes
have deliberately unequal frequencies, as a known ground truth for the calibration of representation metrics. Colours,
sizes, motions and backgrounds are uniform; colours are the control.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.models.nano.attributes import BACKGROUNDS, COLOURS, MOTIONS, SHAPE_FREQUENCIES, SHAPES, SIZES

TWO_OBJECT_FRACTION = 0.35
"""Fraction of the scenes with two objects."""

OMISSION_PROBABILITY = {"size": 0.25, "colour": 0.10, "shape": 0.08, "motion": 0.15, "background": 0.20}
"""Probability that a training caption omits an attribute, which then has a random value in the scene. An omitted shape
is called "shape", so that "a red shape moving left" reveals which shape the model prefers."""

CLIP_FRAMES, CLIP_SIZE = 17, 128
"""Frames of a clip, and its width and height in pixels."""

FULL_SENTENCE_FRACTION = 0.15
"""Fraction of the training captions with a capital letter and a full stop."""


@dataclass(frozen=True)
class Scenes:
    """A batch of n scenes. Attributes are indices into the tables above; with `count` 1, object 1 is not shown."""

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


def is_held_out(scenes: Scenes) -> NDArray[np.bool_]:
    """Return a mask of the held-out scenes, which are a tenth of all combinations of first object and background."""
    code = (
        7 * scenes.shape[:, 0]
        + 3 * scenes.colour[:, 0]
        + 5 * scenes.size[:, 0]
        + scenes.motion[:, 0]
        + 9 * scenes.background
    )
    return np.asarray(code % 10 == 0)


def sample_scenes(
    n: int, rng: np.random.Generator, two_objects: float = TWO_OBJECT_FRACTION, evaluation: bool = False
) -> Scenes:
    """Sample n scenes: held-out combinations for evaluation, otherwise only the others."""
    candidates = _draw_scenes(max(64, n * (20 if evaluation else 2)), rng, two_objects)
    indices = np.flatnonzero(is_held_out(candidates) == evaluation)[:n]
    if len(indices) < n:
        raise RuntimeError(
            f"cannot sample {n} scenes: only {len(indices)} of {len(candidates)} candidates are suitable"
        )
    return candidates[indices]


def _draw_scenes(n: int, rng: np.random.Generator, two_objects: float) -> Scenes:
    count = 1 + (rng.random(n) < two_objects).astype(np.int64)
    colour = rng.integers(len(COLOURS), size=n)
    other_colour = (colour + rng.integers(1, len(COLOURS), size=n)) % len(COLOURS)
    size = rng.integers(len(SIZES), size=(n, 2))
    motion = rng.integers(len(MOTIONS), size=(n, 2))
    direction = np.array(list(MOTIONS.values()), dtype=np.float32)[motion]
    has_one_object = (count == 1)[:, None, None]

    # Two objects stay in separate halves of the picture, side by side or one above the other.
    axis = rng.integers(2, size=n)
    side = rng.choice([-1, 1], size=n)
    half_centre = np.zeros((n, 2, 2))
    half_centre[np.arange(n), 0, axis] = 0.5 * side
    half_centre[np.arange(n), 1, axis] = -0.5 * side
    jitter = rng.uniform(-1, 1, size=(n, 2, 2))
    middle = np.where(has_one_object, 0.25 * jitter, half_centre + 0.08 * jitter)
    distance = np.where(has_one_object[..., 0], rng.uniform(0.8, 1.2, (n, 2)), rng.uniform(0.5, 0.7, (n, 2)))
    travel = direction * distance[..., None]
    return Scenes(
        object_count=count,
        shape=rng.choice(len(SHAPES), size=(n, 2), p=list(SHAPE_FREQUENCIES.values())),
        colour=np.stack([colour, other_colour], axis=1),
        size=size,
        motion=motion,
        background=rng.integers(len(BACKGROUNDS), size=n),
        radius=(np.array(list(SIZES.values()))[size] * rng.uniform(0.9, 1.1, (n, 2))).astype(np.float32),
        start=(middle - travel / 2).astype(np.float32),
        travel=travel.astype(np.float32),
    )


def write_captions(scenes: Scenes, rng: np.random.Generator | None = None) -> list[Caption]:
    """Write a caption for each scene; with `rng`, omit attributes with OMISSION_PROBABILITY, otherwise none."""

    def is_included(attribute: str) -> bool:
        return rng is None or rng.random() >= OMISSION_PROBABILITY[attribute]

    captions = []
    for i in range(len(scenes)):
        text, shape_words, phrases = "", [], []
        for k in range(scenes.object_count[i]):
            text += " and a" if k else "a"
            phrase_start = len(text) + 1
            if is_included("size"):
                text += " " + list(SIZES)[scenes.size[i, k]]
            if is_included("colour"):
                text += " " + list(COLOURS)[scenes.colour[i, k]]
            start = len(text) + 1
            text += " " + (SHAPES[scenes.shape[i, k]] if is_included("shape") else "shape")
            shape_words.append((start, len(text)))
            if is_included("motion"):
                motion = list(MOTIONS)[scenes.motion[i, k]]
                text += " staying still" if motion == "still" else f" moving {motion}"
            phrases.append((phrase_start, len(text)))
        if is_included("background"):
            text += f" over a {list(BACKGROUNDS)[scenes.background[i]]} background"
        if rng is not None and rng.random() < FULL_SENTENCE_FRACTION:
            text = text[0].upper() + text[1:] + "."
        captions.append(Caption(text, tuple(shape_words), tuple(phrases)))
    return captions
