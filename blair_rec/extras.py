"""Libraries that only some jobs need: an error that names the pip command where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from blair_rec.errors import MissingExtra


def need(library: str, extra: str, what_for: str) -> None:
    """Make sure that `library` can be imported, before the work begins.

    Raises:
        MissingExtra: it is not installed; the message names the extra that brings it.
    """
    if find_spec(library) is None:
        raise MissingExtra(f"{what_for} needs {library}, which is not installed; pip install 'blair-rec[{extra}]'")
