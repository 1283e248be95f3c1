"""RecTools' SASRec and eSASRec on our split: sampled softmax, and for eSASRec LiGR layers.

    PYTHON benchmarks/foreign/rectools_sequential.py SPLIT -o LISTS --system rectools_esasrec [--minutes 60]

The settings are those that the authors of eSASRec chose for Amazon Beauty (repository blondered/transformer_benchmark,
table in its README): width 64, 1 block, 1 head, dropout 0.2, window 50, 256 negatives, Adam at 0.001, at most 200
epochs, patience 50. configs/paper/loo of the same repository has a width of 256, which takes four times as long.
The best epoch is chosen on validation, as in all scripts of this folder.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from course import Course, arguments, write_record
from split_files import ABSENT, Cases, Ranking, read_split, validate, write_lists

LIGR = "rectools.models.nn.transformers.ligr.LiGRLayers"
AUTHORS: dict[str, Any] = {
    "n_factors": 64,
    "n_blocks": 1,
    "n_heads": 1,
    "dropout_rate": 0.2,
    "session_max_len": 50,
    "loss": "sampled_softmax",
    "n_negatives": 256,
    "lr": 0.001,
    "batch_size": 128,
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "rectools_sasrec": AUTHORS,
    "rectools_esasrec": {
        **AUTHORS,
        "use_key_padding_mask": True,
        "transformer_layers_type": LIGR,
        "transformer_layers_kwargs": {"ff_factors_multiplier": 4},
    },
}
EPOCHS, PATIENCE = 200, 50
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}
"""Lightning's names of devices."""


def dataset_of(sequences: list[list[int]]) -> Any:
    """Sequences of item ids, oldest first, as RecTools' Dataset. Users are the places of the sequences."""
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset

    lengths = [len(sequence) for sequence in sequences]
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(sequences)), lengths),
            Columns.Item: np.concatenate([np.array(sequence, dtype=np.int64) for sequence in sequences]),
            Columns.Weight: 1,
            # The place in the sequence, because tied times would be sorted in another order.
            Columns.Datetime: pd.to_datetime(np.concatenate([np.arange(n) for n in lengths]), unit="s"),
        }
    )
    return Dataset.construct(frame)


def main() -> None:
    """Train one system until the limit, and write its lists and its record."""
    parser = arguments(__doc__)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    options = parser.parse_args()

    from pytorch_lightning import Callback, Trainer, seed_everything
    from rectools import Columns
    from rectools.models import SASRecModel

    split = read_split(options.split)
    valid, test = dataset_of(split.valid.histories), dataset_of(split.test.histories)
    course = Course(options.minutes, PATIENCE, options.device)

    def rank(cases: Cases, masked: bool, k: int) -> Ranking:
        dataset = valid if cases is split.valid else test
        rows = model.recommend(np.arange(len(cases.names)), dataset, k, masked, on_unsupported_targets="ignore")
        ids = np.full((len(cases.names), k), ABSENT, dtype=np.int64)
        scores = np.zeros(ids.shape, dtype=np.float32)
        place = rows[Columns.User].to_numpy(), rows[Columns.Rank].to_numpy() - 1
        ids[place], scores[place] = rows[Columns.Item], rows[Columns.Score]
        return ids, scores

    class Validation(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            trainer.should_stop = course.is_late()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            model.is_fitted = True
            if course.add(self.done, validate(rank, split)):
                course.weights = copy.deepcopy(module.torch_model.state_dict())
            model.is_fitted = False
            module.train()
            trainer.should_stop = course.is_over()

    def trainer() -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        limits = {"max_epochs": EPOCHS, "min_epochs": 0, "enable_checkpointing": False}
        return Trainer(callbacks=[Validation()], accelerator=ACCELERATORS[options.device], **limits, **quiet)

    seed_everything(options.seed, verbose=False)
    settings = SYSTEMS[options.system]
    model = SASRecModel.from_config(
        {**settings, "epochs": EPOCHS, "get_trainer_func": trainer, "recommend_torch_device": options.device}
    )
    model.fit(dataset_of(split.train))
    model.lightning_model.torch_model.load_state_dict(course.weights)
    write_lists(rank, split, options.out, options.system)
    record = {"settings": settings, "seed": options.seed, "device": options.device, "trials": 1, **course.record()}
    write_record(options.out, options.system, ("rectools", "torch", "pytorch-lightning"), record)


if __name__ == "__main__":
    main()
