"""The pipeline that a worker keeps from one video to the next, by the memory plan that fits, and what it will take."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wantui.generation.errors import OverwrittenWeightsError
from wantui.generation.load import resolve_device
from wantui.generation.placement import device_of, free_memory, name_of
from wantui.generation.prompt_encoding import prompts_of
from wantui.models.catalogue import find_model
from wantui.planning import Recipe, estimate_seconds, parse_timed_videos
from wantui.planning.memory_plan import RESIDENT, ChosenPlan, MemoryPlan, find_plan, next_plan
from wantui.queue.benchmark_store import load_throughput
from wantui.queue.events import ModelLoading
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.manifest import Manifest
from wantui.worker.pipelines import Loaded, WeightFile, check_weights, load_for, loaded_files, plan_for


class PipelineCache:
    """Loaded pipeline of one worker. Between videos of one model and plan nothing is loaded again.

    Args:
        device: what torch calls the worker's.
    """

    def __init__(self, queue: Queue, device: str) -> None:
        self.queue, self.device = queue, device
        self.loaded: Loaded | None = None
        self.loaded_for: tuple[Any, ...] = ()
        self.weights: tuple[WeightFile, ...] = ()
        """Files that the pipeline was loaded from."""
        self.chosen = ChosenPlan(RESIDENT, None, "nothing was made yet")
        """Plan of the current video, or the last one tried."""

    def get(
        self,
        claim: Claim,
        recipe: Recipe,
        manifest: Manifest,
        log: logging.Logger,
        before_loading: Callable[[], None],
    ) -> Loaded:
        """Return the pipeline for a video.

        Args:
            before_loading: is called before anything is loaded, which may take long; whoever holds parts of what is
                loaded now gives them up there.

        Raises:
            NotLoadedError: as `load_for`.
        """
        device = claim.device if claim.device in ("cpu", "auto") else self.device
        asked = manifest.memory_plan
        model = (recipe.source.identity, recipe.speed, device)
        wanted = (*model, claim.batch, claim.plan, recipe.width, recipe.height, recipe.frames, asked)
        # A plan beyond the one that comes next was taken because little was free, which may be over.
        first = None if claim.plan is None else find_plan(claim.plan)
        went_beyond = first is not None and self.chosen.plan is not first
        is_overwritten = self.loaded is not None and self._overwritten() is not None
        if self.loaded is not None and wanted == self.loaded_for and not went_beyond and not is_overwritten:
            return self.loaded
        before_loading()
        if is_overwritten or (self.loaded is not None and self.loaded_for[: len(model)] != model):
            self.free()
        check_weights(recipe)
        self.chosen = chosen = plan_for(recipe, device, first, asked)
        log.log(logging.INFO if chosen.fits else logging.WARNING, "%s: %s", chosen.plan.slug, chosen.reason)
        others = [video.recipe for video in manifest.videos if video.state != "done"]
        if self.loaded is not None and self.loaded.plan is chosen.plan:
            if self.loaded.embeddings is not None:
                self.loaded.embeddings.encode(prompts_of([recipe, *others]))
        else:
            self.free()
            loading = ModelLoading(model=recipe.model, plan=chosen.plan.slug, reason=chosen.reason)
            self.queue.emit_of(claim, loading)
            log.info("loading %s on %s", recipe.model, resolve_device(device))
            self.weights = loaded_files(recipe)
            self.loaded = load_for(recipe, device, chosen.plan, others)
            check_weights(recipe)  # again: loading takes minutes, in which they may have been replaced
            log.info("previews show %.1f %% of the variance of colours", 100 * self.loaded.colours.r2)
        self.loaded_for = wanted
        return self.loaded

    def check_not_overwritten(self) -> None:
        """Verify that the weights are still those that were loaded.

        Weights that stay in the machine's memory in the type in which they are stored are mapped from their files:
        where a file is overwritten in place, they change under a video that is being made.

        Raises:
            OverwrittenWeightsError: a file was overwritten.
        """
        if (path := self._overwritten()) is not None:
            raise OverwrittenWeightsError(
                f"{path} was overwritten while its weights were in use. Put the earlier file back and retry, or plan a "
                "new batch; to replace weights while videos are made, write a new file and rename it"
            )

    def _overwritten(self) -> Path | None:
        return next((file.path for file in self.weights if file.is_overwritten()), None)

    def predicted_seconds(self, recipe: Recipe) -> float | None:
        """Return the predicted seconds of a video whose pipeline is loaded."""
        assert self.loaded is not None
        device = device_of(self.loaded.pipeline)
        measured = load_throughput(self.queue.path.parent, name_of(device), recipe, self.chosen.plan)
        past = parse_timed_videos(self.queue.finished())
        return estimate_seconds(recipe, device.type, past, measured, self.chosen.plan).value

    def next_plan(self, claim: Claim) -> MemoryPlan | None:
        """Return the plan to try after the last one chosen, or None."""
        if self.chosen.is_forced:
            return None
        recipe = Recipe.model_validate_json(claim.recipe)
        on_gpu = claim.device != "cpu" and self.device != "cpu"
        return next_plan(self.chosen.plan, on_gpu, find_model(recipe.model), recipe)

    def free(self) -> None:
        """Release the loaded pipeline."""
        self.loaded, self.loaded_for, self.weights = None, (), ()
        free_memory()
