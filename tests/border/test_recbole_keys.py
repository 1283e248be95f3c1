"""RecBole's settings: known keys pass, near misses get a suggestion, wrong types and unused settings are reported."""

from __future__ import annotations

import inspect
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from worlds import SMALL

from blair_rec.border.recbole_keys import (
    OWN_MODELS,
    UNREAD,
    default_of,
    misspelt,
    model_keys,
    only_in_recbole,
    setting_problems,
    unread,
    wrong_values,
)
from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.config.passed_to_recbole import OWNED_BY
from blair_rec.config.yaml.files import read_yaml
from blair_rec.models.eligibility import recbole_model, recbole_models

PROPERTIES = resources.files("recbole") / "properties"
MADE_BY_THE_CODE = {"device", "MASK_ITEM_SEQ", "MASK_INDEX", "POS_ITEMS", "NEG_ITEMS", "INVERSE_ITEM_SEQ", "reg_weight"}
"""Keys that RecBole's code sets itself, and one key that HRM reads but never uses."""


def compared(**sections: Any) -> CompareConfig:
    """Return a comparison of one variant with these sections."""
    return read_config({"dataset": "d", "variants": {"id": {"items": "id"}}, **sections})


def test_every_setting_that_a_sequential_model_reads_is_known() -> None:
    shared = yaml.safe_load((PROPERTIES / "overall.yaml").read_text("utf-8"))
    shared |= yaml.safe_load((PROPERTIES / "dataset" / "sample.yaml").read_text("utf-8"))
    for name in recbole_models():
        source = Path(inspect.getfile(recbole_model(name))).read_text("utf-8")
        read = set(re.findall(r"""config\[\s*["'](\w+)["']\s*\]""", source)) - MADE_BY_THE_CODE
        assert read <= {*model_keys(name), *shared, "selected_features"}, name


@pytest.mark.parametrize("model", recbole_models())
def test_recboles_own_defaults_have_no_problem(model: str) -> None:
    names = ["overall.yaml", "dataset/sample.yaml", "quick_start_config/sequential.yaml", f"model/{model}.yaml"]
    given: dict[str, Any] = {}
    if model in OWN_MODELS:
        given |= OWN_MODELS[model]
        names.pop()
    for name in names:
        given |= read_yaml((PROPERTIES / name).read_text("utf-8"), name)  # 1e-12 is a number
    assert misspelt(given, model) == misspelt(given, f"BLaIR{model}") == []
    assert wrong_values({**given, "train_neg_sample_args": None}, model) == []


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("hiden_size", "hidden_size"),
        ("max_item_list_length", "MAX_ITEM_LIST_LENGTH"),
        ("n_layer", "n_layers"),
        ("Epochs", "epochs"),
        ("eval_arg", "eval_args"),
        ("item_id_field", "ITEM_ID_FIELD"),
        ("dropout_prob_hidden", "hidden_dropout_prob"),
    ],
)
def test_a_misspelt_setting_gets_a_suggestion(key: str, near: str) -> None:
    if key == "dropout_prob_hidden":  # not similar enough to guess
        assert misspelt({key: 1}, "SASRec") == []
    else:
        assert misspelt({key: 1}, "SASRec") == [f"unknown key {key!r}; did you mean {near!r}?"]


def test_a_setting_of_another_model_or_of_the_user_is_unread_but_not_misspelt() -> None:
    given = {"embedding_size": 8, "my_own": 1, "hidden_size": 8, "gpu_id": 1}
    assert misspelt(given, "SASRec") == []
    assert unread(given, ["SASRec"], recboles_way=False) == [
        "embedding_size",
        "my_own",
        "gpu_id (`device` chooses the GPU)",
    ]
    assert unread({"embedding_size": 8}, ["GRU4Rec"], recboles_way=False) == []


def test_settings_for_recboles_batches_are_unread_if_no_variant_uses_them() -> None:
    given = {"train_neg_sample_args": {"sample_num": 2}}
    (line,) = unread(given, ["SASRec"], recboles_way=False)
    assert line.startswith("train_neg_sample_args (`train.negatives` and `train.sampling` control this")
    assert unread(given, ["SASRec"], recboles_way=True) == []


def test_parts_of_eval_args_without_effect_are_named() -> None:
    split = {"LS": "valid_and_test"}
    assert unread({"eval_args": {"split": split, "group_by": "user", "order": "TO"}}, ["SASRec"], False) == []
    (line,) = unread({"eval_args": {"split": split, "group_by": "none"}}, ["SASRec"], False)
    assert line == "eval_args.group_by (only split RS can group by anything other than users)"
    assert unread({"eval_args": {"split": {"RS": [8, 1, 1]}, "group_by": "none"}}, ["SASRec"], False) == []
    benchmark = {"benchmark_filename": ["a", "b", "c"], "eval_args": {"split": split}}
    assert unread(benchmark, ["SASRec"], False) == ["eval_args.split (benchmark files are already split)"]


def test_settings_that_a_comparison_sets_itself_are_not_listed_as_unread() -> None:
    assert not set(UNREAD) & set(OWNED_BY)


@pytest.mark.parametrize("mode", ["full", {"valid": "full", "test": "full"}, {"valid": "full"}])
def test_full_ranking_is_what_a_comparison_does(mode: Any) -> None:
    assert only_in_recbole({"eval_args": {"mode": mode}}) == only_in_recbole({}) == []


@pytest.mark.parametrize("mode", ["uni100", "pop100", "labeled", {"valid": "uni100", "test": "full"}])
def test_any_other_mode_has_no_effect_and_is_refused(mode: Any) -> None:
    (problem,) = only_in_recbole({"eval_args": {"mode": mode}})
    assert problem.startswith(f"eval_args.mode is {mode!r}, which has no effect in a comparison")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"train_batch_size": "many"}, "train_batch_size is 'many'; expected a number"),
        ({"hidden_size": None}, "hidden_size is None; expected a number"),
        ({"n_layers": True}, "n_layers is True; expected a number"),
        ({"use_gpu": "yes"}, "use_gpu is 'yes'; expected true or false"),
        ({"TIME_FIELD": 3}, "TIME_FIELD is 3; expected text"),
        ({"TIME_FIELD": ""}, "TIME_FIELD is ''; give a value, or leave it out"),
        ({"load_col": ""}, "load_col is ''; give a value, or leave it out"),
        ({"load_col": ["item_id"]}, "load_col is ['item_id']; expected keys and values"),
        ({"load_col": {"inter": "item_id"}}, "load_col: inter is 'item_id'; expected a list of columns"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH is 0; it must be a whole number of at least 1"),
        ({"MAX_ITEM_LIST_LENGTH": 2.5}, "MAX_ITEM_LIST_LENGTH is 2.5; it must be a whole number"),
        ({"MAX_ITEM_LIST_LENGTH": float("nan")}, "MAX_ITEM_LIST_LENGTH is nan; it must be a whole number"),
        ({"MAX_ITEM_LIST_LENGTH": float("inf")}, "MAX_ITEM_LIST_LENGTH is inf; it must be a whole number"),
        ({"hidden_size": 0}, "hidden_size is 0; it must be a whole number of at least 1"),
        ({"n_layers": -1}, "n_layers is -1; it must be a whole number of at least 1"),
        ({"n_heads": 2.0}, "n_heads is 2.0; it must be a whole number of at least 1"),
        ({"inner_size": 8.5}, "inner_size is 8.5; it must be a whole number of at least 1"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5; it must be between 0 and 1"),
        ({"attn_dropout_prob": -1}, "attn_dropout_prob is -1; it must be between 0 and 1"),
        ({"initializer_range": 0}, "initializer_range is 0; it must be between 1e-06 and 1,000"),
        ({"initializer_range": 1e30}, "initializer_range is 1e+30; it must be between 1e-06 and 1,000"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0; it must be between 1e-30 and 1"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan; it must be between 1e-30 and 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; give a number"),
        ({"loss_type": "BCE"}, "loss_type is 'BCE'; known: CE, BPR"),
        (
            {"train_neg_sample_args": {}},
            "train_neg_sample_args samples negatives for loss_type: BPR, but loss_type is CE",
        ),
        ({"repeatable": False}, "repeatable is false, but a sequential model may recommend items again"),
        ({"user_inter_num_interval": 5}, "user_inter_num_interval is 5; expected an interval, such as [5,inf)"),
        ({"item_inter_num_interval": "[5,inf"}, "item_inter_num_interval is '[5,inf'; expected an interval"),
        ({"item_inter_num_interval": "[5,3]"}, "item_inter_num_interval is '[5,3]'; expected an interval"),
        ({"val_interval": {"timestamp": "[0,1);all"}}, "val_interval: timestamp is '[0,1);all'; expected an interval"),
        ({"eval_args": "LS"}, "eval_args is 'LS'; expected keys and values"),
        ({"eval_args": {"spilt": {}}}, "a key of eval_args is 'spilt'; did you mean 'split'?"),
        ({"eval_args": {"order": "RO"}}, "eval_args.order is 'RO', but a sequential model"),
        ({"eval_args": {"group_by": "item"}}, "eval_args.group_by is 'item'; known: user, none"),
        ({"eval_args": {"mode": "uniX"}}, "eval_args.mode is 'uniX'; known: full, labeled, or uni100 and pop100"),
        ({"eval_args": {"mode": ["full"]}}, "eval_args.mode is ['full']; known: full"),
        ({"eval_args": {"mode": {"valid": "full", "test": "uni0"}}}, "eval_args.mode is {'valid': 'full', 'test': 'un"),
        ({"train_batch_size": 0}, "train_batch_size is 0; it must be a whole number of at least 1"),
        ({"benchmark_filename": ["train", "test"]}, "benchmark_filename is ['train', 'test']; name the files of train"),
        ({"valid_metric": "NDCG@5"}, "valid_metric is 'NDCG@5'; choose one of metrics and topk: Recall@10, MRR@10"),
        ({"metrics": [], "valid_metric": "MRR@10"}, "valid_metric is 'MRR@10'; choose one of metrics and topk: none"),
        ({"eval_args": {"split": None}}, "eval_args.split is None; expected one of RS, LS and TS"),
        ({"eval_args": {"split": {"RS": [1], "LS": "valid_only"}}}, "eval_args.split is {"),
        ({"eval_args": {"split": {"XX": 1}}}, "eval_args.split is {'XX': 1}; expected one of RS, LS and TS"),
        ({"eval_args": {"split": {"LS": "valid"}}}, "eval_args.split: LS is 'valid'; expected one of valid_and_test"),
        ({"eval_args": {"split": {"RS": [0.8, 0.2]}}}, "eval_args.split: RS is [0.8, 0.2]; expected the shares of"),
        ({"eval_args": {"split": {"TS": "8:1:1"}}}, "eval_args.split: TS is '8:1:1'; expected the shares of"),
        ({"eval_args": {"split": {"RS": [0, 0, 0]}}}, "eval_args.split: RS is [0, 0, 0]; expected the shares of"),
    ],
)
def test_a_value_that_recbole_can_not_use_is_a_problem(given: dict[str, Any], problem: str) -> None:
    (line,) = wrong_values(given, "SASRec")
    assert line.startswith(problem)


@pytest.mark.parametrize(
    "given",
    [
        SMALL,
        {"gpu_id": 0},
        {"train_neg_sample_args": "None"},
        {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 4}},
        {"load_col": {"inter": ["item_id"], "item": "*"}, "user_inter_num_interval": None},
        {"eval_args": {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": "uni100"}},
        {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": None}},
        {"user_inter_num_interval": "[0,4] ; (1e3,inf)", "item_inter_num_interval": "[-.5, 2.)"},
        {"val_interval": {"timestamp": "[0,inf)", "class": ["a", "b"]}},
        {"eval_args": {"mode": {"valid": "pop20", "test": "full"}}, "benchmark_filename": ["train", "valid", "test"]},
        {"valid_metric": "ndcg@5", "metrics": "NDCG", "topk": 5},
        {"valid_metric": "AUC", "metrics": ["AUC"], "eval_args": {"mode": "uni100"}},
        {"anything": object()},
    ],
)
def test_values_that_recbole_accepts_are_accepted(given: dict[str, Any]) -> None:
    assert wrong_values(given, "SASRec") == []


def test_a_problem_names_its_part_of_the_file() -> None:
    config = compared(
        recbole={"hiden_size": 8, "eval_args": {"mode": "uni100"}},
        variants={"id": {"items": "id"}, "b": {"items": "id", "recbole": {"n_layer": 1, "n_heads": "two"}}},
        tune={"space": {"recbole.n_layrs": [1, 2]}},
    )
    starts = [
        "recbole: unknown key 'hiden_size'",
        "recbole: eval_args.mode is 'uni100', which has no effect",
        "variants.b.recbole: unknown key 'n_layer'",
        "variants.b.recbole: n_heads is 'two'",
        "tune.space: recbole: unknown key 'n_layrs'",
    ]
    found = setting_problems(config)
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts


def test_a_grid_over_an_unread_setting_is_refused() -> None:
    config = compared(tune={"space": {"recbole.embedding_size": [8, 16]}})
    assert setting_problems(config) == ["tune.space: recbole: embedding_size has no effect"]


def test_each_value_of_a_grid_is_checked_alone_as_the_settings_are() -> None:
    space = {
        "recbole.hidden_dropout_prob": [0.5, 2],
        "recbole.n_layers": [1, 0, 2.5],
        "recbole.loss_type": ["CE", "BPR", "BCE"],
        "recbole.train_neg_sample_args": [None, {"sample_num": 4}],  # fits to one loss_type of the grid
        "recbole.use_gpu": ["yes"],
    }
    expected = [
        "hidden_dropout_prob is 2; it must be between 0 and 1",
        "n_layers is 0; it must be a whole number of at least 1",
        "n_layers is 2.5; it must be a whole number of at least 1",
        "loss_type is 'BCE'; known: CE, BPR",
        "use_gpu is 'yes'; expected true or false",
    ]
    for name in ("space", "text_space"):
        found = setting_problems(compared(tune={name: space}, train={"loss": "recbole"}))
        assert found == [f"tune.{name}: recbole: {line}" for line in expected]


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [("GRU4Rec", "dropout_prob", 2), ("CORE", "sess_dropout", -1), ("NARM", "dropout_probs", [0.25, 1.5])],
)
def test_dropout_is_a_probability_by_every_name(model: str, key: str, value: Any) -> None:
    assert wrong_values({key: value}, model) == [f"{key} is {value!r}; it must be between 0 and 1"]


def test_defaults_are_recboles() -> None:
    assert (default_of("loss_type", "SASRec"), default_of("TIME_FIELD", "BLaIRSASRec")) == ("CE", "timestamp")
    assert default_of("no_such_thing", "SASRec") is None


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("hidden_size", [64, 0], "hidden_size is 0; it must be a whole number of at least 1"),
        ("MAX_ITEM_LIST_LENGTH", [0], "MAX_ITEM_LIST_LENGTH is 0; it must be a whole number of at least 1"),
        ("hidden_dropout_prob", [0.1, 5], "hidden_dropout_prob is 5; it must be between 0 and 1"),
        ("n_layers", ["two"], "n_layers is 'two'; expected a number"),
    ],
)
def test_a_grid_over_values_that_no_model_takes_is_refused(key: str, values: list[Any], message: str) -> None:
    config = compared(tune={"space": {f"recbole.{key}": values}})
    assert setting_problems(config) == [f"tune.space: recbole: {message}"]
