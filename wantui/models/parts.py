"""The parts of a model's folder: which files each one is loaded from, and which of them are missing. No torch here."""

import reprlib
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wantui.errors import UserError
from wantui.json_files import UnreadableFileError, parse_json, read_json_object

PART_NAMES = ("scheduler", "text_encoder", "tokenizer", "transformer", "transformer_2", "vae")
"""Folders of a Wan pipeline."""
INDEX = "model_index.json"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
"""Either of them holds a tokenizer's vocabulary."""
DIFFUSERS_WEIGHTS = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of weight files in the order in which the library looks for them: the first that exists is loaded."""


LAYER_COUNTS = ("num_layers", "num_decoder_layers", "num_res_blocks")
"""Numbers of layers in the configs of parts."""
MAX_LAYERS = 1000
"""Most layers of a part; the largest Wan transformer has 40. Each is built before anything else is checked."""
ACTIVATIONS = {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True}
"""Activation of every UMT5 encoder. Another one fits the same weights, and changes every embedding."""
RELATIVE_DISTANCE = {"relative_attention_max_distance": 128}
"""Distance in tokens beyond which UMT5 treats all distances alike; it determines the meaning of its weights."""
CONSTANTS: dict[str, dict[str, object]] = {"text_encoder": ACTIVATIONS | RELATIVE_DISTANCE}
"""Values that all models have, by part: those that fit the same weights with another value too."""
EPSILONS = ("eps", "layer_norm_epsilon")
MAX_EPSILON = 1e-3
"""Largest number that a norm adds to a variance; Wan models have 1e-6."""
SPIECE_PACKAGES = ("sentencepiece", "google.protobuf")
"""Modules that transformers needs to read a spiece.model."""
MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors library reads."""
LFS_POINTER = b"version https://git-lfs"
"""First bytes of the small text that Git LFS leaves in the place of a file that was not downloaded."""
LABELS = {"text_encoder": "text encoder", "vae": "VAE"}
"""Names of parts in messages, if not those of their folders."""


class PartError(UserError):
    """A part of a model that is missing, incomplete or of another kind; the text names it."""


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Return library and class of each component of a pipeline folder, without those that its index leaves empty.

    Raises:
        PartError: the index is missing or is no JSON object.
    """
    index = read_json(folder / INDEX)
    parts = {}
    for name, component in index.items():
        if isinstance(component, list) and len(component) == 2 and all(isinstance(word, str) for word in component):
            parts[name] = (component[0], component[1])
    return parts


def label(part: str) -> str:
    """Return the name of a part for messages."""
    return LABELS.get(part, part)


def part_files(folder: Path) -> list[Path]:
    """Return every file of a model's parts, relative to its folder: the index, and all that is below each part.

    A part may be a symbolic link to a folder elsewhere. Links further down are followed to files and to what an index
    of weights names, and not to other folders, which may be large or contain this one.
    """
    files = {Path(INDEX)} if (folder / INDEX).is_file() else set()
    try:
        libraries = {name: library for name, (library, _) in components(folder).items()}
    except PartError:
        libraries = {}
    for name in {*PART_NAMES, *libraries}:
        if Path(name).name != name or not (folder / name).is_dir():  # an index must not lead out of the folder
            continue
        part = (folder / name).resolve()
        files |= {Path(name) / path.relative_to(part) for path in part.rglob("*") if path.is_file()}
        if name in libraries:
            with suppress(PartError):
                files |= {
                    path.relative_to(folder) for path in weight_files(folder, name, libraries[name], is_loaded=False)
                }
    return sorted(files)


def weight_files(folder: Path, part: str, library: str, *, is_loaded: bool = True) -> list[Path]:
    """Return the files from which a part's weights are loaded, shards of an index included.

    Args:
        library: "diffusers" or "transformers", which look for files in different order.
        is_loaded: whether the library is to read them, and refuses an index without metadata.

    Raises:
        PartError: there are none, a shard is missing, or the library could not load them.
    """
    known = DIFFUSERS_WEIGHTS if library == "diffusers" else TRANSFORMERS_WEIGHTS
    path = next((path for name in known if (path := folder / part / name).is_file()), None)
    if path is None:
        raise PartError(f"its {label(part)} has no weights: none of {', '.join(known)} is in {folder / part}")
    if not path.name.endswith(".index.json"):
        return [path]
    index = read_json(path)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise PartError(f"{path} names no weight files")
    names = sorted(set(shards.values()))
    if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise PartError(f"{path} names {outside[0]}, which is outside of its folder")
    files = [path.parent / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise PartError(f"its {label(part)} lacks {', '.join(missing)}, which {path.name} names")
    if is_loaded and not isinstance(index.get("metadata"), dict):
        raise PartError(f"{path} has no metadata, which the library that loads it needs. Copy it again")
    return files


def check_files(folder: Path, without: Collection[str] = ()) -> None:
    """Reject a model folder that lacks a file the pipeline needs.

    transformers makes an empty tokenizer where there are no files for one: every word is then unknown.

    Args:
        without: parts that are not needed.

    Raises:
        PartError: names what is missing.
    """
    parts = components(folder)
    for part in ("scheduler", "tokenizer", "text_encoder", "transformer", "vae"):
        if part not in parts:
            raise PartError(f"its {INDEX} names no {label(part)}")
    for part, (library, _) in parts.items():
        if part not in PART_NAMES or part in without:
            continue
        if part == "tokenizer":
            check_tokenizer(folder)
        elif part == "scheduler":
            read_json(folder / part / "scheduler_config.json")
        else:
            check_config(folder, part)
            for path in weight_files(folder, part, library):
                check_length(path)


def check_config(folder: Path, part: str) -> None:
    """Refuse a part whose config has a value that no model has and that its weights do not contradict.

    Raises:
        PartError: names the value, or the config cannot be read.
    """
    config = read_json(folder / part / "config.json")
    for name in LAYER_COUNTS:
        if isinstance(number := config.get(name), int) and number > MAX_LAYERS:
            raise PartError(f"the config of its {label(part)} has {name} {number:,}, and {MAX_LAYERS:,} is the most")
    for name, known in CONSTANTS.get(part, {}).items():
        if name in config and config[name] != known:
            raise _odd_value(folder, part, name, config[name], f"is {known!r} in every Wan model")
    for name in EPSILONS:
        value = config.get(name, MAX_EPSILON)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_EPSILON:
            raise _odd_value(folder, part, name, value, f"is above 0 and at most {MAX_EPSILON}")


def _odd_value(folder: Path, part: str, name: str, value: object, rule: str) -> PartError:
    path = folder / part / "config.json"
    shown = reprlib.repr(value)
    return PartError(
        f"the config of its {label(part)} has {name} {shown}, which {rule}. Copy {path} from the model again"
    )


def check_length(path: Path) -> None:
    """Refuse a safetensors file that is shorter or longer than its header says, as after a broken download.

    Raises:
        PartError: names the file.
    """
    if path.suffix != ".safetensors":
        return
    try:
        stat = path.stat()
        fault = _length_fault(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except OSError as error:
        raise PartError(f"{path} cannot be read: {error.strerror or error}") from None
    if fault:
        raise PartError(f"{path} {fault}")


@lru_cache(maxsize=256)
def _length_fault(path: Path, size: int, *_: int) -> str | None:
    """Return what is wrong with the length of a file, read again only when it has changed."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            return "is a pointer of Git LFS in the place of the file. Fetch the file: git lfs pull"
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            return "is no safetensors file, or only a part of one. Copy it again"
        file.seek(8)
        header = file.read(length)
    try:
        tensors = parse_json(header)
        end = max((tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return "has a damaged header. Copy it again"
    if type(end) is not int or 8 + length + end != size:
        return f"is not complete: it has {size:,} bytes, and its header says {8 + length + end:,}. Copy it again"
    return None


def check_tokenizer(folder: Path) -> None:
    """Refuse a model folder without a vocabulary for its tokenizer.

    Raises:
        PartError: says what is missing.
    """
    paths = [folder / "tokenizer" / name for name in TOKENIZER_FILES]
    if not any(path.is_file() and path.stat().st_size for path in paths):
        raise PartError(f"its tokenizer is missing: there is no {' or '.join(TOKENIZER_FILES)} in {paths[0].parent}")
    if not paths[0].is_file():
        _check_spiece_packages(paths[1])
    if (config := folder / "tokenizer" / "tokenizer_config.json").exists():
        read_json(config)


def _check_spiece_packages(path: Path) -> None:
    """Refuse a vocabulary that cannot be read here; transformers would advise to install tiktoken.

    Raises:
        PartError: names the packages.
    """
    missing = []
    for name in SPIECE_PACKAGES:
        with suppress(ModuleNotFoundError):  # of the package around it
            if find_spec(name):
                continue
        missing.append(name)
    if missing:
        raise PartError(
            f"its tokenizer has no tokenizer.json, and {path} needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed. Copy tokenizer.json from the model, or pip install "
            "sentencepiece protobuf"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PartError: the file is missing, cannot be read, or holds something else.
    """
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise PartError(f"{path} is missing") from None
    except UnreadableFileError as error:
        raise PartError(str(error)) from None
