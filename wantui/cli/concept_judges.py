"""Determine which concept each video of a family shows, by the judge or the labels that the options name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wantui.cli.progress_line import open_progress_line
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.continued_videos import ConceptFamily, JudgedVideo

DESCRIPTION_BY_METHOD = {
    "nearest": "the nearest reference of the same seed in latent space (always one of these concepts)",
    "nano": "the pixel rules for nano's clips",
    "labels": "the given labels",
}


MIN_AGREEMENT = 0.8
"""Share of equal labels below which the nearest reference cannot replace the judge of a model."""


@dataclass(frozen=True)
class ConceptLabels:
    """Concepts that the videos of a family show, by video id."""

    label_by_id: Mapping[str, str]
    method: str
    nearest_label_by_id: Mapping[str, str] | None
    """Labels of the continued videos by the nearest reference; None if it is the judge, or cannot be determined."""

    @property
    def agreement(self) -> tuple[int, int] | None:
        """Number of continued videos for which the nearest reference gives the same label, and number compared."""
        if self.nearest_label_by_id is None:
            return None
        compared = [video_id for video_id in self.nearest_label_by_id if video_id in self.label_by_id]
        return sum(self.nearest_label_by_id[item] == self.label_by_id[item] for item in compared), len(compared)

    def describe(self) -> str:
        """Return the method and its agreement with the nearest reference, in words."""
        text = DESCRIPTION_BY_METHOD[self.method]
        if self.agreement is not None and self.agreement[1]:
            count, total = self.agreement
            text += f"; labels by the nearest reference agree in {count} of {total} continued videos"
            if count < MIN_AGREEMENT * total:
                text += ", too rarely to replace the judge: if a model has no judge, use --labels for such videos"
        return text


def label_family_videos(family: "ConceptFamily", judge: str, given_labels: Mapping[str, str] | None) -> ConceptLabels:
    """Return the concept that each video shows, for concepts that share a generic prompt.

    Args:
        judge: auto, nearest or nano.
        given_labels: labels by id in any case, which replace the judge; None without them.

    Raises:
        UserError: the judge cannot be used for these videos.
    """
    from wantui.analysis.concept_labels import CannotLabelError, find_judged_attribute
    from wantui.storage.uturn_file import UTurnFileError

    videos = family.list_videos()
    concepts = [each.concept for each in family.concepts]
    if given_labels is not None:
        concept_by_label = {concept.casefold(): concept for concept in concepts}
        label_by_id = {key: concept_by_label.get(label.casefold(), label) for key, label in given_labels.items()}
        return ConceptLabels(label_by_id, "labels", _find_nearest_if_possible(family))
    attribute = find_judged_attribute(concepts)
    reason = explain_nano_judge_refusal(videos) or ("" if attribute else f"it cannot distinguish {', '.join(concepts)}")
    if judge == "nano" and reason:
        raise UserError(f"cannot use --judge nano: {reason}. Use --judge nearest, or --labels FILE")
    if judge != "nearest" and not reason and attribute is not None:
        label_by_id = judge_nano_clips(videos, attribute)
        return ConceptLabels(label_by_id, "nano", _find_nearest_if_possible(family))
    if len(family.concepts) < 2:
        raise UserError(
            f"cannot label the videos by their nearest reference: {concepts[0]} is the only concept, so every video "
            f"would be nearest to it. Vary the concept in a bracket, as in [circle|ring], or use --labels FILE"
        )
    try:
        return ConceptLabels(_find_nearest_concepts(family), "nearest", None)
    except (CannotLabelError, UTurnFileError) as error:
        raise UserError(f"cannot label the videos by their nearest reference: {error}") from None


def explain_nano_judge_refusal(videos: "Sequence[JudgedVideo]") -> str:
    """Return why the pixel rules cannot judge these videos; empty if they can."""
    from wantui.models.catalogue import NANO
    from wantui.models.nano.world import CLIP_SIDE_PIXELS

    recipes = [video.recipe for video in videos]
    if any(recipe.model != NANO.name for recipe in recipes):
        return "nano did not generate the videos"
    if any((recipe.width, recipe.height) != (CLIP_SIDE_PIXELS, CLIP_SIDE_PIXELS) for recipe in recipes):
        return f"its rules are for clips of {CLIP_SIDE_PIXELS}x{CLIP_SIDE_PIXELS} pixels"
    return ""


def judge_nano_clips(videos: "Sequence[JudgedVideo]", attribute: str) -> dict[str, str]:
    """Return the concept that each nano clip shows, by video id.

    Args:
        attribute: shape, colour or motion.
    """
    with open_progress_line() as line:
        line.show_phase("loading torch")
        from wantui.generation.judge_clips import judge_clips

        readers_by_id = {video.id: video.read_frames for video in videos}
        return judge_clips(
            readers_by_id, attribute, lambda count: line.show_count(f"judging clips: {count} of {len(readers_by_id)}")
        )


def _find_nearest_concepts(family: "ConceptFamily") -> dict[str, str]:
    """Return the concept of the nearest reference of each continued video whose seed has all references."""
    from wantui.analysis.concept_labels import find_nearest_concept

    label_by_id: dict[str, str] = {}
    with open_progress_line() as line:
        line.show_phase(f"reading final states: {format_count(len(family.list_videos()), 'video')}")
        seeds = set.intersection(*({*each.reference_by_seed} for each in family.concepts))
        references = {
            seed: {
                each.concept: video.read_final_state()
                for each in family.concepts
                for video in (each.reference_by_seed[seed],)
            }
            for seed in seeds
        }
        for each in family.concepts:
            for seed, by_level in each.continued_by_seed.items():
                if seed not in references:
                    continue
                for video in by_level.values():
                    state = video.read_final_state()
                    label_by_id[video.id] = find_nearest_concept(state, references[seed])
    return label_by_id


def _find_nearest_if_possible(family: "ConceptFamily") -> dict[str, str] | None:
    """Return the concept of the nearest reference of each continued video; None if it cannot be determined."""
    from wantui.analysis.concept_labels import CannotLabelError
    from wantui.storage.uturn_file import UTurnFileError

    if len(family.concepts) < 2:
        return None
    try:
        return _find_nearest_concepts(family)
    except (CannotLabelError, UTurnFileError):  # an additional remark only: the labels do not need the trajectories
        return None
