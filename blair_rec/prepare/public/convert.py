"""Convert downloaded files to plain tables: MovieLens archives, and the metadata of Amazon 2014."""

from __future__ import annotations

import ast
import csv
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from blair_rec.errors import SourceError, counted, first_of
from blair_rec.files.locks import alone_in
from blair_rec.files.writing import partial_of, put_in_place
from blair_rec.lines.atomic import AtomicFile
from blair_rec.lines.rejected import REJECTED, Rejected
from blair_rec.prepare.public.download import member, opened_zip
from blair_rec.prepare.reading.blocks import Progress, is_unicode, texts_of

VERSION = 1
"""Version of the conversions; a new one gives the folders of converted files new names."""
RATINGS, MOVIES = "ratings.csv", "movies.csv"
RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
MOVIE_COLUMNS = ("movieId", "title", "genres")
NO_GENRE = "(no genres listed)"
META = "items.jsonl"
META_FIELDS = ("title", "categories", "description", "brand")
ATOMIC = (".inter", ".item", ".user", ".kg", ".link", ".net")
"""Endings of the files that RecBole reads."""


def converted(source: Path, convert: Callable[[Path, Path], None]) -> Path:
    """Return a folder next to `source` with what `convert(source, folder)` writes; an existing folder is used again.

    Raises:
        OutputError: the folder can't be written.
        FolderBusy: another process is converting there.
    """
    folder = source.with_name(f"{source.name}.converted-{VERSION}")
    busy = f"another process is converting files in {source.parent}; wait until it has finished"
    with alone_in(
        source.parent, busy, cure="copy its files to a folder that can be written, and name it with --source"
    ):
        if not folder.is_dir() or folder.stat().st_mtime < source.stat().st_mtime:
            partial = partial_of(folder)
            try:
                partial.mkdir()
                convert(source, partial)
                put_in_place(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def convert_movielens(source: Path, folder: Path) -> None:
    """Write ratings.csv and movies.csv, with the column names of the newer versions, from any MovieLens archive.

    Raises:
        SourceError: the archive is damaged or unsafe, or lacks a file, or a line has another form.
    """
    with opened_zip(source) as archive:
        files = {PurePosixPath(one.filename).name for one in archive.infolist()}
        if "u.data" in files:  # 100K
            ratings = _cells(archive, "u.data", "\t", 4)
            flags = [line.split("|")[0] for line in _lines(archive, "u.genre", "latin-1") if line.strip()]
            movies = (
                (cells[0], cells[1], [genre for genre, flag in zip(flags, cells[5:], strict=False) if flag == "1"])
                for cells in _cells(archive, "u.item", "|", 5 + len(flags), "latin-1")
            )
        elif "ratings.dat" in files:  # 1M, 10M
            ratings = _cells(archive, "ratings.dat", "::", 4)
            encoding = "latin-1" if "users.dat" in files else "utf-8"
            movies = (
                (one, title, genres.split("|"))
                for one, title, genres in _cells(archive, "movies.dat", "::", 3, encoding)
            )
        else:
            with member(archive, RATINGS) as file, (folder / RATINGS).open("wb") as out:
                shutil.copyfileobj(file, out)
            table = csv.reader(io.TextIOWrapper(member(archive, MOVIES), "utf-8", newline=""))
            next(table, None)
            movies = ((row[0], row[1], row[2].split("|")) for row in table if len(row) == 3)
            ratings = None
        if ratings is not None:
            _write(folder / RATINGS, RATING_COLUMNS, ratings)
        _write(
            folder / MOVIES,
            MOVIE_COLUMNS,
            ([one, title, ", ".join(genre for genre in genres if genre != NO_GENRE)] for one, title, genres in movies),
        )


def _lines(archive: zipfile.ZipFile, name: str, encoding: str = "utf-8") -> Iterator[str]:
    with io.TextIOWrapper(member(archive, name), encoding, errors="strict", newline="") as file:
        try:
            for line in file:
                yield line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise SourceError(f"{archive.filename}: {name} is not {encoding} text ({error})") from None


def _cells(
    archive: zipfile.ZipFile, name: str, separator: str, count: int, encoding: str = "utf-8"
) -> Iterator[list[str]]:
    for number, line in enumerate(_lines(archive, name, encoding), start=1):
        cells = line.split(separator)
        if len(cells) != count:
            if not line.strip():
                continue
            raise SourceError(
                f"{archive.filename}: line {number} of {name} has {counted(len(cells), 'cell')}, but {count} are "
                "expected"
            )
        yield cells


def _write(path: Path, header: tuple[str, ...], rows: Iterator[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def convert_metadata_2014(progress: Progress | None, max_rejected: float) -> Callable[[Path, Path], None]:
    """Return a conversion of the metadata of Amazon 2014, whose lines are Python literals and not JSON, to JSON lines.

    A literal is data: nothing of it is run. The conversion raises RejectedLines if too many lines are not literals.
    """

    def convert(source: Path, folder: Path) -> None:
        rejected = Rejected(folder / REJECTED, max_rejected)
        with (folder / META).open("w", encoding="utf-8", newline="\n") as out:
            for number, line in enumerate(texts_of(source, progress), start=1):
                if not line.strip():
                    continue
                rejected.lines += 1
                item = _literal(line)
                if item is None or not item.get("asin"):
                    rejected.add(source, number, "not a Python literal with an asin", "")
                    continue
                row = {"asin": item["asin"], **{field: item[field] for field in META_FIELDS if item.get(field)}}
                if paths := row.get("categories"):  # lists of categories from the root, which share their first ones
                    row["categories"] = list(dict.fromkeys(name for path in paths for name in path))
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
        rejected.check()

    return convert


def _literal(line: str) -> dict[str, Any] | None:
    if not is_unicode(line):
        return None
    try:
        found = ast.literal_eval(line)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, dict) else None


def unpack_atomic(source: Path, folder: Path, name: str) -> list[Path]:
    """Write the atomic files of one of RecBole's archives to `folder`, renamed to NAME.inter, NAME.item and so on.

    Raises:
        SourceError: the archive is damaged or unsafe, or has no events, or several data sets.
        AtomicFileError: the first line of a file is not in RecBole's format.
    """
    written: list[Path] = []
    with opened_zip(source) as archive:
        files = [PurePosixPath(one.filename).name for one in archive.infolist() if not one.is_dir()]
        atomic = [file for file in files if PurePosixPath(file).suffix in ATOMIC and not file.startswith(".")]
        stems = sorted({file.split(".")[0] for file in atomic})
        if len(stems) != 1 or not any(file.endswith(".inter") for file in atomic):
            raise SourceError(
                f"{source} has files of {counted(len(stems), 'data set')} ({first_of(stems) or 'none'}), and one with "
                "a .inter file is needed; unpack it yourself and choose the files"
            )
        for file in atomic:
            path = folder / f"{name}{file.removeprefix(stems[0])}"
            with member(archive, file) as packed, path.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            written.append(path)
    for path in written:
        if path.suffix in (".inter", ".item", ".user"):
            AtomicFile(path).columns  # noqa: B018  (raises for a file in another format)
    return written
