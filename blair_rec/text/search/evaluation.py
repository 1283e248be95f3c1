"""How well searches find what queries ask for: NDCG, recall and MRR of vectors, of BM25, and of both together.

A search benchmark is queries, and grades of items for each of them: higher is better, and what is not listed is 0. An
item is relevant to a query if its grade is at least `relevant_from`.

- NDCG@k: the gain of an item is its grade, relevant or not, its discount 1 / log2(place + 1), and the ideal is the best
  order of all items that were graded for the query (Jarvelin and Kekalainen, 2002, with the gains of trec_eval).
- Recall@k: the share of a query's relevant items that are among the first k.
- MRR@k: 1 / the place of the first relevant item, 0 if none is among the first k.

Each is the mean over all queries that have at least one relevant item, in float64. Of items with equal scores the one
that stands first in the store comes first.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import ConfigError, SourceError, StoreError, first_of
from blair_rec.text.catalogue import Value, iter_catalogue, json_row, texts_in
from blair_rec.text.search.nearest import Found
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.template import Template

QUERY_FILES = ("queries.jsonl", "queries.tsv", "queries.csv", "test.csv")
GRADE_FILES = ("qrels.tsv", "qrels.csv", "qrels.jsonl")
ITEM_FILES = ("items.jsonl", "sampled_item_metadata_1M.jsonl", "sampled_item_metadata_esci.jsonl")
"""What a folder may call its files: ours, then Amazon-C4's, then those of upstream's process_esci.py."""
QUERY_ID, ITEM, GRADE = ("query_id", "qid"), ("item_id", "product_id"), ("grade", "esci_label")
"""What a file may call its columns."""
LABELS = {"E": 3.0, "S": 2.0, "C": 1.0, "I": 0.0}
"""ESCI's: exact, substitute, complement, irrelevant."""
CUTOFFS = (10, 100)
FUSION_DEPTH = 200
"""Places of each list that a fusion looks at."""


@dataclass(frozen=True)
class Query:
    """What somebody looked for."""

    text: str
    grades: Mapping[str, float]
    """By item token; of all others it is 0."""
    category: str = ""
    """"" where it isn't known."""


@dataclass(frozen=True)
class SearchFiles:
    """The files of a search benchmark."""

    queries: Path
    grades: Path | None = None
    """None where each row of `queries` names an item."""
    items: Path | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> SearchFiles:
        """As `blair-rec prepare` writes them, or as they are published. Raises SourceError without queries."""
        queries, grades, items = (
            next((folder / name for name in names if (folder / name).is_file()), None)
            for names in (QUERY_FILES, GRADE_FILES, ITEM_FILES)
        )
        if queries is None:
            raise SourceError(f"{folder} holds no queries; looked for {', '.join(QUERY_FILES)}")
        return cls(queries, grades, items)


def read_queries(files: SearchFiles, category_of: Mapping[str, str] | None = None) -> list[Query]:
    """All queries that are graded, in the order of their file: CSV, tab-separated values or JSON lines.

    A query is a row with query_id (or qid) and query, and perhaps a category; grades are rows with query_id, item_id
    (or product_id) and grade (or esci_label; 1 without either), in a file of their own or in that of the queries, where
    a query may then stand in several rows. A query without a category has that of its best item, by `category_of`.

    Raises SourceError, with the line, for what can't be understood.
    """
    texts: dict[str, str] = {}
    categories: dict[str, str] = {}
    grades: dict[str, dict[str, float]] = {}
    for where, row in _rows(files.queries):
        query_id, text = _cell(row, QUERY_ID, where), _cell(row, ("query",), where)
        if texts.setdefault(query_id, text) != text or (files.grades and query_id in categories):
            raise SourceError(f"{where}: query {query_id} stands there already; give each a query_id of its own")
        categories[query_id] = str(row.get("category") or "")
        if files.grades is None:
            grades.setdefault(query_id, {})[_cell(row, ITEM, where)] = _grade(row, where)
    for where, row in _rows(files.grades) if files.grades else ():
        query_id = _cell(row, QUERY_ID, where)
        if query_id not in texts:
            raise SourceError(f"{where}: {files.queries} has no query {query_id!r}")
        grades.setdefault(query_id, {})[_cell(row, ITEM, where)] = _grade(row, where)
    best = {query_id: max(items, key=lambda token: items[token]) for query_id, items in grades.items()}
    of_item = category_of or {}
    return [
        Query(text, grades[query_id], categories[query_id] or of_item.get(best[query_id], ""))
        for query_id, text in texts.items()
        if query_id in grades
    ]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """(where it stands, row) of each row of a table."""
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
                comma = path.suffix == ".csv"  # between tabs a quotation mark is a character like any other
                table = csv.DictReader(file) if comma else csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                numbered = ((table.line_num, row) for row in table)
            yield from ((f"{path}, line {number}", row) for number, row in numbered)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} can't be read ({error})") from error


def _cell(row: Mapping[str, Value], names: Sequence[str], where: str) -> str:
    """The text in the first of these columns that is there."""
    value = next((row[name] for name in names if name in row), None)
    if not isinstance(value, str) or not value.strip():
        raise SourceError(f"{where}: {' or '.join(names)} is missing or empty; columns: {', '.join(map(str, row))}")
    return value


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
    """How the items' text is made: from `fields`, or else as the store's vectors were.

    Raises ConfigError where neither says.
    """
    if fields:
        return Template("fields", tuple(fields))
    if not store.template:
        raise ConfigError(f"the store {store.path} doesn't say which text its vectors were made of; name its --fields")
    return Template(store.template["name"], tuple(store.template["fields"]))


def item_facts(
    items: Path, store: EmbeddingStore, template: Template | None, item_id: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """(the text of each row of the store, "" where there is none; categories by item token) of a catalogue.

    `item_id` is that of read_catalogue; of an item's rows the first one that has a text, or a category, counts.

    Raises StoreError if the file has no text for any of the items, which doesn't matter without a template.
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
        wanted = f"{items} has no text in {', '.join(template.fields)} for any of the {len(store)} items"
        raise StoreError(f"{wanted} of {store.path}; name the catalogue that was encoded")
    return texts, categories


@dataclass(frozen=True, eq=False)
class Judgement:
    """Queries whose relevant items are known, as rows of a store."""

    queries: tuple[Query, ...]
    """Those with a relevant item."""
    grades: tuple[Mapping[int, float], ...]
    """[queries] grades above 0 by row; items that the store doesn't have are at -1 and below, each at its own."""
    relevant_from: float = 1.0
    """The lowest grade that makes an item relevant."""

    @classmethod
    def of(cls, queries: Sequence[Query], store: EmbeddingStore, relevant_from: float = 1.0) -> Judgement:
        """Raises ConfigError for a threshold that isn't above 0; StoreError if most relevant items have no vector."""
        if not relevant_from > 0:
            raise ConfigError(f"relevant_from is {relevant_from}; it has to be above 0, which is what nobody graded")
        kept = tuple(query for query in queries if max(query.grades.values()) >= relevant_from)
        if not kept:
            raise ConfigError(f"none of the {len(queries)} queries has an item of grade {relevant_from:g} or more")
        judgement = cls(kept, tuple(_by_row(query, store) for query in kept), relevant_from)
        lost, relevant = judgement.lost, sum(map(len, judgement.relevant))
        if lost * 2 > relevant:
            known = ", ".join(store.tokens.at(range(min(3, len(store)))))
            raise StoreError(
                f"the store {store.path} has no vector for {lost} of {relevant} relevant items (first: "
                f"{first_of(list(kept[0].grades))}; its own: {known}); encode the items that the queries are about"
            )
        return judgement

    @cached_property
    def relevant(self) -> tuple[set[int], ...]:
        """[queries] rows of the relevant items."""
        return tuple({row for row, grade in one.items() if grade >= self.relevant_from} for one in self.grades)

    @property
    def lost(self) -> int:
        """Relevant items, over all queries, that have no row: no search of this store can find them."""
        return sum(row < 0 for rows in self.relevant for row in rows)

    def measures(self, found: Found, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
        """NDCG, Recall and MRR at each cutoff of what was found for these queries: [queries] float64 by name."""
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
    """The best k of a search by vectors and one by BM25: the sum of both scores, each between 0 and 1.

    A score runs from the least there can be, which is `least` for vectors (-1 for cosines; None for the least that was
    found) and 0 for BM25, to the query's best; what only one of them found has the other's least found. Both weigh the
    same: nothing is fitted to the queries. Of equal sums the first row is first. Source: Bruch, Gai and Ingber, "An
    Analysis of Fusion Functions for Hybrid Retrieval", ACM TOIS 2023 (TM2C2).
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
    """One line of a report: how one search did on one kind of query."""

    search: str
    category: str
    """"all", or a category of the queries."""
    queries: int
    metrics: Mapping[str, float]
    """Means over these queries."""


def report(search: str, judgement: Judgement, measures: Mapping[str, np.ndarray]) -> list[ReportLine]:
    """The means over all queries and, if there are several categories, over those of each, the largest first."""
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
