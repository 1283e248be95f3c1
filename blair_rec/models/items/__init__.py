"""The item side of a model: a module that replaces RecBole's item embedding, one class for each kind (plain torch)."""

from blair_rec.models.items.base import ItemSide
from blair_rec.models.items.build import build_items, controlled, item_kind

__all__ = ["ItemSide", "build_items", "controlled", "item_kind"]
