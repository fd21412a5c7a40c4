"""The pipeline that a worker reuses from video to video, loaded by the first memory plan that fits."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wantui.generation.errors import OverwrittenWeightsError
from wantui.generation.guidance_split import find_guidance_split, remove_guidance_split
from wantui.generation.load import resolve_device
from wantui.generation.placement import find_device, find_device_name, free_unused_memory
from wantui.generation.prompt_encoding import collect_prompts
from wantui.models.catalogue import find_model
from wantui.planning import Recipe, estimate_video_seconds, parse_timed_videos
from wantui.planning.memory_plan import RESIDENT_PLAN, ChosenPlan, MemoryPlan, find_next_plan, find_plan
from wantui.planning.time_estimate import select_gpu_videos
from wantui.queue.benchmark_store import load_throughput
from wantui.queue.events import LoadingStageStarted, ModelLoading
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.manifest import Manifest
from wantui.worker.pipelines import (
    CHECKING_STAGE,
    LoadedPipeline,
    SharedParts,
    WeightFile,
    check_weight_fingerprints,
    choose_recipe_plan,
    find_local_weight_files,
    list_loading_stages,
    load_recipe_pipeline,
)
from wantui.worker.second_gpu import SecondGpu, report_one_gpu


class PipelineCache:
    """Loaded pipeline of one worker, reused for videos of the same model and memory plan.

    Args:
        device_name: device name for torch.
        second_device_name: device name for torch of the second GPU; None without one.
        one_gpu_reason: why there is no second GPU; empty if none was free.
    """

    def __init__(
        self, queue: Queue, device_name: str, second_device_name: str | None = None, one_gpu_reason: str = ""
    ) -> None:
        self.queue, self.device_name = queue, device_name
        self.second_gpu = SecondGpu(second_device_name, one_gpu_reason)
        self.loaded_pipeline: LoadedPipeline | None = None
        self.cache_key: tuple[Any, ...] = ()
        self.base_key: tuple[Any, ...] = ()
        """Key of the loaded pipeline without its adapters."""
        self.weight_files: tuple[WeightFile, ...] = ()
        """Local files of the loaded pipeline."""
        self.chosen_plan = ChosenPlan(RESIDENT_PLAN, None, "no video was generated yet")
        """Memory plan of the current video, or the last plan tried."""

    def get_pipeline(
        self,
        claim: Claim,
        recipe: Recipe,
        manifest: Manifest,
        log: logging.Logger,
        before_loading: Callable[[], None],
    ) -> LoadedPipeline:
        """Return the pipeline for a video; load it if the cached pipeline cannot be used.

        Args:
            before_loading: called before loading, which may take minutes; must release references to the cached
                pipeline.

        Raises:
            NotLoadedError: see `load_recipe_pipeline`.
        """
        device_name = claim.device if claim.device in ("cpu", "auto") else self.device_name
        requested_slug = manifest.memory_plan
        model_key = (recipe.source.identity, recipe.speed, device_name)
        base_key = (recipe.source.base_identity, recipe.speed, device_name)
        video_size = (recipe.width, recipe.height, recipe.frames)
        cache_key = (*model_key, claim.batch_number, claim.first_plan_slug, *video_size, requested_slug)
        # The cached plan may need less memory than the video's first plan, because little was free: choose again.
        first_plan = None if claim.first_plan_slug is None else find_plan(claim.first_plan_slug)
        uses_later_plan = first_plan is not None and self.chosen_plan.plan is not first_plan
        is_overwritten = self.loaded_pipeline is not None and self._find_overwritten_file() is not None
        if self.loaded_pipeline is not None and cache_key == self.cache_key and not (uses_later_plan or is_overwritten):
            return self.loaded_pipeline
        before_loading()
        shared = None
        if is_overwritten or (self.loaded_pipeline is not None and self.cache_key[: len(model_key)] != model_key):
            if self.loaded_pipeline is not None and self.base_key == base_key and not is_overwritten:
                shared = self.loaded_pipeline.detach_shared_parts()
            self.free_pipeline()
        check_weight_fingerprints(recipe)
        self.chosen_plan = chosen_plan = choose_recipe_plan(recipe, device_name, first_plan, requested_slug)
        log.log(
            logging.INFO if chosen_plan.fits else logging.WARNING, "%s: %s", chosen_plan.plan.slug, chosen_plan.reason
        )
        other_recipes = [video.recipe for video in manifest.videos if video.state != "done"]
        if self.loaded_pipeline is not None and self.loaded_pipeline.plan is chosen_plan.plan:
            if self.loaded_pipeline.embeddings is not None:
                self.loaded_pipeline.embeddings.encode_prompts(collect_prompts([recipe, *other_recipes]))
        else:
            self.free_pipeline()
            if shared is not None and shared.plan is not chosen_plan.plan:
                shared = None
                free_unused_memory()
            self._load_pipeline(claim, recipe, device_name, other_recipes, shared, log)
            self.base_key = base_key
        self.cache_key = cache_key
        assert self.loaded_pipeline is not None
        return self.loaded_pipeline

    def _load_pipeline(
        self,
        claim: Claim,
        recipe: Recipe,
        device_name: str,
        other_recipes: Sequence[Recipe],
        shared: SharedParts | None,
        log: logging.Logger,
    ) -> None:
        """Load the pipeline by the chosen plan, and report the stages of loading as events.

        Raises:
            NotLoadedError: see `load_recipe_pipeline`.
        """
        plan = self.chosen_plan.plan
        loading_event = ModelLoading(model=recipe.model, plan=plan.slug, reason=self.chosen_plan.reason)
        self.queue.emit_video_event(claim, loading_event)
        log.info("loading %s on %s", recipe.model, resolve_device(device_name))
        self.weight_files = find_local_weight_files(recipe)
        stages = list_loading_stages(plan)

        def report_stage(stage: str) -> None:
            stage_event = LoadingStageStarted(
                stage=stage, stage_number=stages.index(stage) + 1, stage_count=len(stages)
            )
            self.queue.emit_video_event(claim, stage_event)

        self.loaded_pipeline = load_recipe_pipeline(
            recipe, device_name, plan, other_recipes, shared=shared, begin_stage=report_stage
        )
        report_stage(CHECKING_STAGE)
        check_weight_fingerprints(recipe)  # again: the files may have been replaced while loading, which takes minutes
        log.info(
            "the linear preview explains %.1f %% of the colour variance of decoded frames",
            100 * self.loaded_pipeline.latent_to_rgb.r2,
        )

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

    def predict_video_seconds(self, recipe: Recipe) -> float | None:
        """Return the predicted seconds of a video whose pipeline is loaded, or None if unknown."""
        assert self.loaded_pipeline is not None
        device = find_device(self.loaded_pipeline.pipeline)
        device_name = find_device_name(device)
        throughput = load_throughput(self.queue.path.parent, device_name, recipe, self.chosen_plan.plan)
        timed_videos = parse_timed_videos(self.queue.list_finished_videos())
        if device.type == "cuda":
            timed_videos = select_gpu_videos(timed_videos, device_name)
        gpu_count = 1 if find_guidance_split(self.loaded_pipeline.pipeline) is None else 2
        return estimate_video_seconds(
            recipe, device.type, timed_videos, throughput, self.chosen_plan.plan, gpu_count
        ).value

    def prepare_second_gpu(self, claim: Claim, recipe: Recipe, log: logging.Logger) -> None:
        """Let the loaded pipeline use the second GPU if the batch asks for two; report if only one can be used.

        Raises:
            SecondGpuError: the second GPU failed.
        """
        assert self.loaded_pipeline is not None
        if claim.gpus_per_video == 1:
            remove_guidance_split(self.loaded_pipeline.pipeline)
            return
        reason = self.second_gpu.prepare(self.loaded_pipeline, recipe)
        if reason is not None:
            report_one_gpu(self.queue, claim, reason, log)

    def find_next_plan(self, claim: Claim) -> MemoryPlan | None:
        """Return the memory plan to try after the last chosen plan, or None."""
        if self.chosen_plan.is_forced:
            return None
        recipe = Recipe.model_validate_json(claim.recipe_json)
        uses_gpu = claim.device != "cpu" and self.device_name != "cpu"
        return find_next_plan(self.chosen_plan.plan, uses_gpu, find_model(recipe.model), recipe)

    def free_pipeline(self) -> None:
        """Release the loaded pipeline."""
        if self.loaded_pipeline is not None:
            remove_guidance_split(self.loaded_pipeline.pipeline)
        self.loaded_pipeline, self.cache_key, self.base_key, self.weight_files = None, (), (), ()
        free_unused_memory()
