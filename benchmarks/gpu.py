"""Checks on a GPU: equal ranks, bit-equal resumed trainings, and speed and memory against goals.

    python benchmarks/gpu.py [--parts ranks,resume,epoch,...] [--beauty DIR] [--device cuda] [-o DIR]
    python benchmarks/gpu.py --small --device cpu

Needs the packages of blair_rec, and no network. `--beauty` names a RecBole folder of Amazon Beauty (2014, 5-core;
made by datasets/make_public.py); without it a random log with as many users, items and events is used. The encoder
has RoBERTa-base's shape, random weights, and a tokenizer over made-up words.
`--small` shrinks everything, to try the script on a CPU. Written to DIR/gpu.{json,md} (default: benchmarks/results);
parts of an earlier record from the same device and versions are kept, each with its own date and commit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_encoder
import numpy as np
import torch
from gpu_page import to_markdown
from gpu_peers import PaddedTraining
from torch import Tensor

import blair_rec.recbole  # noqa: F401  (first of all: without its repairs, importing RecBole fails)
from blair_rec.config.sections import TrainConfig
from blair_rec.data.sequences import TrainingSequences, training_sequences
from blair_rec.ranking.scoring import ItemMatrix, Products, _rank, rank
from blair_rec.training.epochs import EveryPosition, build_training
from blair_rec.training.loop import fit, make_optimizer, run_epoch
from blair_rec.training.losses import full_softmax

BEAUTY = {"users": 22_363, "items": 12_101, "events": 198_502}
WIDTH, WINDOW, TARGETS = 128, 50, 2048
Found = dict[str, Any]


@dataclass
class Bench:
    """Device, size and working folder of a benchmark."""

    device: torch.device
    small: bool
    beauty: Path | None
    folder: Path
    """Folder for intermediate files."""

    def size(self, full: int, small: int) -> int:
        """Return the first value, or the second with --small."""
        return small if self.small else full

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """Return the median wall time of `work`, after one warm-up."""
        times = []
        for _ in range(1 + (1 if self.small else rounds)):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[1:])

    @contextmanager
    def peak(self, found: Found, name: str) -> Iterator[None]:
        """Record in found[name] the peak bytes of the block above those before it; nothing on a CPU."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        torch.cuda.synchronize()
        found[name] = torch.cuda.max_memory_allocated() - before


def product_rate(bench: Bench, rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """Return the operations per second of [rows, inner] x [inner, columns] on random numbers."""
    a, b = (torch.randn(shape, device=bench.device, dtype=dtype) for shape in ((rows, inner), (inner, columns)))
    times = 2 if bench.small else 20
    return times * 2.0 * rows * inner * columns / bench.seconds(lambda: [a @ b for _ in range(times)])


def log_folder(folder: Path, users: int, items: int, events: int) -> Path:
    """Write a RecBole folder with a random log, in which every second event is the successor of the previous item."""
    if folder.is_dir():
        return folder
    generator = np.random.default_rng(1)
    length = 5 + generator.multinomial(events - 5 * users, generator.dirichlet(np.full(users, 0.7)))
    user = np.repeat(np.arange(users), length)
    item = (items * generator.random(len(user)) ** 2).astype(np.int64)
    item[1::2] = (item[0 : len(item) - 1 : 2] + 1) % items
    folder.mkdir(parents=True)
    with (folder / f"{folder.name}.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        rows = zip(user.tolist(), item.tolist(), strict=True)
        file.writelines(f"u{who}\ti{what}\t{number}\n" for number, (who, what) in enumerate(rows))
    return folder


@dataclass
class World:
    """Return a data set as RecBole reads it for our SASRec on one device."""

    config: Any
    train: Any
    test: Any
    sequences: TrainingSequences

    def model(self, train: TrainConfig, seed: int = 1) -> tuple[Any, EveryPosition]:
        """Return a model initialised by the seed, and the steps of its training."""
        from blair_rec.models.text_models import model_class

        model, steps = build_training(model_class("SASRec"), self.config, self.train, self.sequences, train, seed)
        assert isinstance(steps, EveryPosition)
        return model, steps


def world(bench: Bench, device: str) -> World:
    """Return Amazon Beauty, or a random log of its size."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    folder = bench.beauty
    if folder is None:
        size = {"users": 300, "items": 200, "events": 3000} if bench.small else BEAUTY
        folder = log_folder(bench.folder / "LikeBeauty", **size)
    settings = {
        "data_path": str(folder.resolve().parent),
        "train_neg_sample_args": None,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": WINDOW,
        "hidden_size": WIDTH,
        "inner_size": 2 * WIDTH,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5,
        "use_gpu": device != "cpu",
        "state": "ERROR",
        "seed": 1,
    }
    config = Config(model="BLaIRSASRec", dataset=folder.resolve().name, config_dict=settings)
    train, _, test = data_preparation(config, create_dataset(config))
    return World(config, train._dataset, test._dataset, training_sequences(train._dataset))


def ranks(bench: Bench) -> Found:
    """Train on the device, then rank the test split there and on the CPU with the same weights."""
    here, cpu = world(bench, bench.device.type), world(bench, "cpu")
    train = TrainConfig(epochs=3, batch_size=TARGETS)
    model, steps = here.model(train)
    optimizer = make_optimizer(model, train)
    for epoch in (1, 2, 3):
        run_epoch(model, optimizer, steps(epoch))
    twin, _ = cpu.model(train)
    twin.load_state_dict(model.state_dict())
    ours, theirs = rank(model, here.test, 4096, k=10), rank(twin, cpu.test, 4096, k=10)
    found: Found = {"cases": len(ours.user)}
    for name in ("higher_unmasked", "equal_unmasked", "higher_masked", "equal_masked"):
        a, b = getattr(ours, name), getattr(theirs, name)
        found[name] = {"differ": int((a != b).sum()), "by at most": int(np.abs(a - b).max())}
    for name in ("topk_unmasked", "topk_masked"):
        found[name] = {"differ": int((getattr(ours, name) != getattr(theirs, name)).any(1).sum())}
    return found


def resume(bench: Bench) -> Found:
    """Compare the weights after three epochs with those after two epochs and one resumed from a checkpoint."""
    here = world(bench, bench.device.type)
    found: Found = {}
    for loss in ("full_softmax", "sampled_softmax"):
        train = TrainConfig(epochs=3, batch_size=TARGETS, loss=loss)
        ends = []
        for parts in ((3,), (2, 3)):
            checkpoint = bench.folder / f"{loss}-{len(parts)}.safetensors"
            for until in parts:
                model, steps = here.model(train)
                fit(model, steps, lambda: {"NDCG@10": 0.0}, "NDCG@10", train, checkpoint=checkpoint, until=until)
            ends.append(torch.cat([p.detach().flatten().cpu() for p in model.parameters()]))
        found[loss] = {
            "numbers": len(ends[0]),
            "differ": int((ends[0] != ends[1]).sum()),
            "by at most": float((ends[0] - ends[1]).abs().max()),
        }
    return found


def epoch(bench: Bench) -> Found:
    """Return the seconds of an epoch of `id` on Beauty: ours and a padded SASRec in plain PyTorch, in turn."""
    here = world(bench, bench.device.type)
    n_items = int(here.train.item_num)
    found: Found = {
        "data": "Beauty" if bench.beauty else "random, tiny" if bench.small else "random, of Beauty's size",
        "users": len(here.sequences.offsets) - 1,
        "items": n_items - 1,
        "targets": here.sequences.n_targets,
    }
    rivals: dict[str, Callable[[], object]] = {}
    for precision in ("float32", "bfloat16"):
        train = TrainConfig(batch_size=TARGETS, precision=precision)
        model, steps = here.model(train)
        optimizer = make_optimizer(model, train)
        rivals[f"ours, {precision}"] = lambda m=model, o=optimizer, s=steps: run_epoch(m, o, s(1))
    shape = {"window": WINDOW, "width": WIDTH, "inner": 2 * WIDTH, "layers": 2, "heads": 2}
    plain = PaddedTraining(here.sequences.items, here.sequences.offsets, n_items, bench.device, **shape)
    users = max(1, round(TARGETS * len(plain.rows) / plain.n_targets))
    rivals["padded, scores at every slot"] = lambda: plain.epoch(users, only_targets=False)
    rivals["padded, scores at targets"] = lambda: plain.epoch(users, only_targets=True)
    rivals["padded, scores at every slot, 128 users a step"] = lambda: plain.epoch(128, only_targets=False)
    rounds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(3):
        for name, work in rivals.items():
            rounds[name].append(bench.seconds(work, rounds=1))
    found["targets of the padded one"], found["users a step of the padded one"] = plain.n_targets, users
    found["seconds"] = {name: statistics.median(times) for name, times in rounds.items()}
    found["peak bytes"] = {}
    for name, work in rivals.items():
        with bench.peak(found["peak bytes"], name):
            work()
    return found


def softmax(bench: Bench) -> Found:
    """Time one step's loss and gradients over 500,000 items, against its products alone and two libraries."""
    items, targets = bench.size(500_000, 3_000), bench.size(8192, 64)
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(items + 1, WIDTH, generator=generator) * 0.1).to(bench.device).requires_grad_()
    hidden = torch.randn(targets, WIDTH, generator=generator).to(bench.device).requires_grad_()
    target = torch.randint(1, items + 1, (targets,), generator=generator).to(bench.device)
    found: Found = {"items": items, "targets": targets, "width": WIDTH, "rows": {}}

    def step(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def work() -> Tensor:
            weight.grad = hidden.grad = None
            value = loss()
            value.backward()
            return value

        return work

    for precision in (torch.float32, torch.bfloat16):
        h, w = hidden.detach().to(precision), weight.detach().to(precision)

        def products(h: Tensor = h, w: Tensor = w) -> None:
            for part in h.split(max(16, (1 << 30) // h.element_size() // items)):
                scores = part @ w.T
                _ = scores @ w, scores.T @ part

        name = str(precision).removeprefix("torch.")
        rows = {
            f"products alone, {name}": products,
            f"ours, {name}": step(lambda p=precision: full_softmax(hidden, target, weight, precision=p)),
        }
        for library, loss in library_losses(hidden, weight, target, precision).items():
            rows[f"{library}, {name}"] = step(loss)
        for row, work in rows.items():
            one: Found = {}
            try:
                with bench.peak(one, "peak bytes"):
                    value = work()
                one["seconds"] = bench.seconds(work, rounds=2)
                one["loss"] = None if value is None else float(value.detach())
            except (RuntimeError, ValueError, TypeError) as error:
                one["error"] = f"{type(error).__name__}: {str(error)[:200]}"
            found["rows"][row] = one
    return found


def library_losses(
    hidden: Tensor, weight: Tensor, target: Tensor, precision: torch.dtype
) -> dict[str, Callable[[], Tensor]]:
    """Return the losses of the installed libraries, over all items except the padding."""
    losses: dict[str, Callable[[], Tensor]] = {}
    if hidden.device.type != "cuda":
        return losses
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        losses["liger-kernel"] = lambda: liger_fused_linear_cross_entropy(
            hidden.to(precision), weight[1:].to(precision), target - 1
        )
    except ImportError:
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy

        if precision != torch.float32:
            losses["cut-cross-entropy"] = lambda: linear_cross_entropy(
                hidden.to(precision), weight[1:].to(precision), target - 1
            )
    except ImportError:
        pass
    return losses


def ranking(bench: Bench) -> Found:
    """Time ranks and top-20 of 100,000 users among 500,000 items, histories of 8 items; 2,000 users on the CPU."""
    items, users, share = bench.size(500_000, 3_000), bench.size(100_000, 500), bench.size(2_000, 500)
    generator = torch.Generator().manual_seed(1)
    vectors, states = torch.randn(items + 1, WIDTH, generator=generator), torch.randn(users, WIDTH, generator=generator)
    seen = torch.randint(1, items + 1, (users, 8), generator=generator)
    target = torch.randint(1, items + 1, (users,), generator=generator)

    def ranked(device: torch.device, users: int, batch: int) -> Tensor:
        matrix, found = ItemMatrix(vectors.to(device)), []
        for begin in range(0, users, batch):
            rows = slice(begin, min(begin + batch, users))
            case = torch.arange(rows.stop - rows.start, device=device).repeat_interleave(8)
            scores = Products(states[rows].to(device), matrix)
            one = _rank(scores, target[rows].to(device), case, seen[rows].flatten().to(device), 20)
            found.append(one["topk_masked"].cpu())
        return torch.cat(found)

    result: Found = {"items": items, "users": users, "users of the CPU": share, "threads": torch.get_num_threads()}
    with bench.peak(result, "peak bytes"):
        here = ranked(bench.device, users, 4096)
    begin = time.perf_counter()
    ranked(bench.device, users, 4096)
    result["seconds"] = time.perf_counter() - begin
    begin = time.perf_counter()
    there = ranked(torch.device("cpu"), share, 512)
    result["seconds of the CPU for all users"] = (time.perf_counter() - begin) * users / share
    result["top-20 that differ"] = int((here[:share] != there).any(1).sum())
    return result


def encoding(bench: Bench) -> Found:
    """Time texts to vectors with RoBERTa-base's shape, in bfloat16, against the rate of bfloat16 products."""
    return gpu_encoder.encoding(bench, product_rate)


def pretraining(bench: Bench) -> Found:
    """Time BLaIR's recipe with RoBERTa-base's shape, in bfloat16, against the rate of bfloat16 products."""
    return gpu_encoder.pretraining(bench, product_rate)


PARTS = {part.__name__: part for part in (ranks, resume, epoch, softmax, ranking, encoding, pretraining)}


def main() -> None:
    """Run the parts, one after another, and write the record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, separated by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--beauty", type=Path, help="RecBole folder of Amazon Beauty")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    device = torch.device(options.device)
    from blair_rec.experiment.provenance import git_commit

    made = {"date": datetime.date.today().isoformat(), "git_commit": git_commit()}
    record: Found = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "small": options.small,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(file.read_text("utf-8")) if (file := options.out / "gpu.json").is_file() else {}
    record["parts"] = earlier["parts"] if {**earlier, "parts": 0} == {**record, "parts": 0} else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, options.small, options.beauty, Path(folder))
        for name in options.parts.split(","):
            begin = time.perf_counter()
            record["parts"][name] = PARTS[name](bench)
            record["parts"][name] |= {"took": time.perf_counter() - begin, **made}
            print(name, json.dumps(record["parts"][name]), flush=True)
            file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            (options.out / "gpu.md").write_text(to_markdown(record), encoding="utf-8")


if __name__ == "__main__":
    main()
