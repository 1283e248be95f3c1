"""Read Parquet files, some rows at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from blair_rec.errors import SourceError
from blair_rec.extras import need
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.reading.kept import Chunk
from blair_rec.prepare.reading.lines import UNREADABLE, first_line

ROWS = 100_000
"""Rows per chunk."""


def parquet_columns(path: Path) -> list[str]:
    """Return the columns of a Parquet file, in file order; a name may occur twice.

    Raises:
        SourceError: the file can't be read.
        MissingExtra: pyarrow is not installed.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def read_parquet(path: Path, columns: Sequence[str], rejected: Rejected) -> Iterator[Chunk]:
    """Yield chunks of a Parquet file; lists of texts are joined by spaces.

    Raises:
        SourceError: the file can't be read, or a column can't be converted to text.
    """
    number = 1
    with _opened(path) as file:
        types = _in_polars(file.schema_arrow.empty_table().select(list(columns))).schema
        as_text = []
        for column in columns:
            if isinstance(types[column], (pl.Struct, pl.Array, pl.Object, pl.Duration)):
                raise SourceError(
                    f"{path}: column {column!r} has type {types[column]}; make it text, a number or a list of texts"
                )
            is_list = isinstance(types[column], pl.List)
            cell = pl.col(column)
            if types[column].is_float():
                cell = cell.fill_nan(None)  # pandas writes a missing value as NaN
            as_text.append(cell.cast(pl.List(pl.String)).list.join(" ") if is_list else cell.cast(pl.String))
        for batch in file.iter_batches(ROWS, columns=list(columns)):
            batch.validate(full=True)  # Polars doesn't check that text is UTF-8
            rejected.lines += batch.num_rows
            try:
                table = _in_polars(batch).select(as_text)
            except pl.exceptions.ComputeError as error:  # bytes that are not text
                named = next(iter([name for name, kind in types.items() if kind == pl.Binary]), "")
                raise SourceError(
                    f"{path}: column {named!r} can't be converted to text ({first_line(error)}); write it as text"
                ) from None
            yield Chunk(table, range(number, number + batch.num_rows))
            number += batch.num_rows


def _in_polars(arrow: Any) -> pl.DataFrame:
    """Convert a table or batch to Polars, without its metadata, which may not be text."""
    return pl.DataFrame(arrow.replace_schema_metadata(None))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file with Arrow, because for some broken files Polars prints a panic before it raises an error."""
    need("pyarrow", "prepare", "reading Parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _ = file.schema_arrow.names  # raises an error for a name that is not UTF-8, which Polars doesn't check
            yield file
    except (pyarrow.ArrowException, *UNREADABLE, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path} is not a Parquet file, or is broken ({first_line(error)}); download or create it again"
        ) from None
