"""Raw reviews as JSON lines to a 5-core RecBole data set: seconds and memory of ours, and of upstream's way in Python.

    python benchmarks/prepare_reviews.py --folder DIR [--lines 1000000] [--rounds 1] [--way ours]

Writes made-up reviews with the fields of Amazon Reviews 2023 into DIR (about 0.6 KB per line, kept for the next time),
prepares them in all ways in separate processes, and checks that the .inter files are byte-equal. The peer does what
upstream's kcore_filtering.py does, rewritten: every line through json.loads, tuples in lists, dicts of counts that are
updated in each round of the filter. It takes 0.4 GB for a million lines. It is not charged for progress bars, the file
of the 0-core, and the conversion of the 5-core's CSV file to RecBole's format. Neither is charged for item metadata.
Recorded in benchmarks/results/prepare_reviews-LINES.{json,md}.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import in_turn, measured, middle, write_record

SENTENCES = 4096
K = 5
Event = tuple[str, str, float, int]


def write_reviews(path: Path, lines: int, seed: int = 0) -> None:
    """Write reviews with long-tailed activity of users and items, in random order, some of them twice."""
    random = np.random.default_rng(seed)
    users, items = max(lines // 4, 20), max(lines // 50, 20)
    words = np.array([f"word{number}" for number in range(5000)])
    texts = [" ".join(random.choice(words, size=size)) for size in random.integers(5, 70, SENTENCES)]
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        for begin in range(0, lines, 1_000_000):
            size = min(1_000_000, lines - begin)
            user = (users * random.random(size) ** 3).astype(int)
            item = (items * random.random(size) ** 2).astype(int)
            moment = random.integers(1_300_000_000_000, 1_690_000_000_000, size)
            rating, text = random.integers(1, 6, size), random.integers(0, SENTENCES, size)
            for u, i, t, r, s in zip(
                user.tolist(), item.tolist(), moment.tolist(), rating.tolist(), text.tolist(), strict=True
            ):
                file.write(
                    f'{{"rating": {r}.0, "title": "{texts[-s - 1][:40]}", "text": "{texts[s]}", "images": [], '
                    f'"asin": "B{i:09d}", "parent_asin": "B{i:09d}", "user_id": "A{u:027d}", "timestamp": {t}, '
                    f'"helpful_vote": 0, "verified_purchase": true}}\n'
                )
    partial.replace(path)


def ours(reviews: Path, out: Path) -> None:
    """Run `blair-rec prepare amazon-2023` up to the .inter file, including the hash and the converted parts."""
    from blair_rec.lines.rejected import Rejected
    from blair_rec.prepare.dataset import write_log
    from blair_rec.prepare.events import benchmark_rules
    from blair_rec.prepare.folder import Hashes, reading_of
    from blair_rec.prepare.public.reviews import read_reviews

    keep = reading_of(out)
    hashes = Hashes([reviews])
    log = read_reviews([reviews], Rejected(Path(os.devnull)), keep=keep, see=hashes.see)
    hashes.begin()
    write_log(out, benchmark_rules(log, K))
    hashes.all()
    shutil.rmtree(keep, ignore_errors=True)  # a short file leaves none


def converted(reviews: Path, out: Path) -> None:
    """Run the same without what upstream lacks: the SHA-256 of the source, and parts to resume from."""
    from blair_rec.lines.rejected import Rejected
    from blair_rec.prepare.dataset import write_log
    from blair_rec.prepare.events import benchmark_rules
    from blair_rec.prepare.public.reviews import read_reviews

    write_log(out, benchmark_rules(read_reviews([reviews], Rejected(Path(os.devnull))), K))


def upstream(reviews: Path, out: Path) -> None:
    """Run the same with the data structures and loops of upstream's script."""
    events = []
    with reviews.open() as file:
        for line in file:
            review = json.loads(line.strip())
            user, item = review["user_id"], review["parent_asin"]
            events.append((user, item, float(review["rating"]), int(review["timestamp"])))
    with out.open("w") as file:
        file.write("user_id:token\titem_id:token\trating:float\ttimestamp:float\n")
        for user, item, rating, moment in upstream_core(upstream_order(events)):
            file.write(f"{user}\t{item}\t{rating}\t{moment}\n")


def upstream_order(events: list[Event]) -> list[Event]:
    """Sort by user and time, and keep the first of each pair."""
    by_user = defaultdict(list)
    for user, item, rating, moment in events:
        by_user[user].append((user, item, rating, moment))
    ordered = []
    for own in by_user.values():
        own.sort(key=lambda event: event[3])
        seen = set()
        for event in own:
            if event[1] not in seen:
                seen.add(event[1])
                ordered.append(event)
    return ordered


def upstream_core(events: list[Event]) -> list[Event]:
    """Remove users and items with too few events, round by round; update the counts."""
    users, items = defaultdict(int), defaultdict(int)
    for event in events:
        users[event[0]] += 1
    for event in events:
        items[event[1]] += 1
    while True:
        busy = {user for user, count in users.items() if count >= K}
        popular = {item for item, count in items.items() if count >= K}
        if len(busy) == len(users) and len(popular) == len(items):
            return events
        users, items, kept = defaultdict(int), defaultdict(int), []
        for event in events:
            if event[0] in busy and event[1] in popular:
                kept.append(event)
                users[event[0]] += 1
                items[event[1]] += 1
        events = kept


def read_through(path: Path) -> None:
    """Read the file, so that every way finds it in the system's cache, as far as memory allows."""
    with path.open("rb") as file:
        while file.read(16 << 20):
            pass


WAYS = {"upstream": upstream, "ours": ours, "converted": converted}
NAMES = {"upstream": "upstream's way in Python", "ours": "ours", "converted": "ours, without hash and kept parts"}


def to_page(runs: dict[str, list[dict[str, Any]]], lines: int, size: int) -> list[str]:
    """Return the record as lines of Markdown."""
    page = [
        f"# Raw reviews to a {K}-core data set: {lines:,} JSON lines, {size / 1e9:.1f} GB",
        "",
        f"All write the same bytes. Median of {len(runs['upstream'])}; the file is read once before each; "
        "memory is the peak above the imports.",
        "",
        "| | seconds | times as fast | CPU seconds | share of CPU | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    base = {key: middle(runs["upstream"], key) for key in ("seconds", "cpu_seconds")}
    for way, name in NAMES.items():
        seconds, cpu, peak = (middle(runs[way], key) for key in ("seconds", "cpu_seconds", "peak_mib"))
        ratios = f"{seconds:.1f} | {base['seconds'] / seconds:.1f} | {cpu:.1f} | {cpu / base['cpu_seconds']:.2f}"
        page.append(f"| {name} | {ratios} | {peak:,.0f} |")
    return page


def main() -> None:
    """Make the reviews, prepare them in both ways, compare and record; or be one of the ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the reviews")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help="only this one, without a record")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    reviews, outs = folder / f"reviews-{options.lines}.jsonl", {way: folder / f"{way}.inter" for way in WAYS}
    if options.child:

        def job() -> dict[str, float]:
            WAYS[options.child](reviews, outs[options.child])
            return {"cpu_seconds": time.process_time()}

        measured(job)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not reviews.is_file():
        write_reviews(reviews, options.lines)
    command = [str(Path(__file__).resolve()), "--folder", str(folder), "--lines", str(options.lines), "--child"]
    ways = [options.way] if options.way else list(WAYS)
    runs = in_turn({way: [*command, way] for way in ways}, options.rounds, str(folder), lambda: read_through(reviews))
    if options.way:
        return
    if not all(filecmp.cmp(outs["upstream"], out, shallow=False) for out in outs.values()):
        sys.exit("the ways don't agree")
    settings = {"lines": options.lines, "bytes": reviews.stat().st_size, "core": K, "rounds": options.rounds}
    page = to_page(runs, options.lines, reviews.stat().st_size)
    write_record(f"prepare_reviews-{options.lines}", settings, runs, page)


if __name__ == "__main__":
    main()
