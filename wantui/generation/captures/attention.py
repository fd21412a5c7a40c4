"""Record the exact cross-attention maps of the marked words."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from wantui.captures.attention import ATTENTION
from wantui.generation.captures.base import CaptureRecorder
from wantui.generation.cross_attention import CrossAttentionObserver, StepMaps
from wantui.generation.denoising_state import DenoisingInputs, DenoisingStep
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.token_spans import TokenizedPrompt
from wantui.storage.attention_maps import AttentionMapWriter

CAPTURE_NAME = ATTENTION.name
SELF_CHECK_ATTRIBUTE = "self_check"
"""Group attribute with the results of the attention self-check."""


def make_hook(preparation: DenoisingPreparation) -> CrossAttentionObserver | None:
    """Return the cross-attention observer if the recipe requests maps, attention weights or bends; otherwise None."""
    has_weights = any(prompt.weights_by_position for prompt in preparation.prompts.prompts)
    changes_attention = has_weights or bool(preparation.bends_by_context)
    if preparation.recipe.capture.attention is None and not changes_attention:
        return None
    return CrossAttentionObserver(preparation)


def _describe_words(prompts: Sequence[TokenizedPrompt]) -> dict[str, dict[str, Any]]:
    """Return the metadata of each marked word by map name, taken from the first prompt that contains the word."""
    metadata_by_word: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        for word in prompt.words:
            metadata = {
                "text": word.text,
                "start": word.start_character,
                "end": word.end_character,
                "weight": word.weight,
                "tokens": list(word.token_positions),
                "token_texts": list(word.token_texts),
            }
            metadata_by_word.setdefault(word.map_name, metadata)
    return metadata_by_word


class Recorder(CaptureRecorder):
    """Record the attention maps of the marked words."""

    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None:
        observer = inputs.hooks_by_capture[CAPTURE_NAME]
        assert isinstance(observer, CrossAttentionObserver)
        self.observer: CrossAttentionObserver = observer
        evaluations = sorted(self.observer.stored_evaluations)
        self.check_stored_steps("attention maps", evaluations, steps_done)
        self.writer: AttentionMapWriter = AttentionMapWriter(
            self.path,
            {context: self.observer.list_map_names(context) for context in self.observer.prompts_by_context},
            self.observer.map_shape,
            evaluations,
            [inputs.sigmas[evaluation] for evaluation in evaluations],
            len(self.observer.pipeline.transformer.blocks),
            self.recipe,
            _describe_words(self.observer.prompts_by_context["cond"]),
            self.earlier_checksums,
        )
        if self.earlier_checksums and not self.writer.is_finished:
            self.observer.check_results.restore_results(self.writer.read_attribute(SELF_CHECK_ATTRIBUTE))
        self.stored_check_count: int = len(self.observer.check_results.results_by_block)
        """Number of blocks whose check is stored."""

    def on_step(self, step: DenoisingStep) -> None:
        self._store_new_checks()
        step_maps: StepMaps | None = step.values_by_capture.get(CAPTURE_NAME)
        if step_maps is None:
            return
        maps_by_context = {
            context: {name: maps.cpu().numpy() for name, maps in maps_by_name.items()}
            for context, maps_by_name in step_maps.maps_by_context.items()
        }
        self.background_writer.submit_write(
            partial(self.writer.write_maps, maps_by_context, step_maps.computed_blocks_by_context)
        )

    def on_end(self) -> None:
        self.background_writer.wait_for_writes()
        self.writer.finish_group({SELF_CHECK_ATTRIBUTE: self.observer.check_results.serialize_results()})

    def _store_new_checks(self) -> None:
        """Store the checks of newly evaluated blocks now, for a process that resumes the video."""
        check_results = self.observer.check_results
        if len(check_results.results_by_block) > self.stored_check_count:
            self.stored_check_count = len(check_results.results_by_block)
            self.background_writer.submit_write(
                partial(self.writer.update_attributes, {SELF_CHECK_ATTRIBUTE: check_results.serialize_results()})
            )
