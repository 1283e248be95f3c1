"""`blair-rec run`: RecBole's quick start on a folder, with settings that are checked and defaults that are enough."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worlds import SMALL

from blair_rec.cli import main
from blair_rec.errors import ConfigError, RecBoleError
from blair_rec.training.quick_start import prepare, run


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what RecBole changes in the process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: 0.0)  # it watches the processor for a second
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    yield
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def small(**given: Any) -> dict[str, Any]:
    """Settings of one epoch."""
    return {**SMALL, "epochs": 1, "show_progress": False, **given}


def test_a_stock_model_runs_on_a_folder_with_other_names_of_its_columns(tiny: Path) -> None:
    shop = Path(shutil.move(tiny, tiny.parent / "shop"))
    text = (shop / "tiny.inter").read_text("utf-8").replace("user_id:", "who:", 1).replace("timestamp:", "when:", 1)
    (shop / "shop.inter").write_text(text, "utf-8")
    start = prepare("SASRec", str(shop), [], small(USER_ID_FIELD="who", TIME_FIELD="when"))
    assert start.settings["load_col"] == {"inter": ["who", "item_id", "when"]}
    assert start.settings["train_neg_sample_args"] is None
    assert (start.dataset, start.settings["data_path"]) == ("shop", str(shop.parent))
    assert start.notes == (
        "SASRec is a stock model: RecBole's own reader, data set and trainer are used, not blair_rec's",
        "train_neg_sample_args is not given, so it is set to null",
        'load_col is not given, so it is set to {"inter": ["who", "item_id", "when"]}',
    )
    before = list(sys.argv)
    assert 0 < run(start)["test_result"]["recall@10"] < 1
    assert sys.argv == before


def test_what_is_given_is_not_replaced() -> None:
    given = {"loss_type": "BPR", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    start = prepare("SASRec", "ml-100k", [], given)
    assert start.settings == given and len(start.notes) == 1
    assert prepare("BPR", "ml-100k", [], {"embedding_size": 8}).settings == {"embedding_size": 8}
    assert prepare("BLaIRSASRec", "ml-100k", [], {}) == ("BLaIRSASRec", "ml-100k", (), {}, ())


def test_settings_of_files_are_checked_and_reach_recbole(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("loss_type: BPR\nTIME_FIELD: when\n", "utf-8")
    start = prepare("SASRec", "ml-100k", [str(path)], {})
    assert start.files == (str(path),) and "train_neg_sample_args" not in start.settings
    path.write_text("hiden_size: 8\n", "utf-8")
    with pytest.raises(ConfigError, match="unknown key 'hiden_size'; did you mean 'hidden_size'"):
        prepare("SASRec", "ml-100k", [str(path)], {})
    with pytest.raises(ConfigError, match=r"none.yaml: can't be read \(No such file"):
        prepare("SASRec", "ml-100k", ["none.yaml"], {})


def test_a_name_is_searched_as_in_recbole_and_then_in_this_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.parent)
    assert prepare("BLaIRSASRec", "tiny", [], {}).settings == {"data_path": str(tiny.parent)}
    assert prepare("BLaIRSASRec", "tiny", [], {"data_path": "."}).settings == {"data_path": "."}
    Path("dataset", "tiny").mkdir(parents=True)
    assert prepare("BLaIRSASRec", "tiny", [], {}).settings == {}
    monkeypatch.chdir(tiny)
    assert prepare("BLaIRSASRec", ".", [], {}).dataset == "tiny"


@pytest.mark.parametrize(
    ("model", "dataset", "settings", "message"),
    [
        ("blairsasrec", "tiny", {}, "model is 'blairsasrec', which RecBole doesn't have; did you mean 'BLaIRSASRec'"),
        ("SASRce", "tiny", {}, "model is 'SASRce', which RecBole doesn't have; did you mean 'SASRec'"),
        ("BLaIRSASRce", "tiny", {}, "not a sequential model of RecBole; did you mean 'SASRec'"),
        ("SASRec", "no/where", {}, "--dataset no/where: there is no such folder"),
        ("SASRec", "datasets/tiny", {"data_path": "x"}, "datasets/tiny is a path, but data_path is 'x'"),
        ("SASRec", "datasets/ml-100k", {}, "RecBole reads its own ml-100k"),
        ("SASRec", "datasets/tiny", {"train_batch_size": "many"}, "train_batch_size is 'many'; expected a number"),
        ("SASRec", "datasets/tiny", {"device": "cuda"}, "device is cuda, but torch finds no such GPU"),
        ("BLaIRSASRec", "datasets/tiny", {"eval_args": {"order": "RO"}}, "eval_args.order is 'RO'"),
    ],
)
def test_invalid_settings_are_reported_before_anything_is_read(
    tiny: Path, model: str, dataset: str, settings: dict[str, Any], message: str
) -> None:
    (tiny.parent / "ml-100k").mkdir()
    with pytest.raises(ConfigError, match=message):
        prepare(model, dataset, [], settings)


def test_an_unknown_data_set_is_reported_before_recbole_looks_for_it() -> None:
    with pytest.raises(ConfigError, match="--dataset nowhere: there is no such folder, here or in dataset/"):
        prepare("BLaIRSASRec", "nowhere", [], {})
    for known in ("ml-1m", "ML-1M"):
        assert prepare("BLaIRSASRec", known, [], {}).dataset == known


def test_an_error_of_recbole_becomes_one_line(tiny: Path) -> None:
    with pytest.raises(RecBoleError, match=r"can't run SASRec on 'tiny': ValueError: The hidden size .*layers.py"):
        run(prepare("SASRec", str(tiny), [], small(n_heads=3)))


def test_the_command_says_whose_reader_is_used_and_which_keys_are_the_plugins(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    keys = [f"--{key}={value}" for key, value in small(state="ERROR").items()]
    assert main(["run", "--model", "SASRec", "--dataset", str(tiny), *keys, "--mask_ratio=x", "--hidden_act=none"]) == 1
    said = capsys.readouterr().err
    assert "SASRec is a stock model: RecBole's own reader" in said and "error: RecBole can't run SASRec" in said
    text = ["--blair_items=text", "--blair_text_fields=title", "--blair_encoder=./none"]
    assert main(["run", "--model", "BLaIRSASRec", "--dataset", str(tiny), *keys, *text, "--blair_max_length=0"]) == 1
    assert "blair_max_length is 0; it has to be at least 1" in capsys.readouterr().err
    assert main(["run", "--model", "SASRec", "--dataset", str(tiny), "--seed=1", "--seed=2"]) == 1
    assert "--seed is given twice" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["SASRec", "BLaIRSASRec"])
def test_a_run_without_a_test_case_ends_with_what_was_measured(
    tiny: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    keys = [f"--{key}={value}" for key, value in small(state="ERROR").items()]
    split = "--eval_args={split: {LS: valid_only}, order: TO, group_by: user, mode: full}"
    assert main(["run", "--model", model, "--dataset", str(tiny), *keys, split]) == 0
    out, err = capsys.readouterr()
    assert "recall@10" in out and "the test split has no case" in " ".join(err.split())


@pytest.mark.parametrize("value", ["[5,inf)", "'[5,inf)'"])
def test_an_interval_is_written_as_in_recbole(tiny: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    command = ["run", "--model", "BLaIRSASRec", "--dataset", str(tiny), f"--user_inter_num_interval={value}"]
    assert main([*command, "--hidden_size=0"]) == 1
    assert "error: hidden_size is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("topk", "message"), [([100], "but there are only 80 items; lower topk"), ([], "topk is \\[\\]")]
)
def test_top_lists_longer_than_the_catalogue_are_an_error(tiny: Path, topk: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(prepare("BLaIRSASRec", str(tiny), [], small(topk=topk, valid_metric="MRR@100")))
