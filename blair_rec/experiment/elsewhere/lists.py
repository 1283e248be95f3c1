"""Top lists of another system, read from Parquet, CSV, JSON lines or a TREC run file, and checked against the cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blair_rec.errors import SourceError, counted, encoding_hint, first_of
from blair_rec.experiment.elsewhere.cases import CASE, IN_WORDS, USER, Cases, PartName
from blair_rec.lines.rows import KINDS, ROWS, Columns, read_columns
from blair_rec.lines.values import Ids, finite_numbers

ITEM, SCORE, RANK = "item_id", "score", "rank"
COLUMNS = (USER, CASE, ITEM, SCORE, RANK)
TREC = (".trec", ".run")
"""Endings of TREC run files: topic, Q0, document, rank, score and the name of the run in every line."""
LIST_KINDS = (*KINDS, *TREC)


@dataclass(frozen=True, eq=False)
class Lists:
    """The top lists of some cases, sorted by case, the best item first. Shapes: R rows."""

    path: Path
    part: PartName
    case: np.ndarray
    """[R] int64, places in `Cases`, ascending."""
    item: np.ndarray
    """[R] int64 item ids."""
    score: np.ndarray
    """[R] float64, falling within a case; equal scores are ties."""
    skipped: int = 0
    """Users of the data set that have a list but no case."""
    ranked: bool = False
    """Whether the file has ranks alone, so that scores only count down."""

    def lengths(self, cases: int) -> np.ndarray:
        """[cases] int64: number of items in the list of each case."""
        return np.bincount(self.case, minlength=cases).astype(np.int64)

    @property
    def longest(self) -> int:
        """Number of items in the longest list."""
        return int(np.bincount(self.case).max())

    def first(self, k: int) -> Lists:
        """The k best items of each list; of tied ones those with the lowest ids."""
        return self.only(places(self.case) < k)

    def by_place(self) -> Lists:
        """The same lists without ties: scores count down with the place."""
        return replace(self, score=-places(self.case).astype(np.float64))

    def rows(self, case: np.ndarray, n_items: int) -> np.ndarray:
        """[C, n_items] float32: the scores of some cases by item id; NaN for items that their lists lack."""
        begin, end = (np.searchsorted(self.case, case, side=side) for side in ("left", "right"))
        length = end - begin
        row = np.repeat(np.arange(len(case)), length)
        place = np.arange(len(row)) + np.repeat(begin - (np.cumsum(length) - length), length)
        found = np.full((len(case), n_items), np.nan, dtype=np.float32)
        found[row, self.item[place]] = self.score[place]
        return found

    def only(self, kept: np.ndarray) -> Lists:
        """The rows where `kept` [R] is True."""
        return replace(self, case=self.case[kept], item=self.item[kept], score=self.score[kept])


def lost_in_float32(case: np.ndarray, score: np.ndarray) -> bool:
    """Whether 32-bit numbers lose the order: over a tenth of the neighbours with different scores become ties.

    case: [R], ascending; score: [R] float64 or integers, falling within a case.
    """
    differ = (np.diff(case) == 0) & (np.diff(score) != 0)
    tied = differ & (np.diff(score.astype(np.float32)) == 0)
    return 10 * int(tied.sum()) > int(differ.sum())


def places(case: np.ndarray) -> np.ndarray:
    """[R] int64: the place of each row in its list, from 0. case: [R] int64, ascending."""
    begins = np.flatnonzero(np.diff(case, prepend=-1))
    found: np.ndarray = np.arange(len(case)) - np.repeat(begins, np.diff(begins, append=len(case)))
    return found


class _Rows(NamedTuple):
    """The rows of a file, with names replaced by numbers. Shapes: R rows."""

    case: np.ndarray
    """[R] int64; -1 for an unknown name."""
    item: np.ndarray
    """[R] int64; 0 for an unknown token."""
    score: np.ndarray | None
    rank: np.ndarray | None
    strangers: list[str]
    """Names that are neither a case nor a user of the data set."""
    skipped: set[str]
    """Users of the data set without a case."""
    unknown: list[str]
    """Unknown item tokens, one for each row that has one."""


def read_lists(path: Path, cases: Cases) -> Lists:
    """Read top lists and check them.

    Raises:
        SourceError: a file that can't be read, or with problems: unknown users or items, an item twice in a list,
            missing or infinite scores, wrong ranks. Each problem has a line, with counts.
        MissingExtra: Parquet without pyarrow.
    """
    rows = _numbered(path, cases)
    problems = []
    if strangers := list(dict.fromkeys(rows.strangers)):
        what = counted(len(strangers), "user" if cases.key == USER else "case id")
        where = "the data set" if cases.key == USER else f"the {cases.part} part of the split"
        problems.append(
            f"{path}: {what} that {where} doesn't have (first: {first_of(strangers)}); write the ids of the split's "
            "files, not the numbers that a program gives them"
        )
    if rows.unknown:
        problems.append(
            f"{path}: {counted(len(rows.unknown), 'row')} with items that the data set doesn't have (first: "
            f"{first_of(list(dict.fromkeys(rows.unknown)))}); list items of the split's catalogue alone"
        )
    kept = rows.case >= 0
    case, item = rows.case[kept], rows.item[kept]
    score = None if rows.score is None else rows.score[kept]
    rank = None if rows.rank is None else rows.rank[kept]
    keys = np.sort((case * cases.n_items + item)[item > 0])
    if repeats := int((keys[1:] == keys[:-1]).sum()):
        problems.append(
            f"{path}: {counted(repeats, 'row')} with an item that its list has already; list each item once"
        )
    order = _order(case, item, score, rank)
    case, item = case[order], item[order]
    if rank is not None:
        problems += _rank_problems(path, case, rank[order], None if score is None else score[order], cases)
    if problems:
        raise SourceError("\n".join(problems))
    if len(case) == 0:
        raise SourceError(f"{path} has no list for any of the {cases.called(len(cases))} of the {cases.part} part")
    values = -rank[order] if score is None and rank is not None else score
    assert values is not None  # every file has scores or ranks
    ordered = values if score is None else values[order]
    return Lists(path, cases.part, case, item, ordered, len(rows.skipped), ranked=score is None)


def _order(case: np.ndarray, item: np.ndarray, score: np.ndarray | None, rank: np.ndarray | None) -> np.ndarray:
    """The order of a file's rows: by case, then by rank; without ranks by score, ties by item id."""
    if rank is not None:
        return np.lexsort((item, rank, case))
    assert score is not None
    return np.lexsort((item, -score, case))


def _rank_problems(
    path: Path, case: np.ndarray, rank: np.ndarray, score: np.ndarray | None, cases: Cases
) -> Iterator[str]:
    """Problems of sorted ranks: all lists have to count from 0, or all from 1, and to agree with the scores."""
    if len(case) == 0:
        return
    start = 0 if rank.min() == 0 else 1
    wrong = rank != start + places(case)
    if lists := len(np.unique(case[wrong])):
        yield (
            f"{path}: the ranks of {counted(lists, 'list')} are not {start}, {start + 1}, {start + 2}, ... (first: "
            f"{cases.key} {cases.names[case[wrong][0]]}); number each list without gaps and repeats, all from "
            f"{start}, or give scores alone"
        )
    elif score is not None:
        rising = (np.diff(case) == 0) & (np.diff(score) > 0)
        if lists := len(np.unique(case[1:][rising])):
            yield (
                f"{path}: rank and score disagree in {counted(lists, 'list')} (first: {cases.key} "
                f"{cases.names[case[1:][rising][0]]}); a higher score has to have a lower rank. Leave one of them out"
            )


def _numbered(path: Path, cases: Cases) -> _Rows:
    """Read a file block by block."""
    ids = {name: Ids(path, name) for name in (cases.key, ITEM)}
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("case", ITEM, SCORE, RANK)}
    strangers: list[str] = []
    skipped: set[str] = set()
    unknown: list[str] = []
    names: Sequence[str] = ()
    for columns in _trec(path, cases) if path.suffix.lower() in TREC else read_columns(path, COLUMNS):
        if not names:
            names = _checked(path, list(columns.values), cases)
        who = ids[cases.key](columns.values[cases.key], columns.lines)
        items = ids[ITEM](columns.values[ITEM], columns.lines)
        case = np.fromiter((cases.number_of.get(name, -1) for name in who), np.int64, len(who))
        item = np.fromiter((cases.id_of.get(token, 0) for token in items), np.int64, len(items))
        for row in np.flatnonzero(case < 0).tolist():
            if cases.key == USER and who[row] in cases.users:
                skipped.add(who[row])
            else:
                strangers.append(who[row])
        unknown += [items[row] for row in np.flatnonzero(item == 0).tolist()]
        found["case"].append(case)
        found[ITEM].append(item)
        for name in (SCORE, RANK):
            if name in names:
                found[name].append(finite_numbers(columns.values[name], columns.lines, f"{path}: {name}"))
    if not names:
        raise SourceError(f"{path} holds no row")
    score, rank = (np.concatenate(found[name]) if found[name] else None for name in (SCORE, RANK))
    return _Rows(np.concatenate(found["case"]), np.concatenate(found[ITEM]), score, rank, strangers, skipped, unknown)


def _checked(path: Path, names: Sequence[str], cases: Cases) -> Sequence[str]:
    """The columns of a file.

    Raises:
        SourceError: one that is needed is missing.
    """
    where = f"{path} has the columns {', '.join(names) or 'none'}"
    if cases.key not in names:
        if cases.key == CASE:
            raise SourceError(
                f"{where}; users have several {IN_WORDS[cases.part]} cases here, so give each row its {CASE}, as in "
                f"{cases.part}.csv of the split"
            )
        raise SourceError(f"{where}; give {USER}, {ITEM}, and {SCORE} or {RANK}")
    if cases.key == USER and CASE in names:
        raise SourceError(
            f"{where}; every user has one {IN_WORDS[cases.part]} case here, so leave {CASE} out and give {USER}"
        )
    if ITEM not in names or not {SCORE, RANK} & set(names):
        raise SourceError(f"{where}; give {cases.key}, {ITEM}, and {SCORE} or {RANK}")
    return names


def _trec(path: Path, cases: Cases) -> Iterator[Columns]:
    """The lines of a TREC run file; as its tools do, the score decides the order."""
    if not path.is_file():
        raise SourceError(f"{path} is not there, or not a file")
    values: dict[str, list[str]] = {cases.key: [], ITEM: [], SCORE: []}
    lines: list[int] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                cells = line.split()
                if not cells:
                    continue
                if len(cells) != 6:
                    raise SourceError(
                        f"{path}, line {number}: {counted(len(cells), 'column')} where a TREC run file has 6 (topic, "
                        "Q0, document, rank, score, run)"
                    )
                for name, cell in zip((cases.key, ITEM, SCORE), (cells[0], cells[2], cells[4]), strict=True):
                    values[name].append(cell)
                lines.append(number)
                if len(lines) == ROWS:
                    yield Columns({name: list(column) for name, column in values.items()}, lines)
                    values, lines = {name: [] for name in values}, []
    except UnicodeDecodeError:
        with path.open("rb") as raw:
            raise SourceError(f"{path} is not UTF-8; {encoding_hint(raw.read(2))}") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read ({error.strerror or error})") from None
    if lines:
        yield Columns(values, lines)
