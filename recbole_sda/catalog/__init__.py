"""What is known of the items: their text, pictures, recordings and vectors, and which of these each item has."""

from recbole_sda.catalog.audio import Audio
from recbole_sda.catalog.demo import ensure_demo, write_demo
from recbole_sda.catalog.images import open_image
from recbole_sda.catalog.items import Catalog, is_text_field, item_tokens
from recbole_sda.catalog.skipped import Skipped, read_skipped, write_skipped

__all__ = [
    "Audio",
    "Catalog",
    "Skipped",
    "ensure_demo",
    "is_text_field",
    "item_tokens",
    "open_image",
    "read_skipped",
    "write_demo",
    "write_skipped",
]
