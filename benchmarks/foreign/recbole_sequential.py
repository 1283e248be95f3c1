"""Stock RecBole's SASRec, or the authors' UniSRec, on our split, with RecBole's own trainer.

    PYTHON benchmarks/foreign/recbole_sequential.py SPLIT -o LISTS --system recbole_sasrec [--minutes 60]
    PYTHON benchmarks/foreign/recbole_sequential.py SPLIT -o LISTS --system unisrec --code UniSRec --text TEXT.npy

SASRec has RecBole's default settings, with cross-entropy. UniSRec is the code of its authors (a clone of the repository
RUCAIBox/UniSRec) with the settings of props/: transductive, without pre-training. TEXT.npy and TEXT.ids.json are text
vectors that `blair-rec store export` wrote; the authors use BERT's first token.

Two things differ from RecBole: an epoch is measured by NDCG@10 with histories masked, as in all scripts of this folder,
and the time limit may end it early. Neither needs the repairs of blair_rec.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from course import Course, arguments, write_record
from split_files import Cases, Ranking, best_of, read_split, validate, write_lists

BLOCK = 1024
"""Cases scored together."""
STOCK = {"train_neg_sample_args": None}
"""Cross-entropy over all items needs no negatives. Everything else is RecBole's default."""


class TimeIsUp(Exception):
    """The limit ended the training inside of an epoch."""


def text_of(path: Path, tokens: list[str]) -> np.ndarray:
    """Text vectors of RecBole's item ids [N, width] float32; zeros for the padding and for items without text."""
    vectors = np.load(path).astype(np.float32)
    rows = {token: row for row, token in enumerate(json.loads(path.with_suffix(".ids.json").read_text("utf-8")))}
    found = np.zeros((len(tokens), vectors.shape[1]), dtype=np.float32)
    for item_id, token in enumerate(tokens):
        if token in rows:
            found[item_id] = vectors[rows[token]]
    return found


def model_of(options: Any, folder: Path) -> tuple[Any, type, dict[str, Any]]:
    """Return RecBole's Config, the model's class, and the settings that the record names."""
    from recbole.config import Config
    from recbole.model.sequential_recommender.sasrec import SASRec

    (files,) = folder.iterdir()
    also = {"data_path": str(folder), "seed": options.seed, "show_progress": False}
    also["use_gpu"] = options.device == "cuda"
    also["checkpoint_dir"] = "saved"
    sources = [str(next(files.glob("*.yaml")))]
    cls: type = SASRec
    if options.system == "unisrec":
        sys.path.insert(0, str(options.code))
        from unisrec import UniSRec

        cls = UniSRec
        width = np.load(options.text, mmap_mode="r").shape[1]
        also |= {"plm_size": width, "adaptor_layers": [width, 300]}
        sources = [str(options.code / "props" / f"{name}.yaml") for name in ("UniSRec", "finetune")] + sources
    else:
        also |= STOCK
    config = Config(model=cls, dataset=files.name, config_file_list=sources, config_dict=also)
    names = ("hidden_size", "inner_size", "n_layers", "n_heads", "hidden_dropout_prob", "attn_dropout_prob")
    names += ("learning_rate", "train_batch_size", "stopping_step", "MAX_ITEM_LIST_LENGTH", "loss_type")
    names += ("temperature", "n_exps", "plm_size", "train_stage") if options.system == "unisrec" else ()
    return config, cls, {name: config[name] for name in names}


def main() -> None:
    """Train one system until the limit, and write its lists and its record."""
    parser = arguments(__doc__)
    parser.add_argument("--system", choices=("recbole_sasrec", "unisrec"), required=True)
    parser.add_argument("--code", type=Path, help="a clone of RUCAIBox/UniSRec, for unisrec")
    parser.add_argument("--text", type=Path, help="text vectors (.npy, with .ids.json next to it), for unisrec")
    options = parser.parse_args()
    if options.system == "unisrec" and not (options.code and options.text):
        parser.error("--system unisrec needs --code and --text")
    for name in ("split", "out", "code", "text"):
        setattr(options, name, getattr(options, name) and getattr(options, name).resolve())
    split = read_split(options.split)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes logs into the working directory
        train(options, split)
        os.chdir(options.out)


def train(options: Any, split: Any) -> None:
    """Train in the working directory, which RecBole fills with its logs."""
    import torch

    from recbole.data import create_dataset, data_preparation
    from recbole.data.interaction import Interaction
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    config, cls, settings = model_of(options, options.split / "recbole")
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    tokens = [str(token) for token in dataset.field2id_token["item_id"]]
    if options.system == "unisrec":
        dataset.plm_embedding = torch.nn.Embedding.from_pretrained(
            torch.from_numpy(text_of(options.text, tokens)), padding_idx=0
        )
    train_data, valid_data, _ = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    model = cls(config, train_data.dataset).to(config["device"])
    number = {token: item_id for item_id, token in enumerate(tokens)}
    theirs = np.array([number.get(item, 0) for item in split.items])
    window, steps_per_epoch = config["MAX_ITEM_LIST_LENGTH"], len(train_data)
    course = Course(options.minutes, config["stopping_step"], options.device)
    steps = 0

    def rank(cases: Cases, masked: bool, k: int) -> Ranking:
        model.eval()
        parts = []
        for begin in range(0, len(cases.names), BLOCK):
            histories = cases.histories[begin : begin + BLOCK]
            sequences = torch.zeros(len(histories), window, dtype=torch.int64)
            lengths = torch.tensor([min(len(history), window) for history in histories])
            for row, history in enumerate(histories):
                sequences[row, : lengths[row]] = torch.from_numpy(theirs[history[-window:]])
            with torch.no_grad():
                batch = Interaction({model.ITEM_SEQ: sequences, model.ITEM_SEQ_LEN: lengths}).to(config["device"])
                scores = model.full_sort_predict(batch).view(len(histories), -1).cpu().numpy()[:, theirs]
            scores[:, theirs == 0] = -np.inf  # items without any event, which RecBole never saw
            parts.append(best_of(scores, histories if masked else None, k))
        ids, values = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(values)

    def measure() -> float:
        if course.add(steps / steps_per_epoch, valid := validate(rank, split)):
            course.weights = copy.deepcopy(model.state_dict())
        return valid

    class Timed(Trainer):
        def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
            valid = measure()
            return valid, {"ndcg@10": valid}

    loss_of = model.calculate_loss

    def timed_loss(interaction: Any) -> Any:
        nonlocal steps
        if course.is_late():
            raise TimeIsUp
        steps += 1
        return loss_of(interaction)

    model.calculate_loss = timed_loss
    try:
        Timed(config, model).fit(train_data, valid_data, saved=False, show_progress=False)
    except TimeIsUp:
        if not course.curve or steps > course.curve[-1]["epoch"] * steps_per_epoch + 0.5:
            measure()
    model.load_state_dict(course.weights)
    write_lists(rank, split, options.out, options.system)
    record = {"settings": settings, "seed": options.seed, "device": options.device, "trials": 1, **course.record()}
    write_record(options.out, options.system, ("recbole", "torch"), record)


if __name__ == "__main__":
    main()
