"""`blair_rec.load(run_dir).recommend(histories, k)`: a finished run, used from Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import blair_rec.recbole  # noqa: F401  (repairs RecBole before anything of it is used)
from blair_rec.errors import CheckpointError, ConfigError, UnknownItems
from blair_rec.item_vectors import item_vectors
from blair_rec.recommend.checkpoint import load_weights
from blair_rec.recommend.models import model_class, shared_items
from blair_rec.recommend.settings import ItemsOnly, recbole_config
from blair_rec.text.store import open_store


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

    def _batch(self, histories: Sequence[Sequence[str]], k: int, exclude_history: bool) -> list[list[Recommendation]]:
        ids = [[self._id_of[token] for token in history] for history in histories]
        items = torch.zeros(len(ids), self._width, dtype=torch.int64)
        length = torch.tensor([min(len(history), self._width) for history in ids])
        for row, history in enumerate(ids):
            recent = history[-self._width :]
            items[row, : len(recent)] = torch.tensor(recent)
        model = self._model
        interaction = {model.ITEM_SEQ: items.to(model.device), model.ITEM_SEQ_LEN: length.to(model.device)}
        scores = model.full_sort_predict(interaction).float().cpu()
        scores[:, 0] = -torch.inf
        if exclude_history:
            for row, history in enumerate(ids):
                scores[row, history] = -torch.inf
        best = scores.topk(k, dim=1)
        return [
            [
                Recommendation(self.item_tokens[item_id - 1], score)
                for item_id, score in zip(row_ids, row_scores, strict=True)
            ]
            for row_ids, row_scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _check(self, histories: Sequence[Sequence[str]], k: int, exclude_history: bool) -> None:
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
        taken = max((len(set(history)) for history in histories), default=0) if exclude_history else 0
        if not 1 <= k <= len(self.item_tokens) - taken:
            raise ConfigError(f"k is {k}; it has to be between 1 and {len(self.item_tokens) - taken}, the items left")


def load(run_dir: str | Path, store: str | Path | None = None) -> Recommender:
    """A finished run (the folder runs/VARIANT-SEED of a comparison), ready to recommend.

    Args:
        store: the store of the items' text vectors, if it is no longer where the run found it.

    Raises:
        CheckpointError: not a run's folder, or its store is missing (the message names the store's hash).
        MissingEmbeddings, StoreError: the store doesn't cover the items.
    """
    run_dir = Path(run_dir)
    try:
        result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
        item_tokens = json.loads((run_dir / "items.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{run_dir} is no finished run: it has no {Path(error.filename).name}; "
            "give a folder such as runs/text_init-1"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no UTF-8
        raise CheckpointError(f"{run_dir} can't be read ({error}); run the same comparison again") from error
    setup = result["setup"]
    settings = {
        **setup["recbole"],
        "blair_items": setup["items"],
        "blair_transforms": setup["transforms"],
        "blair_control": setup["control"],
        "blair_store": result["store"],
        "seed": setup["seed"],
    }
    cls = model_class(setup["model"])
    config = recbole_config(cls, str(setup["dataset"]), {k: v for k, v in settings.items() if v is not None})
    vectors, needed = None, result["store_sha256"]
    if needed is not None:
        path = Path(store) if store else run_dir / result["store"]
        if not path.is_dir():
            raise CheckpointError(
                f"{run_dir} was trained over the text vectors of store {needed}, and there is none at {path}; "
                "pass store=, or make it again with `blair-rec encode`"
            )
        vectors = item_vectors(open_store(path), item_tokens, setup["text"]["missing_text"])
    model = cls(config, ItemsOnly(config, len(item_tokens), vectors)).to(config["device"])
    load_weights(model, run_dir / "model.safetensors", vectors.store_sha256 if vectors else None)
    return Recommender(model, item_tokens, config["MAX_ITEM_LIST_LENGTH"])
