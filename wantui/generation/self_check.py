"""Check that the parts of a loaded pipeline match and work, before hours of generation."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import WanPipeline
from torch import Tensor

from wantui.generation.errors import LoadError
from wantui.generation.fuse import is_fused
from wantui.generation.guidance_split import find_guidance_split
from wantui.generation.placement import ensure_on_device, find_device
from wantui.models.parts import read_pipeline_components
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.models.tokenizer import find_duplicate_token_error, find_tokenizer_config_error, find_vocabulary_error

TEST_INPUT_SIDE = 8
"""Height and width of the test inputs, in patches for the transformers and in latent cells for the VAE."""
TEST_WORDS = ("red", "blue", "left", "right", "circle", "square", "a", "star", "two", "1")
"""Test words; at least two of them must have equal token counts but different tokens."""


def check_parts_compatible(pipeline: WanPipeline, folder: Path) -> None:
    """Reject parts that come from different models.

    Args:
        folder: folder of the pipeline's files, which contain a text encoder even if the pipeline has none.

    Raises:
        LoadError: the message names the parts that do not match.
    """
    transformer, vae = pipeline.transformer, pipeline.vae
    encoder_config = _read_encoder_config(folder)
    for name, part in (("transformer", transformer), ("transformer_2", pipeline.transformer_2)):
        if part is None:
            continue
        if encoder_config.d_model != part.config.text_dim:
            raise LoadError(
                f"its text encoder returns {encoder_config.d_model} values per token, but its {name} "
                f"expects {part.config.text_dim}: they belong to different models"
            )
        if vae is not None and not vae.config.z_dim == part.config.in_channels == part.config.out_channels:
            raise LoadError(
                f"its VAE has {vae.config.z_dim} latent channels, but its {name} has {part.config.in_channels} input "
                f"and {part.config.out_channels} output channels: they do not belong to the same text-to-video model"
            )
    if vae is not None:
        _check_latent_statistics(vae.config)
    boundary_ratio, second_transformer = pipeline.config.boundary_ratio, pipeline.transformer_2
    if transformer is not None and (boundary_ratio is None) != (second_transformer is None):
        second_description = "no transformer_2" if second_transformer is None else "a transformer_2"
        raise LoadError(
            f"its model_index.json has boundary_ratio {boundary_ratio} and {second_description}: a model must have "
            "both or neither"
        )
    _check_tokenizer(pipeline.tokenizer, encoder_config)
    if fault := find_vocabulary_error(pipeline.tokenizer.get_vocab(), encoder_config.vocab_size):
        raise LoadError(find_tokenizer_config_error(folder) or fault)
    if fault := find_duplicate_token_error(pipeline.tokenizer.backend_tokenizer):
        raise LoadError(f"its tokenizer cannot be used: {fault}")


def _check_tokenizer(tokenizer: Any, encoder: Any) -> None:
    """Reject a tokenizer whose settings change the input of the encoder.

    For a prompt with n tokens, the pipeline uses the first n embeddings: with padding on the left, these would be the
    embeddings of the padding.
    """
    if tokenizer.padding_side != "right":
        raise LoadError(
            f"its tokenizer pads on the {tokenizer.padding_side}, but a Wan model needs padding on the right"
        )
    for name in ("eos_token_id", "pad_token_id"):
        actual, expected = getattr(tokenizer, name, None), getattr(encoder, name, None)
        if isinstance(expected, int) and actual != expected:
            raise LoadError(
                f"its tokenizer has {name} {actual} but its text encoder has {expected}: correct tokenizer_config.json"
            )


def _check_latent_statistics(config: Any) -> None:
    """Reject a VAE whose latents cannot be normalised; a standard deviation of 0 would give single-colour frames."""
    for name, values in (("latents_mean", config.latents_mean), ("latents_std", config.latents_std)):
        value_list = list(values) if isinstance(values, list | tuple) else [values]
        numbers = [value for value in value_list if isinstance(value, int | float)]
        if len(numbers) != config.z_dim or not all(map(math.isfinite, numbers)):
            raise LoadError(
                f"its VAE config sets {name} to {value_list[:3]}..., but {config.z_dim} finite numbers are needed"
            )
    if min(config.latents_std) <= 0:
        raise LoadError("its VAE config has a latents_std of 0 or less")


def _read_encoder_config(folder: Path) -> Any:
    """Return the config of a folder's text encoder without loading the encoder."""
    encoder_class = getattr(transformers, read_pipeline_components(folder)["text_encoder"][1])
    return encoder_class.config_class.from_pretrained(folder / "text_encoder", local_files_only=True)


@torch.no_grad()
def check_pipeline_works(pipeline: WanPipeline) -> None:
    """Pass a small input through each loaded part: tokenizer, text encoder, transformers and VAE.

    This detects weights that result in NaN, and kernels that do not work on this machine.

    Raises:
        LoadError: the message names the part and its defect.
    """
    device = find_device(pipeline)
    choose_two_prompts(pipeline.tokenizer)
    if pipeline.text_encoder is not None:
        check_text_encoder(pipeline, device)
    transformers_by_name = {"transformer": pipeline.transformer, "transformer_2": pipeline.transformer_2}
    for name, transformer in transformers_by_name.items():
        if transformer is None:
            continue
        ensure_on_device(pipeline, transformer)
        output = transformer(*build_test_inputs(pipeline, transformer), return_dict=False)[0]
        if not output.isfinite().all() or not output.any():
            raise LoadError(f"{name} returns NaN, infinity or only zeros: its weights are damaged or not loaded")
    if pipeline.vae is not None:
        _check_vae_output(pipeline, device)


def build_test_inputs(pipeline: WanPipeline, transformer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, timestep and text embedding of a small test, on the device of the pipeline."""
    device = find_device(pipeline)
    _, patch_height, patch_width = transformer.config.patch_size
    # Several positions: attention kernels need not support a single one.
    shape = (1, transformer.config.in_channels, 1, TEST_INPUT_SIDE * patch_height, TEST_INPUT_SIDE * patch_width)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(shape, generator=generator).to(device, transformer.dtype)
    text_embedding = torch.zeros(1, TEXT_POSITION_COUNT, transformer.config.text_dim)
    text_embedding[:, :16] = torch.randn(1, 16, transformer.config.text_dim, generator=generator)
    has_token_timesteps = pipeline.config.expand_timesteps and not is_fused(transformer)
    timestep = torch.full((1, TEST_INPUT_SIDE**2) if has_token_timesteps else (1,), 500.0, device=device)
    return noise, timestep, text_embedding.to(device, transformer.dtype)


@torch.no_grad()
def computes_equal_bits(pipeline: WanPipeline) -> bool:
    """Return whether a test gives equal bits with the transformers and with their copies on the second GPU."""
    split = find_guidance_split(pipeline)
    assert split is not None
    for original in split.originals:
        ensure_on_device(pipeline, original)
        inputs = build_test_inputs(pipeline, original)
        expected = original(*inputs, return_dict=False)[0]
        run_copy = partial(split.find_copy(original), *(split.copy_tensor(each) for each in inputs), return_dict=False)
        output = split.start_pass(lambda: run_copy()[0]).result()  # noqa: B023 - it is called at once
        if not torch.equal(output.to(expected.device), expected):
            return False
    return True


def _check_vae_output(pipeline: WanPipeline, device: torch.device) -> None:
    """Decode two latent frames of two noise samples: later frames pass through layers that the first frame does not."""
    vae = pipeline.vae
    shape = (2, vae.config.z_dim, 2, TEST_INPUT_SIDE, TEST_INPUT_SIDE)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, vae.dtype)
    ensure_on_device(pipeline, vae)
    frames = vae.decode(latents, return_dict=False)[0]
    if not frames.isfinite().all() or bool((frames == frames[:, :, :1, :1, :1]).all()):
        raise LoadError("the VAE returns NaN, infinity or one colour: its weights are damaged or not loaded")
    spatial_factor, temporal_factor = vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
    expected = (1 + temporal_factor, TEST_INPUT_SIDE * spatial_factor, TEST_INPUT_SIDE * spatial_factor)
    if tuple(frames.shape[2:]) != expected:
        raise LoadError(
            f"the VAE decodes latents to {_format_size(frames.shape[2:])} (frames, height, width), but its config "
            f"promises {_format_size(expected)}: correct scale_factor_spatial and scale_factor_temporal in the "
            "VAE's config"
        )
    if torch.equal(frames[0], frames[1]):
        raise LoadError("the VAE returns the same frames for different latents: its weights are damaged or not loaded")


def _format_size(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


@torch.no_grad()
def check_text_encoder(pipeline: WanPipeline, device: torch.device) -> None:
    """Check that different prompts get different embeddings; transformers issue 41580 left the embeddings zero.

    The test prompts have equal token counts, because different padding would also make embeddings differ.

    Raises:
        LoadError: the embeddings are equal, or not finite.
    """
    prompts = list(choose_two_prompts(pipeline.tokenizer))
    embeddings, _ = pipeline.encode_prompt(prompts, None, False, max_sequence_length=TEXT_POSITION_COUNT, device=device)
    if not embeddings.isfinite().all() or torch.equal(embeddings[0], embeddings[1]):
        raise LoadError(
            "the text encoder returns the same embedding, or no finite embedding, for different prompts: its token "
            "embeddings were not loaded. Update transformers, or check the files of the text encoder"
        )


def choose_two_prompts(tokenizer: Any) -> tuple[str, str]:
    """Return two prompts with equal token counts but different tokens.

    Raises:
        LoadError: the tokenizer maps all words to the same tokens, for example without a vocabulary.
    """
    first_by_length: dict[int, tuple[str, list[int]]] = {}
    for word in TEST_WORDS:
        token_ids = list(tokenizer(word, add_special_tokens=True)["input_ids"])
        first_word, first_ids = first_by_length.setdefault(len(token_ids), (word, token_ids))
        if token_ids != first_ids:
            return first_word, word
    raise LoadError(
        f"the tokenizer maps {', '.join(TEST_WORDS[:4])} to the same tokens: its vocabulary was not loaded. Check the "
        "files in the model's folder tokenizer"
    )
