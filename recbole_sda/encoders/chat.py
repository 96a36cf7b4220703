"""A line as a user's turn in the format that a chat model was trained on."""

from collections.abc import Callable

from recbole_sda.encoders.families import Family
from recbole_sda.errors import SDAError

Format = Callable[[str, str], str]  # kind and line → prompt, with one placeholder for a file

LINE, SPACED_LINE = "a line of text", " a line\nof text \n"


def prompt_format(processor, family: Family) -> Format:
    """How this model wants to be asked. A dual encoder wants the line as it is.

    Raises:
        SDAError: the model's folder has no chat template, or one that leaves out the text or the file.
    """
    if not family.shared:
        return lambda kind, line: line
    template = _find_template(processor, family)

    def user_turn(kind: str, line: str) -> str:
        content = [{"type": "text", "text": line}, *([] if kind == "text" else [{"type": kind}])]
        return processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False
        )

    _check_template(user_turn, processor, family)
    return _framed(user_turn, family)


def _find_template(processor, family: Family) -> str:
    template = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise SDAError(
            f"this {family.model_type} model has no chat template, so nothing says how it wants to be asked; use "
            "its instruction-tuned version, or put that one's chat_template.jinja into its folder"
        )
    return template


def _check_template(user_turn: Format, processor, family: Family) -> None:
    """Templates made for text alone drop files, or write a list's brackets in the place of its text."""
    for kind in family.kinds:
        prompt = user_turn(kind, LINE)
        wanted = {LINE: 1} if kind == "text" else {LINE: 1, getattr(processor, f"{kind}_token"): 1}
        found = {part: prompt.count(part) for part in wanted}
        if found != wanted or "'type'" in prompt:
            raise SDAError(
                f"this {family.model_type} model's chat template does not write a line and its {kind} once each: "
                f"{prompt!r}; put the chat_template.jinja of its multimodal version into its folder"
            )


def _framed(user_turn: Format, family: Family) -> Format:
    """The same without running the template an item, which would take longer than a small model does.

    A template that changes the line, by trimming it for example, runs every time.
    """
    frames = {kind: user_turn(kind, LINE).split(LINE) for kind in family.kinds}
    if any(user_turn(kind, SPACED_LINE) != SPACED_LINE.join(frame) for kind, frame in frames.items()):
        return user_turn
    return lambda kind, line: line.join(frames[kind])
