"""Convert the search benchmarks Amazon-C4 and ESCI to one simple format: `blair-rec prepare amazon-c4 | esci`.

The result is a folder with three files: items.jsonl (item_id and texts, one item per line), queries.jsonl (query_id,
query, and category if known) and qrels.tsv (query_id, item_id, grade: higher is better; unlisted pairs have grade 0).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from blair_rec.errors import SourceError, counted, first_of
from blair_rec.lines.rejected import REJECTED, Rejected
from blair_rec.prepare.folder import Hashes, Tell, is_done, need_room, new_folder, write_record
from blair_rec.prepare.public.sources import in_folder, need, on_hub
from blair_rec.prepare.reading.blocks import Progress
from blair_rec.prepare.reading.records import columns_among, read_table

C4_HUB = "McAuley-Lab/Amazon-C4"
C4_FILES = ("test.csv", "sampled_item_metadata_1M.jsonl")
ESCI_FILES = ("test.csv", "sampled_item_metadata_esci.jsonl")
"""Files as upstream's process_esci.py writes them."""
ESCI_ORIGINAL = ("shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet")
"""Files as in amazon-science/esci-data."""
GRADES = {"E": 3, "S": 2, "C": 1, "I": 0}
"""Exact, substitute, complement, irrelevant."""
PRODUCT = {
    "product_title": "title",
    "product_bullet_point": "features",
    "product_description": "description",
    "product_brand": "brand",
    "product_color": "color",
}


@dataclass(frozen=True)
class SearchData:
    """A request for a search benchmark."""

    name: str
    """amazon-c4 or esci."""
    source: Path | None = None
    """A folder with the files; for Amazon-C4 the hub by default."""
    max_rejected: float = 0.01
    """The share of lines that may be rejected."""

    def __post_init__(self) -> None:
        if self.source is None and self.name == "esci":
            raise SourceError(
                f"esci needs --source: a folder with {' and '.join(ESCI_FILES)}, or with {' and '.join(ESCI_ORIGINAL)}"
            )


def prepare_search(
    asked: SearchData, folder: Path, tell: Tell, progress: Progress | None = None, *, fresh: bool = False
) -> bool:
    """Write items.jsonl, queries.jsonl and qrels.tsv to `folder`; return False if the same command already made them.

    Raises:
        SourceError: a file is missing or can't be read, or queries ask for items that don't exist.
        RejectedLines: too many lines can't be used.
        OutputError: the folder can't be written, or has other content.
    """
    find = in_folder(asked.source) if asked.source is not None else on_hub(C4_HUB, tell)
    original = asked.name == "esci" and find(ESCI_ORIGINAL[0]) is not None
    files = ESCI_ORIGINAL if original else ESCI_FILES if asked.name == "esci" else C4_FILES
    sources = need(find, files)
    if is_done(folder, asdict(asked), sources, fresh):
        return False
    with new_folder(folder) as partial:
        hashes = Hashes(sources)
        hashes.begin()
        need_room(folder, 2 * sum(path.stat().st_size for path in sources), tell)
        rejected = Rejected(partial / REJECTED, asked.max_rejected)
        counts = (_graded if original else _one_item_each)(sources, partial, rejected, progress)
        rejected.check()
        tell(", ".join(f"{name}: {count:,}" for name, count in counts.items()))
        write_record(partial, asdict(asked), hashes, {**counts, "rejected_lines": rejected.count})
    return True


def _one_item_each(sources: list[Path], out: Path, rejected: Rejected, progress: Progress | None) -> dict[str, int]:
    """Convert upstream's format: each query asks for one item; each item of the pool has a category and one text."""
    queries, pool = sources
    # process_esci.py writes the item as `item`, but all of its readers expect `item_id`.
    item = "item_id" if columns_among(pool, ["item_id"]) else "item"
    category_of: dict[str, str] = {}

    def items() -> Iterator[dict[str, Any]]:
        for table, lines in read_table(pool, [item, "metadata", "category"], rejected, progress):
            for (name, text, category), line in zip(table.iter_rows(), lines, strict=True):
                if not name or name in category_of:
                    rejected.add(pool, line, f"{item} {name!r} is empty or occurs twice", "")
                    continue
                category_of[name] = category or ""
                yield {"item_id": name, "metadata": text or "", "category": category or ""}

    _write_lines(out / "items.jsonl", items())
    asked: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for table, lines in read_table(queries, ["qid", "query", "item_id"], rejected, progress):
        for (query_id, query, name), line in zip(table.iter_rows(), lines, strict=True):
            if not query_id or not query or not query.strip() or query_id in seen:
                rejected.add(queries, line, f"qid {query_id!r} is empty or occurs twice, or its query is empty", "")
                continue
            seen.add(query_id)
            asked.append((query_id, query, name))
    _check_items([name for _, _, name in asked], category_of)
    rows = ({"query_id": one, "query": query, "category": category_of[name]} for one, query, name in asked)
    _write_lines(out / "queries.jsonl", rows)
    _write_qrels(out, ((query_id, name, 1) for query_id, _, name in asked))
    return {"items": len(category_of), "queries": len(asked), "grades": len(asked)}


def _graded(sources: list[Path], out: Path, rejected: Rejected, progress: Progress | None) -> dict[str, int]:
    """Convert the original format: like upstream, the test split of the small version in American English."""
    examples, products = sources
    names = ["query_id", "query", "product_id", "product_locale", "esci_label", "small_version", "split"]
    rows = pl.concat([table for table, _ in read_table(examples, names, rejected, progress)] or [pl.DataFrame()])
    chosen = pl.col("product_locale").eq("us") & pl.col("small_version").eq("1") & pl.col("split").eq("test")
    rows = rows.filter(chosen) if rows.height else rows
    if not rows.height:
        raise SourceError(f"{examples} has no example for the test split of the small version in locale us")
    if unknown := sorted(set(rows["esci_label"].fill_null("none")) - set(GRADES)):
        raise SourceError(f"{examples}: unknown labels {first_of(unknown)}; known: {', '.join(GRADES)}")
    wanted = set(rows["product_id"])
    found: set[str] = set()

    def items() -> Iterator[dict[str, Any]]:
        for table, _ in read_table(products, ["product_id", "product_locale", *PRODUCT], rejected, progress):
            for name, locale, *texts in table.iter_rows():
                if locale == "us" and name in wanted and name not in found:
                    found.add(name)
                    yield {"item_id": name, **dict(zip(PRODUCT.values(), texts, strict=True))}

    _write_lines(out / "items.jsonl", items())
    _check_items(sorted(wanted), found)
    queries = rows.select("query_id", "query").unique("query_id", keep="first", maintain_order=True)
    _write_lines(out / "queries.jsonl", ({"query_id": one, "query": query} for one, query in queries.iter_rows()))
    grades = rows.select("query_id", "product_id", "esci_label").iter_rows()
    _write_qrels(out, ((query_id, name, GRADES[label]) for query_id, name, label in grades))
    return {"items": len(found), "queries": queries.height, "grades": rows.height}


def _check_items(asked_for: list[str], known: Iterable[str]) -> None:
    if lost := sorted(set(asked_for) - set(known)):
        raise SourceError(f"queries ask for {counted(len(lost), 'item')} outside the pool (first: {first_of(lost)})")


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_qrels(out: Path, rows: Iterable[tuple[str, str, int]]) -> None:
    with (out / "qrels.tsv").open("w", encoding="utf-8", newline="\n") as file:
        file.write("query_id\titem_id\tgrade\n")
        file.writelines(f"{query_id}\t{name}\t{grade}\n" for query_id, name, grade in rows)
