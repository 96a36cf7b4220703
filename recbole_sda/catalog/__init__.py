"""What is known of the items: their text, their pictures, and which of the two each item has."""

from recbole_sda.catalog.demo import ensure_demo, write_demo
from recbole_sda.catalog.images import open_image
from recbole_sda.catalog.items import Catalog, is_text_field, item_tokens

__all__ = ["Catalog", "ensure_demo", "is_text_field", "item_tokens", "open_image", "write_demo"]
