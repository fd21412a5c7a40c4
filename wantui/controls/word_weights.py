"""The control of word weights: (word:1.5) in the template multiplies the contribution of a word."""

from typing import Literal

from wantui.controls.base import ControlKind, ControlRequest
from wantui.controls.marked_prompt import WordWeight

WeightingMethod = Literal["attention", "multiply", "interpolation"]
"""Weighting method: of attention odds, of text embeddings, or between text embedding and end token."""


class WordWeightsRequest(ControlRequest):
    """Request to weight marked words: the method, and the weight of each mark in prompt order."""

    weighting: WeightingMethod
    weights: tuple[WordWeight, ...]


WORD_WEIGHTS = ControlKind(name="word_weights", request_type=WordWeightsRequest)
