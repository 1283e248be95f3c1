"""`blair_rec.load(run_dir).recommend(histories, k)`: a finished run, used from Python."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch

from blair_rec.device import AUTO
from blair_rec.errors import BadRun, ConfigError, StoreError, UnknownItems, check_whole, out_of
from blair_rec.evaluate.runs.run_files import HISTORIES_FILE, read_arrays
from blair_rec.experiment.loading import Loaded, load_model
from blair_rec.lines.arrays import load_array
from blair_rec.models.scorer import Scorer
from blair_rec.registry import trusting
from blair_rec.serve.export.factor_files import read_factors
from blair_rec.serve.export.factored import scorers_in, tables_in
from blair_rec.serve.given import GivenHistories
from blair_rec.serve.items import KnownItems, OnUnknown, check_unknown
from blair_rec.serve.topk import HistoryIds, TopK
from blair_rec.text.store.embeddings import ABOUT_USE, EmbeddingStore, open_store

COUNTS_FILE = "item_counts.npy"
"""Where a refit keeps the events of each item."""


class Recommendation(NamedTuple):
    """An item and its score. Scores can only be compared within one history."""

    item_token: str
    score: float

    @property
    def by_popularity(self) -> bool:
        """Whether no item of the history was known, so that this is one of the most popular items."""
        return False


class PopularItem(Recommendation):
    """One of the most popular items; its score is how often it was bought."""

    __slots__ = ()

    @property
    def by_popularity(self) -> bool:
        """Always True: no item of the history was known."""
        return True


class Recommender:
    """A trained model and its items."""

    def __init__(
        self, model: Scorer, item_tokens: Sequence[str], width: int, item_counts: np.ndarray | None = None
    ) -> None:
        """
        Args:
            item_tokens: [N] by item id; the first one is the padding's.
            width: the most items of a history that the model reads.
            item_counts: [N] number of events of each item by item id, for histories without a known item.
        """
        model.eval()
        self._model = model
        self.known = KnownItems(item_tokens, item_counts)
        self.item_tokens = self.known.tokens[1:]
        """Every item that can be recommended."""
        self._width = width

    @overload
    def recommend(  # type: ignore[overload-overlap]
        self,
        histories: Mapping[str, Iterable[str]],
        k: int = ...,
        *,
        exclude_history: bool = ...,
        batch_size: int = ...,
        allow: Iterable[str] | None = ...,
        deny: Iterable[str] = ...,
        unknown: OnUnknown = ...,
    ) -> dict[str, list[Recommendation]]: ...
    @overload
    def recommend(
        self,
        histories: Iterable[Iterable[str]],
        k: int = ...,
        *,
        exclude_history: bool = ...,
        batch_size: int = ...,
        allow: Iterable[str] | None = ...,
        deny: Iterable[str] = ...,
        unknown: OnUnknown = ...,
    ) -> list[list[Recommendation]]: ...
    def recommend(
        self,
        histories: Any,
        k: int = 10,
        *,
        exclude_history: bool = True,
        batch_size: int = 1024,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        unknown: OnUnknown = "error",
    ) -> Any:
        """Return the k best next items for each history of item tokens.

        A model reads the newest items of a history, as many as fit into its window. Items with equal scores are in the
        order of `item_tokens`.

        Args:
            histories: an iterable of histories, each with the oldest item first; or a NumPy array with a history in
                each row; or a mapping from users to histories; or a frame of pandas or Polars. A frame has the columns
                user_id, item_id and optionally timestamp, or user_id and history.
            k: the number of items for each history; fewer where fewer are left.
            exclude_history: never recommend an item of the history again.
            batch_size: histories that are scored together; it changes only speed and memory.
            allow, deny: item tokens. `allow` allows no other items; `deny` excludes these.
            unknown: how to treat unknown item tokens: error, or skip. With skip, a history without a known item gets
                the most popular items, each as a PopularItem.

        Returns:
            For each history a list of Recommendation (item_token, score), best first. For a mapping or a frame, these
            lists are in a dict by user.

        Raises:
            UnknownItems: unknown tokens, where `unknown` is error.
            ConfigError: an empty history, or k is below 1.
            ScoringError: scores that are not a number.
        """
        check_unknown(unknown)
        given = GivenHistories(histories)
        candidates, _ = self.known.candidates(allow, deny, unknown)
        ids = self._ids(given, unknown)
        check_whole("k", k, least=1)
        check_whole("batch_size", batch_size, least=1)
        k = min(k, len(candidates))
        lengths = np.array([len(one) for one in ids], dtype=np.int64)
        read = np.flatnonzero(lengths)
        found: list[list[Recommendation]] = [[] for _ in ids]
        if len(read) < len(ids):
            items, events = self.known.most_popular(candidates)
            pairs = zip(items[:k].tolist(), events[:k].tolist(), strict=True)
            popular = [PopularItem(self.known.tokens[item], float(count)) for item, count in pairs]
            found = [list(popular) for _ in ids]
        if len(read):
            whole = HistoryIds(np.concatenate([ids[row] for row in read]), lengths[read])
            with self.top(candidates).ready(len(self.known)) as top:
                parts = [top.best(part, k, exclude_history) for part in whole.split(batch_size)]
            rows = zip(
                read.tolist(),
                (row for part in parts for row in part.items.tolist()),
                (row for part in parts for row in part.scores.tolist()),
                strict=True,
            )
            for row, items_of, scores_of in rows:
                found[row] = [
                    Recommendation(self.known.tokens[item], score)
                    for item, score in zip(items_of, scores_of, strict=True)
                    if item > 0
                ]
        return found if given.users is None else dict(zip(given.users, found, strict=True))

    def top(self, candidates: np.ndarray) -> TopK:
        """Return a function that ranks `candidates` (ids, ascending) for many histories of item ids."""
        return TopK(self._model, self._width, candidates)

    def item_vectors(self) -> np.ndarray:
        """Return [items, D] float32 in the order of `item_tokens`. Inner products with `user_vectors` rank the items.

        The vectors fit into one nearest-neighbour index. An ensemble has its members' vectors side by side.

        Raises:
            ConfigError: scores that are not inner products, such as a Markov chain's.
        """
        self._check_vectors()
        with torch.no_grad():
            vectors: np.ndarray = self._model.item_matrix()[1:].float().cpu().numpy()
        return vectors

    @torch.no_grad()
    def user_vectors(self, histories: Iterable[Iterable[str]], batch_size: int = 1024) -> np.ndarray:
        """Return [histories, D] float32: for each history of item tokens the query for a search in `item_vectors`.

        A search may also retrieve items of the history. Inner products can only be compared within one history.

        Raises:
            UnknownItems: unknown tokens.
            ConfigError: an empty history, or scores that are not inner products.
        """
        self._check_vectors()
        check_whole("batch_size", batch_size, least=1)
        ids = self._ids(GivenHistories(histories), "error")
        if not ids:
            return np.zeros((0, self.item_vectors().shape[1]), np.float32)
        whole = HistoryIds(np.concatenate(ids), np.array([len(one) for one in ids]))
        top = TopK(self._model, self._width)
        with self._model.shared_items():
            parts = [self._model.user_vectors(top.interaction(part)).float().cpu() for part in whole.split(batch_size)]
        return torch.cat(parts).numpy()

    def _ids(self, given: GivenHistories, unknown: OnUnknown) -> list[np.ndarray]:
        """Return the item ids of each history, without unknown items.

        Raises:
            UnknownItems, ConfigError: unknown items, or histories without any, where they are an error.
        """
        if unknown == "error" and (empty := sum(len(history) == 0 for history in given.tokens)):
            raise ConfigError(
                f"{out_of(empty, len(given), 'history', 'are', 'histories')} empty; a next item needs at least one"
            )
        ids = [self.known.ids(history) for history in given.tokens]
        if unknown == "error" and any((one == 0).any() for one in ids):
            missing = [
                token
                for history, of_history in zip(given.tokens, ids, strict=True)
                for token, item_id in zip(history, of_history.tolist(), strict=True)
                if item_id == 0
            ]
            raise UnknownItems(missing, sum(map(len, given.tokens)))
        return [one[one > 0] for one in ids]

    def _check_vectors(self) -> None:
        if self._model.scores_by_product:
            return
        parts, tables = scorers_in(self._model), tables_in(self._model)
        names = {type(part).__name__ for part in parts}
        hint = ""
        if all(part.scores_by_product or part in tables for part in parts):
            rules = " and ".join(sorted({type(table).__name__ for table in tables}))
            hint = (
                f". blair_rec.export_vectors(RUN, OUT, rules_rank=512) approximates {rules} by vectors, and "
                "blair_rec.load(RUN, vectors=OUT) makes the queries for them"
            )
        raise ConfigError(
            f"the scores of {' and '.join(sorted(names))} are not all inner products of a user's vector and an "
            f"item's, so there are no vectors to search; `recommend` still works{hint}"
        )


def load(
    run_dir: str | Path,
    store: str | Path | None = None,
    extra_items: str | Path | None = None,
    device: str = AUTO,
    trusted: Collection[str] = (),
    vectors: str | Path | None = None,
) -> Recommender:
    """Load a finished run (the folder runs/VARIANT-SEED of a comparison) or a refit; return its Recommender.

        recommender = blair_rec.load("runs/mine/runs/text-1")
        recommender.recommend([["item-1", "item-7"]], k=10)  # the 10 best next items of each history, best first
        recommender.item_vectors()  # [items, D] float32, in the order of recommender.item_tokens

    Args:
        run_dir: the folder of the run or of the refit.
        store: the store of the items' text vectors, if it was moved after the run.
        extra_items: a store of more items, by the same encoder from the same fields. Its items that are not in the run
            and have a text can then be recommended and be part of histories. Nothing is trained.
        device: cpu, cuda, cuda:1, or auto: a GPU if there is one. A run made on one device loads on any other.
        trusted: every `module:Class` of the run that may be imported. No other code that a run names is imported.
            Names of installed packages' entry points need not be listed.
        vectors: a folder that `export_vectors` made from the run with `rules_rank`. Scores are then approximate: they
            come from these vectors. `user_vectors` makes the queries for them.

    Raises:
        CheckpointError: not a run's folder, or its store is missing (the message names the store's hash).
        BadRun: a file of the run is damaged.
        MissingEmbeddings, StoreError: the store doesn't cover the items, or the extra one used other settings; or
            `vectors` are of another run.
        ConfigError: extra items for a run that needs more of an item than its text; or a device or a package is
            missing.
        UntrustedCode: the run names a `module:Class` that is not `trusted`.
    """
    with trusting(trusted):
        loaded = load_model(Path(run_dir), store, device=device)
    item_tokens = loaded.item_tokens
    if extra_items is not None:
        item_tokens = item_tokens + _append_items(loaded, open_store(extra_items))
    if vectors is not None:
        loaded = read_factors(Path(vectors), Path(run_dir), loaded)
    return Recommender(loaded.model, item_tokens, loaded.width, item_counts_of(Path(run_dir)))


def item_counts_of(run_dir: Path) -> np.ndarray | None:
    """Return [N] int64: the events of each item id in the training of a run or refit; None without such a file.

    Raises:
        BadRun: the file is damaged.
    """
    if (run_dir / COUNTS_FILE).is_file():
        try:
            return np.array(load_array(run_dir / COUNTS_FILE), dtype=np.int64)
        except (OSError, ValueError) as error:
            raise BadRun(run_dir, COUNTS_FILE, f"can't be read: {error}") from error
    if not (run_dir / HISTORIES_FILE).is_file():
        return None
    return read_arrays(run_dir, HISTORIES_FILE).get("item_counts")


def _append_items(loaded: Loaded, extra: EmbeddingStore) -> list[str]:
    """Append the items of a store that are not in the run to its model; return their tokens."""
    known = set(loaded.item_tokens)
    rows = [row for row, token in enumerate(extra.item_tokens) if token not in known]
    for part in loaded.members or (loaded,):
        if part.store is not None and (differing := _different_settings(part.store, extra)):
            raise StoreError(
                f"{extra.path} was made with another {' and '.join(differing)} than the store the run was trained "
                "over; encode the extra items as those were"
            )
        part.model.append_items(extra.vectors[rows])
    return [extra.item_tokens[row] for row in rows]


def _different_settings(store: EmbeddingStore, other: EmbeddingStore) -> list[str]:
    """'encoder', 'template': what differs in how two stores were made."""
    encoders = [{k: v for k, v in made.encoder.items() if k not in ABOUT_USE} for made in (store, other)]
    differing = {"encoder": encoders[0] != encoders[1], "template": dict(store.template) != dict(other.template)}
    return [name for name, differs in differing.items() if differs]
