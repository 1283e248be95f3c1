"""Small named repairs that make RecBole 1.2 run on today's numpy, pandas and torch.

This is the only module that patches anything. Each repair quotes the upstream line that it fixes, and does nothing if
upstream is already right. Repairs change RecBole's own modules only; numpy gets the aliases that RecBole itself would
have set, and torch is never changed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from packaging.version import Version
from scipy import sparse

from blair_rec.border.recbole_keys import OWN_MODELS, name_of_defaults
from blair_rec.border.stock_checkpoints import load_own_checkpoint, remember
from blair_rec.errors import IncompatibleVersion

import recbole

logger = logging.getLogger("blair_rec")


def repair_recbole() -> None:
    """Make RecBole 1.2.0 and 1.2.1 work here; calling it again changes nothing.

    Raises:
        IncompatibleVersion: pandas 3, where RecBole would silently train on missing values.
    """
    refuse_pandas_3(pd.__version__)
    restore_numpy_aliases()
    import_models_without_anomaly_mode()
    import_models_without_kmeans()
    import_quick_start_without_ray()
    search_exhaustively_with_newer_hyperopt()
    fill_sparse_matrices_from_dicts()
    scale_gradients_without_warning()
    read_data_without_warning()
    read_back_own_checkpoints()
    load_own_data_and_model()
    let_models_complete_config()


def refuse_pandas_3(version: str) -> None:
    """`df[field].fillna(..., inplace=True)` (recbole/data/dataset/dataset.py, _load_feat and _fill_nan).

    pandas 3 copies on `df[field]`, so the values stay missing without a warning.
    """
    if Version(version).major >= 3:
        raise IncompatibleVersion(
            "pandas", version, "RecBole fills missing values in a way that has no effect in pandas 3", "pandas<3"
        )


_NUMPY_NAMES: dict[str, Any] = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
}


def restore_numpy_aliases() -> None:
    """`np.float = np.float_` and seven more (recbole/config/configurator.py, Config.compatibility_settings).

    numpy 2 removed float_, complex_ and unicode_, so every `Config(...)` raises AttributeError.
    """
    if hasattr(np, "float_"):
        return
    from recbole.config import Config

    Config.compatibility_settings = _set_numpy_names


def _set_numpy_names(self: Any) -> None:
    for name, meant in _NUMPY_NAMES.items():
        if name not in np.__dict__:
            setattr(np, name, meant)


def import_models_without_anomaly_mode() -> None:
    """`torch.autograd.set_detect_anomaly(True)` (recbole/model/sequential_recommender/sine.py, line 25).

    The line runs when any sequential model is imported. From then on every backward pass of the process checks each
    operation for NaN. This function restores the mode that was set before the import.
    """
    before = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    if torch.is_anomaly_enabled() != before:
        torch.autograd.set_detect_anomaly(before)


def import_models_without_kmeans() -> None:
    """`from kmeans_pytorch import kmeans` (recbole 1.2.0: recbole/model/general_recommender/ldiffrec.py, line 29).

    Only LDiffRec uses that package, and RecBole doesn't install it. But without it RecBole finds no model at all,
    because the look-up by name imports this folder.
    """
    if Version(recbole.__version__) >= Version("1.2.1") or importlib.util.find_spec("kmeans_pytorch"):
        return

    def kmeans(*arguments: Any, **settings: Any) -> None:
        raise ImportError("LDiffRec clusters items with kmeans_pytorch; run `pip install kmeans-pytorch`")

    stand_in = ModuleType("kmeans_pytorch")
    stand_in.kmeans = kmeans  # type: ignore[attr-defined]
    sys.modules["kmeans_pytorch"] = stand_in
    try:
        importlib.import_module("recbole.model.general_recommender")
    finally:
        del sys.modules["kmeans_pytorch"]


class _Replaced:
    """A substitute for a module in RecBole's code: some names are replaced, the others come from the module."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _RayIfInUse:
    """A substitute for `ray.tune` in quick_start.py."""

    def report(self, **metrics: float) -> None:
        """Report to Ray Tune if this process runs one of its trials; hyperopt and others use the return value."""
        if (tune := sys.modules.get("ray.tune")) is not None:
            tune.report(**metrics)


def import_quick_start_without_ray() -> None:
    """`from ray import tune` and `tune.report(**test_result)` (recbole/quick_start/quick_start.py, objective_function).

    HyperTuning calls objective_function for hyperopt, which doesn't need Ray. But Ray 2.6.3, the newest version that
    recbole 1.2.1 allows, can't be imported without pkg_resources and np.bool8. Importing any version takes seconds.
    """
    if "recbole.quick_start.quick_start" in sys.modules:
        return
    stand_in = ModuleType("ray")
    stand_in.tune = _RayIfInUse()  # type: ignore[attr-defined]
    stand_in.__spec__ = ModuleSpec("ray", None)
    before = sys.modules.get("ray")
    sys.modules["ray"] = stand_in
    try:
        importlib.import_module("recbole.quick_start.quick_start")
    finally:
        if before is None:
            del sys.modules["ray"]
        else:
            sys.modules["ray"] = before


class _Draws(np.random.RandomState):
    """NumPy's older generator, with the method name that newer hyperopt calls."""

    def integers(self, low: int, high: int | None = None, size: Any = None) -> Any:
        return self.randint(low, high, size)


def search_exhaustively_with_newer_hyperopt() -> None:
    """`rng = np.random.RandomState(seed)` (recbole/trainer/hyper_tuning.py, exhaustive_search).

    Since hyperopt 0.2.6 the generator needs the method `integers`; older hyperopt can't be imported without
    pkg_resources. The drawn numbers stay the same.
    """
    from recbole.trainer import hyper_tuning

    if not isinstance(hyper_tuning.np, _Replaced):
        hyper_tuning.np = _Replaced(np, random=_Replaced(np.random, RandomState=_Draws))


class _FilledFromDict(sparse.dok_matrix):
    """SciPy's dok_matrix, with the method that RecBole calls."""

    def _update(self, data: dict[tuple[int, int], float]) -> None:
        if data:
            cells = np.array(list(data))
            self[cells[:, 0], cells[:, 1]] = np.array(list(data.values()))


_FILL_FROM_DICTS = {
    "general_recommender": ("gcmc", "lightgcn", "ncl", "ngcf", "spectralcf"),
    "knowledge_aware_recommender": ("kgin", "mcclk"),
}


def fill_sparse_matrices_from_dicts() -> None:
    """`A._update(data_dict)` (recbole/model/general_recommender/lightgcn.py, line 111, and in six other models).

    Newer SciPy has no such method, so building the graph of users and items raises AttributeError.
    """
    if hasattr(sparse.dok_matrix, "_update"):
        return
    for kind, names in _FILL_FROM_DICTS.items():
        for name in names:
            model: Any = importlib.import_module(f"recbole.model.{kind}.{name}")
            if model.sp is sparse:
                model.sp = _Replaced(sparse, dok_matrix=_FilledFromDict)


def scale_gradients_without_warning() -> None:
    """`amp.GradScaler(...)` and `amp.autocast(...)` of torch.cuda.amp (recbole/trainer/trainer.py, lines 235 and 1440).

    torch warns in every epoch that these are deprecated; torch.amp has the same functions with a device argument.
    """
    from recbole.trainer import trainer

    if trainer.amp is torch.cuda.amp:
        names = {name: functools.partial(getattr(torch.amp, name), "cuda") for name in ("GradScaler", "autocast")}
        trainer.amp = _Replaced(torch.cuda.amp, **names)


def read_data_without_warning() -> None:
    """`fillna(..., inplace=True)`, `agg(len)` (recbole/data/dataset/dataset.py, lines 648 and 1217;
    sequential_dataset.py, line 165; and more).

    pandas 2 gives FutureWarnings that these will change. refuse_pandas_3 already guards against the change.
    """
    from recbole.data.dataset import Dataset, SequentialDataset

    def quietly(upstream: Any) -> Any:
        @functools.wraps(upstream)
        def method(self: Any) -> None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.data\.dataset\.")
                upstream(self)

        method.repaired = True  # type: ignore[attr-defined]
        return method

    for kind, name in ((Dataset, "_from_scratch"), (SequentialDataset, "_benchmark_presets")):
        if not getattr(getattr(kind, name), "repaired", False):
            setattr(kind, name, quietly(getattr(kind, name)))


def read_back_own_checkpoints() -> None:
    """`torch.load(...)` (recbole/trainer/trainer.py, Trainer.evaluate; recbole/model/.../s3rec.py, line 120).

    Since torch 2.6 this reads only tensors, while RecBole's checkpoint contains its whole Config. Reading more can run
    code from the file, so this is allowed only for files that this process itself wrote.
    """
    from recbole.model.sequential_recommender import s3rec
    from recbole.trainer import trainer as upstream

    if getattr(upstream.Trainer.evaluate, "repaired", False):
        return
    save, evaluate = upstream.Trainer._save_checkpoint, upstream.Trainer.evaluate
    save_pretrained = upstream.PretrainTrainer.save_pretrained_model

    @functools.wraps(save)
    def save_and_remember(self: Any, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.get("saved_model_file", self.saved_model_file))
        save(self, epoch, verbose=verbose, **kwargs)
        remember(path)

    @functools.wraps(save_pretrained)
    def save_pretrained_and_remember(self: Any, epoch: int, saved_model_file: str) -> None:
        save_pretrained(self, epoch, saved_model_file)
        remember(Path(saved_model_file))

    @functools.wraps(evaluate)
    def evaluate_best(
        self: Any, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Any:
        if eval_data and load_best_model:
            path = Path(model_file or self.saved_model_file)
            checkpoint = load_own_checkpoint(path, self.device)
            self.model.load_state_dict(checkpoint["state_dict"])
            self.model.load_other_parameter(checkpoint.get("other_parameter"))
            self.logger.info(f"Loading model structure and parameters from {path}")
        return evaluate(self, eval_data, load_best_model=False, model_file=model_file, show_progress=show_progress)

    evaluate_best.repaired = True  # type: ignore[attr-defined]
    upstream.Trainer._save_checkpoint = save_and_remember
    upstream.Trainer.evaluate = evaluate_best
    upstream.PretrainTrainer.save_pretrained_model = save_pretrained_and_remember
    s3rec.torch = _Replaced(torch, load=lambda path: load_own_checkpoint(Path(path), torch.device("cpu")))


def load_own_data_and_model() -> None:
    """`checkpoint = torch.load(model_file)` (recbole/quick_start/quick_start.py, load_data_and_model).

    See read_back_own_checkpoints. Files of our models hold weights alone, and an error says what to do with them.
    """
    package: Any = importlib.import_module("recbole.quick_start")
    module: Any = importlib.import_module("recbole.quick_start.quick_start")

    def load_data_and_model(model_file: str | Path) -> tuple[Any, ...]:
        """Return config, model, data set, and training, validation and test data of a checkpoint of this process."""
        checkpoint = load_own_checkpoint(Path(model_file), torch.device("cpu"))
        config = checkpoint["config"]
        module.init_seed(config["seed"], config["reproducibility"])
        module.init_logger(config)
        dataset = module.create_dataset(config)
        splits = module.data_preparation(config, dataset)
        module.init_seed(config["seed"], config["reproducibility"])
        model = module.get_model(config["model"])(config, splits[0]._dataset).to(config["device"])
        model.load_state_dict(checkpoint["state_dict"])
        model.load_other_parameter(checkpoint.get("other_parameter"))
        return (config, model, dataset, *splits)

    package.load_data_and_model = module.load_data_and_model = load_data_and_model


def let_models_complete_config() -> None:
    """`"../properties/model/" + model + ".yaml"` (recbole/config/configurator.py, Config._load_internal_config_dict).

    RecBole looks up defaults by model name inside its own wheel, so a model from outside has none. A class with
    `recbole_base` gets the defaults of that base, or of the model that it inherits from. A model that this package adds
    has its defaults in `OWN_MODELS`. A class with `complete_config` may then add its own. Other models read no key of
    ours, and a warning says so.
    """
    from recbole.config import Config

    upstream = Config._load_internal_config_dict
    if getattr(upstream, "repaired", False):
        return

    @functools.wraps(upstream)
    def load(self: Any, model: str, model_class: Any, dataset: str) -> None:
        base = getattr(model_class, "recbole_base", None)
        name = name_of_defaults(base) if base else model
        upstream(self, name, model_class, dataset)
        self.internal_config_dict.update(OWN_MODELS.get(name, {}))
        if hasattr(model_class, "complete_config"):
            model_class.complete_config(self)
        elif unread := [key for key in self.external_config_dict if key.startswith("blair_")]:
            logger.warning("these keys have no effect on %s: %s; use BLaIR%s", model, ", ".join(unread), model)

    load.repaired = True  # type: ignore[attr-defined]
    Config._load_internal_config_dict = load
