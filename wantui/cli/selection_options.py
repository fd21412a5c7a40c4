"""Options that select videos of a batch, shared by the commands that draw or decode them."""

from collections.abc import Callable
from typing import Any

import click

from wantui.cli.types import INTEGER_TYPE, VideoIdPrefix, WholeNumber

add_cell_width_option = click.option(
    "--cell-width",
    type=WholeNumber(32, 4096),
    help="Width of each video in the grid, in pixels.  [default: chosen to fit]",
)
add_where_option = click.option(
    "--where",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Include only videos with this value of a swept setting; repeatable.",
)
add_video_id_option = click.option(
    "--video-id",
    "id_prefixes",
    type=VideoIdPrefix(),
    multiple=True,
    help="Include only the video whose ID is or starts with this text; repeatable.",
)


def add_selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --variation and --seed, which select rows and columns of a batch."""
    variation = click.option(
        "--variation", "variation_ids", multiple=True, help="Include only the variation with this ID; repeatable."
    )
    seed = click.option(
        "--seed", "seeds", type=INTEGER_TYPE, multiple=True, help="Include only videos with this seed; repeatable."
    )
    return variation(seed(command))
