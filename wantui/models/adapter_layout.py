"""Match the tensors of a LoRA adapter with the layers of a Wan transformer, by name and shape. Never imports torch.

Layer names of three formats are known: those of diffusers (`transformer.blocks.0.attn1.to_q`), those of Wan's own code,
which ComfyUI and LightX2V use (`diffusion_model.blocks.0.self_attn.q`), and the latter with underscores, which musubi
and kohya use (`lora_unet_blocks_0_self_attn_q`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wantui.formatting import format_count, shorten_text
from wantui.models.adapter_header import METADATA_KEY, AdapterHeader
from wantui.models.adapter_settings import check_adapter_settings
from wantui.models.adapters import AdapterError
from wantui.models.catalogue import CATALOGUE, WanModel
from wantui.models.safetensors_header import FLOAT_DTYPES, TensorInfo

LayerShape = tuple[int, int]
"""A layer's number of outputs and number of inputs."""
TensorRole = Literal["down", "up", "bias", "alpha", "diff"]
"""Role of a tensor in a layer: the factors of the change, the change of the bias, the alpha of the scale alpha / rank,
or the whole change of the weight."""
LAYER_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "pipe.dit.",
    "lora_unet__",
    "lora_unet_",
)
PEFT_CHECKPOINT_PREFIX = "base_model.model."
"""Prefix of tensor names in peft checkpoints, which store alpha in a separate file."""
SECOND_TRANSFORMER_PREFIX = "transformer_2."
ROLE_BY_SUFFIX: Mapping[str, TensorRole] = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora.down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".lora.up.weight": "up",
    ".lora_B.bias": "bias",
    ".diff_b": "bias",
    ".alpha": "alpha",
    ".diff": "diff",
}
UNSUPPORTED_PARTS = (
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("lokr_", "LoKr"),
    ("hada_", "LoHa"),
    ("oft_", "OFT"),
)
"""Part of a tensor name -> unsupported kind of adapter that has it."""
BLOCK_LAYER_NAMES: Mapping[str, str] = {
    **{
        f"{own_name}.{own_part}": f"{name}.{part}"
        for own_name, name in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for own_part, part in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    },
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
"""Name of a block's layer in Wan's code -> name in diffusers."""
OTHER_LAYER_NAMES: Mapping[str, str] = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
}
IMAGE_LAYER_PATTERN = re.compile(r"k_img|v_img|norm_k_img|img_emb|add_k_proj|add_v_proj|norm_added_k|image_embedder")
"""Image layer names in image-to-video models."""
DIFFERENCE_LAYER = "proj_out"
"""The only layer to which diffusers applies a full weight difference; differences of other layers are ignored."""


@dataclass
class AdapterLayer:
    """The tensors of an adapter for one layer of a transformer."""

    name: str
    """Name of the layer in diffusers."""
    key_by_role: dict[TensorRole, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterLayout:
    """The layers that an adapter changes, and the tensors that are not applied."""

    layers: tuple[AdapterLayer, ...]
    unapplied_keys: tuple[str, ...]

    def describe_unapplied(self) -> str | None:
        """Describe the tensors that are not applied; None if all are applied."""
        if not self.unapplied_keys:
            return None
        tensor_count = len(self.unapplied_keys) + sum(len(layer.key_by_role) for layer in self.layers)
        image_count = sum(bool(IMAGE_LAYER_PATTERN.search(key)) for key in self.unapplied_keys)
        difference_count = sum(
            key.endswith((".diff", ".diff_b")) and not IMAGE_LAYER_PATTERN.search(key) for key in self.unapplied_keys
        )
        causes = [
            *([f"{image_count:,} are for the image input of image-to-video models"] if image_count else []),
            *([f"{difference_count:,} are weight differences that diffusers ignores too"] if difference_count else []),
        ]
        other_keys = [
            key
            for key in self.unapplied_keys
            if not IMAGE_LAYER_PATTERN.search(key) and not key.endswith((".diff", ".diff_b"))
        ]
        if other_keys:
            causes.append(f"{len(other_keys):,} match no layer of the model, such as {other_keys[0]}")
        applied_count = tensor_count - len(self.unapplied_keys)
        return f"{applied_count:,} of its {format_count(tensor_count, 'tensor')} are applied; {' and '.join(causes)}"


def match_adapter_layers(header: AdapterHeader, shape_by_layer: Mapping[str, LayerShape], model: str) -> AdapterLayout:
    """Return which tensors of an adapter change which layers of a transformer.

    Args:
        shape_by_layer: shapes of the layers that an adapter may change, as `list_layer_shapes` returns them.
        model: name of the model, for messages.

    Raises:
        AdapterError: the file is no LoRA or of an unsupported kind, is for a transformer of other sizes or another
            architecture, lacks a tensor, or has unusable settings.
    """
    _reject_unsupported_kinds(header)
    name_by_alias = {alias: name for name in shape_by_layer for alias in _list_layer_aliases(name)}
    layer_by_name: dict[str, AdapterLayer] = {}
    unapplied_keys = []
    for key in header.tensors:
        alias, role = split_tensor_name(key)
        name = name_by_alias.get(alias)
        if role is None or name is None or (role == "diff" and name != DIFFERENCE_LAYER):
            unapplied_keys.append(key)
            continue
        layer = layer_by_name.setdefault(name, AdapterLayer(name))
        if role in layer.key_by_role:
            raise AdapterError(f"it has two tensors for the same purpose: {layer.key_by_role[role]} and {key}")
        layer.key_by_role[role] = key
    layers = []
    for layer in layer_by_name.values():
        if layer.key_by_role.keys() & {"down", "up", "diff"}:
            _check_layer(layer, header.tensors, shape_by_layer, model)
            layers.append(layer)
        else:  # without a change of the weight, diffusers ignores that of the bias
            unapplied_keys += layer.key_by_role.values()
    if not layers:
        raise AdapterError(_explain_no_match(header))
    rank_by_layer = {
        layer.name: header.tensors[layer.key_by_role.get("down") or layer.key_by_role["diff"]].shape[0]
        for layer in layers
    }
    check_adapter_settings(header.settings, rank_by_layer)
    return AdapterLayout(tuple(layers), tuple(unapplied_keys))


def split_tensor_name(key: str) -> tuple[str, TensorRole | None]:
    """Split the name of a tensor into the name of its layer, without prefix, and its role; None for an unknown role."""
    for suffix, role in ROLE_BY_SUFFIX.items():
        if key.endswith(suffix):
            layer_name = key.removesuffix(suffix)
            prefix = next((prefix for prefix in LAYER_PREFIXES if layer_name.startswith(prefix)), "")
            return layer_name.removeprefix(prefix), role
    return key, None


def _list_layer_aliases(name: str) -> list[str]:
    """Return the names that a diffusers layer has in all formats, without prefixes."""
    own_name = next((own_name for own_name, other_name in OTHER_LAYER_NAMES.items() if other_name == name), None)
    if own_name is None:
        _, block_index, layer_name = name.split(".", 2)
        own_layer_name = next(own for own, other in BLOCK_LAYER_NAMES.items() if other == layer_name)
        own_name = f"blocks.{block_index}.{own_layer_name}"
    return [name, own_name, own_name.replace(".", "_"), name.replace(".", "_")]


def list_layer_shapes(model: WanModel) -> dict[str, LayerShape]:
    """Return the shape of each layer that an adapter may change, by its name in diffusers."""
    width, wide, embedder = model.transformer_width, model.feed_forward_width, "condition_embedder"
    feed_forward_shapes = {"ffn.net.0.proj": (wide, width), "ffn.net.2": (width, wide)}
    return {
        **{
            f"blocks.{block_index}.{name}": feed_forward_shapes.get(name, (width, width))
            for block_index in range(model.block_count)
            for name in BLOCK_LAYER_NAMES.values()
        },
        f"{embedder}.time_embedder.linear_1": (width, model.timestep_width),
        f"{embedder}.time_embedder.linear_2": (width, width),
        f"{embedder}.time_proj": (6 * width, width),
        f"{embedder}.text_embedder.linear_1": (width, model.text_width),
        f"{embedder}.text_embedder.linear_2": (width, width),
        DIFFERENCE_LAYER: (model.latent_channels * model.patch_size**2, width),
    }


def _reject_unsupported_kinds(header: AdapterHeader) -> None:
    for key in header.tensors:
        for part, kind_name in UNSUPPORTED_PARTS:
            if part in key:
                raise AdapterError(f"it is a {kind_name} ({key}), which is not supported. Use a LoRA")
        if key.startswith(PEFT_CHECKPOINT_PREFIX):
            raise AdapterError(
                f"it is a peft checkpoint ({key}), which stores its alpha in adapter_config.json. Save it with "
                "diffusers' `save_lora_weights`"
            )
        if key.startswith(SECOND_TRANSFORMER_PREFIX):
            raise AdapterError(
                f"it has tensors of a second transformer ({key}). Give each transformer a file of its own: path, and "
                "path_2 for the second"
            )
    if header.settings.get("transformer.use_dora"):
        raise AdapterError(f"it is a DoRA ({METADATA_KEY}), which is not supported. Use a LoRA")


def _check_layer(
    layer: AdapterLayer, tensors: Mapping[str, TensorInfo], shape_by_layer: Mapping[str, LayerShape], model: str
) -> None:
    """Reject a layer with missing tensors, or with tensors of the wrong shape or type."""
    key_by_role = layer.key_by_role
    expected_shape = shape_by_layer[layer.name]
    output_count, input_count = expected_shape
    width = shape_by_layer[DIFFERENCE_LAYER][1]
    for role, key in key_by_role.items():
        if not tensors[key].is_float:
            raise AdapterError(f"its {key} is stored as {tensors[key].dtype}. Use a file in {', '.join(FLOAT_DTYPES)}")
        if role == "alpha" and tensors[key].shape not in ((), (1,)):
            raise AdapterError(f"its {key} is not a single number")
        if role == "bias" and tensors[key].shape != (output_count,):
            raise AdapterError(_explain_shape(key, tensors[key], expected_shape, model, width))
    if "diff" in key_by_role:
        if key_by_role.keys() & {"down", "up"}:
            raise AdapterError(
                f"it has {key_by_role['diff']} and factors of {layer.name}; diffusers refuses both together"
            )
        if tensors[key_by_role["diff"]].shape != expected_shape:
            raise AdapterError(
                _explain_shape(key_by_role["diff"], tensors[key_by_role["diff"]], expected_shape, model, width)
            )
        return
    if len(factor_keys := [key for role, key in key_by_role.items() if role in ("down", "up")]) == 1:
        raise AdapterError(f"it is incomplete: it has {factor_keys[0]}, but not the other factor of that layer")
    down, up = tensors[key_by_role["down"]], tensors[key_by_role["up"]]
    for key, tensor, side, expected_side in (
        (key_by_role["down"], down, -1, input_count),
        (key_by_role["up"], up, 0, output_count),
    ):
        if len(tensor.shape) != 2 or tensor.shape[side] != expected_side:
            raise AdapterError(_explain_shape(key, tensor, expected_shape, model, width))
    if 0 in (*down.shape, *up.shape):
        raise AdapterError(f"its {key_by_role['down']} or {key_by_role['up']} has no values. Copy it again")
    if down.shape[0] != up.shape[1]:
        raise AdapterError(
            f"its {key_by_role['down']} has rank {down.shape[0]}, but {key_by_role['up']} has rank {up.shape[1]}"
        )


def _explain_shape(key: str, tensor: TensorInfo, expected_shape: LayerShape, model: str, width: int) -> str:
    """Return the error for a tensor of the wrong shape; name the models of the catalogue that it fits.

    Args:
        width: width of the transformer.
    """
    other_models = [
        other.name
        for other in CATALOGUE
        if other.transformer_width != width and other.transformer_width in tensor.shape
    ]
    shape_text = shorten_text("x".join(map(str, tensor.shape))) or "()"
    if other_models:
        return (
            f"it is for {' or '.join(other_models)}, not for {model}, whose transformer has width "
            f"{width}: its {key} has shape {shape_text}"
        )
    return (
        f"it is not for {model}: its {key} has shape {shape_text}, but the layer has "
        f"{expected_shape[1]} inputs and {expected_shape[0]} outputs"
    )


def _explain_no_match(header: AdapterHeader) -> str:
    if not header.tensors:
        return "it has no tensors"
    first_key = next(iter(header.tensors))
    roles = {split_tensor_name(key)[1] for key in header.tensors}
    if not roles & {"down", "up"}:
        return (
            f"it is not a LoRA: none of its {len(header.tensors):,} tensors is a LoRA factor. Its first is {first_key}"
        )
    return (
        f"none of its {len(header.tensors):,} tensors matches a layer of the model: it is for another architecture. "
        f"Its first is {first_key}"
    )
