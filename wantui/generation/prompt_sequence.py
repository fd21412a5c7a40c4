"""The prompts that a model reads during one denoising run, and the text embedding of every model evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wantui.controls.marked_prompt import PromptMark
from wantui.controls.prompt_schedule import PromptInterpolation
from wantui.keyframes import EvaluationMoment

MIN_ARC_ANGLE = 1e-6
"""Smallest angle in radians, from 0 and from pi, between two directions that determine an arc in float64."""


@dataclass
class EncodedPrompt:
    """A prompt with its embedding; controls may change the embedding and the weights."""

    prompt: str
    marks: tuple[PromptMark, ...]
    embeds: Tensor
    """[1, 512, dim], output of the text encoder."""
    weights_by_position: dict[int, float] = field(default_factory=dict)
    """Factors of the attention odds by text position, for every cross-attention in the pass with the prompt."""


class PromptSequence:
    """The prompts of one denoising run, and the prompt or mixture of prompts that each model evaluation reads.

    Args:
        prompts: the initial prompt, then the prompts of a schedule.
        moments: location of every evaluation between the prompts; None if there is only one prompt.
    """

    def __init__(
        self,
        prompts: Sequence[EncodedPrompt],
        moments: Sequence[EvaluationMoment] | None = None,
        interpolation: PromptInterpolation = "step",
    ) -> None:
        self.prompts, self.interpolation = tuple(prompts), interpolation
        self._moments = moments
        self._latest_embeds: tuple[EvaluationMoment, Tensor] | None = None

    @property
    def has_schedule(self) -> bool:
        return self._moments is not None

    def find_moment(self, evaluation_index: int) -> EvaluationMoment:
        """Return the location of an evaluation between two prompts.

        An evaluation exactly at a prompt has the share 0.
        """
        return EvaluationMoment(0, 0, 0.0) if self._moments is None else self._moments[evaluation_index]

    def find_embeds(self, evaluation_index: int, dtype: torch.dtype) -> Tensor:
        """Return the text embedding that an evaluation reads, [1, 512, dim].

        Consecutive evaluations of the same mixture get the same tensor, and an evaluation at a prompt gets the
        embedding of the prompt. Mixtures are computed in float64 and rounded once.
        """
        moment = self.find_moment(evaluation_index)
        if self._latest_embeds is None or self._latest_embeds[0] != moment:
            before, after = self.prompts[moment.before].embeds, self.prompts[moment.after].embeds
            mix = slerp_embeddings if self.interpolation == "slerp" else lerp_embeddings
            embeds = mix(before.double(), after.double(), moment.share) if moment.share else before
            self._latest_embeds = moment, embeds.to(dtype)
        return self._latest_embeds[1]

    def find_weights(self, evaluation_index: int) -> dict[int, float]:
        """Return the factors of the attention odds that an evaluation uses.

        They are interpolated linearly between the factors of its prompts.
        """
        moment = self.find_moment(evaluation_index)
        before, after = self.prompts[moment.before].weights_by_position, self.prompts[moment.after].weights_by_position
        if not moment.share:
            return dict(before)
        positions = sorted({*before, *after})
        return {
            position: (1 - moment.share) * before.get(position, 1.0) + moment.share * after.get(position, 1.0)
            for position in positions
        }


def lerp_embeddings(before: Tensor, after: Tensor, share: float) -> Tensor:
    """Interpolate two embeddings on a line: (1 - t) a + t b."""
    return (1 - share) * before + share * after


def slerp_embeddings(before: Tensor, after: Tensor, share: float) -> Tensor:
    """Interpolate two embeddings [..., dim] token by token: directions on an arc, lengths on a line.

    With the lengths |a| and |b|, the directions u = a / |a| and v = b / |b|, and the angle w between the directions:

        ((1 - t) |a| + t |b|) (sin((1 - t) w) u + sin(t w) v) / sin(w)

    The direction follows Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985. The angle is
    2 atan2(|u - v|, |u + v|) (Kahan, "How futile are mindless assessments of roundoff", 2006, section 12), which is
    accurate for nearly parallel directions too. Tokens without such an arc are interpolated on a line, each on its
    own: if a vector is zero, as padding is, or the directions are parallel or opposite.
    """
    lengths = [embeds.norm(dim=-1, keepdim=True) for embeds in (before, after)]
    first, second = (embeds / length.clamp_min(1e-300) for embeds, length in zip((before, after), lengths, strict=True))
    angle = 2 * torch.atan2((first - second).norm(dim=-1, keepdim=True), (first + second).norm(dim=-1, keepdim=True))
    has_arc = (angle > MIN_ARC_ANGLE) & (angle < torch.pi - MIN_ARC_ANGLE) & (lengths[0] > 0) & (lengths[1] > 0)
    angle = torch.where(has_arc, angle, torch.pi / 2)
    direction = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)
    on_arc = lerp_embeddings(lengths[0], lengths[1], share) * direction
    return torch.where(has_arc, on_arc, lerp_embeddings(before, after, share))
