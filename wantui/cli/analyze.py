"""wantui analyze: the geometry of the stored trajectories of batches."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.tables import print_columns
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.analysis.batch import Analysed


@click.command("analyze")
@click.argument("batches", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--groups", "by_group", is_flag=True, help="Means of the variations instead of single videos.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the curves.")
def command(batches: tuple[Path, ...], by_group: bool, as_json: bool) -> None:
    """Length, chord, straightness and turning of each video of BATCHES that has stored latents.

    Lengths are divided by the square root of the number of latent values; turning is in radians.
    """
    from wantui.analysis.batch import METRICS, analyse, groups

    videos = [(folder, video) for folder in batches for video in analyse(folder)]
    if not videos:
        raise UserError("no finished video here has stored latents; make some with --store-latents")
    if as_json:
        click.echo(json.dumps([_report(folder, video) for folder, video in videos], indent=1))
        return
    if by_group:
        lines = [("variation", "n", *METRICS)]
        for group in groups([video for _, video in videos]):
            values = [f"{group.mean[name]:.5g} ± {group.deviation[name]:.2g}" for name in METRICS]
            lines.append((group.variation, str(group.n), *values))
    else:
        lines = [("variation", "seed", *METRICS)]
        for _, video in videos:
            values = [f"{video.value(name):.5g}" if video.trajectory else video.why_not for name in METRICS]
            lines.append((video.variation, str(video.seed), *values))
    print_columns(*lines)


def _report(folder: Path, video: "Analysed") -> dict[str, Any]:
    from wantui.analysis.batch import METRICS

    said: dict[str, Any] = {"batch": str(folder), "variation": video.variation, "seed": video.seed}
    if video.trajectory is None:
        return said | {"why_not": video.why_not}
    curves = {name: getattr(video.trajectory, name).tolist() for name in ("sigmas", "norm", "velocity", "turning")}
    return said | {name: video.value(name) for name in METRICS} | {"curves": curves}
