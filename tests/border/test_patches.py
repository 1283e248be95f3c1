"""RecBole on today's numpy, pandas and torch: what is repaired, and what stays unchanged."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from worlds import SMALL, STOCK

import blair_rec.recbole
from blair_rec.border import patches
from blair_rec.border.stock_checkpoints import load_own_checkpoint
from blair_rec.errors import CheckpointError, IncompatibleVersion

from recbole.utils import get_trainer

TINY = Path(__file__).resolve().parents[2] / "datasets" / "tiny"

FRESH_PROCESS = """
import json, sys
found = {}
import blair_rec
found["loaded by blair_rec"] = [name for name in ("numpy", "torch", "ray", "recbole", "pandas") if name in sys.modules]
import numpy, torch
before = set(vars(numpy))
import blair_rec.recbole
from recbole.quick_start import run_recbole
from recbole.quick_start.quick_start import tune
from recbole.config import Config
found["run"] = callable(run_recbole)
found["numpy changed by the import"] = sorted(set(vars(numpy)) - before)
config = Config(model="SASRec", dataset="tiny", config_dict={"train_neg_sample_args": None})
found["n_layers"] = config["n_layers"]
found["numpy changed by Config"] = sorted(set(vars(numpy)) - before)
found["numpy.float is"] = numpy.float.__name__
found["anomaly mode"] = torch.is_anomaly_enabled()
found["ray"] = [name for name in sys.modules if name.partition(".")[0] == "ray"]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a process sees that has imported nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH_PROCESS],
        cwd=tmp_path_factory.mktemp("fresh"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_importing_blair_rec_repairs_nothing_and_loads_nothing(fresh: dict[str, Any]) -> None:
    assert fresh["loaded by blair_rec"] == []


def test_importing_the_plugin_gives_recboles_quick_start_and_leaves_numpy_alone(fresh: dict[str, Any]) -> None:
    assert fresh["run"]
    assert not {"float_", "complex_", "unicode_", "bool8", "float", "int"} & set(fresh["numpy changed by the import"])


def test_a_config_works_and_sets_only_the_names_that_recbole_itself_sets(fresh: dict[str, Any]) -> None:
    assert fresh["n_layers"] == 2
    added = set(fresh["numpy changed by Config"]) - set(fresh["numpy changed by the import"])
    assert (
        {"float", "int", "object"} <= added <= {"bool", "int", "float", "complex", "object", "str", "long", "unicode"}
    )
    assert fresh["numpy.float is"] == "float64"


def test_ray_is_not_imported(fresh: dict[str, Any]) -> None:
    assert fresh["ray"] == []


def test_the_anomaly_mode_that_a_model_of_recbole_turns_on_is_off_again(fresh: dict[str, Any]) -> None:
    assert fresh["anomaly mode"] is False


def test_a_recbole_that_wants_kmeans_for_one_model_finds_the_others_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def imported(name: str) -> None:
        assert name == "recbole.model.general_recommender"
        given.append(sys.modules["kmeans_pytorch"])

    monkeypatch.setattr("recbole.__version__", "1.2.0")
    monkeypatch.setattr(patches.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(patches.importlib, "import_module", imported)
    patches.import_models_without_kmeans()
    assert len(given) == 1 and "kmeans_pytorch" not in sys.modules
    with pytest.raises(ImportError, match="run `pip install kmeans-pytorch`"):
        given[0].kmeans()


def test_repairing_again_changes_nothing() -> None:
    import recbole.quick_start.quick_start as quick_start
    from recbole.config import Config
    from recbole.data.dataset import Dataset
    from recbole.model.general_recommender import lightgcn
    from recbole.trainer import Trainer, hyper_tuning, trainer

    def state() -> list[Any]:
        repaired = (lightgcn.sp, hyper_tuning.np, trainer.amp, Dataset._from_scratch)
        patched = [*repaired, Config.compatibility_settings, Config._load_internal_config_dict]
        return [
            *patched,
            Trainer.evaluate,
            Trainer._save_checkpoint,
            quick_start.tune,
            sys.modules["recbole.quick_start.quick_start"],
            set(vars(np)),
            sys.modules.get("ray"),
        ]

    before = state()
    patches.repair_recbole()
    patches.repair_recbole()
    assert state() == before


@pytest.mark.parametrize("version", ["3.0.0", "3.1.1", "3.0.0rc1", "4.0"])
def test_pandas_3_is_refused_with_advice(version: str) -> None:
    expected = f"pandas {version} is installed, but RecBole fills missing values .* run `pip install 'pandas<3'`"
    with pytest.raises(IncompatibleVersion, match=expected):
        patches.refuse_pandas_3(version)


@pytest.mark.parametrize("version", ["1.5.3", "2.2.0", "2.3.3"])
def test_older_pandas_is_accepted(version: str) -> None:
    patches.refuse_pandas_3(version)


@pytest.fixture
def imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make quick_start look as if it had not been imported yet; restored afterwards."""
    import recbole.quick_start

    monkeypatch.setattr(recbole.quick_start, "quick_start", recbole.quick_start.quick_start)
    monkeypatch.delitem(sys.modules, "recbole.quick_start.quick_start")


@pytest.mark.usefixtures("imported_again")
def test_a_ray_that_is_already_imported_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ModuleType("ray")
    monkeypatch.setitem(sys.modules, "ray", own)
    patches.import_quick_start_without_ray()
    assert sys.modules["ray"] is own


def test_reporting_where_no_ray_tune_is_loaded_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import quick_start

    monkeypatch.delitem(sys.modules, "ray.tune", raising=False)
    quick_start.tune.report(recall=0.5)
    assert "ray.tune" not in sys.modules


def test_reporting_to_a_ray_that_works_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import quick_start

    reported: list[dict[str, float]] = []
    ray, tune = ModuleType("ray"), ModuleType("ray.tune")
    tune.report = lambda **values: reported.append(values)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    quick_start.tune.report(recall=0.5)
    assert reported == [{"recall": 0.5}]


@pytest.fixture(scope="module")
def stock_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """RecBole's own SASRec, trained, saved and loaded again by its own quick start: its folder and its result."""
    folder = tmp_path_factory.mktemp("stock")
    shutil.copytree(TINY, folder / "data" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["pytest"])
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr("psutil.cpu_percent", lambda interval: 0.0)  # RecBole measures the CPU load for a second
        handlers = list(logging.getLogger().handlers)
        result = blair_rec.recbole.run_recbole(
            model="SASRec",
            dataset="tiny",
            config_dict={**SMALL, **STOCK, "data_path": "data", "epochs": 1, "show_progress": False},
            saved=True,
        )
        yield folder, result
        logging.getLogger().handlers[:] = handlers


def test_stock_sasrec_trains_saves_and_loads_its_best_model(stock_run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = stock_run
    (checkpoint,) = (folder / "saved").iterdir()
    assert checkpoint.name.startswith("SASRec-") and checkpoint.suffix == ".pth"
    assert 0 < result["test_result"]["recall@10"] < 1
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"]


def test_a_checkpoint_of_this_process_is_read_back(stock_run: tuple[Path, dict[str, Any]]) -> None:
    (checkpoint,) = (stock_run[0] / "saved").iterdir()
    found = load_own_checkpoint(checkpoint, torch.device("cpu"))
    assert found["state_dict"]["item_embedding.weight"].shape == (81, 8)
    assert found["epoch"] == 0
    relative = Path(os.path.relpath(checkpoint))
    assert load_own_checkpoint(relative, torch.device("cpu")).keys() == found.keys()


def test_a_checkpoint_that_was_changed_since_is_refused(stock_run: tuple[Path, dict[str, Any]]) -> None:
    (checkpoint,) = (stock_run[0] / "saved").iterdir()
    kept = checkpoint.stat()
    with checkpoint.open("ab") as file:
        file.write(b"!")
    try:
        with pytest.raises(CheckpointError, match="not written by this process.* can run code from the file"):
            load_own_checkpoint(checkpoint, torch.device("cpu"))
    finally:
        with checkpoint.open("r+b") as file:
            file.truncate(kept.st_size)
        os.utime(checkpoint, ns=(kept.st_atime_ns, kept.st_mtime_ns))


class Payload:
    """An example of what a pickle can do: write a file when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def test_a_foreign_checkpoint_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    foreign = tmp_path / "SASRec.pth"
    foreign.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="SASRec.pth was not written by this process.*weights_only=False"):
        load_own_checkpoint(foreign, torch.device("cpu"))
    assert not Path("executed").exists()
    pickle.loads(foreign.read_bytes())  # noqa: S301  (our own bytes: the payload does work)
    assert Path("executed").exists()


def test_a_copy_of_an_own_checkpoint_is_foreign(stock_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (checkpoint,) = (stock_run[0] / "saved").iterdir()
    with pytest.raises(CheckpointError, match="not written by this process"):
        load_own_checkpoint(Path(shutil.copy2(checkpoint, tmp_path)), torch.device("cpu"))


def test_s3rec_continues_only_from_a_pretraining_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.quick_start import objective_function

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    handlers = list(logging.getLogger().handlers)
    shutil.copytree(TINY, tmp_path / "data" / "tiny")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}
    given = {**SMALL, **STOCK, "model": "S3Rec", "dataset": "tiny", "data_path": "data", "load_col": columns}
    given |= {"item_attribute": "category", "pretrain_epochs": 1, "save_step": 1, "epochs": 1, "state": "ERROR"}
    objective_function({**given, "train_stage": "pretrain"}, saved=False)
    own = {**given, "train_stage": "finetune", "pre_model_path": "saved/S3Rec-tiny-1.pth"}
    assert 0 <= objective_function(own, saved=False)["test_result"]["recall@10"] <= 1
    with Path("saved/S3Rec-tiny-1.pth").open("ab") as file:
        file.write(b"!")
    with pytest.raises(CheckpointError, match="not written by this process"):
        objective_function(own, saved=False)
    logging.getLogger().handlers[:] = handlers


def test_data_and_model_of_an_own_checkpoint_are_loaded_and_others_are_refused(
    stock_run: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.quick_start import load_data_and_model

    folder, result = stock_run
    (checkpoint,) = (folder / "saved").iterdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(folder)
    handlers = list(logging.getLogger().handlers)
    config, model, dataset, *_, test = load_data_and_model(str(checkpoint))
    logging.getLogger().handlers[:] = handlers
    assert dataset.item_num == 81 and type(model).__name__ == "SASRec" and Path(config["data_path"]).name == "tiny"
    found = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model).evaluate(test, load_best_model=False)
    assert dict(found) == dict(result["test_result"])
    with pytest.raises(CheckpointError, match="not written by this process"):
        load_data_and_model(shutil.copy2(checkpoint, tmp_path))
    (tmp_path / "BLaIRSASRec.safetensors").touch()
    with pytest.raises(
        CheckpointError, match="of a model of blair_rec, but no config and no data set; make config, data"
    ):
        load_data_and_model(tmp_path / "BLaIRSASRec.safetensors")


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone.pth doesn't exist; train with saved=True"):
        load_own_checkpoint(tmp_path / "gone.pth", torch.device("cpu"))


GRAPHS = {
    "GCMC": "general_recommender.gcmc",
    "LightGCN": "general_recommender.lightgcn",
    "NCL": "general_recommender.ncl",
    "NGCF": "general_recommender.ngcf",
    "SpectralCF": "general_recommender.spectralcf",
    "KGIN": "knowledge_aware_recommender.kgin",
    "MCCLK": "knowledge_aware_recommender.mcclk",
}


def test_every_model_that_fills_a_matrix_from_a_dict_is_repaired() -> None:
    folder = Path(next(iter(find_spec("recbole").submodule_search_locations)), "model")  # type: ignore[union-attr, arg-type]
    calling = {path.stem for path in folder.glob("*/*.py") if "._update(" in path.read_text("utf-8")}
    assert calling == {name.rpartition(".")[2] for name in GRAPHS.values()}
    repaired = {name for names in patches._FILL_FROM_DICTS.values() for name in names}
    assert repaired == calling


@pytest.mark.parametrize("name", GRAPHS.values())
def test_a_repaired_matrix_holds_the_values_of_the_dict(name: str) -> None:
    model = importlib.import_module(f"recbole.model.{name}")
    made = model.sp.dok_matrix((3, 4), dtype=np.float32)
    made._update({(0, 1): 1, (2, 3): 2.5, (np.int32(1), np.int32(0)): 1})
    assert made.toarray().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 2.5]]
    empty = model.sp.dok_matrix((3, 4), dtype=np.float32)
    empty._update({})
    assert empty.nnz == 0 and model.sp.coo_matrix is sparse.coo_matrix
    assert not hasattr(sparse.dok_matrix((1, 1)), "_update") or model.sp is sparse


def test_lightgcn_normalises_the_graph_of_users_and_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # RecBole sets it
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.model.general_recommender import LightGCN

    shutil.copytree(TINY, tmp_path / "tiny")
    small = {"data_path": str(tmp_path), "embedding_size": 4, "n_layers": 1, "gpu_id": ""}
    config = Config(model="LightGCN", dataset="tiny", config_dict=small)
    train, *_ = create_dataset(config).build()
    graph = LightGCN(config, train).norm_adj_matrix.to_dense().numpy()
    ids = zip(train.inter_feat["user_id"].tolist(), train.inter_feat["item_id"].tolist(), strict=True)
    expected = np.zeros_like(graph)
    for user, item in ids:
        expected[user, train.user_num + item] = expected[train.user_num + item, user] = 1
    degree = expected.sum(1) + 1e-7
    assert graph == pytest.approx(expected / np.sqrt(np.outer(degree, degree)), abs=1e-6)


@pytest.mark.parametrize("algo", ["exhaustive", "random"])
def test_hyper_tuning_by_hyperopt_needs_no_ray(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    handlers = list(logging.getLogger().handlers)
    shutil.copytree(TINY, tmp_path / "data" / "tiny")
    fixed = {**SMALL, "model": "SASRec", "dataset": "tiny", "data_path": "data", "epochs": 1, "state": "ERROR"}
    (tmp_path / "fixed.yaml").write_text(yaml.safe_dump({**fixed, **STOCK, "show_progress": False}), "utf-8")
    tuning = HyperTuning(
        objective_function,
        params_dict={"choice": {"learning_rate": [0.01, 0.1]}},
        fixed_config_file_list=["fixed.yaml"],
        algo=algo,
        max_evals=2,
    )
    tuning.run()
    logging.getLogger().handlers[:] = handlers
    best = max(tuning.params2result.values(), key=lambda result: result["best_valid_score"])
    assert tuning.best_score == best["best_valid_score"] and "ray" not in sys.modules
    if algo == "exhaustive":
        assert sorted(tuning.params2result) == ["learning_rate:0.01", "learning_rate:0.1"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
@settings(max_examples=20)
def test_an_exhaustive_search_draws_the_numbers_that_recbole_draws(seed: int, high: int) -> None:
    from recbole.trainer import hyper_tuning

    ours, theirs = hyper_tuning.np.random.RandomState(seed), np.random.RandomState(seed)
    assert ours.integers(high, size=5).tolist() == theirs.randint(high, size=5).tolist()


class Announcing:
    """A data set class of a user."""

    logger = logging.getLogger()

    def _get_preset(self) -> None:
        warnings.warn("mine", FutureWarning, stacklevel=1)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_recboles_future_warnings_are_hidden_and_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # RecBole sets it
    from recbole.config import Config
    from recbole.data.dataset import SequentialDataset
    from recbole.trainer import trainer

    world = tmp_path / "gaps"
    world.mkdir()
    (world / "gaps.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\nu\tj\t\nu\tk\t3\n")
    lines = ["item_id:token\tclass:token_seq", "i\ta b", "j\ta"]
    (world / "gaps.item").write_text("\n".join(lines), "utf-8")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}
    stock = {"train_neg_sample_args": None, "load_col": columns, "data_path": str(tmp_path), "gpu_id": ""}
    histories = "user_id:token\titem_id_list:token_seq\titem_id:token\nu\ti j\tk\n"
    for part in ("train", "valid", "test"):
        (world / f"gaps.{part}.inter").write_text(histories, "utf-8")
    whole = {"benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"]}
    whole |= {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        SequentialDataset(Config(model="SASRec", dataset="gaps", config_dict=stock))
        SequentialDataset(Config(model="SASRec", dataset="gaps", config_dict={**stock, **whole}))
        trainer.amp.GradScaler(enabled=False)
        with trainer.amp.autocast(enabled=False):
            pass
        own: Any = Announcing()
        SequentialDataset._from_scratch(own)
    assert [str(one.message) for one in seen if one.category is FutureWarning] == ["mine"]


@pytest.mark.parametrize("name", ["GradScaler", "autocast"])
def test_gradients_are_scaled_as_before(name: str) -> None:
    from recbole.trainer import trainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old, new = getattr(torch.cuda.amp, name)(enabled=False), getattr(trainer.amp, name)(enabled=False)
    assert isinstance(old, type(new)) and trainer.amp.common is torch.cuda.amp.common
    assert (new._device if name == "GradScaler" else new.device) == "cuda"
