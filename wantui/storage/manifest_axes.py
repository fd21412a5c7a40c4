"""Axes of a batch - variation, swept settings, seed - and the arrangement of its videos in rows, columns and pages."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations

from wantui.config.setting_paths import expand_list_alias
from wantui.config.sweep import find_matching_value_indices, format_value_labels, split_alternatives
from wantui.errors import UserError
from wantui.planning.sweep import BASELINE_LABEL
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.manifest_labels import make_column_labels, make_variation_labels

VARIATION_AXIS, SEED_AXIS = "variation", "seed"
MAX_WHOLE_ROWS = 8
"""Maximum number of rows in which a sweep is shown as a whole by default."""
BASELINE_POSITION = -1
"""Position of an additional baseline on every swept axis."""
AxisKey = tuple[int, ...]
"""Positions on the axes of a side."""


@dataclass(frozen=True)
class VideoAxis:
    """One axis, with the positions at which the batch has videos."""

    name: str
    """variation, seed, or the short names of the settings that change together, joined by +."""
    labels: Mapping[int, str]
    """Label by position, in order; without the name of the axis."""
    is_swept: bool = False

    def name_position(self, position: int) -> str:
        """Return a label of a position that includes the name of the axis, such as "cfg_scale 4"."""
        label = self.labels[position]
        is_complete = self.name == VARIATION_AXIS or not label or "+" in self.name or position == BASELINE_POSITION
        return label if is_complete or label.startswith("video ") else f"{self.name} {label}"


@dataclass(frozen=True)
class AxisLayout:
    """Names of the axes used for rows, columns and pages; every axis belongs to one of these."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    pages: tuple[str, ...] = ()


@dataclass(frozen=True)
class GridLine:
    """A row, a column or a page."""

    key: AxisKey
    label: str


@dataclass(frozen=True)
class ArrangedVideos:
    """Videos of one page in rows and columns."""

    rows: tuple[GridLine, ...]
    columns: tuple[GridLine, ...]
    pages: tuple[GridLine, ...]
    page_number: int
    """Index of the shown page."""
    column_heading: str
    """Name of the axis, if all column labels omit it; otherwise empty."""
    column_labels: tuple[str, ...]
    index_by_position: Mapping[tuple[int, int], int]
    """Index of a video in the manifest, by row and column; a baseline may be in several places."""


class BatchAxes:
    """The axes of a batch.

    Args:
        indices: indices of the videos to arrange.
    """

    def __init__(self, manifest: Manifest, indices: Sequence[int]) -> None:
        self.manifest, self.indices = manifest, list(indices)
        entries = [manifest.videos[index] for index in indices]
        variations = sorted({entry.variation for entry in entries})
        names = make_variation_labels(manifest, variations)
        labels = {variation: name.label for variation, name in zip(variations, names, strict=True)}
        self.axes = [VideoAxis(VARIATION_AXIS, labels), *self._list_swept_axes(entries)]
        numbers = sorted({entry.number for entry in entries})
        seeds = (label.removeprefix("seed ") for label in make_column_labels(entries))
        self.axes.append(VideoAxis(SEED_AXIS, dict(zip(numbers, seeds, strict=True))))
        self.axis_by_name = {axis.name: axis for axis in self.axes}

    def _list_swept_axes(self, entries: Iterable[VideoEntry]) -> list[VideoAxis]:
        sweep = self.manifest.sweep
        if sweep is None:
            return []
        cells = [cell for entry in entries if (cell := self.manifest.find_cell(entry)) is not None]
        axes = []
        for number, axis in enumerate(sweep.axes):
            positions = sorted({cell.positions[number] if cell.positions else BASELINE_POSITION for cell in cells})
            columns = [format_value_labels(values) for values in zip(*axis.values, strict=True)]
            labels = {
                position: BASELINE_LABEL
                if position == BASELINE_POSITION
                else ", ".join(
                    column[position] if len(axis.names) == 1 else f"{name} {column[position]}"
                    for name, column in zip(axis.names, columns, strict=True)
                )
                for position in positions
            }
            axes.append(VideoAxis("+".join(axis.names), labels, is_swept=True))
        return axes

    def find_axis_names(self, option: str, written: str) -> tuple[str, ...]:
        """Return the axis names in a comma-separated list: variation, seed, or a swept setting by short name or path.

        Raises:
            UserError: an axis is unknown or occurs twice.
        """
        names_by_alias = {axis.name: axis.name for axis in self.axes}
        if self.manifest.sweep is not None:
            for axis in self.manifest.sweep.axes:
                names_by_alias |= dict.fromkeys([*axis.names, *axis.paths, "+".join(axis.names)], "+".join(axis.names))
        names = []
        for word in filter(None, (part.strip() for part in written.split(","))):
            word = word if word in names_by_alias else expand_list_alias(word)
            if word not in names_by_alias:
                known = ", ".join(axis.name for axis in self.axes)
                raise UserError(f"{option}: the batch has no axis {word!r}. Choose from: {known}")
            if names_by_alias[word] in names:
                raise UserError(f"{option}: {word} occurs twice. Name each axis once")
            names.append(names_by_alias[word])
        return tuple(names)

    def find_positions(self, option: str, conditions: Sequence[str]) -> dict[str, list[int]]:
        """Return the positions of swept values written as NAME=VALUE, by axis.

        Raises:
            UserError: a condition has another form, or names an unknown axis or value.
        """
        positions_by_axis: dict[str, list[int]] = {}
        sweep_axes = [] if self.manifest.sweep is None else self.manifest.sweep.axes
        for condition in conditions:
            written_name, equals, text = condition.partition("=")
            written_name = written_name.strip()
            is_short = any(written_name in axis.names for axis in sweep_axes)
            name = written_name if is_short else expand_list_alias(written_name)
            axis = next((axis for axis in sweep_axes if name in (*axis.names, *axis.paths)), None)
            if not equals or axis is None:
                known = ", ".join(name for axis in sweep_axes for name in axis.names)
                advice = f"Write NAME=VALUE; swept settings: {known}" if known else "The batch sweeps no setting"
                raise UserError(f"{option}: the batch has no swept setting {written_name!r}. {advice}")
            number = (axis.names if name in axis.names else axis.paths).index(name)
            values = [position_values[number] for position_values in axis.values]
            for value in split_alternatives(text.strip(), partial(find_matching_value_indices, values)):
                positions = find_matching_value_indices(values, value)
                if not positions:
                    known = ", ".join(dict.fromkeys(format_value_labels(values)))
                    raise UserError(f"{option}: {name} has no value {value!r}. Choose from: {known}")
                positions_by_axis.setdefault("+".join(axis.names), []).extend(positions)
        return positions_by_axis

    def list_layouts(self) -> list[AxisLayout]:
        """Return the layouts; the default is the first.

        A small sweep is shown as a whole at first, with seeds as columns and all other axes as rows. All other layouts
        have one axis for the rows and one for the columns. Axes with one position are on the pages. Without a sweep,
        variations are the rows and seeds the columns.
        """
        names = [axis.name for axis in self.axes]
        if len(names) == 2:
            return [AxisLayout((VARIATION_AXIS,), (SEED_AXIS,))]
        wide = [axis.name for axis in self.axes if len(axis.labels) > 1]
        wide += [name for name in names if name not in wide][: max(0, 2 - len(wide))]
        pairs = sorted(permutations([name for name in names if name in wide], 2), key=self._get_pair_sort_key)
        layouts = [
            AxisLayout((row,), (column,), tuple(n for n in names if n not in (row, column))) for row, column in pairs
        ]
        row_count = math.prod(len(axis.labels) for axis in self.axes[:-1])
        is_small = len(self.axis_by_name[SEED_AXIS].labels) > 1 and len(wide) > 2 and row_count <= MAX_WHOLE_ROWS
        whole = AxisLayout(tuple(names[:-1]), (SEED_AXIS,))
        return [whole, *layouts] if is_small else layouts

    def _get_pair_sort_key(self, pair: tuple[str, str]) -> tuple[int, int]:
        """Return a sort key of a row and a column: variations by settings first, then settings by seeds."""
        row, column = (self.axes.index(self.axis_by_name[name]) for name in pair)
        return (0 if row < column else 1, row * len(self.axes) + column)

    def choose_flat_layout(self, rows: tuple[str, ...] = (), columns: tuple[str, ...] = ()) -> AxisLayout:
        """Return a layout without pages: all axes that the caller does not name become rows.

        By default, the columns are the first swept axis, or else the seeds.

        Raises:
            UserError: an axis is both a row and a column, or no axis is left for one of them.
        """
        both = [name for name in rows if name in columns]
        if both:
            raise UserError(f"--rows and --columns: {both[0]} cannot be on both sides. Name each axis once")
        names = [axis.name for axis in self.axes]
        if not columns:
            free = [name for name in names[1:] if name not in rows] or [name for name in names if name not in rows]
            columns = (free[0],) if free else ()
        rows = (*rows, *(name for name in names if name not in (*rows, *columns)))
        if not rows or not columns:
            raise UserError("--rows and --columns need at least one axis each. Leave an axis for the other option")
        return AxisLayout(rows, columns)

    def arrange_videos(self, layout: AxisLayout, page_number: int = 0) -> ArrangedVideos:
        """Return the videos of one page."""
        keys_by_index = self._place_videos(layout)
        keys = [key for places in keys_by_index.values() for key in places]
        rows, columns, pages = (
            self._make_lines(names, {key[side] for key in keys})
            for side, names in enumerate((layout.rows, layout.columns, layout.pages))
        )
        page_number = max(0, min(page_number, len(pages) - 1))
        row_numbers = {line.key: number for number, line in enumerate(rows)}
        column_numbers = {line.key: number for number, line in enumerate(columns)}
        index_by_position = {
            (row_numbers[row], column_numbers[column]): index
            for index, places in keys_by_index.items()
            for row, column, page in places
            if pages and page == pages[page_number].key
        }
        heading, labels = self._shorten_labels(layout.columns, columns)
        return ArrangedVideos(
            rows, columns, pages, page_number, heading, labels, dict(sorted(index_by_position.items()))
        )

    def find_page(self, layout: AxisLayout, page_number: int, index: int) -> int:
        """Return `page_number` if this page has a video, or else the first page that has it.

        If no page has it, return `page_number`.
        """
        keys_by_index = self._place_videos(layout)
        page_keys = sorted({page for places in keys_by_index.values() for _, _, page in places})
        page_number = max(0, min(page_number, len(page_keys) - 1))
        numbers = [page_keys.index(page) for _, _, page in keys_by_index.get(index, ())]
        return page_number if page_number in numbers else min(numbers, default=page_number)

    def name_video(self, entry: VideoEntry) -> str:
        """Return the variation, the seed and the swept values of a video."""
        variation = self.axis_by_name[VARIATION_AXIS].name_position(entry.variation)
        cell = self.manifest.find_cell(entry)
        return ", ".join([variation, f"seed {entry.seed}", *([] if cell is None else [cell.label])])

    def get_positions(self, entry: VideoEntry) -> dict[str, int]:
        """Return the position of a video on each axis."""
        cell = self.manifest.find_cell(entry)
        swept = [axis.name for axis in self.axes if axis.is_swept]
        positions = [BASELINE_POSITION] * len(swept) if cell is None or not cell.positions else cell.positions
        return {
            VARIATION_AXIS: entry.variation,
            **dict(zip(swept, positions, strict=True)),
            SEED_AXIS: entry.number,
        }

    def _place_videos(self, layout: AxisLayout) -> dict[int, list[tuple[AxisKey, AxisKey, AxisKey]]]:
        """Return the keys of row, column and page of each video.

        An additional baseline has a line of its own in the columns, rows or pages, whichever first have a swept axis.
        On the other sides, it is on every line with its variation and seed, next to the videos with which it is
        compared.
        """
        sides = (layout.rows, layout.columns, layout.pages)
        positions = {index: self.get_positions(self.manifest.videos[index]) for index in self.indices}
        keys_by_index, baselines = {}, []
        for index, by_name in positions.items():
            if BASELINE_POSITION in by_name.values():
                baselines.append(index)
                continue
            row, column, page = (tuple(by_name[name] for name in names) for names in sides)
            keys_by_index[index] = [(row, column, page)]
        known_keys = [key for places in keys_by_index.values() for key in places]
        own_side = next(side for side in (1, 0, 2, 3) if side == 3 or any(self._is_swept(n) for n in sides[side]))
        for index in baselines:
            by_name = positions[index]
            keys_by_side = []
            for side, names in enumerate(sides):
                own_key = tuple(by_name[name] for name in names)
                matching = dict.fromkeys(
                    key[side]
                    for key in known_keys
                    if all(p == q or self._is_swept(n) for n, p, q in zip(names, key[side], own_key, strict=True))
                )
                keys_by_side.append([own_key] if side == own_side or not matching else list(matching))
            rows, columns, pages = keys_by_side
            keys_by_index[index] = [(row, column, page) for row in rows for column in columns for page in pages]
        return keys_by_index

    def _is_swept(self, name: str) -> bool:
        return self.axis_by_name[name].is_swept

    def _make_lines(self, names: Sequence[str], keys: set[AxisKey]) -> tuple[GridLine, ...]:
        named = [name for number, name in enumerate(names) if len({key[number] for key in keys}) > 1] or list(names[:1])
        lines = []
        for key in sorted(keys):
            positions = dict(zip(names, key, strict=True))
            labels = dict.fromkeys(self.axis_by_name[name].name_position(positions[name]) for name in named)
            lines.append(GridLine(key, ", ".join(labels)))
        return tuple(lines)

    def _shorten_labels(self, names: Sequence[str], lines: Sequence[GridLine]) -> tuple[str, tuple[str, ...]]:
        """Return the name of the columns' axis, and the labels without this name, if the columns have only one axis."""
        labels = tuple(line.label for line in lines)
        prefix = f"{names[0]} "
        is_baseline = [BASELINE_POSITION in line.key for line in lines]
        has_prefix = [baseline or label.startswith(prefix) for baseline, label in zip(is_baseline, labels, strict=True)]
        if not labels or names[0] == VARIATION_AXIS or len(names) > 1 or not all(has_prefix):
            return "", labels
        return names[0], tuple(label.removeprefix(prefix) for label in labels)
