"""Labels of the variations and videos of a batch, made of the options in which they differ."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from wantui.storage.manifest import Manifest, VariationEntry, VideoEntry


@dataclass(frozen=True)
class VariationLabel:
    """Label of one variation, with its parts."""

    id: str
    label: str
    """The chosen options that differ between variations, such as "red, left"; the prompt if there are none, and the id
    if another label is the same."""
    prompt: str
    options: Mapping[int, str]
    """Chosen option by bracket number, for brackets whose options differ between variations."""


def make_variation_labels(manifest: Manifest, indices: Sequence[int]) -> list[VariationLabel]:
    """Return labels of the variations with these indices, from the options in which the variations differ."""
    differing_brackets = _find_differing_brackets(manifest)
    labels = []
    for index in indices:
        variation = manifest.variations[index]
        options = {
            choice["bracket"]: str(choice["text"]).strip()
            for choice in variation.choices
            if choice["bracket"] in differing_brackets
        }
        labels.append(VariationLabel(variation.id, _make_label(variation, options), variation.prompt, options))
    counts = Counter(label.label for label in labels)
    return [label if counts[label.label] == 1 else replace(label, label=label.id) for label in labels]


def make_column_labels(videos: Iterable[VideoEntry]) -> tuple[str, ...]:
    """Return a label for each video number: the seed if all videos with the number share it, otherwise the number."""
    seeds_by_number: dict[int, set[int]] = {}
    for video in videos:
        seeds_by_number.setdefault(video.number, set()).add(video.seed)
    return tuple(
        f"seed {next(iter(seeds))}" if len(seeds) == 1 else f"video {number}"
        for number, seeds in sorted(seeds_by_number.items())
    )


def _find_differing_brackets(manifest: Manifest) -> set[int]:
    """Return the numbers of the brackets whose text differs between variations, or is absent from some."""
    texts: dict[int, set[str | None]] = {}
    brackets = {choice["bracket"] for variation in manifest.variations for choice in variation.choices}
    for variation in manifest.variations:
        chosen = {choice["bracket"]: str(choice["text"]).strip() for choice in variation.choices}
        for bracket in brackets:
            texts.setdefault(bracket, set()).add(chosen.get(bracket))
    return {bracket for bracket, found_texts in texts.items() if len(found_texts) > 1}


def _make_label(variation: VariationEntry, options: Mapping[int, str]) -> str:
    return ", ".join(text or "(empty)" for text in options.values()) or variation.prompt
