"""Tuning: the same number of trials for every variant, selected on validation, never repeated."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from comparisons import Recorder, config_of, tiny_at, write_config
from encoders import build_roberta
from worlds import read_log, with_other_last_items, write_log

from blair_rec import cli
from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import ConfigError, OutputError, TrainingError
from blair_rec.experiment import tune as tuning
from blair_rec.experiment.compare import compare
from blair_rec.experiment.fit import fit_variant
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.run import whole_data
from blair_rec.experiment.splits.reading import training_data
from blair_rec.experiment.tune import tune
from blair_rec.experiment.tuning.search_space import chosen, draw, grid_of, with_settings
from blair_rec.experiment.tuning.trials import Trial, read_trials

VARIANTS: dict[str, dict[str, Any]] = {
    "id": {"items": "id"},
    "text": {"items": "text"},
    "moved": {"items": "text_delta"},
    "shuffled": {"items": "text", "control": "shuffle"},
    "popular": {"scorer": "popularity"},
    "near": {"scorer": "last_item"},
    "both": {"average": ["id", "text"]},
}
TUNE: dict[str, Any] = {
    "space": {"train.learning_rate": [0.003, 0.01, 0.03], "recbole.hidden_dropout_prob": [0.1, 0.5]},
    "text_space": {"transforms": [["center"], ["whiten"]], "max_delta": [0.25, 1.0]},
    "budget": 4,
    "rungs": [1],
}

WITHOUT_TEXT = {key: value for key, value in TUNE.items() if key != "text_space"}
WITHOUT_DELTA = {**TUNE, "text_space": {"transforms": TUNE["text_space"]["transforms"]}}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


def tuned_config(tiny: Path, encoder: Path, **sections: Any) -> CompareConfig:
    return config_of(tiny, encoder, **{"variants": VARIANTS, "seeds": [1], "tune": TUNE, **sections})


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A comparison before and after tuning."""

    before: CompareConfig
    after: CompareConfig
    out: Path
    trials: list[Trial]

    def of(self, variant: str, epochs: int) -> list[Trial]:
        """The trials of a variant that went as far."""
        return [trial for trial in self.trials if (trial.variant, trial.epochs) == (variant, epochs)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Tuned:
    """No test changes it."""
    folder = tmp_path_factory.mktemp("tuned")
    config, seen = tuned_config(tiny_at(folder), encoder), list[Trial]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        after = tune(config, folder / "out", on_trial=seen.append)
    return Tuned(config, after, folder / "out", seen)


# How many, and which


def test_every_variant_gets_the_same_number_of_trials(done: Tuned) -> None:
    first = Counter(trial.variant for trial in done.trials if trial.epochs <= 1)
    assert first == {"id": 4, "text": 4, "moved": 4, "shuffled": 4, "near": 2}  # two transforms are all that near has
    assert {name: variant.trials for name, variant in done.after.variants.items()} == {
        "id": 4, "text": 4, "moved": 4, "shuffled": 4, "near": 2, "popular": 0, "both": 0,
    }  # fmt: skip
    for variant in first:
        settings = [
            json.dumps(trial.settings) for trial in done.trials if trial.variant == variant and trial.epochs < 2
        ]
        assert len(set(settings)) == len(settings)


def test_the_best_third_continues_and_the_best_of_the_last_rung_is_chosen(done: Tuned) -> None:
    for variant in ("id", "text", "moved", "shuffled"):
        first, last = done.of(variant, 1), done.of(variant, 2)
        best = sorted(first, key=lambda trial: -trial.value)[: math.ceil(4 / 3)]
        assert [trial.settings for trial in last] == [trial.settings for trial in best]
        winner = max(last, key=lambda trial: trial.value)
        assert chosen(done.after, variant) == winner.settings
        assert winner.value >= max(trial.value for trial in first if trial.settings == winner.settings)


def test_the_id_model_is_tuned_first_and_its_choice_is_shared(done: Tuned) -> None:
    assert [trial.variant for trial in done.trials[:6]] == ["id"] * 6
    of_id = chosen(done.after, "id")
    assert done.after.train.learning_rate == of_id["train.learning_rate"]
    assert done.after.recbole["hidden_dropout_prob"] == of_id["recbole.hidden_dropout_prob"]
    for name in ("text", "moved", "shuffled"):
        variant = done.after.variants[name]
        assert set(variant.train) == {"learning_rate"} and variant.recbole == {}
        assert done.after.recbole_of(variant) == done.after.recbole
    assert set(chosen(done.after, "moved")) == {"train.learning_rate", "transforms", "max_delta"}
    assert set(chosen(done.after, "text")) == {"train.learning_rate", "transforms"}
    assert done.after.variants["both"] == done.before.variants["both"]


def test_a_control_gets_the_same_points_as_its_variant(done: Tuned) -> None:
    ours, theirs = ([trial.settings for trial in done.of(name, 1)] for name in ("text", "shuffled"))
    assert ours == theirs


def test_the_seed_decides_and_a_larger_budget_begins_with_the_same_trials(done: Tuned) -> None:
    def drawn(**changes: Any) -> list[Any]:
        config = done.before.changed(tune=done.before.tune.changed(**changes))
        return draw(config, "id", grid_of(config, "id"))

    assert drawn(budget=6)[:4] == drawn(budget=4) == [trial.settings for trial in done.of("id", 1)]
    assert drawn(seed=1, budget=6) != drawn(budget=6)
    assert {json.dumps(point) for point in drawn(budget=6)} == {
        json.dumps({"train.learning_rate": rate, "recbole.hidden_dropout_prob": dropout})
        for rate in (0.003, 0.01, 0.03)
        for dropout in (0.1, 0.5)
    }


# Again


class Stop(Exception):
    """Interrupts tuning."""


def test_what_is_finished_is_not_tried_again(done: Tuned, tmp_path: Path) -> None:
    again: list[Trial] = []
    assert tune(done.before, done.out, on_trial=again.append) == done.after and again == []
    assert sorted(path.name for path in done.out.iterdir()) == [".lock", "stores", "trials.jsonl", "tuned.yaml"]


def test_an_interrupted_search_ends_as_one_that_was_not(done: Tuned, tmp_path: Path) -> None:
    def stop_after(count: int) -> Any:
        seen: list[Trial] = []

        def on_trial(trial: Trial) -> None:
            seen.append(trial)
            if len(seen) == count:
                raise Stop

        return on_trial

    variants = {name: done.before.variants[name] for name in ("id", "text")}
    config = done.before.changed(variants=variants, tune=WITHOUT_DELTA)
    for _ in range(2):  # within the first rung of id, then of text
        with pytest.raises(Stop):
            tune(config, tmp_path / "out", on_trial=stop_after(5 if _ else 3))
    rest: list[Trial] = []
    after = tune(config, tmp_path / "out", on_trial=rest.append)
    assert [(trial.variant, trial.number) for trial in rest][0] == ("text", 3)
    assert after.variants["text"] == done.after.variants["text"] and after.train == done.after.train
    found, expected = (
        [(t.variant, t.settings, t.epochs, t.value, t.key) for t in trials if t.variant in ("id", "text")]
        for trials in (read_trials(tmp_path / "out" / "trials.jsonl"), done.trials)
    )
    assert found == expected


def test_a_trial_resumed_at_a_rung_is_bit_equal_to_one_without_a_stop(done: Tuned) -> None:
    trial = done.of("id", 2)[0]
    config = with_settings(done.before, "id", trial.settings)
    data = training_data(config, data_folder(config.dataset))
    fitted = fit_variant(config, "id", 0, data, None)
    assert (fitted.best_value, fitted.best_epoch) == (trial.value, trial.best_epoch)
    [first] = [one for one in done.of("id", 1) if one.settings == trial.settings]
    assert fitted.history[0].valid is not None and fitted.history[0].valid["NDCG@10"] == first.value


def test_trials_of_another_grid_count_as_tried(done: Tuned, encoder: Path, tmp_path: Path) -> None:
    """Every configuration that was tried counts."""
    only = {"id": VARIANTS["id"]}
    config = tuned_config(Path(done.before.dataset), encoder, variants=only, tune={**WITHOUT_TEXT, "rungs": []})
    assert tune(config, tmp_path / "out").variants["id"].trials == 4
    space = {"train.learning_rate": [0.02, 0.04, 0.05, 0.06]}
    other = tuned_config(Path(done.before.dataset), encoder, variants=only, tune={"space": space, "budget": 4})
    assert tune(other, tmp_path / "out").variants["id"].trials == 8


def test_a_smaller_budget_keeps_the_best_of_all_trials_of_the_grid(
    done: Tuned, encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trials of another grid can't win."""
    variants = {name: VARIANTS[name] for name in ("id", "text")}

    def tuned(**tune_: Any) -> CompareConfig:
        grids = {**WITHOUT_DELTA, "rungs": [], **tune_}
        return tune(tuned_config(Path(done.before.dataset), encoder, variants=variants, tune=grids), tmp_path / "out")

    large = tuned()
    assert large.tune is not None
    trials = read_trials(tmp_path / "out" / "trials.jsonl")
    values = {name: [trial.value for trial in trials if trial.variant == name] for name in variants}
    assert any(max(of_one) != of_one[0] for of_one in values.values()), "the first trial is the best, so all is equal"
    caplog.set_level("INFO", "blair_rec")
    assert tuned(budget=1) == large.changed(tune=large.tune.changed(budget=1))
    assert f"id: {tmp_path / 'out' / 'trials.jsonl'} has 3 other trials of an earlier tuning" in caplog.text
    assert load_config(tmp_path / "out" / "tuned.yaml").train == large.train
    assert read_trials(tmp_path / "out" / "trials.jsonl") == trials
    only = {"train.learning_rate": [0.003], "recbole.hidden_dropout_prob": [0.1, 0.5]}
    assert tuned(budget=1, space=only).train.learning_rate == 0.003


def test_a_damaged_line_is_named(done: Tuned, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trials.jsonl").write_text((done.out / "trials.jsonl").read_text("utf-8") + "{}\n")
    with pytest.raises(
        ConfigError, match=rf"trials.jsonl, line {len(done.trials) + 1} is not a trial \(.*delete the line"
    ):
        tune(done.before, tmp_path / "out")


def test_a_training_that_diverges_is_the_worst_and_ends_nothing(
    done: Tuned, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fit_variant

    def diverge(config: CompareConfig, *arguments: Any, **settings: Any) -> Any:
        if config.train.learning_rate == 0.03:
            raise TrainingError("loss is nan")
        return fit(config, *arguments, **settings)

    monkeypatch.setattr("blair_rec.experiment.fit.fit_variant", diverge)
    config = tuned_config(
        Path(done.before.dataset), encoder, variants={"id": VARIANTS["id"]}, tune={**WITHOUT_TEXT, "budget": 6}
    )
    seen: list[Trial] = []
    after = tune(config, tmp_path / "out", on_trial=seen.append)
    assert [trial.value for trial in seen if trial.settings["train.learning_rate"] == 0.03] == [0.0, 0.0]
    assert after.train.learning_rate != 0.03


# Validation alone


def test_other_test_items_change_no_trial(done: Tuned, encoder: Path, tmp_path: Path) -> None:
    tiny = tiny_at(tmp_path)
    log = read_log(tiny)
    changed = with_other_last_items(log)
    assert sum(ours != theirs for ours, theirs in zip(log, changed, strict=True)) > 60
    write_log(tiny, changed)
    variants = {name: VARIANTS[name] for name in ("id", "text", "near")}
    seen: list[Trial] = []
    config = tuned_config(tiny, encoder, variants=variants, tune=WITHOUT_DELTA)
    after = tune(config, tmp_path / "out", on_trial=seen.append)
    ours, theirs = (
        [(t.variant, t.settings, t.epochs, t.value) for t in trials if t.variant in variants]
        for trials in (done.trials, seen)
    )
    assert ours == theirs and after.variants["text"] == done.after.variants["text"]


def test_the_data_that_tuning_sees_holds_no_test_case(done: Tuned) -> None:
    folder = data_folder(done.before.dataset)
    data, whole = training_data(done.before, folder), whole_data(done.before, folder)
    splits = [value for value in vars(data).values() if isinstance(value, TextSequentialDataset)]
    assert splits == [data.train, data.valid]
    for split in splits:
        held = torch.unique(split.log.item[split.log.item > 0], return_counts=True)[1].sum()
        assert held == len(whole.train.log.item) - len(whole.test)
        assert (split.log.item[whole.test.inter_feat["blair_log_position"]] == 0).all()
    for ours, theirs in ((data.train, whole.train), (data.valid, whole.valid)):
        rows = torch.arange(len(theirs))
        for field in ("item_id", "item_id_list", "item_length"):
            assert torch.equal(ours[rows][field], theirs[rows][field])


def test_a_trial_is_worth_what_a_comparison_finds_on_validation(done: Tuned, tmp_path: Path) -> None:
    for trial in (done.of("text", 2)[0], done.of("near", 0)[0]):
        config = with_settings(done.after, trial.variant, trial.settings).only([trial.variant])
        compare(config.changed(seeds=(0,)), tmp_path / trial.variant)
        run = tmp_path / trial.variant / "runs" / f"{trial.variant}-0"
        assert json.loads((run / "result.json").read_text("utf-8"))["valid"]["unmasked"]["NDCG@10"] == trial.value


def test_the_modules_of_tuning_never_use_the_test_split() -> None:
    """Runs evaluate on test, in run.py: neither module imports it, asks for all splits, or reads `.test`."""
    for module in (tuning, __import__("blair_rec.experiment.fit", fromlist=["fit"])):
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"blair_rec.experiment.run", "blair_rec.serve.recommender"}
        assert "read_splits" not in ast.dump(tree)
        assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "test"]


def test_the_example_of_the_message_can_be_tuned(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    example = yaml.safe_load(tuning.EXAMPLE)["tune"]
    variants = {name: VARIANTS[name] for name in ("id", "text", "near")}
    after = tune(tuned_config(tiny, encoder, variants=variants, tune=example, train={"epochs": 1}), tmp_path / "out")
    assert {name: variant.trials for name, variant in after.variants.items()} == {"id": 4, "text": 4, "near": 2}


def test_with_a_budget_of_one_each_variant_has_one_trial_as_it_is(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    variants = {name: VARIANTS[name] for name in ("id", "text", "near", "popular")}
    grid = {"space": {"recbole.n_layers": [1, 2]}, "budget": 1}
    after = tune(tuned_config(tiny, encoder, variants=variants, tune=grid, train={"epochs": 1}), tmp_path / "out")
    assert {name: variant.trials for name, variant in after.variants.items()} == {
        "id": 1, "text": 1, "near": 0, "popular": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tuned.yaml", "trials.jsonl", "rejected.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_found_before_the_first_trial(
    name: str, tiny: Path, encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    trials: list[Trial] = []
    with pytest.raises(OutputError, match=f"{name} is a folder, but a file is needed there; remove it"):
        tune(tuned_config(tiny, encoder), tmp_path / "out", on_trial=trials.append)
    assert trials == [] and not (tmp_path / "out" / "stores").exists()


def test_a_file_in_the_place_of_the_checkpoints_is_found_before_the_first_trial(
    tiny: Path, encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    (tmp_path / "out" / "checkpoints").touch()
    with pytest.raises(OutputError, match="checkpoints is a file, but a folder is needed there"):
        tune(tuned_config(tiny, encoder), tmp_path / "out")
    assert not (tmp_path / "out" / "stores").exists()


# What comes of it


def test_the_tuned_config_compares_and_its_trials_stand_on_the_rows(done: Tuned, tmp_path: Path) -> None:
    config = load_config(done.out / "tuned.yaml")
    assert config == done.after
    listener = Recorder()
    board = compare(config.only(["id", "text", "near", "popular", "both"]), tmp_path / "out", listener=listener)
    assert board is not None
    assert {row.variant: row.trials for row in board.rows} == {"id": 4, "text": 4, "near": 2, "popular": 0, "both": 8}
    rate = config.variants["text"].train["learning_rate"]
    said = f"text used different settings: train.learning_rate is {rate} (shared: {config.train.learning_rate})"
    assert (said in board.notes) == (rate != config.train.learning_rate)
    setup = json.loads((tmp_path / "out" / "runs" / "text-1" / "result.json").read_text("utf-8"))["setup"]
    assert setup["train"]["learning_rate"] == rate
    assert setup["recbole"]["hidden_dropout_prob"] == config.recbole["hidden_dropout_prob"]


def test_the_command_tells_every_trial_and_where_the_config_is(
    tiny: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(
        tmp_path / "cfg.yaml", tiny, encoder, variants={"id": VARIANTS["id"]}, train={"epochs": 1}, tune=WITHOUT_TEXT
    )
    assert cli.main(["tune", str(path), "--budget", "2", "--set", "text.encoder=another", "-o", "out"]) == 0
    out, err = capsys.readouterr()
    assert err.count("on validation") == 2 and "id, trial 1, to epoch 1: 0." in err
    said = "wrote out/tuned.yaml; to evaluate it on the test split, run: "
    (command,) = [line.removeprefix(said) for line in err.splitlines() if line.startswith(said)]
    assert command == "blair-rec compare out/tuned.yaml -o out/compared"
    assert "chosen on validation" in out and "learning_rate" in out
    tuned = load_config("out/tuned.yaml")
    assert tuned.variants["id"].trials == 2 and tuned.text.encoder == "another"


def test_projects_are_not_compared_into_one_folder(
    tiny: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name in ("shop", "my shop"):
        settings: dict[str, Any] = {"variants": {"id": VARIANTS["id"]}, "seeds": [1], "train": {"epochs": 1}}
        path = write_config(tmp_path / f"{name}.yaml", tiny, encoder, tune={**WITHOUT_TEXT, "rungs": []}, **settings)
        assert cli.main(["tune", str(path), "--budget", "1"]) == 0
        command = shlex.split(capsys.readouterr().err.splitlines()[-1].partition("split, run: ")[2])
        assert command[0] == "blair-rec" and cli.main(command[1:]) == 0  # as it is printed
        folders.append(command[-1])
    assert folders == ["runs/shop-tuned/compared", "runs/my shop-tuned/compared"]
    assert all((Path(folder) / "leaderboard.md").is_file() for folder in folders)


def test_runs_that_are_made_again_say_how_often_the_test_split_was_looked_at(
    tiny: Path, encoder: Path, tmp_path: Path
) -> None:
    config = config_of(tiny, encoder, variants={"popular": {"scorer": "popularity"}}, baseline="popular", seeds=[1, 2])
    boards = [compare(config, tmp_path / "out", fresh=fresh) for fresh in (False, False, True, True)]
    assert [board.rows[0].test_evaluations for board in boards if board] == [1, 1, 2, 3]
    said = [[note for note in board.notes if "on the test split" in note] for board in boards if board]
    assert said[:2] == [[], []]
    assert said[2:] == [[f"popular was evaluated on the test split {times} times in this folder"] for times in (2, 3)]


# What a config may say


@pytest.mark.parametrize(
    "section, message",
    [
        (
            {"space": {"train.lerning_rate": [1]}},
            r"space: a key is 'train.lerning_rate'; did you mean 'train.learning_r",
        ),
        ({"space": {"train.epochs": [1, 2]}}, r"space: a key is 'train.epochs'; .*"),
        ({"space": {"transforms": [["l2"]]}}, r"space: a key is 'transforms'; "),
        ({"space": {"train.learning_rate": 0.1}}, r"space: train.learning_rate is 0.1; expected a list of values"),
        ({"space": {"train.learning_rate": [0.1, 0.1]}}, r"expected a list of values, each once"),
        ({"space": {"train.learning_rate": [0.1, -1, 0]}}, r"space: train.learning_rate is -1; .*number\n.* is 0; "),
        ({"space": {"train.batch_size": [0]}}, r"tune.space: train.batch_size is 0; it has to be at least 1"),
        ({"space": {"train.loss": ["gbce", "bce"]}}, r"tune.space: train.loss is 'bce'; did you mean 'gbce'"),
        ({"text_space": {"transforms": [["l3"]]}}, r"tune.text_space: transforms\S* is 'l3'"),
        ({"distill_space": {"distill_weight": [0.5, 2]}}, r"tune.distill_space: distill_weight is 2; it has to be at"),
        ({"scorer_space": {"options.target_power": [-1]}}, r"tune.scorer_space: options.target_power is -1; it has to"),
        ({"rungs": [3, 2]}, r"rungs are \[3, 2\]; give epochs from 1 on, in rising order"),
        ({"budget": 0}, r"budget is 0; it has to be at least 1"),
        ({"spaces": {}}, r"tune.spaces: unknown key; did you mean space\?"),
    ],
)
def test_a_grid_that_can_not_be_meant(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tuned_config(Path("tiny"), Path("encoder"), tune=section)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"tune": None},
            r"the config has no tune section; add a grid, such as\ntune:\n  space: {train.learn",
        ),
        ({"tune": {}}, r"the tune section has no values to try; add a grid, such as\ntune:\n"),
        ({"tune": {"budget": 2, "rungs": [1]}}, r"the tune section has no values to try"),
        (
            {"tune": {"space": {"recbole.n_layers": [1, 2]}, "budget": 2}},
            r"^tune: the grid of 'text' has 1 point \(no keys\), fewer than the budget of 2; .*add values to "
            r"tune.text_space, such as .* uses only train.learning_rate; the rest is shared with 'id'\)\n"
            r"tune: the grid of 'moved' has 1 point .*\ntune: the grid of 'shuffled' has 1 point",
        ),
        (
            {"tune": {"text_space": {"transforms": [["center"], ["l2"]]}, "budget": 2}},
            r"^tune: the grid of 'id' has 1 point \(no keys\), .* add values to tune.space, or set tune.budget to 1$",
        ),
        (
            {"tune": {**TUNE, "budget": 7}},
            r"the grid of 'id' has 6 points \(.*fewer than the budget of 7; every variant",
        ),
        (
            {"tune": {"space": {"recbole.n_layers": [1, 2, 0]}, "budget": 1}, "variants": {"id": VARIANTS["id"]}},
            r"^tune.space: recbole: n_layers is 0; it must be a whole number of at least 1$",
        ),
        (
            {
                "tune": {
                    "space": {
                        "recbole.loss_type": ["CE"],
                        "recbole.train_neg_sample_args": [{"sample_num": 4}],
                    },
                    "budget": 1,
                },
                "train": {"loss": "recbole"},
                "variants": {"id": VARIANTS["id"]},
            },
            r"^tune: id with loss_type \"CE\", train_neg_sample_args .*: recbole: train_neg_sample_args samples neg",
        ),
        (
            {"tune": {**TUNE, "text_space": {**TUNE["text_space"], "fusion": ["concat", "gate"]}}},
            r"tune.text_space: no variant of this comparison uses fusion, which only items: id_text reads; ",
        ),
        (
            {
                "tune": {**TUNE, "text_space": {"transforms": [["center"], ["l2"]]}},
                "variants": {"id": VARIANTS["id"], "popular": VARIANTS["popular"]},
            },
            r"^tune.text_space: no variant of this comparison uses transforms; correct it, or leave it out$",
        ),
        (
            {"tune": {**TUNE, "scorer_space": {"options.source_power": [0, 1]}}},
            r"^tune.scorer_space: no variant of this comparison uses options.source_power; correct it, or leave",
        ),
        ({"baseline": "text"}, r"baseline is 'text'; for tuning, the baseline has to be a model with items: id and"),
        ({"train": {"eval_every": 2}}, r"tune: rungs \[1\] are not multiples of train.eval_every \(2\)"),
    ],
)
def test_what_can_not_be_tuned_is_told_before_anything_is_encoded(
    tiny: Path, encoder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(tuned_config(tiny, encoder, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Settings of a variant's own


def test_a_variant_trains_with_its_own_settings_and_the_others_do_not(
    tiny: Path, encoder: Path, tmp_path: Path
) -> None:
    wide = {"items": "id", "train": {"epochs": 1}, "recbole": {"hidden_size": 16, "inner_size": 4}}
    config = config_of(tiny, encoder, variants={"id": {"items": "id"}, "wide": wide}, seeds=[1])
    board = compare(config, tmp_path / "out")
    assert board is not None
    rows = {row.variant: row for row in board.rows}
    assert (rows["id"].epochs, rows["wide"].epochs) == (2, 1)
    assert rows["wide"].parameters.trained > rows["id"].parameters.trained
    said = [note for note in board.notes if "used different settings" in note]
    assert said == [
        "wide used different settings: train.epochs is 1 (shared: 2); recbole.hidden_size is 16 (shared: 8); "
        "recbole.inner_size is 4 (shared: 8)"
    ]


@pytest.mark.parametrize(
    "variant, message",
    [
        ({"train": {"epoch": 1}}, r"variants.b.train.epoch: unknown key; did you mean epochs\?"),
        ({"train": {"epochs": 0}}, r"variants.b.train.epochs is 0; it has to be at least 1"),
        ({"recbole": {"seed": 1}}, r"variants.b.recbole.seed belongs to seeds"),
        (
            {"recbole": {"loss_type": "BPR"}},
            r"variants.b.recbole.loss_type is 'BPR', but train.loss is 'full_softmax'",
        ),
    ],
)
def test_settings_of_a_variant_are_checked_like_the_sections(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(Path("tiny"), "encoder", variants={"id": {}, "b": variant})


def test_a_variant_has_no_data_of_its_own(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    variants = {"id": {}, "b": {"recbole": {"MAX_ITEM_LIST_LENGTH": 5}}}
    with pytest.raises(ConfigError, match=r"variants.b.recbole: MAX_ITEM_LIST_LENGTH is not among the settings"):
        compare(config_of(tiny, encoder, variants=variants), tmp_path / "out")


GOOD = {
    "variant": "id", "number": 1, "settings": {}, "epochs": 2, "value": 0.5, "best_epoch": 1, "seconds": 1,
    "setup": "a", "key": "b",
}  # fmt: skip


def test_trials_are_read_up_to_an_empty_last_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n")
    assert read_trials(tmp_path / "t.jsonl") == []
    (tmp_path / "t.jsonl").write_text(json.dumps({**GOOD, "settings": {"a": "x\u2028y"}}, ensure_ascii=False) + "\n\n")
    assert [trial.settings for trial in read_trials(tmp_path / "t.jsonl")] == [{"a": "x\u2028y"}]


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("value", [None, [], True, float("nan"), float("-inf"), ["x"]])
def test_a_trial_with_a_value_of_another_kind_is_named(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(f"{json.dumps(GOOD)}\n{json.dumps({**GOOD, name: value})}\n")
    with pytest.raises(
        ConfigError, match=rf"t.jsonl, line 2 is not a trial \({name} is .*delete the line to repeat it"
    ):
        read_trials(tmp_path / "t.jsonl")


@pytest.mark.parametrize("line", [b"\xff", b"[" * 100_000, b"[1]", b"3"])
def test_a_line_that_is_no_object_is_named(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match=r"t.jsonl, line 1 is not a trial"):
        read_trials(tmp_path / "t.jsonl")
