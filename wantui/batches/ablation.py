"""One-step ablation of words: how the velocity changes at a stored state if one word gets no attention.

At each chosen state of a video, the model is evaluated with its prompt, and once more for each word with the weight 0
of the word in every cross-attention. No video is generated: the state is the same in both passes. The change is |c -
c_w|, where c is the velocity of the pass with the prompt, and c_w the velocity of the pass without the word. With
classifier-free guidance at scale g, the guided velocity changes by g times as much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wantui.analysis.denoising_states import DenoisingStates, StateMoment
from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut
from wantui.batches.stored_videos import open_finished_states, predict_pass_seconds
from wantui.controls import CONTROLS
from wantui.controls.attention_bending import find_word_spans
from wantui.controls.base import return_guidance_unchanged
from wantui.controls.guidance import GUIDANCE
from wantui.controls.prompt_schedule import PROMPT_SCHEDULE
from wantui.errors import UserError
from wantui.generation.errors import NotFiniteError
from wantui.planning import CaptureRequests, PromptMark, Recipe
from wantui.planning.guidance_plan import plan_guidance
from wantui.storage.video_selection import SelectedVideo
from wantui.storage.zarr_group import CaptureError

if TYPE_CHECKING:
    from wantui.worker.pipelines import LoadedPipeline


@dataclass(frozen=True)
class AblationRequest:
    """Words to ablate, and the stored states at which they are ablated."""

    words: tuple[str, ...] = ()
    """Words to ablate; empty for the marked words of each prompt."""
    written_moments: tuple[str, ...] | None = None
    """Moments for `DenoisingStates.choose_moments`; None for all stored steps."""
    device: str = "auto"
    may_fetch: bool = False


@dataclass(frozen=True)
class AblationTask:
    """A video, its words and its states."""

    video: SelectedVideo
    words: tuple[str, ...]
    states: DenoisingStates
    moments: tuple[StateMoment, ...]

    @property
    def recipe(self) -> Recipe:
        return self.video.entry.recipe

    @property
    def pass_count(self) -> int:
        """Return the number of passes: one with the prompt and one for each word, at each state."""
        return (1 + len(self.words)) * len(self.moments)


@dataclass(frozen=True)
class AblationPlan:
    """The videos to measure, and the cost of measuring them."""

    tasks: tuple[AblationTask, ...]
    left_out: tuple[tuple[str, str], ...]
    """Name and reason of each video that cannot be measured."""

    @property
    def pass_count(self) -> int:
        return sum(task.pass_count for task in self.tasks)

    @property
    def predicted_seconds(self) -> float | None:
        """Return the predicted seconds of all passes, from the steps of the videos; None if a video was not timed."""
        return predict_pass_seconds([(task.video, task.pass_count) for task in self.tasks])


@dataclass(frozen=True)
class AblatedState:
    """Change of the velocity at one state, if one word gets no attention in one step."""

    word: str
    step: int
    sigma: float
    change: float
    """Root mean square of c - c_w over all latent values."""
    share: float
    """|c - c_w| / |c|."""
    guided_change: float | None
    """Change of the guided velocity, g times `change`; None for other rules than classifier-free guidance."""


@dataclass(frozen=True)
class StateMeasured:
    """Event: all words are ablated at one state of a video."""

    task: AblationTask
    video_number: int
    moment_number: int


@dataclass(frozen=True)
class VideoMeasured:
    """Event: all states of a video are measured."""

    task: AblationTask
    states: tuple[AblatedState, ...]


AblationEvent = ModelLoadStarted | StateMeasured | VideoMeasured | VideoLeftOut


def plan_ablation(videos: Sequence[SelectedVideo], request: AblationRequest) -> AblationPlan:
    """Choose the videos, words and states to measure.

    Raises:
        UserError: a moment is not stored, or no video can be measured.
    """
    tasks: list[AblationTask] = []
    left_out: list[tuple[str, str]] = []
    for video in videos:
        try:
            words = _choose_words(video.entry.recipe, request.words)
            states = open_finished_states(video)
        except (UserError, CaptureError) as error:
            left_out.append((video.name, str(error)))
            continue
        states.name = video.name  # later errors are not prefixed by the name
        moments = (
            states.list_all_moments("noisy")[:-1]
            if request.written_moments is None
            else states.choose_moments("noisy", request.written_moments)
        )
        kept_moments = tuple(moment for moment in moments if moment.step is not None)
        if not kept_moments:
            raise UserError("--steps contains only `end`, at which the model is not evaluated. Add an earlier step")
        tasks.append(AblationTask(video, words, states, kept_moments))
    if not tasks:
        raise UserError(f"cannot ablate words in any video: {left_out[0][0]}: {left_out[0][1]}")
    return AblationPlan(tuple(tasks), tuple(left_out))


def _choose_words(recipe: Recipe, requested_words: Sequence[str]) -> tuple[str, ...]:
    """Return the words to ablate in a prompt.

    Raises:
        UserError: the prompt lacks a word, no word is named, or another control makes ablation meaningless.
    """
    if recipe.speed == "cached":
        raise UserError("it was generated with speed: cached, which skips blocks. Generate it with speed: fused")
    if recipe.find_control_request(PROMPT_SCHEDULE.name) is not None:
        raise UserError("its prompt changes during denoising. Ablate words only in videos with one prompt")
    if recipe.weighting not in (None, "attention"):
        raise UserError(f"its word weights change the text embedding ({recipe.weighting}), not the attention")
    words = tuple(dict.fromkeys(requested_words or (mark.text for mark in recipe.marks)))
    if not words:
        raise UserError("its prompt marks no word. Name one with --word")
    for word in words:
        if not find_word_spans(recipe.prompt, recipe.marks, word):
            raise UserError(f"its prompt {recipe.prompt!r} has no word {word!r}")
    return words


def build_conditional_recipe(recipe: Recipe, ablated_word: str | None = None) -> Recipe:
    """Return a recipe whose evaluations run the pass with the prompt alone, without captures.

    Args:
        ablated_word: word that gets the weight 0 in every cross-attention; None for none.
    """
    guidance_controls = {kind.name for kind in CONTROLS if kind.change_guidance is not return_guidance_unchanged}
    controls = {name: request for name, request in recipe.controls.items() if name not in guidance_controls}
    update: dict[str, object] = {
        "guidance_scale": 1.0,
        "guidance_scale_2": None,
        "controls": controls,
        "capture": CaptureRequests(),
    }
    if ablated_word is not None:
        spans = find_word_spans(recipe.prompt, recipe.marks, ablated_word)
        # Weights of overlapping marks multiply: a longer mark keeps its weight, and its bends, on its other words.
        kept_marks = [mark for mark in recipe.marks if (mark.start, mark.end) not in spans]
        ablated_marks = [
            PromptMark(text=recipe.prompt[start:end], start=start, end=end, weight=0.0) for start, end in spans
        ]
        marks = sorted([*kept_marks, *ablated_marks], key=lambda mark: mark.start)
        update |= {"marks": tuple(marks), "weighting": "attention"}
    return recipe.model_copy(update=update)


def measure_ablation(plan: AblationPlan, request: AblationRequest) -> Iterator[AblationEvent]:
    """Measure the videos of a plan; yield the progress, and the changes of each video.

    Raises:
        UserError: the model cannot be loaded, or its weights have changed.
        RuntimeError: the device is out of memory.
    """
    from wantui.batches.generating_model import GeneratingModel

    recipes = [build_conditional_recipe(task.recipe) for task in plan.tasks]
    model = GeneratingModel(recipes, request.device, request.may_fetch)
    for number, task in enumerate(plan.tasks, 1):
        yield from model.load(build_conditional_recipe(task.recipe, task.words[0]))
        states: list[AblatedState] = []
        try:
            for moment_number, results in enumerate(_measure_task(model.loaded, task), 1):
                states += results
                yield StateMeasured(task, number, moment_number)
        except (CaptureError, ArithmeticError, NotFiniteError) as error:
            yield VideoLeftOut(task.video.name, str(error))
            continue
        yield VideoMeasured(task, tuple(states))


def _measure_task(loaded: "LoadedPipeline", task: AblationTask) -> Iterator[list[AblatedState]]:
    """Yield, for each state of a video, the changes of the velocity without each word."""
    from wantui.generation.denoise import prepare_inputs
    from wantui.generation.replay import evaluate_velocity

    pipeline = loaded.pipeline
    recipes = [build_conditional_recipe(task.recipe, word) for word in (None, *task.words)]
    inputs = [prepare_inputs(pipeline, recipe, loaded.embeddings) for recipe in recipes]
    guidance = plan_guidance(task.recipe)
    has_plain_rule = task.recipe.find_control_request(GUIDANCE.name) is None
    for moment in task.moments:
        state = task.states.read_state(moment)
        conditional, *ablated = (
            evaluate_velocity(pipeline, recipe, each, state, moment.evaluation).double()
            for recipe, each in zip(recipes, inputs, strict=True)
        )
        results = []
        for word, velocity in zip(task.words, ablated, strict=True):
            difference = conditional - velocity
            change = float(difference.square().mean().sqrt())
            results.append(
                AblatedState(
                    word,
                    moment.step or 0,
                    moment.sigma,
                    change,
                    float(difference.norm() / conditional.norm()),
                    abs(guidance[moment.evaluation].effective_scale) * change if has_plain_rule else None,
                )
            )
        yield results
