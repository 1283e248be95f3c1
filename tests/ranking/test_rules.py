"""Rules with options against brute force in plain Python: division by degree, text neighbours, pruning."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from test_scorers import made, scores, token_ids, training_events
from worlds import built, cases, vectors_for

from blair_rec.config.options.scorers import OPTIONS
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.ranking.scorers import SequentialRules, TextRules
from blair_rec.ranking.scorers.tables import divided_by_degree, pairs_within, pruned, pruned_product
from blair_rec.ranking.scorers.text_rules import nearest
from blair_rec.registry import load

FIELDS = "item_id_list", "item_length"


def sequences_of(histories: list[list[int]]) -> TrainingSequences:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    is_target = np.ones(offsets[-1], dtype=np.bool_)
    is_target[offsets[:-1]] = False
    return TrainingSequences(np.concatenate(histories).astype(np.int64), offsets, is_target)


def rules_by_hand(histories: list[list[int]], n_items: int, source_power: float, target_power: float) -> np.ndarray:
    """[N, N], one pair at a time."""
    rules = np.zeros((n_items, n_items))
    for history in histories:
        for begin, before in enumerate(history):
            for distance, after in enumerate(history[begin + 1 : begin + 11], start=1):
                rules[before, after] += 1 / distance
    divided = rules.copy()
    for i in range(n_items):
        for j in range(n_items):
            if rules[i, j]:
                divided[i, j] /= sum(rules[i]) ** source_power * sum(rules[:, j]) ** target_power
    return divided


HISTORIES = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=14), min_size=1, max_size=5)
POWERS = st.sampled_from([0, 0.25, 0.5, 1, 1.5])


@settings(max_examples=25, deadline=None)
@given(HISTORIES, POWERS, POWERS)
def test_rules_are_divided_by_powers_of_both_degrees(
    histories: list[list[int]], source_power: float, target_power: float
) -> None:
    table = divided_by_degree(pairs_within(sequences_of(histories), 10, 7), source_power, target_power)
    expected = rules_by_hand(histories, 7, source_power, target_power)
    np.testing.assert_allclose(table.toarray(), expected, rtol=1e-12)


def test_powers_of_0_leave_every_bit_as_it_was() -> None:
    table = pairs_within(sequences_of([[1, 2, 3, 1], [3, 3, 2]]), 10, 5)
    same = divided_by_degree(table.copy(), 0, 0)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(same, part), getattr(table, part))


def test_a_rare_item_of_the_history_decides_as_much_as_a_frequent_one() -> None:
    """1 is followed by 3 in one history and by 4 in three; 2 is followed by 5 once. The history is [1, 2] reversed."""
    log = sequences_of([[1, 4], [1, 4], [1, 4], [1, 3], [2, 5]])
    found = []
    for power in (0, 1):
        scorer = SequentialRules(6, *FIELDS, source_power=power)
        scorer.count(log)
        found.append(int(scorer.full_sort_predict(history_of(2, 1))[0].argmax()))
        scorer.full_sort_predict(history_of(1, 2))
        found.append(int(scorer.full_sort_predict(history_of(1, 2))[0].argmax()))
    assert found == [4, 4, 4, 5]  # after [1, 2]: 4 has 3 / 2 against 1 for 5; as shares, 3/8 against 1


def history_of(*items: int) -> Any:
    import torch

    return {FIELDS[0]: torch.tensor([items]), FIELDS[1]: torch.tensor([len(items)])}


def neighbours_by_hand(vectors: np.ndarray, most: int) -> np.ndarray:
    """[N, N] shares of the nearest texts, of vectors [N, E] with the padding row."""
    size = len(vectors)
    near = np.zeros((size, size))
    for i in range(1, size):
        cosines = {}
        for j in range(1, size):
            lengths = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
            if i != j and lengths > 0:
                cosines[j] = float(vectors[i] @ vectors[j]) / lengths
        best = sorted(cosines, key=lambda j: -cosines[j])[:most]
        kept = {j: cosines[j] for j in best if cosines[j] > 0}
        for j, cosine in kept.items():
            near[i, j] = cosine / sum(kept.values())
    return near


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"source_text": 1, "target_text": 0, "neighbours": 2, "source_power": 0},
        {"source_text": 0, "target_text": 0.7, "target_power": 0.25},
        {"neighbours": 1000},
    ],
)
def test_text_rules_use_the_rules_of_text_neighbours_on_both_sides(tiny: Path, options: dict[str, Any]) -> None:
    config, splits = built(TextSequentialDataset, tiny)
    ids, n_items, window = token_ids(splits[0]), splits[0].item_num, config["MAX_ITEM_LIST_LENGTH"]
    vectors = vectors_for(n_items)
    vectors.table[5] = 0  # an item without text is not a neighbour of any item
    chosen = {"source_power": 0.5, "target_power": 0, "source_text": 0.3, "target_text": 0.3, "neighbours": 5} | options
    histories = [[ids[item] for item in items] for _, items in training_events(tiny)]
    rules = rules_by_hand(histories, n_items, chosen["source_power"], chosen["target_power"])
    near, own = neighbours_by_hand(vectors.table.astype(np.float64), chosen["neighbours"]), np.eye(n_items)
    smoothed = (own + chosen["source_text"] * near) @ rules @ (own + chosen["target_text"] * near).T
    popularity = np.bincount(np.concatenate(histories), minlength=n_items)
    found = scores(made("text_rules", splits, vectors, options=options), splits[2])
    assert n_items < TextRules.KEPT
    for row, (_, history, _) in zip(found, cases([splits[2]]), strict=True):
        recent = history[: -window - 1 : -1]
        expected = sum(smoothed[ids[item]] / age for age, item in enumerate(recent, start=1))
        np.testing.assert_allclose(row[1:], (expected + 1e-4 * popularity / (1 + popularity.max()))[1:], rtol=1e-3)


def test_without_text_shares_they_are_sequential_rules(tiny: Path) -> None:
    _, splits = built(TextSequentialDataset, tiny)
    vectors = vectors_for(splits[0].item_num)
    own = made("text_rules", splits, vectors, options={"source_text": 0, "target_text": 0, "source_power": 0})
    np.testing.assert_allclose(scores(own, splits[2]), scores(made("sequential_rules", splits), splits[2]), rtol=1e-6)


def test_a_catalogue_above_the_limit_is_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextRules, "MOST_ITEMS", 4)
    TextRules(np.eye(4), [], *FIELDS)
    with pytest.raises(ConfigError, match="takes at most 4 items; this data set has 5; use scorer: sequential_rules"):
        TextRules(np.eye(5), [], *FIELDS)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_pruning_keeps_the_largest_rules_of_each_item(most: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    left, right = (generator.integers(0, 3, (9, 9)) * (generator.random((9, 9)) < 0.4) for _ in range(2))
    product = (left @ right).astype(float)
    expected = np.zeros_like(product)
    for row in range(9):
        for column in sorted(range(9), key=lambda place: (-product[row, place], place))[:most]:
            expected[row, column] = product[row, column]
    table = csr_array(left.astype(float)) @ csr_array(right.astype(float))
    np.testing.assert_array_equal(pruned(csr_array(table), most).toarray(), expected)
    np.testing.assert_array_equal(
        pruned_product(csr_array(left.astype(float)), csr_array(right.astype(float)), most).toarray(), expected
    )


def test_products_and_neighbours_are_the_same_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from blair_rec.ranking.scorers import tables, text_rules

    generator = np.random.default_rng(0)
    left, right = (csr_array(generator.random((11, 11)) * (generator.random((11, 11)) < 0.5)) for _ in range(2))
    unit = generator.standard_normal((10, 4)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    whole = pruned_product(left, right, 3).toarray(), nearest(unit, 3).toarray()
    monkeypatch.setattr(tables, "BLOCK", 4)
    monkeypatch.setattr(text_rules, "SIMILAR", 30)
    np.testing.assert_allclose(pruned_product(left, right, 3).toarray(), whole[0], rtol=1e-12)
    np.testing.assert_allclose(nearest(unit, 3).toarray(), whole[1], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_of_a_config_are_the_arguments_of_the_class_with_the_same_defaults(name: str) -> None:
    parameters = inspect.signature(load("scorers", name)).parameters.values()
    taken = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert taken == {key: field.default for key, field in OPTIONS[name].model_fields.items()}


@pytest.mark.parametrize("scale", [1e-40, 3e38])
def test_rules_that_float32_holds_only_in_part_are_refused(scale: float) -> None:
    class Scaled(SequentialRules):
        def table(self, sequences: TrainingSequences) -> csr_array:
            return csr_array(super().table(sequences) * scale)

    with pytest.raises(ConfigError, match=r"Scaled: \d+ of \d+ rules are too large or too small for float32"):
        Scaled(4, *FIELDS).count(sequences_of([[1, 2, 3], [1, 2, 3, 2], [2, 3, 1]]))


@pytest.mark.parametrize("options", [{"source_power": 1e6}, {"target_power": 1e6}, {"target_power": 100}])
def test_rules_that_float32_cannot_hold_are_refused_and_not_ranked_by_popularity(options: dict[str, float]) -> None:
    rules, message = SequentialRules(4, *FIELDS, **options), r"\d+ of \d+ rules are too large or too small"
    with pytest.raises(ConfigError, match=message):
        rules.count(sequences_of([[1, 2, 3], [1, 2, 3, 2], [2, 3, 1]]))
