"""Attributes of nano's scenes, and all words of its captions; imports no numpy, because the checks of prompts import
it."""

FREQUENCY_BY_SHAPE = {"circle": 0.45, "square": 0.25, "triangle": 0.14, "star": 0.08, "cross": 0.05, "ring": 0.03}
RGB_BY_COLOUR = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.60, 0.20, 0.80),
    "white": (0.95, 0.95, 0.95),
}
RGB_BY_BACKGROUND = {"dark": (0.05, 0.05, 0.08), "grey": (0.45, 0.45, 0.45), "sandy": (0.75, 0.65, 0.45)}
RADIUS_BY_SIZE = {"small": 0.18, "large": 0.33}
DIRECTION_BY_MOTION = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SHAPES = tuple(FREQUENCY_BY_SHAPE)
OTHER_CAPTION_WORDS = ("shape", "moving", "staying", "background", "a", "and", "over")
CAPTION_WORDS = (
    *SHAPES,
    *RGB_BY_COLOUR,
    *RADIUS_BY_SIZE,
    *DIRECTION_BY_MOTION,
    *RGB_BY_BACKGROUND,
    *OTHER_CAPTION_WORDS,
)
"""All words of the captions."""
