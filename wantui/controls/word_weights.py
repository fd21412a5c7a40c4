"""The control of word weights: (word:1.5) in the template multiplies the contribution of a word."""

from typing import Annotated, Literal

from pydantic import Field

from wantui.controls.base import ControlKind, ControlRequest

WeightingMethod = Literal["attention", "multiply", "interpolation"]
"""Weighting method: of attention odds, of text embeddings, or between text embedding and end token."""
MAX_WORD_WEIGHT = 100
WordWeight = Annotated[float, Field(ge=0, le=MAX_WORD_WEIGHT, allow_inf_nan=False)]


class WordWeightsRequest(ControlRequest):
    """Request to weight marked words: the method, and the weight of each mark in prompt order."""

    weighting: WeightingMethod
    weights: tuple[WordWeight, ...]


WORD_WEIGHTS = ControlKind(name="word_weights", request_type=WordWeightsRequest)
