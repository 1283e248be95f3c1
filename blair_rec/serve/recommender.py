"""`blair_rec.load(run_dir).recommend(histories, k)`: a finished run, used from Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from blair_rec.device import AUTO
from blair_rec.errors import ConfigError, OutputError, StoreError, UnknownItems
from blair_rec.experiment.loading import Loaded, load_model
from blair_rec.files import partial_of, put_in_place, refuse_foreign, work_beside
from blair_rec.models.scorer import Scorer
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.text.store.embeddings import EmbeddingStore, open_store

EXPORTED = ("items.npy", "items.json")
"""What export_vectors writes."""


class Recommendation(NamedTuple):
    """An item and what the model gives it; scores compare within one history alone."""

    item_token: str
    score: float


class Recommender:
    """A trained model and the items it knows."""

    def __init__(self, model: Scorer, item_tokens: Sequence[str], width: int) -> None:
        model.eval()
        self._model = model
        self.item_tokens = tuple(item_tokens[1:])
        """Every item that can be recommended."""
        self._id_of = {token: item_id for item_id, token in enumerate(item_tokens) if item_id > 0}
        self._width = width

    @torch.no_grad()
    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, exclude_history: bool = True, batch_size: int = 1024
    ) -> list[list[Recommendation]]:
        """The k best next items for each history of item tokens, oldest first; best first.

        With `exclude_history` an item of the history is never recommended again. A model reads the newest items of a
        history, as many as its window holds.

        Raises:
            UnknownItems: tokens that the model was not trained with.
            ConfigError: an empty history, or a k that is larger than the number of items left.
        """
        self._check(histories, k, exclude_history)
        found: list[list[Recommendation]] = []
        with self._model.shared_items():
            for begin in range(0, len(histories), batch_size):
                found += self._batch(histories[begin : begin + batch_size], k, exclude_history)
        return found

    def item_vectors(self) -> np.ndarray:
        """[items, D] float32, in the order of `item_tokens`: their inner product with `user_vectors` ranks the items.

        For one nearest-neighbour index. Of an ensemble these are its members' vectors side by side.

        Raises:
            ConfigError: scores that are no inner products, such as a Markov chain's.
        """
        self._check_vectors()
        with torch.no_grad():
            vectors: np.ndarray = self._model.item_matrix()[1:].float().cpu().numpy()
        return vectors

    @torch.no_grad()
    def user_vectors(self, histories: Sequence[Sequence[str]], batch_size: int = 1024) -> np.ndarray:
        """[histories, D] float32: what `item_vectors` is searched with after each history of item tokens.

        Items of the history are among what is found. Inner products compare within one history alone.

        Raises:
            UnknownItems: tokens that the model was not trained with.
            ConfigError: an empty history, or scores that are no inner products.
        """
        self._check_vectors()
        self._check_histories(histories)
        with self._model.shared_items():
            parts = [
                self._model.user_vectors(self._interaction(histories[begin : begin + batch_size])).float().cpu()
                for begin in range(0, len(histories), batch_size)
            ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.item_vectors().shape[1]), np.float32)

    def _check_vectors(self) -> None:
        if not self._model.scores_by_product:
            parts = self._model.members if isinstance(self._model, Ensemble) else (self._model,)
            names = {type(part).__name__ for part in parts}
            raise ConfigError(
                f"the scores of {' and '.join(sorted(names))} are not all inner products of a user's vector and an "
                "item's, so there are no vectors to search; `recommend` works all the same"
            )

    def _interaction(self, histories: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """The newest items of each history, as many as the window holds, as the model's fields."""
        model = self._model
        items = np.zeros((len(histories), self._width), dtype=np.int64)
        length = np.array([min(len(history), self._width) for history in histories], dtype=np.int64)
        for row, history in enumerate(histories):
            recent = history[-self._width :]
            items[row, : len(recent)] = [self._id_of[token] for token in recent]
        fields = {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: length}
        return {name: torch.from_numpy(values).to(model.device) for name, values in fields.items()}

    def _batch(self, histories: Sequence[Sequence[str]], k: int, exclude_history: bool) -> list[list[Recommendation]]:
        scores = self._model.full_sort_predict(self._interaction(histories)).float().cpu()
        scores[:, 0] = -torch.inf
        if exclude_history:
            for row, history in enumerate(histories):
                scores[row, [self._id_of[token] for token in history]] = -torch.inf
        best = scores.topk(k, dim=1)
        return [
            [
                Recommendation(self.item_tokens[item_id - 1], score)
                for item_id, score in zip(row_ids, row_scores, strict=True)
            ]
            for row_ids, row_scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _check(self, histories: Sequence[Sequence[str]], k: int, exclude_history: bool) -> None:
        self._check_histories(histories)
        taken = max((len(set(history)) for history in histories), default=0) if exclude_history else 0
        if not 1 <= k <= len(self.item_tokens) - taken:
            raise ConfigError(f"k is {k}; it has to be between 1 and {len(self.item_tokens) - taken}, the items left")

    def _check_histories(self, histories: Sequence[Sequence[str]]) -> None:
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise ConfigError("histories are lists of item tokens; got a string, so wrap it: [['item', ...]]")
        if empty := sum(len(history) == 0 for history in histories):
            raise ConfigError(f"{empty} of {len(histories)} histories are empty; a next item needs at least one")
        tokens = [token for history in histories for token in history]
        if wrong := [token for token in tokens if not isinstance(token, str)]:
            raise ConfigError(f"item tokens are text, but {len(wrong)} of {len(tokens)} are not (first: {wrong[0]!r})")
        unknown = [token for token in tokens if token not in self._id_of]
        if unknown:
            raise UnknownItems(unknown, len(tokens))


def load(
    run_dir: str | Path,
    store: str | Path | None = None,
    extra_items: str | Path | None = None,
    device: str = AUTO,
) -> Recommender:
    """A finished run (the folder runs/VARIANT-SEED of a comparison), ready to recommend.

    Args:
        store: the store of the items' text vectors, if it is no longer where the run found it.
        extra_items: a store of more items, by the same encoder from the same fields. Those that the run doesn't know,
            and that have a text, can then be recommended and stand in histories, too; nothing is trained.
        device: cpu, cuda, cuda:1, or auto: a GPU if there is one. A run made on one device loads on any other.

    Raises:
        CheckpointError: not a run's folder, or its store is missing (the message names the store's hash).
        MissingEmbeddings, StoreError: the store doesn't cover the items, or the extra one was made otherwise.
        ConfigError: extra items for a run that knows its items by more than their text, or a device that isn't there.
    """
    loaded = load_model(Path(run_dir), store, device=device)
    item_tokens = loaded.item_tokens
    if extra_items is not None:
        item_tokens = item_tokens + _append_items(loaded, open_store(extra_items))
    return Recommender(loaded.model, item_tokens, loaded.width)


def export_vectors(run_dir: str | Path, out: str | Path, store: str | Path | None = None, device: str = AUTO) -> Path:
    """The item vectors of a finished run, for a nearest-neighbour index by inner product, in a folder of their own.

    OUT/items.npy is [items, D] float32, OUT/items.json the item token of each row. An earlier export is replaced when
    the new one is whole; a folder with anything else in it stays as it is. `load(run_dir).user_vectors(histories)`
    gives the queries. `store` and `device` are as for `load`.

    Raises:
        ConfigError: scores that are no inner products; CheckpointError and others as `load`.
        OutputError: `out` is no earlier export, or it can't be written.
    """
    out = Path(out)
    target = out.resolve()  # a link keeps pointing to where the vectors are
    for file in EXPORTED:  # both are there, and nothing else: a file items.json alone may be anybody's
        refuse_foreign(target, {file}, EXPORTED)
    recommender = load(run_dir, store, device=device)
    with work_beside(target, "export", f"the vectors {out}"):
        partial = partial_of(target)
        try:
            partial.mkdir(parents=True)
            np.save(partial / "items.npy", recommender.item_vectors(), allow_pickle=False)
            (partial / "items.json").write_text(json.dumps(recommender.item_tokens), encoding="utf-8")
            put_in_place(target)
        except OSError as error:
            raise OutputError(f"{out} can't be written ({error.strerror}); choose another folder") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return out


def _append_items(loaded: Loaded, extra: EmbeddingStore) -> list[str]:
    """The items of a store that the run doesn't know, appended to its model."""
    known = set(loaded.item_tokens)
    rows = [row for row, token in enumerate(extra.item_tokens) if token not in known]
    for part in loaded.members or (loaded,):
        if part.store is not None and (differing := _made_otherwise(part.store, extra)):
            raise StoreError(
                f"{extra.path} was made with another {' and '.join(differing)} than the store the run was trained "
                "over; encode the extra items as those were"
            )
        part.model.append_items(extra.vectors[rows])
    return [extra.item_tokens[row] for row in rows]


def _made_otherwise(store: EmbeddingStore, other: EmbeddingStore) -> list[str]:
    """'encoder', 'template': what differs in how two stores were made."""
    encoders = [{k: v for k, v in made.encoder.items() if k != "asked_for"} for made in (store, other)]
    differing = {"encoder": encoders[0] != encoders[1], "template": dict(store.template) != dict(other.template)}
    return [name for name, differs in differing.items() if differs]
