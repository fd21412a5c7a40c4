"""Leave a concept open in a template: replace the declared words, and collapse brackets of such words."""

from wantui.generic_words import GenericWord, GenericWordsError
from wantui.prompts.parse import Alternatives, LiteralText, MarkedText, Template, TemplateNodes


def generalise_template(template: Template, generic_word: GenericWord) -> str:
    """Return the template with the words of a concept replaced by the generic word.

    A bracket whose options become equal is replaced by their text: "a red [circle|ring]" becomes "a red shape". Other
    brackets stay, so that they vary together with the brackets of the original template.

    Raises:
        GenericWordsError: the template has none of the words, or the options of a bracket with some become different.
    """
    text, has_words = _generalise_nodes(template.source, template.nodes, generic_word)
    if not has_words:
        raise GenericWordsError(
            f"the template has none of the words {', '.join(generic_word.words[:8])} of {generic_word.generic!r}. "
            f"Declare the words that it varies: --generic 'WORD|WORD: {generic_word.generic}'"
        )
    return text


def _generalise_nodes(source: str, nodes: TemplateNodes, generic_word: GenericWord) -> tuple[str, bool]:
    """Return the text of nodes with the words replaced, and whether any word was replaced."""
    parts, has_words = [], False
    for node in nodes:
        written = source[node.span[0] : node.span[1]]
        if isinstance(node, LiteralText):
            part, part_has_words = generic_word.generalise(written), bool(generic_word.find_words(written))
        elif isinstance(node, MarkedText):
            content, part_has_words = _generalise_nodes(source, node.content, generic_word)
            last_end = node.content[-1].span[1] if node.content else node.span[0] + 1
            part = f"({content}{source[last_end : node.span[1]]}"
        else:
            part, part_has_words = _generalise_bracket(source, node, generic_word)
        parts.append(part)
        has_words |= part_has_words
    return "".join(parts), has_words


def _generalise_bracket(source: str, bracket: Alternatives, generic_word: GenericWord) -> tuple[str, bool]:
    options = [_generalise_nodes(source, option, generic_word) for option in bracket.options]
    texts = list(dict.fromkeys(text for text, _ in options))
    if not any(has_words for _, has_words in options):
        return source[bracket.span[0] : bracket.span[1]], False
    if len(texts) > 1:
        raise GenericWordsError(
            f"the options of the bracket {source[bracket.span[0] : bracket.span[1]]} still differ after their words "
            f"are replaced: {', '.join(texts[:4])}. Declare the word of each option: --generic 'WORD|WORD: "
            f"{generic_word.generic}'"
        )
    return texts[0], True
