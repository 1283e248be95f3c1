"""Amazon Reviews 2023 to a RecBole data set: `blair-rec prepare amazon-2023`.

Layout of McAuley-Lab/Amazon-Reviews-2023 on the hub (its loading script; https://amazon-reviews-2023.github.io):
benchmark/{0,5}core/rating_only/CATEGORY.csv, benchmark/{0,5}core/{last_out,timestamp}[_w_his]/CATEGORY.{train,valid,
test}.csv, raw/review_categories/CATEGORY.jsonl, raw/meta_categories/meta_CATEGORY.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from blair_rec.errors import ConfigError, SourceError, first_of
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
from blair_rec.prepare.folder import Hashes, Tell, is_done, need_room, new_folder, reading_of, write_record
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
"""Of the benchmark files; older ones have no first line that says so."""
FIELDS = ("title", "features", "categories", "description", "store", "main_category", "price", "details")
"""Of the metadata, what goes into the data set."""
TEXT = ("title", "features", "categories", "description")
"""Of these, what BLaIR reads."""
NUMBERS = {"rating": pl.Float64, "timestamp": pl.Int64}
"""What the raw reviews have as such."""
CATALOGUE = "items.jsonl"


@dataclass(frozen=True)
class Amazon:
    """What is asked for."""

    category: str
    """Such as All_Beauty."""
    core: int = 5
    """0 or 5 have published files; other numbers are made from the 0-core or the raw reviews."""
    split: str = "last_out"
    """last_out: each user's last event is the test; timestamp: the same two moments for all."""
    source: Path | None = None
    """A folder with the files; the hub if not given."""
    raw: bool = False
    """From the raw reviews, even where prepared files are there."""
    benchmark: bool = False
    """Whether files of rows with written-out histories are made, even where a log does."""
    max_rejected: float = 0.01
    """The share of lines that may be unusable."""

    def __post_init__(self) -> None:
        check_category(self.category, self.source)
        if self.split not in ("last_out", "timestamp"):
            raise ConfigError(f"split is {self.split!r}; known: last_out, timestamp")
        if self.core < 0:
            raise ConfigError(f"core is {self.core}; it has to be 0 or more")


def check_category(category: str, source: Path | None) -> None:
    """
    Raises:
        ConfigError: the hub has no such category; a folder may hold files under any name.
    """
    known = categories()
    if source is None and category not in known:
        near = get_close_matches(category, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"no category {category!r}; {hint}known: {', '.join(known)}")


def finder(source: Path | None, tell: Tell) -> Find:
    """How the files of the data set are found: in a folder, or on the hub."""
    return in_folder(source) if source is not None else on_hub(HUB, tell)


def prepare_amazon(
    asked: Amazon, folder: Path, tell: Tell, progress: Progress | None = None, *, fresh: bool = False
) -> bool:
    """The data set in `folder`, named as it, with a catalogue (items.jsonl), a comparison file and prepared.json.

    The events are one NAME.inter, and `compare` splits it as asked for; RecBole's leave-one-out does so only if every
    user has at least four events. Otherwise, or where `benchmark` asks for it, they are NAME.{train,valid,test}.inter,
    whose rows hold the last 50 items of the history. False if the folder was made by the same command before.

    Raises:
        SourceError: a file is missing or can't be read, or no event is left.
        RejectedLines: too many lines can't be used.
        OutputError: the folder can't be written, or holds something else.
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
            raise SourceError(
                f"no event is left in the {asked.core}-core of {asked.category}; a smaller --core has more"
            )
        split = last_out(log) if asked.split == "last_out" else by_time(log)
        found = {**log.counts, **dict(zip(SPLITS, np.bincount(split, minlength=3).tolist(), strict=True))}
        _need_all_parts(found, asked, log)
        tell_statistics(found, published(asked.core, asked.category), asked.split, tell)
        items = ItemFile(meta, "parent_asin", tuple(columns_among(meta, FIELDS)))
        wanted, names = log.item_names(), items.names(rejected, progress)
        check_matches(wanted, names, reviews[0], meta)
        if not items.fields:
            raise SourceError(f"{meta} has no text: none of the fields {', '.join(FIELDS)}")
        unknown = sorted(wanted - names.known)
        tell(f"items without metadata: {len(unknown):,}{f' (first: {first_of(unknown)})' if unknown else ''}")
        if names.surplus:
            tell(names.repeats(meta))
        if rejected.count:
            tell(f"lines that can't be used: {rejected.count:,} (first: {rejected.first[0]}); they are in {REJECTED}")
        settings = _write_events(asked, folder, partial, log, split, meta.stat().st_size * 2, tell)
        rows = items.rows(wanted, progress, names.repeated)
        textless = write_items(partial / f"{folder.name}.item", rows, items.fields, partial / CATALOGUE)
        tell(f"items without text: {textless:,} of {len(wanted):,}")
        if absent := [field for field in TEXT if field not in items.fields]:
            tell(f"no item of {meta} has a field {', '.join(absent)}; its text is {', '.join(items.fields)}")
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
        moments = f", which validates from {VALID_FROM} and tests from {TEST_FROM} (milliseconds) on"
        raise SourceError(
            f"split {asked.split}{moments if asked.split == 'timestamp' else ''} leaves no event for "
            f"{' and '.join(empty)} (times: {describe(log.table['time'], WHOLE)}); choose another --split or --core"
        )


def _write_events(
    asked: Amazon, folder: Path, partial: Path, log: RawLog, split: np.ndarray, more: int, tell: Tell
) -> dict[str, Any]:
    """The events in the form that fits, and what a comparison has to say of it; `more` bytes will follow."""
    name, events = folder.name, log.table.height
    by_moments = asked.split == "timestamp"
    # Of three events RecBole's leave-one-out trains on the second, where last_out validates on it.
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
    """The files that hold the events: rating_only, the three of a split, or the raw reviews; the first that are there.

    Raises:
        SourceError: none of them is.
    """
    for core in () if asked.raw else dict.fromkeys((asked.core, 0)):
        if path := find(f"benchmark/{core}core/rating_only/{asked.category}.csv"):
            return [path]
        for split in ("last_out", "timestamp", "last_out_w_his", "timestamp_w_his"):
            names = [f"benchmark/{core}core/{split}/{asked.category}.{part}.csv" for part in SPLITS]
            parts = [find(name) for name in names]
            if any(parts):  # together they are rating_only again, whichever split they are of
                return need(find, names)
    return [raw_reviews(asked.category, find)]


def raw_reviews(category: str, find: Find) -> Path:
    """The reviews of a category as they were collected."""
    return need(find, [f"raw/review_categories/{category}.jsonl"])[0]


def meta_file(category: str, find: Find) -> Path:
    """The metadata of a category's items."""
    return need(find, [f"raw/meta_categories/meta_{category}.jsonl"])[0]


def read_reviews(
    files: list[Path],
    rejected: Rejected,
    progress: Progress | None = None,
    keep: Path | None = None,
    see: See | None = None,
) -> RawLog:
    """All reviews as they stand in the files; of a split's files those of training first.

    `keep` is a folder for what has been read, from which an interrupted reading goes on. `see` is shown the bytes.

    Raises:
        SourceError: a file can't be read, or holds no review.
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
    """COLUMNS for a CSV file without a header, which older releases have; None where the file names its columns.

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
        f"{path}: no column {', '.join(missing)}; columns: {', '.join(known)}. `prepare amazon-2023` reads Amazon "
        "Reviews 2023 alone; for another release or data set use `blair-rec prepare csv` and name its columns "
        "with --user, --item and --time"
    )


def _is_review(cells: Sequence[str]) -> bool:
    """Whether the first line of a file without a header is a row: a rating and a time in the last two cells."""
    rating, time = (read_times(pl.Series([cell]), form) for cell, form in zip(cells[2:], (NUMBER, WHOLE), strict=True))
    return not rating.null_count() and not time.null_count()


def tell_statistics(found: dict[str, Any], known: Published | None, split: str, tell: Tell) -> None:
    """What was found, and beside it what is published."""
    names = ["users", "items", "events", *SPLITS]
    figures: list[str] = [] if known is None else [known.users, known.items, known.events, *getattr(known, split)]
    for name, figure in zip(names, figures or [""] * len(names), strict=True):
        ours = found[name]
        if not figure:
            beside = "not published"
        else:
            beside = f"published: {figure}" + ("" if rounded(ours) == figure else "; not the same data")
        tell(f"{name}: {ours:,} ({beside})")
