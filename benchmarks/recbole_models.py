"""Time of a training step for every model that trains with RecBole's own loss: RecBole's step and ours, in turn.

    python benchmarks/recbole_models.py --dataset DIR [--steps 50] [--batch 256] [--models CORE NARM] [--together 2]

DIR is a folder of atomic files, such as Beauty, whose .item file has a title. Models that read item features get the
first word of the title, which is a brand on Beauty. Settings are RecBole's defaults, with histories of up to 50 items.
Each model has its own process with one thread; `--together` of them run at a time. Both steps get the same batches;
loading of the batch, loss, gradients and Adam count. The unit is CPU time, because other work on the machine disturbs
it less than the time of a clock. Written to benchmarks/results/recbole_models-NAME.{json,md}, with another batch to
recbole_models-NAME-BATCH.{json,md}.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

from side_by_side import write_record

from blair_rec.errors import counted

LONGEST, WARM_UP, BATCH = 50, 2, 256
FEATURE = "first_word"


def write_data(source: Path, folder: Path) -> Path:
    """Copy the events, and write each item's first word of its title as a feature; return the new folder."""
    folder.mkdir()
    (folder / f"{folder.name}.inter").write_bytes((source / f"{source.name}.inter").read_bytes())
    with (
        (source / f"{source.name}.item").open(encoding="utf-8", newline="") as read,
        (folder / f"{folder.name}.item").open("w", encoding="utf-8") as write,
    ):
        rows = csv.DictReader(read, delimiter="\t", quoting=csv.QUOTE_NONE)
        item, title = (
            next(name for name in rows.fieldnames or () if name.startswith(start)) for start in ("item", "title")
        )
        write.write(f"item_id:token\t{FEATURE}:token\n")
        write.writelines(f"{row[item]}\t{(row[title].split() or ['none'])[0].lower()}\n" for row in rows)
    return folder


def names() -> list[str]:
    """Return the models that train with RecBole's own batches and loss."""
    import blair_rec.recbole  # noqa: F401
    from blair_rec.models.eligibility import Eligible, eligibility, recbole_models

    return [name for name in recbole_models() if isinstance(found := eligibility(name), Eligible) and not found.packed]


def time_model(name: str, folder: str, steps: int, batch: int) -> dict[str, Any]:
    """Return the CPU seconds of each step of RecBole's trainer and of ours, and of loading each batch."""
    import blair_rec.recbole  # noqa: F401
    from blair_rec.border.settings import recbole_config
    from blair_rec.config.sections import TrainConfig
    from blair_rec.data.dataset import TextSequentialDataset
    from blair_rec.models.text_models import with_text
    from blair_rec.training.epochs import RecboleWay, recbole_batches, seed_everything
    from blair_rec.training.loop import make_optimizer, run_epoch

    from recbole.trainer import Trainer
    from recbole.utils import get_model

    base = getattr(get_model(name), "recbole_base", get_model(name))
    settings = {
        "MAX_ITEM_LIST_LENGTH": LONGEST,
        "train_batch_size": batch,
        "use_gpu": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", FEATURE]},
        "selected_features": [FEATURE],
        "state": "ERROR",
    }
    config = recbole_config(with_text(base), folder, settings)
    train, _, _ = TextSequentialDataset(config).build()
    seed_everything(1)
    loader = recbole_batches(config, train)
    stock = Trainer(config, base(config, train))
    ours = with_text(base)(config, train)
    ours.load_state_dict(stock.model.state_dict())
    optimizer = make_optimizer(
        ours, TrainConfig(learning_rate=config["learning_rate"], batch_size=batch, loss="recbole")
    )
    found: dict[str, Any] = {"loading": [], "recbole": [], "ours": [], "losses": []}
    batches = iter(loader)
    for number in range(WARM_UP + steps):
        begin = time.process_time()
        rows = next(batches)
        loading = time.process_time() - begin
        copies = copy.deepcopy(rows), copy.deepcopy(rows)
        begin = time.process_time()
        recboles_loss = stock._train_epoch([copies[0]], 0, show_progress=False)
        middle = time.process_time()
        our_loss = run_epoch(ours, optimizer, RecboleWay(ours, [copies[1]])(1))
        end = time.process_time()
        if number >= WARM_UP:
            found["loading"].append(loading)
            found["recbole"].append(loading + middle - begin)
            found["ours"].append(loading + end - middle)
            found["losses"].append([recboles_loss, our_loss])
    return found


def to_page(options: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """Return the table, the largest gain first."""
    from blair_rec.training.stock.loss import CUT, PADDING_COUNTED, PRODUCT_WITH_ALL

    cut, product = ({cls.__name__ for cls in classes} for classes in ({**CUT, **PADDING_COUNTED}, PRODUCT_WITH_ALL))
    lines = [
        f"# A training step of RecBole's models, {options.dataset.name}",
        "",
        f"RecBole's trainer and ours in turn on the same batches of {options.batch} rows, {options.steps} steps of "
        f"each, medians of the CPU time. RecBole's default settings, histories of up to {LONGEST} items, one thread "
        f"per model, {options.together} models at a time. Loading a batch counts for both.",
        "",
        "| model | RecBole, ms | ours, ms | ours is faster by | groups of like length | softmax in chunks |",
        "|---|---:|---:|---:|---|---|",
    ]
    middle = {name: (median(runs["recbole"]), median(runs["ours"])) for name, runs in found.items()}
    for name, (recboles, ours) in sorted(middle.items(), key=lambda pair: -pair[1][0] / pair[1][1]):
        lines.append(
            f"| {name} | {1000 * recboles:,.0f} | {1000 * ours:,.0f} | {recboles / ours:.2f}x | "
            f"{'yes' if name in cut else ''} | {'yes' if name in product else ''} |"
        )
    ratios = sorted(recboles / ours for recboles, ours in middle.values())
    lines += [
        "",
        f"Median {median(ratios):.2f}x, least {ratios[0]:.2f}x; "
        f"{counted(sum(r >= 4 for r in ratios), 'model')} at 4x or more.",
    ]
    return lines


def main() -> None:
    """Time all models and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--together", type=int, default=2, help="models timed at a time, each with one thread")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        with redirect_stdout(io.StringIO()):  # some models print
            found = time_model(options.worker, str(options.dataset), options.steps, options.batch)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_data(options.dataset.resolve(), Path(temporary) / options.dataset.resolve().name)

        def measure(name: str) -> dict[str, Any]:
            command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--worker", name]
            command += ["--dataset", str(folder), "--steps", str(options.steps), "--batch", str(options.batch)]
            one = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=temporary, env=one, check=True)
            runs = json.loads(done.stdout.splitlines()[-1])
            recboles, ours = median(runs["recbole"]), median(runs["ours"])
            print(f"{name}: {1000 * recboles:,.0f} ms, ours {1000 * ours:,.0f} ms, {recboles / ours:.2f}x", flush=True)
            return runs

        wanted = options.models or names()
        with ThreadPoolExecutor(options.together) as pool:
            found = dict(zip(wanted, pool.map(measure, wanted), strict=True))
    page = to_page(options, found)
    if options.models:
        print("\n".join(page))
        return
    settings = {"steps": options.steps, "batch": options.batch, "together": options.together, "threads": 1}
    other = "" if options.batch == BATCH else f"-{options.batch}"
    write_record(f"recbole_models-{options.dataset.name}{other}", settings, found, page)


if __name__ == "__main__":
    main()
