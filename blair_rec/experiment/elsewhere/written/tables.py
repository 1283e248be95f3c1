"""Tables of a split or of top lists, written as CSV and, where pyarrow is installed, as Parquet."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Table = Mapping[str, Sequence[Any] | np.ndarray]
"""Columns of the same length, by name: texts, whole numbers, float64, or lists of texts (in Parquet alone)."""


def has_parquet() -> bool:
    """Whether Parquet can be written here."""
    return importlib.util.find_spec("pyarrow") is not None


def write_csv(path: Path, table: Table) -> None:
    """Write UTF-8 with a header and commas; numbers keep all their digits."""
    columns = [column.tolist() if isinstance(column, np.ndarray) else column for column in table.values()]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*columns, strict=True))


def write_parquet(path: Path, table: Table) -> None:
    """Write the same columns as Parquet."""
    import pyarrow
    import pyarrow.parquet

    def typed(column: Sequence[Any] | np.ndarray) -> Any:
        if isinstance(column, np.ndarray):
            return pyarrow.array(column)
        lists = len(column) > 0 and isinstance(column[0], list)
        return pyarrow.array(column, pyarrow.list_(pyarrow.string()) if lists else pyarrow.string())

    pyarrow.parquet.write_table(pyarrow.table({name: typed(column) for name, column in table.items()}), path)


def whole_if_possible(times: np.ndarray) -> np.ndarray:
    """[M] int64 if all times are whole numbers that float64 holds exactly, else the float64 times themselves."""
    whole = np.isfinite(times).all() and (np.abs(times) <= 2**53).all() and (times == np.floor(times)).all()
    return times.astype(np.int64) if whole else times
