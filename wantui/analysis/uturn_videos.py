"""The U-turns of batches, arranged like videos whose prompt switched: by concept, seed and noise level."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wantui.analysis.arrays import FloatArray
from wantui.analysis.continued_videos import (
    CannotMeasureCommitmentError,
    ConceptFamily,
    ConceptVideos,
    Exclusion,
    StoredVideo,
    find_concept_word,
    list_finished_videos,
    require_equal_settings,
)
from wantui.planning import Recipe
from wantui.storage.manifest import Manifest
from wantui.storage.mp4 import Frame
from wantui.storage.uturn_file import UTurnEntry, read_uturn_frames, read_uturn_state, read_uturns


@dataclass(frozen=True)
class UTurnVideo:
    """A U-turn of a finished video."""

    source: StoredVideo
    entry: UTurnEntry

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the source video, which has the size and model of the U-turn."""
        return self.source.recipe

    def read_frames(self) -> Iterator[Frame]:
        """Yield the frames of the clip, uint8 [height, width, rgb].

        Raises:
            ClipError: the clip cannot be decoded.
            UTurnFileError: it is missing, or is not the recorded clip.
        """
        return read_uturn_frames(self.source.folder, self.entry)

    def read_final_state(self) -> FloatArray:
        """Return the projection [k] of the final latents.

        Raises:
            UTurnFileError: it is missing or damaged.
        """
        return read_uturn_state(self.source.folder, self.entry)


def collect_uturn_families(batches: Iterable[tuple[Path, Manifest]]) -> tuple[list[ConceptFamily], list[Exclusion]]:
    """Return the concepts of the batches' U-turns, by generic prompt, and the excluded U-turns.

    Raises:
        CannotMeasureCommitmentError: there is no U-turn, or the videos differ in other settings.
        UTurnFileError: an index of U-turns is damaged.
    """
    families: dict[str, ConceptFamily] = {}
    concepts: dict[tuple[str, str], ConceptVideos] = {}
    left_out: list[Exclusion] = []
    sources: list[StoredVideo] = []
    for folder, manifest in batches:
        videos, _ = list_finished_videos([(folder, manifest)])
        video_by_id = {video.id: video for video in videos}
        for entry in read_uturns(folder):
            source = video_by_id.get(entry.source)
            if source is None:
                left_out.append((entry.id, "its source video is not finished"))
                continue
            if source.entry.latents_sha256 != entry.source_sha256:
                left_out.append((entry.id, "its source video was generated again with other latents"))
                continue
            sources.append(source)
            family = families.setdefault(entry.generic_prompt, ConceptFamily(entry.generic_prompt))
            key = entry.generic_prompt, source.recipe.prompt
            if key not in concepts:
                word = find_concept_word(source.recipe.prompt, entry.generic_prompt)
                concepts[key] = ConceptVideos(word, source.recipe.prompt)
                family.concepts.append(concepts[key])
            seed = source.entry.seed
            concepts[key].reference_by_seed[seed] = source
            concepts[key].continued_by_seed.setdefault(seed, {})[entry.sigma] = UTurnVideo(source, entry)
    if not concepts:
        raise CannotMeasureCommitmentError(
            "cannot measure commitment: these batches have no U-turns. Generate them with `wantui commitment "
            "uturn BATCH`"
        )
    require_equal_settings(sources)
    return list(families.values()), left_out
