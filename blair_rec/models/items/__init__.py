"""The item side of a model: what stands where RecBole's item embedding stood, a class for each kind (plain torch)."""

from blair_rec.models.items.base import ItemSide
from blair_rec.models.items.build import KINDS, build_items, controlled

__all__ = ["KINDS", "ItemSide", "build_items", "controlled"]
