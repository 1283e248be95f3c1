"""Second stages in comparisons: what they find, what they don't, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import Recorder, config_of, raw_config, tiny_at
from encoders import build_roberta
from safetensors.torch import load_file
from two_halves import circle_store, two_halves_at
from worlds import read_log, with_other_last_items, write_log

import blair_rec
from blair_rec import extras
from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.errors import BadRun, ChangedRuns, CheckpointError, ConfigError, MissingExtra, TrainingError
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.page.second_stages import second_stages
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.planning.shards import shard_names
from blair_rec.experiment.run import whole_data
from blair_rec.serve.export.folder import export_run

pytest.importorskip("lightgbm", reason="the extra rerank is not installed")
TEXT = {"scorer": "recent_history", "transforms": ["center"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "popularity": {"scorer": "popularity"},
    "rules": {"scorer": "sequential_rules"},
    "near": TEXT,
    "shuffled": {**TEXT, "control": "shuffle"},
    "average": {"average": ["popularity", "rules", "near"]},
    "second": {"rerank": ["popularity", "rules", "near"], "candidates": 20},
    "no_text": {"rerank": ["popularity", "rules"], "candidates": 20},
    "unmasked": {"rerank": ["popularity", "rules"], "candidates": 20, "weights": "unmasked"},
}


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished comparison."""

    config: CompareConfig
    out: Path
    board: Leaderboard

    def result(self, run: str) -> dict[str, Any]:
        """The content of result.json."""
        read: dict[str, Any] = json.loads((self.out / "runs" / run / "result.json").read_text("utf-8"))
        return read


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


def settings(dataset: Path, encoder: Path, **sections: Any) -> dict[str, Any]:
    """A comparison of VARIANTS."""
    sections = {"variants": VARIANTS, "baseline": "rules", "evaluate": {"protocol": "masked"}, "seeds": [1], **sections}
    return raw_config(dataset, encoder, **sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Finished:
    """Scorers, an average and second stages over them; no test changes it."""
    folder = tmp_path_factory.mktemp("finished")
    config = read_config(settings(tiny_at(folder), encoder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        board = compare(config, folder / "out")
    assert board is not None
    return Finished(config, folder / "out", board)


@pytest.fixture
def own(finished: Finished, tmp_path: Path) -> Finished:
    """A copy of it that the test may change."""
    return dataclasses.replace(finished, out=Path(shutil.copytree(finished.out, tmp_path / "out")))


# What it finds


def test_it_finds_an_answer_that_lies_in_the_interaction_of_two_members(tmp_path: Path, encoder: Path) -> None:
    """The next item is where one member is high and the other is low: a weighted mean can't say that."""
    variants = {
        "first": {"scorer": "two_halves:FirstHalf"},
        "other": {"scorer": "two_halves:SecondHalf"},
        "average": {"average": ["first", "other"]},
        "second": {"rerank": ["first", "other"], "candidates": 10},
    }
    config = read_config(settings(two_halves_at(tmp_path), encoder, variants=variants, baseline="average"))
    board = compare(config, tmp_path / "out")
    assert board is not None
    found = {row.variant: row.metrics["masked"]["NDCG@10"].mean for row in board.rows}
    best = np.mean(1 / np.log2(np.arange(2, 6)))  # four items are equally likely
    assert found["second"] > 0.9 * best
    assert max(found["average"], found["first"], found["other"]) < 0.75 * best


def test_text_helps_a_second_stage_and_shuffled_text_does_not(tmp_path: Path, encoder: Path) -> None:
    """Text says how far apart two items are, which the members without text know only in part."""
    near = {"scorer": "last_item", "text": {"missing_text": "zeros"}}
    variants = {
        "first": {"scorer": "two_halves:FirstHalf"},
        "popularity": {"scorer": "popularity"},
        "near": near,
        "shuffled": {**near, "control": "shuffle"},
        "no_text": {"rerank": ["first", "popularity"], "candidates": 20},
        "second": {"rerank": ["first", "popularity", "near"], "candidates": 20},
        "by_chance": {"rerank": ["first", "popularity", "shuffled"], "candidates": 20},
    }
    text = {"store": str(circle_store(tmp_path / "store").path)}
    dataset = two_halves_at(tmp_path)
    board = compare(
        read_config(settings(dataset, encoder, variants=variants, baseline="no_text", text=text)), tmp_path / "out"
    )
    assert board is not None
    found = {row.variant: row.metrics["masked"]["NDCG@10"].mean for row in board.rows}
    assert found["second"] > 1.3 * found["no_text"]
    assert found["by_chance"] < 1.05 * found["no_text"]


def test_text_is_read_only_if_a_member_reads_it(finished: Finished) -> None:
    kinds = {
        name: {kind for _, kind in finished.result(f"{name}-1")["rerank"]["features"]} for name in ("second", "no_text")
    }
    assert any("text" in kind for kind in kinds["second"]) and not any("text" in kind for kind in kinds["no_text"])
    assert {"score", "rank", "popularity", "recency", "length", "events ago"} <= kinds["no_text"]


# Honest numbers


def test_validation_cases_are_measured_by_trees_of_other_users(finished: Finished) -> None:
    """The final trees were fitted on the validation cases and rank them better than new ones."""
    result = finished.result("no_text-1")
    model = blair_rec.load(finished.out / "runs" / "no_text-1")._model
    from blair_rec.evaluate.metrics import metric_values
    from blair_rec.ranking.scoring import rank

    data = whole_data(finished.config, data_folder(finished.config.dataset))
    ranks = rank(model, data.valid, 100)
    fitted_on = metric_values(["NDCG@10"], ranks.higher_masked, ranks.equal_masked, ranks.target_in_history)
    assert result["valid"]["masked"]["NDCG@10"] < fitted_on["NDCG@10"]
    assert result["selection"]["value"] == result["valid"]["masked"]["NDCG@10"]


@pytest.mark.parametrize(
    "name, members, masked",
    [("second", ("popularity", "rules", "near"), True), ("unmasked", ("popularity", "rules"), False)],
)
def test_pool_recall_is_the_share_of_validation_targets_among_the_candidates_of_the_protocol(
    finished: Finished, name: str, members: tuple[str, ...], masked: bool
) -> None:
    """Masked: the best 20 items outside the history. Unmasked: also its items that score as high as these."""
    valid = whole_data(finished.config, data_folder(finished.config.dataset)).valid
    pooled: list[set[int]] = [set() for _ in range(len(valid))]
    row, seen = (part.numpy() for part in valid.histories())
    target, cases = valid.inter_feat[valid.iid_field].numpy(), valid[slice(0, len(valid))]
    for member in members:
        model = blair_rec.load(finished.out / "runs" / f"{member}-1")._model
        with torch.no_grad():
            scores = model.full_sort_predict(cases).numpy()
        for case, of_items in enumerate(scores):
            window = set(cases["item_id_list"][case].tolist())
            others = [item for item in range(1, len(of_items)) if item not in window]
            best = sorted(others, key=lambda item: (-of_items[item], item))[:20]
            back = [item for item in window - {0} if of_items[item] >= of_items[best[-1]]]
            pooled[case].update({*best, *back} - (set(seen[row == case].tolist()) if masked else set()))
    said = finished.result(f"{name}-1")["rerank"]
    found = [one in pool for one, pool in zip(target, pooled, strict=True)]
    assert said["pool_recall"] == pytest.approx(np.mean(found))
    assert said["pool_size"] == pytest.approx(np.mean([len(pool) for pool in pooled])) and said["candidates"] == 20


def test_other_test_targets_change_no_tree(finished: Finished, encoder: Path, tmp_path: Path) -> None:
    log = read_log(Path(finished.config.dataset))
    dataset = tiny_at(tmp_path)
    write_log(dataset, with_other_last_items(log))
    names = ["popularity", "rules", "near", "second"]
    compare(finished.config.changed(dataset=str(dataset)).only(names), tmp_path / "out")
    runs = [out / "runs" / "second-1" for out in (finished.out, tmp_path / "out")]
    assert (runs[0] / "trees.txt").read_bytes() == (runs[1] / "trees.txt").read_bytes()
    weights = [load_file(run / "model.safetensors") for run in runs]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    ranks = [np.load(run / "ranks.npz")["item"] for run in runs]
    assert (ranks[0] != ranks[1]).any()


def test_a_second_run_is_bit_equal(finished: Finished, tmp_path: Path) -> None:
    compare(finished.config, tmp_path / "again", variants=["popularity", "rules", "near", "second"])
    runs = [out / "runs" / "second-1" for out in (finished.out, tmp_path / "again")]
    assert (runs[0] / "trees.txt").read_bytes() == (runs[1] / "trees.txt").read_bytes()
    weights = [load_file(run / "model.safetensors") for run in runs]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    for file in ("ranks.npz", "topk.npz"):
        before, after = (dict(np.load(out / "runs" / "second-1" / file)) for out in (finished.out, tmp_path / "again"))
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array)


@pytest.mark.parametrize("name", ["second", "unmasked"])
def test_recommendations_are_the_runs_top_lists(finished: Finished, name: str) -> None:
    run = load_run(finished.out / "runs" / f"{name}-1")
    events: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in read_log(Path(finished.config.dataset)):
        events.setdefault(user, []).append((time, item))
    users = list(events)  # RecBole numbers users as they appear
    asked = [
        [item for _, item in sorted(events[users[user - 1]], key=lambda event: event[0])][:-1]
        for user in run.ranks.user.tolist()
    ]
    model = blair_rec.load(run.folder)
    for protocol, exclude in (("masked", True), ("unmasked", False)):
        found = model.recommend(asked, k=10, exclude_history=exclude)
        expected = run.topk(protocol)[:, :10]
        for tokens, row in zip(found, expected.tolist(), strict=True):
            assert [one.item_token for one in tokens] == [run.item_tokens[item] for item in row]


def test_the_board_says_what_the_second_stage_is(finished: Finished) -> None:
    (row,) = [row for row in finished.board.rows if row.variant == "second"]
    assert row.items == "rerank" and not row.training_free and row.test_evaluations == 1
    said = finished.result("second-1")["rerank"]
    assert row.parameters.trained == said["leaves"] > said["trees"] > 0
    assert f"second orders the 20 best items of each member, {said['pool_size']:.0f} per case; " in " ".join(
        finished.board.notes
    )
    assert not any("nothing to learn" in note for note in finished.board.notes)
    stages = {stage.variant: stage for stage in second_stages([load_run(finished.out / "runs" / "second-1")])}
    shares = {about: share for about, share, _ in stages["second"].importances}
    assert set(shares) == {"average", "popularity", "rules", "near", "item", "history"}
    assert sum(shares.values()) == pytest.approx(1) and list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(said["gains"]) == pytest.approx(1)
    page = (finished.out / "leaderboard.html").read_text("utf-8")
    assert "What do second stages read?" in page and f"{100 * shares['rules']:.1f}%" in page


def test_the_board_says_that_trees_found_nothing_to_learn(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leaf needs more pairs than there are, so no tree can split: the candidates keep the order of the average."""
    from blair_rec.ranking.rerank import trees

    monkeypatch.setitem(trees.PARAMETERS, "min_data_in_leaf", 1_000_000)
    variants = {name: VARIANTS[name] for name in ("popularity", "rules", "no_text")}
    config = read_config(settings(tiny_at(tmp_path), encoder, variants=variants))
    board = compare(config, tmp_path / "out")
    note = "the trees of no_text found nothing to learn, so it orders its candidates by the average of its members"
    assert board is not None and note in board.notes
    run = tmp_path / "out" / "runs" / "no_text-1"
    assert not any(json.loads((run / "result.json").read_text("utf-8"))["rerank"]["gains"])


def test_the_board_says_best_item_for_one_candidate(encoder: Path, tmp_path: Path) -> None:
    variants = {"rules": {"scorer": "sequential_rules"}, "popularity": {"scorer": "popularity"}}
    variants["first"] = {"scorer": "two_halves:FirstHalf"}
    variants["one"] = {"rerank": ["first", "popularity"], "candidates": 1}
    board = compare(read_config(settings(two_halves_at(tmp_path), encoder, variants=variants)), tmp_path / "out")
    assert board is not None and any("one orders the 1 best item of each member, " in note for note in board.notes)


def test_each_seed_has_its_own_trees(encoder: Path, tmp_path: Path) -> None:
    variants = {name: VARIANTS[name] for name in ("rules", "shuffled")}
    variants["second"] = {"rerank": ["rules", "shuffled"], "candidates": 20}
    config = read_config(settings(tiny_at(tmp_path), encoder, variants=variants, seeds=[1, 2]))
    board = compare(config, tmp_path / "out")
    assert board is not None and {row.variant: row.seeds for row in board.rows}["second"] == (1, 2)
    about = [note for note in board.notes if "second" in note and "best items of each member" in note]
    assert len(about) == 1, "one note for both seeds"
    trees = [(tmp_path / "out" / "runs" / f"second-{seed}" / "trees.txt").read_bytes() for seed in (1, 2)]
    assert trees[0] != trees[1]


# What is refused


@pytest.mark.parametrize(
    "variants, message",
    [
        (
            {"x": {"rerank": ["rules", "no"]}},
            r"variants.x.rerank names 'no', which is not a variant of this comparison",
        ),
        ({"x": {"rerank": ["rules"]}}, r"rerank is \['rules'\]; name at least two variants, each once"),
        ({"x": {"rerank": ["rules", "average"]}}, r"rerank names 'average', which is an average; name models and"),
        ({"x": {"rerank": ["rules", "second"]}}, r"rerank names 'second', which is a second stage; name models and"),
        ({"x": {"average": ["rules", "second"]}}, r"average names 'second', which is a second stage; name models"),
        (
            {"x": {"rerank": ["rules", "near"], "items": "text"}},
            r"items can't be set on a second stage; set it on its m",
        ),
        ({"x": {"rerank": ["rules", "near"], "weights": "equal"}}, r"weights is 'equal', but a second stage needs"),
        (
            {"x": {"rerank": ["rules", "near"], "average": ["rules", "near"]}},
            r"has either average or rerank; leave one",
        ),
        ({"x": {"rerank": []}}, r"x.rerank is empty; name at least two variants, each once"),
        ({"x": {"average": []}}, r"x.average is empty; name at least two variants, each once"),
        ({"x": {"rerank": [], "candidates": 5, "weights": "masked"}}, r"^config: variants.x.rerank is empty; [^\n]*$"),
        ({"x": {"rerank": [], "items": "text", "text": {"fields": []}}}, r"uses text, but text.fields names no metad"),
        ({"x": {"average": ["rules", "near"], "candidates": 5}}, r"candidates is only for a second stage \(rerank\); "),
        (
            {"x": {"weights": "masked"}},
            r"weights is 'masked', but only an average or a second stage has weights; leave",
        ),
        ({"x": {"items": "id", "candidates": 5}}, r"candidates is only for a second stage \(rerank\); leave it out"),
        ({"x": {"rerank": ["rules", "near"], "candidates": 0}}, r"candidates"),
    ],
)
def test_an_invalid_second_stage_is_refused(variants: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(settings(Path("tiny"), Path("encoder"), variants={**VARIANTS, **variants}))


def test_without_lightgbm_nothing_is_trained(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda library: None)
    listener = Recorder()
    message = (
        r"a second stage \(rerank\) needs lightgbm, which is not installed; run `pip install 'blair-rec\[rerank\]'`"
    )
    with pytest.raises(MissingExtra, match=message):
        compare(finished.config, tmp_path / "out", listener=listener)
    assert not listener.started_runs
    with pytest.raises(MissingExtra, match=message):
        blair_rec.load(finished.out / "runs" / "second-1")


def test_export_refit_and_vectors_refuse_it_and_say_what_to_do(finished: Finished, tmp_path: Path) -> None:
    run = finished.out / "runs" / "second-1"
    with pytest.raises(
        ConfigError, match=r"second stage .rerank., which can't be exported: .* export an average of its"
    ):
        export_run(run, tmp_path / "exported")
    with pytest.raises(
        ConfigError,
        match=r"second is a second stage .rerank., which can't be refitted: .*out --variant NAME -o DIR`$",
    ):
        blair_rec.refit(run, tmp_path / "refitted")
    with pytest.raises(ConfigError, match=r"second is a second stage"):
        blair_rec.refit(finished.out, tmp_path / "refitted", variant="second")
    with pytest.raises(ConfigError, match=r"the scores of Reranker are not all inner products"):
        blair_rec.export_vectors(run, tmp_path / "vectors")
    for export in (export_run, blair_rec.export_vectors):
        with pytest.raises(ConfigError, match=r"second stage .rerank., which can't be exported"):
            export(run, tmp_path / "vectors", rules_rank=4)
    assert not list(tmp_path.glob("*ed")) and not (tmp_path / "vectors").exists()


def test_items_that_came_later_are_refused(finished: Finished) -> None:
    (store,) = (finished.out / "stores").iterdir()
    with pytest.raises(ConfigError, match=r"can't be scored: a second stage .rerank. reads how often an item occurs"):
        blair_rec.load(finished.out / "runs" / "second-1", extra_items=store)


def test_damaged_trees_are_refused(own: Finished) -> None:
    run = own.out / "runs" / "second-1"
    text = (run / "trees.txt").read_text("utf-8")
    (run / "trees.txt").write_text(text.replace("leaf_value=", "leaf_value=1", 1), "utf-8")
    with pytest.raises(CheckpointError, match=r"trees.txt was changed after the run"):
        blair_rec.load(run)
    (run / "trees.txt").unlink()
    with pytest.raises(CheckpointError, match=r"trees.txt can't be read"):
        blair_rec.load(run)


def test_a_damaged_record_is_reported_by_the_page(own: Finished) -> None:
    path = own.out / "runs" / "second-1" / "result.json"
    raw = json.loads(path.read_text("utf-8"))
    raw["rerank"]["gains"] = raw["rerank"]["gains"][:-1]
    path.write_text(json.dumps(raw), "utf-8")
    with pytest.raises(BadRun, match=r"rerank has \d+ features and \d+ gains"):
        second_stages([load_run(path.parent)])


def test_a_second_stage_over_runs_that_were_made_again_is_neither_shown_nor_loaded(own: Finished) -> None:
    member = own.out / "runs" / "rules-1" / "model.safetensors"
    member.write_bytes(member.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=r"second-1 orders the best items of popularity, rules, near, but one of"):
        blair_rec.load(own.out / "runs" / "second-1")
    with pytest.raises(ChangedRuns, match=r"the runs whose best items it orders"):
        leaderboard(own.out)


def test_too_few_cases_are_reported(encoder: Path, tmp_path: Path) -> None:
    dataset = tiny_at(tmp_path)
    log = read_log(dataset)
    few = list(dict.fromkeys(user for user, *_ in log))[:6]
    write_log(dataset, [event for event in log if event[0] in few])
    names = {name: VARIANTS[name] for name in ("popularity", "rules")}
    variants = {**names, "second": {"rerank": ["popularity", "rules"], "candidates": 1}}
    config = config_of(dataset, encoder, variants=variants, baseline="rules", seeds=[1])
    with pytest.raises(TrainingError, match=r"only \d of 6 validation cases have their target among the candidates of"):
        compare(config, tmp_path / "out")


@pytest.mark.parametrize(
    "users, back, protocol, message",
    [
        (1, 0, "masked", r"variants.second: 1 user has validation cases whose target is outside the history, too few"),
        (4, 0, "unmasked", r"variants.second: 4 users have validation cases, too few for the 5 held-out folds of a"),
        (6, 2, "masked", r"variants.second: 4 users have validation cases whose target is outside the history, too f"),
    ],
)
def test_too_few_users_are_reported_before_anything_is_trained(
    encoder: Path, tmp_path: Path, users: int, back: int, protocol: str, message: str
) -> None:
    """`back` users come back to the first item of their history as the target of validation."""
    dataset = tiny_at(tmp_path)
    log = read_log(dataset)
    few = list(dict.fromkeys(user for user, *_ in log))[:users]
    events = {user: sorted((one for one in log if one[0] == user), key=lambda one: one[2]) for user in few}
    for user in few[:back]:
        events[user][-2] = (user, events[user][0][1], events[user][-2][2])
    write_log(dataset, [event for user in few for event in events[user]])
    variants = {"id": {}, "rules": VARIANTS["rules"], "second": {"rerank": ["id", "rules"]}}
    config = config_of(dataset, encoder, variants=variants, seeds=[1], evaluate={"protocol": protocol})
    listener = Recorder()
    with pytest.raises(TrainingError, match=message):
        compare(config, tmp_path / "out", listener=listener)
    assert not listener.started_runs
    if back:  # without masking these users count, too
        config = config.changed(evaluate=config.evaluate.changed(protocol="unmasked"))
        assert compare(config, tmp_path / "out") is not None


def test_too_many_candidates_are_reported_before_anything_is_trained(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blair_rec.ranking.rerank import trees

    monkeypatch.setattr(trees, "MOST_CANDIDATES", 19)
    listener = Recorder()
    with pytest.raises(
        TrainingError, match=r"variants.no_text: a case of the second stage has 20 candidates, but Light"
    ):
        compare(finished.config.only(["popularity", "rules", "no_text"]), tmp_path / "out", listener=listener)
    assert not listener.started_runs


def test_second_stages_belong_to_no_shard(finished: Finished) -> None:
    names = shard_names(finished.config, list(VARIANTS), [1], (0, 1))
    assert names == ["popularity-1", "rules-1", "near-1", "shuffled-1"]


def test_a_shard_says_what_a_second_stage_waits_for(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="blair_rec"):
        compare(finished.config.only(["popularity", "rules", "no_text"]), tmp_path / "out", shard=(0, 2))
    assert "no_text-1 orders the best items of rules-1, which other processes make first" in caplog.messages
