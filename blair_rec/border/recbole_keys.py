"""RecBole's settings: the known keys, their valid values, and the keys that a comparison ignores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blair_rec.config.section import EMPTY
from blair_rec.config.yaml.files import is_number, one_of, read_yaml

if TYPE_CHECKING:
    from blair_rec.config.comparison import CompareConfig

EVERY_RUN = ("overall.yaml", "dataset/sample.yaml", "quick_start_config/sequential.yaml")
"""RecBole's default files that all sequential models share."""

WITHOUT_DEFAULT = (
    "encoding",
    "selected_features",
    "neg_sampling",
    "training_neg_sample_num",
    "config_file",
    "tail_ratio",
)
"""Settings that RecBole's code reads, or used to read, but that no default file lists."""

OWN_MODELS: dict[str, dict[str, Any]] = {
    "eSASRec": {
        "n_layers": 2,
        "n_heads": 2,
        "hidden_size": 64,
        "inner_size": 256,
        "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5,
        "hidden_act": "swiglu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "loss_type": "CE",
    }
}
"""Defaults of the models that this package adds to RecBole's; all except hidden_act are those of RecBole's SASRec."""

READ_BY_MODEL = {"FEARec": ("contrast", "sim", "tau", "use_filter")}
"""Settings that a model reads but that its default file doesn't list."""

UNREAD = {
    "gpu_id": "`device` chooses the GPU",
    "valid_metric_bigger": "a metric is known to be better when it is larger",
    "neg_sampling": "`train.negatives` and `train.sampling` control the negatives",
    "training_neg_sample_num": "`train.negatives` sets the number of negatives",
    **dict.fromkeys(("shuffle", "state", "show_progress", "loss_decimal_place", "metric_decimal_place"), ""),
    **dict.fromkeys(("log_wandb", "wandb_project", "config_file", "require_pow", "kg_reverse_r", "tail_ratio"), ""),
    **dict.fromkeys(("dataset_save_path", "dataloaders_save_path"), ""),
    **dict.fromkeys(("entity_kg_num_interval", "relation_kg_num_interval", "RELATION_ID_FIELD"), ""),
    **dict.fromkeys(("HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "ENTITY_ID_FIELD"), ""),
}
"""Settings of RecBole that a comparison ignores, with what to use instead."""

READ_RECBOLES_WAY = {
    "train_neg_sample_args": "`train.negatives` and `train.sampling` control this, or set `train.loss: recbole`",
    "transform": "",
}
"""Settings that are used only in training on RecBole's own batches."""

SPLITS = ("RS", "LS", "TS")
LOSS_TYPES = ("CE", "BPR")
VALUE_METRICS = ("auc", "gauc", "mae", "rmse", "logloss")
"""RecBole's metrics without a cutoff."""
LEAVE_ONE_OUT = ("valid_and_test", "valid_only", "test_only")
EVAL_ARGS = ("split", "order", "group_by", "mode")


def model_keys(model: str) -> tuple[str, ...]:
    """Return the setting names of this RecBole model, such as hidden_size; empty for an unknown model."""
    name = model.removeprefix("BLaIR")
    return (*_model_defaults(name), *READ_BY_MODEL.get(name, ()))


def default_of(key: str, model: str) -> Any:
    """Return RecBole's default for a setting of a sequential model; None if there is no default."""
    return {**_shared_defaults(), **_model_defaults(model.removeprefix("BLaIR"))}.get(key)


def setting_problems(config: CompareConfig) -> list[str]:
    """Return the problems of a comparison's RecBole settings that can be found before any data is read."""
    of_models = [line for model in config.models for line in wrong_values(config.recbole, model)]
    shared = dict.fromkeys([*misspelt(config.recbole, config.model), *of_models, *only_in_recbole(config.recbole)])
    problems = [f"recbole: {line}" for line in shared]
    for name, variant in config.variants.items():
        model = config.model_of(variant)
        own = [*misspelt(variant.recbole, model), *wrong_values(variant.recbole, model)]
        problems += [f"variants.{name}.recbole: {line}" for line in own]
    for name in ("space", "text_space") if config.tune is not None else ():
        tried = getattr(config.tune, name)
        grid = {key.partition(".")[2]: tried[key] for key in tried if key.startswith("recbole.")}
        lines = misspelt(grid, config.model)
        lines += [] if lines else [f"{key} has no effect" for key in unread(dict.fromkeys(grid), config.models, True)]
        lines += [
            line
            for key, values in grid.items()
            for value in values
            for model in config.models
            for line in wrong_value(key, value, model)
        ]
        problems += [f"tune.{name}: recbole: {line}" for line in dict.fromkeys(lines)]
    return problems


def misspelt(given: Mapping[str, Any], model: str) -> list[str]:
    """Return one problem per setting that RecBole doesn't know but that resembles a known one."""
    known = {key.lower(): key for key in (*model_keys(model), *_shared_defaults(), *WITHOUT_DEFAULT)}
    problems = []
    for key in given:
        if key.startswith("blair_") or key.lower() in known and known[key.lower()] == key:
            continue
        if key in _keys_of_all_models():
            continue
        if near := get_close_matches(key.lower(), known, n=1, cutoff=0.7):
            problems.append(f"unknown key {key!r}; did you mean {known[near[0]]!r}?")
    return problems


def unread(given: Mapping[str, Any], models: Sequence[str], recboles_way: bool) -> list[str]:
    """Return the settings that a comparison ignores, each with what to use instead.

    `models`: the models in use; `recboles_way`: whether some variant is trained on RecBole's own batches.
    """
    read = {*_shared_defaults(), *WITHOUT_DEFAULT, *(key for model in models for key in model_keys(model))}
    hints = UNREAD if recboles_way else {**UNREAD, **READ_RECBOLES_WAY}
    found = {key: hints.get(key, "") for key in given if key not in read or key in hints}
    split = (given.get("eval_args") or {}).get("split") or {"LS": None}
    group_by = (given.get("eval_args") or {}).get("group_by", "user")
    if "RS" not in split and group_by != "user":
        found["eval_args.group_by"] = "only split RS can group by anything other than users"
    if given.get("benchmark_filename") and "split" in (given.get("eval_args") or {}):
        found["eval_args.split"] = "benchmark files are already split"
    return [f"{key} ({hint})" if hint else key for key, hint in found.items()]


OF_MODEL = ("hidden_size", "embedding_size", "inner_size", "n_layers", "n_heads", "num_layers")
SIZES = (*OF_MODEL, "train_batch_size", "eval_batch_size")
"""Settings that count something."""

RANGES = {"initializer_range": (1e-6, 1000), "layer_norm_eps": (1e-30, 1), "temperature": (1e-6, 1e6)}
"""The lowest and the highest value with which a model can train. Beyond, its loss is nan, or never falls."""


def wrong_values(given: Mapping[str, Any], model: str) -> list[str]:
    """Return one problem per value that RecBole can't use; a model may have further rules that are not checked here."""
    problems = [line for key, value in given.items() for line in wrong_value(key, value, model)]
    sampled, loss_type = given.get("train_neg_sample_args"), given.get("loss_type", default_of("loss_type", model))
    if sampled not in (None, "None") and loss_type == "CE":
        problems.append(
            "train_neg_sample_args samples negatives for loss_type: BPR, but loss_type is CE, which scores all items; "
            "leave train_neg_sample_args out, or set loss_type to BPR"
        )
    metric, names, cutoffs = (given.get(key, default_of(key, model)) for key in ("valid_metric", "metrics", "topk"))
    names, cutoffs = ([one] if isinstance(one, (str, int)) else one or [] for one in (names, cutoffs))
    measured = [f"{one}" if str(one).lower() in VALUE_METRICS else f"{one}@{k}" for one in names for k in cutoffs]
    if cutoffs and isinstance(metric, str) and metric.lower() not in map(str.lower, measured):
        problems.append(f"valid_metric is {metric!r}; choose one of metrics and topk: {', '.join(measured) or 'none'}")
    return problems


def wrong_value(key: str, value: Any, model: str) -> Iterator[str]:
    """Yield the problems of one value, whatever the other settings are."""
    default = default_of(key, model)
    yield from _wrong_type(key, value, default)
    if key == "MAX_ITEM_LIST_LENGTH" and is_number(value) and (not value >= 1 or value % 1):
        yield f"{key} is {value!r}; it must be a whole number of at least 1"
    elif default is not None:
        yield from _out_of_range(key, value)
    if key == "loss_type" and default is not None and value not in (*LOSS_TYPES, default):
        yield f"loss_type is {value!r}; known: {', '.join(LOSS_TYPES)}"
    if key == "repeatable" and value is False:
        yield "repeatable is false, but a sequential model may recommend items again; leave it out"
    if key == "benchmark_filename" and value is not None and not (isinstance(value, (list, tuple)) and len(value) == 3):
        yield f"{key} is {value!r}; name the files of training, validation and test, such as [train, valid, test]"
    if key == "eval_args":
        yield from _eval_args_problems(value)


def _out_of_range(key: str, value: Any) -> Iterator[str]:
    """Yield the problem of a size, probability or factor with which no model can be built or trained."""
    if "dropout" in key:
        shares = value if isinstance(value, (list, tuple)) else [value]
        if any(is_number(share) and not 0 <= share <= 1 for share in shares):
            yield f"{key} is {value!r}; it must be between 0 and 1"
        return
    if not is_number(value):
        return
    if key in SIZES and (not isinstance(value, int) or value < 1):
        yield f"{key} is {value!r}; it must be a whole number of at least 1"
    low, high = RANGES.get(key, (-inf, inf))
    if not low <= value <= high:  # nan is in no range
        cure = f"it must be between {low:g} and {high:,.15g}" if key in RANGES else "give a number"
        yield f"{key} is {value!r}; {cure}"


def only_in_recbole(given: Mapping[str, Any]) -> list[str]:
    """Return the problem of an evaluation mode that RecBole has but a comparison doesn't."""
    args = given.get("eval_args")
    mode = args.get("mode", "full") if isinstance(args, Mapping) else "full"
    if all(one == "full" for one in (mode.values() if isinstance(mode, Mapping) else [mode])):
        return []
    return [
        f"eval_args.mode is {mode!r}, which has no effect in a comparison: every target is ranked among all items; "
        "leave mode out"
    ]


def _wrong_type(key: str, value: Any, default: Any) -> Iterator[str]:
    """Yield the problem of a value whose type differs from RecBole's default; without a default any type is fine."""
    value = None if value == "None" else value  # as RecBole reads it
    if key in ("user_inter_num_interval", "item_inter_num_interval"):
        yield from _interval_problems(key, value)
        return
    if key == "val_interval" and isinstance(value, Mapping):
        for column, interval in value.items():  # for a token column the value is a list of tokens
            if not isinstance(interval, (list, tuple)):
                yield from _interval_problems(f"val_interval: {column}", interval)
        return
    if key in ("gpu_id", "eval_args"):  # gpu_id also takes numbers; eval_args has its own check
        return
    if value == "" and default != "":
        yield f"{key} is ''; {EMPTY}"
        return
    if isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif is_number(default):
        fits, expected = is_number(value), "a number"
    elif isinstance(default, str):
        fits, expected = value is None or isinstance(value, str), "text"
    elif isinstance(default, Mapping):
        fits, expected = value is None or isinstance(value, Mapping), "keys and values"
    else:
        return
    if not fits:
        yield f"{key} is {value!r}; expected {expected}"
    elif key == "load_col":
        for file, columns in (value or {}).items():
            if columns is not None and columns != "*" and not isinstance(columns, (list, tuple)):
                yield f"load_col: {file} is {columns!r}; expected a list of columns, such as [user_id, item_id]"


def _interval_problems(where: str, value: Any) -> Iterator[str]:
    """Yield the problem of an interval that RecBole would silently ignore."""
    for interval in [] if value is None else str(value).split(";"):
        found = _INTERVAL.fullmatch(interval)
        if found is None or float(found[1]) > float(found[2]):
            yield f"{where} is {value!r}; expected an interval, such as [5,inf) for 5 or more"
            return


_NUMBER = r"\s*([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf))\s*"
_INTERVAL = re.compile(rf"\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*")


def _eval_args_problems(args: Any) -> list[str]:
    if args is None:
        return []
    if not isinstance(args, Mapping):
        return [f"eval_args is {args!r}; expected keys and values, such as {{split: {{LS: valid_and_test}}}}"]
    problems = [line for key in args for line in one_of(key, EVAL_ARGS, "a key of eval_args")]
    group_by, split = args.get("group_by", "user"), args.get("split", {"LS": "test_only"})
    if (order := args.get("order", "TO")) != "TO":
        problems.append(
            f"eval_args.order is {order!r}, but a sequential model needs events in time order; "
            "set it to TO, or leave it out"
        )
    mode = args.get("mode", "full")
    if not all(_MODE.fullmatch(str(one)) for one in (mode.values() if isinstance(mode, Mapping) else [mode])):
        known = "full, labeled, or uni100 and pop100 for 100 sampled negatives"
        problems.append(f"eval_args.mode is {mode!r}; known: {known}")
    if group_by not in ("user", "none", "None", None):
        problems.append(f"eval_args.group_by is {group_by!r}; known: user, none")
    if not isinstance(split, Mapping) or len(split) != 1 or next(iter(split)) not in SPLITS:
        known = "one of RS, LS and TS, such as {LS: valid_and_test}"
        return [*problems, f"eval_args.split is {split!r}; expected {known}"]
    [(kind, parts)] = split.items()
    if kind == "LS":
        fits, expected = parts in LEAVE_ONE_OUT, f"one of {', '.join(LEAVE_ONE_OUT)}"
    else:
        shares = parts if isinstance(parts, (list, tuple)) else ()
        fits = len(shares) == 3 and all(is_number(share) and share >= 0 for share in shares) and sum(shares) > 0
        expected = "the shares of training, validation and test, such as [0.8, 0.1, 0.1]"
    return problems if fits else [*problems, f"eval_args.split: {kind} is {parts!r}; expected {expected}"]


_MODE = re.compile("full|labeled|(uni|pop)[1-9][0-9]*")


def _properties() -> Path:
    """Return RecBole's folder of default files, without importing RecBole."""
    spec = find_spec("recbole")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "properties"


def name_of_defaults(model: type) -> str:
    """Return the model whose defaults a class has: its own, or those of the nearest model that it inherits from."""
    return next((base.__name__ for base in model.__mro__ if _model_defaults(base.__name__)), model.__name__)


def _read(name: str) -> dict[str, Any]:
    file = _properties() / name
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return read_yaml(text, f"RecBole's {name}") or {}


@cache
def _shared_defaults() -> dict[str, Any]:
    return {key: value for name in EVERY_RUN for key, value in _read(name).items()}


@cache
def _model_defaults(name: str) -> dict[str, Any]:
    return OWN_MODELS.get(name) or _read(f"model/{name}.yaml")


@cache
def _keys_of_all_models() -> frozenset[str]:
    files = (_properties() / "model").glob("*.yaml")
    return frozenset(key for file in files for key in _read(f"model/{file.name}"))
