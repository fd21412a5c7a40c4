"""Combination of a model evaluation's passes into one velocity, and its state between evaluations.

State that a rule keeps, and the difference that later evaluations reuse, belong to the checkpoint of a video.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from wantui.guidance import EvaluationGuidance

DIFFERENCE_STATE = "difference"
"""Name of the state that holds the latest difference of the passes, [1, channels, frames, height, width] float32."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one evaluation, from which a rule computes the velocity.

    Tensors are [1, channels, frames, height, width]; velocities have the transformer's dtype.
    """

    latents: Tensor
    """Latents that the model saw, before rounding to the transformer's dtype."""
    sigma: float
    conditional: Tensor
    unconditional: Tensor


class GuidanceRule(Protocol):
    """Rule that combines the predictions of both passes."""

    def combine(self, predictions: Predictions, scale: float, state: dict[str, Tensor]) -> Tensor:
        """Return the velocity, in the dtype of the predictions.

        Args:
            state: tensors that the rule keeps between evaluations, by name; it may replace them.
        """
        ...


class ClassifierFreeGuidance:
    """The rule of Ho and Salimans (arXiv 2207.12598), as in the Wan pipeline: u + w (c - u)."""

    def combine(self, predictions: Predictions, scale: float, state: dict[str, Tensor]) -> Tensor:
        """Return u + w (c - u)."""
        unconditional = predictions.unconditional
        return unconditional + scale * (predictions.conditional - unconditional)


@dataclass
class GuidedVelocity:
    """Velocity of each evaluation of one denoising run; keeps state, so each run needs its own object."""

    evaluations: Sequence[EvaluationGuidance]
    rule: GuidanceRule = field(default_factory=ClassifierFreeGuidance)
    state: dict[str, Tensor] = field(default_factory=dict)
    """State after the latest evaluation, which a checkpoint stores."""

    def compute_velocity(
        self,
        evaluation_index: int,
        latents: Tensor,
        sigma: float,
        conditional: Tensor,
        evaluate_unconditional: Callable[[], Tensor],
    ) -> Tensor:
        """Return the velocity of an evaluation.

        Args:
            conditional: output of the pass with the prompt.
            evaluate_unconditional: function that runs the unconditional pass, which is called only if it is needed.
        """
        evaluation = self.evaluations[evaluation_index]
        if evaluation.source == "zero":
            return torch.zeros_like(conditional)
        if evaluation.source == "conditional":
            return conditional
        if evaluation.source == "guided":
            unconditional = evaluate_unconditional()
            if self._is_difference_needed_after(evaluation_index):
                self.state[DIFFERENCE_STATE] = conditional.float() - unconditional.float()
        else:
            unconditional = (conditional.float() - self.state[DIFFERENCE_STATE]).to(conditional.dtype)
        predictions = Predictions(latents, sigma, conditional, unconditional)
        return self.rule.combine(predictions, evaluation.scale, self.state)

    def _is_difference_needed_after(self, evaluation_index: int) -> bool:
        """Return whether the next evaluation that uses a pass difference reuses the difference of this evaluation."""
        later_sources = (evaluation.source for evaluation in self.evaluations[evaluation_index + 1 :])
        return next((source for source in later_sources if source in ("guided", "reused")), None) == "reused"
