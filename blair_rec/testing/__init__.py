"""Test classes to inherit, which check the contracts of item sides and scorers, for our own kinds and for yours.

pytest finds the inherited tests. Nothing here imports pytest: any runner works that calls the methods whose names begin
with `test_`.

    from blair_rec.testing import ItemsContract, ScorerContract

    class TestMySide(ItemsContract):
        kind = MySide

    class TestMyScorer(ScorerContract):
        kind = MyScorer
"""

from blair_rec.testing.items import ItemsContract
from blair_rec.testing.scorers import ScorerContract

__all__ = ["ItemsContract", "ScorerContract"]
