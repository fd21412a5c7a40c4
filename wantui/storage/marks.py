"""marks.json: stars, rejections and notes that users give to the videos of a batch.

Any program may read the file, and several may write it: `edit_mark` locks the batch folder, reads the file again,
changes one video, and replaces the file atomically. Fields that this version does not know are kept.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from wantui.atomic_files import atomic_write
from wantui.errors import UserError
from wantui.json_files import (
    InaccessibleFileError,
    UnreadableFileError,
    describe_first_validation_error,
    is_refused_by_system,
    read_json_object,
)
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import lock_manifest
from wantui.storage.write_checks import explain_write_error

MARKS_FORMAT = 1
MAX_MARKS_BYTES = 32 << 20
MAX_NOTE_LENGTH = 4000
"""Maximum characters of a note."""
MAX_DESCRIBED_FAULTS = 10
"""Maximum number of damaged entries that are described."""


class VideoMark(BaseModel):
    """Star, rejection and note of one video."""

    model_config = ConfigDict(frozen=True, extra="allow")

    star: StrictBool = False
    reject: StrictBool = False
    note: Annotated[StrictStr, Field(max_length=MAX_NOTE_LENGTH)] = ""

    @property
    def is_empty(self) -> bool:
        """Return whether the mark is empty, including fields of other versions."""
        return not (self.star or self.reject or self.note or self.model_extra)


NO_MARK = VideoMark()
"""Mark of a video without star, rejection and note."""


@dataclass(frozen=True)
class BatchMarks:
    """Content of marks.json."""

    marks_by_video: Mapping[str, VideoMark] = field(default_factory=dict)
    """Marks by ID of the video."""
    faults: tuple[str, ...] = ()
    """Descriptions of unreadable parts of the file."""
    has_later_format: bool = False
    is_inaccessible: bool = False
    """Whether the system could not read the file, whose marks may be intact."""
    is_refused: bool = False
    """Whether the system refused to read the file, for example because of its permissions."""
    other_fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the file that this version does not know."""

    def get_mark(self, video_id: str) -> VideoMark:
        """Return the mark of a video; `NO_MARK` if it has none."""
        return self.marks_by_video.get(video_id, NO_MARK)

    def count_stars(self) -> int:
        """Return the number of videos with a star."""
        return sum(mark.star for mark in self.marks_by_video.values())


def read_marks(folder: BatchFolder) -> BatchMarks:
    """Read the marks of a batch; an unreadable part of the file is described in `faults`."""
    path = folder.marks_path
    try:
        document = read_json_object(path, MAX_MARKS_BYTES)
    except FileNotFoundError:
        return BatchMarks()
    except UnreadableFileError as error:
        is_inaccessible = isinstance(error, InaccessibleFileError)
        return BatchMarks(faults=(str(error),), is_inaccessible=is_inaccessible, is_refused=is_refused_by_system(error))
    file_format, videos = document.pop("format", MARKS_FORMAT), document.pop("videos", {})
    if type(file_format) is not int or not isinstance(videos, dict):
        return BatchMarks(faults=(f"{path} is damaged: format is not a number, or videos is not an object",))
    if file_format > MARKS_FORMAT:
        fault = f"{path} has format {file_format}, written by a later version of wantui. Upgrade wantui"
        return BatchMarks(faults=(fault,), has_later_format=True)
    marks_by_video, faults = {}, []
    for video_id, values in videos.items():
        try:
            marks_by_video[video_id] = VideoMark.model_validate(values)
        except ValidationError as error:
            faults.append(f"{path} is damaged: video {video_id}: {describe_first_validation_error(error)}")
    if len(faults) > MAX_DESCRIBED_FAULTS:
        faults[MAX_DESCRIBED_FAULTS:] = [f"{path} has {len(faults) - MAX_DESCRIBED_FAULTS:,} more damaged entries"]
    return BatchMarks(marks_by_video, tuple(faults), other_fields=document)


def edit_mark(folder: BatchFolder, video_id: str, **changes: bool | str) -> BatchMarks:
    """Change `star`, `reject` or `note` of one video, and return all marks of the batch.

    A file with damaged parts is kept as marks.damaged.json.

    Raises:
        UserError: the file cannot be read now, cannot be written, or a later version wrote it.
    """
    try:
        with lock_manifest(folder.root):
            marks = read_marks(folder)
            if marks.has_later_format:
                raise UserError(f"cannot mark videos: {marks.faults[0]}")
            if marks.is_inaccessible:  # setting the file aside would lose all its marks
                raise UserError(f"cannot mark videos: {marks.faults[0]}. Nothing was changed. Fix this and try again.")
            if marks.faults:
                folder.marks_path.replace(folder.find_unused_damaged_marks_path())
            values = marks.get_mark(video_id).model_dump() | changes
            changed_marks = {**marks.marks_by_video, video_id: VideoMark.model_validate(values)}
            kept_marks = {name: mark for name, mark in changed_marks.items() if not mark.is_empty}
            edited = BatchMarks(kept_marks, other_fields=marks.other_fields)
            _write_marks(folder, edited)
            return edited
    except ValidationError as error:
        raise UserError(f"cannot mark the video: {describe_first_validation_error(error)}") from None
    except OSError as error:
        raise UserError(explain_write_error(error, folder.marks_path)) from None


def _write_marks(folder: BatchFolder, marks: BatchMarks) -> None:
    videos = {video_id: mark.model_dump(exclude_defaults=True) for video_id, mark in marks.marks_by_video.items()}
    document = {"format": MARKS_FORMAT, **marks.other_fields, "videos": videos}
    path = folder.marks_path
    # The name contains the process, because a file system without locks lets several processes write at once.
    with atomic_write(path, path.with_name(f"{path.name}.{os.getpid()}.partial")) as partial_path:
        partial_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
