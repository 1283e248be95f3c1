"""blair-rec search and blair-rec search-eval: find the items nearest to a sentence, and measure how well it works."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from blair_rec.cli.lists import split_list
from blair_rec.cli.numbers import number, whole
from blair_rec.cli.progress import Live
from blair_rec.cli.terminal import Console, show, show_json
from blair_rec.cli.unused import refuse_unused
from blair_rec.errors import ConfigError, counted

if TYPE_CHECKING:
    from blair_rec.text.search.evaluation import Judgement, ReportLine
    from blair_rec.text.search.sentences import Hit, TextSearch


def add(commands: Any) -> None:
    """Register the commands."""
    search = commands.add_parser("search", help="find the items whose text is nearest to a sentence")
    _add_common(search)
    search.add_argument(
        "queries", nargs="+", metavar="QUERY", help='a sentence, such as "something to rinse grains in"'
    )
    search.add_argument("--items", type=Path, metavar="FILE", help="the catalogue, to show titles")
    search.add_argument("-k", type=whole, default=10, help="the number of items (default: 10)")
    search.add_argument("--json", action="store_true", help="print a line of JSON for each query")
    search.set_defaults(command=_search)

    evaluate = commands.add_parser(
        "search-eval", help="measure search in a store on queries with known answers: NDCG, recall, MRR"
    )
    _add_common(evaluate)
    evaluate.add_argument(
        "--data", type=Path, metavar="DIR", help="a folder that `prepare amazon-c4` or `prepare esci` wrote"
    )
    evaluate.add_argument("--queries", type=Path, metavar="FILE", help=".csv, .tsv or .jsonl with query_id and query")
    evaluate.add_argument(
        "--qrels", type=Path, metavar="FILE", help="a file with query_id, item_id and grade, if --queries has no grades"
    )
    evaluate.add_argument("--items", type=Path, metavar="FILE", help="the catalogue, for BM25 and categories")
    evaluate.add_argument("--bm25", action="store_true", help="add a BM25 baseline on the same text")
    evaluate.add_argument(
        "--fusion", action="store_true", help="add both searches combined, by the sum of their scores"
    )
    evaluate.add_argument("--fields", metavar="A,B", help="the fields for BM25 (default: those of the store)")
    evaluate.add_argument(
        "--relevant-from",
        type=number,
        default=1.0,
        metavar="GRADE",
        help="the lowest grade that counts as relevant (default: 1)",
    )
    evaluate.add_argument("--json", action="store_true", help="print the report as one JSON object")
    evaluate.set_defaults(command=_evaluate)


def _add_common(command: Any) -> None:
    command.add_argument(
        "store", type=Path, metavar="STORE", help="a folder that `encode` or `compare` (OUT/stores/...) wrote"
    )
    command.add_argument(
        "--item-id",
        metavar="FIELD",
        help="the field of --items that holds the item ids (default: item_id or parent_asin)",
    )
    command.add_argument("--encoder", help="the store's encoder, if it was moved")
    command.add_argument("--metric", default="cosine", help="cosine or dot (default: cosine)")
    command.add_argument(
        "--approximate", action="store_true", help="search faster with faiss; its index is saved next to the store"
    )
    command.add_argument(
        "--device", help="auto, cpu, cuda, cuda:1, ... for the encoder (default: auto, a GPU if there is one)"
    )


def _open(options: argparse.Namespace) -> TextSearch:
    from blair_rec.text.search.sentences import TextSearch

    return TextSearch(
        options.store,
        options.encoder,
        options.items,
        metric=options.metric,
        approximate=options.approximate,
        device=options.device,
        item_id=options.item_id,
    )


def _search(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.text.search.sentences import check_asked

    if options.items is None:
        refuse_unused(options, {"item_id": "--item-id"}, "without --items")
    check_asked(options.queries, options.k)  # before the encoder is loaded
    found = _open(options).search(options.queries, options.k)
    for query, hits in zip(options.queries, found, strict=True):
        if options.json:
            show_json(json.dumps({"query": query, "items": [asdict(hit) for hit in hits]}, ensure_ascii=False))
        else:
            show(query)
            show(_table(hits, titled=options.items is not None))


def _table(hits: list[Hit], titled: bool) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("score", justify="right")
    table.add_column("item", no_wrap=True)
    if titled:
        table.add_column("title")
    for hit in hits:
        cells = [f"{hit.score:.4f}", hit.item_token, *([hit.title] if titled else [])]
        table.add_row(*map(Text, cells))  # Text, because a title may contain rich's markup
    return table


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.text.search.evaluation import Judgement, SearchFiles, item_facts, read_queries, text_template

    if (options.data is None) == (options.queries is None):
        raise ConfigError("give either --data DIR or --queries FILE")
    files = SearchFiles.in_folder(options.data) if options.data else SearchFiles(options.queries)
    files = SearchFiles(files.queries, options.qrels or files.grades, options.items or files.items)
    if files.items is None and (options.bm25 or options.fusion):
        raise ConfigError("BM25 reads the items' text; name the catalogue with --items")
    if files.items is None:
        refuse_unused(options, {"item_id": "--item-id"}, "without --items")
    if not (options.bm25 or options.fusion):
        refuse_unused(options, {"fields": "--fields"}, "without --bm25 or --fusion")
    search = _open(options)
    fields = tuple(split_list(options.fields or ""))
    template = text_template(search.store, fields) if options.bm25 or options.fusion else None
    texts, categories = item_facts(files.items, search.store, template, options.item_id) if files.items else ([], {})
    queries = read_queries(files, categories)
    judgement = Judgement.of(queries, search.store, options.relevant_from)
    with Live(console) as live:
        lines = _lines(options, search, judgement, texts, live)
    facts = {
        "queries": len(judgement.queries),
        "without_relevant_item": len(queries) - len(judgement.queries),
        "items": len(search.store),
        "relevant_without_vector": judgement.lost,
        "relevant_from": options.relevant_from,
        "encoder": search.encoder.source.name,
        "store_sha256": search.store.store_sha256,
    }
    if options.json:
        show_json(json.dumps({**facts, "report": [asdict(line) for line in lines]}, ensure_ascii=False))
    else:
        _show_report(facts, lines)


def _lines(
    options: argparse.Namespace, search: TextSearch, judgement: Judgement, texts: list[str], live: Live
) -> list[ReportLine]:
    """The report of each requested search."""
    from blair_rec.text.search.bm25 import WordIndex
    from blair_rec.text.search.evaluation import CUTOFFS, FUSION_DEPTH, fuse, report

    wanted = [query.text for query in judgement.queries]
    depth = FUSION_DEPTH if options.fusion else max(CUTOFFS)
    name = search.encoder.source.name
    vectors = search.encoder.encode(wanted, progress=lambda done, total: live.encoding(name, done, total))
    found = {"vectors": search.index.search(vectors, depth)}
    if options.bm25 or options.fusion:
        found["BM25"] = WordIndex(texts).search(wanted, depth)
    if options.fusion:
        least = -1.0 if options.metric == "cosine" else None
        found["both"] = fuse(found["vectors"], found["BM25"], max(CUTOFFS), least)
    return [line for name, one in found.items() for line in report(name, judgement, judgement.measures(one))]


def _show_report(facts: dict[str, Any], lines: list[ReportLine]) -> None:
    """Show every metric over all queries, then one metric for each category."""
    metrics = list(lines[0].metrics)
    whole = Table(box=None, header_style="bold")
    for column in ("search", *metrics):
        whole.add_column(column, justify="left" if column == "search" else "right")
    for line in lines:
        if line.category == "all":
            whole.add_row(line.search, *(f"{line.metrics[metric]:.4f}" for metric in metrics))
    show(whole)
    searches = list(dict.fromkeys(line.search for line in lines))
    if len(lines) > len(searches):
        show(_by_category(lines, searches, metrics[-3]))
    queries, items = counted(facts["queries"], "query", "queries"), counted(facts["items"], "item")
    said = [f"{queries} over {items}, encoded with {facts['encoder']}"]
    said.append(f"relevant from grade {facts['relevant_from']:g} on")
    if facts["without_relevant_item"]:
        more = counted(facts["without_relevant_item"], "query", "queries")
        said.append(f"skipped {more} without a relevant item")
    if facts["relevant_without_vector"]:
        said.append(f"counted as missed: {counted(facts['relevant_without_vector'], 'relevant item')} without a vector")
    show("; ".join(said))


def _by_category(lines: list[ReportLine], searches: list[str], metric: str) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("category")
    table.add_column("queries", justify="right")
    for search in searches:
        table.add_column(f"{metric}, {search}", justify="right")
    value = {(line.category, line.search): line.metrics[metric] for line in lines}
    for line in lines:
        if line.search == searches[0] and line.category != "all":
            values = (f"{value[line.category, search]:.4f}" for search in searches)
            table.add_row(line.category, str(line.queries), *values)
    return table
