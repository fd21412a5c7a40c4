"""The sweep of a batch in its manifest: axes and cells, written once; each video has the index of its cell."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from wantui.planning import Sweep
from wantui.storage.layout import make_safe_folder_name

MAX_CELL_FOLDER_LENGTH = 60
"""Maximum length of a cell's folder name, in characters."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AxisEntry(_Entry):
    """Settings that change together."""

    paths: list[str]
    """Complete dotted names of the settings, such as model_settings.cfg_scale."""
    names: list[str]
    """Short name of each setting, distinct within the sweep, such as cfg_scale."""
    values: list[list[Any]]
    """For each position on the axis, the value of each setting."""


class CellEntry(_Entry):
    """One combination of values."""

    label: str
    """Short text for people, distinct within the sweep, such as "cfg_scale 4, steps 20"."""
    folder: str
    """Name of the folder with its files, below the variation's folder."""
    positions: list[int]
    """Index into the values of each axis; empty for an additional baseline row."""
    values: dict[str, Any]
    """Value of each swept setting by its path; empty for an additional baseline row."""
    baseline: bool = False
    """True if the cell has the config's own values, and the sweep requests a baseline."""


class SkippedCellEntry(_Entry):
    """A skipped combination, with the reason."""

    label: str
    positions: list[int]
    reason: str


class SweepEntry(_Entry):
    """The sweep of a batch."""

    axes: list[AxisEntry]
    cells: list[CellEntry]
    skipped: list[SkippedCellEntry] = []

    def check_consistency(self) -> None:
        """Reject a sweep whose parts contradict each other.

        Raises:
            ValueError: names the inconsistent part.
        """
        for index, axis in enumerate(self.axes):
            if len(axis.names) != len(axis.paths) or any(len(values) != len(axis.paths) for values in axis.values):
                raise ValueError(f"sweep.axes[{index}] does not have one name and one value for each path")
        for index, cell in enumerate(self.cells):
            if cell.folder != make_safe_folder_name(cell.folder):
                raise ValueError(f"sweep.cells[{index}].folder is not the name of a folder: {cell.folder[:80]!r}")
            if cell.positions and (
                len(cell.positions) != len(self.axes)
                or any(
                    not 0 <= position < len(axis.values)
                    for position, axis in zip(cell.positions, self.axes, strict=True)
                )
            ):
                raise ValueError(f"sweep.cells[{index}].positions are not positions on the axes")
        for name in ("label", "folder"):
            texts = [getattr(cell, name) for cell in self.cells]
            if len(set(texts)) < len(texts):
                raise ValueError(f"sweep.cells contains two cells with the same {name}")


def create_sweep_entry(sweep: Sweep) -> SweepEntry:
    """Return the entry of a planned sweep."""
    return SweepEntry(
        axes=[
            AxisEntry(
                paths=list(axis.paths),
                names=[sweep.name_by_path[path] for path in axis.paths],
                values=[list(values) for values in axis.values],
            )
            for axis in sweep.axes
        ],
        cells=[
            CellEntry(
                label=cell.label,
                folder=_make_cell_folder(index, cell.label),
                positions=list(cell.positions),
                values=dict(cell.values),
                baseline=cell.is_baseline,
            )
            for index, cell in enumerate(sweep.cells)
        ],
        skipped=[
            SkippedCellEntry(label=skipped.cell.label, positions=list(skipped.cell.positions), reason=skipped.reason)
            for skipped in sweep.skipped_cells
        ],
    )


def _make_cell_folder(index: int, label: str) -> str:
    """Return a readable name; the index in it makes the name distinct."""
    return make_safe_folder_name(f"cell_{index:03d}_{label[:MAX_CELL_FOLDER_LENGTH]}")
