"""Read the folder of `blair-rec split`, measure top lists on validation, and write the lists that `from` reads.

The scripts of this folder run in environments without blair_rec: this module needs NumPy alone. Item ids are places in
items.csv. A case is named by its user, or by its case_id where users have several cases.

Shapes: C cases, N items, k places of a list.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LENGTH = 20
"""Places of a written list. Boards with the default metrics need 10."""
CUTOFF = 10
"""The cutoff of the validation metric."""
ABSENT = -1
"""The id at a place that a list doesn't fill."""


@dataclass(frozen=True)
class Cases:
    """The cases of validation or test: C names, histories (item ids, oldest first) and targets [C] int64."""

    key: str
    """user_id or case_id: the column of `names` in a list."""
    names: list[str]
    histories: list[list[int]]
    targets: np.ndarray


@dataclass(frozen=True)
class Split:
    """Items by id, the training events of each user (item ids, oldest first), and the cases."""

    items: list[str]
    train: list[list[int]]
    valid: Cases
    test: Cases


Ranking = tuple[np.ndarray, np.ndarray]
"""Item ids [C, k] int64, best first, ABSENT at the end of a short list; and their scores [C, k] float."""
Rank = Callable[[Cases, bool, int], Ranking]
"""From cases, whether their histories are masked, and k, to a ranking."""


def read_split(folder: Path) -> Split:
    """Read a folder that `blair-rec split` wrote.

    Raises:
        SystemExit: the folder holds no such split.
    """
    if not (folder / "manifest.json").is_file():
        raise SystemExit(f"{folder} has no manifest.json; write a split with `blair-rec split CONFIG -o {folder}`")
    keys = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["keys"]
    items = [row["item_id"] for row in _rows(folder / "items.csv")]
    ids = {item: place for place, item in enumerate(items)}
    train: dict[str, list[int]] = {}
    for row in _rows(folder / "train.csv"):
        train.setdefault(row["user_id"], []).append(ids[row["item_id"]])
    parts = {}
    for part in ("valid", "test"):
        lines = (folder / f"histories_{part}.jsonl").read_text(encoding="utf-8").splitlines()
        histories = [json.loads(line) for line in lines]
        targets = {row[keys[part]]: ids[row["item_id"]] for row in _rows(folder / f"{part}.csv")}
        names = [str(case[keys[part]]) for case in histories]
        parts[part] = Cases(
            keys[part],
            names,
            [[ids[item] for item in case["history"]] for case in histories],
            np.array([targets[name] for name in names], dtype=np.int64),
        )
    return Split(items, list(train.values()), parts["valid"], parts["test"])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def best_of(scores: np.ndarray, histories: Sequence[Sequence[int]] | None, k: int) -> Ranking:
    """Return the k best items of each row of scores [C, N].

    Items of `histories`, and those with a score of -inf, are no candidates.
    """
    scores = np.array(scores, dtype=np.float32)
    for row, history in enumerate(histories or ()):
        scores[row, list(history)] = -np.inf
    k = min(k, scores.shape[1])
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
    ids = np.take_along_axis(top, order, axis=1).astype(np.int64)
    values = np.take_along_axis(scores, ids, axis=1)
    ids[np.isneginf(values)] = ABSENT
    return ids, values


def ndcg(ids: np.ndarray, targets: np.ndarray) -> float:
    """Return NDCG@k of lists [C, k] with one target per case; a target that the list lacks counts 0."""
    gains = 1 / np.log2(np.arange(2, ids.shape[1] + 2))
    return float(((ids == targets[:, None]) * gains).sum() / len(targets))


def validate(rank: Rank, split: Split) -> float:
    """Return NDCG@10 of the validation cases, their histories masked: the figure that selects in every script."""
    return ndcg(rank(split.valid, True, CUTOFF)[0], split.valid.targets)


def write_lists(rank: Rank, split: Split, out: Path, name: str) -> None:
    """Write the test lists: NAME.csv with the histories among the candidates, NAME.masked.csv without them.

    NAME.valid.csv and NAME.valid.masked.csv are the same for the validation cases.
    """
    out.mkdir(parents=True, exist_ok=True)
    for cases, masked, ending in (
        (split.test, False, ""),
        (split.test, True, ".masked"),
        (split.valid, False, ".valid"),
        (split.valid, True, ".valid.masked"),
    ):
        path = out / f"{name}{ending}.csv"
        ids, scores = rank(cases, masked, LENGTH)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([cases.key, "item_id", "score"])
            for case, row, values in zip(cases.names, ids.tolist(), scores.tolist(), strict=True):
                writer.writerows(
                    [case, split.items[item], f"{value:.9g}"]
                    for item, value in zip(row, values, strict=True)
                    if item != ABSENT
                )
        partial.replace(path)
