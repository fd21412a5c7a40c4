"""Determine the concept that each video of a generic prompt shows, from a judge, references or given labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.cli.concept_judges import DESCRIPTION_BY_METHOD, explain_nano_judge_refusal, judge_nano_clips
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest

if TYPE_CHECKING:
    from wantui.analysis.continued_videos import Exclusion, StoredVideo

DEFAULT_ATTRIBUTE = "shape"
LATENTS_FIELDS = ("model", "revision", "width", "height", "frames")
"""Recipe fields that must be equal for the final latents of two videos to be compared."""


@dataclass
class GenericLabels:
    """Concepts that the videos of one generic prompt show, by video id."""

    label_by_id: dict[str, str]
    method: str
    concepts: tuple[str, ...]
    """All concepts that a video could show; empty if they are unknown, as with given labels."""
    left_out: "list[Exclusion]" = field(default_factory=list)

    @property
    def description(self) -> str:
        known_text = f"; known concepts: {', '.join(self.concepts)}" if self.concepts else ""
        return DESCRIPTION_BY_METHOD[self.method] + known_text


def list_generic_videos(folders: Sequence[Path]) -> "tuple[dict[str, list[StoredVideo]], list[Exclusion]]":
    """Return the finished videos of batches by prompt, each seed once, and the videos that are left out.

    Raises:
        UserError: no video is finished, or videos of one prompt differ in other settings.
    """
    from wantui.analysis.continued_videos import find_differing_settings, list_finished_videos
    from wantui.controls.prompt_schedule import PROMPT_SCHEDULE

    videos, left_out = list_finished_videos((folder, read_manifest(BatchFolder(folder))) for folder in folders)
    by_prompt: dict[str, dict[int, StoredVideo]] = {}
    for video in videos:
        recipe = video.recipe
        seeds = by_prompt.setdefault(recipe.prompt, {})
        if recipe.find_control_request(PROMPT_SCHEDULE.name) is not None:
            left_out.append((video.title, "its prompt changes during denoising"))
        elif video.entry.seed in seeds:
            left_out.append((video.title, "another video with the same prompt and seed is counted"))
        else:
            seeds[video.entry.seed] = video
    result = {prompt: list(seeds.values()) for prompt, seeds in by_prompt.items() if seeds}
    if not result:
        raise UserError(
            "cannot measure the shares of concepts: no video is finished. Generate some with `wantui generic run`"
        )
    for prompt, counted_videos in result.items():
        if differing := find_differing_settings(counted_videos):
            raise UserError(
                f"cannot count the videos of {prompt!r} together: they also differ in {', '.join(differing)}. Give "
                "batches with equal settings"
            )
    return result, left_out


def list_references(folders: Sequence[Path]) -> "dict[str, dict[int, StoredVideo]]":
    """Return the finished videos of batches by prompt and seed, except videos with a prompt schedule."""
    if not folders:
        return {}
    videos_by_prompt, _ = list_generic_videos(folders)
    return {prompt: {video.entry.seed: video for video in videos} for prompt, videos in videos_by_prompt.items()}


def label_generic_videos(
    prompt: str,
    videos: "list[StoredVideo]",
    references: "dict[str, dict[int, StoredVideo]]",
    judge: str,
    attribute: str | None,
    given_labels: Mapping[str, str] | None,
) -> GenericLabels:
    """Return the concept that each video of a generic prompt shows.

    Raises:
        UserError: the judge cannot be used for these videos, or references are missing.
    """
    from wantui.analysis.concept_labels import WORDS_BY_ATTRIBUTE

    if given_labels is not None:
        label_by_id = {video.id: given_labels[video.id] for video in videos if video.id in given_labels}
        missing = [(video.title, "it has no label") for video in videos if video.id not in label_by_id]
        return GenericLabels(label_by_id, "labels", (), missing)
    if attribute is not None and attribute not in WORDS_BY_ATTRIBUTE:
        raise UserError(f"--of: unknown attribute {attribute!r}. Choose from: {', '.join(WORDS_BY_ATTRIBUTE)}")
    reason = explain_nano_judge_refusal(videos)
    if judge == "nano" and reason:
        raise UserError(f"cannot use --judge nano: {reason}. Use --reference BATCH, or --labels FILE")
    if not reason and judge != "nearest":
        chosen = attribute or DEFAULT_ATTRIBUTE
        return GenericLabels(judge_nano_clips(videos, chosen), "nano", WORDS_BY_ATTRIBUTE[chosen])
    if attribute is not None:
        raise UserError("cannot use --of here: it applies only to --judge nano")
    return _label_by_nearest_reference(prompt, videos, references)


def _label_by_nearest_reference(
    prompt: str, videos: "list[StoredVideo]", references: "dict[str, dict[int, StoredVideo]]"
) -> GenericLabels:
    from wantui.analysis.concept_labels import CannotLabelError, find_nearest_concept
    from wantui.analysis.continued_videos import find_concept_word, select_concept_prompts

    chosen_prompts = select_concept_prompts(references, prompt)
    unused = [(each, f"it differs from {prompt!r} in more than the concept") for each in references]
    unused = [item for item in unused if item[0] not in chosen_prompts]
    references = {each: references[each] for each in chosen_prompts}
    if len(references) < 2:
        raise UserError(
            f"cannot label the videos of {prompt!r}: labelling by the nearest reference needs at least two concepts, "
            f"but the reference batches contain {format_count(len(references), 'suitable prompt')}. Pass "
            "--reference BATCH, a batch with one prompt per concept and the same seeds, or --labels FILE"
        )
    concept_by_prompt = {each: find_concept_word(each, prompt) for each in references}
    result = GenericLabels({}, "nearest", tuple(concept_by_prompt.values()), unused)
    try:
        for video in videos:
            seed = video.entry.seed
            if not all(seed in by_seed for by_seed in references.values()):
                result.left_out.append((video.title, "no reference has its seed"))
                continue
            for by_seed in references.values():
                _require_equal_latents(video, by_seed[seed])
            states = {concept_by_prompt[each]: by_seed[seed].read_final_state() for each, by_seed in references.items()}
            result.label_by_id[video.id] = find_nearest_concept(video.read_final_state(), states)
    except CannotLabelError as error:
        raise UserError(f"cannot label the videos by their nearest reference: {error}") from None
    return result


def _require_equal_latents(video: "StoredVideo", reference: "StoredVideo") -> None:
    """Reject a reference whose latents differ from a video's in axes or meaning.

    Raises:
        CannotLabelError: the message names the settings.
    """
    from wantui.analysis.concept_labels import CannotLabelError

    values, reference_values = (each.recipe.model_dump(include={*LATENTS_FIELDS}) for each in (video, reference))
    differing = [
        f"{name} {reference_values[name]} instead of {values[name]}"
        for name in LATENTS_FIELDS
        if reference_values[name] != values[name]
    ]
    if differing:
        raise CannotLabelError(
            f"{reference.title} has {', '.join(differing)}. Give a batch with the model and size of these videos"
        )
