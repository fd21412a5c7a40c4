"""Find the text positions and steps of the bends of a recipe; the blocks are bent by `bent_attention`."""

from wantui.controls.attention_bending import (
    ALL_WORDS,
    AttentionBendingRequest,
    BendRequest,
    describe_missing_words,
    find_word_spans,
)
from wantui.errors import UserError
from wantui.generation.bent_attention import ResolvedBend
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.token_spans import tokenize_prompt
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning import PromptMark
from wantui.samplers import compute_noise_levels


class BentWordMissingError(UserError):
    """Raised for a bend whose word the prompt lacks."""


def apply_control(request: AttentionBendingRequest, preparation: DenoisingPreparation) -> None:
    """Prepare the bends of both passes; bends that change nothing are left out.

    A bend that changes no map still renormalises the rows of earlier bends, as it does for any strength above 0.

    Raises:
        BentWordMissingError: a prompt lacks a word that a bend requires.
        MarkOutOfRangeError: the model does not read a word.
    """
    recipe = preparation.recipe
    for missing_word in describe_missing_words(request, recipe.prompt, recipe.marks, recipe.negative_prompt):
        raise BentWordMissingError(missing_word)
    prompts_by_context = {"cond": (recipe.prompt, recipe.marks)}
    if preparation.negative_prompt_embeds is not None:
        prompts_by_context["uncond"] = (recipe.negative_prompt, ())
    for context, (prompt, marks) in prompts_by_context.items():
        bends: list[ResolvedBend] = []
        for bend in request.bends:
            renormalises_earlier = bend.renormalise and any(not earlier.request.renormalise for earlier in bends)
            if not bend.acts_on_pass(context) or (bend.is_identity and not renormalises_earlier):
                continue
            if (resolved_bend := _resolve_bend(bend, preparation, prompt, marks)) is not None:
                bends.append(resolved_bend)
        if bends:
            preparation.bends_by_context[context] = tuple(bends)


def _resolve_bend(
    bend: BendRequest, preparation: DenoisingPreparation, prompt: str, marks: tuple[PromptMark, ...]
) -> ResolvedBend | None:
    """Return a bend with the text positions that it applies to; None if the text has no such position."""
    recipe, tokenizer = preparation.recipe, preparation.pipeline.tokenizer
    word_marks = tuple(
        PromptMark(text=prompt[start:end], start=start, end=end)
        for word in bend.words
        if word != ALL_WORDS
        for start, end in find_word_spans(prompt, marks, word)
    )
    tokenized_prompt = tokenize_prompt(tokenizer, prompt, word_marks)
    tokens = {token for word in tokenized_prompt.words for token in word.token_positions}
    if ALL_WORDS in bend.words:
        tokens.update(range(tokenized_prompt.token_count))
    if not tokens and not (bend.padding and tokenized_prompt.token_count < TEXT_POSITION_COUNT):
        return None
    noise_levels = compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift)
    return ResolvedBend(
        bend,
        tuple(sorted(tokens)),
        ALL_WORDS in bend.words and bend.padding,
        tuple(bend.find_active_evaluations(noise_levels, recipe.steps)),
    )
