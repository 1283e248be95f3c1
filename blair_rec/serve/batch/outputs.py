"""Write recommendations as Parquet, CSV or JSON lines, with a row for each user and rank; never half a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from blair_rec.errors import ConfigError, OutputError
from blair_rec.extras import need
from blair_rec.files.locks import work_beside
from blair_rec.files.places import real_place
from blair_rec.files.writing import partial_of, replace_file
from blair_rec.lines.rows import CSV, JSON_LINES, KINDS, PARQUET

COLUMNS = ("user_id", "item_id", "score", "rank", "by_popularity")
TITLE = "title"
"""The additional column for titles."""
SCHEMA = 1
"""Version of the columns, in the metadata of a Parquet file."""


class Recommended(NamedTuple):
    """The recommendations for some users, user after user, the best item first."""

    users: Sequence[str]
    row: np.ndarray
    """[R] int64: the user of each recommendation, as an index of `users`."""
    items: np.ndarray
    """[R] int64 item ids."""
    scores: np.ndarray
    """[R] float32"""
    rank: np.ndarray
    """[R] int64 from 1."""
    by_popularity: np.ndarray
    """[R] bool: whether the user has no known item and gets the most popular ones."""


class Output(Protocol):
    """A file that is being written."""

    def write(self, found: Recommended) -> None:
        """Add the rows."""


def check_output(out: Path, inputs: Sequence[Path | None]) -> None:
    """
    Raises:
        ConfigError: an unknown ending, or one of the files that are read.
        OutputError: a folder. MissingExtra: Parquet without pyarrow.
    """
    if out.suffix.lower() not in KINDS:
        raise ConfigError(f"{out}: unknown kind of file; known endings: {', '.join(KINDS)}")
    place = real_place(out)
    if place.is_dir():
        raise OutputError(f"{out} is a folder, and a file has to go there; choose another name")
    if any(path is not None and path.resolve() == place for path in inputs):
        raise ConfigError(f"{out} is read, too, and would be lost; choose another name")
    if out.suffix.lower() == PARQUET:
        need("pyarrow", "prepare", "writing Parquet")


@contextmanager
def whole_file(out: Path, tokens: Sequence[str], titles: Mapping[str, str] | None) -> Iterator[Output]:
    """Open a file for writing. It appears at the end of this block; after an error, an older file stays as it was.

    Args:
        tokens: [N] item tokens by item id.
        titles: by item token, for a column of titles; None for no such column.

    Raises:
        OutputError: it can't be written, such as to a full disk; FolderBusy: another process is writing it.
    """
    target = real_place(out)
    with work_beside(target, "recommend", f"the file {out}"):
        partial = partial_of(target)
        try:
            with _OUTPUTS[out.suffix.lower()](partial, tokens, titles) as output:
                yield output
            replace_file(partial, target)
        except OSError as error:
            if error.filename not in (None, str(partial), str(target)):  # a file that is read in this block
                raise
            raise OutputError(
                f"{out} can't be written ({error.strerror or error}), and nothing was left there; choose another place"
            ) from None
        finally:
            partial.unlink(missing_ok=True)


class _Lines:
    """Text, line by line."""

    def __init__(self, path: Path, tokens: Sequence[str], titles: Mapping[str, str] | None) -> None:
        self.file = path.open("w", encoding="utf-8", newline="")
        self.tokens = np.array(tokens, dtype=object)
        self.titles = None if titles is None else np.array([titles.get(token) for token in tokens], dtype=object)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class _Csv(_Lines):
    def __init__(self, path: Path, tokens: Sequence[str], titles: Mapping[str, str] | None) -> None:
        super().__init__(path, tokens, titles)
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow([*COLUMNS, *[TITLE] * (titles is not None)])

    def write(self, found: Recommended) -> None:
        columns: list[Any] = [
            np.array(found.users, dtype=object)[found.row].tolist(),
            self.tokens[found.items].tolist(),
            shortest(found.scores),
            found.rank.tolist(),
            np.array(["false", "true"], dtype=object)[found.by_popularity.astype(int)].tolist(),
        ]
        if self.titles is not None:
            columns.append(self.titles[found.items].tolist())
        self.writer.writerows(zip(*columns, strict=True))


class _Json(_Lines):
    def write(self, found: Recommended) -> None:
        users = np.array([_quoted(user) for user in found.users], dtype=object)
        tokens = {item: _quoted(self.tokens[item]) for item in np.unique(found.items).tolist()}
        titles = self.titles
        for user, item, score, rank, popular in zip(
            users[found.row].tolist(),
            found.items.tolist(),
            shortest(found.scores),
            found.rank.tolist(),
            found.by_popularity.tolist(),
            strict=True,
        ):
            title = "" if titles is None else f', "{TITLE}": {_quoted(titles[item])}'
            self.file.write(
                f'{{"user_id": {user}, "item_id": {tokens[item]}, "score": {score}, "rank": {rank}, '
                f'"by_popularity": {"true" if popular else "false"}{title}}}\n'
            )


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)


def shortest(scores: np.ndarray) -> list[str]:
    """Write [R] float32 as the shortest decimals that read back as the same numbers."""
    return [
        f"{score:.9g}" if float(np.float32(f"{score:.7g}")) != score else f"{score:.7g}" for score in scores.tolist()
    ]


class _Parquet:
    def __init__(self, path: Path, tokens: Sequence[str], titles: Mapping[str, str] | None) -> None:
        import pyarrow
        import pyarrow.parquet

        self.arrow = pyarrow
        self.tokens = pyarrow.array(list(tokens), pyarrow.string())
        self.titles = None
        if titles is not None:
            self.titles = pyarrow.array([titles.get(token) for token in tokens], pyarrow.string())
        types = (pyarrow.string(), pyarrow.string(), pyarrow.float32(), pyarrow.int32(), pyarrow.bool_())
        fields = [*zip(COLUMNS, types, strict=True), *[(TITLE, pyarrow.string())] * (titles is not None)]
        self.schema = pyarrow.schema(fields, metadata={"blair_rec_schema": str(SCHEMA)})
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, found: Recommended) -> None:
        arrow = self.arrow
        items = arrow.array(found.items)
        columns = [
            arrow.array(list(found.users), arrow.string()).take(arrow.array(found.row)),
            self.tokens.take(items),
            arrow.array(found.scores, arrow.float32()),
            arrow.array(found.rank, arrow.int32()),
            arrow.array(found.by_popularity),
            *([] if self.titles is None else [self.titles.take(items)]),
        ]
        self.writer.write_table(arrow.table(columns, schema=self.schema))


_OUTPUTS: Mapping[str, Any] = {CSV: _Csv, JSON_LINES: _Json, PARQUET: _Parquet}
