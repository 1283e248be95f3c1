"""Does item text help a sequential recommender? BLaIR text vectors inside RecBole, and a fair comparison.

The public names below are imported on first use, so `import blair_rec` alone is instant:

    board = blair_rec.compare("my.yaml", "runs/mine")        # train, evaluate, rank; resumes if interrupted
    tuned = blair_rec.tune("my.yaml", "runs/tuned")          # the same number of trials for every variant
    board = blair_rec.leaderboard("runs/mine")               # render a finished comparison again
    store = blair_rec.encode("items.jsonl", "stores/mine", fields=["title"])
    store = blair_rec.open_store("stores/mine")
    hits = blair_rec.TextSearch(store, items="items.jsonl").search(["a blue cup"], k=10)
    blair_rec.load("runs/mine/runs/text-1").recommend([["item-1", "item-7"]], k=10)
    blair_rec.export_vectors("runs/mine/runs/text-1", "vectors")
    blair_rec.refit("runs/mine", "models/mine")              # the winner, trained on the whole log
    blair_rec.recommend_file("models/mine", "best.parquet", histories="events.csv", k=10)
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blair_rec.deprecation import Renamed
    from blair_rec.experiment.board import leaderboard as leaderboard
    from blair_rec.experiment.compare import compare as compare
    from blair_rec.experiment.tune import tune as tune
    from blair_rec.serve.batch.recommend import recommend_file as recommend_file
    from blair_rec.serve.export.vectors import export_vectors as export_vectors
    from blair_rec.serve.recommender import load as load
    from blair_rec.serve.refit import refit as refit
    from blair_rec.text.encoding.encode import encode as encode
    from blair_rec.text.search.sentences import TextSearch as TextSearch
    from blair_rec.text.store.embeddings import open_store as open_store

__version__ = "0.1.0"

_HOMES = {
    "compare": "blair_rec.experiment.compare",
    "tune": "blair_rec.experiment.tune",
    "leaderboard": "blair_rec.experiment.board",
    "encode": "blair_rec.text.encoding.encode",
    "open_store": "blair_rec.text.store.embeddings",
    "TextSearch": "blair_rec.text.search.sentences",
    "load": "blair_rec.serve.recommender",
    "export_vectors": "blair_rec.serve.export.vectors",
    "recommend_file": "blair_rec.serve.batch.recommend",
    "refit": "blair_rec.serve.refit",
}
"""The module of each public name."""

_RENAMED: dict[str, Renamed] = {}
"""Old public names, which still work and warn."""

__all__ = [
    "TextSearch",
    "__version__",
    "compare",
    "encode",
    "export_vectors",
    "leaderboard",
    "load",
    "open_store",
    "recommend_file",
    "refit",
    "tune",
]


def __dir__() -> list[str]:
    """All public names, imported or not, and the submodules imported so far."""
    return sorted({*__all__, *(name for name, value in globals().items() if isinstance(value, ModuleType))})


def __getattr__(name: str) -> Any:
    """Import a public name on first use; an old name gives its successor, with a warning."""
    if name in _RENAMED:
        from blair_rec.deprecation import warn_of_name

        warn_of_name(name, _RENAMED[name])
        name = _RENAMED[name].successor
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
