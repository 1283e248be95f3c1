"""Files of another system, whole or damaged: what other readers find in them, and what ours makes of them."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from mutations import mutated

from blair_rec.errors import BlairRecError
from blair_rec.evaluate.metrics import per_user
from blair_rec.experiment.elsewhere.cases import Cases
from blair_rec.experiment.elsewhere.files import is_matrix
from blair_rec.experiment.elsewhere.lists import Lists, read_lists
from blair_rec.experiment.elsewhere.matrices import read_matrix
from blair_rec.experiment.elsewhere.ranks import rank_lists

KINDS = ("csv", "jsonl", "parquet", "trec", "npz")
ITEMS = [f"i{n:02}" for n in range(1, 25)]
USERS = [f"u{n}" for n in range(8)]
K = 3


@functools.cache
def world() -> Cases:
    """Eight users with a case each, whose histories have up to four items; two more users have none."""
    random = Random(1)
    histories = [random.sample(range(1, 25), random.randint(1, 4)) for _ in USERS]
    return Cases(
        part="test",
        key="user_id",
        names=USERS,
        target=np.array([random.randint(1, 24) for _ in USERS], dtype=np.int64),
        history_case=np.repeat(np.arange(len(USERS)), [len(history) for history in histories]),
        history_item=np.array([item for history in histories for item in history], dtype=np.int64),
        item_tokens=["[PAD]", *ITEMS],
        users=frozenset([*USERS, "early", "late"]),
    )


def content_of(random: Random) -> dict[str, list[Any]]:
    """Top lists by score, by rank or by both; now and then with ties, short lists, or users without a case."""
    rows: list[tuple[str, str, float, int]] = []
    for user in [*USERS, *["early"] * (random.random() < 0.3)]:
        if random.random() < 0.9:
            items = random.sample(ITEMS, random.randint(1, 12))
            digits = random.choice([0, 6])
            scores = sorted((round(random.uniform(0, 5), digits) for _ in items), reverse=True)
            rows += [(user, item, score, n) for n, (item, score) in enumerate(zip(items, scores, strict=True), start=1)]
    if random.random() < 0.5:
        random.shuffle(rows)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    named = dict(zip(("user_id", "item_id", "score", "rank"), columns, strict=True))
    left_out = random.choice(["score", "rank", ""])
    return {name: values for name, values in named.items() if name != left_out}


def write_lists_file(path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Write a file of the kind that its ending names."""
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".trec":
        scores = columns.get("score") or [-rank for rank in columns["rank"]]
        users, items = columns["user_id"], columns["item_id"]
        lines = [f"{user} Q0 {item} 0 {score} a\n" for user, item, score in zip(users, items, scores, strict=True)]
        path.write_text("".join(lines), "utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)


def write_matrix_file(path: Path, random: Random) -> None:
    """Write a full matrix with its ids in any order; now and then with an extra user or a missing item."""
    users, items = [*USERS, *["late"] * (random.random() < 0.3)], list(ITEMS)
    random.shuffle(users)
    random.shuffle(items)
    if random.random() < 0.1:
        items.pop()
    scores = np.array([[round(random.uniform(0, 3), random.choice([0, 5])) for _ in items] for _ in users], np.float32)
    np.savez(path, scores=scores, user_id=np.array(users), item_id=np.array(items))


def as_others_read(path: Path) -> dict[str, dict[str, float]]:
    """By user, the score of each listed item, as the standard library's, Arrow's or NumPy's reader finds them."""
    found: dict[str, dict[str, float]] = {}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            for user, row in zip(archive["user_id"].tolist(), archive["scores"].tolist(), strict=True):
                found[str(user)] = dict(zip(map(str, archive["item_id"].tolist()), row, strict=True))
        return found
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8-sig").split("\n") if line.strip()]
    elif path.suffix == ".trec":
        cells = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        rows = [{"user_id": one[0], "item_id": one[2], "score": one[4]} for one in cells]
    else:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    for row in rows:
        score = float(row["score"]) if "score" in row else -float(row["rank"])
        items = found.setdefault(str(row["user_id"]), {})
        assert str(row["item_id"]) not in items
        items[str(row["item_id"])] = score
    return found


def expected_ndcg(scores: Mapping[str, float], target: str, removed: set[str], k: int) -> float:
    """NDCG@k by hand: the mean over all places that the target can have among its ties; 0 if it is not listed."""
    if target not in scores or target in removed:
        return 0.0
    others = [score for item, score in scores.items() if item != target and item not in removed]
    above, tied = sum(one > scores[target] for one in others), sum(one == scores[target] for one in others)
    gains = [1 / math.log2(place + 2) if place < k else 0.0 for place in range(above, above + tied + 1)]
    return sum(gains) / len(gains)


def ndcg(cases: Cases, path: Path, protocol: str) -> list[float]:
    """NDCG@K of every case by our own reader and ranking."""
    if is_matrix(path):
        matrix = read_matrix(path, cases)
        scores = matrix.rows(np.arange(len(cases)))[:, 1:]
        case, item = np.divmod(np.arange(scores.size), scores.shape[1])
        order = np.lexsort((item, -scores.ravel(), case))
        lists = Lists(path, "test", case, item[order] + 1, scores.ravel()[order].astype(np.float64))
    else:
        lists = read_lists(path, cases)
    found = rank_lists(cases, lists, protocol, K)  # type: ignore[arg-type]
    miss = cases.target_in_history if protocol == "masked" else None
    values: list[float] = per_user(f"NDCG@{K}", found.higher, found.equal, miss).tolist()
    return values


def try_one(folder: Path, kind: str, seed: int) -> str:
    """One file, damaged in two of three cases: refused in words that name it, or ranked rightly."""
    random, cases, path = Random(seed), world(), folder / f"lists.{kind}"
    if kind == "npz":
        write_matrix_file(path, random)
    else:
        write_lists_file(path, content_of(random))
    if random.random() < 0.67:
        path.write_bytes(mutated(path.read_bytes(), random))
    try:
        found = {protocol: ndcg(cases, path, protocol) for protocol in ("unmasked", "masked")}
    except BlairRecError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert all(str(path) in line for line in message.splitlines()), message
        return "refused"
    theirs = as_others_read(path)
    histories: list[set[str]] = [set() for _ in USERS]
    for case, item in zip(cases.history_case.tolist(), cases.history_item.tolist(), strict=True):
        histories[case].add(cases.item_tokens[item])
    for place, user in enumerate(USERS):
        target = cases.item_tokens[cases.target[place]]
        scores = theirs.get(user, {})
        assert math.isclose(found["unmasked"][place], expected_ndcg(scores, target, set(), K), abs_tol=1e-9)
        assert math.isclose(found["masked"][place], expected_ndcg(scores, target, histories[place], K), abs_tol=1e-9)
    assert set(theirs) <= {*USERS, "early", "late"}
    return "used"
