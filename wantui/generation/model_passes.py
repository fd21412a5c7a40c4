"""The passes of a model evaluation through a transformer, on one device or on two."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from wantui.generation.denoising_state import DenoisingInputs
from wantui.generation.guidance_split import GuidanceSplit
from wantui.generation.pass_cache import PassCache


@dataclass(frozen=True)
class PassInput:
    """Input of one pass through a transformer, on its device."""

    context: str
    """Name of the pass, cond or uncond."""
    latents: Tensor
    timesteps: Tensor
    text_embeds: Tensor


def start_second_pass(
    split: GuidanceSplit,
    transformer: Any,
    run_pass: Callable[[Any, PassCache, PassInput], Tensor],
    conditional_input: PassInput,
    text_embeds: Tensor,
) -> Future[Tensor]:
    """Start the unconditional pass of a step on the second GPU."""
    split.pass_cache.start_step(False)
    try:
        unconditional_input = PassInput(
            "uncond",
            split.copy_tensor(conditional_input.latents),
            split.copy_tensor(conditional_input.timesteps),
            split.copy_text(text_embeds),
        )
    except RuntimeError as error:  # it is lost, or its memory is full: `finish_pass` tells them apart
        failed_pass: Future[Tensor] = Future()
        failed_pass.set_exception(error)
        return failed_pass
    return split.start_pass(partial(run_pass, split.find_copy(transformer), split.pass_cache, unconditional_input))


def evaluate_model(
    inputs: DenoisingInputs, evaluation_index: int, transformer: Any, pass_cache: PassCache, pass_input: PassInput
) -> Tensor:
    """Return the output of one pass, [1, channels, frames, height, width]. Any thread may call this."""
    cache_context = transformer.cache_context(
        pass_input.context,
        step_index=evaluation_index,
        sigma=inputs.sigmas[evaluation_index],
        num_inference_steps=len(inputs.timesteps),
    )
    text_pass = pass_cache.run_pass(transformer, pass_input.context, pass_input.text_embeds)
    with cache_context, text_pass, ExitStack() as exit_stack:
        for hook in inputs.hooks_by_capture.values():
            exit_stack.enter_context(hook.observe_evaluation(pass_input.context, evaluation_index, transformer))
        output: Tensor = transformer(
            hidden_states=pass_input.latents,
            timestep=pass_input.timesteps,
            encoder_hidden_states=pass_input.text_embeds,
            return_dict=False,
        )[0]
        return output
