"""Guidance of each model evaluation: its scale, and the passes through the model that give its velocity.

Controls change the guidance that the settings give; predictions of time and memory, and the denoising loop, read the
same result. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

VelocitySource = Literal["conditional", "guided", "reused", "zero"]
"""Source of the velocity of an evaluation. conditional: the pass with the prompt. guided: both passes. reused: the pass
with the prompt, and the difference between the passes of an earlier evaluation. zero: no change of the latents."""


@dataclass(frozen=True)
class EvaluationGuidance:
    """Guidance of one model evaluation."""

    scale: float
    source: VelocitySource

    @property
    def pass_count(self) -> int:
        """Return the number of passes through the transformer; the pass with the prompt always runs."""
        return 2 if self.source == "guided" else 1

    @property
    def effective_scale(self) -> float:
        """Return the factor of the difference between the passes, relative to the unconditional pass.

        It is 1 without guidance, whatever the scale is.
        """
        return self.scale if self.source in ("guided", "reused") else 1.0


@dataclass(frozen=True)
class DenoisingMoments:
    """Model evaluations of a denoising run; the sequences have one value for each."""

    step_count: int
    noise_levels: Sequence[float]
    uses_second_transformer: Sequence[bool]
    """True for the evaluations of the low-noise transformer of Wan 2.2 A14B."""
    first_evaluation: int = 0
    """First evaluation that runs: above 0 if the denoising starts at a stored state."""


def choose_source(scale: float) -> VelocitySource:
    """Return which passes give the velocity at a guidance scale; at exactly 1, the unconditional pass cancels out."""
    return "conditional" if scale == 1 else "guided"
