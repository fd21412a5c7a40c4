"""Compare the tensors that a model needs with the tensors in its files, before loading.

diffusers and transformers ignore unknown tensors, and initialise missing tensors at random or leave them unset; both
only log it. An ignored scale of 8-bit weights, for example, would silently change every video.
"""

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_model import _should_convert_state_dict_to_diffusers
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import safe_open
from torch import Tensor, nn
from transformers.convert_slow_tokenizer import SentencePieceExtractor

from wantui.models.parts import (
    PartError,
    check_part_config,
    find_weight_files,
    get_part_label,
    read_part_json,
    read_pipeline_components,
)
from wantui.models.safetensors_header import FLOAT_DTYPES, TensorInfo, read_safetensors_header

UNENCODED_GGUF_TYPES = ("F32", "F16")
"""Types of GGUF tensors that diffusers reads without decoding; it decodes other types when they are used."""
SAFETENSORS_NAMES_BY_DTYPE = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bool: "BOOL",
}
"""Names of torch types in safetensors files; other types have torch's own names."""
COMPARED_ROW_COUNT = 64
"""Number of evenly spaced rows at which two tied tensors are compared."""
IGNORED_PATTERNS_BY_CLASS = {"UMT5EncoderModel": (r"^decoder\.", r"^lm_head\.")}
"""Name patterns of tensors that a model class does not use, such as decoder tensors in a text encoder."""
TRANSFORMER_ENGINE_STATE_PATTERN = re.compile(r"(^|\.)_extra_state$")
"""Entries of NVIDIA's Transformer Engine; they contain scales of 8-bit weights, and are otherwise empty."""
FORMAT_HINTS = (
    (
        re.compile(r"scale_weight|weight_scale|scale_input|input_scale|scaled_fp8|comfy_quant|weight_scale_inv"),
        "they are scales of 8-bit weights in ComfyUI's format. Use files in bfloat16; model_settings.weights: "
        "float8 converts them to 8 bits",
    ),
    (re.compile(r"lora_|\.alpha$|\.diff_b?$|_lora\."), "they belong to a LoRA. Merge it into the weights first"),
    (re.compile(r"absmax|quant_map|quant_state|\.SCB$|qweight|qzeros"), "they belong to quantised weights"),
)


def check_part_tensors(folder: Path, part: str) -> None:
    """Reject a part of a model folder whose files do not contain exactly the tensors that its class defines.

    Args:
        part: text_encoder, transformer, transformer_2 or vae.

    Raises:
        PartError: a tensor is missing, unknown, duplicated, or has another shape or type; the message names it.
    """
    library, class_name = read_pipeline_components(folder)[part]
    check_part_config(folder, part)
    config = read_part_json(folder / part / "config.json")
    if "quantization_config" in config:
        raise PartError(
            f"its {get_part_label(part)} is stored quantised, which is not supported. Use files in bfloat16"
        )
    model = build_empty_model(folder, part)
    tensors_by_name = read_tensor_infos(find_weight_files(folder, part, library))
    compare_tensors(
        part,
        model,
        {name: info for name, (info, _) in tensors_by_name.items()},
        IGNORED_PATTERNS_BY_CLASS.get(class_name, ()),
    )
    for alias, source in find_tied_tensors(model).items():
        if (
            alias in tensors_by_name
            and source in tensors_by_name
            and not _are_tensors_equal(tensors_by_name[alias][1], alias, tensors_by_name[source][1], source)
        ):
            raise PartError(
                f"its {get_part_label(part)} contains different values for {alias} and {source}, which must be equal"
            )


def check_sentencepiece(folder: Path) -> None:
    """Reject a broken spiece.model if the tokenizer is loaded from it.

    transformers mistakes an unreadable file for a tiktoken file, and advises to install tiktoken.

    Raises:
        PartError: the file is broken.
    """
    path = folder / "tokenizer" / "spiece.model"
    if path.with_name("tokenizer.json").is_file() or not path.is_file():
        return
    try:
        SentencePieceExtractor(str(path))
    except Exception as error:  # protobuf and sentencepiece raise errors of their own
        raise PartError(
            f"{path} cannot be read as a SentencePiece vocabulary: {error}. Replace it with the file of the original "
            "model"
        ) from None


def compare_tensors(
    part: str, model: nn.Module, stored_tensors: Mapping[str, TensorInfo], ignored_patterns: Iterable[str] = ()
) -> None:
    """Reject stored tensors that are not exactly the tensors of a model.

    Args:
        model: model on the meta device.
        stored_tensors: stored tensors by name.
        ignored_patterns: name patterns of additional tensors to accept.

    Raises:
        PartError: see `check_part_tensors`.
    """
    expected_tensors = {name: _describe_tensor(tensor) for name, tensor in model.state_dict().items()}
    sources_by_alias = find_tied_tensors(model)
    partners = {**sources_by_alias, **{source: alias for alias, source in sources_by_alias.items()}}
    if missing_names := sorted(
        name for name in expected_tensors if name not in stored_tensors and partners.get(name) not in stored_tensors
    ):
        raise PartError(f"its {get_part_label(part)} has no {_format_names(missing_names)} in its files")
    patterns = [*ignored_patterns, *(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())]
    unknown_names = sorted(
        name
        for name in stored_tensors
        if name not in expected_tensors and not any(re.search(pattern, name) for pattern in patterns)
    )
    if unknown_names := [
        name
        for name in unknown_names
        if not (TRANSFORMER_ENGINE_STATE_PATTERN.search(name) and _is_empty(stored_tensors[name]))
    ]:
        hint = next((f": {hint}" for pattern, hint in FORMAT_HINTS if any(map(pattern.search, unknown_names))), "")
        raise PartError(
            f"its {get_part_label(part)} has {_format_names(unknown_names)} in its files, which the model would "
            f"ignore{hint}"
        )
    for name, info in stored_tensors.items():
        expected_info = expected_tensors.get(name, info)
        if info.shape != expected_info.shape:
            raise PartError(
                f"its {get_part_label(part)} has {name} of shape {_format_shape(info)} in its files, "
                f"but needs {_format_shape(expected_info)}"
            )
        if expected_info.is_float and not info.is_float:
            raise PartError(
                f"its {get_part_label(part)} has {name} stored as {info.dtype}, but weights must be "
                f"{', '.join(FLOAT_DTYPES)}. Use files in bfloat16; model_settings.weights: float8 or int8 "
                "converts them to 8 bits"
            )


def check_all_tensors_set(part: str, model: nn.Module) -> None:
    """Reject a loaded part with uninitialised tensors.

    Raises:
        PartError: the message names the tensors.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if unset_names := sorted(name for name, tensor in tensors if tensor.is_meta):
        raise PartError(f"its {get_part_label(part)} was loaded without {_format_names(unset_names)}")


def check_gguf_tensors(folder: Path, gguf_path: Path) -> None:
    """Reject a GGUF file that does not contain exactly the tensors of a model's transformer.

    Args:
        folder: model folder with the transformer's config.

    Raises:
        PartError: see `check_part_tensors`.
    """
    from wantui.generation.gguf_reader import BoundedGGUFReader

    model = build_empty_model(folder, "transformer")
    try:
        tensors = BoundedGGUFReader(gguf_path).tensors
    except Exception as error:  # the reader raises errors of many kinds for cut and changed files
        reason = str(error) or type(error).__name__
        raise PartError(
            f"it is damaged, incomplete, or not a GGUF file ({reason}). Copy or download it again"
        ) from None
    stored_tensors = {
        tensor.name: TensorInfo(tuple(int(side) for side in reversed(tensor.shape)), tensor.tensor_type.name)
        for tensor in tensors
    }
    # Like diffusers: tensor names that are not its own are assumed to be from Wan's code.
    if _should_convert_state_dict_to_diffusers(model.state_dict(), stored_tensors):
        stored_tensors = convert_wan_transformer_to_diffusers(stored_tensors)
    compare_tensors("transformer", model, {name: replace(info, dtype="F32") for name, info in stored_tensors.items()})
    _check_gguf_types(model, {name: info.dtype for name, info in stored_tensors.items()})


def _check_gguf_types(model: nn.Module, types_by_name: Mapping[str, str]) -> None:
    """Reject tensors in GGUF types that diffusers cannot use.

    diffusers would refuse them without giving a reason, or use them without decoding.
    """
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    decoded_types = {gguf_type.name for gguf_type in SUPPORTED_GGUF_QUANT_TYPES}
    decoded_parts = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            decoded_parts.add(f"{name}.weight")
    for name, type_name in types_by_name.items():
        if type_name in UNENCODED_GGUF_TYPES:
            continue
        if type_name not in decoded_types:
            raise PartError(
                f"its transformer has {name} stored as {type_name}, which is not supported. Use a file with "
                f"{', '.join((*UNENCODED_GGUF_TYPES, *sorted(decoded_types)))}"
            )
        if name not in decoded_parts and decoded_parts.isdisjoint(name.split(".")):
            raise PartError(
                f"its transformer has {name} stored as {type_name}, which is only supported for the weights of linear "
                f"layers. Use a file that stores it as {' or '.join(UNENCODED_GGUF_TYPES)}"
            )


def build_empty_model(folder: Path, part: str) -> nn.Module:
    """Build a part of a model from its config, on the meta device."""
    library, class_name = read_pipeline_components(folder)[part]
    module: Any = {"diffusers": diffusers, "transformers": transformers}.get(library)
    model_class = getattr(module, class_name, None)
    if model_class is None:
        raise PartError(f"the class of its {get_part_label(part)}, {library}.{class_name}, is not supported")
    try:
        return _build_model(model_class, folder / part, library)
    except Exception as error:  # constructors raise errors of many kinds for wrong values
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise PartError(
            f"its {get_part_label(part)} cannot be built from {folder / part / 'config.json'} ({reason})"
        ) from error


def _build_model(model_class: Any, folder: Path, library: str) -> nn.Module:
    """Build a model of class `model_class` from the config in a folder, on the meta device."""
    with torch.device("meta"):
        if library == "transformers":
            model: nn.Module = model_class(model_class.config_class.from_pretrained(folder, local_files_only=True))
        else:
            model = model_class.from_config(model_class.load_config(folder, local_files_only=True))
    return model


def read_tensor_infos(files: Iterable[Path]) -> dict[str, tuple[TensorInfo, Path]]:
    """Return the tensors in weight files by name, each with its file; of safetensors files, read only the headers.

    Raises:
        PartError: a file cannot be read, or a tensor is in two files.
    """
    tensors_by_name: dict[str, tuple[TensorInfo, Path]] = {}
    for path in files:
        try:
            is_safetensors = path.suffix == ".safetensors"
            infos_by_name = read_safetensors_header(path)[0] if is_safetensors else _read_torch_file_infos(path)
        except Exception as error:  # safetensors and torch raise errors of many kinds for broken files
            raise PartError(f"{path} cannot be read: {error}") from None
        for name, info in infos_by_name.items():
            if name in tensors_by_name:
                raise PartError(f"{name} is in {tensors_by_name[name][1].name} and in {path.name}")
            tensors_by_name[name] = (info, path)
    return tensors_by_name


def _read_torch_file_infos(path: Path) -> dict[str, TensorInfo]:
    stored_values = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    return {name: _describe_tensor(tensor) for name, tensor in stored_values.items() if isinstance(tensor, Tensor)}


def find_tied_tensors(model: nn.Module) -> dict[str, str]:
    """Return the tied tensors of a model: the name of each alias, and the name of its source."""
    sources_by_alias = getattr(model, "_tied_weights_keys", None)
    return dict(sources_by_alias) if isinstance(sources_by_alias, dict) else {}


def _are_tensors_equal(path: Path, name: str, other_path: Path, other_name: str) -> bool:
    """Return whether two tensors of the same shape are equal at COMPARED_ROW_COUNT rows."""
    if path.suffix != ".safetensors" or other_path.suffix != ".safetensors":
        return True  # torch's own format stores a shared tensor once
    with safe_open(path, "pt") as file, safe_open(other_path, "pt") as other_file:
        tensor, other_tensor = file.get_slice(name), other_file.get_slice(other_name)
        row_count = tensor.get_shape()[0]
        rows = range(0, row_count, max(1, row_count // COMPARED_ROW_COUNT))
        return all(torch.equal(tensor[row], other_tensor[row]) for row in rows)


def _describe_tensor(tensor: Tensor) -> TensorInfo:
    return TensorInfo(
        tuple(tensor.shape), SAFETENSORS_NAMES_BY_DTYPE.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
    )


def _is_empty(info: TensorInfo) -> bool:
    return 0 in info.shape


def _format_shape(info: TensorInfo) -> str:
    return "x".join(map(str, info.shape)) or "()"


def _format_names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
