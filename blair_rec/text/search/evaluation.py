"""Measure how well searches find what queries ask for: NDCG, recall and MRR of vectors, of BM25, and of both together.

A search benchmark has queries, and for each query grades of items: higher is better, and items that are not listed have
grade 0. An item is relevant to a query if its grade is at least `relevant_from`.

- NDCG@k: the gain of an item is its grade, relevant or not; its discount is 1 / log2(rank + 1). The ideal is the best
  order of all items that were graded for the query (Jarvelin and Kekalainen, 2002, with the gains of trec_eval).
- Recall@k: the share of a query's relevant items that are among the first k.
- MRR@k: 1 / the rank of the first relevant item, 0 if none is among the first k.

Each metric is the mean over all queries that have at least one relevant item, in float64. Tied items are ranked in the
order of the store.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import ConfigError, SourceError, StoreError, counted, first_of
from blair_rec.text.catalogue import Value, iter_catalogue, json_row, texts_in
from blair_rec.text.search.nearest import Found
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.template import Template, recorded_template

QUERY_FILES = ("queries.jsonl", "queries.tsv", "queries.csv", "test.csv")
GRADE_FILES = ("qrels.tsv", "qrels.csv", "qrels.jsonl")
ITEM_FILES = ("items.jsonl", "sampled_item_metadata_1M.jsonl", "sampled_item_metadata_esci.jsonl")
"""File names to look for in a folder: ours, then Amazon-C4's, then those of upstream's process_esci.py."""
QUERY_ID, ITEM, GRADE = ("query_id", "qid"), ("item_id", "product_id"), ("grade", "esci_label")
"""Accepted names of the columns."""
LABELS = {"E": 3.0, "S": 2.0, "C": 1.0, "I": 0.0}
"""ESCI's labels: exact, substitute, complement, irrelevant."""
CUTOFFS = (10, 100)
FUSION_DEPTH = 200
"""Top results of each search that a fusion uses."""


@dataclass(frozen=True)
class Query:
    """A query and the grades of its items."""

    text: str
    grades: Mapping[str, float]
    """Grades by item token; all other items have grade 0."""
    category: str = ""
    """Category of the query; "" if it isn't known."""


@dataclass(frozen=True)
class SearchFiles:
    """The files of a search benchmark."""

    queries: Path
    grades: Path | None = None
    """None if each row of `queries` names an item itself."""
    items: Path | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> SearchFiles:
        """Find the files in a folder, under the names of `blair-rec prepare` or as published.

        Raises SourceError if there is no file of queries.
        """
        queries, grades, items = (
            next((folder / name for name in names if (folder / name).is_file()), None)
            for names in (QUERY_FILES, GRADE_FILES, ITEM_FILES)
        )
        if queries is None:
            raise SourceError(f"{folder} holds no queries; looked for {', '.join(QUERY_FILES)}")
        return cls(queries, grades, items)


def read_queries(files: SearchFiles, category_of: Mapping[str, str] | None = None) -> list[Query]:
    """Read all queries that have grades, in file order; files are CSV, tab-separated values or JSON lines.

    A query is a row with query_id (or qid) and query, and perhaps a category. A grade is a row with query_id, item_id
    (or product_id) and grade (or esci_label; 1 without either). Grades are in a separate file or in that of the
    queries, where a query may then have several rows. A query without a category gets that of its best item from
    `category_of`.

    Raises SourceError, with the line, for a row that can't be used.
    """
    texts: dict[str, str] = {}
    categories: dict[str, str] = {}
    grades: dict[str, dict[str, float]] = {}
    for where, row in _rows(files.queries):
        query_id, text = _cell(row, QUERY_ID, where), _cell(row, ("query",), where)
        if texts.setdefault(query_id, text) != text or (files.grades and query_id in categories):
            raise SourceError(f"{where}: the query_id {query_id} is already used; give each query its own query_id")
        categories[query_id] = str(row.get("category") or "")
        if files.grades is None:
            _add_grade(grades.setdefault(query_id, {}), row, where)
    for where, row in _rows(files.grades) if files.grades else ():
        query_id = _cell(row, QUERY_ID, where)
        if query_id not in texts:
            raise SourceError(f"{where}: {files.queries} has no query {query_id!r}")
        _add_grade(grades.setdefault(query_id, {}), row, where)
    best = {query_id: max(items, key=lambda token: items[token]) for query_id, items in grades.items()}
    of_item = category_of or {}
    return [
        Query(text, grades[query_id], categories[query_id] or of_item.get(best[query_id], ""))
        for query_id, text in texts.items()
        if query_id in grades
    ]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """Yield (file and line, row) of each row of a table."""
    if path.suffix not in (".csv", ".tsv", ".jsonl"):
        raise SourceError(f"{path}: unknown kind of file; known endings: .csv, .tsv, .jsonl")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".jsonl":
                numbered: Iterator[tuple[int, Any]] = (
                    (number, json_row(line, f"{path}, line {number}"))
                    for number, line in enumerate(file, start=1)
                    if line.strip()
                )
            else:
                comma = path.suffix == ".csv"  # in a TSV file a quotation mark is an ordinary character
                table = csv.DictReader(file) if comma else csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                numbered = ((table.line_num, row) for row in table)
            for number, row in numbered:
                if None in row:  # csv's key for further cells
                    raise SourceError(f"{path}, line {number} has more columns than the first line; leave them out")
                yield f"{path}, line {number}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} can't be read ({error})") from error


def _cell(row: Mapping[str, Value], names: Sequence[str], where: str) -> str:
    """The text in the first of these columns that the row has."""
    value = next((row[name] for name in names if name in row), None)
    if not isinstance(value, str) or not value.strip():
        raise SourceError(f"{where}: {' or '.join(names)} is missing or empty; columns: {', '.join(map(str, row))}")
    return value


def _add_grade(grades: dict[str, float], row: Mapping[str, Value], where: str) -> None:
    """Add the grade of a row to those of its query; the same grade twice is no error."""
    item, grade = _cell(row, ITEM, where), _grade(row, where)
    if grades.setdefault(item, grade) != grade:
        raise SourceError(f"{where}: item {item} has grade {grades[item]:g} for this query already; give it one grade")


def _grade(row: Mapping[str, Value], where: str) -> float:
    if not any(name in row for name in GRADE):
        return 1.0
    said = _cell(row, GRADE, where)
    try:
        grade = LABELS[said] if said in LABELS else float(said)
    except ValueError:
        grade = np.nan
    if not np.isfinite(grade):
        raise SourceError(f"{where}: the grade is {said!r}; it has to be a number, or one of {', '.join(LABELS)}")
    return grade


def text_template(store: EmbeddingStore, fields: Sequence[str] = ()) -> Template:
    """The template for the items' text: from `fields` or, if empty, the template of the store's vectors.

    Raises ConfigError if there are no `fields` and the store records no template.
    """
    if fields:
        return Template("fields", tuple(fields))
    if (template := recorded_template(store.template)) is None:
        raise ConfigError(
            f"the store {store.path} doesn't say which text its vectors were made from; name the fields with --fields"
        )
    return template


def item_facts(
    items: Path, store: EmbeddingStore, template: Template | None, item_id: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Read from a catalogue (the text of each row of the store, or ""; categories by item token).

    `item_id` is that of read_catalogue. If an item has several rows, its first text and its first category are used.
    Without a template no text is read.

    Raises StoreError if there is a template but the file has no text for any of the items.
    """
    texts = [""] * len(store)
    categories: dict[str, str] = {}
    row_of = {token: row for row, token in enumerate(store.item_tokens)}
    for token, record in iter_catalogue(items, item_id):
        if template and token in row_of and not texts[row_of[token]]:
            texts[row_of[token]] = template.line(record)
        if category := texts_in(record.get("category")):
            categories.setdefault(token, category[0])
    if template and not any(texts):
        wanted = f"{items} has no text in {', '.join(template.fields)} for any of the {counted(len(store), 'item')}"
        raise StoreError(f"{wanted} of {store.path}; name the catalogue that was encoded")
    return texts, categories


@dataclass(frozen=True, eq=False)
class Judgement:
    """Queries whose relevant items are known, as rows of a store."""

    queries: tuple[Query, ...]
    """The queries with a relevant item."""
    grades: tuple[Mapping[int, float], ...]
    """[queries] grades above 0 by row; each item that is not in the store has its own key, -1 or below."""
    relevant_from: float = 1.0
    """The lowest grade that makes an item relevant."""

    @classmethod
    def of(cls, queries: Sequence[Query], store: EmbeddingStore, relevant_from: float = 1.0) -> Judgement:
        """Look up the graded items of these queries in a store.

        Raises ConfigError if the threshold isn't above 0 or no query reaches it, StoreError if most relevant items have
        no vector.
        """
        if not relevant_from > 0:
            raise ConfigError(f"relevant_from is {relevant_from}; it has to be above 0, the grade of all other items")
        kept = tuple(query for query in queries if max(query.grades.values()) >= relevant_from)
        if not kept:
            raise ConfigError(
                f"no query has an item of grade {relevant_from:g} or more (queries with grades: {len(queries):,}); "
                "give such grades, or a lower relevant_from"
            )
        judgement = cls(kept, tuple(_by_row(query, store) for query in kept), relevant_from)
        lost, relevant = judgement.lost, sum(map(len, judgement.relevant))
        if lost * 2 > relevant:
            known = ", ".join(store.tokens.at(range(min(3, len(store)))))
            raise StoreError(
                f"the store {store.path} has no vector for {lost} of {counted(relevant, 'relevant item')} (first: "
                f"{first_of(list(kept[0].grades))}; the store has: {known}); encode the items that are graded"
            )
        return judgement

    @cached_property
    def relevant(self) -> tuple[set[int], ...]:
        """[queries] rows of the relevant items."""
        return tuple({row for row, grade in one.items() if grade >= self.relevant_from} for one in self.grades)

    @property
    def lost(self) -> int:
        """Number of relevant items, over all queries, that have no row: no search of this store can find them."""
        return sum(row < 0 for rows in self.relevant for row in rows)

    def measures(self, found: Found, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
        """NDCG, Recall and MRR at each cutoff of the results for these queries: [queries] float64 by metric name."""
        depth = max(cutoffs)
        gains, ideal, hits = np.zeros((3, len(self.queries), depth))
        for at, rows in enumerate(found.rows[:, :depth].tolist()):
            rows = [row for row in rows if row >= 0]
            best = sorted(self.grades[at].values(), reverse=True)[:depth]
            gains[at, : len(rows)] = [self.grades[at].get(row, 0.0) for row in rows]
            hits[at, : len(rows)] = [row in self.relevant[at] for row in rows]
            ideal[at, : len(best)] = best
        discount = 1 / np.log2(np.arange(depth) + 2.0)
        relevant = np.array([len(rows) for rows in self.relevant])
        first = np.where(hits.any(axis=1), hits.argmax(axis=1), depth)
        measured = {}
        for k in cutoffs:
            measured[f"NDCG@{k}"] = (gains * discount)[:, :k].sum(axis=1) / (ideal * discount)[:, :k].sum(axis=1)
            measured[f"Recall@{k}"] = hits[:, :k].sum(axis=1) / relevant
            measured[f"MRR@{k}"] = np.where(first < k, 1 / (first + 1.0), 0.0)
        return measured


def _by_row(query: Query, store: EmbeddingStore) -> dict[int, float]:
    """A query's grades above 0 by row."""
    rows = store.tokens.find(list(query.grades)).tolist()
    return {
        row if 0 <= row < len(store) else -1 - at: grade
        for at, (row, grade) in enumerate(zip(rows, query.grades.values(), strict=True))
        if grade > 0
    }


def fuse(vectors: Found, words: Found, k: int, least: float | None = -1.0) -> Found:
    """Combine a search by vectors and one by BM25: the top k by the sum of both scores, each scaled to 0..1.

    Scores are scaled from the lowest possible score to the query's best one. The lowest possible score is `least` for
    vectors (-1 for cosines; None means the lowest score found) and 0 for BM25. A row that only one search found gets
    the lowest scaled score of the other one. Both searches have the same weight: nothing is fitted to the queries. Tied
    sums are ranked in row order. Source: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval",
    ACM TOIS 2023 (TM2C2).
    """
    queries = len(vectors.rows)
    rows, scores = np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf)
    for at in range(queries):
        lists = [(rank.rows[at], rank.scores[at], lowest) for rank, lowest in ((vectors, least), (words, 0.0))]
        lists = [(found[found >= 0], score[found >= 0], lowest) for found, score, lowest in lists]
        candidates = np.unique(np.concatenate([found for found, _, _ in lists]))
        sums = np.zeros(len(candidates))
        for found, score, lowest in lists:
            if len(found):
                lowest = score[-1] if lowest is None else lowest
                unit = (score - lowest) / max(score[0] - lowest, np.finfo(np.float64).tiny)
                of_candidate = np.full(len(candidates), unit[-1])
                of_candidate[np.searchsorted(candidates, found)] = unit
                sums += of_candidate
        order = np.argsort(-sums, kind="stable")[:k]
        rows[at, : len(order)], scores[at, : len(order)] = candidates[order], sums[order]
    return Found(rows, scores)


@dataclass(frozen=True)
class ReportLine:
    """One line of a report: the metrics of one search on one category of queries."""

    search: str
    category: str
    """"all", or a category of the queries."""
    queries: int
    metrics: Mapping[str, float]
    """Means over these queries."""


def report(search: str, judgement: Judgement, measures: Mapping[str, np.ndarray]) -> list[ReportLine]:
    """The means over all queries and, if there are several categories, over each one, the largest category first."""
    categories = np.array([query.category or "none" for query in judgement.queries])
    names, counts = np.unique(categories, return_counts=True)
    chosen = {"all": np.ones(len(categories), bool)}
    if len(names) > 1:
        chosen |= {str(names[at]): categories == names[at] for at in np.argsort(-counts, kind="stable")}
    return [
        ReportLine(
            search, name, int(of.sum()), {metric: float(values[of].mean()) for metric, values in measures.items()}
        )
        for name, of in chosen.items()
    ]
