"""What a model card has to say besides PEFT's own text: plain PEFT does not know MoDA until we are imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HEADING = "## How to load this MoDA adapter"


def write_card(folder: Path, modalities: Sequence[str]) -> None:
    """Add the section to the folder's README.md, once; PEFT writes none for a named adapter."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if HEADING not in text:
        path.write_text(f"{text}\n\n{_section(modalities)}".lstrip(), encoding="utf-8")


def _section(modalities: Sequence[str]) -> str:
    names = ", ".join(f"`{name}`" for name in modalities)
    return f"""{HEADING}

`import recbole_sda.adapters` comes first: it makes the peft_type `MODA` known to PEFT.
Every pass then says which modality it serves: {names}.

```python
import recbole_sda.adapters
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
with recbole_sda.adapters.routing("{modalities[0]}"):
    outputs = model(**inputs)
```
"""
