"""Verdicts on which of two concepts is kept from a higher noise level, and their dependence on the judge."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.commitment import CommitmentDifference
    from wantui.analysis.continued_videos import ConceptFamily
    from wantui.cli.concept_judges import ConceptLabels


@dataclass(frozen=True)
class JudgeDisagreement:
    """Different verdicts on two concepts by the pixel rules for nano's clips and by the nearest reference."""

    first: str
    second: str
    verdict: str
    """Verdict by the pixel rules, with p and the number of seeds."""
    nearest_verdict: str

    def describe(self) -> str:
        """Return both verdicts, and what to do."""
        return (
            f"{self.first} minus {self.second}: the judges decide differently. The pixel rules for nano's clips: "
            f"{self.verdict}. The nearest reference: {self.nearest_verdict}. Look at the videos (`wantui sheet BATCH`) "
            "and give what they show with --labels"
        )


def find_disagreements(
    family: "ConceptFamily", labelled: "ConceptLabels", differences: "list[CommitmentDifference]"
) -> list[JudgeDisagreement]:
    """Return the pairs of concepts on which the pixel rules and the nearest reference decide differently."""
    from wantui.analysis.commitment import compare_commitments, measure_commitment
    from wantui.analysis.continued_videos import build_concept_outcomes

    if labelled.method != "nano" or labelled.nearest_label_by_id is None:
        return []
    outcomes, _ = build_concept_outcomes(family, labelled.nearest_label_by_id, checks_references=False)
    nearest_differences = compare_commitments([measure_commitment(each) for each in outcomes])
    by_pair, nearest_by_pair = (
        {(each.first, each.second): each for each in items} for items in (differences, nearest_differences)
    )
    return [
        JudgeDisagreement(
            *pair,
            _describe_verdict(by_pair.get(pair), len(differences)),
            _describe_verdict(nearest_by_pair.get(pair), len(nearest_differences)),
        )
        for pair in {**by_pair, **nearest_by_pair}
        if _find_longer_kept(by_pair.get(pair)) != _find_longer_kept(nearest_by_pair.get(pair))
    ]


def _describe_verdict(difference: "CommitmentDifference | None", pair_count: int) -> str:
    if difference is None:
        return "no seed can be compared"
    seeds_text = format_count(difference.shared_seed_count, "shared seed")
    return f"{judge_difference(difference, pair_count)} (p {difference.family_p:.3g}, {seeds_text})"


def _find_longer_kept(difference: "CommitmentDifference | None") -> str | None:
    """Return the concept that is kept from a higher noise level; None if the difference is not significant."""
    from wantui.analysis.differences import SIGNIFICANCE_LEVEL

    if difference is None:
        return None
    effect = difference.kept_range
    if difference.family_p <= SIGNIFICANCE_LEVEL and not effect.interval_low <= 0 <= effect.interval_high:
        return difference.first if effect.mean > 0 else difference.second
    return None


def judge_difference(difference: "CommitmentDifference", pair_count: int) -> str:
    """Return which concept is kept from a higher noise level; with too few seeds to tell, return the number needed."""
    from wantui.analysis.commitment import HOLM
    from wantui.analysis.differences import SIGNIFICANCE_LEVEL
    from wantui.analysis.statistics import MAX_CORRECTED_TESTS, count_min_pairs

    if concept := _find_longer_kept(difference):
        return f"{concept} is kept from a higher noise level"
    if difference.min_family_p > SIGNIFICANCE_LEVEL:
        test_count = pair_count if difference.correction == HOLM else 1
        if test_count > MAX_CORRECTED_TESTS:
            return f"cannot tell which is kept more: no number of seeds gives p = 0.05 for {test_count:,} pairs"
        seeds = count_min_pairs(test_count)
        return f"cannot tell which is kept more: p = 0.05 needs at least {seeds} seeds"
    return "cannot tell which is kept more"
