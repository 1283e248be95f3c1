"""`blair_rec.load(run_dir).recommend(histories, k)`: a finished run, used from Python."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from blair_rec.border.settings import ItemsOnly, recbole_config, recbole_errors
from blair_rec.data.dataset import ItemVectors
from blair_rec.errors import CheckpointError, ConfigError, OutputError, StoreError, UnknownItems
from blair_rec.evaluate.runs.run_files import WEIGHTS_FILE
from blair_rec.experiment.fit import model_settings
from blair_rec.experiment.item_vectors import item_vectors
from blair_rec.experiment.planning.plan import member_folders, members_hash
from blair_rec.files import partial_of, put_in_place, refuse_foreign, work_beside
from blair_rec.models.similarity import item_matrix, scores_by_product, user_vectors
from blair_rec.models.text_models import append_items, model_class, shared_items
from blair_rec.ranking.baselines import build_baseline
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.text.store.embeddings import EmbeddingStore, open_store
from blair_rec.training.checkpoint import load_weights, saved_transforms

EXPORTED = ("items.npy", "items.json")
"""What export_vectors writes."""


class Recommendation(NamedTuple):
    """An item and what the model gives it; scores compare within one history alone."""

    item_token: str
    score: float


class Recommender:
    """A trained model and the items it knows."""

    def __init__(self, model: Any, item_tokens: Sequence[str], width: int) -> None:
        self._model = model.eval()
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
        with shared_items(self._model):
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
            vectors: np.ndarray = item_matrix(self._model)[1:].float().cpu().numpy()
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
        with shared_items(self._model):
            parts = [
                user_vectors(self._model, self._interaction(histories[begin : begin + batch_size])).float().cpu()
                for begin in range(0, len(histories), batch_size)
            ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.item_vectors().shape[1]), np.float32)

    def _check_vectors(self) -> None:
        if not scores_by_product(self._model):
            names = {type(member).__name__ for member in getattr(self._model, "members", [self._model])}
            raise ConfigError(
                f"the scores of {' and '.join(sorted(names))} are not all inner products of a user's vector and an "
                "item's, so there are no vectors to search; `recommend` works all the same"
            )

    def _interaction(self, histories: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """The newest items of each history, as many as the window holds, as the model's fields."""
        model = self._model
        items = torch.zeros(len(histories), self._width, dtype=torch.int64)
        length = torch.tensor([min(len(history), self._width) for history in histories])
        for row, history in enumerate(histories):
            recent = history[-self._width :]
            items[row, : len(recent)] = torch.tensor([self._id_of[token] for token in recent])
        return {model.ITEM_SEQ: items.to(model.device), model.ITEM_SEQ_LEN: length.to(model.device)}

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


def load(run_dir: str | Path, store: str | Path | None = None, extra_items: str | Path | None = None) -> Recommender:
    """A finished run (the folder runs/VARIANT-SEED of a comparison), ready to recommend.

    Args:
        store: the store of the items' text vectors, if it is no longer where the run found it.
        extra_items: a store of more items, by the same encoder from the same fields. Those that the run doesn't know,
            and that have a text, can then be recommended and stand in histories, too; nothing is trained.

    Raises:
        CheckpointError: not a run's folder, or its store is missing (the message names the store's hash).
        MissingEmbeddings, StoreError: the store doesn't cover the items, or the extra one was made otherwise.
        ConfigError: extra items for a run that knows its items by more than their text.
    """
    loaded = load_model(Path(run_dir), store)
    item_tokens = loaded.item_tokens
    if extra_items is not None:
        item_tokens = item_tokens + _append_items(loaded, open_store(extra_items))
    return Recommender(loaded.model, item_tokens, loaded.width)


def export_vectors(run_dir: str | Path, out: str | Path, store: str | Path | None = None) -> Path:
    """The item vectors of a finished run, for a nearest-neighbour index by inner product, in a folder of their own.

    OUT/items.npy is [items, D] float32, OUT/items.json the item token of each row. An earlier export is replaced when
    the new one is whole; a folder with anything else in it stays as it is. `load(run_dir).user_vectors(histories)`
    gives the queries.

    Raises:
        ConfigError: scores that are no inner products; CheckpointError and others as `load`.
        OutputError: `out` is no earlier export, or it can't be written.
    """
    out = Path(out)
    target = out.resolve()  # a link keeps pointing to where the vectors are
    for file in EXPORTED:  # both are there, and nothing else: a file items.json alone may be anybody's
        refuse_foreign(target, {file}, EXPORTED)
    recommender = load(run_dir, store)
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


class Loaded(NamedTuple):
    """What scored the items in a finished run."""

    model: Any
    """A model, a baseline, or an ensemble of them."""
    item_tokens: list[str]
    """By item id; the first one is the padding's."""
    width: int
    """Items of a history that it reads, at most."""
    store: EmbeddingStore | None = None
    """Of the items' text vectors; None for an ensemble, or where no text is used."""
    members: tuple[Loaded, ...] = ()
    """Of an ensemble."""


def load_model(run_dir: Path, store: str | Path | None = None, dataset: Any = None) -> Loaded:
    """What scored the items in a finished run, as it was then.

    Args:
        store: as for `load`.
        dataset: the training split, for models that can't be built without it.

    Raises:
        As `load`.
    """
    result, item_tokens = _read(run_dir, "result.json"), _read(run_dir, "items.json")
    setup = result["setup"]
    if "average" in setup:
        if result["hashes"]["members"] != members_hash(run_dir, setup):
            raise CheckpointError(
                f"{run_dir} averages {', '.join(setup['average'])}, and one of these runs is gone or was made again; "
                "run the same comparison again, which makes the average anew"
            )
        members = tuple(load_model(folder, store, dataset) for folder in member_folders(run_dir, setup))
        ensemble = Ensemble([member.model for member in members])
        load_weights(ensemble, run_dir / WEIGHTS_FILE, None)
        return Loaded(ensemble, item_tokens, min(member.width for member in members), members=members)
    opened, vectors, needed = None, None, result["store_sha256"]
    if needed is not None:
        path = Path(store) if store else run_dir / result["store"]
        if not path.is_dir():
            raise CheckpointError(
                f"{run_dir} was trained over the text vectors of store {needed}, and there is none at {path}; "
                "pass store=, or make it again with `blair-rec encode`"
            )
        opened = open_store(path)
        vectors = item_vectors(opened, item_tokens, setup["text"]["missing_text"])
        vectors = dataclasses.replace(vectors, fitted=saved_transforms(run_dir / WEIGHTS_FILE) or None)
    cls = model_class(setup["model"])
    settings = model_settings(setup) if setup["scorer"] is None else setup["recbole"]
    config = recbole_config(cls, str(setup["dataset"]), settings)
    model: Any
    if setup["scorer"] is None:
        items = ItemsOnly(config, len(item_tokens), vectors) if dataset is None else _with_vectors(dataset, vectors)
        cure = "load it with the versions of blair_rec and RecBole that result.json names, or run the comparison again"
        with recbole_errors(f"build the {setup['model']} of {run_dir}", cure):
            model = cls(config, items).to(config["device"])
    else:
        model = build_baseline(setup, config, len(item_tokens), vectors)
    load_weights(model, run_dir / WEIGHTS_FILE, vectors.store_sha256 if vectors else None)
    return Loaded(model, item_tokens, config["MAX_ITEM_LIST_LENGTH"], opened)


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
        append_items(part.model, extra.vectors[rows])
    return [extra.item_tokens[row] for row in rows]


def _made_otherwise(store: EmbeddingStore, other: EmbeddingStore) -> list[str]:
    """'encoder', 'template': what differs in how two stores were made."""
    encoders = [{k: v for k, v in made.encoder.items() if k != "asked_for"} for made in (store, other)]
    differing = {"encoder": encoders[0] != encoders[1], "template": dict(store.template) != dict(other.template)}
    return [name for name, differs in differing.items() if differs]


def _with_vectors(dataset: Any, vectors: ItemVectors | None) -> Any:
    dataset = copy.copy(dataset)
    dataset.item_vectors = vectors
    return dataset


def _read(run_dir: Path, name: str) -> Any:
    try:
        return json.loads((run_dir / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{run_dir} is no finished run: it has no {name}; give a folder such as runs/text_init-1"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no UTF-8
        raise CheckpointError(f"{run_dir} can't be read ({error}); run the same comparison again") from error
