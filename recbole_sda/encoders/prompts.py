"""What the model is told about an item: one line a modality, never two modalities in one prompt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recbole_sda.errors import SDAError

# What the fields of `Prompts` may use in braces; the line of texts has {fields} on top.
LINE_WORDS = ("domain", "modality")
FIELD_WORDS = ("name", "value")
TEXT_ONLY = ("text", "field", "value_chars", "field_templates", "field_chars")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Templates of the passes (the wording of the defaults is that of arXiv 2512.06883's public code).

    Args:
        domain: what the items are, for example ``product`` or ``movie``; fills ``{domain}``.
        instruction: a line before every pass; empty leaves it out.
        image, audio, vectors: the line that goes with an item's picture, recording or vector.
        text: the line that goes with the fields; ``{fields}`` is where they stand.
        field: one field, from ``{name}`` and ``{value}``; a missing field is left out.
        field_templates: field name → a template of its own.
        value_chars: each value is cut to so many characters.
        field_chars: field name → a limit of its own.

    All lines may use ``{domain}`` and ``{modality}``, the modality's name.
    """

    domain: str
    instruction: str
    image: str
    text: str
    audio: str
    vectors: str
    field: str
    field_templates: Mapping[str, str]
    value_chars: int
    field_chars: Mapping[str, int]

    def __post_init__(self):
        for name in ("instruction", "image", "audio", "vectors"):
            _try_format(f"prompt_{name}", getattr(self, name), LINE_WORDS)
        _try_format("prompt_text", self.text, (*LINE_WORDS, "fields"))
        _try_format("prompt_field", self.field, FIELD_WORDS)
        _check_mapping("prompt_field_templates", self.field_templates, "{price: 'costs {value};'}")
        _check_mapping("prompt_field_chars", self.field_chars, "{description: 400}")
        for field, template in self.field_templates.items():
            _try_format(f"prompt_field_templates[{field!r}]", template, FIELD_WORDS)
        _check_chars("prompt_value_chars", self.value_chars)
        for field, chars in self.field_chars.items():
            _check_chars(f"prompt_field_chars[{field!r}]", chars)

    def line(self, kind: str, modality: str, fields: Mapping[str, str], clean: Callable[[str], str] = str) -> str:
        """What stands in the user's turn.

        Args:
            kind: ``text``, ``image``, ``audio`` or ``vectors``.
            fields: the item's non-empty fields, name → value; only texts read them.
            clean: what names and values, which others have written, go through after they are cut.
        """
        words = {"domain": self.domain, "modality": modality}
        if kind == "text":
            words["fields"] = " ".join(
                self.field_templates.get(name, self.field).format(
                    name=clean(name), value=clean(value[: self.field_chars.get(name, self.value_chars)])
                )
                for name, value in fields.items()
            )
        line = getattr(self, kind).format(**words)
        return f"{self.instruction.format(**words)}\n{line}" if self.instruction else line

    def settings(self, kind: str) -> dict:
        """What a pass of this kind depends on, for digests."""
        names = ("domain", "instruction", *(TEXT_ONLY if kind == "text" else (kind,)))
        values = {name: getattr(self, name) for name in names}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def _try_format(key: str, template: str, names: tuple[str, ...]) -> None:
    try:
        template.format(**dict.fromkeys(names, ""))
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        listed = ", ".join(f"{{{name}}}" for name in names)
        raise SDAError(f"{key}={template!r} cannot be filled in ({error!r}); it may use {listed}") from error


def _check_mapping(key: str, value: object, example: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise SDAError(f"{key}={value!r} does not map names of fields to anything; give for example {example}")


def _check_chars(key: str, chars: object) -> None:
    if not isinstance(chars, int) or isinstance(chars, bool):
        raise SDAError(f"{key}={chars!r} is no whole number of characters; give 1 or more")
    if chars < 1:
        raise SDAError(f"{key}={chars} would cut everything; give 1 or more")
