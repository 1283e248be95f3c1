"""What every item side and every scorer has to keep, as test classes to inherit: for our own kinds and for yours.

pytest finds the tests of a class that inherits one; nothing here imports pytest, and any runner that calls the methods
whose name begins with `test_` will do.

    from blair_rec.testing import ItemsContract, ScorerContract

    class TestMySide(ItemsContract):
        kind = MySide

    class TestMyScorer(ScorerContract):
        kind = MyScorer
"""

from blair_rec.testing.items import ItemsContract
from blair_rec.testing.scorers import ScorerContract

__all__ = ["ItemsContract", "ScorerContract"]
