"""Perceptual measures of two frames, CLIP and LPIPS, with networks that this machine already has."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

from wantui.errors import UserError
from wantui.generation.load import resolve_device
from wantui.storage.mp4 import Frame
from wantui.storage.similarity_file import FrameMeasure

LPIPS_NET = "alex"
"""Trunk that the authors of LPIPS recommend for comparisons."""
LPIPS_TRUNK_FILE = "alexnet-owt-7be5be79.pth"
"""File of the trunk's weights in torch hub's cache."""
MIN_LPIPS_SIDE = 31
"""Minimum width and height in pixels; for smaller frames, the last layer of AlexNet has no value."""
MAX_KEPT_EMBEDDINGS = 1024
"""Maximum number of frames whose CLIP embeddings are kept."""


def load_clip_measure(model: str, device: str = "auto") -> FrameMeasure:
    """Load CLIP; return a function for the cosine of two frames' image embeddings (Radford et al. 2021).

    The cosine is 1 for equal frames.

    Args:
        model: folder of a CLIP model in the format of transformers, or the name of one in the Hugging Face cache.

    Raises:
        UserError: the model is not on this machine, or is no CLIP model.
    """
    torch_device = resolve_device(device)
    if not _is_on_this_machine(model):
        raise _make_clip_error(model, "it is neither a folder nor in the Hugging Face cache")
    try:
        processor = AutoImageProcessor.from_pretrained(model, local_files_only=True, backend="pil")
        network, loading = CLIPVisionModelWithProjection.from_pretrained(
            model, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _make_clip_error(model, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    if lacking := sorted({key.split(".")[0] for key in loading["missing_keys"]}):
        raise _make_clip_error(model, f"it is not a CLIP model: weights of {', '.join(lacking)} are missing")
    network = network.to(torch_device).eval()
    embeddings: dict[bytes, torch.Tensor] = {}

    @torch.inference_mode()
    def embed(frame: Frame) -> torch.Tensor:
        """Return the embedding of a frame, cached: many videos are compared with the frames of one baseline."""
        key = hashlib.sha256(frame.tobytes()).digest()
        if key not in embeddings:
            if len(embeddings) >= MAX_KEPT_EMBEDDINGS:
                embeddings.pop(next(iter(embeddings)))
            pixels = processor(images=frame, return_tensors="pt")["pixel_values"].to(torch_device)
            embedding = network(pixel_values=pixels).image_embeds[0].double()
            embeddings[key] = torch.nn.functional.normalize(embedding, dim=0)
        return embeddings[key]

    return lambda frame, reference: float(embed(frame) @ embed(reference))


def _is_on_this_machine(model: str) -> bool:
    if Path(model).is_dir():
        return True
    try:
        return isinstance(try_to_load_from_cache(model, "config.json"), str)
    except ValueError:  # no name of a hub model
        return False


def _make_clip_error(model: str, reason: str) -> UserError:
    return UserError(
        f"--clip-model: cannot load {model!r} from this machine: {reason}. Name the folder of a CLIP model, or "
        f"download it first with hf download {model}"
    )


def load_lpips_measure(device: str = "auto") -> FrameMeasure:
    """Load LPIPS; return a function for the distance of two frames (Zhang et al. 2018, version 0.1, AlexNet).

    The distance is 0 for equal frames.

    Raises:
        UserError: the package lpips or the weights of AlexNet are not on this machine.
    """
    torch_device = resolve_device(device)
    try:
        import lpips
    except ImportError as error:
        raise UserError(
            f"cannot measure LPIPS: {error}. Install it with pip install lpips torchvision, or choose other metrics "
            "with --metrics"
        ) from None
    weights_path = Path(torch.hub.get_dir(), "checkpoints", LPIPS_TRUNK_FILE)
    if not weights_path.exists():
        raise UserError(
            f"cannot measure LPIPS: {weights_path} is missing. Download it with "
            f"python -c \"import lpips; lpips.LPIPS(net='{LPIPS_NET}')\", or choose other metrics with --metrics"
        )
    network = lpips.LPIPS(net=LPIPS_NET, verbose=False).to(torch_device).eval()

    def to_tensor(frame: Frame) -> torch.Tensor:
        """Return a frame as [1, rgb, height, width] in -1 to 1."""
        values = torch.from_numpy(np.ascontiguousarray(frame)).to(torch_device, torch.float32)
        return values.permute(2, 0, 1)[None] / 127.5 - 1

    @torch.inference_mode()
    def measure(frame: Frame, reference: Frame) -> float:
        if min(frame.shape[:2]) < MIN_LPIPS_SIDE:
            raise UserError(f"LPIPS needs frames of at least {MIN_LPIPS_SIDE}x{MIN_LPIPS_SIDE} pixels")
        return float(network(to_tensor(frame), to_tensor(reference)))

    return measure
