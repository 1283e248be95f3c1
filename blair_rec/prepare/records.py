"""CSV, TSV, JSON lines and Parquet, block by block; lines that can't be read are kept apart with their numbers."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from blair_rec.errors import SourceError
from blair_rec.extras import need
from blair_rec.prepare.blocks import Progress, See, blocks_of, count_lines, is_unicode, middle_of, texts_of
from blair_rec.prepare.kept import Broken, Chunk, Kept
from blair_rec.rejected import Rejected

AHEAD = 2
"""Blocks parsed while the one before is worked on."""
QUOTED_ROWS = 50_000
"""Rows at once where quoting has to be taken apart row by row."""
PARQUET_ROWS = 100_000
"""Rows of a Parquet file at once."""
SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")
KINDS = (*SEPARATORS, *JSON_LINES, ".parquet")
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises where it can't read something."""

Parse = Callable[[bytes], pl.DataFrame]
"""Whole lines -> a row for each; raises where it can't."""


def kind_of(path: Path) -> str:
    """The ending that says how a file is read: .csv, .jsonl, ...; `.gz` behind it doesn't count.

    Raises:
        SourceError: no such file, or an ending that says nothing.
    """
    if not path.is_file():
        raise SourceError(f"{path} is not there, or not a file")
    name = path.name.removesuffix(".gz")
    kind = next((kind for kind in KINDS if name.lower().endswith(kind)), None)
    if kind is None or (kind == ".parquet" and path.suffix == ".gz"):
        raise SourceError(
            f"{path}: unknown kind of file; known endings: {', '.join(KINDS)}, and .gz behind all but the last"
        )
    return kind


def columns_of(path: Path) -> list[str]:
    """The columns of a file: its first line, or the fields of the first thousand JSON lines.

    Raises:
        SourceError: the file can't be read, or names no column.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        return list(_parquet_types(path))
    if kind in JSON_LINES:
        return _json_fields(path)
    return _header(path, SEPARATORS[kind])


def read_table(
    path: Path,
    columns: Sequence[str],
    rejected: Rejected,
    progress: Progress | None = None,
    *,
    names: Sequence[str] | None = None,
    numbers: Mapping[str, type[pl.DataType]] | None = None,
    keep: Path | None = None,
    see: See | None = None,
) -> Iterator[Chunk]:
    """These columns of a file, some rows at a time. Lines that can't be parsed go to `rejected`.

    `names` are the columns of a CSV file whose first line is already a row; they count only if it is no header.
    `numbers` are columns that may come as such where JSON has nothing else in them, which is faster than as text.
    `keep` is a folder for what has been read of long JSON lines: after an interruption it is not parsed again.
    `see` is shown the bytes of files that are read in one go: not compressed, Parquet, or quoted CSV.

    Raises:
        SourceError: no such file, not of its kind, cut off, or without one of the columns.
        RejectedLines: more lines than the limit allows can't be parsed.
    """
    kind = kind_of(path)
    known = columns_of(path)
    headless = names is not None and not set(columns) <= set(known) and len(known) == len(names)
    if headless:
        known = list(names or ())
    for column in columns:
        if column not in known:
            raise SourceError(
                f"{path}: no column {column!r}; {_near(column, known)}columns: {', '.join(known) or 'none'}"
            )
    if kind == ".parquet":
        yield from _parquet(path, columns, rejected)
    elif kind in JSON_LINES:
        kept = Kept.of(path, columns, keep) if keep is not None else None
        yield from _lines(path, _JsonLines(columns, numbers or {}), rejected, progress, see, kept=kept)
    elif kind == ".csv" and any(b'"' in block for block in blocks_of(path, None)):
        yield from _quoted(path, known, columns, rejected, progress, skip=not headless)
    else:
        parse = _Separated(known, columns, SEPARATORS[kind])
        yield from _lines(path, parse, rejected, progress, see, skip=not headless)


class _JsonLines:
    """Parses whole lines of JSON objects; scalars become text, lists and objects JSON text."""

    def __init__(self, columns: Sequence[str], numbers: Mapping[str, type[pl.DataType]]) -> None:
        texts: dict[str, type[pl.DataType]] = dict.fromkeys(columns, pl.String)
        self.schemas = [{**texts, **numbers}, texts] if numbers else [texts]

    def __call__(self, block: bytes) -> pl.DataFrame:
        *typed, texts = self.schemas
        for schema in typed:
            with contextlib.suppress(*UNREADABLE):  # a value of another kind: 1.5 is no Int64, nor is "1"
                return pl.read_ndjson(block, schema=schema)
        return pl.read_ndjson(block, schema=texts)


class _Separated:
    """Parses whole lines of cells without quoting."""

    def __init__(self, known: Sequence[str], columns: Sequence[str], separator: str) -> None:
        self.separator, self.width = separator, len(known)
        # By position: a header may repeat the name of a column that nobody asked for.
        self.place = {column: f"c{list(known).index(column)}" for column in columns}

    def __call__(self, block: bytes) -> pl.DataFrame:
        # Polars fills up what is too short, and complains only of what is too long.
        if block.count(self.separator.encode()) != (self.width - 1) * count_lines(block):
            raise _Misfit(f"other than {self.width} columns")
        table = pl.read_csv(
            block,
            has_header=False,
            separator=self.separator,
            quote_char=None,
            empty_string_is_null=False,
            schema={f"c{number}": pl.String for number in range(self.width)},
        )
        return table.select(pl.col(place).alias(name) for name, place in self.place.items())


class _Misfit(ValueError):
    """A block that would be read as something else than it says."""


def _lines(
    path: Path,
    parse: Parse,
    rejected: Rejected,
    progress: Progress | None,
    see: See | None = None,
    skip: bool = False,
    kept: Kept | None = None,
) -> Iterator[Chunk]:
    """Chunks of a file in which each line is a row, the kept ones first; a header in the first line is skipped."""
    blocks = blocks_of(path, progress, see)
    if skip:
        blocks = _without_header(blocks)
    number = 1 + skip
    for part in kept.parts() if kept is not None else ():
        deque(itertools.islice(blocks, part.blocks), maxlen=0)  # read, but not parsed again
        yield from _sorted_out(path, part.outcomes, part.end - number, rejected)
        number = part.end
    for block, count, parsed in _parsed(parse, blocks):
        salvaged = _salvage(parse, block, number, count, parsed)
        outcomes = yield from _sorted_out(path, salvaged, count, rejected)
        number += count
        if kept is not None:
            kept.add(outcomes, number)


def _sorted_out(
    path: Path, outcomes: Iterable[Chunk | Broken], count: int, rejected: Rejected
) -> Generator[Chunk, None, list[Chunk | Broken]]:
    """The chunks of `count` lines; the broken lines go to `rejected`. Returns both."""
    rejected.lines += count
    done: list[Chunk | Broken] = []
    for outcome in outcomes:
        done.append(outcome)
        if isinstance(outcome, Broken):
            rejected.add(path, *outcome)
        else:
            yield outcome
    # An empty line is nothing, neither good nor bad.
    rejected.lines -= count - sum(1 if isinstance(one, Broken) else len(one.lines) for one in done)
    return done


def _without_header(blocks: Iterator[bytes]) -> Iterator[bytes]:
    first = next(blocks, b"")
    yield first[first.find(b"\n") + 1 or len(first) :]
    yield from blocks


def _parsed(parse: Parse, blocks: Iterator[bytes]) -> Iterator[tuple[bytes, int, pl.DataFrame | str]]:
    """Each block, its lines, and its rows or why there are none; the next blocks are parsed meanwhile."""

    def parsed(block: bytes) -> tuple[bytes, int, pl.DataFrame | str]:
        count = count_lines(block)
        return block, count, _try(parse, block, count)

    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[Future[tuple[bytes, int, pl.DataFrame | str]]] = deque()
        for block in blocks:
            waiting.append(pool.submit(parsed, block))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        for task in waiting:
            yield task.result()


def _try(parse: Parse, block: bytes, count: int) -> pl.DataFrame | str:
    try:
        table = parse(block)
    except (*UNREADABLE, _Misfit) as error:
        return _first_line(error)
    return table if table.height == count else "no row"


def _salvage(
    parse: Parse, block: bytes, number: int, count: int, parsed: pl.DataFrame | str
) -> Iterator[Chunk | Broken]:
    """The block's rows; where it can't be parsed, those of its halves, down to the lines that are broken."""
    if isinstance(parsed, pl.DataFrame):
        if count:
            yield Chunk(parsed, range(number, number + count))
    elif count > 1:
        cut = middle_of(block)
        first, second = block[:cut], block[cut:]
        lines = count_lines(first)
        yield from _salvage(parse, first, number, lines, _try(parse, first, lines))
        number, lines = number + lines, count - lines
        yield from _salvage(parse, second, number, lines, _try(parse, second, lines))
    elif block.strip():
        cut_off = "" if block.endswith(b"\n") else "; the file ends here without a line end, as one that was cut off"
        yield Broken(number, parsed + cut_off, block.decode("utf-8", "backslashreplace").rstrip("\r\n"))


def _quoted(
    path: Path, known: Sequence[str], columns: Sequence[str], rejected: Rejected, progress: Progress | None, skip: bool
) -> Iterator[Chunk]:
    """Chunks of a CSV file with quoted cells, which may hold separators and line breaks."""
    places = [list(known).index(column) for column in columns]
    reader = csv.reader(texts_of(path, progress), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            rejected.lines += 1
            rejected.add(path, begin, str(error), "")
            continue
        if not row or (skip and begin == 1):
            continue
        rejected.lines += 1
        problem = f"{len(row)} columns where there should be {len(known)}" if len(row) != len(known) else ""
        if not problem and not all(map(is_unicode, row)):
            problem = "not UTF-8"
        if problem:
            rejected.add(path, begin, problem, json.dumps(row))
            continue
        rows.append([row[place] for place in places])
        lines.append(begin)
        if len(rows) == QUOTED_ROWS:
            yield _chunk(rows, lines, columns)
            rows, lines = [], []
    if rows:
        yield _chunk(rows, lines, columns)


def _chunk(rows: list[list[str]], lines: list[int], columns: Sequence[str]) -> Chunk:
    table = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    return Chunk(table, lines)


def _parquet_types(path: Path) -> dict[str, pl.DataType]:
    with _opened_parquet(path) as file:
        return dict(_in_polars(file.schema_arrow.empty_table()).schema)


def _in_polars(arrow: Any) -> pl.DataFrame:
    """Of a table or batch; without remarks on the whole, which needn't be text."""
    return pl.DataFrame(arrow.replace_schema_metadata(None))


def _parquet(path: Path, columns: Sequence[str], rejected: Rejected) -> Iterator[Chunk]:
    """Chunks of a Parquet file; lists of texts are joined by spaces."""
    types = _parquet_types(path)
    as_text = []
    for column in columns:
        if isinstance(types[column], (pl.Struct, pl.Array, pl.Object)):
            raise SourceError(
                f"{path}: column {column!r} holds {types[column]}; make it text, a number or a list of texts"
            )
        is_list = isinstance(types[column], pl.List)
        text = pl.col(column).cast(pl.List(pl.String)).list.join(" ") if is_list else pl.col(column).cast(pl.String)
        as_text.append(text)
    number = 1
    with _opened_parquet(path) as file:
        for batch in file.iter_batches(PARQUET_ROWS, columns=list(columns)):
            batch.validate(full=True)  # Polars takes it on trust that text is UTF-8
            rejected.lines += batch.num_rows
            yield Chunk(_in_polars(batch).select(as_text), range(number, number + batch.num_rows))
            number += batch.num_rows


@contextlib.contextmanager
def _opened_parquet(path: Path) -> Iterator[Any]:
    """Read by Arrow: at some broken files Polars writes of a panic to the terminal before it raises an error."""
    need("pyarrow", "prepare", "reading Parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _ = file.schema_arrow.names  # an error where one is no UTF-8, which Polars takes for granted
            yield file
    except (pyarrow.ArrowException, *UNREADABLE, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no Parquet file, or a broken one ({_first_line(error)}); get it again") from None


def _header(path: Path, separator: str) -> list[str]:
    first = next(texts_of(path, None), "")
    if not is_unicode(first) or "\0" in first:
        raise SourceError(f"{path}, line 1 is not UTF-8; save the file as UTF-8, for instance with `iconv -t utf-8`")
    try:
        cells = (
            next(csv.reader([first], strict=True), []) if separator == "," else first.rstrip("\r\n").split(separator)
        )
    except csv.Error as error:
        raise SourceError(f"{path}, line 1: {error}; the first line has to name the columns") from None
    if not any(cells):
        raise SourceError(f"{path} is empty, or its first line is; the first line has to name the columns")
    return cells


def _json_fields(path: Path) -> list[str]:
    """Fields of the first lines, in order of first appearance."""
    fields: dict[str, None] = {}
    for number, line in enumerate(texts_of(path, None)):
        if number == 1000:
            break
        try:
            row = json.loads(line)
        except ValueError:  # the reader says which lines are broken
            continue
        fields.update(dict.fromkeys(row if isinstance(row, dict) else ()))
    if not fields:
        raise SourceError(f"{path}: none of the first lines is a JSON object; each line has to be one")
    return list(fields)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""
