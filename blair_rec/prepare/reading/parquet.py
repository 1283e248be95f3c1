"""Parquet files, some rows at a time."""

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
"""Rows read at once."""


def parquet_columns(path: Path) -> list[str]:
    """The columns of a Parquet file, in its order; a name may stand there twice.

    Raises:
        SourceError: the file can't be read.
        MissingExtra: pyarrow is not installed.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def read_parquet(path: Path, columns: Sequence[str], rejected: Rejected) -> Iterator[Chunk]:
    """Chunks of a Parquet file; lists of texts are joined by spaces.

    Raises:
        SourceError: the file can't be read, or a column holds what can't be made text.
    """
    number = 1
    with _opened(path) as file:
        types = _in_polars(file.schema_arrow.empty_table().select(list(columns))).schema
        as_text = []
        for column in columns:
            if isinstance(types[column], (pl.Struct, pl.Array, pl.Object, pl.Duration)):
                raise SourceError(
                    f"{path}: column {column!r} holds {types[column]}; make it text, a number or a list of texts"
                )
            is_list = isinstance(types[column], pl.List)
            cell = pl.col(column)
            if types[column].is_float():
                cell = cell.fill_nan(None)  # as which pandas writes a missing value
            as_text.append(cell.cast(pl.List(pl.String)).list.join(" ") if is_list else cell.cast(pl.String))
        for batch in file.iter_batches(ROWS, columns=list(columns)):
            batch.validate(full=True)  # Polars takes it on trust that text is UTF-8
            rejected.lines += batch.num_rows
            try:
                table = _in_polars(batch).select(as_text)
            except pl.exceptions.ComputeError as error:  # bytes that are no text
                named = next(iter([name for name, kind in types.items() if kind == pl.Binary]), "")
                raise SourceError(
                    f"{path}: column {named!r} can't be made text ({first_line(error)}); write it as text"
                ) from None
            yield Chunk(table, range(number, number + batch.num_rows))
            number += batch.num_rows


def _in_polars(arrow: Any) -> pl.DataFrame:
    """Of a table or batch; without remarks on the whole, which needn't be text."""
    return pl.DataFrame(arrow.replace_schema_metadata(None))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Read by Arrow: at some broken files Polars writes of a panic to the terminal before it raises an error."""
    need("pyarrow", "prepare", "reading Parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _ = file.schema_arrow.names  # an error where one is no UTF-8, which Polars takes for granted
            yield file
    except (pyarrow.ArrowException, *UNREADABLE, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no Parquet file, or a broken one ({first_line(error)}); get it again") from None
