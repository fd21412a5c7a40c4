"""Grid of decoded states: a row per video (and kind of state), a column per step."""

from collections.abc import Sequence
from functools import partial

from wantui.batches.decode_states import StateDecoded
from wantui.errors import UserError
from wantui.gallery.labelled_grid import FrameCell, LabelledGrid
from wantui.storage.mp4 import read_frames, read_middle_frame
from wantui.storage.video_selection import label_videos

END_LABEL = "video"
DESCRIPTION_BY_STATE_KIND = {"noisy": "noisy states", "clean": "clean states predicted by the model"}
SELECTION_ADVICE = "select videos with --variation and --seed, or fewer --steps"


def arrange_states(decoded: Sequence[StateDecoded]) -> tuple[LabelledGrid, int, dict[str, str]]:
    """Return one batch's grid of decoded states, its frames per second, and the tags of its clip.

    The last latents are the video itself, and appear in the rows of both kinds.

    Raises:
        UserError: the videos differ in their noise levels or frames per second, so they share no columns.
    """
    rates = {event.video.entry.recipe.fps for event in decoded}
    levels_by_step: dict[int | None, set[str]] = {}
    for event in decoded:
        levels_by_step.setdefault(event.moment.step, set()).add(event.moment.label)
    if len(rates) > 1 or any(len(labels) > 1 for labels in levels_by_step.values()):
        raise UserError(
            "cannot draw one grid: the videos differ in their noise levels or frames per second. Select videos with "
            "--variation and --seed, or omit --grid; the clips themselves are written"
        )
    steps = sorted(levels_by_step, key=lambda step: (step is None, step or 0))
    column_labels = tuple(END_LABEL if step is None else next(iter(levels_by_step[step])) for step in steps)
    shown_kinds = {event.moment.kind for event in decoded if event.moment.step is not None}
    kinds = [kind for kind in ("noisy", "clean") if kind in shown_kinds] or ["clean"]
    videos = list({event.video.entry.id: event.video for event in decoded}.values())
    rows = [(video.entry.id, kind) for video in videos for kind in kinds]
    cells = {
        (row, steps.index(event.moment.step)): FrameCell(
            partial(read_frames, event.path, thread_count=1), event.video.entry.recipe.frames
        )
        for row, (video_id, kind) in enumerate(rows)
        for event in decoded
        if event.video.entry.id == video_id and (event.moment.step is None or event.moment.kind == kind)
    }
    manifest = decoded[0].video.manifest
    label_by_id = {video.entry.id: label for video, label in zip(videos, label_videos(videos), strict=True)}
    row_labels = tuple(label_by_id[video_id] + (f": {kind}" if len(kinds) > 1 else "") for video_id, kind in rows)
    first_frame = read_middle_frame(decoded[0].path, 1)
    fits = [event.fit_r2 for event in decoded if event.fit_r2 is not None]
    kind_text = " and ".join(DESCRIPTION_BY_STATE_KIND[kind] for kind in kinds)
    caption = kind_text + (f"; colours by a linear fit (r² {min(fits):.3f}), not by the VAE" if fits else "")
    grid = LabelledGrid(
        row_labels,
        column_labels,
        cells,
        (first_frame.shape[1], first_frame.shape[0]),
        SELECTION_ADVICE,
        caption=caption,
    )
    return grid, rates.pop(), {"title": f"{decoded[0].video.folder.name}, {kind_text}", "comment": manifest.template}
