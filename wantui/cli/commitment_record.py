"""JSON record of the causal commitment of concepts that share a generic prompt."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wantui.analysis.commitment import CommitmentDifference, ConceptCommitment
    from wantui.analysis.continued_videos import ConceptFamily
    from wantui.cli.commitment_verdicts import JudgeDisagreement
    from wantui.cli.concept_judges import ConceptLabels


def build_family_record(
    family: "ConceptFamily",
    labelled: "ConceptLabels",
    commitments: "list[ConceptCommitment]",
    differences: "list[CommitmentDifference]",
    disagreements: "list[JudgeDisagreement]",
) -> dict[str, Any]:
    """Return the result for one generic prompt; missing values and bounds are NaN or infinite."""
    from wantui.analysis.commitment import count_unprompted_videos

    agreement = labelled.agreement
    all_outcomes = [commitment.outcomes for commitment in commitments]
    unasked_counts = [count_unprompted_videos(outcomes.concept, all_outcomes) for outcomes in all_outcomes]
    return {
        "generic_prompt": family.generic_prompt,
        "judge": labelled.method,
        "agrees_with_nearest": None if agreement is None else {"count": agreement[0], "total": agreement[1]},
        "concepts": [
            {
                "concept": commitment.outcomes.concept,
                "seeds": list(commitment.outcomes.seeds),
                "levels": [
                    {
                        "sigma": sigma,
                        "stays": share.count,
                        "total": share.total,
                        "share": share.share,
                        "interval": list(share.interval),
                        "shows": dict(counts),
                    }
                    for sigma, share, counts in zip(
                        commitment.outcomes.sigmas, commitment.stay_shares, commitment.label_counts, strict=True
                    )
                ],
                "s50": {
                    "estimate": commitment.half_share_level.estimate,
                    "interval": [commitment.half_share_level.low, commitment.half_share_level.high],
                    "is_above_range": commitment.half_share_level.is_above_range,
                    "is_below_range": commitment.half_share_level.is_below_range,
                },
                "kept_range": {
                    "mean": float(commitment.kept_ranges.mean()),
                    "interval": list(commitment.kept_range_interval),
                },
                "kept_ranges": commitment.kept_ranges.tolist(),
                "drawn_unasked": {"count": unasked.count, "total": unasked.total},
                "returning": commitment.returning_count,
            }
            for commitment, unasked in zip(commitments, unasked_counts, strict=True)
        ],
        "pairs": [_build_pair_record(pair) for pair in differences],
        "judges_disagree": [asdict(each) for each in disagreements],
    }


def _build_pair_record(pair: "CommitmentDifference") -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "seeds": pair.shared_seed_count,
        "kept_range": {
            "difference": pair.kept_range.mean,
            "interval": [pair.kept_range.interval_low, pair.kept_range.interval_high],
            "d_z": pair.kept_range.d_z,
            "p": pair.kept_range.p,
            "family_p": pair.family_p,
            "correction": pair.correction,
            "min_p": pair.min_attainable_p,
            "min_family_p": pair.min_family_p,
        },
        "s50_difference": pair.half_share_level_difference,
    }
