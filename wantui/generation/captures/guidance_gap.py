"""Record the guidance gap: norms of the predictions with and without the prompt, and their difference."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from wantui.captures.guidance_gap import COLUMNS
from wantui.generation.captures.base import CaptureRecorder
from wantui.generation.denoising_state import DenoisingInputs, DenoisingStep
from wantui.storage.step_arrays import StepArray, StepArrayWriter

ARRAY_NAME = "values"


def measure_pass_gap(conditional: Tensor, unconditional: Tensor | None) -> list[float]:
    """Return the values of one step in the order of COLUMNS, computed in float64.

    Args:
        conditional, unconditional: velocities of any equal shape; None if the step had no second pass.
    """
    conditional = conditional.detach().double()
    if unconditional is None:
        return [1.0, float("nan"), float(conditional.square().mean().sqrt()), float("nan"), float("nan")]
    unconditional = unconditional.detach().double()
    squares = torch.stack(
        [
            (conditional - unconditional).square().mean(),
            conditional.square().mean(),
            unconditional.square().mean(),
            (conditional * unconditional).mean(),
        ]
    )
    difference, conditional_norm, unconditional_norm = squares[:3].sqrt().tolist()
    norm_product = conditional_norm * unconditional_norm
    cosine = float(squares[3]) / norm_product if norm_product > 0 else float("nan")
    return [2.0, difference, conditional_norm, unconditional_norm, cosine]


class Recorder(CaptureRecorder):
    """Record the guidance gap.

    Rows are written when a checkpoint needs them and at the end: one write of a few bytes after each step would take
    longer than measuring them.
    """

    writer: StepArrayWriter

    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None:
        self.unwritten_rows: list[list[float]] = []
        evaluations = range(len(inputs.timesteps))
        self.check_stored_steps("guidance gaps", evaluations, steps_done)
        array = StepArray((len(COLUMNS),), "float64", has_one_chunk=True)
        self.writer = StepArrayWriter(
            self.path,
            {ARRAY_NAME: array},
            evaluations,
            inputs.sigmas[:-1],
            self.recipe,
            {"columns": list(COLUMNS)},
            self.earlier_checksums,
        )

    def on_step(self, step: DenoisingStep) -> None:
        if self.writer.is_finished:
            return
        assert step.conditional_velocity is not None
        self.unwritten_rows.append(measure_pass_gap(step.conditional_velocity, step.unconditional_velocity))

    def on_end(self) -> None:
        self._write_rows()
        self.writer.finish_group({})

    def _write_rows(self) -> None:
        if self.unwritten_rows:
            values_by_path = {ARRAY_NAME: np.array(self.unwritten_rows)}
            self.background_writer.submit_write(partial(self.writer.write_steps, values_by_path))
            self.unwritten_rows = []
        self.background_writer.wait_for_writes()

    def compute_checksums(self) -> tuple[int, ...]:
        """Return the CRC-32 of each measured step."""
        self._write_rows()
        return tuple(self.writer.checksums)
