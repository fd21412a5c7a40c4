"""Encode prompts: each with the text encoder of a pipeline, or all of a batch before the other parts are loaded."""

import platform
import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from diffusers import WanPipeline
from torch import Tensor

from wantui.generation.cuda_errors import is_out_of_memory
from wantui.generation.errors import LoadError
from wantui.generation.finite import check_finite
from wantui.generation.load import load_pipeline_parts
from wantui.generation.placement import find_device, free_unused_memory
from wantui.generation.self_check import check_text_encoder
from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import find_cached_commit
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning import Recipe
from wantui.planning.guidance_plan import uses_unconditional_pass
from wantui.planning.memory_plan import RESIDENT_PLAN
from wantui.storage.embeddings import EmbeddingStore


@torch.no_grad()
def encode_prompt(pipeline: WanPipeline, device: torch.device, prompt: str) -> Tensor:
    """Return the embedding [1, 512, dim] of a prompt, with zeros at the padding."""
    embeds: Tensor = pipeline.encode_prompt(
        prompt, None, False, max_sequence_length=TEXT_POSITION_COUNT, device=device
    )[0]
    return embeds


def make_prompt_encoder(pipeline: WanPipeline, embed_prompt: Callable[[str], Tensor] | None) -> Callable[[str], Tensor]:
    """Return a function that returns the embedding [1, 512, dim] of a prompt.

    Args:
        embed_prompt: such a function for a pipeline without a text encoder; None uses the text encoder.
    """
    return embed_prompt or partial(encode_prompt, pipeline, find_device(pipeline))


class CachedPromptEncoder:
    """Encoder of prompts that stores each text embedding on disk, so that each prompt is encoded once.

    The text encoder is loaded to encode prompts, and unloaded before the other parts of the model are loaded.

    Args:
        device: device of the encoder; stored embeddings are specific to it.
        replaced_parts: parts of the model whose weights come from elsewhere, and are not downloaded.
        may_fetch: whether to download missing files of a hub model.
    """

    def __init__(
        self,
        model: WanModel,
        revision: str | None,
        dtype: str,
        device: torch.device,
        *,
        replaced_parts: Collection[str] = (),
        may_fetch: bool = True,
    ) -> None:
        self.replaced_parts, self.may_fetch = replaced_parts, may_fetch
        self.model, self.revision, self.dtype, self.device = model, revision, dtype, device
        uses_gpu = device.type == "cuda"
        self.encoder_identity = {
            "model": model.location,
            "dtype": dtype,
            "device": torch.cuda.get_device_name(device) if uses_gpu else platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "length": TEXT_POSITION_COUNT,
        }

    @property
    def store(self) -> EmbeddingStore:
        """Return the store for these weights. The commit of a branch is known only after the download."""
        commit = None if self.model.is_local else find_cached_commit(self.model.location, self.revision)
        return EmbeddingStore({**self.encoder_identity, "revision": commit or self.revision})

    def __call__(self, prompt: str) -> Tensor:
        """Return the embedding [1, 512, dim] on the device, zero-padded as in the pipeline; encode it if necessary."""
        stored_embedding = self.store.read_embedding(prompt)
        if stored_embedding is None:
            self.encode_prompts([prompt])
            stored_embedding = self.store.read_embedding(prompt)
        assert stored_embedding is not None
        embedding = torch.from_numpy(stored_embedding)
        if self.dtype == "bfloat16":
            embedding = embedding.view(torch.bfloat16)
        padded_embedding = torch.zeros(1, TEXT_POSITION_COUNT, embedding.shape[1], dtype=embedding.dtype)
        padded_embedding[0, : len(embedding)] = embedding
        return padded_embedding.to(self.device)

    def encode_prompts(self, prompts: Sequence[str]) -> int:
        """Encode the prompts that are not stored yet, and return their number.

        The encoder is loaded for this and freed afterwards.

        Raises:
            LoadError: the encoder cannot be loaded or does not work, or the embeddings cannot be stored.
        """
        missing_prompts = [prompt for prompt in dict.fromkeys(prompts) if self.store.read_embedding(prompt) is None]
        if not missing_prompts:
            return 0
        omitted_parts = dict.fromkeys(("transformer", "transformer_2", "vae"))
        pipeline = load_pipeline_parts(
            self.model,
            self.revision,
            self.dtype,
            omitted_parts,
            replaced_parts=self.replaced_parts,
            may_fetch=self.may_fetch,
        )
        try:
            if not self._try_encoding_on_device(pipeline, missing_prompts):
                self._stream_encoder(pipeline)
                self._encode_and_store(pipeline, missing_prompts)
        except OSError as error:
            raise LoadError(
                f"cannot store text embeddings in {self.store.directory}: {error.strerror or error}. Free disk space, "
                f"set XDG_CACHE_HOME to another folder, or choose memory_settings.plan: {RESIDENT_PLAN.slug}"
            ) from error
        finally:
            del pipeline
            free_unused_memory()
        self.store.remove_least_used_files(set(prompts))
        return len(missing_prompts)

    def _try_encoding_on_device(self, pipeline: WanPipeline, prompts: Sequence[str]) -> bool:
        """Encode with the whole encoder on the device; return False if it does not fit into memory."""
        try:
            pipeline.text_encoder.to(self.device)
            self._encode_and_store(pipeline, prompts)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _stream_encoder(self, pipeline: WanPipeline) -> None:
        """Stream the encoder to the GPU layer by layer: slower, with equal bits."""
        from diffusers.hooks import apply_group_offloading

        pipeline.text_encoder.to("cpu")
        free_unused_memory()
        apply_group_offloading(
            pipeline.text_encoder,
            onload_device=self.device,
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
        )

    @torch.no_grad()
    def _encode_and_store(self, pipeline: WanPipeline, prompts: Sequence[str]) -> None:
        check_text_encoder(pipeline, self.device)
        # In random order: workers of several GPUs that start together share the work.
        for prompt in random.sample(prompts, len(prompts)):
            if self.store.read_embedding(prompt) is not None:
                continue
            embedding = encode_prompt(pipeline, self.device, prompt)
            check_finite(embedding, f"the text embedding of {prompt[:80]!r} contains")
            self.store.write_embedding(prompt, _to_storable_array(_strip_padding(embedding[0])))


def _strip_padding(embedding: Tensor) -> Tensor:
    """Return the embedding without trailing rows of zeros."""
    nonzero_rows = embedding.any(1).nonzero()
    return embedding[: int(nonzero_rows.max()) + 1] if len(nonzero_rows) else embedding[:1]


def _to_storable_array(embedding: Tensor) -> Any:
    embedding = embedding.cpu().contiguous()
    return embedding.view(torch.int16).numpy() if embedding.dtype == torch.bfloat16 else embedding.float().numpy()


def collect_prompts(recipes: Sequence[Recipe]) -> list[str]:
    """Return the distinct prompts and negative prompts of recipes."""
    prompts = [marked_prompt.prompt for recipe in recipes for marked_prompt in recipe.prompts]
    prompts += [recipe.negative_prompt for recipe in recipes if uses_unconditional_pass(recipe)]
    return list(dict.fromkeys(prompts))
