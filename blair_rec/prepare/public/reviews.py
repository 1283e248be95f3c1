"""Convert Amazon Reviews 2023 to a RecBole data set: `blair-rec prepare amazon-2023`.

File layout of McAuley-Lab/Amazon-Reviews-2023 on the hub (its loading script; https://amazon-reviews-2023.github.io):
benchmark/{0,5}core/rating_only/CATEGORY.csv, benchmark/{0,5}core/{last_out,timestamp}[_w_his]/CATEGORY.{train,valid,
test}.csv, raw/review_categories/CATEGORY.jsonl, raw/meta_categories/meta_CATEGORY.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from blair_rec.errors import ConfigError, SourceError, did_you_mean, first_of
from blair_rec.lines.rejected import REJECTED, Rejected
from blair_rec.prepare.collect import collect
from blair_rec.prepare.comparison import write_comparison
from blair_rec.prepare.dataset import BENCHMARK, HISTORY, write_benchmark, write_items, write_log
from blair_rec.prepare.events import (
    SPLITS,
    TEST_FROM,
    VALID_FROM,
    RawLog,
    benchmark_rules,
    by_time,
    last_out,
    position_and_length,
)
from blair_rec.prepare.folder import (
    Hashes,
    Tell,
    check_limits,
    is_done,
    need_room,
    new_folder,
    reading_of,
    write_record,
)
from blair_rec.prepare.items import ItemFile, check_matches, check_texts
from blair_rec.prepare.public.published import Published, categories, published, rounded
from blair_rec.prepare.public.sources import Find, in_folder, need, on_hub
from blair_rec.prepare.reading.blocks import BLOCK, Progress, See, texts_of
from blair_rec.prepare.reading.jsonlines import first_fields
from blair_rec.prepare.reading.kept import PART, Chunk
from blair_rec.prepare.reading.records import JSON_LINES, columns_among, kind_of, read_table
from blair_rec.prepare.times import NUMBER, WHOLE, describe, read_times

HUB = "McAuley-Lab/Amazon-Reviews-2023"
COLUMNS = ("user_id", "parent_asin", "rating", "timestamp")
"""Columns of the benchmark files; older files have no header."""
FIELDS = ("title", "features", "categories", "description", "store", "main_category", "price", "details")
"""Metadata fields that go into the data set."""
TEXT = ("title", "features", "categories", "description")
"""The fields among them that BLaIR reads."""
NUMBERS = {"rating": pl.Float64, "timestamp": pl.Int64}
"""Columns that are numbers in the raw reviews."""
CATALOGUE = "items.jsonl"


@dataclass(frozen=True)
class Amazon:
    """A request for a data set."""

    category: str
    """A category such as All_Beauty."""
    core: int = 5
    """Published files exist for 0 and 5; other cores are made from the 0-core or the raw reviews."""
    split: str = "last_out"
    """last_out: test on each user's last event; timestamp: the same two cut-off times for all users."""
    source: Path | None = None
    """A folder with the files; by default the hub."""
    raw: bool = False
    """Whether to use the raw reviews even if benchmark files exist."""
    benchmark: bool = False
    """Whether to write benchmark files with full histories even if a single log is enough."""
    max_rejected: float = 0.01
    """The share of lines that may be rejected."""

    def __post_init__(self) -> None:
        check_category(self.category, self.source)
        if self.split not in ("last_out", "timestamp"):
            raise ConfigError(f"split is {self.split!r}; known: last_out, timestamp")
        check_limits(self.core, self.max_rejected)


def check_category(category: str, source: Path | None) -> None:
    """
    Raises:
        ConfigError: the hub has no such category. A local folder may have files of any category.
    """
    known = categories()
    if source is None and category not in known:
        raise ConfigError(f"no category {category!r}; {did_you_mean(category, known)}known: {', '.join(known)}")


def finder(source: Path | None, tell: Tell) -> Find:
    """Return the function that finds files of the data set, in a folder or on the hub."""
    return in_folder(source) if source is not None else on_hub(HUB, tell)


def prepare_amazon(
    asked: Amazon, folder: Path, tell: Tell, progress: Progress | None = None, *, fresh: bool = False
) -> bool:
    """Write the data set to `folder`, whose name it takes; return False if the same command already made it.

    The folder also gets a catalogue (items.jsonl), a comparison file and prepared.json. The events are one NAME.inter
    if `compare` can split it as requested; for last_out this needs at least four events per user. If not, or with
    `benchmark`, they are NAME.{train,valid,test}.inter, whose rows have the last 50 items of the history.

    Raises:
        SourceError: a file is missing or can't be read, or no event is left.
        RejectedLines: too many lines can't be used.
        OutputError: the folder can't be written, or has other content.
    """
    find = finder(asked.source, tell)
    reviews, meta = review_files(asked, find), meta_file(asked.category, find)
    sources = [*reviews, meta]
    if is_done(folder, asdict(asked), sources, fresh):
        return False
    with new_folder(folder) as partial:
        rejected = Rejected(partial / REJECTED, asked.max_rejected)
        size = sum(path.stat().st_size for path in reviews)
        if kind_of(reviews[0]) in JSON_LINES and size > PART * BLOCK:
            need_room(reading_of(folder), size // 5, tell)
        hashes = Hashes(sources)
        log = read_reviews(reviews, rejected, progress, reading_of(folder), hashes.see)
        hashes.begin()
        tell(f"reviews: {log.table.height:,} in {', '.join(path.name for path in reviews)}")
        log = benchmark_rules(log, asked.core)
        if not log.table.height:
            raise SourceError(f"no event is left in the {asked.core}-core of {asked.category}; use a smaller --core")
        split = last_out(log) if asked.split == "last_out" else by_time(log)
        found = {**log.counts, **dict(zip(SPLITS, np.bincount(split, minlength=3).tolist(), strict=True))}
        _need_all_parts(found, asked, log)
        tell_statistics(found, published(asked.core, asked.category), asked.split, tell)
        items = ItemFile(meta, "parent_asin", tuple(columns_among(meta, FIELDS)))
        wanted, names = log.item_names(), items.names(rejected, progress)
        check_matches(wanted, names, reviews[0], meta)
        if not items.fields:
            raise SourceError(f"{meta} has no text: it has none of the fields {', '.join(FIELDS)}")
        unknown = sorted(wanted - names.known)
        tell(f"items without metadata: {len(unknown):,}{f' (first: {first_of(unknown)})' if unknown else ''}")
        if names.surplus:
            tell(names.repeats(meta))
        if rejected.count:
            tell(rejected.summary())
        settings = _write_events(asked, folder, partial, log, split, meta.stat().st_size * 2, tell)
        rows = items.rows(wanted, progress, names.repeated)
        textless = write_items(partial / f"{folder.name}.item", rows, items.fields, partial / CATALOGUE)
        tell(f"items without text: {textless:,} of {len(wanted):,}")
        if absent := [field for field in TEXT if field not in items.fields]:
            tell(f"no item of {meta} has a field {', '.join(absent)}; the text comes from {', '.join(items.fields)}")
        check_texts(textless, len(wanted), items)
        comments = [f"Amazon Reviews 2023, {asked.category}, {asked.core}-core, {asked.split}; from {HUB}"]
        comments += [f"{path.name}: sha256 {sha256}" for path, sha256 in hashes.all().items()]
        is_whole = set(TEXT) <= set(items.fields)
        text = {**({"template": "blair"} if is_whole else {"fields": items.fields}), "items": str(folder / CATALOGUE)}
        fields = TEXT if is_whole else items.fields
        write_comparison(partial / f"{folder.name}.yaml", folder, log, text, fields, settings, comments)
        found |= {"items_without_metadata": len(unknown), "textless_items": textless, "rejected_lines": rejected.count}
        write_record(partial, asdict(asked), hashes, found)
    return True


def _need_all_parts(rows: Mapping[str, int], asked: Amazon, log: RawLog) -> None:
    """
    Raises:
        SourceError: training, validation or test would be empty.
    """
    if empty := [part for part in SPLITS if not rows[part]]:
        moments = f" (validation from {VALID_FROM}, test from {TEST_FROM}, in milliseconds)"
        raise SourceError(
            f"split {asked.split}{moments if asked.split == 'timestamp' else ''} leaves no event for "
            f"{' and '.join(empty)} (times: {describe(log.table['time'], WHOLE)}); choose another --split or --core"
        )


def _write_events(
    asked: Amazon, folder: Path, partial: Path, log: RawLog, split: np.ndarray, more: int, tell: Tell
) -> dict[str, Any]:
    """Write the events as a log or benchmark files; return the sections for a comparison. `more` bytes will follow."""
    name, events = folder.name, log.table.height
    by_moments = asked.split == "timestamp"
    # With three events, RecBole's leave-one-out trains on the second, but last_out validates on it.
    as_log = not asked.benchmark and (by_moments or position_and_length(log)[1].min() >= 4)
    history = 0 if as_log else min(HISTORY, events // len(log.table["user"].unique()))
    need_room(folder, events * 12 * (5 + history) + more, tell)
    if as_log:
        write_log(partial / f"{name}.inter", log)
        return {"split": {"valid_from": VALID_FROM, "test_from": TEST_FROM}} if by_moments else {}
    rows = write_benchmark(partial, name, log, split)
    tell("rows with a history: " + ", ".join(f"{count:,} {part}" for part, count in rows.items()))
    _need_all_parts(rows, asked, log)
    return dict(BENCHMARK)


def review_files(asked: Amazon, find: Find) -> list[Path]:
    """Return the files with the events, the first that exist: rating_only, the three of a split, or the raw reviews.

    Raises:
        SourceError: none of them exists.
    """
    for core in () if asked.raw else dict.fromkeys((asked.core, 0)):
        if path := find(f"benchmark/{core}core/rating_only/{asked.category}.csv"):
            return [path]
        for split in ("last_out", "timestamp", "last_out_w_his", "timestamp_w_his"):
            names = [f"benchmark/{core}core/{split}/{asked.category}.{part}.csv" for part in SPLITS]
            parts = [find(name) for name in names]
            if any(parts):  # the three files of any split together have the events of rating_only
                return need(find, names)
    return [raw_reviews(asked.category, find)]


def raw_reviews(category: str, find: Find) -> Path:
    """Return the file with all reviews of a category."""
    return need(find, [f"raw/review_categories/{category}.jsonl"])[0]


def meta_file(category: str, find: Find) -> Path:
    """Return the file with the metadata of a category's items."""
    return need(find, [f"raw/meta_categories/meta_{category}.jsonl"])[0]


def read_reviews(
    files: list[Path],
    rejected: Rejected,
    progress: Progress | None = None,
    keep: Path | None = None,
    see: See | None = None,
) -> RawLog:
    """Return all reviews in file order; for a split, the training file comes first.

    `keep` is a folder for parsed data, from which an interrupted reading resumes. `see` is called with the bytes read.

    Raises:
        SourceError: a file can't be read, or has no review.
        RejectedLines: too many lines can't be used.
    """

    def chunks() -> Iterator[tuple[Path, Chunk]]:
        for path in files:
            names = _names_of(path)
            for chunk in read_table(
                path, COLUMNS, rejected, progress, names=names, numbers=NUMBERS, keep=keep, see=see
            ):
                yield path, chunk

    user, item, rating, time = COLUMNS
    return collect(chunks(), [user, item, time, rating], rejected, WHOLE)[0]


def _names_of(path: Path) -> Sequence[str] | None:
    """Return COLUMNS for a CSV file without a header, as in older releases; None if the file names its columns.

    Raises:
        SourceError: a column is missing.
    """
    found = columns_among(path, COLUMNS)
    missing = [name for name in COLUMNS if name not in found]
    if not missing:
        return None
    is_json = kind_of(path) in JSON_LINES
    known = first_fields(path) if is_json else next(texts_of(path, None), "").rstrip("\r\n").split(",")
    if not is_json and len(known) == len(COLUMNS) and _is_review(known):
        return COLUMNS
    raise SourceError(
        f"{path}: no column {', '.join(missing)}; columns: {', '.join(known)}. `prepare amazon-2023` reads only "
        "Amazon Reviews 2023; for another release or data set use `blair-rec prepare csv` and name its columns "
        "with --user, --item and --time"
    )


def _is_review(cells: Sequence[str]) -> bool:
    """Return whether a first line is a row and not a header: its last two cells are a rating and a time."""
    rating, time = (read_times(pl.Series([cell]), form) for cell, form in zip(cells[2:], (NUMBER, WHOLE), strict=True))
    return not rating.null_count() and not time.null_count()


def tell_statistics(found: dict[str, Any], known: Published | None, split: str, tell: Tell) -> None:
    """Report our counts next to the published ones."""
    names = ["users", "items", "events", *SPLITS]
    figures: list[str] = [] if known is None else [known.users, known.items, known.events, *getattr(known, split)]
    for name, figure in zip(names, figures or [""] * len(names), strict=True):
        ours = found[name]
        if not figure:
            beside = "not published"
        else:
            beside = f"published: {figure}" + ("" if rounded(ours) == figure else "; different data")
        tell(f"{name}: {ours:,} ({beside})")
