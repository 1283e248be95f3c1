"""Does item text help a sequential recommender? BLaIR text vectors inside RecBole, and a fair comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blair_rec.api import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`blair_rec.load`, imported on first use: `import blair_rec` alone has to stay instant."""
    if name == "load":
        from blair_rec.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
