"""Small worlds for the tests of the training side: logs whose answer is known, and RecBole as small as it gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import blair_rec.recbole  # noqa: F401  (repairs RecBole before anything of it is used)
from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import ItemVectors
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.store.writer import write_store

torch.set_num_threads(1)  # the worlds are so small that two threads only wait for each other

SMALL: dict[str, Any] = {
    "n_layers": 1,
    "n_heads": 2,
    "hidden_size": 8,
    "inner_size": 16,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_batch_size": 256,
    "eval_batch_size": 64,
    "topk": [10],
    "metrics": ["NDCG", "Recall", "MRR"],
    "valid_metric": "NDCG@10",
    "seed": 7,
}
"""A RecBole config that trains in no time."""

STOCK: dict[str, Any] = {"train_neg_sample_args": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
"""Settings that RecBole's own models need; for ours they are defaults."""

Event = tuple[str, str, int]
"""User, item, time."""


def write_log(folder: Path, events: Iterable[Event]) -> Path:
    """A data set folder whose .inter file lists these events in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, event)) for event in events)]
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def read_log(folder: Path) -> list[Event]:
    """The events of a data set folder, in the order of the file."""
    rows = (folder / f"{folder.name}.inter").read_text("utf-8").splitlines()[1:]
    return [(user, item, int(time)) for user, item, time in (row.split("\t") for row in rows)]


def with_other_last_items(log: Sequence[Event]) -> list[Event]:
    """The same log where most users end with another item; RecBole numbers items and users as before.

    Numbers follow the first appearance in the file, so an item gives way, and only to another, where both were seen
    before.
    """
    last = {user: max(time for who, _, time in log if who == user) for user, *_ in log}
    seen: list[str] = []
    changed = []
    for user, item, time in log:
        if time == last[user] and item in seen and len(seen) > 1:
            changed.append((user, seen[seen.index(item) - 1], time))
        else:
            changed.append((user, item, time))
            if item not in seen:
                seen.append(item)
    return changed


def with_small_times(folder: Path) -> Path:
    """The same log with times 1, 2, 3, ... in the same order, which float32 holds exactly."""
    events = read_log(folder)
    rank = {time: number for number, time in enumerate(sorted({time for _, _, time in events}), start=1)}
    return write_log(folder, [(user, item, rank[time]) for user, item, time in events])


def built(dataset_class: type, folder: Path, model: str | type = "SASRec", **settings: Any) -> tuple[Any, list[Any]]:
    """Config, and train, validation and test split, of a data set class."""
    stock = STOCK if model == "SASRec" else {}
    config = recbole_config(model, str(folder), {**SMALL, **stock, **settings})
    return config, dataset_class(config).build()


def cases(splits: Sequence[Any]) -> list[tuple[str, tuple[str, ...], str]]:
    """(user, history, target) of every row of the splits, as tokens."""
    found = []
    for split in splits:
        if len(split) == 0:
            continue
        rows, tokens = split[torch.arange(len(split))], split.field2id_token
        for user, history, length, item in zip(
            rows["user_id"], rows["item_id_list"], rows["item_length"], rows["item_id"], strict=True
        ):
            read = tuple(str(tokens["item_id"][number]) for number in history[: int(length)])
            found.append((str(tokens["user_id"][user]), read, str(tokens["item_id"][item])))
    return found


def vectors_for(n_items: int, text_dim: int = 12, seed: int = 0) -> ItemVectors:
    """Made-up text vectors, far from centred, for a data set of n_items with the padding."""
    table = np.random.default_rng(seed).standard_normal((n_items, text_dim)).astype(np.float32) + np.float32(0.5)
    table[0] = 0
    return ItemVectors(table, f"{seed:064x}")


def store_for(path: Path, item_tokens: Sequence[str], text_dim: int = 12, seed: int = 0) -> EmbeddingStore:
    """A store with a made-up vector for each item: no encoder needed."""
    vectors = np.random.default_rng(seed).standard_normal((len(item_tokens), text_dim)).astype(np.float32)
    return write_store(
        path,
        item_tokens,
        vectors,
        textless=(),
        encoder={"name": "made up", "asked_for": "made up", "revision": None, "pooling": "mean", "max_length": 8},
        template={"name": "plain", "version": 1, "fields": ["title"]},
        text_sha256="0" * 64,
    )
