"""The pipeline that a worker reuses from video to video, loaded by the first memory plan that fits."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wantui.generation.errors import OverwrittenWeightsError
from wantui.generation.load import resolve_device
from wantui.generation.placement import find_device, find_device_name, free_memory
from wantui.generation.prompt_encoding import collect_prompts
from wantui.models.catalogue import find_model
from wantui.planning import Recipe, estimate_video_seconds, parse_timed_videos
from wantui.planning.memory_plan import RESIDENT_PLAN, ChosenPlan, MemoryPlan, find_next_plan, find_plan
from wantui.queue.benchmark_store import load_throughput
from wantui.queue.events import ModelLoading
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.manifest import Manifest
from wantui.worker.pipelines import (
    LoadedPipeline,
    WeightFile,
    check_weights,
    choose_plan_for,
    find_local_weight_files,
    load_pipeline_for,
)


class PipelineCache:
    """Loaded pipeline of one worker, reused for videos of the same model and memory plan.

    Args:
        device: device name for torch.
    """

    def __init__(self, queue: Queue, device: str) -> None:
        self.queue, self.device = queue, device
        self.loaded: LoadedPipeline | None = None
        self.cache_key: tuple[Any, ...] = ()
        self.weight_files: tuple[WeightFile, ...] = ()
        """Local files of the loaded pipeline."""
        self.chosen = ChosenPlan(RESIDENT_PLAN, None, "no video was generated yet")
        """Memory plan of the current video, or the last plan tried."""

    def get(
        self,
        claim: Claim,
        recipe: Recipe,
        manifest: Manifest,
        log: logging.Logger,
        before_loading: Callable[[], None],
    ) -> LoadedPipeline:
        """Return the pipeline for a video; load it if the cached pipeline does not serve.

        Args:
            before_loading: called before loading, which may take minutes; must release references to the cached
                pipeline.

        Raises:
            NotLoadedError: see `load_pipeline_for`.
        """
        device = claim.device if claim.device in ("cpu", "auto") else self.device
        asked = manifest.memory_plan
        model_key = (recipe.source.identity, recipe.speed, device)
        key = (*model_key, claim.batch, claim.plan, recipe.width, recipe.height, recipe.frames, asked)
        # The cached plan may need less memory than the video's first plan, because little was free: choose again.
        first = None if claim.plan is None else find_plan(claim.plan)
        went_beyond = first is not None and self.chosen.plan is not first
        is_overwritten = self.loaded is not None and self._find_overwritten_file() is not None
        if self.loaded is not None and key == self.cache_key and not went_beyond and not is_overwritten:
            return self.loaded
        before_loading()
        if is_overwritten or (self.loaded is not None and self.cache_key[: len(model_key)] != model_key):
            self.free()
        check_weights(recipe)
        self.chosen = chosen = choose_plan_for(recipe, device, first, asked)
        log.log(logging.INFO if chosen.fits else logging.WARNING, "%s: %s", chosen.plan.slug, chosen.reason)
        other_recipes = [video.recipe for video in manifest.videos if video.state != "done"]
        if self.loaded is not None and self.loaded.plan is chosen.plan:
            if self.loaded.embeddings is not None:
                self.loaded.embeddings.encode(collect_prompts([recipe, *other_recipes]))
        else:
            self.free()
            loading = ModelLoading(model=recipe.model, plan=chosen.plan.slug, reason=chosen.reason)
            self.queue.emit_video_event(claim, loading)
            log.info("loading %s on %s", recipe.model, resolve_device(device))
            self.weight_files = find_local_weight_files(recipe)
            self.loaded = load_pipeline_for(recipe, device, chosen.plan, other_recipes)
            check_weights(recipe)  # again: the files may have been replaced while loading, which takes minutes
            log.info("previews explain %.1f %% of the colour variance", 100 * self.loaded.latent_to_rgb.r2)
        self.cache_key = key
        return self.loaded

    def check_not_overwritten(self) -> None:
        """Check that no weight file was overwritten since loading.

        Weights in CPU memory with the stored dtype are memory-mapped: overwriting a file in place changes the weights
        during generation.

        Raises:
            OverwrittenWeightsError: a file was overwritten.
        """
        if (path := self._find_overwritten_file()) is not None:
            raise OverwrittenWeightsError(
                f"{path} was overwritten while its weights were in use. Restore the earlier file and retry, or plan a "
                "new batch. To replace weights during generation, write a new file and rename it"
            )

    def _find_overwritten_file(self) -> Path | None:
        return next((file.path for file in self.weight_files if file.is_overwritten()), None)

    def predict_seconds(self, recipe: Recipe) -> float | None:
        """Return the predicted seconds of a video, or None; its pipeline must be loaded."""
        assert self.loaded is not None
        device = find_device(self.loaded.pipeline)
        measured = load_throughput(self.queue.path.parent, find_device_name(device), recipe, self.chosen.plan)
        past = parse_timed_videos(self.queue.list_finished_videos())
        return estimate_video_seconds(recipe, device.type, past, measured, self.chosen.plan).value

    def find_next_plan(self, claim: Claim) -> MemoryPlan | None:
        """Return the memory plan to try after the last one chosen, or None."""
        if self.chosen.is_forced:
            return None
        recipe = Recipe.model_validate_json(claim.recipe)
        on_gpu = claim.device != "cpu" and self.device != "cpu"
        return find_next_plan(self.chosen.plan, on_gpu, find_model(recipe.model), recipe)

    def free(self) -> None:
        """Release the loaded pipeline."""
        self.loaded, self.cache_key, self.weight_files = None, (), ()
        free_memory()
