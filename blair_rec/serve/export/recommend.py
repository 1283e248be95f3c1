"""The best next items of histories, from the files of this folder alone, by NumPy, SciPy and onnxruntime."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession
from scipy.sparse import csr_array

SCHEMA, BATCH, CPU = 1, 32, ["CPUExecutionProvider"]
LINES = 'JSON lines: a list of items, or {"user_id": USER, "item_id": ITEM}, where ITEM is an item or a list of items'


class ExportedPart:
    """One scorer: the model, or a member of an average. `new` [M, E] are text vectors of items that came later."""

    def __init__(self, folder: Path, config: dict[str, Any], new: np.ndarray | None = None) -> None:
        self.config = config
        if new is not None and not config["takes_new_items"]:
            raise ValueError(f"{config['name']} can't score new items: it knows items by more than their text")
        if new is not None and new.shape[1:] != (config["text_dim"],):
            raise ValueError(f"new items need vectors of width {config['text_dim']}, and these are {new.shape}")
        if config["kind"] == "counted":
            with np.load(folder / "counts.npz", allow_pickle=False) as found:
                self.rules = csr_array((found["data"], found["indices"], found["indptr"]), found["shape"])
                self.bias = found["popularity"]
            return
        self.encoder = InferenceSession(folder / "user_encoder.onnx", providers=CPU)
        self.vectors = np.load(folder / "items.npy", allow_pickle=False)
        if new is not None:
            project = InferenceSession(folder / "text_projection.onnx", providers=CPU).run
            self.vectors = np.vstack([self.vectors, project(None, {"store_vectors": new.astype(np.float32)})[0]])
        self.inputs = np.load(folder / "sources.npy", allow_pickle=False) if config.get("rank") else self.vectors
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.keys = self.vectors / np.maximum(lengths, 1e-12) if config["cosine"] else self.vectors
        self.bias = np.load(folder / "item_bias.npy", allow_pickle=False) if config["item_bias"] else np.zeros(1, "f4")

    def users(self, rows: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Users' vectors [B, H]; products with `keys` [N, H] are scores. Arguments are from `ExportedModel.rows`."""
        return np.asarray(self.encoder.run(None, {"item_vectors": self.inputs[rows], "lengths": length})[0])

    def scores(self, rows: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Scores [B, N] float32; in an average, z-scores over the items of each history, times the weight."""
        if self.config["kind"] == "counted":  # what followed the items of a history, by their age; the newest has 1
            age = length[:, None] - np.arange(rows.shape[1])
            case, place = ((age > 0) & (age <= self.config["reach"])).nonzero()
            weights = (1 / age[case, place]).astype(np.float32)
            history = csr_array((weights, (case, rows[case, place])), (len(rows), len(self.bias)))
            scores = (history @ self.rules).toarray() + self.bias
        else:
            scores = self.users(rows, length) @ self.keys.T + self.bias
        if (weight := self.config["weight"]) is None:
            return np.asarray(scores)
        deviation, largest = scores.std(axis=1, keepdims=True), np.abs(scores).max(axis=1, keepdims=True)
        scale = np.divide(weight, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6 * largest)
        return np.asarray((scores - scores.mean(axis=1, keepdims=True)) * scale)


class ExportedModel:
    """The models of the folder. `extra` is a .npy file of text vectors of new items; their ids are in its .ids.json."""

    def __init__(self, folder: str | Path, extra: str | Path | None = None) -> None:
        folder, vectors = Path(folder), None
        config = read_json(folder / "config.json")
        if config["schema"] != SCHEMA:
            raise ValueError(f"config.json has schema {config['schema']}; this program reads {SCHEMA}")
        for name, sha256 in config["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
                raise ValueError(f"{name} is not the file that was exported; get the folder again")
        self.items = list(json.loads((folder / "items.json").read_text("utf-8")))
        if extra is not None:
            ids, known = read_json(Path(extra).with_suffix(".ids.json")), set(self.items)
            pairs = zip(ids, np.load(extra, allow_pickle=False), strict=True)
            new = {item: vector for item, vector in pairs if item not in known}
            vectors, self.items = np.array([*new.values()]) if new else None, [*self.items, *new]
        self.window, self.least = config["window"], config["least_length"]
        self.parts = [ExportedPart(folder / part["folder"], part, vectors) for part in config["parts"]]
        self.row_of = {item: row for row, item in enumerate(self.items)}

    def rows(self, histories: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """The newest items of each history, as many as fit into the window, oldest first: rows [B, L], lengths [B]."""
        if unknown := [item for history in histories for item in history if item not in self.row_of]:
            raise ValueError(f"unknown items in the histories: {len(unknown)} (first: {unknown[0]!r}); remove them")
        if not histories or not all(map(len, histories)):
            raise ValueError("there are no histories, or some are empty; recommend popular items there")
        length = np.array([min(len(history), self.window) for history in histories], dtype=np.int64)
        rows = np.zeros((len(histories), length.max(initial=self.least)), dtype=np.int64)
        for row, history, size in zip(rows, histories, length, strict=True):
            row[:size] = [self.row_of[item] for item in history[-size:]]
        return rows, length

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """Scores [B, N] float32, in the order of `items`."""
        rows, length = self.rows(histories)
        return np.asarray(sum(part.scores(rows, length) for part in self.parts))

    def recommend(self, histories: Sequence[Sequence[str]], k: int = 10, repeat: bool = False) -> list[list[Any]]:
        """At most k items for each history, [(item, score), ...], best first; `repeat` allows those of the history."""
        if k < 1:
            raise ValueError(f"k is {k}; it has to be at least 1")
        k = min(k, len(self.items))
        found: list[list[Any]] = [[] for _ in histories]
        order = sorted(range(len(histories)), key=lambda row: len(histories[row]))  # so that little is padded
        for cases in (order[begin : begin + BATCH] for begin in range(0, max(1, len(order)), BATCH)):
            some = [histories[case] for case in cases]
            for case, history, scores in zip(cases, some, self.scores(some), strict=True):
                scores[[] if repeat else [self.row_of[item] for item in history]] = -np.inf
                rows = np.flatnonzero(scores >= np.partition(scores, -k)[-k])  # more than k if some are equal
                best = rows[np.argsort(-scores[rows], kind="stable")][:k]
                found[case] = [(self.items[row], float(scores[row])) for row in best if scores[row] > -np.inf]
        return found


def read_json(path: Path) -> Any:
    """The content of a JSON file; a ValueError names it if it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); get it again") from error


def read_histories(path: str) -> dict[Any, list[str]]:
    """The items of each user, in the order of the lines; a list without a user has the number of its line."""
    histories: dict[Any, list[str]] = {}
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    for number, line in enumerate(text.rstrip().split("\n"), start=1):
        try:
            row = json.loads(line)
            user, items = (number, row) if isinstance(row, list) else (row["user_id"], row["item_id"])
            histories.setdefault(user, []).extend(items := items if isinstance(items, list) else [items])
            if type(user) not in (str, int) or not set(map(type, items)) <= {str}:  # true, 1 and 1.0 would be one user
                raise TypeError("an id is of another kind")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not a history; give {LINES}") from error
    return histories


def main() -> None:
    """The command line: writes recommendations to standard output as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("histories", help=f"{LINES}; a user's oldest item comes first")
    parser.add_argument("-k", type=int, default=10, help="items for each user")
    parser.add_argument("--extra", metavar="X.npy", help="text vectors of new items, with their ids in X.ids.json")
    parser.add_argument("--repeat", action="store_true", help="items of the history may come again")
    given, out = parser.parse_args(), sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (None: it was closed)
    try:
        histories, model = read_histories(given.histories), ExportedModel(Path(__file__).parent, given.extra)
        found = model.recommend(list(histories.values()), given.k, given.repeat)
        for user, best in zip(histories, found, strict=True):
            for rank, (item, score) in enumerate(best, start=1):
                out.write(json.dumps({"user_id": user, "item_id": item, "score": score, "rank": rank}) + "\n")
        out.flush()
    except (OSError, ValueError) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would write the rest at its end, and fail again
        closed = isinstance(error, BrokenPipeError)  # the reader has enough, as `head` does
        parser.exit(141 if closed else 1, None if closed else f"error: {error}\n")


if __name__ == "__main__":
    main()
