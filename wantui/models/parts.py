"""Find and check the files of a model's parts. Never imports torch."""

import os
import reprlib
from collections.abc import Collection
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wantui.errors import UserError
from wantui.file_state import FileState
from wantui.json_files import UnreadableFileError, read_json_object
from wantui.models.safetensors_header import find_weight_file_error

PART_NAMES = ("scheduler", "text_encoder", "tokenizer", "transformer", "transformer_2", "vae")
"""Folders of a Wan pipeline."""
INDEX_FILE = "model_index.json"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
"""Vocabulary files; a tokenizer needs at least one of them."""
DIFFUSERS_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
TRANSFORMERS_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of weight files in the search order of the library, which loads the first that exists."""

LAYER_COUNT_KEYS = ("num_layers", "num_decoder_layers", "num_res_blocks")
"""Config keys for a number of layers."""
MAX_LAYER_COUNT = 1000
"""Maximum number of layers in a part (the largest Wan transformer has 40): the libraries build all layers before they
check the weights."""
ACTIVATION_CONFIG = {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True}
"""Activation of every UMT5 encoder. Another activation fits the same weights, but changes every embedding."""
RELATIVE_DISTANCE_CONFIG = {"relative_attention_max_distance": 128}
"""Distance in tokens beyond which UMT5 treats all distances alike; another value changes the meaning of its weights."""
FIXED_CONFIG_BY_PART: dict[str, dict[str, object]] = {"text_encoder": ACTIVATION_CONFIG | RELATIVE_DISTANCE_CONFIG}
"""Part -> config values that are the same in every Wan model, and that its weights could not contradict."""
EPSILON_KEYS = ("eps", "layer_norm_epsilon")
MAX_EPSILON = 1e-3
"""Largest accepted epsilon of a norm; Wan models have 1e-6."""
MAX_EXTRA_TOKENS = 10_000
"""Maximum number of extra tokens (UMT5 has 300): transformers creates them all before their number is checked."""
SPIECE_PACKAGES = ("sentencepiece", "google.protobuf")
"""Modules that transformers needs to read a spiece.model."""
LABEL_BY_PART = {"text_encoder": "text encoder", "vae": "VAE"}
"""Part -> name in messages, if it differs from the name of its folder."""


class PartError(UserError):
    """Raised for a model part that is missing, incomplete or of the wrong kind."""


def read_pipeline_components(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the library and class of each component in the index of a pipeline folder, except empty components.

    Raises:
        PartError: the index is missing or is not a JSON object.
    """
    pipeline_index = read_part_json(folder / INDEX_FILE)
    component_by_name = {}
    for name, component in pipeline_index.items():
        if isinstance(component, list) and len(component) == 2 and all(isinstance(word, str) for word in component):
            component_by_name[name] = (component[0], component[1])
    return component_by_name


def get_part_label(part: str) -> str:
    """Return the name of a part in messages."""
    return LABEL_BY_PART.get(part, part)


def list_part_files(folder: Path) -> list[Path]:
    """Return the index and all files of a model's parts, relative to the model folder.

    A part may be a symbolic link to a folder. Inside a part, links are followed to files and to the shards of an index,
    but not to folders, which may be large or contain the model folder.
    """
    relative_paths = {Path(INDEX_FILE)} if (folder / INDEX_FILE).is_file() else set()
    try:
        library_by_part = {name: library for name, (library, _) in read_pipeline_components(folder).items()}
    except PartError:
        library_by_part = {}
    for name in {*PART_NAMES, *library_by_part}:
        if Path(name).name != name or not os.path.isdir(  # noqa: PTH112 -- as in find_weight_files
            folder / name
        ):  # the index must not name a path outside of the folder
            continue
        part_folder = (folder / name).resolve()
        relative_paths |= {
            Path(name) / path.relative_to(part_folder) for path in part_folder.rglob("*") if path.is_file()
        }
        if name in library_by_part:
            with suppress(PartError):
                relative_paths |= {
                    path.relative_to(folder)
                    for path in find_weight_files(folder, name, library_by_part[name], is_loaded=False)
                }
    return sorted(relative_paths)


def find_weight_files(folder: Path, part: str, library: str, *, is_loaded: bool = True) -> list[Path]:
    """Return the files from which the weights of a part are loaded: one file, or the shards of an index.

    Args:
        library: "diffusers" or "transformers", which search for files in a different order.
        is_loaded: whether the library will load the files; it refuses an index without metadata.

    Raises:
        PartError: no file exists, a shard is missing, or the library could not load the files.
    """
    weight_names = DIFFUSERS_WEIGHT_FILES if library == "diffusers" else TRANSFORMERS_WEIGHT_FILES
    path = next((path for name in weight_names if (path := folder / part / name).is_file()), None)
    if path is None:
        raise PartError(
            f"its {get_part_label(part)} has no weights: {folder / part} contains none of {', '.join(weight_names)}"
        )
    if not path.name.endswith(".index.json"):
        return [path]
    weight_index = read_part_json(path)
    shard_by_tensor = weight_index.get("weight_map")
    if (
        not isinstance(shard_by_tensor, dict)
        or not shard_by_tensor
        or not all(isinstance(shard, str) for shard in shard_by_tensor.values())
    ):
        raise PartError(f"{path} lists no weight files")
    shard_names = sorted(set(shard_by_tensor.values()))
    if outside_names := [name for name in shard_names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise PartError(f"{path} refers to {outside_names[0]}, which is outside the model folder")
    if library == "diffusers" and (nested_names := [name for name in shard_names if Path(name).name != name]):
        raise PartError(
            f"{path} refers to {nested_names[0]}, but diffusers reads only files in the same folder. Move the files to "
            f"{path.parent}, and remove the folder from the names in {path.name}"
        )
    files = [path.parent / name for name in shard_names]
    # Not Path.is_file, which raises for a name that is too long.
    if missing_names := [file.name for file in files if not os.path.isfile(file)]:  # noqa: PTH113
        pronoun = "it" if len(missing_names) == 1 else "them"
        raise PartError(
            f"{path.name} lists {', '.join(missing_names)}, but its {get_part_label(part)} does not contain {pronoun}"
        )
    if is_loaded and not isinstance(weight_index.get("metadata"), dict):
        raise PartError(f"{path} has no metadata, which {library} requires. Copy it again")
    return files


def check_model_files(folder: Path, ignored_parts: Collection[str] = ()) -> None:
    """Reject a model folder that lacks a file that the pipeline needs.

    Without tokenizer files, transformers would create an empty tokenizer, for which all words are unknown.

    Args:
        ignored_parts: parts that are not checked.

    Raises:
        PartError: a file is missing or damaged.
    """
    component_by_part = read_pipeline_components(folder)
    for part in ("scheduler", "tokenizer", "text_encoder", "transformer", "vae"):
        if part not in component_by_part:
            raise PartError(f"its {INDEX_FILE} has no {get_part_label(part)}")
    for part, (library, _) in component_by_part.items():
        if part not in PART_NAMES or part in ignored_parts:
            continue
        if part == "tokenizer":
            check_tokenizer_files(folder)
        elif part == "scheduler":
            read_part_json(folder / part / "scheduler_config.json")
        else:
            check_part_config(folder, part)
            for path in find_weight_files(folder, part, library):
                check_weight_file(path)


def check_part_config(folder: Path, part: str) -> None:
    """Reject a config with a value that no Wan model has, but that loading the weights would not detect.

    Raises:
        PartError: a value is wrong, or the config cannot be read.
    """
    path = folder / part / "config.json"
    config = read_part_json(path)
    for name in LAYER_COUNT_KEYS:
        if isinstance(layer_count := config.get(name), int) and layer_count > MAX_LAYER_COUNT:
            raise PartError(
                f"{path} has {name} {layer_count:,}; the maximum is {MAX_LAYER_COUNT:,}. Replace it with the file of "
                "the original model"
            )
    for name, expected_value in FIXED_CONFIG_BY_PART.get(part, {}).items():
        if name in config and config[name] != expected_value:
            raise _make_wrong_value_error(
                folder, part, name, config[name], f"it is {expected_value!r} in every Wan model"
            )
    for name in EPSILON_KEYS:
        value = config.get(name, MAX_EPSILON)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_EPSILON:
            raise _make_wrong_value_error(folder, part, name, value, f"it must be above 0 and at most {MAX_EPSILON}")


def _make_wrong_value_error(folder: Path, part: str, name: str, value: object, rule: str) -> PartError:
    path = folder / part / "config.json"
    part_label, value_text = get_part_label(part), reprlib.repr(value)
    return PartError(
        f"the config of its {part_label} has {name} {value_text}; {rule}. Copy {path} from the model again"
    )


def check_weight_file(path: Path) -> None:
    """Reject a safetensors file that is incomplete or damaged, for example after an interrupted download.

    Raises:
        PartError: the safetensors library refuses the file, or it cannot be read.
    """
    if path.suffix != ".safetensors":
        return
    try:
        weight_file_error = find_weight_file_error(path, FileState.from_path(path))
    except OSError as error:
        raise PartError(f"{path} cannot be read: {error.strerror or error}") from None
    if weight_file_error:
        raise PartError(f"{path} {weight_file_error}")


def check_tokenizer_files(folder: Path) -> None:
    """Reject a model folder without a tokenizer vocabulary that can be read here.

    Raises:
        PartError: a file or a package is missing.
    """
    tokenizer_paths = [folder / "tokenizer" / name for name in TOKENIZER_FILES]
    if not any(path.is_file() and path.stat().st_size for path in tokenizer_paths):
        raise PartError(
            f"its tokenizer is missing: {tokenizer_paths[0].parent} contains no {' or '.join(TOKENIZER_FILES)}"
        )
    if not tokenizer_paths[0].is_file():
        _check_spiece_packages(tokenizer_paths[1])
    if (config_path := folder / "tokenizer" / "tokenizer_config.json").exists():
        extra_ids = read_part_json(config_path).get("extra_ids", 0)
        if extra_ids is not None and (type(extra_ids) is not int or not 0 <= extra_ids <= MAX_EXTRA_TOKENS):
            raise PartError(
                f"{config_path} has extra_ids {reprlib.repr(extra_ids)}, but must have a whole number from 0 to "
                f"{MAX_EXTRA_TOKENS:,}. Replace it with the file of the original model"
            )


def _check_spiece_packages(path: Path) -> None:
    """Reject a spiece.model without the packages to read it; transformers would wrongly advise to install tiktoken.

    Raises:
        PartError: a package is missing.
    """
    missing_packages = []
    for name in SPIECE_PACKAGES:
        with suppress(ModuleNotFoundError):  # raised if the parent package is missing
            if find_spec(name):
                continue
        missing_packages.append(name)
    if missing_packages:
        raise PartError(
            f"its tokenizer has no tokenizer.json, and {path} needs {' and '.join(missing_packages)}, which "
            f"{'is' if len(missing_packages) == 1 else 'are'} not installed. Copy tokenizer.json from the model, or "
            "run: pip install sentencepiece protobuf"
        )


def read_part_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PartError: the file is missing, unreadable, or not a JSON object.
    """
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise PartError(f"{path} is missing") from None
    except UnreadableFileError as error:
        raise PartError(str(error)) from None
