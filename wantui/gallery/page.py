"""Gallery: one HTML page in the batch folder that plays the clips in sync, filters them, and shows their recipes.

The page opens from disk without a server. It refers to the clips by relative paths and makes no external requests.
"""

import html
import json
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from wantui import __version__
from wantui.atomic_files import write_text_atomically
from wantui.errors import UserError
from wantui.formatting import escape_unprintable
from wantui.gallery.batch_grid import BatchGrid, GridCell
from wantui.planning.evaluation_prompts import describe_evaluation_prompts
from wantui.storage.manifest_axes import BASELINE_POSITION, VARIATION_AXIS, VideoAxis
from wantui.storage.manifest_labels import make_variation_labels
from wantui.storage.similarity_file import SCORE_LABELS

PAGE_FILE = "gallery.html"
"""Name of the page in the batch folder."""
HIDDEN_RECIPE_FIELDS = ("format", "prompt", "seed", "capture", "marks", "magnitudes", "controls")
"""Fields of a recipe that the table omits, because the page shows them elsewhere or they are too long."""


def write_gallery(grid: BatchGrid, path: Path) -> Path:
    """Write the page into the batch folder, which contains the clips.

    Raises:
        UserError: no selected video has a clip.
        OSError: the file cannot be written.
    """
    if not grid.clips():
        raise UserError(f"cannot make a gallery of {grid.folder}: no selected video is finished")
    page = Template(resources.files("wantui.gallery").joinpath("page.html").read_text(encoding="utf-8"))
    text = page.substitute(
        title=html.escape(escape_unprintable(grid.folder.name)), version=__version__, data=_to_script_json(grid)
    )
    write_text_atomically(path, text)
    return path


def _to_script_json(grid: BatchGrid) -> str:
    """Return the data of the page as JSON that is safe inside a script element."""
    options, axes = grid.list_options(), grid.axes
    variations = list(axes.axis_by_name[VARIATION_AXIS].labels)
    numbers_by_axis = {
        axis.name: {position: number for number, position in enumerate(axis.labels)} for axis in axes.axes
    }
    data = {
        "name": grid.folder.name,
        "template": grid.template,
        "axes": [
            {
                "name": axis.name,
                "swept": axis.is_swept,
                "labels": list(axis.labels.values()),
                "titles": [axis.name_position(position) for position in axis.labels],
                "baseline": None
                if (baseline := _find_baseline(grid, axis)) is None
                else list(axis.labels).index(baseline),
            }
            for axis in axes.axes
        ],
        "similarity_baseline": grid.similarity.baseline,
        "row": grid.layout.rows[0],
        "column": grid.layout.columns[0],
        "brackets": [{"bracket": bracket, "options": options[bracket]} for bracket in sorted(options)],
        "variations": [
            {"prompt": label.prompt, "options": {str(bracket): text for bracket, text in label.options.items()}}
            for label in make_variation_labels(axes.manifest, variations)
        ],
        "cells": [
            _describe_cell(grid.folder, cell)
            | _describe_similarity(grid, cell)
            | {
                "positions": [
                    numbers_by_axis[name][position] for name, position in axes.get_positions(cell.entry).items()
                ],
                "alone": BASELINE_POSITION in axes.get_positions(cell.entry).values(),
            }
            for cell in grid.list_videos()
        ],
    }
    # In a script element, HTML would interpret "</script" and "<!--" even inside a JSON string.
    return json.dumps(data, ensure_ascii=True).replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _find_baseline(grid: BatchGrid, axis: VideoAxis) -> int | None:
    """Return the position of the batch's baseline on a swept axis; None if there is no baseline."""
    if not axis.is_swept:
        return None
    positions = (
        grid.axes.get_positions(cell.entry)[axis.name]
        for cell in grid.list_videos()
        if (swept_cell := grid.axes.manifest.find_cell(cell.entry)) is not None and swept_cell.baseline
    )
    return next(positions, None)


def _describe_similarity(grid: BatchGrid, cell: GridCell) -> dict[str, Any]:
    """Return the scores of a video as numbers and as text; both empty if its similarity was not measured."""
    similarity = grid.similarity.by_video.get(cell.entry.id)
    if similarity is None:
        return {"scores": {}, "alike": ""}
    scores = {label: getattr(similarity, name) for name, label in SCORE_LABELS.items()}
    return {
        "scores": {name: score for name, score in scores.items() if score is not None},
        "alike": ", ".join(similarity.list_scores()),
    }


def _describe_cell(folder: Path, cell: GridCell) -> dict[str, Any]:
    entry, recipe = cell.entry, cell.entry.recipe
    settings = {
        name: value
        for name, value in recipe.model_dump(mode="json").items()
        if name not in HIDDEN_RECIPE_FIELDS and value not in (None, [], {})
    }
    for control_name, values in recipe.list_control_values().items():
        settings |= {f"{control_name} {name}": value for name, value in values.items()}
    settings |= describe_evaluation_prompts(recipe)
    return {
        "id": entry.id,
        "seed": entry.seed,
        "state": entry.state,
        "error": entry.error,
        "clip": None if cell.clip is None else quote(cell.clip.relative_to(folder).as_posix()),
        "width": recipe.width,
        "height": recipe.height,
        "frames": recipe.frames,
        "fps": recipe.fps,
        "recipe": {name: _format_value(value) for name, value in settings.items()},
        "seconds": round(entry.generation_seconds, 1),
    }


def _format_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
