"""Full score matrices of another system: a score for every case and item, with their ids; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from blair_rec.errors import SourceError, counted, first_of
from blair_rec.experiment.elsewhere.cases import USER, Cases
from blair_rec.experiment.elsewhere.lists import ITEM, lost_in_float32
from blair_rec.lines.arrays import load_array, load_arrays

T = TypeVar("T")
SCORES = "scores"
ROWS = 1 << 10
"""Rows that are checked together."""
BEST = 100
"""Best scores of a row whose order has to be kept."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A score for every case and item. Shapes: B cases, N item ids with the padding."""

    path: Path
    scores: np.ndarray
    """[rows, columns] float; rows and columns in the order of the file."""
    row_of: np.ndarray
    """[B] int64: the row of each case."""
    column_of: np.ndarray
    """[N] int64: the column of each item id; the padding gets column 0."""
    skipped: int = 0
    """Users of the data set that have a row but no case."""

    def rows(self, case: np.ndarray) -> np.ndarray:
        """[C, N] float32: the scores of some cases by item id; ignore column 0."""
        with np.errstate(over="ignore"):  # read_matrix counts infinite scores
            found: np.ndarray = np.asarray(self.scores[self.row_of[case]])[:, self.column_of].astype(np.float32)
        return found


def ids_file(path: Path, column: str) -> Path:
    """The text file next to a .npy file with the ids of its rows or columns: scores.npy -> scores.item_id.txt."""
    return path.with_suffix(f".{column}.txt")


def read_matrix(path: Path, cases: Cases) -> Matrix:
    """Read a matrix and its ids, and check both.

    `.npz` has the arrays scores [rows, columns], item_id, and user_id (or case_id where users have several cases).
    `.npy` holds the scores alone; NAME.item_id.txt and NAME.user_id.txt next to it hold the ids, one in each line.

    Raises:
        SourceError: a file that can't be read, scores that are not finite numbers, ids that are unknown, missing or
            repeated, or of another number than rows or columns. Each problem has a line, with counts.
    """
    scores, ids = _from_npz(path, cases.key) if path.suffix.lower() == ".npz" else _from_npy(path, cases.key)
    if scores.ndim != 2 or scores.dtype.kind not in "fiu":
        raise SourceError(
            f"{path}: scores are {scores.dtype} {list(scores.shape)}; give one number for each case and item"
        )
    for name, count in zip((cases.key, ITEM), scores.shape, strict=True):
        if len(ids[name]) != count:
            what = "rows" if name == cases.key else "columns"
            raise SourceError(
                f"{path}: {counted(len(ids[name]), 'id')} in {name} for {count:,} {what} of scores; give one for each"
            )
    skipped = {name for name in ids[cases.key] if name not in cases.number_of and name in cases.users}
    skipped = skipped if cases.key == USER else set()
    problems = _id_problems(path, cases.key, ids[cases.key], cases.names, skipped)
    problems += _id_problems(path, ITEM, ids[ITEM], cases.item_tokens[1:], set())
    if problems:
        raise SourceError("\n".join(problems))
    row, column = ({name: place for place, name in enumerate(ids[key])} for key in (cases.key, ITEM))
    found = Matrix(
        path,
        scores,
        np.array([row[name] for name in cases.names], dtype=np.int64),
        np.array([0, *(column[token] for token in cases.item_tokens[1:])], dtype=np.int64),
        len(skipped),
    )
    wrong = sum(
        int((~np.isfinite(found.rows(np.arange(begin, min(begin + ROWS, len(cases))))).all(axis=1)).sum())
        for begin in range(0, len(cases), ROWS)
    )
    if wrong:
        raise SourceError(
            f"{path}: {cases.called(wrong)} {'has' if wrong == 1 else 'have'} scores that are not finite float32 "
            "numbers; give the scores before the history is masked"
        )
    if scores.dtype.kind != "f" or scores.dtype.itemsize > 4:
        _check_order(found, len(cases))
    return found


def _check_order(matrix: Matrix, cases: int) -> None:
    """Make sure that 32-bit numbers keep the order of the best scores.

    Raises:
        SourceError: many of them become ties.
    """
    for begin in range(0, cases, ROWS):
        scores = np.asarray(matrix.scores[matrix.row_of[begin : begin + ROWS]])
        k = min(BEST, scores.shape[1])
        best = np.sort(np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:], axis=1)[:, ::-1]
        if lost_in_float32(np.repeat(np.arange(len(best)), k), best.ravel()):
            raise SourceError(
                f"{matrix.path}: the best scores differ by less than 32-bit numbers can hold, so many of them would be "
                "ties; subtract the mean of each row before you write them, or write ranks with a minus"
            )


def _id_problems(path: Path, name: str, ids: Sequence[str], wanted: Sequence[str], skipped: set[str]) -> list[str]:
    problems, known, given = [], set(wanted), set(ids)
    if unknown := [one for one in dict.fromkeys(ids) if one not in known and one not in skipped]:
        problems.append(
            f"{path}: {counted(len(unknown), 'unknown id')} in {name} (first: {first_of(unknown)}); write the ids of "
            "the split's files, not the numbers that a program gives them"
        )
    if missing := [one for one in wanted if one not in given]:
        problems.append(
            f"{path}: {name} lacks {len(missing):,} of {counted(len(wanted), 'id')} (first: {first_of(missing)}); a "
            "matrix needs all of them, a top list does not"
        )
    if repeats := len(ids) - len(given):
        problems.append(f"{path}: {counted(repeats, 'repeated id')} in {name}; give each once")
    return problems


def _from_npz(path: Path, key: str) -> tuple[np.ndarray, dict[str, list[str]]]:
    loaded = _loaded(path, load_arrays)
    wanted = (SCORES, key, ITEM)
    if missing := [name for name in wanted if name not in loaded]:
        raise SourceError(
            f"{path} has the arrays {', '.join(loaded) or 'none'}, but not {' and '.join(missing)}; give {SCORES}, "
            f"{key} and {ITEM}"
        )
    return loaded[SCORES], {name: _texts(path, name, loaded[name]) for name in (key, ITEM)}


def _from_npy(path: Path, key: str) -> tuple[np.ndarray, dict[str, list[str]]]:
    loaded, ids = _loaded(path, load_array), {}
    for name in (key, ITEM):
        file = ids_file(path, name)
        try:
            with file.open(encoding="utf-8-sig") as lines:  # str.splitlines would also split at U+2028 and others
                ids[name] = [line.removesuffix("\n") for line in lines]
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{path} needs {file.name} next to it, with an id in each line ({error})") from None
    return loaded, ids


def _loaded(path: Path, load: Callable[[Path], T]) -> T:
    if not path.is_file():
        raise SourceError(f"{path} is not there, or not a file")
    try:
        return load(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} can't be read as arrays of numbers and text ({error}); write it again") from None


def _texts(path: Path, name: str, values: np.ndarray) -> list[str]:
    if values.ndim != 1 or values.dtype.kind not in "Uiu":
        raise SourceError(f"{path}: {name} is {values.dtype} {list(values.shape)}; give a list of ids, as text")
    return [str(value) for value in values.tolist()]
