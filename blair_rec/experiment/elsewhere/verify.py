"""Check a file of another system against a split's folder, without the data set and before anything is ranked."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import ConfigError, SourceError, counted, first_of
from blair_rec.experiment.elsewhere.cases import CASE, IN_WORDS, USER, Cases, PartName
from blair_rec.experiment.elsewhere.files import (
    MANIFEST,
    changed_files,
    check_exported,
    check_manifest,
    is_matrix,
    read_manifest,
)
from blair_rec.experiment.elsewhere.lists import ITEM, read_lists
from blair_rec.experiment.elsewhere.matrices import read_matrix
from blair_rec.experiment.elsewhere.ranks import list_notes
from blair_rec.lines.rows import read_columns

HISTORY, TIME = "history", "timestamp"


def verify(path: Path, folder: Path, part: PartName = "test", masked: bool = False, k: int = 10) -> list[str]:
    """Check the lists or matrix of another system, and describe them in sentences.

    Args:
        folder: what `blair-rec split` wrote.
        part: the cases that the file is for.
        masked: whether the file has no items of the histories, so that it goes under from_masked.
        k: the largest cutoff of the metrics.

    Raises:
        SourceError: the file can't be used, with a line for each problem; or the folder is not a whole split.
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError(f"-k is {k}; it has to be at least 1")
    manifest = read_manifest(folder / MANIFEST)
    if manifest is None:
        raise SourceError(f"{folder} has no {MANIFEST} of `blair-rec split`; give the folder that it wrote with -o")
    keys = manifest.get("keys")
    if not isinstance(keys, Mapping) or keys.get(part) not in (USER, CASE):
        raise SourceError(f"{folder / MANIFEST} doesn't say what names a {IN_WORDS[part]} case; write the split again")
    if changed := changed_files(folder, manifest):
        raise SourceError(
            f"{folder}: {counted(len(changed), 'file')} of the split changed or missing (first: {first_of(changed)}); "
            "write the split again"
        )
    if unlisted := sorted(set(_files_of(part)) - set(manifest["files"])):
        raise SourceError(
            f"{folder / MANIFEST} lacks the hashes of {counted(len(unlisted), 'file')} of the split (first: "
            f"{first_of(unlisted)}), so they may have changed; write the split again"
        )
    try:
        cases = cases_in(folder, part, manifest)
    except (LookupError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{folder}: {MANIFEST} and the files of the {IN_WORDS[part]} cases don't fit each other; write the split "
            "again"
        ) from None
    check_manifest(path, str(manifest.get("split_sha256")))
    check_exported(path, part, masked)
    if is_matrix(path):
        if masked:
            raise SourceError(f"{path}: a full score matrix serves both protocols; give it as `from`")
        matrix = read_matrix(path, cases)
        lines = [
            f"{path}: scores of {counted(cases.n_items - 1, 'item')} for {cases.called(len(cases))}, both protocols"
        ]
        if matrix.skipped:
            lines.append(f"{counted(matrix.skipped, 'row')} of users without a {IN_WORDS[part]} case will be skipped")
        return lines
    lists = read_lists(path, cases)
    lengths = lists.lengths(len(cases))
    given = lengths[lengths > 0]
    lines = [
        f"{path}: {counted(len(given), 'list')} for {cases.called(len(cases))}, "
        f"{given.min()} to {counted(int(given.max()), 'item')}, median {np.median(given):g}"
    ]
    notes = list_notes(cases, None if masked else lists, lists if masked else None, k)
    tied = (np.diff(lists.case) == 0) & (np.diff(lists.score) == 0)
    if tied.any():
        lines.append(f"{counted(int(tied.sum()), 'item')} tied with the one before; metrics average over their orders")
    return [*lines, *notes]


def _files_of(part: PartName) -> tuple[str, ...]:
    """The files that `cases_in` reads."""
    return "items.csv", f"{part}.csv", f"histories_{part}.jsonl", "users.csv"


def cases_in(folder: Path, part: PartName, manifest: Mapping[str, Any]) -> Cases:
    """The cases of a part, from the files of a split."""
    key = manifest["keys"][part]
    tokens = ["[PAD]", *_column(folder / "items.csv", ITEM)]
    number = {token: place for place, token in enumerate(tokens)}
    targets = _column(folder / f"{part}.csv", ITEM)
    histories: list[list[str]] = _column(folder / f"histories_{part}.jsonl", HISTORY)
    return Cases(
        part=part,
        key=key,
        names=_column(folder / f"{part}.csv", key),
        target=np.array([number[token] for token in targets], dtype=np.int64),
        history_case=np.repeat(np.arange(len(histories)), [len(history) for history in histories]),
        history_item=np.array([number[token] for token in chain.from_iterable(histories)], dtype=np.int64),
        item_tokens=tokens,
        users=frozenset(_column(folder / "users.csv", USER)),
    )


def _column(path: Path, name: str) -> list[Any]:
    """One column of a file of the split."""
    known = (USER, CASE, ITEM, TIME, HISTORY)
    if path.name == "items.csv":  # its other columns are the fields of the catalogue
        with path.open(encoding="utf-8", newline="") as file:
            return [row[0] for row in csv.reader(file)][1:]
    return [value for columns in read_columns(path, known) for value in columns.values[name]]
