"""Videos whose denoising continued with the generic prompt, arranged by concept, seed and noise level.

A continued video has a prompt schedule that switches once to the generic prompt, in one step. A reference keeps its
prompt to the end. The noise level of a switch is the level of the first evaluation that reads the generic prompt.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wantui.analysis.arrays import FloatArray
from wantui.analysis.commitment import ConceptOutcomes
from wantui.analysis.concept_labels import read_final_state
from wantui.controls.prompt_schedule import PROMPT_SCHEDULE, PromptScheduleRequest, find_recipe_prompt_moments
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.generic_words import GenericWord
from wantui.keyframes import KeyframeError
from wantui.planning import Recipe
from wantui.prompts.unparse import count_equal_columns
from wantui.samplers import compute_noise_levels
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.mp4 import Frame
from wantui.storage.recorded_files import read_recorded_frames

LEVEL_DIGITS = 6
"""Decimal places to which noise levels are distinguished."""
MAX_LISTED_SETTINGS = 5
_WORD_PATTERN = re.compile(r"[^\s!-/:-@\[-`{-~‘’“”«»…、，。]+|\S")
"""A word, or one punctuation mark."""


class CannotMeasureCommitmentError(UserError):
    """Raised if no concept can be measured; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class StoredVideo:
    """A finished video of a batch."""

    folder: Path
    entry: VideoEntry
    title: str

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def recipe(self) -> Recipe:
        return self.entry.recipe

    def read_frames(self) -> Iterator[Frame]:
        """Yield the frames of the clip, uint8 [height, width, rgb].

        Raises:
            ClipError: the clip cannot be read, is damaged, or belongs to another video.
        """
        return read_recorded_frames(self.folder / self.entry.files["clip"], self.entry)

    def read_final_state(self) -> FloatArray:
        """Return the projection [k] of the final latents.

        Raises:
            CannotLabelError: it is not stored, or damaged.
        """
        return read_final_state(self.folder, self.entry)


class JudgedVideo(Protocol):
    """A video whose concept is judged: a reference, a video whose prompt switched, or a U-turn."""

    @property
    def id(self) -> str: ...

    @property
    def recipe(self) -> Recipe: ...

    def read_frames(self) -> Iterator[Frame]:
        """Yield the frames of the clip, uint8 [height, width, rgb]."""
        ...

    def read_final_state(self) -> FloatArray:
        """Return the projection [k] of the final latents."""
        ...


@dataclass
class ConceptVideos:
    """The videos of one concept."""

    concept: str
    prompt: str
    reference_by_seed: dict[int, StoredVideo] = field(default_factory=dict)
    continued_by_seed: dict[int, dict[float, JudgedVideo]] = field(default_factory=dict)
    """Continued videos by seed, then by noise level."""


@dataclass
class ConceptFamily:
    """Concepts that are continued with the same generic prompt."""

    generic_prompt: str
    concepts: list[ConceptVideos] = field(default_factory=list)

    def list_videos(self) -> list[JudgedVideo]:
        """Return all references and continued videos."""
        return [
            video
            for videos in self.concepts
            for video in (
                *videos.reference_by_seed.values(),
                *(each for by_level in videos.continued_by_seed.values() for each in by_level.values()),
            )
        ]


Exclusion = tuple[str, str]
"""Name of an excluded video or seed, and the reason."""
WordWeightsByPosition = tuple[tuple[int, int, float], ...]
"""First and last character, and weight, of a prompt's weighted words."""


def find_prompt_switch(recipe: Recipe) -> tuple[float, str] | None:
    """Return the noise level of a prompt switch, and the prompt after it; None without a prompt schedule.

    Raises:
        ValueError: the schedule is not one switch in one step; the message says what it is.
    """
    request = recipe.find_control_request(PROMPT_SCHEDULE.name)
    if not isinstance(request, PromptScheduleRequest):
        return None
    if len(request.prompts) != 1:
        raise ValueError(f"its prompt changes {len(request.prompts)} times, not once")
    if request.interpolation != "step":
        raise ValueError(f"its prompts are interpolated ({request.interpolation}), not switched in one step")
    noise_levels = compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift)
    try:
        moments = find_recipe_prompt_moments(recipe, request)
    except KeyframeError as error:  # the recipe was edited by hand
        raise ValueError(str(error)) from None
    index = next(index for index, moment in enumerate(moments) if moment.before == 1)
    return round(float(noise_levels[index]), LEVEL_DIGITS), request.prompts[0].prompt


def find_concept_word(prompt: str, generic_prompt: str) -> str:
    """Return the words of a prompt that the generic prompt replaces; the whole prompt if it replaces all words.

    Punctuation next to the words does not belong to them. Words that are replaced in several places count once. If both
    prompts write them with a capital, as at the start of a sentence, the capital is not part of the words.
    """
    replaced, replacing = _find_replaced_words(prompt, generic_prompt)
    for last in replaced[: len(replaced) // 2]:  # a concept that occurs twice takes less than half of the text
        for generic_last in replacing[: len(replacing) // 2]:
            concept, generic = _lower_shared_capital(
                prompt[replaced[0].start() : last.end()],
                generic_prompt[replacing[0].start() : generic_last.end()],
            )
            if GenericWord(generic, (concept,)).generalise(prompt) == generic_prompt:
                return concept
    if not replaced:
        return prompt
    first_replacing = replacing[0][0] if replacing else ""
    return _lower_shared_capital(prompt[replaced[0].start() : replaced[-1].end()], first_replacing)[0]


def _lower_shared_capital(concept: str, generic: str) -> tuple[str, str]:
    """Return both texts without their initial capital if both have one."""
    if concept[:1].isupper() and generic[:1].isupper():
        return concept[:1].lower() + concept[1:], generic[:1].lower() + generic[1:]
    return concept, generic


def _find_replaced_words(prompt: str, generic_prompt: str) -> tuple[list[re.Match[str]], list[re.Match[str]]]:
    """Return, for a prompt and a generic prompt, the words from their first to their last difference."""
    words, generic_words = (list(_WORD_PATTERN.finditer(text)) for text in (prompt, generic_prompt))
    texts = [[word[0] for word in row] for row in (words, generic_words)]
    start = count_equal_columns(texts)
    end = count_equal_columns([row[start:][::-1] for row in texts])
    return words[start : len(words) - end], generic_words[start : len(generic_words) - end]


def select_concept_prompts(prompts: Iterable[str], generic_prompt: str) -> list[str]:
    """Return the prompts that differ from a generic prompt in the concept alone.

    These are the prompts that replace the fewest words of the generic prompt.
    """
    counts = {prompt: len(_find_replaced_words(prompt, generic_prompt)[1]) for prompt in prompts}
    fewest = min(counts.values(), default=0)
    return [prompt for prompt, count in counts.items() if count == fewest]


def collect_concept_families(
    batches: Iterable[tuple[Path, Manifest]],
) -> tuple[list[ConceptFamily], list[Exclusion]]:
    """Return the concepts of some batches by their generic prompt, and the excluded videos.

    Raises:
        CannotMeasureCommitmentError: no finished video has a prompt switch, or other settings differ.
    """
    videos, left_out = list_finished_videos(batches)
    references: dict[str, dict[int, StoredVideo]] = {}
    families: dict[str, ConceptFamily] = {}
    concepts: dict[tuple[str, str], ConceptVideos] = {}
    included: list[StoredVideo] = []
    for video in videos:
        recipe = video.entry.recipe
        try:
            switch = find_prompt_switch(recipe)
        except ValueError as error:
            left_out.append((video.title, str(error)))
            continue
        included.append(video)
        if switch is None:
            references.setdefault(recipe.prompt, {})[video.entry.seed] = video
            continue
        sigma, generic_prompt = switch
        family = families.setdefault(generic_prompt, ConceptFamily(generic_prompt))
        key = generic_prompt, recipe.prompt
        if key not in concepts:
            concepts[key] = ConceptVideos(find_concept_word(recipe.prompt, generic_prompt), recipe.prompt)
            family.concepts.append(concepts[key])
        concepts[key].continued_by_seed.setdefault(video.entry.seed, {})[sigma] = video
    if not concepts:
        raise CannotMeasureCommitmentError(
            "cannot measure commitment: no finished video switches to a generic prompt. Generate such videos with "
            "`wantui commitment run`"
        )
    require_equal_settings(included)
    for concept_videos in concepts.values():
        concept_videos.reference_by_seed = references.get(concept_videos.prompt, {})
    return list(families.values()), left_out


def list_finished_videos(batches: Iterable[tuple[Path, Manifest]]) -> tuple[list[StoredVideo], list[Exclusion]]:
    """Return the finished videos of batches, and the state of every remaining video."""
    videos: dict[str, StoredVideo] = {}
    left_out: list[Exclusion] = []
    for folder, manifest in batches:
        for entry in manifest.videos:
            title = manifest.make_video_title(entry)
            if entry.state != "done":
                left_out.append((title, f"it is {entry.state}"))
            else:  # a video that two batches share counts once
                videos.setdefault(entry.id, StoredVideo(folder, entry, title))
    return list(videos.values()), left_out


def require_equal_settings(videos: Sequence[StoredVideo]) -> None:
    """Refuse videos that differ in anything except prompt, seed and switch, because their outcomes cannot be pooled.

    Raises:
        CannotMeasureCommitmentError: the message names the settings.
    """
    if differing := find_differing_settings(videos):
        raise CannotMeasureCommitmentError(
            f"cannot measure commitment: the videos also differ in {', '.join(differing)}. "
            "Measure batches with equal settings"
        )


def find_differing_settings(videos: Sequence[StoredVideo]) -> list[str]:
    """Return up to `MAX_LISTED_SETTINGS` names of recipe fields that differ, "word weights" first.

    Prompt, seed, switch and captures may differ; the weights of words only between prompts.
    """
    ignored = {"prompt", "marks", "seed", "capture"}
    values_by_name: dict[str, set[str]] = {}
    weights_by_prompt: dict[str, set[WordWeightsByPosition]] = {}
    for video in videos:
        recipe = video.entry.recipe
        document = recipe.model_dump(mode="json", exclude=ignored)
        if document.pop("weighting") is not None:
            document["weighting"] = recipe.weighting
        controls = document.pop("controls", {})
        controls.pop(PROMPT_SCHEDULE.name, None)
        for name, value in {**document, "controls": controls}.items():
            values_by_name.setdefault(name, set()).add(repr(value))
        for prompt in recipe.prompts:
            weights = tuple((mark.start, mark.end, mark.weight) for mark in prompt.marks if mark.weight != 1)
            weights_by_prompt.setdefault(prompt.prompt, set()).add(weights)
    differing = [name for name, values in values_by_name.items() if len(values) > 1]
    if any(len(weights) > 1 for weights in weights_by_prompt.values()):
        differing.insert(0, "word weights")
    return differing[:MAX_LISTED_SETTINGS]


def build_concept_outcomes(
    family: ConceptFamily, label_by_id: Mapping[str, str], checks_references: bool
) -> tuple[list[ConceptOutcomes], list[Exclusion]]:
    """Return the outcomes of each of a family's concepts, and the excluded seeds.

    A concept has the noise levels that most of its seeds have; seeds without a video or a label at one of them are
    left out.

    Args:
        checks_references: True to leave out seeds whose reference does not show the concept; False if the labels were
            derived from the references.
    """
    results: list[ConceptOutcomes] = []
    left_out: list[Exclusion] = []
    for videos in family.concepts:
        level_sets = [tuple(sorted(by_level)) for by_level in videos.continued_by_seed.values()]
        sigmas = max(level_sets, key=lambda levels: (level_sets.count(levels), len(levels)))
        rows: dict[int, tuple[str, ...]] = {}
        for seed, by_level in sorted(videos.continued_by_seed.items()):
            name = f"{videos.concept} seed {seed}"
            missing = [sigma for sigma in sigmas if sigma not in by_level or by_level[sigma].id not in label_by_id]
            reference = videos.reference_by_seed.get(seed)
            if reference is None or (checks_references and reference.id not in label_by_id):
                left_out.append((name, "it has no reference video, or its reference video has no label"))
            elif checks_references and (shown := label_by_id[reference.id]) != videos.concept:
                left_out.append((name, f"its reference video shows {shown}"))
            elif missing:
                levels_text = format_count(len(missing), "noise level")
                left_out.append((name, f"its video or label is missing at {levels_text}, first at {missing[0]:.3g}"))
            else:
                rows[seed] = tuple(label_by_id[by_level[sigma].id] for sigma in sigmas)
        if rows:
            results.append(ConceptOutcomes(videos.concept, sigmas, tuple(rows), tuple(rows.values())))
        else:
            left_out.append((videos.concept, "no seed can be used"))
    return results, left_out
