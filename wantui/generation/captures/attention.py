"""Record the exact cross-attention maps of the marked words."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wantui.captures.attention import ATTENTION
from wantui.generation.cross_attention import CrossAttention, StepMaps
from wantui.generation.preparation import Preparation
from wantui.planning import Recipe
from wantui.storage.attention_maps import AttentionMapWriter
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.zarr_group import IncompleteCaptureError

if TYPE_CHECKING:
    from wantui.generation.denoise import Start, Step

NAME = ATTENTION.name
SELF_CHECK = "self_check"
"""Group attribute with the results of the attention self-check."""


def hook(preparation: Preparation) -> CrossAttention | None:
    """Return the cross-attention observer if the recipe requests maps or attention weights; otherwise None."""
    if preparation.recipe.capture.attention is None and not preparation.token_weights:
        return None
    return CrossAttention(preparation)


class Recorder:
    """Record the attention maps of the marked words; see `captures.Recorder` for the arguments."""

    def __init__(
        self, path: Path, recipe: Recipe, background: BackgroundWriter, earlier: Sequence[int], resumable: bool
    ) -> None:
        self.path, self.recipe, self.background, self.earlier = path, recipe, background, earlier

    def on_start(self, start: "Start", steps_done: int) -> None:
        attention = start.hooks[NAME]
        assert isinstance(attention, CrossAttention)
        self.attention: CrossAttention = attention
        steps = sorted(self.attention.steps)
        if len(self.earlier) != sum(step < steps_done for step in steps):
            raise IncompleteCaptureError(
                f"attention maps of {len(self.earlier)} steps were stored before step {steps_done}"
            )
        self.writer: AttentionMapWriter = AttentionMapWriter(
            self.path,
            {context: self.attention.list_map_names(context) for context in self.attention.prompts},
            self.attention.map_shape,
            steps,
            [start.sigmas[step] for step in steps],
            len(self.attention.pipeline.transformer.blocks),
            self.recipe,
            {
                word.name: {
                    "text": word.text,
                    "start": word.start,
                    "end": word.end,
                    "weight": word.weight,
                    "tokens": list(word.tokens),
                    "token_texts": list(word.token_texts),
                }
                for word in self.attention.prompts["cond"].words
            },
            self.earlier,
        )
        if self.earlier and not self.writer.is_finished:
            self.attention.check.restore(self.writer.read_attribute(SELF_CHECK))
        self.stored_checks: int = len(self.attention.check.blocks)
        """Number of blocks whose check is stored."""

    def on_step(self, step: "Step") -> None:
        self._store_new_checks()
        recorded: StepMaps | None = step.captured.get(NAME)
        if recorded is None:
            return
        maps = {
            context: dict(zip(context_maps, torch.stack(list(context_maps.values())).cpu().numpy(), strict=True))
            for context, context_maps in recorded.maps.items()
        }
        self.background.submit(partial(self.writer.write_maps, maps, recorded.blocks))

    def on_end(self) -> None:
        self.background.flush()
        self.writer.finish({SELF_CHECK: self.attention.check.to_attribute()})

    def _store_new_checks(self) -> None:
        """Store the checks of newly evaluated blocks now, for a process that resumes the video."""
        check = self.attention.check
        if len(check.blocks) > self.stored_checks:
            self.stored_checks = len(check.blocks)
            self.background.submit(partial(self.writer.update_attributes, {SELF_CHECK: check.to_attribute()}))

    def compute_checksums(self) -> tuple[int, ...]:
        """Return the CRC-32 of each step with stored maps."""
        self.background.flush()
        return tuple(self.writer.checksums)
