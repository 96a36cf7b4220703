"""Item texts that spell a model's control tokens, such as `<|image_pad|>`, made to mean what they say."""

import re
from collections.abc import Collection


class SpecialTokens:
    """A model's control tokens, and how to take their power from them in a text that others have written.

    A token is broken by a space after its first character. Nothing is left out, and no model takes
    `< |image_pad|>` for the token. Upper and lower case count as the same, since some tokenizers fold them.
    """

    def __init__(self, tokens: Collection[str]):
        self.tokens = sorted({t for t in tokens if len(t) > 1 and not t.isspace()}, key=lambda t: (-len(t), t))
        alternatives = "|".join(map(re.escape, self.tokens))
        self._pattern = re.compile(alternatives or "(?!)", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """The text without control tokens, and with a question mark for what UTF-8 cannot say."""
        text = text.encode("utf-8", "replace").decode()
        while self._pattern.search(text):
            text = self._pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text


def control_tokens(tokenizer, processor, rendered: str) -> set[str]:
    """The tokens that a text must not contain.

    Args:
        rendered: prompts as the chat template writes them: what it uses of the tokenizer's added tokens counts
            as a control token, also where the tokenizer does not call it special.
    """
    added = tokenizer.added_tokens_decoder.values()
    placeholders = [getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio")]
    return {
        *tokenizer.all_special_tokens,
        *(token.content for token in added if token.special or token.content in rendered),
        *(token for token in placeholders if token),
    }
