"""The draft of a batch: which config, what was changed in it, and the template; and what comes of it. No widgets."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_config_path

from wantui.config import Config, ConfigError, load_config, parse_config, preset_directory
from wantui.engine.room import SPARE_BYTES
from wantui.errors import UserError, user_path
from wantui.gpu.sampler import Sample
from wantui.planning import Outline, PastVideo, estimate_memory, estimate_seconds
from wantui.planning.estimate import disk_for
from wantui.tui.drafts import Drafts
from wantui.words import bytes_in_words, duration_in_words


@dataclass(frozen=True)
class Source:
    """A config that can be chosen."""

    name: str
    """As `wantui run -c` takes it."""
    path: Path
    summary: str
    """One line; of a file that cannot be used, why."""
    is_valid: bool


@dataclass(frozen=True)
class Cost:
    """One line of what a batch takes."""

    about: str
    text: str
    basis: str
    fits: bool = True


def user_configs() -> Path:
    """Where a user's own configs lie, and are saved where there is no configs/ in the working folder."""
    return user_config_path("wantui") / "configs"


def find_sources() -> list[Source]:
    """All configs: the working folder's, the user's, those that come with wantui."""
    found: dict[Path, Source] = {}
    for folder, is_preset in ((Path("configs"), False), (user_configs(), False), (preset_directory(), True)):
        try:
            paths = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        except OSError:
            continue
        for path in paths:
            real = path.resolve()
            preset = is_preset or real.parent == preset_directory().resolve()
            if real not in found:
                found[real] = summarise(path.stem if preset else str(path), real)
    return sorted(found.values(), key=lambda source: (source.name != "nano", "/" in source.name, source.name))


def summarise(name: str, path: Path) -> Source:
    """A config in one line."""
    try:
        settings = load_config(path).settings
    except UserError as error:
        return Source(name, path, str(error).splitlines()[0].removeprefix(f"{path}:").strip(), False)
    model, video = settings.model_settings, settings.video_settings
    length = f"{video.frames} frames" if video.frames else f"{video.duration:g} s" if video.duration else "81 frames"
    short = model.model_id.rpartition("/")[2]
    return Source(name, path, f"{short}, {video.width}x{video.height}, {length}, {model.steps} steps", True)


def config_of(drafts: Drafts, more: Mapping[str, str] | None = None) -> Config:
    """The config of a draft, with `more` changes on top.

    Raises:
        ConfigError: all that is wrong with it.
    """
    changes = {**drafts.changes, **(more or {})}
    overrides = [f"{key}={value}" for key, value in changes.items()]
    if drafts.text is not None:
        return parse_config(drafts.text, drafts.config, overrides)
    return load_config(drafts.config, overrides)


def faults_of(error: ConfigError, key: str) -> str:
    """What a form says beside the setting `key`."""
    own = [problem.message for problem in error.problems if problem.key == key]
    return "; ".join(own or [str(problem) for problem in error.problems])


def save_config(path: Path, text: str) -> None:
    """Write a config under a name.

    Raises:
        UserError: it cannot be written.
    """
    from wantui.storage.atomic import write_text

    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def path_for(name: str) -> Path:
    """Where a config of a name is saved: a path as it is, a bare name in configs/ or among the user's own."""
    written = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    path = user_path(written)
    if path.is_absolute() or len(path.parts) > 1:
        return path
    return (Path("configs") if Path("configs").is_dir() else user_configs()) / path


def costs(outline: Outline, past: Sequence[PastVideo], sample: Sample | None) -> list[Cost]:
    """What a batch takes, each figure with what it rests on, and whether it fits."""
    recipe, videos = outline.first, outline.videos
    settings = outline.config.settings
    seeds = settings.videos_per_variation
    many = f"{len(outline.variations):,} variation{'s' * (len(outline.variations) != 1)}"
    last = recipe.seed + seeds - 1
    size = f"{recipe.model}, {recipe.width}x{recipe.height}, {recipe.frames} frames, {recipe.steps} steps"
    lines = [Cost("videos", f"{videos:,} = {many} x {seeds} seeds", f"{recipe.seed} to {last}; {size}")]
    gpus = sample.gpus if sample is not None else ()
    on_gpu = bool(gpus) and settings.model_settings.device != "cpu"
    seconds = estimate_seconds(recipe, "cuda" if on_gpu else "cpu", past)
    shown = "?" if seconds.value is None else f"{duration_in_words(seconds.value * videos)} on one worker"
    lines.append(Cost("time", shown, seconds.basis))
    lines.append(_memory(outline, past, sample, on_gpu))
    disk = disk_for(recipe, outline.model, videos)
    place = _existing(user_path(settings.output_dir))
    free = shutil.disk_usage(place).free
    fits = disk.total + SPARE_BYTES <= free
    basis = f"clips {bytes_in_words(disk.videos)} ({disk.videos_basis})"
    if disk.latents:
        basis += f", latents {bytes_in_words(disk.latents)} ({disk.latents_basis})"
    if not fits:
        basis = f"{_what_fits(outline, free, disk.latents)} would fit; " + basis
    lines.append(Cost("disk", f"{bytes_in_words(disk.total)} of {bytes_in_words(free)} free", basis, fits))
    return lines


def _memory(outline: Outline, past: Sequence[PastVideo], sample: Sample | None, on_gpu: bool) -> Cost:
    needed = estimate_memory(outline.first, outline.model, past)
    text = "?" if needed.value is None else bytes_in_words(needed.value)
    if sample is None:
        return Cost("memory", text, needed.basis)
    if not on_gpu:
        free = sample.memory_total - sample.memory_used
        weights = outline.model.weights
        fits = weights is None or weights <= sample.memory_total
        basis = "no GPU is used: the weights lie in the machine's memory"
        if not fits:
            basis = f"the weights alone take {bytes_in_words(weights or 0)}: choose a smaller model, or another machine"
        return Cost("memory", f"{bytes_in_words(weights or 0)} of {bytes_in_words(free)} free", basis, fits)
    known = [gpu for gpu in sample.gpus if gpu.memory_total is not None and gpu.memory_used is not None]
    if not known:
        return Cost("memory", text, f"{needed.basis}; what is free is not known")
    total, free = max(((gpu.memory_total or 0), (gpu.memory_total or 0) - (gpu.memory_used or 0)) for gpu in known)
    fits = needed.value is None or needed.value <= total
    basis = needed.basis
    if not fits:
        basis = f"more than the GPU's {bytes_in_words(total)}: parts will be kept in the machine's memory; {basis}"
    elif needed.value is not None and needed.value > free:
        basis = f"more than is free now; {basis}"
    return Cost("memory", f"{text} of {bytes_in_words(free)} free on the GPU", basis, fits)


def _what_fits(outline: Outline, free: int, latents: int) -> str:
    """Of the same batch, what there is room for."""
    one = disk_for(outline.first, outline.model, 1).total
    videos = max(0, (free - SPARE_BYTES) // max(1, one))
    words = f"{videos:,} videos"
    return f"{words}, or no stored latents," if latents else words


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path
