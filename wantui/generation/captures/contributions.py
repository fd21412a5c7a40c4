"""Record the contributions of the marked words to the cross-attention."""

from functools import partial
from typing import Any

from wantui.captures.contributions import CONTRIBUTIONS, OUTPUT_NAME, ContributionRequest
from wantui.generation.captures.base import CaptureRecorder
from wantui.generation.denoising_state import DenoisingInputs, DenoisingStep
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.word_contributions import ContributionObserver
from wantui.planning.evaluation_prompts import STEP_PROMPTS_ATTRIBUTE, build_evaluation_prompts_attribute
from wantui.storage.step_arrays import StepArray, StepArrayWriter

CAPTURE_NAME = CONTRIBUTIONS.name


def make_hook(preparation: DenoisingPreparation) -> ContributionObserver | None:
    """Return the observer of contributions if the recipe requests them; otherwise None."""
    request = preparation.recipe.capture.find_request(CAPTURE_NAME)
    return ContributionObserver(preparation, request) if isinstance(request, ContributionRequest) else None


class Recorder(CaptureRecorder):
    """Record contributions."""

    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None:
        observer = inputs.hooks_by_capture[CAPTURE_NAME]
        assert isinstance(observer, ContributionObserver)
        self.observer: ContributionObserver = observer
        self.check_stored_steps("contributions", observer.evaluations, steps_done)
        attributes: dict[str, Any] = {
            "layout": "step, block, frame, height, width",
            "blocks": "each" if observer.request.per_block else "mean",
            "words": {
                name: {"text": word.text, "weight": word.weight, "token_texts": list(word.token_texts)}
                for name, word in observer.words.items()
            },
        }
        if evaluation_prompts := build_evaluation_prompts_attribute(self.recipe).get(STEP_PROMPTS_ATTRIBUTE):
            attributes[STEP_PROMPTS_ATTRIBUTE] = [evaluation_prompts[evaluation] for evaluation in observer.evaluations]
        self.writer: StepArrayWriter = StepArrayWriter(
            self.path,
            {
                name: StepArray(observer.map_shape, "float32", is_compressed=True)
                for name in (*observer.words, OUTPUT_NAME)
            },
            observer.evaluations,
            [inputs.sigmas[evaluation] for evaluation in observer.evaluations],
            self.recipe,
            attributes,
            self.earlier_checksums,
        )

    def on_step(self, step: DenoisingStep) -> None:
        maps = step.values_by_capture.get(CAPTURE_NAME)
        if maps is None:
            return
        values = {name: tensor.cpu().numpy() for name, tensor in maps.items()}
        self.background_writer.submit_write(partial(self.writer.write_step, values))

    def on_end(self) -> None:
        self.background_writer.wait_for_writes()
        self.writer.finish_group({})
