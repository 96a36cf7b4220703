"""What the model is told about an item: one user turn for its picture, one for its text, never both."""

from collections.abc import Mapping
from dataclasses import dataclass

from recbole_sda.errors import SDAError


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Templates of the two passes (the wording of arXiv 2512.06883's public code).

    Args:
        domain: what the items are, for example ``product`` or ``movie``; fills ``{domain}``.
        image: the line that goes with the picture.
        text: the line that goes with the fields; ``{fields}`` is where they stand.
        field: one field, from ``{name}`` and ``{value}``; a missing field is left out.
        value_chars: each value is cut to so many characters.
    """

    domain: str
    image: str
    text: str
    field: str
    value_chars: int

    def __post_init__(self):
        _try_format("prompt_image", self.image, domain="")
        _try_format("prompt_text", self.text, domain="", fields="")
        _try_format("prompt_field", self.field, name="", value="")
        if self.value_chars < 1:
            raise SDAError(f"prompt_value_chars={self.value_chars} would cut everything; give 1 or more")

    def message(self, modality: str, fields: Mapping[str, str]) -> list[dict]:
        """One user turn in the chat format of transformers.

        Args:
            modality: ``image`` or ``text``.
            fields: the item's non-empty fields, name → value; the image pass does not read them.
        """
        if modality == "image":
            line = self.image.format(domain=self.domain)
            content = [{"type": "text", "text": line}, {"type": "image"}]
        else:
            listed = " ".join(
                self.field.format(name=name, value=value[: self.value_chars]) for name, value in fields.items()
            )
            content = [{"type": "text", "text": self.text.format(domain=self.domain, fields=listed)}]
        return [{"role": "user", "content": content}]

    def settings(self, modality: str) -> dict:
        """What this modality's pass depends on, for digests."""
        names = ("domain", "image") if modality == "image" else ("domain", "text", "field", "value_chars")
        return {name: getattr(self, name) for name in names}


def _try_format(key: str, template: str, **fields: str) -> None:
    try:
        template.format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        names = ", ".join(f"{{{name}}}" for name in fields)
        raise SDAError(f"{key}={template!r} cannot be filled in ({error!r}); it may use {names}") from error
