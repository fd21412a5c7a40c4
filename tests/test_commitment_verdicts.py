"""Verdicts on the commitment of two concepts that depend on the judge."""

from types import SimpleNamespace
from typing import Any

from wantui.analysis.commitment import compare_commitments, measure_commitment
from wantui.analysis.continued_videos import ConceptFamily, ConceptVideos, build_concept_outcomes
from wantui.cli.commitment_verdicts import JudgeDisagreement, find_disagreements
from wantui.cli.concept_judges import ConceptLabels


def make_video(video_id: str) -> Any:
    return SimpleNamespace(id=video_id)


def judge_six_seeds(mislabelled_reference: str, method: str = "nano") -> list[JudgeDisagreement]:
    """Return the disagreements if all continued videos show a circle, and the pixel rules mislabel one reference."""
    family = ConceptFamily("a red shape", [ConceptVideos(name, f"a red {name}") for name in ("circle", "ring")])
    nearest_labels, pixel_labels = {}, {}
    for each in family.concepts:
        for seed in range(1, 7):
            reference_id = f"{each.concept} {seed}"
            each.reference_by_seed[seed] = make_video(reference_id)
            each.continued_by_seed[seed] = {0.9: make_video(f"{reference_id} continued")}
            nearest_labels[f"{reference_id} continued"] = "circle"
            pixel_labels[reference_id] = "circle" if reference_id == mislabelled_reference else each.concept
    labelled = ConceptLabels(pixel_labels | nearest_labels, method, nearest_labels)
    outcomes, _ = build_concept_outcomes(family, labelled.label_by_id, checks_references=True)
    differences = compare_commitments([measure_commitment(each) for each in outcomes])
    return find_disagreements(family, labelled, differences)


def test_different_verdicts_of_the_pixel_rules_and_the_nearest_reference_are_reported() -> None:
    (disagreement,) = judge_six_seeds("ring 6")
    assert (disagreement.first, disagreement.second) == ("circle", "ring")
    assert disagreement.verdict.startswith("cannot tell which is kept more")
    assert disagreement.verdict.endswith("(p 0.0625, 5 shared seeds)")
    assert disagreement.nearest_verdict == "circle is kept from a higher noise level (p 0.0312, 6 shared seeds)"
    assert disagreement.verdict in disagreement.describe()
    assert disagreement.nearest_verdict in disagreement.describe()


def test_equal_verdicts_and_given_labels_are_no_disagreement_of_judges() -> None:
    assert judge_six_seeds("") == []
    assert judge_six_seeds("ring 6", "labels") == []
