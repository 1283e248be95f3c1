"""Check for libraries that only some jobs need; the error names the pip command."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from blair_rec.errors import MissingExtra


def need(library: str, extra: str, what_for: str) -> None:
    """Import `library`, before the work begins.

    Raises:
        MissingExtra: it is not installed, and the message names the extra that installs it; or it can't be loaded.
    """
    if find_spec(library) is None:
        cure = f"run `pip install 'blair-rec[{extra}]'`"
        raise MissingExtra(f"{what_for} needs {library}, which is not installed; {cure}")
    try:
        import_module(library)
    except (ImportError, OSError) as error:  # a library of the system is missing
        hint = "; on Debian and Ubuntu: apt-get install libgomp1" if library == "lightgbm" else ""
        raise MissingExtra(
            f"{what_for} needs {library}, which is installed but can't be loaded ({error}){hint}"
        ) from error
