"""The histories that `recommend` takes in Python: lists, other iterables, NumPy arrays, mappings, frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from blair_rec.errors import ConfigError
from blair_rec.serve.items import check_are_text


class GivenHistories:
    """Histories of item tokens, oldest first, in the order in which they were given."""

    def __init__(self, histories: Any) -> None:
        """
        Args:
            histories: an iterable of histories, each an iterable of item tokens; a NumPy array with a row for each; a
                mapping from users to histories; or a frame of pandas or Polars (see batch.histories.from_frame).

        Raises:
            ConfigError: a string instead of a list of histories or tokens, or tokens that are not text.
        """
        self.users: list[str] | None = None
        """The users of a mapping or a frame; None for other histories."""
        if is_frame(histories):
            from blair_rec.serve.batch.histories import from_frame

            histories = from_frame(histories)
        if isinstance(histories, Mapping):
            self.users = list(histories)
            histories = histories.values()
        if isinstance(histories, np.ndarray):
            histories = histories.tolist()
        if not isinstance(histories, Iterable):
            raise ConfigError(f"histories are {histories!r}; give a list of lists of item tokens: [['item', ...]]")
        listed = None if isinstance(histories, (str, bytes)) else list(histories)
        if listed is None or any(isinstance(history, (str, bytes)) for history in listed):
            raise ConfigError("histories are lists of item tokens; got a string, so wrap it: [['item', ...]]")
        if wrong := [history for history in listed if not isinstance(history, Iterable)]:
            raise ConfigError(f"histories are lists of item tokens; got {type(wrong[0]).__name__} in place of a list")
        self.tokens: list[Sequence[str]] = [
            history.tolist() if isinstance(history, np.ndarray) else list(history) for history in listed
        ]
        check_are_text([token for history in self.tokens for token in history])

    def __len__(self) -> int:
        return len(self.tokens)


def is_frame(given: object) -> TypeGuard[Any]:
    """Whether it is a table of pandas or Polars; neither has to be installed."""
    return type(given).__name__ == "DataFrame" and type(given).__module__.partition(".")[0] in ("pandas", "polars")
