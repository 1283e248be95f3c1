"""The items of a model by token and by id: which ones may be recommended, and which ones have the most events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from blair_rec.errors import ConfigError, UnknownItems, agreed, first_of

OnUnknown = Literal["error", "skip"]
ON_UNKNOWN: tuple[OnUnknown, ...] = ("error", "skip")


class KnownItems:
    """Item tokens by item id, with the number of events of each if it is known."""

    def __init__(self, tokens: Sequence[str], counts: np.ndarray | None = None) -> None:
        """
        Args:
            tokens: [N]; the first one is the padding's.
            counts: [N] number of events of each; None if unknown. It may be shorter: later items have no events.
        """
        self.tokens = tuple(tokens)
        self.id_of: Mapping[str, int] = {token: item_id for item_id, token in enumerate(self.tokens) if item_id > 0}
        self._counts = None
        if counts is not None:
            self._counts = np.zeros(len(self.tokens), dtype=np.int64)
            self._counts[: len(counts)] = counts

    def __len__(self) -> int:
        """Return N, the padding included."""
        return len(self.tokens)

    def ids(self, tokens: Iterable[str]) -> np.ndarray:
        """Return [n] int64 item ids; 0 for an unknown token."""
        return np.fromiter((self.id_of.get(token, 0) for token in tokens), dtype=np.int64)

    def candidates(
        self,
        allow: Iterable[str] | None,
        deny: Iterable[str],
        unknown: OnUnknown,
        named: tuple[object, object] = ("allow", "deny"),
    ) -> tuple[np.ndarray, list[str]]:
        """Return the item ids that may be recommended, [C] int64 ascending, and the unknown tokens that were skipped.

        `named` says in errors where the allowed and the denied items come from.

        Raises:
            UnknownItems: unknown tokens, where `unknown` is error.
            ConfigError: no item is left; or a token is not text, or a string is given instead of a list.
        """
        skipped: list[str] = []
        chosen = np.ones(len(self), dtype=bool) if allow is None else np.zeros(len(self), dtype=bool)
        for tokens, value, name in ((allow, True, str(named[0])), (deny, False, str(named[1]))):
            if tokens is not None:
                listed = as_tokens(tokens, name)
                ids = self.ids(listed)
                skipped += [token for token, item_id in zip(listed, ids.tolist(), strict=True) if item_id == 0]
                if skipped and unknown == "error":
                    raise UnknownItems(skipped, len(listed), name)
                chosen[ids] = value
        chosen[0] = False
        found = np.flatnonzero(chosen)
        if len(found) == 0:
            raise ConfigError("no item is left to recommend; check the allowed and the denied items")
        return found, skipped

    def most_popular(self, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the candidates by falling number of events, then by id, and these numbers: two arrays [C] int64.

        Raises:
            ConfigError: the numbers of events are unknown.
        """
        if self._counts is None:
            raise ConfigError(
                "how often each item was bought is not known here, so a history without a known item can't be given "
                "the most popular ones; make the refit or the run again"
            )
        order = candidates[np.argsort(-self._counts[candidates], kind="stable")]
        return order, self._counts[order]


def as_tokens(tokens: Iterable[str], name: str) -> list[str]:
    """
    Raises:
        ConfigError: a string instead of a list of tokens, or tokens that are not text.
    """
    if isinstance(tokens, str):
        raise ConfigError(f"{name} is a string; give several item tokens, such as [{tokens!r}]")
    if not isinstance(tokens, Iterable):
        raise ConfigError(f"{name} is {tokens!r}; give a list of item tokens")
    listed = list(tokens)
    check_are_text(listed, f"{name}: ")
    return listed


def check_are_text(tokens: Sequence[object], where: str = "") -> None:
    """Check that item tokens are text.

    Raises:
        ConfigError: tokens that are not text.
    """
    if wrong := [token for token in tokens if not isinstance(token, str)]:
        raise ConfigError(
            f"{where}item tokens are text, but {len(wrong)} of {len(tokens)} {agreed(len(wrong), 'are')} not "
            f"(first: {wrong[0]!r})"
        )


def check_unknown(unknown: str) -> None:
    """
    Raises:
        ConfigError: `unknown` is neither error nor skip.
    """
    if unknown not in ON_UNKNOWN:
        raise ConfigError(f"unknown is {unknown!r}; known: {first_of(ON_UNKNOWN)}")
