"""Fuzzy search over batches, and over the prompts, seeds, notes and settings of their videos."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wantui.analysis.setting_values import RECIPE_FIELDS_BY_PATH
from wantui.config.key_suggestions import find_probable_setting, list_setting_paths
from wantui.config.sweep import format_value_label
from wantui.errors import UserError
from wantui.file_state import FileState, read_file_state
from wantui.json_files import InaccessibleFileError, read_json_object
from wantui.storage.batch_index import BatchSummary
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import MAX_MANIFEST_BYTES
from wantui.storage.marks import read_marks

_CONDITION_PATTERN = re.compile(r"(?P<name>[^\W\d][\w.+-]*)[:=](?P<value>\S+)")
"""Condition on a setting, such as `cfg_scale=4` or `lora.style.strength:0.5`."""
MAX_LETTER_GAP = 2
"""Maximum number of letters between two letters of a searched word, so that "crcl" finds "circle"."""
MAX_CACHED_BYTES = 512 << 20
"""Maximum size in bytes of all manifests whose variations are kept for the next search; these need far less memory."""
MIN_CACHED_BYTES = 1000
"""Size in bytes as which a smaller or missing manifest counts."""
MAX_FOUND_PER_BATCH, MAX_FOUND_VIDEOS = 20, 400
"""Maximum numbers of videos that a search lists."""


@dataclass(frozen=True)
class SearchedVideo:
    """Searchable data of one video."""

    video_index: int
    seed: int
    video_id: str
    values_by_setting: Mapping[str, str]
    """Text of setting values, by short name and by path; shared by the videos of a cell."""


@dataclass(frozen=True)
class SearchedVariation:
    """Searchable data of one variation."""

    text: str
    """Prompt."""
    id: str
    videos: tuple[SearchedVideo, ...]


@dataclass(frozen=True)
class FoundVideo:
    """A video that a search found."""

    folder: Path
    video_index: int
    """Index in the manifest."""
    text: str
    score: float


@lru_cache(maxsize=256)
def _compile_word(word: str) -> re.Pattern[str]:
    # A gap excludes the next letter, so that no position is tried twice: long words stay fast in long texts.
    letters = [re.escape(letter) for letter in word]
    gaps = (f"[^{letter}]{{0,{MAX_LETTER_GAP}}}{letter}" for letter in letters[1:])
    return re.compile(letters[0] + "".join(gaps), re.DOTALL)


def score_text(words: str, text: str) -> float:
    """Return how well a text matches all words; 0 if a word does not match.

    A word matches as a part of the text, or if its letters occur in order with small gaps. Matches at the start of a
    word, and matches without gaps, count more.
    """
    lower_text, score = text.lower(), 0.0
    for word in words.lower().split():
        position = lower_text.find(word)
        if position >= 0:
            starts_word = bool(re.search(rf"(?<!\w){re.escape(word)}", lower_text))
            score += 3 if starts_word else 2
        elif len(word) > 2 and (match := _compile_word(word).search(lower_text)) is not None:
            score += len(word) / len(match[0])
        else:
            return 0.0
    return score


def score_batch(words: str, batch: BatchSummary) -> float:
    """Return how well name, template, model and creation time of a batch match all words; 0 for no match."""
    return score_text(words, batch.searched_text)


def select_batches(words: str, batches: Sequence[BatchSummary]) -> list[BatchSummary]:
    """Return the batches that a search for some words lists: those that match, and those with a video that matches."""
    return [batch for batch in batches if score_batch(words, batch) or any(_search_batch(words, batch))]


class VariationCache:
    """Variations of the batches that were searched last; shared by several threads.

    Args:
        max_bytes: maximum size in bytes of their manifests.
    """

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self.max_bytes = max_bytes
        self._variations_by_folder: dict[Path, tuple[FileState, tuple[SearchedVariation, ...]]] = {}
        """States of manifests and variations, in the order of their last use."""
        self._cached_bytes = 0
        self._mutex = threading.Lock()

    def read_variations(self, folder: Path) -> tuple[SearchedVariation, ...]:
        """Return the variations of a batch; read its manifest only if it changed."""
        state = read_file_state(BatchFolder(folder).manifest_path)
        with self._mutex:
            cached = self._remove(folder)
            if cached is not None and cached[0] == state:
                self._cache_folder(folder, *cached)
                return cached[1]
        try:
            variations = _read_variations(folder)
        except InaccessibleFileError:  # the next search tries again: nothing else would tell that it became readable
            return ()
        with self._mutex:
            self._remove(folder)  # another thread may have read it meanwhile
            self._cache_folder(folder, state, variations)
            while self._cached_bytes > self.max_bytes:
                self._remove(next(iter(self._variations_by_folder)))
        return variations

    def _cache_folder(self, folder: Path, state: FileState, variations: tuple[SearchedVariation, ...]) -> None:
        self._variations_by_folder[folder] = state, variations
        self._cached_bytes += max(state.size_bytes, MIN_CACHED_BYTES)

    def _remove(self, folder: Path) -> tuple[FileState, tuple[SearchedVariation, ...]] | None:
        cached = self._variations_by_folder.pop(folder, None)
        if cached is not None:
            self._cached_bytes -= max(cached[0].size_bytes, MIN_CACHED_BYTES)
        return cached


_variation_cache = VariationCache()


def find_videos(
    words: str, batches: Sequence[BatchSummary], is_cancelled: Callable[[], bool] = lambda: False
) -> Iterator[FoundVideo]:
    """Yield the videos of each batch that match best.

    Settings match all conditions. Prompt, seed, sampler, note, batch name and model match all words. If the batch alone
    matches all words, they must also match without it: otherwise all of its videos would be found.

    If prompt and id match by themselves, only the first video of the variation is found.

    Args:
        is_cancelled: asked before each batch; True ends the search.
    """
    found_count = 0
    for batch in batches:
        if is_cancelled():
            return
        found = sorted(_search_batch(words, batch), key=lambda video: -video.score)[:MAX_FOUND_PER_BATCH]
        yield from found
        found_count += len(found)
        if found_count >= MAX_FOUND_VIDEOS:
            return


def split_conditions(words: str) -> tuple[str, list[tuple[str, str]]]:
    """Split the words of a search into text and conditions on settings, such as `cfg_scale=4`."""
    texts, conditions = [], []
    for word in words.split():
        match = _CONDITION_PATTERN.fullmatch(word)
        if match:
            conditions.append((match["name"].lower(), match["value"].lower()))
        else:
            texts.append(word)
    return " ".join(texts), conditions


def suggest_setting_names(words: str) -> str:
    """Return a text in parentheses that suggests settings for unknown names of conditions; empty if none is unknown."""
    known_paths = list(RECIPE_FIELDS_BY_PATH)
    known_names = {*known_paths, *RECIPE_FIELDS_BY_PATH.values(), *(path.rpartition(".")[2] for path in known_paths)}
    all_paths = list_setting_paths()
    known_names |= {*all_paths, *(path.rpartition(".")[2] for path in all_paths)}
    suggestions = []
    for name, _ in split_conditions(words)[1]:
        if name not in known_names and (path := find_probable_setting(name, all_paths)) is not None:
            suggestions.append(path if "." in name else path.rpartition(".")[2])
    return f" (did you mean {' and '.join(dict.fromkeys(suggestions))}?)" if suggestions else ""


def _search_batch(words: str, batch: BatchSummary) -> Iterator[FoundVideo]:
    if batch.fault and not batch.counts_by_state:
        return
    words, conditions = split_conditions(words)
    batch_text = "" if not conditions and score_batch(words, batch) else f" {batch.folder.name} {batch.model}"
    notes = {video_id: mark.note for video_id, mark in read_marks(BatchFolder(batch.folder)).marks_by_video.items()}
    for variation in _variation_cache.read_variations(batch.folder):
        text = f"{variation.id} {variation.text}{batch_text}"
        if not conditions and variation.videos and (score := score_text(words, text)):
            yield FoundVideo(batch.folder, variation.videos[0].video_index, variation.text, score)
            continue
        for video in variation.videos:
            if any(video.values_by_setting.get(name) != value for name, value in conditions):
                continue
            note, sampler = notes.get(video.video_id, ""), video.values_by_setting.get("sampler", "")
            score = score_text(words, f"{text} seed {video.seed} {sampler} {note}") if words else 1.0
            if score:
                shown_note = f"  {note}" if note else ""
                yield FoundVideo(
                    batch.folder, video.video_index, f"seed {video.seed}  {variation.text}{shown_note}", score
                )


def _read_variations(folder: Path) -> tuple[SearchedVariation, ...]:
    """Read the prompts of a batch without validating it; a damaged manifest has none.

    Raises:
        InaccessibleFileError: the system refuses to read the manifest, perhaps only now.
    """
    try:
        document = read_json_object(BatchFolder(folder).manifest_path, MAX_MANIFEST_BYTES)
        videos: dict[int, list[SearchedVideo]] = {}
        values_by_cell: dict[int | None, dict[str, str]] = {}
        for index, video in enumerate(document["videos"]):
            cell = video.get("cell")
            if cell not in values_by_cell:
                values_by_cell[cell] = _list_setting_values(document, video)
            videos.setdefault(int(video["variation"]), []).append(
                SearchedVideo(index, int(video["seed"]), str(video["id"]), values_by_cell[cell])
            )
        return tuple(
            SearchedVariation(str(variation["prompt"]), str(variation["id"]), tuple(videos.get(number, ())))
            for number, variation in enumerate(document["variations"])
        )
    except InaccessibleFileError:
        raise
    except (UserError, FileNotFoundError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ()


def _list_setting_values(document: Mapping[str, Any], video: Mapping[str, Any]) -> dict[str, str]:
    """Return the setting values of a cell's videos as lower-case texts, by short name and by path."""
    recipe, texts = video.get("recipe", {}), dict[str, str]()
    for path, field in RECIPE_FIELDS_BY_PATH.items():
        text = format_value_label(recipe.get(field)).lower()
        texts |= dict.fromkeys((path, path.rpartition(".")[2], field), text)
    sweep, cell = document.get("sweep"), video.get("cell")
    if sweep is None or cell is None:
        return texts
    values = sweep["cells"][cell]["values"]
    for axis in sweep["axes"]:
        for path, name in zip(axis["paths"], axis["names"], strict=True):
            if path in values:
                texts |= dict.fromkeys((path.lower(), name.lower()), format_value_label(values[path]).lower())
    return texts
