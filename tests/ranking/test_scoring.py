"""rank(): how many candidates score above or tie with the target, against counting one by one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import built, vectors_for, write_log

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION
from blair_rec.errors import ScoringError
from blair_rec.evaluate.metrics import metric_values
from blair_rec.models.text_models import model_class
from blair_rec.ranking import scoring
from blair_rec.ranking.scoring import ItemMatrix, Products, Ranks, count, rank, states
from blair_rec.training.epochs import seed_everything

from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer

TINY = Path(__file__).resolve().parents[2] / "datasets" / "tiny"


class Oracle(nn.Module):
    """Returns given scores for every case."""

    scores_by_product = False
    device = torch.device("cpu")

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores
        """[events of the log, items]."""

    def shared_items(self) -> AbstractContextManager[None]:
        return nullcontext()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return self.scores[interaction[LOG_POSITION]].clone()


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """A log with repeated items, in histories and as targets; one user has two cases in the test split."""
    events = [("ann", item, at) for at, item in enumerate("abcabca")]
    events += [("bob", item, at) for at, item in enumerate("ddddee")]
    events += [("eve", item, at) for at, item in enumerate("fgabchijd")]
    events += [("zoe", item, at) for at, item in enumerate("jihg")]
    folder = write_log(tmp_path_factory.mktemp("again") / "again", events)
    split = {"split": {"RS": [0.4, 0.3, 0.3]}, "group_by": "user", "order": "TO", "mode": "full"}
    return built(TextSequentialDataset, folder, eval_args=split, MAX_ITEM_LIST_LENGTH=3)[1]


@pytest.fixture(scope="module")
def tiny_splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    """Config and splits of datasets/tiny."""
    return built(TextSequentialDataset, TINY)


def counted(scores: np.ndarray, item: int, history: set[int]) -> dict[str, int]:
    """Counts of one case, candidate by candidate; scores in float64."""
    others = [other for other in range(1, len(scores)) if other != item]
    left = [other for other in others if other not in history]
    return {
        "higher_unmasked": sum(scores[other] > scores[item] for other in others),
        "equal_unmasked": sum(scores[other] == scores[item] for other in others),
        "higher_masked": sum(scores[other] > scores[item] for other in left),
        "equal_masked": sum(scores[other] == scores[item] for other in left),
    }


def check_against_counting(ranks: Ranks, split: Any, scores: Tensor, k: int) -> None:
    """Every number of the ranks, from the log itself."""
    log, positions = split.log, split.inter_feat[LOG_POSITION].tolist()
    assert len(ranks.item) == len(split)
    for case, position in enumerate(positions):
        own = scores[position].numpy().astype(np.float64)
        history = log.item[position - int(log.before(torch.tensor(position))) : position].tolist()
        item = int(log.item[position])
        assert (ranks.user[case], ranks.item[case]) == (int(log.user[position]), item)
        assert ranks.history_length[case] == len(history)
        assert ranks.target_in_history[case] == (item in history)
        for name, want in counted(own, item, set(history)).items():
            assert getattr(ranks, name)[case] == want, name
        for name, left in (("unmasked", set(range(1, len(own)))), ("masked", set(range(1, len(own))) - set(history))):
            best = getattr(ranks, f"topk_{name}")[case]
            assert len(best) == k
            shown = best[best > 0].tolist()
            assert len(shown) == min(k, len(left)) and len(set(shown)) == len(shown) and set(shown) <= left
            np.testing.assert_array_equal(own[shown], np.sort(own[list(left)])[::-1][: len(shown)])


few_values = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
close_values = st.sampled_from([np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))])


@pytest.mark.parametrize("values", [few_values, close_values, st.floats(-9, 9, width=32), st.just(0.0)])
def test_ranks_are_what_counting_gives(splits: list[Any], values: st.SearchStrategy[float]) -> None:
    n_events, n_items = len(splits[0].log.item), splits[0].item_num

    @settings(max_examples=15)
    @given(st.lists(values, min_size=n_items, max_size=n_items * 3), st.integers(1, 9), st.randoms())
    def check(pool: list[float], batch_size: int, random: Any) -> None:
        scores = torch.tensor(
            [[random.choice(pool) for _ in range(n_items)] for _ in range(n_events)], dtype=torch.float32
        )
        for split in splits:
            check_against_counting(rank(Oracle(scores), split, batch_size, k=4), split, scores, k=4)

    check()


def test_the_made_up_log_has_repeats_and_long_histories(splits: list[Any]) -> None:
    ranks = rank(Oracle(torch.zeros(len(splits[0].log.item), splits[0].item_num)), splits[2], 64)
    assert 0 < ranks.target_in_history.sum() < len(ranks.item)
    assert len(set(ranks.user.tolist())) < len(ranks.user)
    assert ranks.history_length.max() > 3


def test_the_padding_is_not_a_candidate_however_high_its_score(splits: list[Any]) -> None:
    scores = torch.zeros(len(splits[0].log.item), splits[0].item_num)
    scores[:, 0] = 99
    ranks = rank(Oracle(scores), splits[2], 64, k=splits[2].item_num - 1)
    assert not ranks.higher_unmasked.any() and not ranks.higher_masked.any()
    assert (ranks.equal_unmasked == splits[2].item_num - 2).all()
    assert (ranks.topk_unmasked > 0).all()


def test_the_batch_size_does_not_matter(splits: list[Any]) -> None:
    torch.manual_seed(0)
    scores = torch.randint(0, 3, (len(splits[0].log.item), splits[0].item_num)).float()
    whole = rank(Oracle(scores), splits[2], 1000, k=3)
    for batch_size in (1, 2, 3):
        parts = rank(Oracle(scores), splits[2], batch_size, k=3)
        for name in vars(whole):
            if not name.startswith("topk"):  # the order of tied items may differ
                np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)


def test_infinite_scores_are_ranked(splits: list[Any]) -> None:
    scores = torch.zeros(len(splits[0].log.item), splits[0].item_num)
    scores[:, 1], scores[:, 2] = torch.inf, -torch.inf
    ranks = rank(Oracle(scores), splits[2], 64)
    plain = ~np.isin(ranks.item, [1, 2])
    assert plain.any() and (ranks.higher_unmasked[plain] == 1).all()
    assert (ranks.equal_unmasked[plain] == splits[2].item_num - 4).all()


def test_a_target_that_scores_minus_infinity_is_last_without_ties(splits: list[Any]) -> None:
    scores = torch.zeros(len(splits[0].log.item), splits[0].item_num)
    scores[torch.arange(len(scores)), splits[0].log.item] = -torch.inf
    ranks = rank(Oracle(scores), splits[2], 64)
    assert (ranks.higher_unmasked == splits[2].item_num - 2).all()
    assert not ranks.equal_unmasked.any() and not ranks.equal_masked.any()


def test_scores_that_are_not_numbers_are_counted_and_refused(splits: list[Any]) -> None:
    scores = torch.zeros(len(splits[0].log.item), splits[0].item_num)
    scores[splits[2].inter_feat[LOG_POSITION][1], 3] = torch.nan
    with pytest.raises(ScoringError, match=r"1 of \d+ cases has scores that are not a number; train the model again"):
        rank(Oracle(scores), splits[2], 64)


def test_scores_for_other_items_are_refused(splits: list[Any]) -> None:
    scores = torch.zeros(len(splits[0].log.item), splits[0].item_num + 1)
    with pytest.raises(ScoringError, match=r"Oracle gave scores of shape \(\d+, 12\) for 11 items"):
        rank(Oracle(scores), splits[2], 64)


def product_model(train: Any, config: Any, name: str = "SASRec", seed: int = 0) -> Any:
    """An untrained model with some equal, some nearly equal and some zero item vectors."""
    seed_everything(seed)
    model = model_class(name)(config, train).eval()
    with torch.no_grad():
        weight = model.item_embedding.weight
        weight.normal_()
        weight[5], weight[9], weight[12] = weight[3], weight[3], weight[4]
        weight[11] = torch.nextafter(weight[4], torch.tensor(torch.inf))
        weight[[15, 16, 17]] = 0
    return model


def in_float64(model: Any, split: Any) -> np.ndarray:
    """Scores [cases, items] of the whole split in one call; column 0 is ignored."""
    rows = split[torch.arange(len(split))]
    with torch.no_grad():
        return (model.user_vectors(rows).double() @ model.item_matrix().double().T).numpy()


@pytest.mark.parametrize("name", ["SASRec", "eSASRec", "GRU4Rec", "NARM"])
def test_ranks_of_products_are_those_of_float64(tiny_splits: tuple[Any, list[Any]], name: str) -> None:
    said = {"embedding_size": 8, "num_layers": 1, "dropout_prob": 0.1, "dropout_probs": [0.1, 0.1]}
    config, (train, _, test) = built(TextSequentialDataset, TINY, model_class(name), **said)
    model = product_model(train, config, name)
    scores = in_float64(model, test)
    ranks = rank(model, test, batch_size=50, k=7)
    row, item = test.histories()
    checked = ties = 0
    for case, target in enumerate(ranks.item.tolist()):
        own, equal = scores[case], np.isin(np.arange(scores.shape[1]), twins(target))
        if (np.abs(own - own[target]) < 1e-6)[~equal].any():
            continue  # too close: states computed with and without padding round differently
        candidate = np.arange(len(own)) > 0
        candidate[target] = False
        for protocol, history in (("unmasked", []), ("masked", item[row == case].tolist())):
            candidate[history] = False
            higher = (own > own[target]) & ~equal & candidate
            assert getattr(ranks, f"higher_{protocol}")[case] == higher.sum()
            assert getattr(ranks, f"equal_{protocol}")[case] == (equal & candidate).sum()
        checked += 1
        ties += ranks.equal_unmasked[case]
    assert checked > 0.8 * len(test) and ties > 0


def twins(item: int) -> list[int]:
    """Items that have the same vector in `product_model`."""
    return next((group for group in ([3, 5, 9], [4, 12], [15, 16, 17]) if item in group), [item])


worlds_of_vectors = st.tuples(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 24), st.integers(1, 30))


@settings(max_examples=40)
@given(worlds_of_vectors, st.integers(1, 200))
def test_ranks_of_products_do_not_depend_on_chunks_and_are_those_of_float64(
    world: tuple[int, int, int, int], chunk: int
) -> None:
    seed, n_items, n_cases, width = world
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n_items + 1, width, generator=random)
    twin = torch.randint(1, n_items + 1, (2, n_items // 2 + 1), generator=random)
    vectors[twin[0]] = vectors[twin[1]]  # equal ones, and some that float32 hardly tells apart
    vectors[twin[0, 0]] *= 1 + 2**-23
    cases = torch.randn(n_cases, width, generator=random)
    target = torch.randint(1, n_items + 1, (n_cases,), generator=random)
    row = torch.randint(n_cases, (3 * n_cases,), generator=random).sort().values
    item = torch.randint(1, n_items + 1, (3 * n_cases,), generator=random)
    found = []
    for size in (1 << 19, chunk):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(scoring.CHUNK, "cpu", size)
            found.append(scoring._rank(Products(cases, ItemMatrix(vectors)), target, row, item, k=4))
    for name, values in found[0].items():
        assert torch.equal(values, found[1][name]), name
    exact = cases.double() @ vectors.double().T
    difference = exact - exact.gather(1, target[:, None])
    difference[(vectors[None, :] == vectors[target][:, None]).all(2)] = 0
    candidate = torch.ones(n_cases, n_items + 1, dtype=torch.bool)
    candidate[:, 0] = candidate[torch.arange(n_cases), target] = False
    left = candidate.clone()
    left[row, item] = False
    for protocol, mask in (("unmasked", candidate), ("masked", left)):
        assert torch.equal(found[0][f"higher_{protocol}"], ((difference > 0) & mask).sum(1))
        assert torch.equal(found[0][f"equal_{protocol}"], ((difference == 0) & mask).sum(1))
    shown, left[torch.arange(n_cases), target] = found[0]["topk_masked"], True
    left[row, item] = False
    for case in range(n_cases):
        best = exact[case][left[case]].sort(descending=True).values[:4]
        torch.testing.assert_close(exact[case][shown[case][shown[case] > 0]], best, rtol=1e-12, atol=1e-12)


def test_float32_alone_would_rank_differently() -> None:
    random = torch.Generator().manual_seed(0)
    cases, vectors = torch.randn(64, 48, generator=random), torch.randn(4000, 48, generator=random)
    vectors[2000:] = vectors[:2000] * (1 + 2**-23)  # longer by less than float32 can resolve
    own = (cases.double() * vectors[:64].double()).sum(1)
    slack = Products(cases, ItemMatrix(vectors)).slack
    exact, _ = count(cases.double() @ vectors.double().T, own, slack[torch.float64])
    plain, _ = count(cases @ vectors.T, own, torch.zeros(64, dtype=torch.float64))
    above, close = count(cases @ vectors.T, own, slack[torch.float32])
    assert (plain != exact).any()
    assert ((above <= exact) & (exact <= above + close)).all() and (close < 10).all()


@pytest.mark.parametrize("power", [-20, -66, -90, -124])
def test_vectors_that_are_hardly_above_zero_are_ranked_like_larger_ones(power: int) -> None:
    """In float32 the squares of their numbers are 0, and so is a part of the scores."""
    random = torch.Generator().manual_seed(0)
    cases, vectors = torch.randn(20, 8, generator=random), torch.randn(41, 8, generator=random)
    target = torch.randint(1, 41, (20,), generator=random)
    row, item = torch.arange(20), torch.randint(1, 41, (20,), generator=random)
    wanted, found = (
        scoring._rank(Products(cases * scale, ItemMatrix(vectors)), target, row, item, k=0)
        for scale in (1.0, 2.0**power)
    )
    for name, values in wanted.items():
        assert torch.equal(values, found[name]), name


def test_no_more_scores_are_held_than_allowed(tiny_splits: tuple[Any, list[Any]], monkeypatch: Any) -> None:
    _, (train, _, test) = tiny_splits
    config, _ = built(TextSequentialDataset, TINY, model_class("SASRec"))
    model, held, part = product_model(train, config), [], Products.part

    def note(self: Products, begin: int, end: int) -> Tensor:
        held.append(part(self, begin, end))
        return held[-1]

    whole = rank(model, test, 50, k=5)
    monkeypatch.setattr(Products, "part", note)
    monkeypatch.setitem(scoring.CHUNK, "cpu", 700)
    parts = rank(model, test, 50, k=5)
    assert max(scores.numel() for scores in held) <= 700 and len(held) > 10
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)


def test_models_that_return_all_scores_get_few_cases_at_a_time(splits: list[Any], monkeypatch: Any) -> None:
    scores, asked = torch.zeros(len(splits[0].log.item), splits[0].item_num), []

    class Counting(Oracle):
        def full_sort_predict(self, interaction: Any) -> Tensor:
            asked.append(len(interaction))
            return super().full_sort_predict(interaction)

    monkeypatch.setattr(scoring, "WRITTEN_OUT", 2 * splits[0].item_num + 1)
    rank(Counting(scores), splits[2], 64)
    assert max(asked) == 2 and sum(asked) == len(splits[2])


def test_vectors_that_are_not_finite_are_refused(tiny_splits: tuple[Any, list[Any]]) -> None:
    _, (train, _, test) = tiny_splits
    config, _ = built(TextSequentialDataset, TINY, model_class("SASRec"))
    model = product_model(train, config)
    with torch.no_grad():
        model.item_embedding.weight[7, 0] = torch.nan
    with pytest.raises(ScoringError, match="50 of 50 cases have scores that are not a number; train the model again"):
        rank(model, test, 50)


@pytest.mark.parametrize("name", ["SASRec", "eSASRec", "GRU4Rec"])
def test_states_without_padding_are_the_models_own(tiny_splits: tuple[Any, list[Any]], name: str) -> None:
    config, (train, _, test) = built(
        TextSequentialDataset,
        TINY,
        model_class(name),
        embedding_size=8,
        num_layers=1,
        dropout_prob=0.1,
    )
    model, rows = product_model(train, config, name), slice(3, 40)
    with torch.no_grad():
        found, expected = states(model, train, rows), model.user_vectors(train[rows])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(train[rows]["item_length"].unique()) > 3


def test_states_of_benchmark_files_are_the_models_own(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    histories = ["a b c", "d", "c b a d e a", "e d"]
    lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
    lines += [f"u{user}\t{history}\tf" for user, history in enumerate(histories)]
    for part in ("train", "valid", "test"):
        (tmp_path / "bench" / f"bench.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config, (train, _, test) = built(
        TextSequentialDataset,
        tmp_path / "bench",
        model_class("SASRec"),
        benchmark_filename=["train", "valid", "test"],
        alias_of_item_id=["item_id_list"],
        load_col={"inter": ["user_id", "item_id_list", "item_id"]},
    )
    model = model_class("SASRec")(config, train).eval()
    for rows in (slice(0, 4), slice(1, 3)):
        with torch.no_grad():
            found, expected = states(model, test, rows), model.user_vectors(test[rows])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["id", "text"])
def test_metrics_from_ranks_are_those_of_recboles_evaluator(tiny_splits: tuple[Any, list[Any]], kind: str) -> None:
    _, (train, valid, test) = tiny_splits
    text = {"blair_items": kind, "blair_text_fields": ["title"]} if kind == "text" else {}
    config, _ = built(
        TextSequentialDataset,
        TINY,
        model_class("SASRec"),
        metric_decimal_place=12,
        **text,
    )
    train.item_vectors = vectors_for(train.item_num)
    seed_everything(3)
    model = model_class("SASRec")(config, train)
    trainer = Trainer(config, model)
    for split in (valid, test):
        theirs = trainer.evaluate(FullSortEvalDataLoader(config, split, None), load_best_model=False)
        ranks = rank(model, split, batch_size=50)
        ours = metric_values(["NDCG@10", "Recall@10", "MRR@10"], ranks.higher_unmasked, ranks.equal_unmasked)
        assert theirs["recall@10"] > 0
        assert {name.lower(): value for name, value in ours.items()} == pytest.approx(dict(theirs), abs=1e-6)
