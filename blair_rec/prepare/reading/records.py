"""Read the requested columns of CSV, TSV, JSON lines and Parquet files as tables."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from blair_rec.errors import SourceError, did_you_mean, separator_hint
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.reading.blocks import Progress, See, blocks_of, is_gzipped, is_unicode, texts_of
from blair_rec.prepare.reading.jsonlines import JsonLines, fields_among, first_fields
from blair_rec.prepare.reading.kept import Chunk, Kept
from blair_rec.prepare.reading.lines import Separated, read_lines
from blair_rec.prepare.reading.parquet import parquet_columns, read_parquet
from blair_rec.prepare.reading.quoted import cells_of_any_length, read_quoted

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")
KINDS = (*SEPARATORS, *JSON_LINES, ".parquet")
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
PACKED = {
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip or xlsx",
}
"""First bytes of files that must be unpacked before they are read."""
WIDE = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of UTF-16 and UTF-32."""


def kind_of(path: Path) -> str:
    """Return the ending that decides how a file is read, such as .csv or .jsonl; a final `.gz` is ignored.

    Raises:
        SourceError: the file doesn't exist, its ending is unknown, or its first bytes are those of another kind.
    """
    if not path.is_file():
        raise SourceError(f"{path} doesn't exist or is not a file")
    _check_packing(path)
    name = path.name[: -len(".gz")] if is_gzipped(path) else path.name
    kind = next((kind for kind in KINDS if name.lower().endswith(kind)), None)
    if kind is None or (kind == ".parquet" and is_gzipped(path)):
        raise SourceError(
            f"{path}: unknown kind of file; known endings: {', '.join(KINDS)}; all but the last may be followed by .gz"
        )
    return kind


def _check_packing(path: Path) -> None:
    """
    Raises:
        SourceError: the first bytes show another compression or encoding than the file name.
    """
    try:
        with path.open("rb") as file:
            first = file.read(6)
    except OSError as error:
        raise SourceError(f"{path} can't be read ({error.strerror or error})") from None
    if first.startswith(GZIP) and not is_gzipped(path):
        raise SourceError(f"{path} is gzipped, but its name doesn't end in .gz; rename it to {path.name}.gz")
    if is_gzipped(path) and first and not first.startswith(GZIP):
        raise SourceError(f"{path} is not gzipped, but its name ends in {path.suffix}; rename it to {path.stem}")
    if first.startswith(PARQUET) and path.suffix.lower() != ".parquet":
        raise SourceError(f"{path} is a Parquet file; rename it to {path.stem}.parquet")
    for begin, packing in PACKED.items():
        if first.startswith(begin):
            raise SourceError(f"{path} is compressed as {packing}, which is not supported; unpack it, or use gzip")
    if first.startswith(WIDE):
        raise SourceError(f"{path} is UTF-16 or UTF-32; save it as UTF-8, for instance with `iconv -f utf-16 -t utf-8`")


def columns_among(path: Path, asked: Sequence[str]) -> list[str]:
    """Return the columns of `asked` that the file has. JSON lines have a field if any line has it, however late.

    Raises:
        SourceError: the file can't be read, or has no header.
    """
    if kind_of(path) in JSON_LINES:
        return fields_among(path, asked)
    known = _columns(path)
    return [column for column in asked if column in known]


def columns_of(path: Path) -> list[str]:
    """Return the columns of a file; for JSON lines, the fields of the first lines.

    Raises:
        SourceError: the file can't be read, or has no header.
    """
    return first_fields(path) if kind_of(path) in JSON_LINES else _columns(path)


def need_columns(path: Path, asked: Sequence[str]) -> None:
    """
    Raises:
        SourceError: the file can't be read, lacks one of these columns, or has one of them twice.
    """
    is_json = kind_of(path) in JSON_LINES
    known = fields_among(path, asked) if is_json else _columns(path)
    for column in asked:
        if column not in known and is_json:
            known = first_fields(path)
            raise SourceError(
                f"{path}: no line has a field {column!r}; {did_you_mean(column, known)}fields of the first lines: "
                f"{', '.join(known)}"
            )
        if column not in known:
            hint, cure = did_you_mean(column, known), ""
            if kind_of(path) not in (*JSON_LINES, ".parquet"):
                cure = separator_hint(path, known) or "; the first line has to be the names of the columns"
            raise SourceError(f"{path}: no column {column!r}; {hint}columns: {', '.join(known)}{cure}")
        if known.count(column) > 1:
            places = [str(place) for place, name in enumerate(known, 1) if name == column]
            raise SourceError(
                f"{path}: {len(places)} columns are named {column!r} (columns {', '.join(places)}); rename all but one"
            )


def read_table(
    path: Path,
    columns: Sequence[str],
    rejected: Rejected,
    progress: Progress | None = None,
    *,
    names: Sequence[str] | None = None,
    numbers: Mapping[str, type[pl.DataType]] | None = None,
    whole: bool = False,
    keep: Path | None = None,
    see: See | None = None,
) -> Iterator[Chunk]:
    """Yield these columns of a file, some rows at a time. Lines that can't be parsed go to `rejected`.

    Args:
        names: columns of a CSV file without a header; ignored if the first line is a header.
        numbers: columns that stay numbers if a JSON block has only numbers in them, which is faster than text.
        whole: whether to add a column jsonlines.LINE with the bytes of each line of a JSON lines file.
        keep: a folder for parsed data of long JSON lines files, which is not parsed again after an interruption.
        see: called with the bytes of files that are read in one pass; not for compressed files, Parquet and quoted CSV.

    Raises:
        SourceError: the file doesn't exist, is of another kind or cut off, lacks a column, or has one twice.
        RejectedLines: more lines than the limit allows can't be parsed.
    """
    kind = kind_of(path)
    headless = False
    if kind in SEPARATORS and names is not None:
        known = _columns(path)
        headless = not set(columns) <= set(known) and len(known) == len(names)
    if not headless:
        need_columns(path, columns)
    if kind == ".parquet":
        yield from read_parquet(path, columns, rejected)
    elif kind in JSON_LINES:
        kept = Kept.of(path, columns, keep) if keep is not None else None
        yield from read_lines(path, JsonLines(columns, numbers, whole), rejected, progress, see, kept=kept)
    else:
        known = list(names or ()) if headless else _columns(path)
        if kind == ".csv" and any(b'"' in block for block in blocks_of(path, None)):
            yield from read_quoted(path, known, columns, rejected, progress, skip=not headless)
        else:
            parse = Separated(known, columns, SEPARATORS[kind])
            yield from read_lines(path, parse, rejected, progress, see, skip=not headless)


def _columns(path: Path) -> list[str]:
    """Return the columns of a file with a header."""
    kind = kind_of(path)
    return parquet_columns(path) if kind == ".parquet" else _header(path, SEPARATORS[kind])


def _header(path: Path, separator: str) -> list[str]:
    first = next(texts_of(path, None), "").rstrip("\r\n")
    if not is_unicode(first) or "\0" in first:
        raise SourceError(f"{path}, line 1 is not UTF-8; save the file as UTF-8, for instance with `iconv -t utf-8`")
    if "\r" in first:
        raise SourceError(f"{path}: its lines end only in a carriage return; save it with line feeds (\\n)")
    cells = first.split(separator)
    if separator == ",":
        try:
            with cells_of_any_length():
                cells = next(csv.reader([first], strict=True), [])
        except csv.Error as error:
            raise SourceError(
                f"{path}, line 1: broken quoting ({error}); the first line must name the columns"
            ) from None
    if not any(cells):
        raise SourceError(f"{path} is empty, or its first line is; the first line must name the columns")
    return cells
