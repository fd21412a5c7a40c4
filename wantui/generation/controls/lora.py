"""Check that the adapters of a recipe are merged into the weights; `wantui.generation.adapters` merges them."""

from wantui.controls.lora import LoraRequest
from wantui.generation.adapters import describe_merged_adapters
from wantui.generation.preparation import DenoisingPreparation


def apply_control(request: LoraRequest, preparation: DenoisingPreparation) -> None:
    """Check that the pipeline was loaded with the adapters and strengths of the request.

    Raises:
        RuntimeError: the weights contain other adapters.
    """
    merged, requested = describe_merged_adapters(preparation.pipeline), request.describe_merged_files()
    if merged != requested:
        raise RuntimeError(f"the weights contain the adapters {merged}, but the recipe requests {requested}")
