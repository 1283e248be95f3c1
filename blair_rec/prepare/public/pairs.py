"""Pairs of a review and its item's metadata, to train a text encoder: `blair-rec prepare amazon-2023 --pairs`.

The selection follows BLaIR (blair/sample_pretraining_data.py of hyp1231/AmazonReviews2023). It takes a tenth of the
reviews before the validation cut-off. One side is the title and text of the review, the other the title, features and
description of the item; each has more than 30 characters. Unlike upstream, the sample depends on a seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from blair_rec.errors import ConfigError, SourceError, check_whole, counted
from blair_rec.lines.rejected import REJECTED, Rejected
from blair_rec.prepare.events import VALID_FROM
from blair_rec.prepare.folder import Hashes, Tell, check_limits, is_done, need_room, new_folder, write_record
from blair_rec.prepare.items import ItemFile, flat
from blair_rec.prepare.public.reviews import check_category, finder, meta_file, raw_reviews
from blair_rec.prepare.reading.blocks import Progress
from blair_rec.prepare.reading.records import columns_among, read_table
from blair_rec.prepare.times import WHOLE, read_times

LONGER_THAN = 30
"""A text must have more characters than this."""
META = ("title", "features", "description")
"""The metadata fields that are joined into one text."""


@dataclass(frozen=True)
class Pairs:
    """A request for pairs."""

    category: str
    """A category such as All_Beauty."""
    source: Path | None = None
    """A folder with the raw files; by default the hub."""
    share: float = 0.1
    """The share of reviews to sample, before other filters apply."""
    seed: int = 0
    """The seed of the sample."""
    max_rejected: float = 0.01
    """The share of lines that may be rejected."""

    def __post_init__(self) -> None:
        check_category(self.category, self.source)
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}; it must be more than 0 and at most 1")
        check_whole("seed", self.seed, least=0)
        check_limits(0, self.max_rejected)


def prepare_pairs(
    asked: Pairs, folder: Path, tell: Tell, progress: Progress | None = None, *, fresh: bool = False
) -> bool:
    """Write `folder`/pairs.tsv; return False if the same command already made it.

    Each line is a pair: item_id, review, meta; in the order of the reviews, without quoting. Memory holds the texts of
    the items of the sampled reviews.

    Raises:
        SourceError: a file is missing or can't be read, or no pair is left.
        RejectedLines: too many lines can't be used.
        OutputError: the folder can't be written, or has other content.
    """
    find = finder(asked.source, tell)
    sources = [raw_reviews(asked.category, find), meta_file(asked.category, find)]
    if is_done(folder, asdict(asked), sources, fresh):
        return False
    with new_folder(folder) as partial:
        hashes = Hashes(sources)
        hashes.begin()
        rejected = Rejected(partial / REJECTED, asked.max_rejected)
        need_room(folder, int(sum(path.stat().st_size for path in sources) * asked.share), tell)
        drawn = partial / "drawn"  # kept between the two passes: the needed items are known only after the first
        drawn.mkdir()
        wanted = _draw(asked, sources[0], drawn, rejected, progress)
        meta = _meta(sources[1], wanted, rejected, progress)
        count = _write(partial / "pairs.tsv", drawn, meta)
        if not count:
            raise SourceError(
                f"no pair is left of {counted(rejected.lines, 'line')}; use a larger share or another category"
            )
        tell(f"pairs: {count:,} about {counted(meta.height, 'item')}")
        found: dict[str, Any] = {"pairs": count, "rejected_lines": rejected.count}
        write_record(partial, asdict(asked), hashes, found)
    return True


def _draw(asked: Pairs, reviews: Path, drawn: Path, rejected: Rejected, progress: Progress | None) -> set[str]:
    """Sample reviews into one Parquet file per chunk; return the items of these reviews."""
    random = np.random.default_rng(asked.seed)
    wanted: set[str] = set()
    columns = ["parent_asin", "timestamp", "title", "text"]
    for number, (table, lines) in enumerate(read_table(reviews, columns, rejected, progress)):
        chosen = random.random(table.height) < asked.share  # one draw per readable review
        times = read_times(table["timestamp"], WHOLE)
        wrong = (times.is_null() | table["parent_asin"].fill_null("").eq("")).to_numpy()
        for row in np.flatnonzero(wrong).tolist():
            rejected.add(reviews, lines[row], "no timestamp, or no parent_asin", "")
        part = table.select(
            pl.col("parent_asin").alias("item_id"),
            _one_line(pl.concat_str("title", "text", separator=" ", ignore_nulls=True)).alias("review"),
        ).filter(chosen & ~wrong & (times < VALID_FROM).fill_null(False).to_numpy())
        part = part.filter(pl.col("review").str.len_chars() > LONGER_THAN)
        if part.height:
            part.write_parquet(drawn / f"{number:09d}.parquet")
            wanted.update(part["item_id"])
    rejected.check()
    return wanted


def _meta(path: Path, wanted: set[str], rejected: Rejected, progress: Progress | None) -> pl.DataFrame:
    """Return a table of item_id and meta, for the wanted items whose text is long enough."""
    items = ItemFile(path, "parent_asin", tuple(columns_among(path, META)))
    repeated = items.names(rejected, progress).repeated
    texts = ((row["item_id"], " ".join(_said(row))) for row in items.rows(wanted, progress, repeated))
    table = pl.DataFrame(texts, schema={"item_id": pl.String, "meta": pl.String}, orient="row")
    table = table.with_columns(_one_line(pl.col("meta")))
    return table.filter(pl.col("meta").str.len_chars() > LONGER_THAN)


def _said(row: dict[str, Any]) -> list[str]:
    """Return the texts of the fields that have a value; an empty title counts as a text, an empty list doesn't."""
    return [flat(row[name]) for name in META if row.get(name) is not None and row[name] != []]


def _one_line(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"[\t\n]", " ").str.replace_all("\r", "", literal=True).str.strip_chars()


def _write(path: Path, drawn: Path, meta: pl.DataFrame) -> int:
    """Write the pairs, return their number, and remove the sampled reviews."""
    count = 0
    with path.open("wb") as file:
        file.write(b"item_id\treview\tmeta\n")
        for part in sorted(drawn.iterdir()):
            pairs = pl.read_parquet(part).join(meta, on="item_id", maintain_order="left")
            pairs.write_csv(file, include_header=False, separator="\t", quote_style="never")
            count += pairs.height
            part.unlink()
    drawn.rmdir()
    return count
