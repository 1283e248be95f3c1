"""Does item text help a sequential recommender? BLaIR text vectors inside RecBole, and a fair comparison."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blair_rec.serve.recommender import export_vectors as export_vectors
    from blair_rec.serve.recommender import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "export_vectors", "load"]


def __dir__() -> list[str]:
    """The public names, those that are not imported yet included, and the parts that are imported."""
    return sorted({*__all__, *(name for name, value in globals().items() if isinstance(value, ModuleType))})


def __getattr__(name: str) -> Any:
    """What is imported on first use: `import blair_rec` alone has to stay instant."""
    if name in __all__:
        from blair_rec.serve import recommender as api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
