"""wantui generic: what a model draws if the prompt leaves the concept open."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.common_options import add_json_option
from wantui.cli.generic_options import (
    GENERIC_OVERRIDES,
    add_default_overrides,
    add_generic_run_options,
    add_judge_option,
    add_labels_option,
    find_generic_word,
    make_generic_option,
    make_generic_template,
    read_required_template,
    run_or_preview,
)
from wantui.cli.left_out import print_left_out
from wantui.cli.options import add_batch_options
from wantui.cli.output import echo, print_columns, print_json, print_wrapped_line
from wantui.cli.types import BATCH_FOLDER_TYPE, PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count, format_share

if TYPE_CHECKING:
    from wantui.analysis.continued_videos import StoredVideo
    from wantui.analysis.generic_share import GenericShares


@click.group("generic", cls=WantuiGroup)
def command() -> None:
    """Measure what a model draws if the prompt leaves the concept open ("a red shape").

    `run` generates videos of the generic prompt without guidance; `show` counts what they show.
    """


@command.command("run")
@add_batch_options
@make_generic_option("prompt_settings.generic_words")
@add_generic_run_options("prompts")
def run_command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    generic_text: str | None,
    is_preview: bool,
    detaches: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate videos of a template's generic prompt, without guidance (cfg_scale 1), as one batch.

    The template names the concept, as in "a red [circle|ring]". All options of `wantui run` apply, but guidance and the
    prompt schedule of the config do not; --set model_settings.cfg_scale=4 generates with guidance. Use about 100 seeds.
    """
    template_text = read_required_template(template, template_file)
    generic_word = find_generic_word(config, template_text, generic_text, options["overrides"])
    generic_template = make_generic_template(template_text, generic_word)
    options["overrides"] = add_default_overrides(GENERIC_OVERRIDES, options["overrides"])
    echo(f"generic prompt: {generic_template}", err=True)
    run_or_preview(is_preview, detaches, config, generic_template, as_json, options)


@command.command("show")
@click.argument("batches", nargs=-1, required=True, type=BATCH_FOLDER_TYPE)
@click.option(
    "--reference",
    "reference_folders",
    multiple=True,
    type=PATH_TYPE,
    help="Batch with the same seeds, whose prompts name the concepts; repeatable. Required for --judge nearest.",
)
@add_judge_option
@click.option(
    "--of", "attribute", help="Attribute for --judge nano to classify: shape, colour or motion.  [default: shape]"
)
@add_labels_option
@add_json_option
def show_command(
    batches: tuple[Path, ...],
    reference_folders: tuple[Path, ...],
    judge: str,
    attribute: str | None,
    labels_path: Path | None,
    as_json: bool,
) -> None:
    """Count which concepts the videos of the generic prompt in BATCHES show, with Wilson's 95 % intervals."""
    from wantui.analysis.concept_labels import read_concept_labels
    from wantui.cli.generic_labels import label_generic_videos, list_generic_videos, list_references

    if labels_path is not None and (judge != "auto" or attribute is not None):
        raise click.UsageError("cannot combine --labels with --judge or --of. Choose one")
    videos_by_prompt, left_out = list_generic_videos(batches)
    references = list_references(reference_folders)
    given_labels = None
    if labels_path is not None:
        all_ids = [video.id for videos in videos_by_prompt.values() for video in videos]
        given_labels = read_concept_labels(labels_path, all_ids)
    records = []
    notes: dict[str, None] = {}  # each once, although most apply to all prompts
    for prompt, videos in videos_by_prompt.items():
        labelled = label_generic_videos(prompt, videos, references, judge, attribute, given_labels)
        left_out += labelled.left_out
        shares = _measure_shares(prompt, videos, labelled.label_by_id, labelled.concepts)
        records.append(_build_record(shares, labelled.method))
        if not as_json:
            _print_shares(shares)
            notes |= dict.fromkeys([*_warn_about_guidance(shares), f"concepts identified by {labelled.description}"])
    for note in notes:
        echo(note, err=True)
    print_left_out(left_out)
    if as_json:
        print_json(records)


def _measure_shares(
    prompt: str, videos: "list[StoredVideo]", label_by_id: dict[str, str], concepts: tuple[str, ...]
) -> "GenericShares":
    from wantui.analysis.generic_share import measure_generic_shares
    from wantui.planning.guidance_plan import list_guidance_scales

    labelled_videos = [video for video in videos if video.id in label_by_id]
    labels = {video.entry.seed: label_by_id[video.id] for video in labelled_videos}
    if not labels:
        raise UserError(f"cannot measure the shares of concepts for {prompt!r}: no video has a label")
    scales = list_guidance_scales(video.recipe for video in labelled_videos)
    return measure_generic_shares(prompt, scales, labels, concepts)


def _print_shares(shares: "GenericShares") -> None:
    total = shares.shares[0].proportion.total
    print_wrapped_line(f"{shares.prompt}: {format_count(total, 'seed')}")
    rows = []
    for each in shares.shares:
        low, high = each.proportion.interval
        p_text = "-" if math.isnan(each.family_p) else f"{each.family_p:.3g}"
        rows.append(
            (
                each.concept,
                str(each.proportion.count),
                format_share(each.proportion.share, 1),
                f"{format_share(low, 1)} to {format_share(high, 1)}",
                p_text,
            )
        )
    print_columns(("shows", "videos", "share", "95 %", "p (against equal shares)"), *rows)
    if (test_count := sum(not math.isnan(each.p_equal) for each in shares.shares)) > 1:
        print_wrapped_line(f"note: p is corrected for {test_count} concepts (Holm)", indent=2)


def _warn_about_guidance(shares: "GenericShares") -> list[str]:
    from wantui.planning.guidance_plan import format_guidance_scales

    if scales_text := format_guidance_scales(shares.guidance_scales):
        return [
            f"warning: guidance (scale {scales_text}) changes these shares. To measure the model's own distribution, "
            "generate with cfg_scale 1"
        ]
    return []


def _build_record(shares: "GenericShares", method: str) -> dict[str, Any]:
    return {
        "generic_prompt": shares.prompt,
        "judge": method,
        "cfg_scales": list(shares.guidance_scales),
        "concepts": [
            {
                "concept": each.concept,
                "count": each.proportion.count,
                "total": each.proportion.total,
                "share": each.proportion.share,
                "interval": list(each.proportion.interval),
                "p_equal": each.p_equal,
                "family_p": each.family_p,
            }
            for each in shares.shares
        ],
    }
