"""The items that a model knows, by token and by id, which of them may be recommended, and which are bought most."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from blair_rec.errors import ConfigError, UnknownItems, agreed, first_of

OnUnknown = Literal["error", "skip"]
ON_UNKNOWN: tuple[OnUnknown, ...] = ("error", "skip")


class KnownItems:
    """Item tokens by item id, with the events of each where they are known."""

    def __init__(self, tokens: Sequence[str], counts: np.ndarray | None = None) -> None:
        """
        Args:
            tokens: [N]; the first one is the padding's.
            counts: [N] events of each; None where they are not known. Items behind them have none.
        """
        self.tokens = tuple(tokens)
        self.id_of: Mapping[str, int] = {token: item_id for item_id, token in enumerate(self.tokens) if item_id > 0}
        self._counts = None
        if counts is not None:
            self._counts = np.zeros(len(self.tokens), dtype=np.int64)
            self._counts[: len(counts)] = counts

    def __len__(self) -> int:
        """N, the padding included."""
        return len(self.tokens)

    def ids(self, tokens: Iterable[str]) -> np.ndarray:
        """[n] int64 item ids; 0 for a token that is not known."""
        return np.fromiter((self.id_of.get(token, 0) for token in tokens), dtype=np.int64)

    def candidates(
        self, allow: Iterable[str] | None, deny: Iterable[str], unknown: OnUnknown
    ) -> tuple[np.ndarray, list[str]]:
        """What may be recommended: [C] int64 ids, ascending; and the given tokens that are not known, and were skipped.

        Raises:
            UnknownItems: tokens that are not known, where `unknown` is error.
            ConfigError: nothing is left; or a string or another kind of token is given.
        """
        skipped: list[str] = []
        chosen = np.ones(len(self), dtype=bool) if allow is None else np.zeros(len(self), dtype=bool)
        for tokens, value in ((allow, True), (deny, False)):
            if tokens is not None:
                listed = as_tokens(tokens, "allow" if value else "deny")
                ids = self.ids(listed)
                skipped += [token for token, item_id in zip(listed, ids.tolist(), strict=True) if item_id == 0]
                if skipped and unknown == "error":
                    raise UnknownItems(skipped, len(listed))
                chosen[ids] = value
        chosen[0] = False
        found = np.flatnonzero(chosen)
        if len(found) == 0:
            raise ConfigError("no item is left to recommend; check the allowed and the denied items")
        return found, skipped

    def most_popular(self, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The candidates by falling number of events, then by id, and these numbers: two of [C] int64.

        Raises:
            ConfigError: the numbers of events are not known.
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
    listed = list(tokens)
    if wrong := [token for token in listed if not isinstance(token, str)]:
        raise ConfigError(
            f"{name}: item tokens are text, but {len(wrong)} of {len(listed)} {agreed(len(wrong), 'are')} not (first: "
            f"{wrong[0]!r})"
        )
    return listed


def check_unknown(unknown: str) -> None:
    """
    Raises:
        ConfigError: `unknown` is neither error nor skip.
    """
    if unknown not in ON_UNKNOWN:
        raise ConfigError(f"unknown is {unknown!r}; known: {first_of(ON_UNKNOWN)}")


def least_left(candidates: Collection[int], histories: Iterable[np.ndarray]) -> int:
    """How many candidates are left for the history that holds most of them."""
    allowed = set(candidates)
    taken = max((len(allowed.intersection(ids.tolist())) for ids in histories), default=0)
    return len(allowed) - taken
