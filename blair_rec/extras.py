"""Check for libraries that only some jobs need; the error names the pip command."""

from __future__ import annotations

from importlib.util import find_spec

from blair_rec.errors import MissingExtra

SECOND_STAGE = ("rerank", "a second stage (rerank)")
"""Extra and purpose of LightGBM."""


def need(library: str, extra: str, what_for: str) -> None:
    """Check that `library` can be imported, before the work begins.

    Raises:
        MissingExtra: it is not installed; the message names the extra that installs it.
    """
    if find_spec(library) is None:
        cure = f"run `pip install 'blair-rec[{extra}]'`"
        raise MissingExtra(f"{what_for} needs {library}, which is not installed; {cure}")
