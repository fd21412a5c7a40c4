"""The transformer and the loop of the official repository Wan-Video/Wan2.1, loaded from a clone.

Only its transformer, its attention and its UniPC scheduler are imported, not its package, which needs packages for the
text encoder and the VAE. Its self-attention calls `flash_attention`, which needs the package flash_attn; without it,
`flash_attention` is replaced by the repository's own `attention`, which falls back to torch.
"""

import hashlib
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import click
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import Tensor, nn

from wantui.models.catalogue import WanModel

FILES = ("wan/modules/model.py", "wan/modules/attention.py", "wan/utils/fm_solvers_unipc.py")
URL = "https://github.com/Wan-Video/Wan2.1"
GUIDANCE_SCALE = 5.0
FLOAT32_PARTS = ("time_embedding", "time_projection", "norm", "head", "modulation")
"""Parts of parameter names that stay in float32 with weights in bfloat16, like those that diffusers keeps."""


class OfficialCode(NamedTuple):
    """What is used of the clone."""

    model_module: Any
    scheduler_type: Any
    attention: str
    """Attention kernel, in words."""


def check_clone(folder: Path) -> None:
    """Raise UsageError if a folder is no clone of the official repository."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise click.UsageError(f"{folder} has no {missing[0]}: give a clone of {URL} by --official.")


def describe_version(folder: Path) -> str:
    """Return the commit of a clone; without git, the digest of the imported files."""
    git = ("git", "-C", str(folder))
    place = subprocess.run([*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True)
    if place.returncode == 0 and Path((lines := place.stdout.splitlines())[0]) == folder.resolve():
        is_changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *FILES]).returncode != 0
        return f"commit {lines[1]}" + (", CHANGED" if is_changed else "")
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()
    return f"no git checkout, files with SHA-256 {digest[:16]}"


def import_official_code(folder: Path, device: torch.device) -> OfficialCode:
    """Import the transformer and the scheduler of a clone, and choose their attention."""
    for name in ("wan", "wan.modules", "wan.utils"):  # their own __init__ import what is not needed here
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    model_module: Any = importlib.import_module("wan.modules.model")
    scheduler_module = importlib.import_module("wan.utils.fm_solvers_unipc")
    if device.type == "cpu":
        model_module.amp = SimpleNamespace(autocast=autocast_cpu)
    attention = choose_attention(model_module, importlib.import_module("wan.modules.attention"), device)
    return OfficialCode(model_module, scheduler_module.FlowUniPCMultistepScheduler, attention)


def autocast_cpu(dtype: torch.dtype = torch.bfloat16, enabled: bool = True) -> torch.autocast:
    """Return the context of `torch.cuda.amp.autocast` for a CPU, where float32 means no autocast."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and dtype != torch.float32)


def choose_attention(model_module: Any, attention_module: Any, device: torch.device) -> str:
    """Return the attention that the official code uses here; patches it if flash_attn is missing."""
    if device.type == "cuda" and attention_module.FLASH_ATTN_3_AVAILABLE:
        return "FlashAttention-3"
    # FlashAttention-4 is the package flash_attn.cute, with which `import flash_attn` succeeds without version 2.
    has_version_2 = attention_module.FLASH_ATTN_2_AVAILABLE and hasattr(
        attention_module.flash_attn, "flash_attn_varlen_func"
    )
    if device.type == "cuda" and has_version_2:
        return "FlashAttention-2"
    attention_module.FLASH_ATTN_3_AVAILABLE = attention_module.FLASH_ATTN_2_AVAILABLE = False
    model_module.flash_attention = attention_module.attention
    return "torch SDPA (its fallback `attention`, patched in)"


def build_official_model(code: OfficialCode, model: WanModel, source: nn.Module, is_float32: bool) -> Any:
    """Return the official transformer with the weights of one of diffusers, whose memory is freed.

    Args:
        is_float32: whether all weights are float32, as in the official loop; otherwise those of products are bfloat16.
    """
    sizes = {
        "dim": model.transformer_width,
        "ffn_dim": model.feed_forward_width,
        "num_heads": model.head_count,
    }
    with torch.device("meta"):
        official: Any = code.model_module.WanModel(num_layers=model.block_count, **sizes)
    state = official.state_dict()
    names = {id(value): name for name, value in state.items()}
    kept = list(state.values())  # the conversion empties the dictionary, and a freed id would be reused
    name_in_official = {name: names[id(value)] for name, value in convert_wan_transformer_to_diffusers(state).items()}
    assert len(name_in_official) == len(kept)
    weights = {}
    for name, parameter in list(source.named_parameters()):
        official_name = name_in_official[name]
        keeps_float32 = is_float32 or any(part in official_name for part in FLOAT32_PARTS)
        weights[official_name] = parameter.detach().to(torch.float32 if keeps_float32 else torch.bfloat16)
        parameter.data = torch.empty(0)
    official.load_state_dict(weights, assign=True)
    official.freqs = code.model_module.WanModel(num_layers=0, **sizes).freqs
    return official.eval().requires_grad_(False)


@torch.no_grad()
def evaluate_official(model: Any, latents: Tensor, timestep: Tensor, texts: tuple[Tensor, Tensor]) -> Tensor:
    """Return the velocities [2, channels, frames, height, width] with and without the prompt.

    Args:
        latents: [channels, frames, height, width].
        texts: embeddings [tokens, width] of the prompt and of the negative prompt.
    """
    position_count = latents.shape[1] * latents.shape[2] * latents.shape[3] // 4
    with torch.autocast(latents.device.type, torch.bfloat16):
        return torch.stack([model([latents], t=timestep, context=[text], seq_len=position_count)[0] for text in texts])


@torch.no_grad()
def denoise_official(
    code: OfficialCode,
    model: Any,
    noise: Tensor,
    texts: tuple[Tensor, Tensor],
    step_count: int,
    flow_shift: float,
    end_step: Callable[[], None],
) -> Tensor:
    """Return the latents [channels, frames, height, width] after the loop of the official `text2video.py`."""
    scheduler = code.scheduler_type(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
    scheduler.set_timesteps(step_count, device=noise.device, shift=flow_shift)
    latents = noise
    for timestep in scheduler.timesteps:
        conditional, unconditional = evaluate_official(model, latents, timestep[None], texts)
        velocity = unconditional + GUIDANCE_SCALE * (conditional - unconditional)
        latents = scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
        end_step()
    return latents
