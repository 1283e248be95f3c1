"""Pairs of a review and its item's metadata, to train a text encoder on: `blair-rec prepare amazon-2023 --pairs`.

The choice is BLaIR's (blair/sample_pretraining_data.py of hyp1231/AmazonReviews2023): a tenth of the reviews older than
the validation cut-off; title and text of the review, title, features and description of the item, each side longer than
30 characters. Unlike there, the tenth is drawn by a seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from blair_rec.errors import ConfigError, SourceError
from blair_rec.lines.rejected import REJECTED, Rejected
from blair_rec.prepare.events import VALID_FROM
from blair_rec.prepare.folder import Hashes, Tell, is_done, need_room, new_folder, write_record
from blair_rec.prepare.items import ItemFile, flat
from blair_rec.prepare.public.reviews import check_category, finder, meta_file, raw_reviews
from blair_rec.prepare.reading.blocks import Progress
from blair_rec.prepare.reading.records import columns_among, read_table
from blair_rec.prepare.times import WHOLE, read_times

LONGER_THAN = 30
"""Characters: a text has to be longer than that."""
META = ("title", "features", "description")
"""What of an item's metadata is put together."""


@dataclass(frozen=True)
class Pairs:
    """What is asked for."""

    category: str
    """Such as All_Beauty."""
    source: Path | None = None
    """A folder with the raw files; the hub if not given."""
    share: float = 0.1
    """Of the reviews that are drawn, before any is left out for other reasons."""
    seed: int = 0
    """Decides which."""
    max_rejected: float = 0.01
    """The share of lines that may be unusable."""

    def __post_init__(self) -> None:
        check_category(self.category, self.source)
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}; it has to be more than 0 and at most 1")


def prepare_pairs(
    asked: Pairs, folder: Path, tell: Tell, progress: Progress | None = None, *, fresh: bool = False
) -> bool:
    """`folder`/pairs.tsv: item_id, review, meta, a pair on each line, in the order of the reviews; no quoting.

    Held in memory are the texts of the items that the drawn reviews are about. False if the folder was made by the same
    command before.

    Raises:
        SourceError: a file is missing or can't be read, or no pair is left.
        RejectedLines: too many lines can't be used.
        OutputError: the folder can't be written, or holds something else.
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
        drawn = partial / "drawn"  # between the two passes; which items are needed is known only behind the first
        drawn.mkdir()
        wanted = _draw(asked, sources[0], drawn, rejected, progress)
        meta = _meta(sources[1], wanted, rejected, progress)
        count = _write(partial / "pairs.tsv", drawn, meta)
        if not count:
            raise SourceError(f"no pair is left of {rejected.lines:,} lines")
        tell(f"pairs: {count:,} about {meta.height:,} items")
        found: dict[str, Any] = {"pairs": count, "rejected_lines": rejected.count}
        write_record(partial, asdict(asked), hashes, found)
    return True


def _draw(asked: Pairs, reviews: Path, drawn: Path, rejected: Rejected, progress: Progress | None) -> set[str]:
    """The drawn reviews, a Parquet file for each chunk, and the items they are about."""
    random = np.random.default_rng(asked.seed)
    wanted: set[str] = set()
    columns = ["parent_asin", "timestamp", "title", "text"]
    for number, (table, lines) in enumerate(read_table(reviews, columns, rejected, progress)):
        chosen = random.random(table.height) < asked.share  # of all that can be read: one draw for each
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
    """[items] item_id and meta, of the wanted items whose text is long enough."""
    items = ItemFile(path, "parent_asin", tuple(columns_among(path, META)))
    repeated = items.names(rejected, progress).repeated
    texts = ((row["item_id"], " ".join(_said(row))) for row in items.rows(wanted, progress, repeated))
    table = pl.DataFrame(texts, schema={"item_id": pl.String, "meta": pl.String}, orient="row")
    table = table.with_columns(_one_line(pl.col("meta")))
    return table.filter(pl.col("meta").str.len_chars() > LONGER_THAN)


def _said(row: dict[str, Any]) -> list[str]:
    """The texts of the fields that say something; an empty title counts as a text, an empty list does not."""
    return [flat(row[name]) for name in META if row.get(name) is not None and row[name] != []]


def _one_line(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"[\t\n]", " ").str.replace_all("\r", "", literal=True).str.strip_chars()


def _write(path: Path, drawn: Path, meta: pl.DataFrame) -> int:
    """The pairs, and how many they are; what was drawn goes."""
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
