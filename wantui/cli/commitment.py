"""wantui commitment: from which noise level on a video keeps its concept although the prompt no longer names it."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.commitment_record import build_family_record
from wantui.cli.commitment_verdicts import JudgeDisagreement, find_disagreements, judge_difference
from wantui.cli.common_options import add_json_option
from wantui.cli.generic_options import add_judge_option, add_labels_option
from wantui.cli.left_out import print_left_out
from wantui.cli.output import echo, print_columns, print_json, print_wrapped_line
from wantui.cli.prompt_switches import run_command
from wantui.cli.types import BATCH_FOLDER_TYPE
from wantui.cli.uturns import uturn_command
from wantui.formatting import format_count, format_share

if TYPE_CHECKING:
    from wantui.analysis.commitment import CommitmentDifference, ConceptCommitment
    from wantui.analysis.continued_videos import ConceptFamily


@click.group("commitment", cls=WantuiGroup)
def command() -> None:
    """Measure from which noise level on a video keeps its concept although the prompt no longer names it.

    `run` generates videos whose prompt switches to the generic prompt ("a red shape") at several moments, beside
    references that keep their prompt. `uturn` noises finished videos again, and continues with the generic prompt.
    `show` measures which of these videos still show their concept.
    """


command.add_command(run_command)
command.add_command(uturn_command)


@command.command("show")
@click.argument("batches", nargs=-1, required=True, type=BATCH_FOLDER_TYPE)
@add_judge_option
@add_labels_option
@click.option(
    "--uturns", "uses_uturns", is_flag=True, help="Measure U-turns of the batches instead of prompt switches."
)
@add_json_option
def show_command(
    batches: tuple[Path, ...], judge: str, labels_path: Path | None, uses_uturns: bool, as_json: bool
) -> None:
    """Measure which videos of BATCHES still show their concept after the switch to the generic prompt.

    A video "stays" if it still shows its concept at the end, although the prompt left the concept open from a noise
    level on. The output for each concept is the share of seeds that stay at each noise level, with Wilson's interval,
    and the noise level at which half of them stay (s50). The output for each pair of concepts is the difference in s50
    and in the kept range (the length of the noise levels at which a seed stays, averaged over seeds). A concept that
    the generic prompt draws anyway stays at every noise level: `wantui generic` measures how often. docs/analysis.md
    has all formulas.
    """
    from wantui.analysis.commitment import compare_commitments, measure_commitment
    from wantui.analysis.concept_labels import read_concept_labels
    from wantui.analysis.continued_videos import (
        CannotMeasureCommitmentError,
        build_concept_outcomes,
        collect_concept_families,
    )
    from wantui.analysis.uturn_videos import collect_uturn_families
    from wantui.cli.concept_judges import label_family_videos
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest

    if labels_path is not None and judge != "auto":
        raise click.UsageError("cannot combine --labels and --judge. Choose one")
    collect = collect_uturn_families if uses_uturns else collect_concept_families
    families, left_out = collect((batch, read_manifest(BatchFolder(batch))) for batch in batches)
    given_labels = None
    if labels_path is not None:
        given_labels = read_concept_labels(
            labels_path, [video.id for family in families for video in family.list_videos()]
        )
    records = []
    for family in families:
        labelled = label_family_videos(family, judge, given_labels)
        outcomes, seeds_left_out = build_concept_outcomes(family, labelled.label_by_id, labelled.method != "nearest")
        left_out += seeds_left_out
        commitments = [measure_commitment(each) for each in outcomes]
        differences = compare_commitments(commitments)
        disagreements = find_disagreements(family, labelled, differences)
        records.append(build_family_record(family, labelled, commitments, differences, disagreements))
        if not as_json and commitments:
            _print_family(family, commitments, differences, disagreements)
            echo(f"concepts identified by {labelled.describe()}", err=True)
    print_left_out(left_out)
    if not any(record["concepts"] for record in records):
        raise CannotMeasureCommitmentError("cannot measure commitment: no concept has a usable seed (see above)")
    if as_json:
        print_json(records)


def _print_family(
    family: "ConceptFamily",
    commitments: "list[ConceptCommitment]",
    differences: "list[CommitmentDifference]",
    disagreements: list[JudgeDisagreement],
) -> None:
    print_wrapped_line(f"continued with: {family.generic_prompt}")
    for commitment in commitments:
        outcomes = commitment.outcomes
        echo()
        print_wrapped_line(f"{outcomes.concept}: {format_count(len(outcomes.seeds), 'seed')}")
        rows = []
        for sigma, share, counts in zip(outcomes.sigmas, commitment.stay_shares, commitment.label_counts, strict=True):
            low, high = share.interval
            shown = ", ".join(
                f"{label} {count}" for label, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            )
            rows.append(
                (
                    f"{sigma:.3f}",
                    f"{share.count} of {share.total}",
                    f"{format_share(low)} to {format_share(high)}",
                    shown,
                )
            )
        print_columns(("noise level", "stays", "95 %", "shows"), *rows)
        print_wrapped_line(f"s50: {_describe_half_share_level(commitment)}", indent=4)
        print_wrapped_line(f"kept range: {_describe_kept_range(commitment)}", indent=4)
        if commitment.returning_count:
            print_wrapped_line(
                f"{format_count(commitment.returning_count, 'seed')} lost the concept at one noise level but kept it "
                "at a higher noise level",
                indent=4,
            )
    for difference in differences:
        echo()
        print_wrapped_line(_describe_difference(difference, len(differences)), indent=4)
    for disagreement in disagreements:
        print_wrapped_line(f"warning: {disagreement.describe()}", indent=2)
    echo()
    for note in _list_notes(family, commitments):
        print_wrapped_line(f"note: {note}", indent=2)


def _list_notes(family: "ConceptFamily", commitments: "list[ConceptCommitment]") -> list[str]:
    """Return notes on the numbers, and on causes other than the path that make videos keep their concept."""
    from wantui.analysis.calibrated import describe_measure
    from wantui.analysis.commitment import count_unprompted_videos
    from wantui.planning.guidance_plan import format_guidance_scales, list_guidance_scales

    all_outcomes = [commitment.outcomes for commitment in commitments]
    highest_sigma = max(outcomes.sigmas[-1] for outcomes in all_outcomes)
    notes = [
        "stays: the video still shows its concept at the end, although the prompt leaves the concept open from this "
        "noise level down. s50: the noise level at which half of the seeds stay. Kept range: total width of the ranges "
        f"of noise levels, from 0 to at most {highest_sigma:.3g}, in which a seed stays. Noise falls from 1 to 0, so a "
        "higher s50 or kept range means that the video commits earlier"
    ]
    for outcomes in all_outcomes:
        unasked = count_unprompted_videos(outcomes.concept, all_outcomes)
        if unasked.total and unasked.share > 0.5:
            notes.append(
                f"{outcomes.concept}: the generic prompt draws it in {unasked.count} of {unasked.total} videos of the "
                f"other concepts at the highest noise level, so keeping it says little about the path"
            )
    notes += filter(None, map(_describe_unmeasured_range, commitments))
    notes.append(
        "a concept that the generic prompt often draws may stay for that reason alone; `wantui generic run` measures "
        "how often it draws each concept"
    )
    notes.append(describe_measure("kept_range", "the kept range"))
    if scales_text := format_guidance_scales(list_guidance_scales(video.recipe for video in family.list_videos())):
        notes.append(
            f"guidance {scales_text} also applies after the switch, and pulls the video toward what the generic prompt "
            "draws. To measure the model without guidance, generate with --set model_settings.cfg_scale=1"
        )
    return notes


def _describe_unmeasured_range(commitment: "ConceptCommitment") -> str:
    """Return a note if seeds leave below the lowest measured level, where nothing shows their kept range."""
    outcomes, lowest_share = commitment.outcomes, commitment.stay_shares[0]
    leaving_count = lowest_share.total - lowest_share.count
    if not leaving_count:
        return ""
    seeds_text, level_text = format_count(lowest_share.total, "seed"), f"{outcomes.sigmas[0]:.3f}"
    return (
        f"{outcomes.concept} is lost in {leaving_count} of {seeds_text} even at the lowest measured noise level, "
        f"{level_text}; half of it is assumed as their kept range below it. To measure that range, choose later "
        "moments, or use more steps"
    )


def _describe_kept_range(commitment: "ConceptCommitment") -> str:
    low, high = commitment.kept_range_interval
    interval_text = "no interval" if math.isnan(low) else f"95 % interval {low:.3f} to {high:.3f}"
    return (
        f"{commitment.kept_ranges.mean():.3f} (mean of {format_count(len(commitment.kept_ranges), 'seed')}, "
        f"{interval_text})"
    )


def _describe_half_share_level(commitment: "ConceptCommitment") -> str:
    from wantui.analysis.proportions import MIN_SEEDS_FOR_HALF

    half = commitment.half_share_level
    if half.is_above_range:
        estimate = "above all measured noise levels: more than half of the seeds stay at each of them"
    elif half.is_below_range:
        estimate = "below all measured noise levels: fewer than half of the seeds stay at each of them"
    else:
        estimate = f"{half.estimate:.3f}"
    seed_count = len(commitment.outcomes.seeds)
    if seed_count < MIN_SEEDS_FOR_HALF:
        return (
            f"{estimate} (no interval: {format_count(seed_count, 'seed')}, but at least {MIN_SEEDS_FOR_HALF} are "
            f"needed)"
        )
    high_text = f"{half.high:.3f}" if math.isfinite(half.high) else "no bound"
    return f"{estimate} (95 % interval {half.low:.3f} to {high_text})"


def _describe_difference(difference: "CommitmentDifference", pair_count: int) -> str:
    from wantui.analysis.differences import describe_interval

    effect = difference.kept_range
    p_text = f"p {difference.family_p:.3g}"
    p_text += f" corrected for {pair_count} pairs ({difference.correction})" if pair_count > 1 else ""
    text = (
        f"{difference.first} minus {difference.second}: {judge_difference(difference, pair_count)}. Difference of "
        f"the kept ranges: {effect.mean:+.3f} ({describe_interval(effect, '+.3f')}), {p_text}, smallest possible p "
        f"{difference.min_family_p:.3g}, {_describe_shared_seeds(difference)}"
    )
    if math.isfinite(difference.half_share_level_difference):
        return f"{text}; s50 {difference.half_share_level_difference:+.3f}"
    return f"{text}; the difference of s50 cannot be estimated"


def _describe_shared_seeds(difference: "CommitmentDifference") -> str:
    """Return the number of shared seeds, and the seeds that only one of the concepts has."""
    from wantui.config.sweep_syntax import format_seeds

    text = format_count(difference.shared_seed_count, "shared seed")
    unshared = [
        f"only {concept} has {format_seeds(sorted(seeds))}"
        for concept, seeds in difference.unshared_seeds_by_concept.items()
        if seeds
    ]
    return f"{text} ({'; '.join(unshared)})" if unshared else text
