"""benchmarks/distill.py: rules counted without the user, the loss, and a student that learns its teacher's order."""

from __future__ import annotations

import importlib
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import config_of, raw_config
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.config.comparison import read_config
from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.experiment.fit import _built
from blair_rec.experiment.planning.plan import run_setup
from blair_rec.experiment.splits.reading import training_data
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.scorers.popularity import Popularity
from blair_rec.ranking.scorers.rules import Markov, SequentialRules

ITEMS = 8
"""Ids of the made-up sequences: 0, the padding, to 7."""


KEEP_ALL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")


def module(name: str) -> Any:
    return importlib.import_module(f"distill{name}")


def sequences_of(lists: list[list[int]]) -> TrainingSequences:
    offsets = np.cumsum([0, *map(len, lists)])
    is_target = np.ones(offsets[-1], dtype=bool)
    is_target[offsets[:-1]] = False
    return TrainingSequences(np.array([item for one in lists for item in one], dtype=np.int64), offsets, is_target)


def counted_by_hand(others: list[list[int]], history: list[int], source_power: float) -> list[float]:
    """Return the scores of all items after a history, from the sequences of other users alone."""
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    events = [sum(one.count(item) for one in others) for item in range(ITEMS)]
    for one in others:
        for at, item in enumerate(one):
            for distance in range(1, min(at, 10) + 1):
                pairs[one[at - distance], item] += 1 / distance
    degree = [sum(value for (source, _), value in pairs.items() if source == item) for item in range(ITEMS)]
    found = [1e-4 * number / (1 + max(events)) for number in events]
    for age, source in enumerate(reversed(history), start=1):
        for item in range(ITEMS):
            if (source, item) in pairs:
                found[item] += pairs[source, item] / degree[source] ** source_power / age
    return found


LISTS = st.lists(st.lists(st.integers(1, ITEMS - 1), min_size=1, max_size=14), min_size=2, max_size=6)


@settings(max_examples=40)
@given(LISTS, st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 20))
def test_rules_without_the_user_are_those_counted_again_without_the_user(
    lists: list[list[int]], source_power: float, together: int
) -> None:
    teacher, sequences, width = module("_teacher"), sequences_of(lists), 5
    rules = SequentialRules(ITEMS, "history", "length", source_power=source_power)
    without = teacher.RulesWithoutUser(rules, sequences)
    found = [without.scores(batch, width) for batch in teacher.batches(sequences, together)]
    expected = [
        counted_by_hand(lists[:user] + lists[user + 1 :], one[max(0, at - width) : at], source_power)
        for user, one in enumerate(lists)
        for at in range(1, len(one))
    ]
    assert sum(map(len, found)) == len(expected) == sequences.n_targets
    if expected:
        np.testing.assert_allclose(torch.cat(found)[:, 1:], np.array(expected)[:, 1:], rtol=1e-5, atol=1e-9)


def test_a_list_holds_the_best_candidates_outside_the_history() -> None:
    teacher = module("_teacher")
    lists = [[1, 2, 3, 4], [2, 3, 5], [1, 2, 6, 3], [3, 4, 7]]
    sequences = sequences_of(lists)
    rules = SequentialRules(ITEMS, "history", "length")
    rules.count(sequences)
    found = teacher.top_lists(Ensemble([rules]), sequences, 5, True, 7)
    cases = [(user, at) for user, one in enumerate(lists) for at in range(1, len(one))]
    gain = 0.0
    for (user, at), items, scores in zip(cases, found.items, found.scores, strict=True):
        history = lists[user][:at]
        by_hand = counted_by_hand(lists[:user] + lists[user + 1 :], history, 0)
        left = [item for item in range(1, ITEMS) if item not in history]
        listed = items[np.isfinite(scores)].tolist()
        assert sorted(listed) == left
        ordered = [by_hand[item] for item in listed]
        assert ordered == pytest.approx(sorted(ordered, reverse=True), abs=1e-6)
        gain += 1 / math.log2(2 + listed.index(lists[user][at])) if lists[user][at] in listed else 0
    assert found.ndcg == pytest.approx(gain / len(cases))
    found.save(Path("lists.npz"))
    read = teacher.TopLists.load(Path("lists.npz"))
    np.testing.assert_array_equal(read.items, found.items)
    np.testing.assert_array_equal(read.scores, found.scores)


def test_a_member_that_cannot_be_counted_without_the_user_is_refused() -> None:
    teacher, sizes = module("_teacher"), (ITEMS, "history", "length")
    teacher.check_members(["rules"], [SequentialRules(*sizes)])
    with pytest.raises(ConfigError, match="markov, popular: only scorer: sequential_rules"):
        teacher.check_members(["markov", "popular"], [Markov(*sizes), Popularity(*sizes)])
    with pytest.raises(ConfigError, match="target_power"):
        teacher.RulesWithoutUser(SequentialRules(*sizes, target_power=0.5), sequences_of([[1, 2], [2, 1]]))


def test_soft_targets_are_a_softmax_over_the_standardised_candidates() -> None:
    scores = np.array([[9.0, 4.0, 2.0, -np.inf], [1.0, 1.0, 1.0, 1.0]], dtype=np.float32)
    shares = module("_student").soft_targets(scores, 2.0)
    spread = np.std([9.0, 4.0, 2.0])
    powers = np.exp(np.array([9.0, 4.0, 2.0]) / spread / 2)
    np.testing.assert_allclose(shares[0], [*(powers / powers.sum()), 0], rtol=1e-6)
    np.testing.assert_allclose(shares[1], 0.25)
    scaled = module("_student").soft_targets(100 * scores + 7, 2.0)
    np.testing.assert_allclose(scaled, shares, rtol=1e-5)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.9, 1.0])
def test_the_loss_is_that_of_both_cross_entropies_in_float64(part: float) -> None:
    torch.manual_seed(1)
    query, weight = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (5, 20))
    targets, items = torch.randint(1, 20, (5,)), torch.stack([torch.randperm(19)[:4] + 1 for _ in range(5)])
    shares = torch.rand(5, 4, dtype=torch.float64).softmax(1)
    loss = module("_student").distillation_loss(query, targets, weight, items, shares, part, torch.float64)
    found = torch.autograd.grad(loss, (query, weight))

    logs = torch.log_softmax(query @ weight[1:].T, 1)
    true = -sum(logs[n, targets[n] - 1] for n in range(5)) / 5
    taught = -sum(shares[n, k] * logs[n, items[n, k] - 1] for n in range(5) for k in range(4)) / 5
    expected = (1 - part) * true + part * taught
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (query, weight)))


def built(tiny: Path, **train: Any) -> tuple[Any, Any, Any, Any]:
    """Return a model of item ids on the tiny data set, its plain steps, the data and the train section."""
    base = {"learning_rate": 0.01, "batch_size": 64, **train}
    sizes = {"hidden_size": 32, "inner_size": 32, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 10}
    config = config_of(tiny, "none", variants={"id": {"items": "id"}}, train=base, recbole={**sizes, **KEEP_ALL})
    data = training_data(config, tiny)
    variant = config.variants["id"]
    _, model, steps = _built(config, variant, run_setup(config, "id", 1), data, None)
    return model, steps, data, config.train_of(variant)


def distilled(model: Any, data: Any, train: Any, items: np.ndarray, scores: np.ndarray, part: float) -> Any:
    lists = module("_teacher").TopLists(items.astype(np.int32), scores.astype(np.float32), 0.0)
    return module("_student").Distilled(model, data.sequences, 10, train, 1, lists, 1.0, part)


@pytest.mark.parametrize(("part", "columns"), [(0.0, 3), (0.9, 1)])
def test_a_teacher_that_knows_the_next_item_teaches_what_plain_training_does(
    tiny: Path, part: float, columns: int
) -> None:
    model, steps, data, train = built(tiny)
    true = data.sequences.items[data.sequences.is_target]
    items = np.stack([true, *[np.ones_like(true)] * (columns - 1)], axis=1)  # with part 0 the list doesn't matter
    mine = distilled(model, data, train, items, np.zeros(items.shape), part)
    model.train()
    with torch.no_grad():
        plain, taught = ([(loss.item(), number) for loss, number in way(2)] for way in (steps, mine))
    assert len(plain) > 1
    assert [number for _, number in plain] == [number for _, number in taught]
    assert [loss for loss, _ in taught] == pytest.approx([loss for loss, _ in plain], rel=1e-5)


def test_a_sampled_loss_is_refused(tiny: Path) -> None:
    model, _, data, train = built(tiny, loss="sampled_softmax")
    nothing = np.zeros((data.sequences.n_targets, 1))
    with pytest.raises(ConfigError, match="full_softmax, not for sampled_softmax"):
        distilled(model, data, train, nothing, nothing, 0.5)


def test_a_student_learns_the_order_of_its_teacher(tiny: Path) -> None:
    """The teacher ranks the three items after the last one of the history, by id, which no event of the data says."""
    from blair_rec.training.loop import make_optimizer, run_epoch

    model, _, data, train = built(tiny)
    n_items = len(data.item_tokens) - 1
    last = data.sequences.items[np.flatnonzero(data.sequences.is_target) - 1]
    items = (last[:, None] + np.arange(3)) % n_items + 1
    scores = np.tile([2.0, 1.0, 0.0], (len(last), 1))

    def agreement() -> float:
        model.eval()
        with torch.no_grad():
            valid = data.valid[torch.arange(len(data.valid))]
            found = model.full_sort_predict(valid)
        found[:, 0] = -np.inf
        history, length = valid[model.ITEM_SEQ].numpy(), valid[model.ITEM_SEQ_LEN].numpy()
        expected = (history[np.arange(len(length)), length - 1][:, None] + np.arange(3)) % n_items + 1
        return float((found.topk(3).indices.numpy() == expected).all(1).mean())

    assert agreement() < 0.05
    steps, optimizer = distilled(model, data, train, items, scores, 0.9), make_optimizer(model, train)
    for epoch in range(1, 31):
        run_epoch(model, optimizer, steps(epoch))
    assert agreement() > 0.6  # of all orders of three items, about one in 80,000 is right by chance


def test_it_records_validation_alone_and_goes_on_where_it_stopped(
    tiny: Path, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import side_by_side

    distill = module("")
    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path / "results")
    variants = {
        "id": {"items": "id"},
        "text_delta": {"items": "text_delta", "transforms": ["center"]},
        "near": {"scorer": "recent_history", "transforms": ["center"]},
        "rules": {"scorer": "sequential_rules", "options": {"source_power": 0.5}},
        "untrained": {"average": ["near", "rules"]},
    }
    raw = raw_config(tiny, roberta, variants=variants, seeds=[1], train={"epochs": 1, "batch_size": 64}, baseline="id")
    raw["evaluate"] = {"protocol": "masked", "metrics": ["NDCG@10"]}
    board = compare(read_config(raw), tmp_path / "runs", variants=["id", "near", "rules"])
    assert board is not None
    said = ["--comparison", str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--teachers", "untrained"]
    distill.main([*said, "--top", "20", "--rung", "1"])
    assert capsys.readouterr().out.count("epoch 1,") == 5  # without a teacher, and the trials
    record = json.loads((tmp_path / "results" / "distill-tiny.json").read_text("utf-8"))
    teacher = record["runs"]["teachers"]["untrained"]
    assert len(teacher["trials"]) == 4 and sum(teacher["weights"].values()) == pytest.approx(1)
    for row in (record["runs"]["plain"], teacher["student"]):
        assert row["share"] == row["value"] / teacher["value"]
    assert record["runs"]["plain"]["value"] > 0 and not record["runs"]["plain"]["finished_run"]
    page = (tmp_path / "results" / "distill-tiny.md").read_text("utf-8")
    assert f"| teacher `untrained` | {teacher['value']:.4f} |" in page

    # The average that `compare` makes has the same weights and value, and the student's run is plain training.
    compare(read_config(raw), tmp_path / "runs", variants=["text_delta", "near", "rules", "untrained"])
    run = json.loads((tmp_path / "runs" / "runs" / "untrained-1" / "result.json").read_text("utf-8"))
    assert run["valid"]["masked"]["NDCG@10"] == pytest.approx(teacher["value"])
    distill.main([*said, "--top", "20", "--rung", "1"])
    assert "epoch" not in capsys.readouterr().out.replace("best epoch", "").replace("1 epochs", "")
    again = json.loads((tmp_path / "results" / "distill-tiny.json").read_text("utf-8"))
    assert again["runs"]["teachers"] == record["runs"]["teachers"]
    assert again["runs"]["plain"]["finished_run"]
    assert again["runs"]["plain"]["value"] == pytest.approx(record["runs"]["plain"]["value"], abs=1e-9)
    with pytest.raises(SystemExit, match="other settings or members"):
        distill.main([*said, "--top", "21"])
    with pytest.raises(SystemExit, match="rules is not an average"):
        distill.main([*said[:-1], "rules"])
