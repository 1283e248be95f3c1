"""Ensembles: normalised scores of finished runs, weights from validation alone, and the same ranking as vectors."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import InterruptedIn, Recorder, config_of, end_with_other_weights, raw_config, tiny_at
from encoders import build_roberta
from hypothesis import given
from hypothesis import strategies as st
from worlds import read_log, with_other_last_items, write_log

import blair_rec
from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.errors import ChangedRuns, CheckpointError, ConfigError, OutputError, ScoringError
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.metrics import metric_values
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.run import Data, whole_data
from blair_rec.ranking.ensemble import WHOLE, Ensemble, choose_weights, neighbours, simplex, standardised
from blair_rec.ranking.scorers import Baseline
from blair_rec.ranking.scoring import rank
from blair_rec.text.store.embeddings import open_store
from blair_rec.text.store.writer import write_store

VARIANTS: dict[str, dict[str, Any]] = {
    "both": {"average": ["id", "text"]},
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["center"]},
    "near": {"scorer": "last_item", "transforms": ["center"]},
    "markov": {"scorer": "markov"},
    "equal": {"average": ["id", "near"], "weights": "equal"},
    "by_text": {"average": ["text", "near"], "weights": "equal"},
    "three": {"average": ["text", "near", "markov"]},
    "masked": {"average": ["id", "text"], "weights": "masked"},
}


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished comparison."""

    config: CompareConfig
    out: Path
    board: Leaderboard
    listener: Recorder

    def result(self, run: str) -> dict[str, Any]:
        """The content of result.json."""
        read: dict[str, Any] = json.loads((self.out / "runs" / run / "result.json").read_text("utf-8"))
        return read


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Finished:
    """Models, baselines and averages of them, two seeds; no test changes it."""
    folder = tmp_path_factory.mktemp("finished")
    config, listener = config_of(tiny_at(folder), encoder, variants=VARIANTS), Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        board = compare(config, folder / "out", listener=listener)
    assert board is not None
    return Finished(config, folder / "out", board, listener)


@pytest.fixture
def own(finished: Finished, tmp_path: Path) -> Finished:
    """A copy of it that the test may change."""
    return dataclasses.replace(finished, out=Path(shutil.copytree(finished.out, tmp_path / "out")))


@pytest.fixture(scope="module")
def data(finished: Finished) -> Data:
    return whole_data(finished.config, data_folder(finished.config.dataset))


# Scores


def by_hand(scores: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """[B, N - 1] float64: the weighted z-scores of the items, user by user."""
    total = np.zeros_like(scores[0][:, 1:], dtype=np.float64)
    for member, weight in zip(scores, weights, strict=True):
        for user, row in enumerate(member[:, 1:].astype(np.float64)):
            total[user] += weight * (row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean())
    return total


@pytest.mark.parametrize("name", ["both", "equal", "three"])
def test_an_ensemble_scores_the_weighted_z_scores_of_its_members_runs(
    finished: Finished, data: Data, name: str
) -> None:
    interaction = data.test[torch.arange(len(data.test))]

    def scores(variant: str) -> np.ndarray:
        seed = 1 if variant in ("near", "markov") else 2  # one run counts for all seeds
        model = blair_rec.load(finished.out / "runs" / f"{variant}-{seed}")._model
        with torch.no_grad():
            return model.full_sort_predict(interaction).numpy()

    weights = finished.result(f"{name}-2")["weights"]
    assert set(weights) == set(VARIANTS[name]["average"])
    expected = by_hand([scores(member) for member in weights], list(weights.values()))
    np.testing.assert_allclose(scores(name)[:, 1:], expected, atol=2e-5)
    assert sum(weights.values()) == pytest.approx(1)


def test_the_ranks_on_disk_are_those_of_the_averaged_scores(finished: Finished, data: Data) -> None:
    for name in ("both", "equal", "three"):
        model = blair_rec.load(finished.out / "runs" / f"{name}-1")._model
        again = rank(model, data.test, batch_size=50)
        with np.load(finished.out / "runs" / f"{name}-1" / "ranks.npz") as saved:
            for protocol in ("unmasked", "masked"):
                np.testing.assert_array_equal(saved[f"higher_{protocol}"], getattr(again, f"higher_{protocol}"))


@given(
    st.integers(0, 2**32 - 1), st.floats(-10, 10), st.floats(0.1, 1e3)
)  # fmt: skip
def test_shift_and_scale_of_a_members_scores_make_no_difference(seed: int, shift: float, scale: float) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 30)))
    torch.testing.assert_close(standardised(scores * scale + shift), standardised(scores), rtol=0, atol=1e-3)


def test_z_scores_leave_the_padding_out_and_constant_users_at_zero() -> None:
    scores = torch.tensor([[9e9, 1.0, 2.0, 3.0], [0.0, 0.1, 0.1, 0.1]])
    found = standardised(scores)
    np.testing.assert_allclose(found[0, 1:], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-6)
    assert torch.equal(found[1, 1:], torch.zeros(3))


def test_scores_that_are_not_finite_are_reported() -> None:
    with pytest.raises(ScoringError, match=r"1 of 2 cases has scores that are not finite"):
        standardised(torch.tensor([[0.0, 1.0, torch.inf], [0.0, 1.0, 2.0]]))


# Weights


@pytest.mark.parametrize("members, size", [(2, 11), (3, 66), (4, 56)])
def test_the_grid_covers_the_simplex_from_its_middle_to_its_corners(members: int, size: int) -> None:
    grid = simplex(members)
    assert len(grid) == len(set(grid)) == size
    assert set(map(sum, grid)) == {WHOLE} and min(map(min, grid)) == 0
    for corner in np.eye(members, dtype=int) * WHOLE:
        assert tuple(corner.tolist()) in grid
    spread = [round(float(np.var(weights)), 9) for weights in grid]
    assert spread == sorted(spread)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("metric", "held"), [("MRR@80", 0), ("NDCG@5", 1 << 15), ("NDCG@5", 1 << 29)])
def test_the_chosen_weights_are_a_local_maximum_at_or_above_the_grid(
    finished: Finished, data: Data, masked: bool, metric: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each weighting is ranked separately: none of the grid is better, and none that is one step away.

    This holds whether the scores of no, some or all batches are kept between passes.
    """
    monkeypatch.setattr("blair_rec.ranking.ensemble.HELD", held)
    members = blair_rec.load(finished.out / "runs" / "three-1")._model.members

    def value_of(shares: tuple[int, ...]) -> float:
        found = rank(Ensemble(members, [share / WHOLE for share in shares]), data.valid, batch_size=1000)
        if masked:
            counts = found.higher_masked, found.equal_masked, found.target_in_history
        else:
            counts = found.higher_unmasked, found.equal_unmasked, None
        return metric_values([metric], *counts)[metric]

    weights, value = choose_weights(
        Ensemble(members), data.valid, masked, lambda *ranks: metric_values([metric], *ranks)[metric], 37
    )
    shares = tuple(round(weight * WHOLE) for weight in weights)
    assert sum(shares) == WHOLE
    assert value_of(shares) == pytest.approx(value, abs=1e-12)
    others = [*simplex(3), *neighbours(shares, 1)]
    assert max(map(value_of, others)) <= value + 1e-9


@pytest.mark.parametrize("masked", [False, True])
def test_a_start_is_measured_on_every_nth_case_and_the_climb_on_all(
    finished: Finished, data: Data, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blair_rec.ranking.ensemble.FEW", 20)
    monkeypatch.setattr("blair_rec.ranking.ensemble.ENOUGH", 20)
    members, grid, step = blair_rec.load(finished.out / "runs" / "three-1")._model.members, simplex(3), 4
    assert math.ceil(len(grid) / 20) == step
    seen: list[tuple[np.ndarray, ...]] = []

    def measure(higher: np.ndarray, equal: np.ndarray, miss: np.ndarray | None) -> float:
        seen.append((higher, equal) if miss is None else (higher, equal, miss))
        return metric_values(["NDCG@5"], higher, equal, miss)["NDCG@5"]

    def ranked(shares: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        found = rank(Ensemble(members, [share / WHOLE for share in shares]), data.valid, batch_size=1000)
        if masked:
            return found.higher_masked, found.equal_masked, found.target_in_history
        return found.higher_unmasked, found.equal_unmasked

    weights, value = choose_weights(Ensemble(members), data.valid, masked, measure, 37)
    for shares, counts in zip(grid[::9], seen[: len(grid) : 9], strict=True):
        for expected, counted in zip(ranked(shares), counts, strict=True):
            np.testing.assert_array_equal(counted, expected[::step])
    assert {len(counts[0]) for counts in seen[len(grid) :]} == {len(data.valid)}
    shares = tuple(round(weight * WHOLE) for weight in weights)
    around = [metric_values(["NDCG@5"], *ranked(one))["NDCG@5"] for one in neighbours(shares, 1)]
    assert max(around) <= value + 1e-9


def test_a_start_on_few_cases_is_measured_on_all(
    finished: Finished, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blair_rec.ranking.ensemble.FEW", 20)
    members, seen = blair_rec.load(finished.out / "runs" / "three-1")._model.members, []

    def measure(higher: np.ndarray, equal: np.ndarray, miss: np.ndarray | None) -> float:
        seen.append(len(higher))
        return metric_values(["NDCG@5"], higher, equal, miss)["NDCG@5"]

    choose_weights(Ensemble(members), data.valid, False, measure, 37)
    assert set(seen) == {len(data.valid)}


def test_neighbours_give_one_share_from_one_member_to_another() -> None:
    assert set(neighbours((20, 0, 0), 2)) == {(18, 2, 0), (18, 0, 2)}
    assert set(neighbours((19, 1, 0), 1)) == {(18, 2, 0), (18, 1, 1), (20, 0, 0), (19, 0, 1)}


def test_weights_can_be_chosen_by_the_other_protocol(finished: Finished, data: Data) -> None:
    by_config, by_other = finished.result("both-1"), finished.result("masked-1")
    assert by_config["selection"]["protocol"] == "unmasked" and by_other["selection"]["protocol"] == "masked"
    assert by_other["selection"]["value"] == by_other["valid"]["masked"]["NDCG@10"]
    assert by_other["valid"]["masked"]["NDCG@10"] >= by_config["valid"]["masked"]["NDCG@10"]
    assert by_other["valid"]["unmasked"]["NDCG@10"] <= by_config["valid"]["unmasked"]["NDCG@10"]
    assert finished.board.selected_on == ("NDCG@10 unmasked",), "what the models were selected on"
    assert any(
        note.startswith("weights of masked: ") and "validation, masked)" in note for note in finished.board.notes
    )


def test_weights_are_reported_with_what_chose_them(finished: Finished) -> None:
    chosen, equal = finished.result("both-1"), finished.result("equal-1")
    assert chosen["selection"]["value"] == pytest.approx(chosen["valid"]["unmasked"]["NDCG@10"], abs=1e-12)
    assert chosen["selection"]["epoch"] == 0
    assert equal["selection"] is None and equal["weights"] == {"id": 0.5, "near": 0.5}
    assert chosen["valid"]["unmasked"]["NDCG@10"] >= max(
        finished.result(f"{member}-1")["valid"]["unmasked"]["NDCG@10"] for member in ("id", "text")
    )
    (said,) = [note for note in finished.board.notes if note.startswith("weights of both: id 0.")]
    assert said.endswith("(chosen on validation) (lowest to highest of seeds 1, 2)"), "one for both seeds"


def test_other_test_items_leave_the_weights_as_they_are(finished: Finished, encoder: Path, tmp_path: Path) -> None:
    """The last event of most users is changed; trained models and weights stay the same to the bit."""
    tiny = tiny_at(tmp_path)
    log = read_log(tiny)
    changed = with_other_last_items(log)
    assert sum(ours != theirs for ours, theirs in zip(log, changed, strict=True)) > 60
    write_log(tiny, changed)
    variants = {name: VARIANTS[name] for name in ("id", "text", "both")}
    compare(config_of(tiny, encoder, variants=variants, seeds=[1]), tmp_path / "out")
    result = json.loads((tmp_path / "out" / "runs" / "both-1" / "result.json").read_text("utf-8"))
    assert result["valid"] == finished.result("both-1")["valid"]
    assert result["weights"] == finished.result("both-1")["weights"]


# Runs


def test_members_come_first_and_nothing_is_trained_again(finished: Finished) -> None:
    order = ["id", "text", "near", "markov", "both", "equal", "by_text", "three", "masked"]
    drawn = [name for name in order if name not in ("near", "markov")]
    assert finished.listener.finished_runs == [*(f"{name}-1" for name in order), *(f"{name}-2" for name in drawn)]
    assert finished.listener.epochs == 2 * 2 * 2
    rows = {row.variant: row for row in finished.board.rows}
    assert rows["both"].items == "average" and rows["both"].epochs == 0
    assert rows["both"].parameters.trained == sum(rows[name].parameters.trained for name in ("id", "text"))


def test_an_average_is_made_again_after_a_member_was_trained_to_other_weights(
    own: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Recorder()
    compare(own.config, own.out, listener=again)
    assert again.started_runs == []

    shutil.rmtree(own.out / "runs" / "text-2")
    compare(own.config, own.out, listener=again)
    assert again.started_runs == ["text-2"], "to the same weights, so its averages fit it"

    shutil.rmtree(own.out / "runs" / "text-2")
    end_with_other_weights(monkeypatch)
    compare(own.config, own.out, listener=again)
    assert again.started_runs[1:] == ["text-2", "both-2", "by_text-2", "three-2", "masked-2"]


def test_an_average_of_runs_that_are_no_longer_there_is_neither_shown_nor_loaded(own: Finished) -> None:
    train = own.config.train.changed(epochs=1)
    changed = own.config.changed(train=train, seeds=(1,))
    with pytest.raises(KeyboardInterrupt):
        compare(changed, own.out, fresh=True, listener=InterruptedIn(epoch=2))  # id was trained again, text was not
    with pytest.raises(CheckpointError, match=r"both-1 averages id, text, but one of these runs is missing or was"):
        blair_rec.load(own.out / "runs" / "both-1")

    compare(changed.only(["id", "text"]), own.out, fresh=True)
    (own.out / "config.yaml").write_text(
        (own.out / "config.yaml")
        .read_text("utf-8")
        .replace("variants:\n", "variants:\n  both: {average: [id, text]}\n")
    )
    with pytest.raises(
        ChangedRuns, match=r"1 finished run in .* \(both-1\) used different settings, data or code: the runs that it av"
    ):
        leaderboard(own.out)
    again = Recorder()
    compare(changed.only(["id", "text", "both"]), own.out, listener=again)
    assert again.started_runs == ["both-1"]


@pytest.mark.parametrize(
    "variants, message",
    [
        (
            {"both": {"average": ["id", "txt"]}},
            r"variants.both.average names 'txt', which is not a variant of this comparison",
        ),
        ({"both": {"average": ["id"]}}, r"average is \['id'\]; name at least two variants, each once"),
        ({"both": {"average": ["id", "id"]}}, r"average is \['id', 'id'\]; name at least two"),
        (
            {"a": {"average": ["id", "t"]}, "b": {"average": ["id", "a"]}},
            r"variants.b.average names 'a', which is",
        ),
        (
            {"both": {"average": ["id", "t"], "items": "text"}},
            r"items can.t be set on an average; set it on its members",
        ),
        (
            {"both": {"average": ["id", "t"], "weights": "test"}},
            r"weights is 'test'; known: validation, masked, unmasked, equal",
        ),
        ({"t": {"items": "text", "weights": "equal"}}, r"weights is 'equal', but only an average or a second st"),
    ],
)
def test_an_invalid_average_is_refused(variants: dict[str, Any], message: str) -> None:
    raw = raw_config(Path("tiny"), "encoder", variants={"id": {}, "t": {"items": "text"}, **variants})
    with pytest.raises(ConfigError, match=message):
        read_config(raw)


def test_an_average_without_its_members_is_refused(finished: Finished) -> None:
    with pytest.raises(ConfigError, match=r"--variants names 'both' without all of its members; name text, too"):
        finished.config.only(["id", "both"])


# One vector space


def histories(finished: Finished) -> list[list[str]]:
    events: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in read_log(Path(finished.config.dataset)):
        events.setdefault(user, []).append((time, item))
    return [[item for _, item in sorted(of_user)][:-1] for of_user in events.values()]


@pytest.mark.parametrize("name", ["both", "equal", "near", "id"])
def test_the_inner_product_of_exported_vectors_ranks_as_the_run_does(
    finished: Finished, tmp_path: Path, name: str
) -> None:
    run = finished.out / "runs" / f"{name}-1"
    folder = blair_rec.export_vectors(run, tmp_path / "vectors")
    items, tokens = np.load(folder / "items.npy", allow_pickle=False), json.loads((folder / "items.json").read_text())
    recommender, asked = blair_rec.load(run), histories(finished)
    users = recommender.user_vectors(asked, batch_size=50)
    assert items.dtype == users.dtype == np.float32 and tokens == list(recommender.item_tokens)
    assert items.shape[1] == users.shape[1] == {"both": 16, "equal": 8 + 32, "near": 32, "id": 8}[name]
    products = users.astype(np.float64) @ items.astype(np.float64).T
    ranked = recommender.recommend(asked, k=len(tokens), exclude_history=False)
    for row, found in zip(products, ranked, strict=True):
        scores = np.array([score for _, score in found])
        ours = np.array([row[tokens.index(token)] for token, _ in found])
        # Equal up to one constant for all items of a user, so items whose scores differ have the same order.
        np.testing.assert_allclose(ours - ours.mean(), scores - scores.mean(), atol=2e-5)
        falls = -np.diff(scores) > 1e-4
        assert falls.sum() > 30 and (np.diff(ours)[falls] < 0).all()


def test_a_markov_chain_has_no_vectors_and_recommends_all_the_same(finished: Finished, tmp_path: Path) -> None:
    run = finished.out / "runs" / "three-1"
    with pytest.raises(ConfigError, match=r"scores of BLaIRSASRec and LastItem and Markov are not all inner products"):
        blair_rec.export_vectors(run, tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()
    assert len(blair_rec.load(run).recommend(histories(finished)[:2], k=3)[0]) == 3


def test_an_export_replaces_an_earlier_one_and_nothing_else(finished: Finished, tmp_path: Path) -> None:
    run, out = finished.out / "runs" / "id-1", tmp_path / "vectors"
    for _ in range(2):
        blair_rec.export_vectors(run, out)
        assert sorted(file.name for file in out.iterdir()) == ["items.json", "items.npy"]
    (tmp_path / "link").symlink_to(out)
    blair_rec.export_vectors(run, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "vectors"]
    (out / "thesis.tex").write_text("dear")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "items.json").write_text("mine, too")
    for folder, message in (
        (out, "first: thesis.tex"),
        (tmp_path / "mine", "but no items.npy"),
        (run, "first: histories.npz"),
    ):
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        with pytest.raises(OutputError, match=message):
            blair_rec.export_vectors(run, folder)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "mine", "vectors"]


# Items that came later


def with_a_twin(finished: Finished, path: Path) -> Path:
    """A store of one more item, whose text is that of i05."""
    first = open_store(next((finished.out / "stores").iterdir()))
    write_store(
        path,
        ["i05", "twin"],
        first.table(["i05", "i05"]),
        textless=(),
        encoder=first.encoder,
        template=first.template,
        text_sha256="0" * 64,
    )
    return path


@pytest.mark.parametrize("name", ["near", "by_text"])
def test_an_item_that_came_later_is_scored_by_its_text(finished: Finished, tmp_path: Path, name: str) -> None:
    run = finished.out / "runs" / f"{name}-1"
    later = blair_rec.load(run, extra_items=with_a_twin(finished, tmp_path / "more"))
    assert later.item_tokens == (*blair_rec.load(run).item_tokens, "twin")
    for found in later.recommend([["i07", "i20"], ["twin"]], k=81, exclude_history=False):
        score = dict(found)
        assert score["twin"] == pytest.approx(score["i05"], abs=1e-5)
    near = blair_rec.load(finished.out / "runs" / "near-1", extra_items=tmp_path / "more").recommend([["twin"]], k=1)
    assert near[0][0].item_token == "i05" and near[0][0].score == pytest.approx(1)


@pytest.mark.parametrize(
    "name, why", [("both", "id learns items from their events"), ("markov", "Markov can only score")]
)
def test_an_item_that_came_later_is_refused_by_scorers_that_count_events(
    finished: Finished, tmp_path: Path, name: str, why: str
) -> None:
    more = with_a_twin(finished, tmp_path / "more")
    with pytest.raises(ConfigError, match=f"an item that came after training can't be scored: .*{why}"):
        blair_rec.load(finished.out / "runs" / f"{name}-1", extra_items=more)


class Fixed(Baseline):
    """Scores that don't depend on the user."""

    def __init__(self, items: list[float], by_product: bool) -> None:
        super().__init__(len(items) + 1, "items", "length")
        self.table, self.scores_by_product = torch.tensor([[0.0], *([item] for item in items)]), by_product

    def user_vectors(self, interaction: Any) -> torch.Tensor:
        return torch.ones(len(interaction["length"]), 1)

    def item_matrix(self) -> torch.Tensor:
        return self.table


def test_a_member_with_equal_scores_for_all_items_adds_nothing_to_scores_and_vectors() -> None:
    ensemble = Ensemble([Fixed([1.0, 2.0, 4.0], True), Fixed([0.1, 0.1, 0.1], True)])
    interaction = {"items": torch.ones(2, 1, dtype=torch.int64), "length": torch.ones(2, dtype=torch.int64)}
    alone = Ensemble([Fixed([1.0, 2.0, 4.0], True)], [0.5]).full_sort_predict(interaction)
    assert torch.equal(ensemble.full_sort_predict(interaction), alone)
    assert torch.equal(ensemble.user_vectors(interaction)[:, 1], torch.zeros(2))
