"""Training: what it minimises, when it stops, and that it can be repeated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import blair_rec.recbole  # noqa: F401
from blair_rec.border.collector import TopKCollector
from blair_rec.border.settings import recbole_config
from blair_rec.config.sections import TrainConfig
from blair_rec.data.dataset import ItemVectors, TextSequentialDataset
from blair_rec.data.sequences import training_sequences
from blair_rec.errors import ConfigError, OutputError, TrainingError
from blair_rec.evaluate.runs.run_files import EpochRecord
from blair_rec.models.packed import last_states
from blair_rec.models.text_models import item_side, model_class
from blair_rec.training.checkpoint import load_weights, make_folder, save_tensors
from blair_rec.training.epochs import EveryPosition, RecboleWay, build_training, recbole_batches, seed_everything
from blair_rec.training.loop import fit, make_optimizer, run_epoch
from blair_rec.training.optimizer import LearningRate, RowAdam
from blair_rec.training.trainer import TextTrainer

from recbole.data import data_preparation
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from recbole.trainer import Trainer

torch.set_num_threads(1)  # with models this small, two threads only wait for each other

SMALL = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 6}
SETUPS: dict[str, dict[str, Any]] = {
    "full_softmax": {},
    "recbole": {"loss": "recbole"},
    "bfloat16": {"precision": "bfloat16"},
    "cosine": {"temperature": 0.2},
    "sampled_softmax": {"loss": "sampled_softmax", "negatives": 16, "log_q": True, "sampling": "popularity"},
    "gbce": {"loss": "gbce", "negatives": 16},
    "bpr": {"loss": "bpr", "negatives": 16, "temperature": 0.2},
    "decayed": {"loss": "bpr", "negatives": 16, "weight_decay": 0.01},
}


def train_config(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"epochs": 3, "patience": 9, "learning_rate": 0.01, "batch_size": 128, **settings})


def built(tiny: Path, train: TrainConfig, model: str = "SASRec", **settings: Any) -> tuple[Any, Any, Any]:
    """A small model, the steps of its training, and its training split."""
    cls = model_class(model)
    given = {**SMALL, "seed": 1, "train_batch_size": train.batch_size, "blair_temperature": train.temperature}
    config = recbole_config(cls, str(tiny), {**given, **settings})
    split, _, _ = TextSequentialDataset(config).build()
    n_items = split.num(split.iid_field)
    vectors = np.random.default_rng(0).standard_normal((n_items, 24), dtype=np.float32)
    vectors[0] = 0
    split.item_vectors = ItemVectors(vectors, "")
    model, steps = build_training(cls, config, split, training_sequences(split), train, seed=1)
    return model, steps, split


class Scripted:
    """A model of one number, epochs of one step, and given validation results."""

    def __init__(self, values: list[float]) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        self.values = values
        self.seen: list[float] = []
        self.generators: dict[str, torch.Generator] = {}

    def __len__(self) -> int:
        return 1

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, int]]:
        yield (self.model.weight**2).sum(), 1

    def validate(self) -> Mapping[str, float]:
        self.seen.append(self.model.weight.item())
        return {"m": self.values[len(self.seen) - 1]}

    def fit(self, **settings: Any) -> Any:
        train = train_config(**{"epochs": len(self.values), "patience": 2, **settings})
        return fit(self.model, self, self.validate, "m", train)


def test_it_stops_after_patience_and_puts_the_best_weights_back() -> None:
    world = Scripted([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    trained = world.fit()
    assert len(trained.history) == 5, "epochs 3, 4 and 5 bring no new best, and patience is 2"
    assert (trained.best_epoch, trained.best_value) == (2, 0.3)
    assert world.model.weight.item() == pytest.approx(world.seen[1], abs=0)


def test_it_validates_every_eval_every_epochs_and_always_at_the_end() -> None:
    trained = Scripted([0.1, 0.2, 0.3]).fit(epochs=5, eval_every=2)
    assert [epoch.valid is not None for epoch in trained.history] == [False, True, False, True, True]


def test_a_loss_that_is_not_a_number_is_named_with_its_step_before_it_moves_a_weight() -> None:
    model, after = nn.Linear(1, 1), []

    def losses() -> Iterator[tuple[Tensor, int]]:
        yield model.weight.sum(), 1
        after.append(model.weight.item())
        yield model.weight.sum() * torch.nan, 1

    with pytest.raises(TrainingError, match="the loss is nan at step 2; lower train.learning_rate"):
        run_epoch(model, torch.optim.SGD(model.parameters(), lr=0.1), losses())
    assert model.weight.item() == after[0]


def test_the_loss_of_an_epoch_is_the_mean_over_its_targets_and_every_step_is_reported() -> None:
    model, told = nn.Linear(1, 1), []
    values = [(2.0, 3), (6.0, 1)]
    losses = ((model.weight.sum() * 0 + value, n) for value, n in values)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    assert run_epoch(model, sgd, losses, lambda done, loss: told.append((done, loss))) == pytest.approx(3.0)
    assert told == [(1, 2.0), (2, 6.0)]


def run(tiny: Path, train: TrainConfig, **settings: Any) -> tuple[list[EpochRecord], dict[str, Tensor], Any]:
    """A training from beginning to end, where the last epoch is always the best."""
    model, steps, split = built(tiny, train)
    rising = itertools.count(0.0)
    trained = fit(model, steps, lambda: {"m": next(rising)}, "m", train, **settings)
    return list(trained.history), dict(model.state_dict()), split


@pytest.mark.parametrize("name", SETUPS)
def test_training_lowers_the_loss(tiny: Path, name: str) -> None:
    epochs, _, split = run(tiny, train_config(**SETUPS[name]))
    assert epochs[-1].loss < epochs[0].loss - 0.01
    if name in ("full_softmax", "recbole", "bfloat16"):
        assert epochs[0].loss <= np.log(split.item_num) + 0.1, "an untrained model guesses"


@pytest.mark.parametrize("name", SETUPS)
def test_one_seed_trains_to_the_same_weights_bit_for_bit(tiny: Path, name: str) -> None:
    train = train_config(**SETUPS[name], epochs=2)
    (one, weights, _), (other, same, _) = run(tiny, train), run(tiny, train)
    assert [epoch.loss for epoch in one] == [epoch.loss for epoch in other]
    assert all(torch.equal(weights[key], same[key]) for key in weights)


class Interrupted(Exception):
    """Training was killed."""


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("name", SETUPS)
def test_a_resumed_training_gives_the_same_weights_bit_for_bit(tiny: Path, name: str, schedule: str) -> None:
    train = train_config(**SETUPS[name], epochs=4, schedule=schedule, warmup_steps=3)
    path, rising = tiny.parent / "checkpoint.safetensors", itertools.count(0.0)  # the best epoch is always the last

    def go(checkpoint: Path | None, until: int = 4) -> dict[str, Tensor]:
        model, steps, _ = built(tiny, train)

        def on_epoch(epoch: EpochRecord) -> None:
            if epoch.epoch > until:
                raise Interrupted

        fit(
            model,
            steps,
            lambda: {"m": next(rising)},
            "m",
            train,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
        return dict(model.state_dict())

    with pytest.raises(Interrupted):
        go(path, until=2)
    torch.manual_seed(99)  # another process has other random states
    resumed, whole = go(path), go(None)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_every_position_learns_each_target_once_an_epoch(tiny: Path) -> None:
    model, steps, split = built(tiny, train_config(batch_size=64))
    model.train()
    seen = [n for _, n in steps(1)]
    assert sum(seen) == steps.sequences.n_targets == len(split) and len(seen) == len(steps)


def test_steps_are_reported_with_their_number(tiny: Path) -> None:
    told: list[tuple[int, int, float]] = []
    epochs, _, _ = run(tiny, train_config(epochs=1), on_step=lambda *step: told.append(step))
    assert [step[0] for step in told] == list(range(1, len(told) + 1)) and told[-1][1] == len(told) > 1
    assert min(step[2] for step in told) <= epochs[0].loss <= max(step[2] for step in told)


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("width, stride", [(50, None), (50, 3), (4, 1)])
@pytest.mark.parametrize("model", ["SASRec", "eSASRec", "GRU4Rec"])
def test_training_minimises_the_scores_that_are_ranked(
    tiny: Path, model: str, width: int, stride: int | None, temperature: float | None
) -> None:
    """The loss of an epoch is the cross entropy of full_sort_predict, target by target.

    This holds if no sequence is longer than the window, or if every target has its own window.
    """
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": width}
    net, steps, split = built(tiny, train_config(temperature=temperature, stride=stride), model, **still)
    with torch.no_grad():
        learnt = sum(float(loss) * n for loss, n in steps(1)) / len(split)
        rows = split[torch.arange(len(split))]
        scores = net.full_sort_predict(rows)[:, 1:]
    assert learnt == pytest.approx(nn.functional.cross_entropy(scores, rows["item_id"] - 1).item(), rel=1e-5)


# Models and losses


@pytest.mark.parametrize(
    "given, named",
    [
        ({"loss": "bpr"}, "loss: bpr"),
        ({"temperature": 0.1}, "temperature"),
        ({"precision": "bfloat16"}, "precision"),
        ({"stride": 3}, "stride"),
    ],
)
def test_what_recboles_training_would_ignore_is_refused(tiny: Path, given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"`{named}` isn't supported for BLaIRNARM, which uses RecBole's loss"):
        built(tiny, train_config(**given), model="NARM", blair_temperature=None)
    assert isinstance(built(tiny, train_config(), model="NARM")[1], RecboleWay)


def test_a_stride_is_no_longer_than_the_window(tiny: Path) -> None:
    assert built(tiny, train_config(stride=6))[1].stride == built(tiny, train_config())[1].stride == 6
    with pytest.raises(ConfigError, match="stride is 7; it can't be more than MAX_ITEM_LIST_LENGTH, 6"):
        built(tiny, train_config(stride=7))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"stride": 0}, "stride is 0; it has to be at least 1"),
        ({"loss": "recbole", "stride": 3}, "stride has no effect with loss: recbole"),
        ({"log_q": True}, "log_q has no effect with loss: full_softmax; .*another loss: sampled_softmax"),
        ({"loss": "gbce", "sampling": "popularity"}, "sampling has no effect with loss: gbce"),
        ({"loss": "recbole", "temperature": 0.1}, "temperature has no effect with loss: recbole"),
        ({"loss": "bpr", "precision": "bfloat16"}, "precision has no effect with loss: bpr"),
        ({"loss": "bpr", "gbce_t": 0.5}, "gbce_t has no effect with loss: bpr"),
        ({"negatives": 8}, "negatives has no effect with loss: full_softmax"),
        ({"loss": "gbce", "gbce_t": 1.5}, "gbce_t is 1.5; it has to be at most 1"),
        ({"temperature": 0}, "temperature is 0; it has to be at least 1e-06"),
        ({"loss": "bpr", "negatives": 0}, "negatives is 0; it has to be at least 1"),
        ({"log_q": "yes"}, "log_q is 'yes'; expected true or false"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; did you mean 'cosine'"),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        TrainConfig(**given)


# The optimiser


def test_rows_that_every_step_reads_are_updated_as_by_adam() -> None:
    tables = [nn.Embedding(5, 3, sparse=sparse) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    ours = RowAdam(tables[0].parameters(), 0.01, 0.0)
    adam = torch.optim.Adam(tables[1].parameters(), lr=0.01)
    ids = torch.tensor([4, 0, 1, 2, 3, 3, 0])  # some twice: their gradients add up
    for step in range(5):
        for table, optimizer in zip(tables, (ours, adam), strict=True):
            optimizer.zero_grad(set_to_none=True)
            (table(ids) * torch.arange(21.0).view(7, 3).add(step)).tanh().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight, rtol=1e-5, atol=1e-6)


def test_rows_are_updated_as_by_torchs_sparse_adam_and_others_stay() -> None:
    tables = [nn.Embedding(6, 3, sparse=True) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    before = tables[0].weight.detach().clone()
    optimizers = [RowAdam(tables[0].parameters(), 0.01, 0.0), torch.optim.SparseAdam(tables[1].parameters(), lr=0.01)]
    for ids in (torch.tensor([1, 2]), torch.tensor([2, 3, 3]), torch.tensor([1])):
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            table(ids).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight, rtol=1e-5, atol=1e-6)
    moved = (tables[0].weight != before).any(dim=1)
    assert moved.tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("items", ["id", "text_init", "text_delta"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_with_negatives_only_rows_that_were_read_change_unless_all_decay(tiny: Path, decay: float, items: str) -> None:
    train = train_config(loss="bpr", negatives=3, batch_size=8, weight_decay=decay)
    model, steps, _ = built(tiny, train, blair_items=items, blair_text_fields=["title"])
    before = item_side(model).weight.detach().clone()
    optimizer = make_optimizer(model, train)
    model.train()
    one = itertools.islice(steps(1), 1)
    run_epoch(model, optimizer, one)
    moved = int((item_side(model).weight != before).any(dim=1).sum())
    if decay == 0:
        assert 0 < moved < len(before) - 1
    elif items != "text_delta":  # a delta that is still zero decays to zero
        assert moved >= len(before) - 1


@pytest.mark.parametrize("items", ["text", "id_text", "unisrec", "sasrec_text"])
def test_with_negatives_only_rows_that_are_read_are_computed(
    tiny: Path, items: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = train_config(loss="sampled_softmax", negatives=3, batch_size=8)
    model, steps, _ = built(tiny, train, blair_items=items, blair_text_fields=["title"])
    computed = []
    rows = item_side(model).rows
    monkeypatch.setattr(item_side(model), "rows", lambda which: computed.append(which) or rows(which))
    run_epoch(model, make_optimizer(model, train), itertools.islice(steps(1), 4))
    assert len(computed) == 4
    assert all(len(which.unique()) == len(which) < model.n_items / 2 for which in computed)


# The schedule of the learning rate


def rates(steps: int, **given: Any) -> list[float]:
    """The learning rate of each step, as the optimiser sees it."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=123.0)
    LearningRate(optimizer, **{"height": 0.5, "warmup_steps": 0, "schedule": "constant", "total_steps": steps, **given})
    seen = []
    for _ in range(steps):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
        seen.append(before - weight.item())
    return seen


def test_the_rate_stays_or_rises_or_falls_as_configured() -> None:
    assert rates(3) == pytest.approx([0.5] * 3)
    assert rates(5, warmup_steps=4) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    half = [(1 + math.cos(math.pi * step / 4)) / 4 for step in range(4)]
    assert rates(4, schedule="cosine") == pytest.approx(half)
    assert rates(6, schedule="cosine", warmup_steps=2) == pytest.approx([0.25, 0.5, *half])


def test_after_the_last_step_a_cosine_stays_at_zero() -> None:
    assert rates(6, schedule="cosine", total_steps=4)[4:] == pytest.approx([0.0, 0.0], abs=1e-7)


def test_a_step_counts_once_whatever_optimisers_there_were_before() -> None:
    torch.optim.Adam([nn.Parameter(torch.ones(1))])  # torch changes the class when its first instance is made
    table = nn.Embedding(3, 2, sparse=True)
    optimizer = RowAdam(table.parameters(), 0.5, 0.0)
    rate = LearningRate(optimizer, 0.5, warmup_steps=4, schedule="constant", total_steps=9)
    before = table.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        table(torch.tensor([1])).sum().backward()
        optimizer.step()
    assert rate.steps == 2
    moved = (before - table.weight)[1]
    torch.testing.assert_close(moved, torch.full((2,), 0.125 + 0.25))  # Adam moves by the rate where gradients are one


def test_the_schedule_reaches_the_training(tiny: Path) -> None:
    _, constant, _ = run(tiny, train_config(epochs=1))
    _, warm, _ = run(tiny, train_config(epochs=1, warmup_steps=10**6))
    start = built(tiny, train_config())[0].state_dict()
    far, near = (sum(float((w[key] - start[key]).norm()) for key in start) for w in (constant, warm))
    assert 0 < near < far / 1000


# RecBole's own trainer


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"blair_loss": "recbole", "blair_schedule": "cosine", "blair_warmup_steps": 3},
        {"blair_loss": "sampled_softmax", "blair_negatives": 9, "blair_schedule": "cosine", "blair_temperature": 0.3},
        {"blair_loss": "gbce", "blair_negatives": 9, "learner": "adagrad"},
    ],
    ids=lambda given: given.get("blair_loss", "default"),
)
def test_recboles_resume_gives_the_same_weights_bit_for_bit(tiny: Path, given: dict[str, Any]) -> None:
    cls = model_class("SASRec")
    settings = {**SMALL, "seed": 1, "train_batch_size": 128, "epochs": 4, "stopping_step": 99}
    config = recbole_config(cls, str(tiny), {**settings, "valid_metric": "NDCG@10", **given})

    def trainer() -> tuple[Any, Any]:
        split, _, _ = TextSequentialDataset(config).build()
        seed_everything(1)
        loader = recbole_batches(config, split)
        return TextTrainer(config, cls(config, split)), loader

    first, loader = trainer()
    save = first._save_checkpoint

    def save_and_stop(epoch: int, *args: Any, **kwargs: Any) -> None:
        save(epoch, *args, **kwargs)
        if epoch == 1:
            raise Interrupted

    first._save_checkpoint = save_and_stop
    with pytest.raises(Interrupted):
        first.fit(loader, saved=True, verbose=False)
    second, loader = trainer()
    torch.manual_seed(99)
    second.resume_checkpoint(first.saved_model_file)
    second.fit(loader, saved=True, verbose=False)
    whole, loader = trainer()
    whole.fit(loader, saved=False, verbose=False)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.model.state_dict().items())


@pytest.mark.parametrize("given", [{"clip_grad_norm": {"max_norm": 5}}, {"enable_amp": True}, {"enable_scaler": True}])
def test_a_key_that_our_steps_would_ignore_is_refused(tiny: Path, given: dict[str, Any]) -> None:
    def trainer(**settings: Any) -> TextTrainer:
        cls = model_class("SASRec")
        config = recbole_config(cls, str(tiny), {**SMALL, "blair_loss": "recbole", **given, **settings})
        return TextTrainer(config, cls(config, TextSequentialDataset(config).build()[0]))

    with pytest.raises(ConfigError, match=f"{next(iter(given))} would have no effect: BLaIRSASRec is trained on every"):
        trainer(blair_loss="full_softmax")
    assert trainer()._train.loss == "recbole"


def test_a_parameter_with_two_names_is_saved_and_loaded(tiny: Path) -> None:
    cls = model_class("FEARec")  # its last layer is also called layer_ramp
    config = recbole_config(cls, str(tiny), {**SMALL, "n_layers": 2})
    split = TextSequentialDataset(config).build()[0]
    trainer = TextTrainer(config, cls(config, split))
    trainer._prepare(recbole_batches(config, split))
    trainer._save_checkpoint(0, verbose=False)
    other = cls(config, split)
    load_weights(other, Path(trainer.saved_model_file), None)
    last, ramp = other.item_encoder.layer[-1], other.item_encoder.layer_ramp
    assert last is ramp
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


def test_a_checkpoint_folder_that_is_a_file_is_an_error_with_its_name(tiny: Path) -> None:
    Path("taken").touch()
    with pytest.raises(OutputError, match="taken is a file, but a folder is needed there"):
        save_tensors({"x": torch.zeros(1)}, Path("taken", "model.safetensors"), {})


@pytest.mark.parametrize("loss", ["full_softmax", "recbole"])
@pytest.mark.parametrize("base", [SASRec, GRU4Rec])
def test_recboles_trainer_evaluates_without_padding_what_it_trains_without(
    tiny: Path, base: Any, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []

    def seen(model: Any, items: Tensor, first: np.ndarray, length: np.ndarray) -> Tensor:
        packed.append(len(length))
        return last_states(model, items, first, length)

    monkeypatch.setattr("blair_rec.models.similarity.last_states", seen)
    cls = model_class(base.__name__)
    config = recbole_config(cls, str(tiny), {**SMALL, "blair_loss": loss, "loss_type": "CE"})
    split, _, test = TextSequentialDataset(config).build()
    trainer = TextTrainer(config, cls(config, split))
    assert isinstance(trainer.eval_collector, TopKCollector)
    model, rows = trainer.model.eval(), test[torch.arange(len(test))]
    with torch.no_grad():
        scores, recboles = model.full_sort_predict(rows), base.full_sort_predict(model, rows)
    if loss == "recbole":
        assert torch.equal(scores, recboles) and not packed
    else:
        assert packed == [len(test)]
        torch.testing.assert_close(scores, recboles, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_an_evaluation_batch_by_batch_is_that_of_recboles_trainer(tiny: Path, temperature: float | None) -> None:
    cls = model_class("SASRec")
    settings = {"blair_temperature": temperature, "eval_batch_size": 7, "metrics": ["NDCG", "Recall", "GAUC"]}
    config = recbole_config(cls, str(tiny), {**SMALL, "seed": 1, "topk": [5, 10], **settings})
    train, _, test = data_preparation(config, TextSequentialDataset(config))
    assert len(test._dataset) % 7 > 0 and len(test) > 3  # the last batch is smaller
    model = cls(config, train._dataset)
    ours, recboles = TextTrainer(config, model), Trainer(config, model)
    found = ours.evaluate(test, load_best_model=False)
    assert found == recboles.evaluate(test, load_best_model=False)
    assert len(found) == 5 and all(0 < value < 1 for value in found.values())


def test_recboles_trainer_reads_the_flat_keys(tiny: Path) -> None:
    cls = model_class("SASRec")
    keys = {
        "blair_loss": "gbce",
        "blair_negatives": 9,
        "blair_gbce_t": 0.5,
        "blair_schedule": "cosine",
        "blair_stride": 2,
    }
    config = recbole_config(cls, str(tiny), {**SMALL, "learning_rate": 0.02, "epochs": 7, **keys})
    split, _, _ = TextSequentialDataset(config).build()
    trainer = TextTrainer(config, cls(config, split))
    loader = recbole_batches(config, split)
    trainer._prepare(loader)
    assert isinstance(trainer._steps, EveryPosition)
    told = trainer._steps.train
    assert (told.loss, told.negatives, told.gbce_t, told.schedule) == ("gbce", 9, 0.5, "cosine")
    assert trainer._steps.stride == 2
    assert (trainer._rate.height, trainer._rate.total_steps) == (0.02, 7 * len(trainer._steps))


def test_a_folder_with_a_nul_character_in_its_name_is_an_error() -> None:
    with pytest.raises(OutputError, match=r"checkpoint_dir is 'a\\x00b', which can't be a folder .*; name another one"):
        make_folder("checkpoint_dir", Path("a\0b"))
