"""Guidance rules besides classifier-free guidance; all compute in float32, and projections in float64.

The formulas equal `diffusers.guiders` 0.42.1, as tests verify, except for APG: diffusers applies it to
the model's output, whatever that is, and to u + w d instead of the paper's c + (w - 1) d. Here it follows the paper:
its projection is onto the predicted clean latents, and a scale of 1 gives the conditional prediction.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wantui.controls.guidance import GuidanceRequest
from wantui.generation.guidance import ClassifierFreeGuidance, GuidanceRule, Predictions
from wantui.generation.preparation import DenoisingPreparation

MOMENTUM_STATE = "momentum"
"""Name of the state that holds the running difference, [1, channels, frames, height, width] float32."""
MIN_NORM = 1e-12
"""Smallest norm by which a vector is divided, as in `torch.nn.functional.normalize`."""
SQUARED_NORM_OFFSET = 1e-8
"""Value that is added to a squared norm, so that the norm is never 0, as in the reference implementation."""


def apply_control(request: GuidanceRequest, preparation: DenoisingPreparation) -> None:
    """Set the rule; zeroed steps and reused differences are part of the guidance of each evaluation."""
    preparation.guidance_rule = build_rule(request)


def build_rule(request: GuidanceRequest) -> GuidanceRule:
    """Return the rule of a request."""
    if request.rule == "cfg-zero-star":
        return ZeroStarGuidance()
    if request.rule == "tcfg":
        return TangentialGuidance()
    if request.rule == "apg":
        assert request.eta is not None
        assert request.momentum is not None
        assert request.max_rms is not None
        return ProjectedGuidance(request.eta, request.momentum, request.max_rms)
    return ClassifierFreeGuidance()


class ZeroStarGuidance:
    """CFG-Zero* (arXiv 2503.18886, section 4.1): the unconditional velocity is scaled to fit the conditional one."""

    def combine(self, predictions: Predictions, scale: float, state: dict[str, Tensor]) -> Tensor:
        """Return s u + w (c - s u), with s = (c . u) / (u . u), which minimises |c - s u|."""
        conditional, unconditional = predictions.conditional.float(), predictions.unconditional.float()
        flat_conditional, flat_unconditional = conditional.flatten(1), unconditional.flatten(1)
        squared_norm = torch.sum(flat_unconditional**2, dim=1, keepdim=True) + SQUARED_NORM_OFFSET
        projection_scale = torch.sum(flat_conditional * flat_unconditional, dim=1, keepdim=True) / squared_norm
        scaled = unconditional * projection_scale.view(-1, *(1,) * (unconditional.ndim - 1))
        return (scaled + scale * (conditional - scaled)).to(predictions.conditional.dtype)


@dataclass(frozen=True)
class ProjectedGuidance:
    """Adaptive projected guidance (APG, arXiv 2410.02416, algorithm 1), on predicted clean latents x - sigma v.

    Attributes:
        eta: factor of the difference along the conditional prediction.
        momentum: factor of the running difference that is added to the next difference.
        max_rms: maximum root mean square of the difference; 0 for no limit.
    """

    eta: float
    momentum: float
    max_rms: float

    def combine(self, predictions: Predictions, scale: float, state: dict[str, Tensor]) -> Tensor:
        """Return the velocity that leads to the clean latents c + (w - 1) d, with the update d."""
        latents, conditional = predictions.latents.float(), predictions.conditional.float()
        update = self.compute_update(
            latents - predictions.sigma * conditional,
            latents - predictions.sigma * predictions.unconditional.float(),
            state,
        )
        velocity = conditional - (scale - 1) / predictions.sigma * update
        return velocity.to(predictions.conditional.dtype)

    def compute_update(self, conditional: Tensor, unconditional: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Return the update from two predictions of the clean latents; add the difference of both to the state."""
        difference = conditional - unconditional
        dimensions = list(range(1, difference.ndim))
        if self.momentum:
            if MOMENTUM_STATE in state:
                difference = difference + self.momentum * state[MOMENTUM_STATE]
            state[MOMENTUM_STATE] = difference
        if self.max_rms:
            max_norm = self.max_rms * math.sqrt(difference[0].numel())
            norm = difference.norm(p=2, dim=dimensions, keepdim=True)
            difference = difference * torch.minimum(torch.ones_like(norm), max_norm / norm)
        wide_difference, direction = difference.double(), conditional.double()
        direction = direction / direction.norm(p=2, dim=dimensions, keepdim=True).clamp_min(MIN_NORM)
        parallel = (wide_difference * direction).sum(dim=dimensions, keepdim=True) * direction
        orthogonal = (wide_difference - parallel).to(difference.dtype)
        return orthogonal + self.eta * parallel.to(difference.dtype)


class TangentialGuidance:
    """Tangential damping (TCFG, arXiv 2503.18137, section 4).

    The unconditional velocity keeps only its component along the first right singular vector of both velocities.
    """

    def combine(self, predictions: Predictions, scale: float, state: dict[str, Tensor]) -> Tensor:
        """Return u' + w (c - u'), with u' the projection of u.

        The first right singular vector of the rows c and u is cos(t) c + sin(t) u, normalised, with
        tan(2 t) = 2 (c . u) / (c . c - u . u): the eigenvector of their inner products.
        """
        conditional, unconditional = predictions.conditional.double(), predictions.unconditional.double()
        products = [(a * b).sum() for a, b in ((conditional, conditional), (unconditional, unconditional))]
        mixed = (conditional * unconditional).sum()
        angle = torch.atan2(2 * mixed, products[0] - products[1]) / 2
        direction = torch.cos(angle) * conditional + torch.sin(angle) * unconditional
        squared_norm = (direction * direction).sum().clamp_min(torch.finfo(torch.float64).tiny)
        projected = (unconditional * direction).sum() / squared_norm * direction
        return (projected + scale * (conditional - projected)).to(predictions.conditional.dtype)
