"""RecTools' SASRec and eSASRec on our split: sampled softmax, and for eSASRec LiGR layers.

    PYTHON benchmarks/foreign/rectools_sequential.py SPLIT -o LISTS --system rectools_esasrec [--minutes 60]

The settings are those that the authors of eSASRec chose for Amazon Beauty (repository blondered/transformer_benchmark,
table in its README): width 64, 1 block, 1 head, dropout 0.2, window 50, 256 negatives, Adam at 0.001, at most 200
epochs, patience 50. configs/paper/loo of the same repository has a width of 256, which takes four times as long.
The best epoch is chosen on validation, as in all scripts of this folder.

One thing differs from RecTools, so that a CPU gets through about 200 epochs in an hour: logits of padded positions,
which the loss ignores, are not computed (88% of all on Beauty), and the others come from one matrix product. The first
batch is computed both ways, and the record keeps the difference of losses and gradients.
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


def without_padding() -> Any:
    """Return RecTools' similarity module, with zeros instead of logits where the target is padding."""
    from rectools.models.nn.transformers.similarity import DistanceSimilarityModule

    class WithoutPadding(DistanceSimilarityModule):  # type: ignore[misc]  # the base has no types
        def _get_pos_neg_logits(self, session_embs: Any, item_embs: Any, candidate_item_ids: Any) -> Any:
            real = candidate_item_ids[:, :, 0] != 0  # the first candidate is the target
            logits = session_embs.new_zeros(candidate_item_ids.shape)
            logits[real] = (session_embs[real] @ item_embs.T).gather(1, candidate_item_ids[real])
            return logits

    return WithoutPadding


def difference(module: Any, batch: dict[str, Any]) -> dict[str, float]:
    """Return the largest differences of loss and gradients from RecTools' own similarity module, as shares."""
    import torch
    from rectools.models.nn.transformers.similarity import DistanceSimilarityModule

    model, found = module.torch_model, []
    ours, training = model.similarity_module, model.training
    model.eval()  # dropout would differ
    for similarity in (ours, DistanceSimilarityModule()):
        model.similarity_module = similarity
        model.zero_grad()
        loss = module.loss_calculator(module.get_batch_logits(batch), batch["y"], batch["yw"])
        loss.backward()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        found.append((loss.detach(), torch.cat(gradients).clone()))
    model.similarity_module = ours
    model.zero_grad()
    model.train(training)
    (loss, gradients), (stock, stock_gradients) = found
    return {
        "loss": float((loss - stock).abs() / stock.abs()),
        "gradients": float((gradients - stock_gradients).abs().max() / stock_gradients.abs().max()),
    }


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
    same: dict[str, float] = {}

    def rank(cases: Cases, masked: bool, k: int) -> Ranking:
        dataset = valid if cases is split.valid else test
        rows = model.recommend(np.arange(len(cases.names)), dataset, k, masked, on_unsupported_targets="ignore")
        ids = np.full((len(cases.names), k), ABSENT, dtype=np.int64)
        scores = np.zeros(ids.shape, dtype=np.float32)
        place = rows[Columns.User].to_numpy(), rows[Columns.Rank].to_numpy() - 1
        ids[place], scores[place] = rows[Columns.Item], rows[Columns.Score]
        return ids, scores

    class Validation(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if not same:
                same.update(difference(module, batch))

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
    ways = {"epochs": EPOCHS, "get_trainer_func": trainer, "recommend_torch_device": options.device}
    model = SASRecModel.from_config({**settings, **ways, "similarity_module_type": without_padding()})
    model.fit(dataset_of(split.train))
    model.lightning_model.torch_model.load_state_dict(course.weights)
    write_lists(rank, split, options.out, options.system)
    record = {"settings": settings, "seed": options.seed, "device": options.device, "trials": 1, **course.record()}
    record["difference_from_stock"] = same
    write_record(options.out, options.system, ("rectools", "torch", "pytorch-lightning"), record)


if __name__ == "__main__":
    main()
